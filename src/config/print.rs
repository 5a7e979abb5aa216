//! The effective configuration as commented TOML.

use std::fmt::Write;

use toml::Value;

use super::{Config, SECTIONS, Sources};

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
        self.to_toml_with(&Sources::default())
    }

    /// As [`Self::to_commented_toml`]; behind each value that is no default stands where it comes from.
    #[must_use]
    pub fn to_toml_with(&self, sources: &Sources) -> String {
        let values = self.table();
        let mut text = String::new();
        for (number, (section, keys)) in SECTIONS.into_iter().enumerate() {
            let gap = if number == 0 { "" } else { "\n" };
            let _ = writeln!(text, "{gap}[{section}]");
            for key in keys {
                let _ = writeln!(text, "#{}", key.about);
                let name = format!("{section}.{}", key.name);
                let source = sources.of(&name).map_or(String::new(), |place| format!(" # {}", place.escape_debug()));
                let _ = match (lookup(&values, &name), key.example()) {
                    (Some(value), _) => writeln!(text, "{} = {value}{source}", key.name),
                    (None, example) => writeln!(text, "# {} = {}", key.name, example.unwrap_or("...")),
                };
            }
        }
        text
    }
}
