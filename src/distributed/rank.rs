//! What the environment says of a process's place among others: torchrun's variables, which `--nproc` sets too, or SLURM's.

use std::str::FromStr;

use super::DistributedError;

/// A process's place among those that train together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rank {
    /// This process, from 0.
    pub rank: usize,
    /// All processes.
    pub size: usize,
    /// This process among those of its machine.
    pub local_rank: usize,
    /// Those of its machine, where a launcher says.
    pub local_size: Option<usize>,
    /// Where they meet.
    pub host: String,
    /// Port there.
    pub port: u16,
    /// Whether this process serves the meeting place, rather than a launcher.
    pub serves: bool,
    /// torchrun's count of restarts, so that attempts do not meet each other.
    pub attempt: String,
}

/// Variables with the number of processes that other launchers start; their ranks do not know where to meet.
const FOREIGN: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"];

/// The variables of an environment.
struct Environment<F>(F);

impl<F: Fn(&str) -> Option<String>> Environment<F> {
    fn read<T: FromStr>(&self, names: &[&'static str]) -> Result<Option<T>, DistributedError> {
        let Some((name, value)) = names.iter().find_map(|name| Some((*name, (self.0)(name)?))) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(_) => {
                Err(DistributedError::Environment { name, value, why: "is no whole number of its range".to_owned() })
            }
        }
    }

    /// The variable that makes this process one of several, and their number.
    fn several(&self) -> Result<Option<(&'static str, usize)>, DistributedError> {
        let several = |size: &usize| *size > 1;
        let ours = self.read::<usize>(&["WORLD_SIZE"])?;
        if ours.is_some() {
            return Ok(ours.filter(several).map(|size| ("WORLD_SIZE", size)));
        }
        // A shell within an allocation has SLURM_NTASKS too; its tasks have a number each.
        let is_task = (self.0)("SLURM_PROCID").is_some() || (self.0)("MASTER_ADDR").is_some();
        if let Some(size) = self.read::<usize>(&["SLURM_NTASKS"])?.filter(several).filter(|_| is_task) {
            return Ok(Some(("SLURM_NTASKS", size)));
        }
        for name in FOREIGN {
            if let Some(size) = self.read::<usize>(&[name])?.filter(several) {
                return Ok(Some((name, size)));
            }
        }
        Ok(None)
    }

    fn rank(&self) -> Result<Option<Rank>, DistributedError> {
        let Some((named_by, size)) = self.several()? else { return Ok(None) };
        let missing =
            |name: &'static str, why: String| DistributedError::Environment { name, value: String::new(), why };
        if FOREIGN.contains(&named_by) {
            let why = format!(
                "this is one of {size} processes that would each train by themselves: start them with --nproc and --nnodes, with \
                 torchrun, or set WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for each"
            );
            return Err(DistributedError::Environment { name: named_by, value: size.to_string(), why });
        }
        let is_slurm = named_by == "SLURM_NTASKS";
        if is_slurm && (self.0)("MASTER_ADDR").is_none() {
            let why = format!(
                "is needed where SLURM starts {size} tasks (SLURM_NTASKS={size}), else each would train by itself: set it to the first \
                 machine and MASTER_PORT to a free port there; for one process in a batch script set SLURM_NTASKS=1"
            );
            return Err(missing("MASTER_ADDR", why));
        }
        let needed = |name: &'static str| missing(name, format!("is needed where {size} processes train together"));
        let names = |ours, slurms| if is_slurm { vec![ours, slurms] } else { vec![ours] };
        let rank: usize = self.read(&names("RANK", "SLURM_PROCID"))?.ok_or_else(|| needed("RANK"))?;
        if rank >= size {
            let why = format!("must be below the number of processes, {size}");
            return Err(DistributedError::Environment { name: "RANK", value: rank.to_string(), why });
        }
        let local_rank = self.read(&names("LOCAL_RANK", "SLURM_LOCALID"))?.unwrap_or(rank);
        let local_size = self.read(&["LOCAL_WORLD_SIZE"])?;
        let host = self.read(&["MASTER_ADDR"])?.ok_or_else(|| needed("MASTER_ADDR"))?;
        let port = self.read(&["MASTER_PORT"])?.ok_or_else(|| needed("MASTER_PORT"))?;
        let launcher_serves = (self.0)("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
        let attempt = (self.0)("TORCHELASTIC_RESTART_COUNT").unwrap_or_default();
        let serves = rank == 0 && !launcher_serves;
        Ok(Some(Rank { rank, size, local_rank, local_size, host, port, serves, attempt }))
    }

    fn may_launch(&self, nodes: usize) -> Result<(), DistributedError> {
        match self.several()? {
            Some((name, size)) if name == "WORLD_SIZE" || size != nodes => {
                let why = format!(
                    "this is one of {size} processes already, and each would launch more: leave out --nproc and --nnodes, or unset {name}"
                );
                Err(DistributedError::Environment { name, value: size.to_string(), why })
            }
            _ => Ok(()),
        }
    }
}

fn environment() -> Environment<impl Fn(&str) -> Option<String>> {
    Environment(|name: &str| std::env::var(name).ok())
}

impl Rank {
    /// The place that the environment gives this process, or none: it works alone.
    ///
    /// # Errors
    /// When a variable is missing or wrong, or when this is one of several processes that do not know of each other.
    pub fn from_environment() -> Result<Option<Self>, DistributedError> {
        environment().rank()
    }

    /// Whether this process may launch others on each of `nodes` machines: it must not be one of several itself, but for one on each
    /// machine that SLURM or MPI started.
    ///
    /// # Errors
    /// When it must not.
    pub fn may_launch(nodes: usize) -> Result<(), DistributedError> {
        environment().may_launch(nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &'static [(&'static str, &'static str)]) -> Environment<impl Fn(&str) -> Option<String>> {
        Environment(move |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn tasks_that_do_not_know_where_to_meet_are_refused() {
        let message = |variables| with(variables).rank().expect_err("refused").to_string();
        assert!(message(&[("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")]).starts_with("MASTER_ADDR=: is needed"));
        assert!(message(&[("OMPI_COMM_WORLD_SIZE", "2")]).starts_with("OMPI_COMM_WORLD_SIZE=2: "));
        assert!(message(&[("PMI_SIZE", "2"), ("PMI_RANK", "1")]).starts_with("PMI_SIZE=2: "));
        assert!(message(&[("WORLD_SIZE", "2"), ("RANK", "1")]).starts_with("MASTER_ADDR=: is needed"));
    }

    #[test]
    fn one_process_is_alone_also_in_a_shell_of_an_allocation() {
        for variables in [
            &[][..],
            &[("WORLD_SIZE", "1"), ("RANK", "0")],
            &[("SLURM_NTASKS", "8")],
            &[("SLURM_NTASKS", "1"), ("SLURM_PROCID", "0")],
            &[("WORLD_SIZE", "1"), ("OMPI_COMM_WORLD_SIZE", "2")],
        ] {
            assert_eq!(with(variables).rank().expect("alone"), None);
        }
    }

    #[test]
    fn slurms_tasks_meet_at_the_master() {
        let rank = with(&[
            ("SLURM_NTASKS", "4"),
            ("SLURM_PROCID", "3"),
            ("SLURM_LOCALID", "1"),
            ("MASTER_ADDR", "a"),
            ("MASTER_PORT", "7"),
        ]);
        let rank = rank.rank().expect("a place").expect("one of four");
        assert_eq!((rank.rank, rank.size, rank.local_rank, rank.local_size, rank.serves), (3, 4, 1, None, false));
    }

    #[test]
    fn only_one_process_of_a_machine_launches() {
        with(&[]).may_launch(1).expect("alone");
        with(&[("SLURM_NTASKS", "2"), ("SLURM_PROCID", "1")]).may_launch(2).expect("one task a machine");
        with(&[("WORLD_SIZE", "1")]).may_launch(1).expect("alone");
        for variables in [&[("WORLD_SIZE", "2")][..], &[("SLURM_NTASKS", "4"), ("SLURM_PROCID", "1")]] {
            assert!(with(variables).may_launch(2).is_err());
        }
    }
}
