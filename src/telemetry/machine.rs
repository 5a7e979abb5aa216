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

/// Has the C library keep what is freed. libtorch takes the memory of every result anew; what the library hands back to the kernel at once comes again
/// page by page, each of them zeroed, which is an eighth of a forward at true sizes. To be called before there are threads; what the environment
/// says of the library's memory holds.
pub fn keep_memory() {
    let is_told = |name: &str| std::env::var_os(name).is_some();
    if ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"].into_iter().any(is_told) {
        return;
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: nothing else runs yet.
    unsafe {
        // Older versions know a largest threshold, of 32 MiB; the second call without the first would make things worse.
        if [1 << 30, 32 << 20].into_iter().any(|size| libc::mallopt(libc::M_MMAP_THRESHOLD, size) == 1) {
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        }
    }
}

/// Gives memory that was freed back to the system. The C library keeps what large temporaries of several threads left between smaller ones
/// that stay.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A line of one of the kernel's tables, which counts in kB.
fn bytes_of(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(1024 * line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?)
}
