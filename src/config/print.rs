//! The effective configuration as commented TOML.

use std::fmt::Write;

use toml::Value;

use super::Config;
use super::keys::KEYS;

/// The value at a dotted key.
pub(super) fn lookup<'a>(table: &'a toml::Table, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let first = table.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

impl Config {
    /// TOML with every key, its value and its description; reading it back gives the same configuration.
    #[must_use]
    pub fn to_commented_toml(&self) -> String {
        let values = toml::Table::try_from(self).unwrap_or_default();
        let (mut text, mut section) = (String::new(), "");
        for key in KEYS {
            let (of, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
            if of != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}[{of}]");
                section = of;
            }
            let _ = writeln!(text, "# {}", key.about);
            let _ = match (lookup(&values, key.name), key.example) {
                (Some(value), _) => writeln!(text, "{name} = {value}"),
                (None, example) => writeln!(text, "# {name} = {}", example.unwrap_or("...")),
            };
        }
        text
    }
}
