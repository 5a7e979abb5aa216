//! `--device auto|cpu|cuda|cuda:N`.

use tch::{Cuda, Device};

use crate::error::Error;

/// The device that `name` stands for.
pub(super) fn device(name: &str) -> Result<Device, Error> {
    let number = match name {
        "auto" => return Ok(Device::cuda_if_available()),
        "cpu" => return Ok(Device::Cpu),
        "cuda" => 0,
        _ => name
            .strip_prefix("cuda:")
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| Error::Usage(format!("--device {name}: write auto, cpu, cuda or cuda:N")))?,
    };
    let count = if Cuda::is_available() { Cuda::device_count() as usize } else { 0 };
    if number < count {
        Ok(Device::Cuda(number))
    } else {
        Err(Error::Usage(format!(
            "--device {name}: libtorch sees {count} CUDA devices here; use --device cpu, or install a driver and libtorch with CUDA"
        )))
    }
}
