//! Curves of runs: losses, recalls along the way, and what tells of trouble.

use maud::{Markup, PreEscaped, html};

use super::chart::{COLOURS, Curve, chart};
use super::{ReportError, RunLog, layer_bars};

/// A figure that is drawn.
struct Figure {
    title: &'static str,
    axis: &'static str,
    source: Source,
}

enum Source {
    /// A key of training.
    Training(&'static str),
    /// A JSON pointer into evaluations.
    Evaluation(&'static str),
}

const fn of(title: &'static str, axis: &'static str, source: Source) -> Figure {
    Figure { title, axis, source }
}

const FIGURES: [Figure; 13] = [
    of("Mean R@1 along the way", "%", Source::Evaluation("/mean/r1")),
    of("Speech to image, R@1", "%", Source::Evaluation("/speech_to_image/r1")),
    of("Image to speech, R@1", "%", Source::Evaluation("/image_to_speech/r1")),
    of("Loss L", "L", Source::Training("loss")),
    of("Contrastive loss L_sic", "L_sic", Source::Training("loss_sic")),
    of("Denoising loss L_cmd", "L_cmd", Source::Training("loss_cmd")),
    of("Loss against the captions", "L_text", Source::Training("loss_text")),
    of("Temperature τ", "τ", Source::Training("temperature")),
    of("Entropy of the attention, of log N", "H / log N", Source::Training("attention_entropy")),
    of("Norm of the gradient", "norm", Source::Training("grad_norm")),
    of("Learning rate", "lr", Source::Training("lr")),
    of("Pairs a second", "1/s", Source::Training("samples_per_second")),
    of("Part of the time waiting for data", "share", Source::Training("data_wait")),
];

/// Every figure that a run has.
pub(super) fn curves(logs: &[RunLog]) -> Result<Markup, ReportError> {
    let mut drawn = Vec::new();
    for Figure { title, axis, source } in FIGURES {
        let points = |log: &RunLog| match source {
            Source::Training(key) => log.training(key),
            Source::Evaluation(pointer) => log.evaluations(pointer),
        };
        let all = logs.iter().enumerate().map(|(run, log)| Curve { run, points: points(log) });
        let curves: Vec<Curve> = all.filter(|curve| !curve.points.is_empty()).collect();
        if !curves.is_empty() {
            let svg = chart(title, axis, &curves, matches!(source, Source::Evaluation(_)))?;
            drawn.push((title, svg, told(logs, &curves)));
        }
    }
    let weights: Vec<Vec<f64>> = logs.iter().map(|log| log.layer_weights.clone()).collect();
    if weights.iter().any(|weights| !weights.is_empty()) {
        drawn.push(("How much each layer of the speech encoder counts", layer_bars(&weights)?, heaviest(logs)));
    }
    Ok(html! {
        @if drawn.is_empty() {
            p { "Nothing has been logged yet." }
        } @else {
            @if let Some(split) = logs.iter().find_map(RunLog::development) {
                p.note { "Recalls along the way are of the split “" (split) "”, which chooses the best checkpoint." }
            }
            @if logs.len() > 1 { (legend(logs)) }
            div.charts {
                @for (title, svg, told) in drawn {
                    figure.chart {
                        figcaption { (title) }
                        div role="img" aria-label={ (title) ". " (told) } { (PreEscaped(svg)) }
                    }
                }
            }
        }
    })
}

/// Which colour is whose.
fn legend(logs: &[RunLog]) -> Markup {
    html! {
        ul.legend aria-label="Colours of the runs" {
            @for (run, log) in logs.iter().enumerate() {
                li { span class={ "swatch c" (run % COLOURS.len()) } aria-hidden="true" {} (log.name) }
            }
        }
    }
}

/// The layer that counts most, in words.
fn heaviest(logs: &[RunLog]) -> String {
    let told = logs.iter().filter_map(|log| {
        let (layer, weight) = log.layer_weights.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
        Some(format!("{}: hidden state {layer} counts most, {weight:.3}.", log.name))
    });
    told.collect::<Vec<_>>().join(" ")
}

/// The curves in words.
fn told(logs: &[RunLog], curves: &[Curve]) -> String {
    let told = curves.iter().filter_map(|Curve { run, points }| {
        let ((first, from), (last, to)) = (points.first()?, points.last()?);
        Some(format!("{}: {from:.4} at step {first:.0}, {to:.4} at step {last:.0}.", logs[*run].name))
    });
    told.collect::<Vec<_>>().join(" ")
}
