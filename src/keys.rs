//! Keys of the configuration. Each area declares its own section with [`section!`](crate::section): of every key the default, the
//! range, the text and what a resumed run may do with it stand in one place.

use toml::Value;

/// What a change of a key means to a run that goes on, or that works on several machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Says where something lies or how it is read on this machine; changes no result and may differ between machines.
    Here,
    /// Changes no result; must be the same on all machines.
    Free,
    /// The run goes on, but not to the bit as it would have.
    Inexact,
    /// Decides what is trained: another value is another run.
    Fixed,
}

/// Values that a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// Any of its type.
    Any,
    /// Unset unless it is given, as in this example.
    Unset(&'static str),
    /// A path, unset unless it is given, as in this example; relative ones start from the file of the configuration.
    Path(&'static str),
    /// A list of tables, each with `config`, the path of a configuration, and perhaps a `weight` up to 1000.
    Configs,
    /// Whole numbers.
    Whole {
        /// The smallest.
        least: i64,
        /// The largest.
        most: i64,
    },
    /// From 0 to below 1.
    Rate,
    /// From 0 to 1.
    Share,
    /// From `least` to `most`.
    Within {
        /// The smallest.
        least: f64,
        /// The largest.
        most: f64,
    },
    /// Finite and above 0.
    AboveZero,
    /// Finite and at least 0.
    NotNegative,
}

impl Range {
    /// What is wrong with `value`, or with an element of it.
    ///
    /// # Errors
    /// See above.
    pub fn check(self, value: &Value) -> Result<(), String> {
        let wrong = |must: String| Err(format!("is {value}, but must be {must}"));
        match (self, value) {
            (Self::Configs, Value::Table(entry)) => {
                let is_right =
                    |weight: &Value| weight.as_float().is_some_and(|weight| weight > 0.0 && weight <= 1000.0);
                match entry.get("weight").filter(|weight| !is_right(weight)) {
                    Some(weight) => Err(format!("the weight is {weight}, but must be above 0 and at most 1000")),
                    None => Ok(()),
                }
            }
            (_, Value::Array(elements)) => elements.iter().try_for_each(|element| self.check(element)),
            (Self::Whole { least, most }, Value::Integer(number)) if !(least..=most).contains(number) => {
                wrong(if most == i64::MAX { format!("at least {least}") } else { format!("from {least} to {most}") })
            }
            (Self::Rate, Value::Float(number)) if !(0.0..1.0).contains(number) => {
                wrong("at least 0 and below 1".to_owned())
            }
            (Self::Share, Value::Float(number)) if !(0.0..=1.0).contains(number) => wrong("from 0 to 1".to_owned()),
            (Self::AboveZero, Value::Float(number)) if !(*number > 0.0 && number.is_finite()) => {
                wrong("above 0 and finite".to_owned())
            }
            (Self::Within { least, most }, Value::Float(number)) if !(least..=most).contains(number) => {
                wrong(format!("from {least} to {most}"))
            }
            (Self::NotNegative, Value::Float(number)) if !(*number >= 0.0 && number.is_finite()) => {
                wrong("at least 0 and finite".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Whole numbers from `least` on.
#[must_use]
pub const fn at_least(least: i64) -> Range {
    Range::Whole { least, most: i64::MAX }
}

/// Whole numbers from `least` to `most`.
#[must_use]
pub const fn between(least: i64, most: i64) -> Range {
    Range::Whole { least, most }
}

/// A key of a section.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// Its name in the section.
    pub name: &'static str,
    /// What it does, for people.
    pub about: &'static str,
    /// Values that it takes.
    pub range: Range,
    /// What a change means.
    pub resume: Resume,
}

impl Key {
    /// Calls `change` with every path in `value`, a value of this key.
    ///
    /// # Errors
    /// When `change` fails.
    pub fn for_each_path<E>(
        &self,
        value: &mut Value,
        mut change: impl FnMut(&mut Value) -> Result<(), E>,
    ) -> Result<(), E> {
        match (self.range, value) {
            (Range::Path(_), value) => change(value),
            (Range::Configs, Value::Array(entries)) => {
                entries.iter_mut().filter_map(|entry| entry.get_mut("config")).try_for_each(change)
            }
            _ => Ok(()),
        }
    }

    /// A value to show where it is unset.
    #[must_use]
    pub fn example(&self) -> Option<&'static str> {
        if let Range::Unset(example) | Range::Path(example) = self.range { Some(example) } else { None }
    }
}

/// Declares a section: a struct with its defaults, and the table `KEYS`. A key is written as
/// `/// Text.` `Class, range => name: type = default;` with a class of [`Resume`] and a [`Range`].
#[macro_export]
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $section:ident {
            $($(#[doc = $about:literal])+ $resume:ident, $range:expr => $name:ident: $type:ty = $default:expr;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $section {
            $($(#[doc = $about])+ pub $name: $type,)*
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl $section {
            /// Its keys, in the order in which they are shown.
            pub const KEYS: &'static [$crate::Key] = &[
                $($crate::Key {
                    name: stringify!($name),
                    about: concat!($($about),+),
                    range: $range,
                    resume: $crate::Resume::$resume,
                },)*
            ];
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_that_their_names_say() {
        let refuses = |range: Range, value: Value| range.check(&value).is_err();
        assert!(refuses(at_least(1), Value::Integer(0)) && !refuses(at_least(1), Value::Integer(i64::MAX)));
        assert!(refuses(between(1, 4), Value::Integer(5)) && !refuses(between(1, 4), Value::Integer(4)));
        assert!(refuses(Range::Rate, Value::Float(1.0)) && !refuses(Range::Share, Value::Float(1.0)));
        assert!(refuses(Range::AboveZero, Value::Float(0.0)) && refuses(Range::NotNegative, Value::Float(f64::NAN)));
        let within = Range::Within { least: 0.5, most: 2.0 };
        assert!(refuses(within, Value::Float(0.4)) && refuses(within, Value::Float(f64::NAN)));
        assert!(!refuses(within, Value::Float(2.0)));
        assert!(refuses(Range::Rate, Value::Array(vec![Value::Float(0.5), Value::Float(-0.1)])));
    }
}
