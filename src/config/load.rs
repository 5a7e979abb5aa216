//! From a file and overrides to a checked [`Config`].

use std::path::{Path, PathBuf};

use toml::Value;

use super::layers::Layers;
use super::print::lookup;
use super::{Config, Override, Sources, keys};
use crate::data::DataKind;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}: name a configuration file (--config, --data); configs/ holds the shipped ones", path.display())]
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

impl Config {
    /// Reads `path` and what that extends, applies `overrides` in their order and checks the result.
    ///
    /// # Errors
    /// When the file cannot be read or is not TOML, for an unknown key, a wrong type, or a value out of range.
    pub fn load(path: &Path, overrides: &[Override], needs: Needs) -> Result<Self, ConfigError> {
        Self::load_with_sources(path, overrides, needs).map(|(config, _)| config)
    }

    /// As [`Self::load`], for the text of the file `path`.
    ///
    /// # Errors
    /// As there.
    pub fn from_text(text: &str, path: &Path, overrides: &[Override], needs: Needs) -> Result<Self, ConfigError> {
        Self::from_layers(Layers::read(text, path)?, path, overrides, needs).map(|(config, _)| config)
    }

    /// As [`Self::load`], with where each value comes from.
    ///
    /// # Errors
    /// As there.
    pub fn load_with_sources(
        path: &Path,
        overrides: &[Override],
        needs: Needs,
    ) -> Result<(Self, Sources), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::from_layers(Layers::read(&text, path)?, path, overrides, needs)
    }

    fn from_layers(
        mut layers: Layers,
        path: &Path,
        overrides: &[Override],
        needs: Needs,
    ) -> Result<(Self, Sources), ConfigError> {
        overrides.iter().for_each(|change| layers.change(change));
        let (table, sources) = layers.into_parts();
        let refused = |key: String, why: String| {
            // train.mix[0].weight is of train.mix.
            let whole = key.split('[').next().unwrap_or(&key);
            let place = sources.of(whole).map_or_else(|| path.display().to_string(), str::to_owned);
            ConfigError::Value { place, key, why }
        };
        let config: Self = serde_path_to_error::deserialize(Value::Table(table))
            .map_err(|error| refused(error.path().to_string(), error.inner().message().replace('\n', ", ")))?;
        config.check().map_err(|(key, why)| refused(key, why))?;
        config.check_required(needs).map_err(|(key, why)| refused(key.to_owned(), why))?;
        Ok((config, sources))
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
