//! What queries found in an index, as a page.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};

use super::page::whole;
use crate::data::{Medium, PictureForm};
use crate::search::Hit;

/// Pixels of a picture's side.
const SIDE: u32 = 192;

/// Characters of a query in words that are shown.
const SHOWN: usize = 100;

/// What asks.
#[derive(Clone, Copy, Debug)]
pub enum Query<'a> {
    /// A file and what it holds.
    File(&'a Path, Medium),
    /// Words.
    Words(&'a str),
}

impl Query<'_> {
    /// The medium that asks for the same.
    #[must_use]
    pub fn asks_as(&self) -> Medium {
        match self {
            Self::File(_, medium) => *medium,
            Self::Words(_) => Medium::Speech,
        }
    }
}

impl std::fmt::Display for Query<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::File(path, _) => write!(out, "{}", path.display()),
            Self::Words(words) => {
                let seen: String = words.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
                match seen.char_indices().nth(SHOWN) {
                    Some((end, _)) => write!(out, "“{}…”", &seen[..end]),
                    None => write!(out, "“{seen}”"),
                }
            }
        }
    }
}

/// A query and what it found.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What asked.
    pub query: Query<'a>,
    /// The nearest first.
    pub hits: &'a [Hit<'a>],
}

/// A page with the pictures of `asked`, which loads nothing.
#[must_use]
pub fn found_page(asked: &[Asked], max_megapixels: i64) -> String {
    let form = PictureForm::new(SIDE, max_megapixels);
    let content = html! {
        @for Asked { query, hits } in asked {
            section {
                h2 { @match query { Query::File(path, _) => { (name(path)) }, Query::Words(words) => { "“" (words) "”" } } }
                @if let Query::File(path, Medium::Image) = query { figure.asked { (picture(path, form)) } }
                ol.hits { @for hit in *hits {
                    li {
                        @if hit.medium == Medium::Image { (picture(hit.file, form)) }
                        p { (name(hit.file)) span.size { (format!(" {:.3}", hit.score)) } }
                    }
                } }
            }
        }
    };
    whole("Found", "Nearest first, by the cosine of their embeddings", None, &content)
}

/// The name of a file, as it is shown.
pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The picture, or that it is gone.
fn picture(path: &Path, form: PictureForm) -> Markup {
    let jpeg = form.read(path).map_err(|error| error.why()).and_then(|picture| picture.to_jpeg());
    html! {
        @match jpeg {
            Ok(jpeg) => img width=(SIDE) height=(SIDE) alt=(name(path)) src={ "data:image/jpeg;base64," (STANDARD.encode(jpeg)) };,
            Err(why) => p.warning { (why) },
        }
    }
}
