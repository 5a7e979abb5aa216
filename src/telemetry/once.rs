//! Warnings about files that are read again and again.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, PoisonError};

static SAID: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

/// Warns, unless the same was said before.
pub fn warn_once(message: String) {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if !said.contains(&message) {
        tracing::warn!("{message}");
        said.insert(message);
    }
}
