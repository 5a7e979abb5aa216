//! Configuration files and those that they extend, laid over each other, with where each value comes from.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use toml::{Table, Value};

use super::print::lookup;
use super::{ConfigError, Override, SECTIONS, keys};

/// Names the file whose values hold where a file has none.
const EXTENDS: &str = "extends";

/// Values, the later over the earlier.
#[derive(Debug, Default)]
pub(super) struct Layers {
    pub(super) table: Table,
    sources: Sources,
}

/// Where each value that is no default comes from: a file, or what is said on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(HashMap<String, String>);

impl Sources {
    /// Where the value of `key` comes from; nowhere, if it is the default.
    #[must_use]
    pub fn of(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

impl Layers {
    /// The text of the file `path` over what that extends.
    pub(super) fn read(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut layers = Self::default();
        layers.add(text, path, &mut Vec::new())?;
        Ok(layers)
    }

    /// `open` are the files that extend this one, directly or not.
    fn add(&mut self, text: &str, path: &Path, open: &mut Vec<PathBuf>) -> Result<(), ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::NotToml {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
            why: error.message().replace('\n', ", "),
        })?;
        let place = path.display().to_string();
        let folder = path.parent().unwrap_or(Path::new("."));
        if let Some(named) = table.remove(EXTENDS) {
            open.push(path.canonicalize().unwrap_or(path.to_owned()));
            self.extend(&named, folder, open).map_err(|error| match error {
                Extension::Refused(why) => ConfigError::Value { place: place.clone(), key: EXTENDS.to_owned(), why },
                Extension::Broken(error) => error,
            })?;
            open.pop();
        }
        check_keys(&table, "", &place)?;
        for (name, key) in keys() {
            let Some(value) = lookup_mut(&mut table, &name) else { continue };
            key.for_each_path(value, |path| absolute(path, folder)).map_err(|why| ConfigError::Value {
                place: place.clone(),
                key: name.clone(),
                why,
            })?;
            let value = value.clone();
            self.put(&name, value, &place);
        }
        Ok(())
    }

    fn extend(&mut self, named: &Value, folder: &Path, open: &mut Vec<PathBuf>) -> Result<(), Extension> {
        let refused = |why: String| Err(Extension::Refused(why));
        let Some(named) = named.as_str() else {
            return refused(format!("is {named}, but must be the name of a file, for instance \"flickr8k.toml\""));
        };
        let path = folder.join(named);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => return refused(format!("{}: {error}", path.display())),
        };
        if path.canonicalize().is_ok_and(|path| open.contains(&path)) {
            return refused(format!("{} extends this file itself", path.display()));
        }
        self.add(&text, &path, open).map_err(Extension::Broken)
    }

    /// Takes `change` as the last word on its key.
    pub(super) fn change(&mut self, change: &Override) {
        self.put(&change.key, change.value.clone(), &change.place);
    }

    fn put(&mut self, key: &str, value: Value, place: &str) {
        insert(&mut self.table, key, value);
        self.sources.0.insert(key.to_owned(), place.to_owned());
    }

    /// The values, and where they come from.
    pub(super) fn into_parts(self) -> (Table, Sources) {
        (self.table, self.sources)
    }
}

/// A file cannot be extended.
enum Extension {
    /// What `extends` says is wrong.
    Refused(String),
    /// The file that it names is.
    Broken(ConfigError),
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

pub(super) fn unknown(place: String, key: String) -> ConfigError {
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
pub(super) fn absolute(value: &mut Value, folder: &Path) -> Result<(), String> {
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
    use crate::config::{Config, Needs};

    /// Files of a folder, of which the first is loaded.
    fn load(files: &[(&str, &str)], overrides: &[&str]) -> Result<(Config, Sources), String> {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let changes: Vec<Override> = overrides.iter().map(|text| text.parse().expect("a change")).collect();
        Config::load_with_sources(&folder.path().join(files[0].0), &changes, Needs::Encoders)
            .map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    const BASE: (&str, &str) = (
        "base/b.toml",
        "[data]\npath = 'm.jsonl'\n[encoders]\nspeech.path = 's.pt'\nimage.path = 'i.pt'\n[train]\nsteps = 5\nseed = 2",
    );

    #[test]
    fn a_file_stands_over_the_one_that_it_extends_and_every_value_knows_its_place() {
        let middle = ("base/c.toml", "extends = 'b.toml'\n[train]\nsteps = 6");
        let own = ("own/a.toml", "extends = '../base/c.toml'\nencoders.image.path = 'i.pt'\ncmd.alpha = 0.25");
        let (config, sources) = load(&[own, middle, BASE], &["train.seed=9"]).expect("a configuration");
        assert_eq!((config.train.steps, config.train.seed, config.cmd.alpha), (6, 9, 0.25));
        let ends = |path: Option<PathBuf>, end: &str| path.is_some_and(|path| path.ends_with(end));
        assert!(ends(config.encoders.image.path, "own/i.pt") && ends(config.encoders.speech.path, "base/s.pt"));
        let of = |key: &str| sources.of(key).map(|place| place.rsplit('/').next().unwrap_or_default().to_owned());
        let places = ["train.seed", "train.steps", "data.path", "cmd.alpha", "optim.lr"].map(of);
        assert_eq!(
            places,
            [Some("--set"), Some("c.toml"), Some("b.toml"), Some("a.toml"), None].map(|x| x.map(str::to_owned))
        );
    }

    #[test]
    fn what_cannot_be_extended_is_named_with_its_file() {
        let refused = |files: &[(&str, &str)]| load(files, &[]).expect_err("refused");
        assert_eq!(
            refused(&[("a.toml", "extends = 'none.toml'")]),
            "a.toml: extends: none.toml: No such file or directory (os error 2)"
        );
        assert!(refused(&[("a.toml", "extends = 3")]).starts_with("a.toml: extends: is 3, but must be"));
        let cycle = refused(&[("a.toml", "extends = 'b.toml'"), ("b.toml", "extends = 'a.toml'")]);
        assert_eq!(cycle, "b.toml: extends: a.toml extends this file itself");
        assert!(refused(&[("a.toml", "extends = 'b.toml'"), ("b.toml", "[data\n")]).starts_with("b.toml:1: not TOML"));
        assert!(
            refused(&[("a.toml", "extends = 'b.toml'"), ("b.toml", "[train]\nstep = 3")])
                .starts_with("b.toml: unknown key")
        );
        let wrong = refused(&[("a.toml", "extends = 'base/b.toml'\n[train]\nlr = 3\n"), BASE]);
        assert!(wrong.starts_with("a.toml: unknown key train.lr"), "{wrong}");
        let wrong = refused(&[("a.toml", "extends = 'b.toml'"), ("b.toml", "[train]\nsteps = 0")]);
        assert!(wrong.starts_with("b.toml: train.steps: is 0"), "{wrong}");
    }
}
