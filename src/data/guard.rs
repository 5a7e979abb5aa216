//! Decoders of other crates on broken files.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The result of `decode`; a decoder that panics, or libjpeg, which leaves on errors by unwinding, is an error of the file.
pub(super) fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|unwound| {
        let text = unwound.downcast_ref::<String>().map(String::as_str).or_else(|| unwound.downcast_ref().copied());
        let text = text.unwrap_or("the decoder failed").trim_start_matches("libjpeg fatal error: ");
        Err(text.lines().next().unwrap_or(text).to_owned())
    })
}
