//! Forms of data sets: each reads an index into a `Dataset`.

pub(super) mod flickr8k;
mod json_list;
pub(super) mod manifest;
mod spelling;
pub(super) mod spokencoco;
mod text;

pub use manifest::write_manifest;
