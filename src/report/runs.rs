//! What the runs of a report are: settings that differ, what made them, on what.

use maud::{Markup, html};

use super::log::{RunLog, Start, differences};
use super::page::wide_table;

/// What is told of every run, and how it is found, if it is known.
type Fact = (&'static str, fn(&RunLog) -> Option<String>);

/// Runs side by side, and every key that they do not share.
pub(super) fn comparison(logs: &[RunLog]) -> Markup {
    let rows = differences(logs);
    let facts: [Fact; 6] = [
        ("trained on", |log| Some(log.state.as_ref()?.data.name.clone())),
        ("steps", |log| Some(log.state.as_ref()?.step.to_string())),
        ("epochs", |log| Some(log.state.as_ref()?.epoch.to_string())),
        ("best step (mean R@1)", |log| {
            let best = log.state.as_ref()?.best?;
            Some(format!("{} ({:.1} %)", best.step, best.mean_r1))
        }),
        ("time", |log| log.seconds().map(duration)),
        ("samples that were replaced", |log| Some(log.state.as_ref()?.skipped.to_string())),
    ];
    html! {
        (wide_table("Runs side by side", "", &html! {
            thead { tr { th scope="col" { "" } @for log in logs { th scope="col" { (log.name) } } } }
            tbody {
                @for (what, fact) in facts {
                    tr { th scope="row" { (what) } @for log in logs { td { (fact(log).unwrap_or("—".to_owned())) } } }
                }
                @for (key, values) in &rows {
                    tr.setting {
                        th scope="row" { code { (key) } }
                        @for value in values { td { @match value { Some(value) => code { (value) }, None => "—" } } }
                    }
                }
            }
        }))
        @if logs.len() > 1 {
            p.note {
                @if rows.is_empty() { "All settings are equal." } @else { "Settings that are not shown are equal in all runs." }
            }
        }
        @for log in logs {
            details {
                summary { "All settings of " (log.name) }
                table { tbody {
                    @for (key, value) in &log.settings { tr { th scope="row" { code { (key) } } td { code { (value) } } } }
                } }
            }
        }
    }
}

/// What made each run, and this page.
pub(super) fn origins(logs: &[RunLog], here: &[(String, String)]) -> Markup {
    html! {
        @for log in logs {
            h3 { (log.name) }
            @if log.starts.is_empty() { p { "Its configuration does not tell what made it." } }
            ol.starts {
                @for Start { what, command } in &log.starts {
                    li { (what) @if !command.is_empty() { pre tabindex="0" { code { (command) } } } }
                }
            }
            @if let Some(state) = &log.state {
                dl {
                    @for (what, of) in [("data", &state.data), ("speech encoder", &state.speech_encoder), ("image encoder", &state.image_encoder)] {
                        dt { (what) } dd { (of.name) " " code title="BLAKE3" { (of.fingerprint) } }
                    }
                }
            }
        }
        h3 { "This page" }
        dl { @for (what, value) in here { dt { (what) } dd { (value) } } }
    }
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, _) => format!("{minutes} min {seconds} s"),
        _ => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_text() {
        let mut log = RunLog { name: "<b>&\"x".to_owned(), ..RunLog::default() };
        log.settings.insert("data.path".to_owned(), "\"</script><script>alert(1)\"".to_owned());
        let other = RunLog { name: "other".to_owned(), ..RunLog::default() };
        log.starts = vec![Start { what: "<i>".to_owned(), command: "cmd '<u>'".to_owned() }];
        let logs = [log, other];
        let page = format!("{}{}", comparison(&logs).0, origins(&logs, &[("<p>".to_owned(), "<q>".to_owned())]).0);
        assert!(page.contains("&lt;b&gt;&amp;&quot;x") && page.contains("&lt;/script&gt;"), "{page}");
        for raw in ["<b>", "<script", "<i>", "<u>", "<q>"] {
            assert!(!page.contains(raw), "{raw}: {page}");
        }
    }

    #[test]
    fn times_are_short() {
        assert_eq!([9.4, 75.0, 7265.0].map(duration), ["9 s", "1 min 15 s", "2 h 1 min"]);
    }
}
