//! From a file and overrides to a checked [`Config`].

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use toml::{Table, Value};

use super::print::lookup;
use super::{Config, SECTIONS, keys};
use crate::data::DataKind;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}: name a configuration file with --config (the shipped ones are in configs/)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("{}:{line}: not TOML: {why}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Line of the mistake.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// No such key.
    #[error("{place}: unknown key {key}{}", nearest.as_ref().map_or(String::new(), |near| format!("; did you mean {near}?")))]
    UnknownKey {
        /// File or flag.
        place: String,
        /// The key.
        key: String,
        /// The known key most like it.
        nearest: Option<String>,
    },
    /// A value of the wrong type or out of range.
    #[error("{place}: {key}: {why}")]
    Value {
        /// File or flag.
        place: String,
        /// The key.
        key: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// `--set` without `=`.
    #[error("--set {0}: write it as section.key=value, for instance --set train.steps=100")]
    Override(String),
}

/// Which of the keys without a default a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Those of the data set.
    Data,
    /// Those of the data set and of the encoders.
    Encoders,
}

/// `section.key=value` from the command line. The value is TOML, or else a string; a relative path starts from the current
/// folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    key: String,
    value: Value,
}

impl FromStr for Override {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (key, value) = text.split_once('=').ok_or_else(|| ConfigError::Override(text.to_owned()))?;
        let (key, value) = (key.trim(), value.trim());
        let parsed = format!("value = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
        let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
        Self::new(key, value, &format!("--set {text}"), Path::new("."))
    }
}

impl Override {
    /// `value` for `key`, as `place` says; relative paths start from `folder`.
    ///
    /// # Errors
    /// When there is no such key.
    pub fn new(key: &str, mut value: Value, place: &str, folder: &Path) -> Result<Self, ConfigError> {
        let Some((key, known)) = keys().find(|(name, _)| *name == key) else {
            return Err(unknown(place.to_owned(), key.to_owned()));
        };
        match known.for_each_path(&mut value, |path| absolute(path, folder)) {
            Ok(()) => Ok(Self { key, value }),
            Err(why) => Err(ConfigError::Value { place: place.to_owned(), key, why }),
        }
    }

    /// The path `value` for `key`.
    ///
    /// # Errors
    /// When there is no such key, or the path is no valid Unicode.
    pub fn path(key: &str, value: &Path) -> Result<Self, ConfigError> {
        let place = "the command line";
        let text = value.to_str().ok_or_else(|| ConfigError::Value {
            place: place.to_owned(),
            key: key.to_owned(),
            why: format!("{} is not valid Unicode; move it", value.display()),
        })?;
        Self::new(key, Value::String(text.to_owned()), place, Path::new("."))
    }

    /// The number, not below 0, that `key` is overridden with, if it is.
    #[must_use]
    pub fn whole(&self, key: &str) -> Option<i64> {
        self.value.as_integer().filter(|number| self.key == key && *number >= 0)
    }

    /// The key that is overridden.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl Config {
    /// Reads `path`, applies `overrides` in their order and checks the result.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML, for an unknown key, a wrong type, or a value out of range.
    pub fn load(path: &Path, overrides: &[Override], needs: Needs) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::from_text(&text, path, overrides, needs)
    }

    /// As [`Self::load`], for the text of the file `path`.
    ///
    /// # Errors
    /// As there.
    pub fn from_text(text: &str, path: &Path, overrides: &[Override], needs: Needs) -> Result<Self, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::NotToml {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
            why: error.message().replace('\n', ", "),
        })?;
        let place = path.display().to_string();
        check_keys(&table, "", &place)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for (name, key) in keys() {
            if let Some(value) = lookup_mut(&mut table, &name) {
                key.for_each_path(value, |path| absolute(path, folder)).map_err(|why| ConfigError::Value {
                    place: place.clone(),
                    key: name,
                    why,
                })?;
            }
        }
        for change in overrides {
            insert(&mut table, &change.key, change.value.clone());
        }
        let refused = |key: String, why: String| {
            let is_set = overrides.iter().any(|change| change.key == key);
            ConfigError::Value { place: if is_set { "--set".to_owned() } else { place.clone() }, key, why }
        };
        let config: Self = serde_path_to_error::deserialize(Value::Table(table))
            .map_err(|error| refused(error.path().to_string(), error.inner().message().replace('\n', ", ")))?;
        config.check().map_err(|(key, why)| refused(key, why))?;
        config.check_required(needs).map_err(|(key, why)| refused(key.to_owned(), why))?;
        Ok(config)
    }

    /// Ranges of the values: the key and what is wrong with it.
    fn check(&self) -> Result<(), (String, String)> {
        let values = self.table();
        keys().try_for_each(|(name, key)| {
            let checked = lookup(&values, &name).map_or(Ok(()), |value| key.range.check(value));
            checked.map_err(|why| (name, why))
        })
    }

    fn check_required(&self, needs: Needs) -> Result<(), (&'static str, String)> {
        match self.data.kind {
            DataKind::Manifest => required("data.path", self.data.path.as_ref(), "the manifest")?,
            DataKind::Flickr8k | DataKind::SpokenCoco => {
                required("data.root", self.data.root.as_ref(), "the folder of the data set")?;
            }
        }
        if needs == Needs::Data {
            return Ok(());
        }
        required(
            "encoders.speech.path",
            self.encoders.speech.path.as_ref(),
            "the frozen speech encoder's TorchScript file",
        )?;
        required(
            "encoders.image.path",
            self.encoders.image.path.as_ref(),
            "the frozen image encoder's TorchScript file",
        )
    }
}

fn required(key: &'static str, path: Option<&PathBuf>, what: &str) -> Result<(), (&'static str, String)> {
    if path.is_some() {
        Ok(())
    } else {
        Err((key, format!("is required: {what} (in the file or with --set {key}=...)")))
    }
}

/// Every leaf of `table` must be a known key.
fn check_keys(table: &Table, section: &str, place: &str) -> Result<(), ConfigError> {
    for (name, value) in table {
        let key = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        let is_section = SECTIONS.iter().any(|(known, _)| *known == key || known.starts_with(&format!("{key}.")));
        match value {
            Value::Table(inner) if is_section => check_keys(inner, &key, place)?,
            _ if is_section => {
                let why = "is a section, so its keys go below it".to_owned();
                return Err(ConfigError::Value { place: place.to_owned(), key, why });
            }
            _ if keys().any(|(known, _)| known == key) => {}
            _ => return Err(unknown(place.to_owned(), key)),
        }
    }
    Ok(())
}

fn unknown(place: String, key: String) -> ConfigError {
    // A section that stands alone is compared with sections.
    let sections = SECTIONS.iter().map(|(section, _)| (*section).to_owned());
    let candidates = keys().map(|(name, _)| name).chain(sections);
    let nearest = candidates
        .map(|known| (strsim::damerau_levenshtein(&known, &key), known))
        .min()
        .filter(|(distance, _)| *distance <= key.len().div_ceil(2))
        .map(|(_, known)| known);
    ConfigError::UnknownKey { place, key, nearest }
}

fn lookup_mut<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    lookup(table, key)?;
    let mut parts = key.split('.');
    let first = table.get_mut(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get_mut(part))
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// Makes a relative path start from `folder`.
fn absolute(value: &mut Value, folder: &Path) -> Result<(), String> {
    if let Value::String(path) = value
        && let Ok(full) = std::path::absolute(folder.join(&*path))
    {
        let full = without_dots(full);
        let text = full.to_str().ok_or_else(|| {
            format!("leads to {}, whose name is not valid Unicode; move it, or name an absolute path", full.display())
        })?;
        text.clone_into(path);
    }
    Ok(())
}

/// `path` without `..`, unless a link on the way makes that another file.
fn without_dots(path: PathBuf) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    let is_same = path.canonicalize().ok() == plain.canonicalize().ok();
    if is_same { plain } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: &str = "[data]\npath = 'm.jsonl'\n[encoders]\nspeech.path = 's.pt'\nimage.path = 'i.pt'\n";

    fn load(text: &str, overrides: &[&str]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).expect("written");
        let overrides: Result<Vec<Override>, ConfigError> = overrides.iter().map(|text| text.parse()).collect();
        Config::load(&path, &overrides?, Needs::Encoders)
    }

    fn message(result: Result<Config, ConfigError>) -> String {
        result.expect_err("an error").to_string()
    }

    #[test]
    fn printed_configuration_reads_back_the_same() {
        let config = load(REQUIRED, &["train.steps=7", "data.on_error=skip", "cmd.alpha=1"]).expect("a configuration");
        assert_eq!(load(&config.to_commented_toml(), &[]).expect("the printed form"), config);
    }

    #[test]
    fn keys_are_all_described_and_no_other() {
        fn leaves(value: &Value, name: &str, found: &mut Vec<String>) {
            match value {
                Value::Table(table) => {
                    table.iter().for_each(|(key, value)| leaves(value, &format!("{name}.{key}"), found));
                }
                _ => found.push(name[1..].to_owned()),
            }
        }
        let mut found = Vec::new();
        leaves(&Value::try_from(Config::default()).expect("TOML"), "", &mut found);
        found.extend(keys().filter(|(_, key)| key.example().is_some()).map(|(name, _)| name));
        found.sort();
        let mut described: Vec<String> = keys().map(|(name, _)| name).collect();
        described.sort();
        assert_eq!(found, described);
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let text = format!("{REQUIRED}[train]\nbatchsize = 3\n");
        assert!(message(load(&text, &[])).ends_with("unknown key train.batchsize; did you mean train.batch_size?"));
        assert!(message(load(REQUIRED, &["optim.rl=3"])).contains("did you mean optim.lr?"));
        assert!(message(load(&format!("{REQUIRED}[trian]\nsteps = 3\n"), &[])).contains("did you mean train?"));
    }

    #[test]
    fn values_are_checked() {
        assert!(
            message(load(REQUIRED, &["train.batch_size=-4"]))
                .contains("train.batch_size: is -4, but must be from 1 to 1048576")
        );
        assert!(message(load(REQUIRED, &["train.steps=many"])).contains("train.steps: invalid type: string \"many\""));
        assert!(message(load(REQUIRED, &["cmd.pairing=some"])).contains("unknown variant `some`"));
        assert!(message(load(&format!("{REQUIRED}[log\n"), &[])).contains("c.toml:6: not TOML"));
        assert!(message(load("", &[])).contains("data.path: is required"));
        assert!(message(load(&format!("{REQUIRED}[log]\nevery = {{a = 1}}\n"), &[])).contains("log.every"));
        assert!(message(load("train = 3\n", &[])).contains("train: is a section"));
    }

    #[test]
    fn relative_paths_start_from_the_file() {
        let config = load(REQUIRED, &["encoders.image.path=here.pt"]).expect("a configuration");
        assert!(config.data.path.is_some_and(|path| path.is_absolute() && path.ends_with("m.jsonl")));
        let here = std::env::current_dir().expect("a folder").join("here.pt");
        assert_eq!(config.encoders.image.path, Some(here));
    }
}
