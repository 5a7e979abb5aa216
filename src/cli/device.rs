//! `--device auto|cpu|cuda|cuda:N`.

use tch::{Cuda, Device};

use super::error::Error;
use crate::distributed::Rank;

/// A process among those of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Local {
    /// From 0.
    pub(super) rank: usize,
    /// How many there are, where a launcher says.
    pub(super) size: Option<usize>,
}

impl Local {
    /// The only one.
    pub(super) const ALONE: Self = Self { rank: 0, size: Some(1) };

    /// Where `rank` stands on its machine.
    pub(super) fn of(rank: Option<&Rank>) -> Self {
        rank.map_or(Self::ALONE, |rank| Self { rank: rank.local_rank, size: rank.local_size })
    }
}

/// The device that `name` stands for in this process.
pub(super) fn device(name: &str, local: Local) -> Result<Device, Error> {
    let count = if Cuda::is_available() { Cuda::device_count() as usize } else { 0 };
    let chosen = choose(name, local, count).map_err(Error::Usage)?;
    Ok(chosen.map_or(Device::Cpu, Device::Cuda))
}

/// The CUDA device of `count`, or none for the CPU.
fn choose(name: &str, local: Local, count: usize) -> Result<Option<usize>, String> {
    let sees = format!("libtorch sees {count} CUDA devices here");
    let number = match name {
        "cpu" => return Ok(None),
        "auto" if count == 0 => return Ok(None),
        "auto" | "cuda" => match local.size {
            Some(size) if size > count && count > 0 => {
                return Err(format!(
                    "--device {name}: {size} processes on this machine need a device each, but {sees}"
                ));
            }
            // A scheduler shows each of its tasks one device alone.
            None if count == 1 => 0,
            _ => local.rank,
        },
        _ => {
            let number = name.strip_prefix("cuda:").and_then(|number| number.parse().ok());
            let number = number.ok_or_else(|| format!("--device {name}: write auto, cpu, cuda or cuda:N"))?;
            if number < count && local.size.is_none_or(|size| size > 1) {
                return Err(format!("--device {name}: every process would use the same device; use --device cuda"));
            }
            number
        }
    };
    if number < count {
        Ok(Some(number))
    } else {
        Err(format!("--device {name}: {sees}; use --device cpu, or install a driver and libtorch with CUDA"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_FOUR: Local = Local { rank: 3, size: Some(4) };
    const TASK: Local = Local { rank: 3, size: None };

    #[test]
    fn each_process_has_a_device_of_its_own() {
        assert_eq!(choose("auto", Local::ALONE, 0), Ok(None));
        assert_eq!(choose("auto", Local::ALONE, 2), Ok(Some(0)));
        assert_eq!(choose("cuda:1", Local::ALONE, 2), Ok(Some(1)));
        assert_eq!(choose("cuda", OF_FOUR, 4), Ok(Some(3)));
        assert_eq!(choose("auto", TASK, 4), Ok(Some(3)));
        assert_eq!(choose("cpu", OF_FOUR, 4), Ok(None));
    }

    #[test]
    fn a_task_that_is_shown_one_device_takes_it() {
        assert_eq!(choose("auto", TASK, 1), Ok(Some(0)));
        assert_eq!(choose("cuda", TASK, 1), Ok(Some(0)));
    }

    #[test]
    fn what_is_not_there_or_would_be_shared_is_refused() {
        let message = |name, local, count| choose(name, local, count).expect_err("refused");
        assert!(message("cuda", Local::ALONE, 0).contains("sees 0 CUDA devices"));
        assert!(message("cuda:7", Local::ALONE, 2).contains("sees 2 CUDA devices"));
        assert!(message("cuda:1", OF_FOUR, 4).contains("would use the same device"));
        assert!(message("auto", OF_FOUR, 2).contains("4 processes on this machine need a device each"));
        assert!(message("tpu", Local::ALONE, 2).contains("write auto, cpu, cuda or cuda:N"));
    }
}
