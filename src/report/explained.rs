//! What a model makes of utterances, as a page: where they look, over time too, what is nearest to them, and what its layers count.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, PreEscaped, html};

use super::found::name;
use super::page::whole;
use super::shade::shade;
use super::{ReportError, layer_bars};
use crate::data::{DataError, Medium, Picture, PictureForm};
use crate::eval::{Attention, Look};

/// Pixels of the side of a neighbour.
const SIDE: u32 = 144;

/// An utterance and what models make of it.
#[derive(Debug)]
pub struct Explained {
    /// Its file.
    pub speech: PathBuf,
    /// What is said, where that is known.
    pub said: Option<String>,
    /// The picture that is looked at.
    pub image: PathBuf,
    /// That picture as it is shown.
    pub picture: Picture,
    /// Where it looks by each model.
    pub seen: Vec<Seen>,
    /// Pictures and utterances nearest to it by the first model.
    pub neighbours: Vec<Neighbour>,
}

/// Where an utterance looks by one model.
#[derive(Debug)]
pub struct Seen {
    /// Number of the model.
    pub model: usize,
    /// Whether its fusion encoder has learned; else Eq. 1 is asked after a LayerNorm without weights.
    pub learned: bool,
    /// Where.
    pub look: Look,
}

/// A file that is near to an utterance.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbour {
    /// The file.
    pub file: PathBuf,
    /// What it holds.
    pub medium: Medium,
    /// What is said, where that is known.
    pub said: Option<String>,
    /// Cosine of the embeddings.
    pub score: f32,
    /// Whether it is known to be a right one.
    pub right: Option<bool>,
}

/// The page; `models` are names of models with the weights of their layers.
///
/// # Errors
/// When a picture cannot be read, or the bars cannot be drawn.
pub fn explained_page(
    explained: &[Explained],
    models: &[(String, Vec<f64>)],
    max_megapixels: i64,
) -> Result<String, ReportError> {
    let form = PictureForm::new(SIDE, max_megapixels);
    let weights: Vec<Vec<f64>> = models.iter().map(|(_, weights)| weights.clone()).collect();
    let bars = layer_bars(&weights)?;
    let mut parts = Vec::new();
    for one in explained {
        parts.push(part(one, models, form)?);
    }
    let content = html! {
        @for part in &parts { (part) }
        section {
            h2 { "How much each layer counts" }
            p.note { "softmax(w) of the speech head's sum over the hidden states of the speech encoder." }
            @if models.len() > 1 { ul.legend { @for (number, (name, _)) in models.iter().enumerate() {
                li { span class={ "swatch c" (number % 8) } {} (name) }
            } } }
            figure.chart role="img" aria-label="Weights of the layers" { (PreEscaped(bars)) }
        }
    };
    let below = "Where utterances look, and what is near to them";
    Ok(whole("Explained", below, None, &content))
}

fn part(one: &Explained, models: &[(String, Vec<f64>)], form: PictureForm) -> Result<Markup, ReportError> {
    let jpeg = jpeg(&one.image, &one.picture)?;
    let side = one.picture.size;
    let under = |attention: Option<&Attention>, what: &str| {
        html! {
            svg role="img" aria-label=(what) viewBox={ "0 0 " (side) " " (side) } {
                image width=(side) height=(side) href=(jpeg) {}
                @if let Some(png) = attention.and_then(shade) {
                    image width=(side) height=(side) preserveAspectRatio="none" href={ "data:image/png;base64," (STANDARD.encode(png)) } {}
                }
            }
        }
    };
    let of = |medium: Medium| one.neighbours.iter().filter(move |near| near.medium == medium);
    let mut pictures = Vec::new();
    for near in of(Medium::Image) {
        pictures.push((near, self::jpeg(&near.file, &form.read(&near.file)?)?));
    }
    Ok(html! {
        section {
            h2 { @match &one.said { Some(said) => { "“" (said) "”" }, None => { (name(&one.speech)) } } }
            p.note { (name(&one.speech)) " over " (name(&one.image)) }
            div.looks {
                figure { (under(None, "the picture")) figcaption { "the picture" } }
                @for Seen { model, learned, look } in &one.seen {
                    @let (name, entropy) = (&models[*model].0, format!("{:.2}", look.whole.relative_entropy()));
                    figure {
                        (under(Some(&look.whole), &format!("where {name} looks, entropy {entropy} of log N")))
                        figcaption { (name) ", entropy " (entropy) @if !learned { ", without CMD: Eq. 1 before anything is learned" } }
                    }
                }
            }
            @for Seen { model, look, .. } in &one.seen {
                @let words = look.parts.iter().any(|part| part.word.is_some());
                h3 { @if words { "Keywords" } @else { "Over time" } @if models.len() > 1 { ": " (models[*model].0) } }
                ol.parts { @for part in &look.parts {
                    @let time = format!("{:.2} to {:.2} s", part.from, part.to);
                    @let what = part.word.as_ref().map_or_else(|| format!("where it looks from {time}"), |word| format!("where {word} looks, heard from {time}"));
                    li { (under(Some(&part.attention), &what)) @if let Some(word) = &part.word { p { b { (word) } } } p.note { (time) } }
                } }
            }
            @if !pictures.is_empty() {
                h3 { "Nearest pictures" }
                ol.parts { @for (near, jpeg) in &pictures {
                    li {
                        svg role="img" aria-label=(name(&near.file)) viewBox={ "0 0 " (SIDE) " " (SIDE) } { image width=(SIDE) height=(SIDE) href=(jpeg) {} }
                        p.note { (format!("{:.3}", near.score)) @if near.right == Some(true) { " ✓ right" } }
                    }
                } }
            }
            @if of(Medium::Speech).next().is_some() {
                h3 { "Nearest utterances" }
                ol.sentences { @for near in of(Medium::Speech) {
                    li.right[near.right == Some(true)] {
                        @match &near.said { Some(said) => { (said) }, None => { (name(&near.file)) } }
                        span.note { (format!(" {:.3}", near.score)) @if near.right == Some(true) { " of the same picture" } }
                    }
                } }
            }
        }
    })
}

fn jpeg(path: &Path, picture: &Picture) -> Result<String, ReportError> {
    let jpeg = picture.to_jpeg().map_err(|why| DataError::Sample { path: path.to_owned(), why })?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg)))
}
