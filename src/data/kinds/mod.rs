//! Forms of data sets: each reads an index into a `Dataset`.

mod flickr8k;
mod index_text;
mod json_list;
mod manifest;
mod spelling;
mod spokencoco;

use std::path::Path;

pub use index_text::{IndexText, read_text};
pub use manifest::write_manifest;

use super::{DataConfig, DataError, DataKind, Dataset};

impl Dataset {
    /// Reads the index of a data set.
    ///
    /// # Errors
    /// When it cannot be read or is not of its kind.
    pub fn load(config: &DataConfig) -> Result<Self, DataError> {
        let folders = [("data.root", "data set", &config.root), ("data.images", "images", &config.images)];
        for (key, what, folder) in folders {
            if let Some(path) = folder.as_ref().filter(|folder| !folder.is_dir()) {
                let why = format!("no such folder: {key} must name the folder of the {what}");
                return Err(DataError::Unreadable { path: path.clone(), why });
            }
        }
        let path = config.path.clone().unwrap_or_default();
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        let root = config.root.clone().unwrap_or(folder);
        let mut dataset = match config.kind {
            DataKind::Manifest => manifest::read(&path, &root),
            DataKind::Flickr8k => flickr8k::read(&root, config.images.as_deref()),
            DataKind::SpokenCoco => spokencoco::read(&root, config.images.as_deref(), config.karpathy.as_deref()),
        }?;
        let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        dataset.name = match (&config.name, config.kind) {
            (Some(name), _) => name.clone(),
            (None, DataKind::Manifest) => folder.unwrap_or_else(|| "data".to_owned()),
            (None, DataKind::Flickr8k) => "flickr8k".to_owned(),
            (None, DataKind::SpokenCoco) => "spokencoco".to_owned(),
        };
        if !dataset.left_out.is_empty() {
            let (count, first) = (dataset.left_out.len(), &dataset.left_out[0]);
            tracing::warn!("{}: {count} entries of the index left out; the first: {first}", dataset.name);
        }
        Ok(dataset)
    }
}
