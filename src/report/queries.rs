//! Hits and misses: each query with what every run found for it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};

use super::RunLog;
use super::gallery::{Found, Gallery, SIDE, Shown};
use super::shade::shade;

/// Both directions of the gallery with that number.
pub(super) fn queries(number: usize, gallery: &Gallery, logs: &[RunLog]) -> Markup {
    let names: Vec<&str> = gallery.shown.iter().map(|shown| &*logs[shown.run].name).collect();
    let count = gallery.speech.len() + gallery.images.len();
    html! {
        svg.store width="0" height="0" aria-hidden="true" { defs {
            @for (image, jpeg) in &gallery.pictures {
                image id=(id(number, *image)) width=(SIDE) height=(SIDE) href={ "data:image/jpeg;base64," (STANDARD.encode(jpeg)) } {}
            }
        } }
        form.filters hidden data-of=(number) aria-label="Which queries are shown" {
            fieldset {
                legend { "Show" }
                @for (value, shown) in [("all", "all"), ("hit", "found first"), ("miss", "missed"), ("far", "not among five"), ("split", "runs disagree")] {
                    @if value != "split" || names.len() > 1 {
                        label { input type="radio" name={ "outcome-" (number) } value=(value) checked[value == "all"]; (shown) }
                    }
                }
            }
            label { "Direction " select name="direction" {
                option value="" { "both" } option value="speech" { "speech → image" } option value="image" { "image → speech" }
            } }
            label { "Said " input type="search" name="said" placeholder="words"; }
            output aria-live="polite" { (count) " of " (count) }
        }
        ol.queries id={ "queries-" (number) } {
            @for (place, utterance) in gallery.speech.iter().enumerate() {
                @let spoken = &gallery.split.utterances[*utterance];
                @let found: Vec<Option<&Found>> = gallery.shown.iter().map(|shown| shown.speech[place].as_ref()).collect();
                li.query data-direction="speech" data-ranks=(ranks(&found)) {
                    h4 { "“" (spoken.said()) "”" }
                    @if let Some(speaker) = &spoken.speaker { p.speaker { "said by " (speaker) } }
                    div.row {
                        (looks(number, gallery, place, spoken.image, &names))
                        @for ((name, found), shown) in names.iter().zip(&found).zip(&gallery.shown) {
                            (finding(name, names.len(), *found, |found| html! {
                                @let heard = &shown.keywords[place];
                                @if !heard.is_empty() { p.note { "heard: " (heard.join(" · ")) } }
                                ol.pictures { @for image in &found.items {
                                    @let right = *image == spoken.image;
                                    li.right[right] { (picture(number, *image, &outcome(gallery, *image, right))) }
                                } }
                            }))
                        }
                    }
                }
            }
            @for (place, image) in gallery.images.iter().enumerate() {
                @let found: Vec<Option<&Found>> = gallery.shown.iter().map(|shown| shown.images[place].as_ref()).collect();
                li.query data-direction="image" data-ranks=(ranks(&found)) {
                    h4 { "What is said of " (file(gallery, *image)) }
                    div.row {
                        figure { (picture(number, *image, &file(gallery, *image))) }
                        @for (name, found) in names.iter().zip(&found) {
                            (finding(name, names.len(), *found, |found| html! {
                                ol.sentences { @for utterance in &found.items {
                                    @let said = &gallery.split.utterances[*utterance];
                                    @let right = said.image == *image;
                                    li.right[right] { (said.said()) @if right { span.mark { " right" } } }
                                } }
                            }))
                        }
                    }
                }
            }
        }
    }
}

/// The picture that is spoken of, and where each run looks in it.
fn looks<'a>(number: usize, gallery: &'a Gallery, place: usize, image: usize, names: &[&str]) -> Markup {
    let of = |shown: &'a Shown| shown.attention[place].as_ref();
    let lights = gallery.shown.iter().zip(names).filter_map(|(shown, name)| Some((*name, of(shown)?)));
    html! {
        figure { (picture(number, image, &format!("spoken of: {}", file(gallery, image)))) figcaption { "spoken of" } }
        @for (name, attention) in lights {
            figure.look {
                svg role="img" aria-label={ "where " (name) " looks, entropy " (format!("{:.2}", attention.relative_entropy())) " of log N" } viewBox={ "0 0 " (SIDE) " " (SIDE) } {
                    use href={ "#" (id(number, image)) } {}
                    @if let Some(png) = shade(attention) {
                        image width=(SIDE) height=(SIDE) preserveAspectRatio="none" href={ "data:image/png;base64," (STANDARD.encode(png)) } {}
                    }
                }
                figcaption { "where " @if names.len() > 1 { (name) " looks" } @else { "it looks" } }
            }
        }
    }
}

/// A run's row: its rank, and what it found as `items` shows it.
fn finding(name: &str, runs: usize, found: Option<&Found>, items: impl Fn(&Found) -> Markup) -> Markup {
    html! {
        div.found {
            @match found {
                None => p { @if runs > 1 { (name) ": " } "could not be read" },
                Some(found) => {
                    p { @if runs > 1 { b { (name) } " · " } "right one at rank " span.rank.hit[found.rank == 1] { (found.rank) } }
                    (items(found))
                }
            }
        }
    }
}

fn picture(number: usize, image: usize, what: &str) -> Markup {
    html! { svg role="img" aria-label=(what) viewBox={ "0 0 " (SIDE) " " (SIDE) } { use href={ "#" (id(number, image)) } {} } }
}

fn outcome(gallery: &Gallery, image: usize, right: bool) -> String {
    format!("{}, {}", if right { "right" } else { "wrong" }, file(gallery, image))
}

fn id(number: usize, image: usize) -> String {
    format!("picture-{number}-{image}")
}

fn file(gallery: &Gallery, image: usize) -> String {
    gallery.split.images[image].path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Ranks of all runs, for the filter.
fn ranks(found: &[Option<&Found>]) -> String {
    found.iter().flatten().map(|found| found.rank.to_string()).collect::<Vec<_>>().join(" ")
}
