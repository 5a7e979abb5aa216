//! What may be opened, and decoders of other crates on broken files.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Opens a regular file: a FIFO or a device would be waited for without end.
pub(super) fn open_regular(path: &Path) -> Result<File, String> {
    let kind = std::fs::metadata(path).map_err(|error| error.to_string())?.file_type();
    if !kind.is_file() {
        return Err(if kind.is_dir() { "a folder" } else { "neither a regular file nor a link to one" }.to_owned());
    }
    File::open(path).map_err(|error| error.to_string())
}

/// The result of `decode`; a decoder that panics, or libjpeg, which leaves on errors by unwinding, is an error of the file.
pub(super) fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|unwound| {
        let text = unwound.downcast_ref::<String>().map(String::as_str).or_else(|| unwound.downcast_ref().copied());
        let text = text.unwrap_or("the decoder failed");
        Err(text.lines().next().unwrap_or(text).to_owned())
    })
}
