//! The effective configuration as commented TOML.

use std::fmt::Write;

use toml::Value;

use super::{Config, SECTIONS};

/// The value at a dotted key.
pub(super) fn lookup<'a>(table: &'a toml::Table, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let first = table.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

impl Config {
    /// Its values by section.
    pub(super) fn table(&self) -> toml::Table {
        #[expect(clippy::expect_used, reason = "sections hold numbers, texts and paths of valid Unicode")]
        toml::Table::try_from(self).expect("a configuration that was read from TOML can be written as TOML")
    }

    /// TOML with every key, its value and its description; reading it back gives the same configuration.
    #[must_use]
    pub fn to_commented_toml(&self) -> String {
        let values = self.table();
        let mut text = String::new();
        for (number, (section, keys)) in SECTIONS.into_iter().enumerate() {
            let gap = if number == 0 { "" } else { "\n" };
            let _ = writeln!(text, "{gap}[{section}]");
            for key in keys {
                let _ = writeln!(text, "#{}", key.about);
                let _ = match (lookup(&values, &format!("{section}.{}", key.name)), key.example()) {
                    (Some(value), _) => writeln!(text, "{} = {value}", key.name),
                    (None, example) => writeln!(text, "# {} = {}", key.name, example.unwrap_or("...")),
                };
            }
        }
        text
    }
}
