//! `--device auto|cpu|cuda|cuda:N`.

use tch::{Cuda, Device};

use crate::error::Error;

/// The device that `name` stands for in process `local_rank` of this machine.
pub(super) fn device(name: &str, local_rank: usize) -> Result<Device, Error> {
    let number = match name {
        "auto" if !Cuda::is_available() => return Ok(Device::Cpu),
        "cpu" => return Ok(Device::Cpu),
        "auto" | "cuda" => local_rank,
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
