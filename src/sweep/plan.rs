//! The file of a sweep.
//!
//! ```toml
//! config = "../demo.toml"                   # of all runs
//! seeds = [0, 1, 2]                         # each setting with each
//! splits = ["test"]                         # scored with the best checkpoint, which eval.split chose
//! combine = "product"                       # or "one_at_a_time": the values of each key around the configuration as it is
//! [set]
//! "train.steps" = 600                       # for all runs
//! [[vary]]
//! key = "cmd.alpha"
//! values = [0.0, 0.5, 1.0]
//! [[vary]]
//! keys = ["noise.ratio", "cmd.pairing"]     # together
//! values = [[0.3, "paired"], [0.6, "all"]]
//! names = ["as published", "harder"]        # by default the values
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::SweepError;

/// Name of the configuration as it is.
const BASE: &str = "as configured";

/// How the keys that vary go together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Combine {
    #[default]
    Product,
    OneAtATime,
}

/// A sweep as its file says it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Configuration of all runs; relative paths start from the plan.
    pub config: PathBuf,
    /// Seeds of each setting.
    #[serde(default = "one_seed")]
    pub seeds: Vec<i64>,
    /// The splits that are scored at the end.
    #[serde(default = "test")]
    pub splits: Vec<String>,
    #[serde(default)]
    combine: Combine,
    #[serde(default)]
    set: Table,
    #[serde(default)]
    vary: Vec<Vary>,
}

/// A key, or several together, and the values that they take.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vary {
    key: Option<String>,
    #[serde(default)]
    keys: Vec<String>,
    values: Vec<Value>,
    #[serde(default)]
    names: Vec<String>,
}

/// One point of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// For tables and folders.
    pub name: String,
    /// Keys and their values.
    pub changes: Vec<(String, Value)>,
    /// The value of the one key that varies, if it is a number: a plot has an axis for it.
    pub number: Option<f64>,
    /// The setting that it is compared with, by its place: where several things vary, the one with the first value of the last of them and the
    /// same values of the others, else the first.
    pub against: usize,
}

fn one_seed() -> Vec<i64> {
    vec![0]
}

fn test() -> Vec<String> {
    vec!["test".to_owned()]
}

impl Plan {
    /// Reads the plan in the file `path`.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self, SweepError> {
        let wrong = |why: String| SweepError::Plan { path: path.to_owned(), why };
        let text = std::fs::read_to_string(path).map_err(|error| {
            wrong(format!("{error}; name the file of a sweep (the shipped ones are in configs/sweeps/)"))
        })?;
        let mut plan: Self = toml::from_str(&text).map_err(|error| wrong(error.message().replace('\n', ", ")))?;
        plan.config = path.parent().unwrap_or(Path::new(".")).join(&plan.config);
        if plan.seeds.is_empty() || plan.seeds.iter().any(|seed| *seed < 0) {
            return Err(wrong("seeds: must be at least one number, none below 0".to_owned()));
        }
        if plan.splits.is_empty() {
            return Err(wrong("splits: must name at least one".to_owned()));
        }
        for (number, vary) in (1..).zip(&plan.vary) {
            vary.check().map_err(|why| wrong(format!("[[vary]] number {number}: {why}")))?;
        }
        Ok(plan)
    }

    /// The keys that vary.
    #[must_use]
    pub fn varied(&self) -> Vec<&str> {
        self.vary.iter().flat_map(Vary::keys).collect()
    }

    /// All settings.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let common: Vec<(String, Value)> = leaves("", &self.set);
        let base = Setting { name: BASE.to_owned(), changes: common, number: None, against: 0 };
        match self.combine {
            Combine::OneAtATime => {
                let each = self.vary.iter().flat_map(|vary| vary.settings(&base, true));
                [base.clone()].into_iter().chain(each).collect()
            }
            Combine::Product => {
                let mut settings = self.vary.iter().fold(vec![base], |settings, vary| {
                    settings.iter().flat_map(|setting| vary.settings(setting, self.vary.len() > 1)).collect()
                });
                let several: Vec<&Vary> = self.vary.iter().filter(|vary| vary.values.len() > 1).collect();
                if let [_, .., last] = several.as_slice() {
                    let values = last.values.len();
                    (0..).zip(&mut settings).for_each(|(place, setting)| setting.against = place - place % values);
                }
                settings
            }
        }
    }
}

impl Vary {
    fn keys(&self) -> Vec<&str> {
        self.key.iter().chain(&self.keys).map(String::as_str).collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.key.is_some() != self.keys.is_empty() {
            return Err("name either key = \"section.key\" or keys = [\"section.key\", ...]".to_owned());
        }
        if self.values.is_empty() {
            return Err("values is empty".to_owned());
        }
        if !self.names.is_empty() && self.names.len() != self.values.len() {
            return Err(format!("{} names for {} values", self.names.len(), self.values.len()));
        }
        let count = self.keys.len();
        let fits = |value: &Value| value.as_array().is_some_and(|values| values.len() == count);
        match self.values.iter().find(|value| self.key.is_none() && !fits(value)) {
            Some(value) => Err(format!("{value} must be a list of {count} values, one for each of keys")),
            None => Ok(()),
        }
    }

    /// `base` with each of the values.
    fn settings(&self, base: &Setting, says_key: bool) -> Vec<Setting> {
        let keys = self.keys();
        let made = self.values.iter().enumerate().map(|(place, value)| {
            let values =
                if self.key.is_some() { vec![value.clone()] } else { value.as_array().cloned().unwrap_or_default() };
            let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let shown = || {
                // One key alone stands with its section.
                let is_alone = !says_key && keys.len() == 1;
                let each = keys.iter().zip(&values).map(|(key, value)| {
                    let short = key.rsplit('.').next().filter(|_| !is_alone).unwrap_or(key);
                    format!("{short}={}", plain(value))
                });
                each.collect::<Vec<_>>().join(" ")
            };
            let name = self.names.get(place).cloned().unwrap_or_else(shown);
            let name = if base.name == BASE { name } else { format!("{} {name}", base.name) };
            let changes =
                base.changes.iter().cloned().chain(keys.iter().map(|key| (*key).to_owned()).zip(values.clone()));
            let number = match values.as_slice() {
                [one] if !says_key && self.names.is_empty() => {
                    one.as_float().or(one.as_integer().map(|number| number as f64))
                }
                _ => None,
            };
            Setting { name, changes: changes.collect(), number, against: 0 }
        });
        made.collect()
    }
}

/// Keys of a table with their full names, whether it is written with dots, quotes or sections.
fn leaves(section: &str, table: &Table) -> Vec<(String, Value)> {
    let full = |name: &str| if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    let found = table.iter().flat_map(|(name, value)| match value {
        Value::Table(inner) => leaves(&full(name), inner),
        value => vec![(full(name), value.clone())],
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Plan, SweepError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s.toml");
        std::fs::write(&path, text).expect("written");
        Plan::read(&path)
    }

    fn names(text: &str) -> Vec<String> {
        plan(text).expect("a plan").settings().into_iter().map(|setting| setting.name).collect()
    }

    const TWO: &str = "config = 'c.toml'\nset.train.steps = 3\n[[vary]]\nkey = 'cmd.alpha'\nvalues = [0.0, 0.5]\n\
                       [[vary]]\nkeys = ['cmd.pairing', 'noise.ratio']\nvalues = [['all', 0.3], ['paired', 0.6]]\nnames = ['A', 'B']\n";

    #[test]
    fn settings_are_the_product_or_one_at_a_time() {
        assert_eq!(names(TWO), ["alpha=0.0 A", "alpha=0.0 B", "alpha=0.5 A", "alpha=0.5 B"]);
        let single = TWO.replacen("config", "combine = 'one_at_a_time'\nconfig", 1);
        assert_eq!(names(&single), ["as configured", "alpha=0.0", "alpha=0.5", "A", "B"]);
        let settings = plan(TWO).expect("a plan").settings();
        assert_eq!(settings.iter().map(|setting| setting.against).collect::<Vec<_>>(), [0, 0, 2, 2]);
        let keys: Vec<&str> = settings[3].changes.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["train.steps", "cmd.alpha", "cmd.pairing", "noise.ratio"]);
    }

    #[test]
    fn one_number_has_an_axis() {
        let settings = plan("config = 'c.toml'\n[[vary]]\nkey = 'train.images'\nvalues = [150, 600]\n")
            .expect("a plan")
            .settings();
        assert_eq!(settings.iter().map(|setting| setting.number).collect::<Vec<_>>(), [Some(150.0), Some(600.0)]);
        assert_eq!(settings[0].name, "train.images=150");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("seeds = [1]", "missing field `config`"),
            ("config = 'c'\nseeds = []", "seeds: must be at least one"),
            ("config = 'c'\n[[vary]]\nvalues = [1]", "number 1: name either key"),
            ("config = 'c'\n[[vary]]\nkeys = ['a.b', 'c.d']\nvalues = [[1]]", "must be a list of 2 values"),
            ("config = 'c'\n[[vary]]\nkey = 'a.b'\nvalues = [1]\nnames = ['x', 'y']", "2 names for 1 values"),
            ("config = 'c'\nseed = [1]", "unknown field `seed`"),
        ] {
            let error = plan(text).expect_err("an error").to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
