//! The audit of a data set, as the page shows it.

use maud::{Markup, html};

use super::page::wide_table;
use crate::data::Audit;

/// Lines of one kind of finding that are shown.
const LINES: usize = 20;

/// Counts and findings.
pub(super) fn audit(audit: &Audit) -> Markup {
    html! {
        h3 { (audit.dataset) }
        (wide_table("Splits", "", &html! {
            thead { tr { th scope="col" { "split" } th scope="col" { "images" } th scope="col" { "utterances" } th scope="col" { "hours" } } }
            tbody { @for (split, counts) in &audit.splits {
                tr { th scope="row" { (split) } td { (counts.images) } td { (counts.utterances) } td { (format!("{:.1}", counts.hours)) } }
            } }
        }))
        @if !audit.sample_rates.is_empty() {
            p { "Audio: " @for (place, (rate, files)) in audit.sample_rates.iter().enumerate() { @if place > 0 { ", " } (files) " files at " (rate) " Hz" } "." }
        }
        p.verdict { @if audit.is_clean() { "Nothing stops a run" } @else { "Something stops a run" } " (" (audit.how()) ")." }
        @for (what, lines, stops) in audit.told() {
            details open[stops] {
                summary.stops[stops] { (what) ": " (lines.len()) }
                ul { @for line in lines.iter().take(LINES) { li { (line) } } }
                @if lines.len() > LINES { p.note { "and " (lines.len() - LINES) " more: " code { "cmd data check" } " names them all." } }
            }
        }
    }
}
