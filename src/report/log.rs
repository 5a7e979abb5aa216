//! What the folder of a run tells without any computing: settings, starts, figures along the way.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::Value;
use toml::Table;

use super::ReportError;
use crate::checkpoint::{RunDir, State};

/// A start of a run, as the top of its configuration tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// When, where and with what.
    pub what: String,
    /// The command line.
    pub command: String,
}

/// The log of a run.
#[derive(Clone, Debug, Default)]
pub struct RunLog {
    /// What each layer of the speech encoder counts in the best checkpoint, where that was read.
    pub layer_weights: Vec<f64>,
    /// Its folder's name.
    pub name: String,
    /// Every key of its configuration with its value as TOML.
    pub settings: BTreeMap<String, String>,
    /// Its starts, the first one first.
    pub starts: Vec<Start>,
    /// Where its newest checkpoint stood; none before the first.
    pub state: Option<State>,
    /// Records of training.
    pub(super) training: Vec<Value>,
    /// Results of evaluations along the way.
    pub(super) evaluations: Vec<Value>,
}

impl RunLog {
    /// Reads the folder of `run`, which may still be training.
    ///
    /// # Errors
    /// When its configuration or figures cannot be read.
    pub fn read(run: &RunDir) -> Result<Self, ReportError> {
        let text = read(&run.config())?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| ReportError::Read {
            path: run.config(),
            why: error.message().to_owned(),
        })?;
        let mut settings = BTreeMap::new();
        flatten("", &table, &mut settings);
        let metrics = if run.metrics().exists() { read(&run.metrics())? } else { String::new() };
        // A line that is being written is not whole yet.
        let lines = metrics.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let (evaluations, training) = lines.partition(|line| line["kind"] == "eval");
        let name = run.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let state = if run.has_checkpoints() { run.newest().ok().map(|(_, state)| state) } else { None };
        let starts = starts(&text);
        Ok(Self { name, settings, starts, state, training, evaluations, layer_weights: Vec::new() })
    }

    /// A figure of training by step.
    #[must_use]
    pub fn training(&self, key: &str) -> Vec<(f64, f64)> {
        series(&self.training, &format!("/{key}"))
    }

    /// A figure of the evaluations by step, as a JSON pointer.
    #[must_use]
    pub fn evaluations(&self, pointer: &str) -> Vec<(f64, f64)> {
        series(&self.evaluations, pointer)
    }

    /// Name of the split that was evaluated along the way.
    #[must_use]
    pub fn development(&self) -> Option<&str> {
        self.evaluations.last()?["split"].as_str()
    }

    /// α.
    #[must_use]
    pub fn alpha(&self) -> Option<f64> {
        self.settings.get("cmd.alpha")?.parse().ok()
    }

    /// Whether it was trained on more than its own data set: on others beside it, or from the weights of another run.
    #[must_use]
    pub fn has_other_data(&self) -> bool {
        let is_set = |key: &str| self.settings.get(key).is_some_and(|value| !matches!(&**value, "[]" | "\"\""));
        is_set("train.mix") || is_set("train.init_from")
    }

    /// Seconds between the first and the last record, with what lay between two starts.
    #[must_use]
    pub fn seconds(&self) -> Option<f64> {
        let times = self.training.iter().chain(&self.evaluations).filter_map(|line| line["time"].as_f64());
        let (first, last) = times.fold((f64::MAX, f64::MIN), |(first, last), time| (first.min(time), last.max(time)));
        (last > first).then_some(last - first)
    }
}

/// Keys whose values are not the same in all of `logs`, each with its values; a key that one lacks is `None` there.
pub(super) fn differences(logs: &[RunLog]) -> Vec<(&str, Vec<Option<&str>>)> {
    let mut keys: Vec<&str> = logs.iter().flat_map(|log| log.settings.keys().map(String::as_str)).collect();
    keys.sort_unstable();
    keys.dedup();
    let values =
        |key: &str| -> Vec<Option<&str>> { logs.iter().map(|log| log.settings.get(key).map(String::as_str)).collect() };
    let all = keys.into_iter().map(|key| (key, values(key)));
    all.filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect()
}

/// Runs of one name get numbers.
pub fn tell_apart(logs: &mut [RunLog]) {
    let mut known = HashMap::new();
    for log in logs {
        let count = known.entry(log.name.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            log.name = format!("{} ({count})", log.name);
        }
    }
}

/// What a page about them is called.
#[must_use]
pub fn title(logs: &[RunLog]) -> String {
    match logs {
        [log] => log.name.clone(),
        [one, other] => format!("{} and {}", one.name, other.name),
        _ => format!("{} runs", logs.len()),
    }
}

fn read(path: &Path) -> Result<String, ReportError> {
    std::fs::read_to_string(path).map_err(|error| ReportError::Read { path: path.to_owned(), why: error.to_string() })
}

fn flatten(section: &str, table: &Table, settings: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let key = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, settings),
            value => {
                settings.insert(key, value.to_string());
            }
        }
    }
}

/// The entries at the top of a configuration: a comment that says what, and an indented one with the command line.
fn starts(text: &str) -> Vec<Start> {
    let mut starts: Vec<Start> = Vec::new();
    for line in text.lines().map_while(|line| line.strip_prefix("# ")) {
        match (line.strip_prefix("  "), starts.last_mut()) {
            (Some(command), Some(start)) => command.clone_into(&mut start.command),
            _ => starts.push(Start { what: line.to_owned(), command: String::new() }),
        }
    }
    starts
}

fn series(lines: &[Value], pointer: &str) -> Vec<(f64, f64)> {
    let point = |line: &Value| Some((line["step"].as_f64()?, line.pointer(pointer)?.as_f64()?));
    lines.iter().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(settings: &[(&str, &str)]) -> RunLog {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        RunLog { settings, ..RunLog::default() }
    }

    #[test]
    fn only_what_differs_is_told_also_where_a_key_is_missing() {
        let logs = [
            log(&[("cmd.alpha", "0.5"), ("train.steps", "9"), ("a.b", "1")]),
            log(&[("cmd.alpha", "0.0"), ("train.steps", "9")]),
        ];
        let found = differences(&logs);
        assert_eq!(found, [("a.b", vec![Some("1"), None]), ("cmd.alpha", vec![Some("0.5"), Some("0.0")])]);
        assert!(differences(&logs[..1]).is_empty());
    }

    #[test]
    fn starts_are_read_from_the_top_alone() {
        let text = "# Started 1 on a: cmd 2\n#   cmd train --config 'a b'\n# Went on 2 on b\n#   cmd train --resume x\n\n[data]\n# Form\n";
        let found = starts(text);
        assert_eq!(
            (found.len(), &*found[0].command, &*found[1].what),
            (2, "cmd train --config 'a b'", "Went on 2 on b")
        );
        assert!(starts("[data]\n# Form\n").is_empty());
    }

    #[test]
    fn a_series_has_what_is_there() {
        let lines = [r#"{"step":5,"loss_cmd":null}"#, r#"{"step":10,"loss_cmd":0.5,"mean":{"r1":7}}"#];
        let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(series(&lines, "/loss_cmd"), [(10.0, 0.5)]);
        assert_eq!(series(&lines, "/mean/r1"), [(10.0, 7.0)]);
    }
}
