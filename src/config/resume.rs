//! What may change between the start of a run and its going on, and between its machines.

use super::print::lookup;
use super::{Config, Override, keys};
use crate::Resume;

impl Config {
    /// The keys of `class` and their values where they are not the defaults, one a line: keys that a later version adds change
    /// nothing.
    fn lines(&self, is_meant: impl Fn(Resume) -> bool) -> String {
        let (values, defaults) = (self.table(), Self::default().table());
        let mut text = String::new();
        for (name, _) in keys().filter(|(_, key)| is_meant(key.resume)) {
            let value = lookup(&values, &name);
            if value != lookup(&defaults, &name) {
                text += &format!("{name} = {}\n", value.map_or("unset".to_owned(), toml::Value::to_string));
            }
        }
        text
    }

    /// BLAKE3 of what must stay the same for a run to be the same run.
    #[must_use]
    pub fn fixed_hash(&self) -> String {
        blake3::hash(self.lines(|class| class == Resume::Fixed).as_bytes()).to_hex().to_string()
    }

    /// Names of the keys of `class` whose values differ in `other`.
    #[must_use]
    pub fn changed_keys(&self, other: &Self, class: Resume) -> Vec<String> {
        let (before, after) = (self.table(), other.table());
        let changed = keys().filter(|(name, key)| key.resume == class && lookup(&before, name) != lookup(&after, name));
        changed.map(|(name, _)| name).collect()
    }

    /// What must be the same in all processes of a run.
    #[must_use]
    pub fn shared_text(&self) -> String {
        self.lines(|class| class != Resume::Here)
    }
}

impl Override {
    /// What this change means to a run that goes on.
    #[must_use]
    pub fn resume(&self) -> Resume {
        let known = keys().find(|(name, _)| name == self.key());
        known.map_or(Resume::Fixed, |(_, key)| key.resume)
    }
}
