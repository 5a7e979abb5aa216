//! A folder of this process in memory, for parsers that read files.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The folder.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        tempfile::Builder::new().prefix("cmd-fuzz").tempdir_in(parent).expect("a folder").keep()
    })
}

/// Writes `bytes` into the file `name` of the folder.
pub fn put(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

/// `bytes` cut into `N` parts at lines of four dashes.
#[allow(dead_code, reason = "not every target reads several files")]
pub fn parts<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let mut rest = bytes;
    std::array::from_fn(|_| {
        let at = rest.windows(6).position(|window| window == b"\n----\n");
        let (part, after) = at.map_or((rest, &rest[rest.len()..]), |at| (&rest[..at], &rest[at + 6..]));
        rest = after;
        part
    })
}

/// Panics in decoders of other crates are caught by the program, so they end the run only when they reach the target.
#[allow(dead_code, reason = "not every target reads media")]
pub fn panics_may_be_caught() {
    std::panic::set_hook(Box::new(|_| {}));
}
