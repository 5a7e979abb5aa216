//! libtorch where tch ends: its errors, which tch turns into panics, as errors of their own, and what tch has no name for (`libtorch.cpp`).

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::{Device, Tensor};

/// libtorch could not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct LibtorchError {
    /// The line that says what is wrong, without the C++ backtrace and TorchScript source around it.
    pub why: String,
}

impl LibtorchError {
    /// The error in libtorch's `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = text.replace("\\n", "\n");
        let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
        // An error inside TorchScript ends with the real one: `RuntimeError: ...`.
        let inner = lines().rev().find(|line| line.contains("Error: "));
        let line = inner.or_else(|| lines().next()).unwrap_or("no reason given");
        let line = line.trim_start_matches("called `Result::unwrap()` on an `Err` value: ");
        Self { why: line.trim_start_matches("Torch(\"").trim_end_matches("\")").to_owned() }
    }

    /// The error that a panic carries.
    #[must_use]
    pub fn from_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Self::new(text.unwrap_or("no reason given"))
    }

    /// Whether memory ran out, of the device or of the machine.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        let why = self.why.to_lowercase();
        ["out of memory", "can't allocate memory", "not enough memory", "cuda_error_out_of_memory", "alloc_failed"]
            .iter()
            .any(|sign| why.contains(sign))
    }
}

/// The result of `work`; a panic of tch within it is an error.
///
/// # Errors
/// See above.
pub fn catch_libtorch<T>(work: impl FnOnce() -> T) -> Result<T, LibtorchError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| LibtorchError::from_panic(&*panic))
}

unsafe extern "C" {
    fn cmd_allow_tf32(allow: bool);
    fn cmd_pinned(tensor: *const c_void) -> *mut c_void;
}

/// The values of a tensor of whole numbers, on any device.
///
/// # Errors
/// When it is of another kind, or cannot be read.
pub fn numbers_of(tensor: &Tensor) -> Result<Vec<i64>, LibtorchError> {
    Vec::try_from(tensor.to_device(Device::Cpu).flatten(0, -1))
        .map_err(|error: tch::TchError| LibtorchError::new(&error.to_string()))
}

/// Whether CUDA multiplies matrices of 32-bit floats with 10 bits of mantissa from now on.
pub fn allow_tf32(allow: bool) {
    // SAFETY: it sets two flags.
    unsafe { cmd_allow_tf32(allow) }
}

/// `tensor` in pinned memory, from which CUDA copies while the host goes on; as it is where there is none.
pub fn pinned(tensor: &Tensor) -> Tensor {
    // SAFETY: a tch tensor is an `at::Tensor*`, and so is what comes back, which is this one's from now on.
    unsafe {
        let there = cmd_pinned(tensor.as_ptr().cast());
        if there.is_null() { tensor.shallow_clone() } else { Tensor::from_ptr(there.cast()) }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn a_panic_of_tch_is_an_error_of_one_line() {
        let vast = catch_libtorch(|| Tensor::zeros([1 << 44], (Kind::Double, Device::Cpu)));
        let error = vast.expect_err("no machine has that much");
        assert!(error.is_out_of_memory() && !error.why.contains("Exception raised"), "{error}");
        let shapes = catch_libtorch(|| Tensor::zeros([2], (Kind::Float, Device::Cpu)).view([3]));
        let error = shapes.expect_err("two values are no three");
        assert!(!error.is_out_of_memory() && error.why.contains("invalid for input of size 2"), "{error}");
    }

    #[test]
    fn cuda_says_it_in_its_own_words() {
        let text =
            "Torch(\"CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\\nException raised from malloc\")";
        let error = LibtorchError::new(text);
        assert_eq!(error.why, "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has");
        assert!(error.is_out_of_memory());
    }
}
