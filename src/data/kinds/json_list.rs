//! Long JSON lists, element by element: `{"name": [element, ...], ...}`, or the bare list.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::index_text::IndexText;
use crate::data::DataError;

/// Calls `visit` with every element of the list `name` in `text`, without keeping them. `form` says how the file should look.
pub(super) fn for_each<'t, T: Deserialize<'t>>(
    text: &'t IndexText,
    name: &str,
    form: &str,
    visit: impl FnMut(T) -> Result<(), String>,
) -> Result<(), DataError> {
    let mut json = serde_json::Deserializer::from_str(text.as_str());
    let list = List { name, visit, element: PhantomData };
    let read = json.deserialize_any(list).and_then(|()| json.end());
    read.map_err(|error| {
        // The place is given as the line of the file.
        let why = error.to_string();
        let why = why.split(" at line ").next().unwrap_or(&why);
        text.error(error.line(), format!("{why}; the file is {form}"))
    })
}

struct List<'n, T, F> {
    name: &'n str,
    visit: F,
    element: PhantomData<T>,
}

impl<'t, T: Deserialize<'t>, F: FnMut(T) -> Result<(), String>> Visitor<'t> for List<'_, T, F> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "an object with the list {:?}", self.name)
    }

    fn visit_map<A: MapAccess<'t>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.name {
                map.next_value_seed(Elements(&mut self))?;
                found = true;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if found { Ok(()) } else { Err(A::Error::custom(format!("no list {:?}", self.name))) }
    }

    fn visit_seq<A: SeqAccess<'t>>(mut self, seq: A) -> Result<(), A::Error> {
        Elements(&mut self).visit_seq(seq)
    }
}

struct Elements<'l, 'n, T, F>(&'l mut List<'n, T, F>);

impl<'t, T: Deserialize<'t>, F: FnMut(T) -> Result<(), String>> DeserializeSeed<'t> for Elements<'_, '_, T, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'t, T: Deserialize<'t>, F: FnMut(T) -> Result<(), String>> Visitor<'t> for Elements<'_, '_, T, F> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "the list {:?}", self.0.name)
    }

    fn visit_seq<A: SeqAccess<'t>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(element) = seq.next_element()? {
            (self.0.visit)(element).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}
