//! One page with everything about some runs: no network, no other file.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::audit::audit;
use super::curves::curves;
use super::queries::queries;
use super::runs::{comparison, origins};
use super::{Gallery, ReportError, Row, RunLog, tables};
use crate::data::Audit;
use crate::eval::{Comparison, Differences};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A run less another one on the same queries.
#[derive(Clone, Debug)]
pub struct Against {
    /// Data set and split.
    pub on: String,
    /// Numbers of the two runs.
    pub runs: [usize; 2],
    /// Differences of their recalls.
    pub comparison: Comparison,
}

/// What the page tells.
#[derive(Debug, Default)]
pub struct Page {
    /// Its heading.
    pub title: String,
    /// The runs.
    pub logs: Vec<RunLog>,
    /// Results of theirs and of others.
    pub rows: Vec<Row>,
    /// Runs against each other.
    pub against: Vec<Against>,
    /// Queries and what was found.
    pub galleries: Vec<Gallery>,
    /// Audits of the data sets.
    pub audits: Vec<Audit>,
    /// Program, machine and time that made the page.
    pub here: Vec<(String, String)>,
}

/// A part of the page: its id, its heading, what it holds.
type Part = (&'static str, &'static str, Markup);

impl Page {
    /// The page as HTML.
    ///
    /// # Errors
    /// When a curve cannot be drawn.
    pub fn html(&self) -> Result<String, ReportError> {
        let parts = self.parts()?;
        let links: Vec<(&str, &str)> = parts.iter().map(|(id, heading, _)| (*id, *heading)).collect();
        let content = html! {
            (self.tiles())
            @for (id, heading, content) in &parts { section id=(id) aria-labelledby={ (id) "-heading" } {
                h2 id={ (id) "-heading" } { (heading) }
                (content)
            } }
            footer { @for (what, value) in self.here.iter().take(2) { (what) " " (value) " · " } a href="#main" { "to the top" } }
        };
        let below = "Speech-image retrieval with cross-modal denoising";
        Ok(whole(&self.title, below, Some(&links), &content))
    }

    fn parts(&self) -> Result<Vec<Part>, ReportError> {
        let mut parts = Vec::new();
        if !self.rows.is_empty() {
            parts.push(("results", "Results", self.results()));
        }
        parts.push(("curves", "Curves", curves(&self.logs)?));
        parts.push(("runs", "Runs and settings", comparison(&self.logs)));
        if !self.audits.is_empty() {
            parts.push(("data", "Data", html! { @for one in &self.audits { (audit(one)) } }));
        }
        parts.push(("origin", "Machines and versions", origins(&self.logs, &self.here)));
        // The longest one comes last.
        if !self.galleries.is_empty() {
            parts.push(("retrieval", "Hits and misses", self.retrieval()));
        }
        Ok(parts)
    }

    /// Mean R@1 of every plain result of the report's own runs.
    fn tiles(&self) -> Markup {
        let own: Vec<&Row> = self.rows.iter().filter(|row| row.run.is_some() && row.is_plain()).collect();
        html! {
            @if !own.is_empty() && own.len() <= TILES {
                ul.tiles aria-label="Mean R@1" {
                    @for row in own { li {
                        b { (format!("{:.1} %", row.result.recalls.mean.r1)) }
                        "mean R@1 on " (row.result.dataset) " " (row.result.split)
                        p.sub { (row.method) }
                    } }
                }
            }
        }
    }

    fn results(&self) -> Markup {
        html! {
            (tables::retrieval(&self.rows))
            @for row in self.rows.iter().filter(|row| row.run.is_some()) {
                @if let Some(family) = row.result.in_family {
                    p { (row.method) " on " (row.result.dataset) " " (row.result.split) ": the right image comes first among those that differ from it in one detail for "
                        (format!("{:.1} %", family.accuracy)) " of the utterances (" (family.families) " families, chance " (format!("{:.1} %", family.chance)) ")." }
                }
            }
            (self.differences())
            @match tables::zero_shot(&self.rows) {
                Some(table) => (table),
                None => p.note { "Table 3 (zero-shot) needs a run and data that it was not trained on: " code { "cmd report RUN --data CONFIG" } "." },
            }
            @match tables::ablation(&self.rows, &self.logs) {
                Some(table) => (table),
                None => p.note { "Table 4 (with and without CMD) needs runs with cmd.alpha = 0 and above it on the same data." },
            }
        }
    }

    /// Runs less the first one.
    fn differences(&self) -> Markup {
        let name = |run: usize| &self.logs[run].name;
        html! {
            @if !self.against.is_empty() {
                (wide_table("Differences on the same queries, in points", "", &html! {
                    thead { tr { th scope="col" { "runs" } th scope="col" { "on" } @for side in ["Speech → Image R@1", "Image → Speech R@1", "Mean R@1", "Mean R@5", "Mean R@10"] { th scope="col" { (side) } } } }
                    tbody { @for Against { on, runs: [one, other], comparison } in &self.against {
                        @let Comparison { speech_to_image, image_to_speech, mean: Differences { r1, r5, r10 } } = comparison;
                        tr {
                            th scope="row" { (name(*one)) " less " (name(*other)) } td { (on) }
                            @for difference in [&speech_to_image.r1, &image_to_speech.r1, r1, r5, r10] {
                                td { (format!("{:+.1}", difference.points)) span.interval { (format!("{:+.1} to {:+.1}", difference.ci95[0], difference.ci95[1])) } }
                            }
                        }
                    } }
                }))
                p.note { "Paired bootstrap over images, 95 %. It does not know how runs differ by their seeds alone." }
            }
        }
    }

    fn retrieval(&self) -> Markup {
        html! {
            p.note { "Queries are spread evenly over the split, not chosen by outcome. A green frame and a tick mark the right image. “Where it looks”: the attention of the \
                fusion encoder from the utterance over the clean patches of its own image, bright where it is strong; runs without CMD have none." }
            @for (number, gallery) in self.galleries.iter().enumerate() {
                h3 { (gallery.split.dataset) " " (gallery.split.name) }
                (queries(number, gallery, &self.logs))
            }
        }
    }
}

/// A table that scrolls in itself where it is wider than the page, by keyboard too.
pub(super) fn wide_table(caption: &str, class: &str, rows: &Markup) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label=(caption) { table class=(class) { caption { (caption) } (rows) } }
    }
}

/// A page with a heading, links to its parts and its content. Nothing is loaded from anywhere, and no other script runs than its own.
pub(super) fn whole(title: &str, below: &str, links: Option<&[(&str, &str)]>, content: &Markup) -> String {
    let hash = STANDARD.encode(Sha256::digest(SCRIPT));
    let policy = format!(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'"
    );
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { (title) }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header { h1 { (title) } p.sub { (below) } }
                @if let Some(links) = links {
                    nav aria-label="Parts of this page" { ul { @for (id, heading) in links { li { a href={ "#" (id) } { (heading) } } } } }
                }
                main id="main" tabindex="-1" { (content) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// Tiles that are still seen at a glance.
const TILES: usize = 8;
