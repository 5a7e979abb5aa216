//! Tensors on their way to a device.

use tch::{Device, Tensor};

use crate::model::pinned;

/// `tensor` on `device`. Nobody waits for a copy to CUDA, which is made from pinned memory.
pub fn to_device(tensor: &Tensor, device: Device) -> Tensor {
    let goes_up = device.is_cuda() && !tensor.device().is_cuda();
    let source = if goes_up { pinned(tensor) } else { tensor.shallow_clone() };
    source.to_device_(device, source.kind(), true, false)
}

/// Each of `parts` as a tensor on `device`, all by one copy.
pub fn send(parts: &[&[i64]], device: Device) -> Vec<Tensor> {
    let there = to_device(&Tensor::from_slice(&parts.concat()), device);
    let mut start = 0;
    let tensors = parts.iter().map(|part| {
        let count = part.len() as i64;
        start += count;
        there.narrow(0, start - count, count)
    });
    tensors.collect()
}
