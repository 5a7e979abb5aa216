//! What made a run, in comments at the top of its configuration: one entry for each start, so that no figure is without its program.

use tch::Device;

use crate::VERSION;
use crate::model::libtorch_version;

/// Entries that are kept: the first, and the newest of the others.
const ENTRIES: usize = 20;

/// The entry of this process, which trains with `seed` on `device`, one of `processes`, behind those of `before`, the configuration that is
/// there.
pub(super) fn origin(before: Option<&str>, device: Device, processes: usize, seed: i64) -> String {
    let comments = before.unwrap_or_default().lines().take_while(|line| line.starts_with('#'));
    let mut lines: Vec<String> = comments.map(str::to_owned).collect();
    // A configuration of an earlier version begins with none.
    let kept = lines.len() / 2;
    if kept >= ENTRIES {
        lines.drain(2..2 * (kept + 2 - ENTRIES));
    }
    let (verb, now) = (if before.is_some() { "Went on" } else { "Started" }, jiff::Zoned::now());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let processes = if processes > 1 { format!(", {processes} processes") } else { String::new() };
    lines.push(format!(
        "# {verb} {} on {}: cmd {VERSION}, libtorch {}, {device:?}{processes}, seed {seed}",
        now.strftime("%Y-%m-%d %H:%M:%S %:z"),
        host.escape_debug(),
        libtorch_version()
    ));
    let words: Vec<String> = std::env::args_os().map(|word| quoted(&word.to_string_lossy())).collect();
    lines.push(format!("#   {}", words.join(" ")));
    format!("{}\n\n", lines.join("\n"))
}

/// `word` as a shell takes it, on one line.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+%@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let shown: String = word
        .chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string().replace('\'', r"'\''") })
        .collect();
    format!("'{shown}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_start_has_its_entry_and_their_number_is_bounded() {
        let mut text = origin(None, Device::Cpu, 1, 7);
        assert!(text.starts_with("# Started ") && text.contains(", seed 7\n#   "), "{text}");
        let first = text.lines().next().unwrap_or_default().to_owned();
        for count in 2..ENTRIES + 5 {
            text = origin(Some(&format!("{text}[data]\n# Of the data\n")), Device::Cpu, 2, count as i64);
            let entries = text.lines().filter(|line| line.starts_with("# ")).count() - text.matches("#   ").count();
            assert_eq!(entries, count.min(ENTRIES), "{text}");
            assert!(text.ends_with("\n\n") && text.contains(&format!("2 processes, seed {count}\n")), "{text}");
            assert_eq!(text.lines().next(), Some(&*first));
        }
        assert!(origin(Some("[data]\n"), Device::Cpu, 1, 0).starts_with("# Went on "));
    }

    #[test]
    fn words_are_written_as_a_shell_takes_them() {
        assert_eq!(["a=b/c", "", "a b", "it's", "a\nb"].map(quoted), ["a=b/c", "''", "'a b'", r"'it'\''s'", r"'a\nb'"]);
    }
}
