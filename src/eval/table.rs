//! Results as a table with the columns of the paper's Table 2.

use std::fmt::Write;

use super::{Protocol, SplitResult};

/// One row a result, recalls in percent.
#[must_use]
pub fn table(results: &[SplitResult]) -> String {
    let name = |result: &SplitResult| {
        let protocol = result.protocol.as_ref().map_or(String::new(), |protocol| format!(", {protocol}"));
        format!("{} {}{protocol}", result.dataset, result.split)
    };
    let width = results.iter().map(|result| name(result).chars().count()).max().unwrap_or(0).max(4);
    let group = |text| format!("{text:^20}");
    let mut text = format!(
        "{:width$} | {:>6} {:>10} | {} | {} | {}\n{:width$} | {:>6} {:>10} |",
        "",
        "",
        "",
        group("Speech -> Image"),
        group("Image -> Speech"),
        group("Mean"),
        "data",
        "images",
        "utterances"
    );
    for _ in 0..3 {
        let _ = write!(text, " {:>6} {:>6} {:>6} |", "R@1", "R@5", "R@10");
    }
    text.truncate(text.trim_end_matches(" |").len());
    for result in results {
        let recalls = &result.recalls;
        let _ = write!(text, "\n{:width$} | {:>6} {:>10} |", name(result), result.images, result.utterances);
        let columns = [&recalls.speech_to_image, &recalls.image_to_speech].map(|side| [side.r1, side.r5, side.r10]);
        let columns = columns.into_iter().chain([[recalls.mean.r1, recalls.mean.r5, recalls.mean.r10]]);
        for [r1, r5, r10] in columns {
            let _ = write!(text, " {r1:>6.1} {r5:>6.1} {r10:>6.1} |");
        }
        text.truncate(text.trim_end_matches(" |").len());
    }
    for result in results {
        if let Some(family) = result.in_family {
            let _ = write!(
                text,
                "\n{}: the right one of its family first {:.1} % ({} families that differ in one detail, chance {:.1} %)",
                name(result),
                family.accuracy,
                family.families,
                family.chance
            );
        }
        if let Some(Protocol::Rerank { mix_from, milliseconds, .. }) = &result.protocol {
            let from = mix_from.as_ref().map_or("given".to_owned(), |split| format!("chosen on {split}"));
            let _ = write!(text, "\n{}: the mix was {from}; {milliseconds:.2} ms a query", name(result));
        }
        if result.skipped > 0 {
            let _ = write!(text, "\n{}: {} unreadable files were left out", name(result), result.skipped);
        }
    }
    text
}
