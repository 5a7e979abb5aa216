//! What this machine has: room on disks, memory, cores.

use std::path::Path;

/// Bytes that can still be written below `path`, where the system tells.
#[must_use]
pub fn free_disk(path: &Path) -> Option<u64> {
    let system = rustix::fs::statvfs(existing(path)).ok()?;
    Some(system.f_bavail.saturating_mul(system.f_frsize))
}

/// What is there of `path`, from the end on.
#[must_use]
pub fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."))
}

/// Bytes of memory that are free, where the system tells.
#[must_use]
pub fn free_memory() -> Option<u64> {
    bytes_of("/proc/meminfo", "MemAvailable:")
}

/// Bytes of memory in all, where the system tells.
#[must_use]
pub fn whole_memory() -> Option<u64> {
    bytes_of("/proc/meminfo", "MemTotal:")
}

/// Features of the processor, by the kernel's names.
#[must_use]
pub fn processor_features() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = |line: &&str| line.starts_with("flags") || line.starts_with("Features");
    let line = text.lines().find(named).and_then(|line| line.split_once(':'));
    line.map_or(Vec::new(), |(_, features)| features.split_whitespace().map(str::to_owned).collect())
}

/// The largest memory of this process so far, where the system tells.
#[must_use]
pub fn peak_memory() -> Option<u64> {
    bytes_of("/proc/self/status", "VmHWM:")
}

/// Has mimalloc, from which all of this program has its memory on Linux and libtorch too, keep what is freed for a minute. libtorch takes the
/// memory of every result anew; what goes back to the kernel at once comes again page by page, each of them zeroed, which is an eighth of a
/// forward at true sizes. What the environment says (`MIMALLOC_PURGE_DELAY`, in milliseconds) holds.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        /// `mi_option_purge_delay` of `mimalloc.h`, which the crate does not name.
        const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
        // SAFETY: it sets a number, at any time.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 60_000) };
    }
}

/// A line of one of the kernel's tables, which counts in kB.
fn bytes_of(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(1024 * line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?)
}
