//! One key changed from outside a file.

use std::path::Path;
use std::str::FromStr;

use toml::{Table, Value};

use super::layers::{absolute, unknown};
use super::{ConfigError, keys};

/// `section.key=value` from the command line. The value is TOML, or else a string; a relative path starts from the current
/// folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    pub(super) key: String,
    pub(super) value: Value,
    /// Where it is said.
    pub(super) place: String,
}

impl FromStr for Override {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (key, value) = text.split_once('=').ok_or_else(|| ConfigError::Override(text.to_owned()))?;
        let (key, value) = (key.trim(), value.trim());
        let parsed = format!("value = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
        let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
        let change = Self::new(key, value, &format!("--set {text}"), Path::new("."))?;
        Ok(Self { place: "--set".to_owned(), ..change })
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
            Ok(()) => Ok(Self { key, value, place: place.to_owned() }),
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
