//! What the environment says of a process's place among others: torchrun's variables, which `--nproc` sets too, or SLURM's.

use std::str::FromStr;

use super::DistributedError;

/// A process's place among those that train together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// This process, from 0.
    pub rank: usize,
    /// All processes.
    pub size: usize,
    /// This process among those of its machine.
    pub local_rank: usize,
    /// Where they meet.
    pub host: String,
    /// Port there.
    pub port: u16,
    /// Whether this process serves the meeting place, rather than a launcher.
    pub serves: bool,
    /// torchrun's count of restarts, so that attempts do not meet each other.
    pub attempt: String,
}

fn read<T: FromStr>(names: &[&'static str]) -> Result<Option<T>, DistributedError> {
    let Some((name, value)) = names.iter().find_map(|name| Some((*name, std::env::var(name).ok()?))) else {
        return Ok(None);
    };
    match value.parse() {
        Ok(parsed) => Ok(Some(parsed)),
        Err(_) => Err(DistributedError::Environment { name, value, why: "is no whole number of its range".to_owned() }),
    }
}

impl Place {
    /// The place that the environment gives this process, or none: it works alone. SLURM's variables count where MASTER_ADDR is set,
    /// for a shell within an allocation has them too.
    ///
    /// # Errors
    /// When a variable is missing or wrong.
    pub fn from_environment() -> Result<Option<Self>, DistributedError> {
        let has_master = std::env::var_os("MASTER_ADDR").is_some();
        let names = |ours, slurms| if has_master { vec![ours, slurms] } else { vec![ours] };
        let Some(size) = read::<usize>(&names("WORLD_SIZE", "SLURM_NTASKS"))?.filter(|size| *size > 1) else {
            return Ok(None);
        };
        let missing = |name: &'static str| DistributedError::Environment {
            name,
            value: String::new(),
            why: format!("is needed where {size} processes train together"),
        };
        let rank: usize = read(&names("RANK", "SLURM_PROCID"))?.ok_or_else(|| missing("RANK"))?;
        if rank >= size {
            let why = format!("must be below the number of processes, {size}");
            return Err(DistributedError::Environment { name: "RANK", value: rank.to_string(), why });
        }
        let local_rank = read(&names("LOCAL_RANK", "SLURM_LOCALID"))?.unwrap_or(rank);
        let host = read(&["MASTER_ADDR"])?.ok_or_else(|| missing("MASTER_ADDR"))?;
        let port = read(&["MASTER_PORT"])?.ok_or_else(|| missing("MASTER_PORT"))?;
        let launcher_serves = std::env::var("TORCHELASTIC_USE_AGENT_STORE").is_ok_and(|value| value == "True");
        let attempt = std::env::var("TORCHELASTIC_RESTART_COUNT").unwrap_or_default();
        Ok(Some(Self { rank, size, local_rank, host, port, serves: rank == 0 && !launcher_serves, attempt }))
    }
}
