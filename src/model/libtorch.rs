//! libtorch where tch ends: its errors, which tch turns into panics, as errors of their own, and what tch has no name for (`libtorch.cpp`).

use std::any::Any;
use std::ffi::{CStr, c_char, c_void};
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
    fn cmd_adam(
        values: *mut c_void,
        gradient: *mut c_void,
        exp_avg: *mut c_void,
        exp_avg_sq: *mut c_void,
        step: i64,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        scale: f64,
    ) -> *mut c_char;
    fn cmd_libtorch_version() -> *const c_char;
    fn cmd_free(text: *mut c_char);
}

/// The version of libtorch, for instance 2.13.0.
#[must_use]
pub fn libtorch_version() -> String {
    // SAFETY: it is a text of the program's own.
    unsafe { CStr::from_ptr(cmd_libtorch_version()) }.to_string_lossy().into_owned()
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

/// What an update of Adam depends on beside its four tensors.
#[derive(Clone, Copy, Debug)]
pub struct AdamUpdate {
    /// Number of the update, from 1.
    pub step: u64,
    /// Learning rate.
    pub lr: f64,
    /// Decay of the two moments.
    pub betas: [f64; 2],
    /// Added to the gradient as `weight_decay` · value.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Multiplies the gradient.
    pub scale: f64,
}

impl AdamUpdate {
    /// Makes the update in one pass; all four f32 `[P]`. What is left in `gradient` is not defined.
    ///
    /// # Errors
    /// When libtorch cannot; part of the values may have changed then.
    pub fn make(
        self,
        values: &mut Tensor,
        gradient: &mut Tensor,
        exp_avg: &mut Tensor,
        exp_avg_sq: &mut Tensor,
    ) -> Result<(), LibtorchError> {
        let Self { step, lr, betas: [beta1, beta2], weight_decay, eps, scale } = self;
        let [values, gradient, exp_avg, exp_avg_sq] =
            [values, gradient, exp_avg, exp_avg_sq].map(|tensor| tensor.as_mut_ptr().cast());
        // SAFETY: tch tensors are `at::Tensor*`, and the text is its own until it is given back.
        let failed = unsafe {
            let why = cmd_adam(
                values,
                gradient,
                exp_avg,
                exp_avg_sq,
                step as i64,
                lr,
                beta1,
                beta2,
                weight_decay,
                eps,
                scale,
            );
            let text = (!why.is_null()).then(|| CStr::from_ptr(why).to_string_lossy().into_owned());
            cmd_free(why);
            text
        };
        failed.map_or(Ok(()), |why| Err(LibtorchError::new(&why)))
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
