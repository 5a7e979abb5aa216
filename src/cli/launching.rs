//! The options of `cmd train` that start several processes.

use std::ffi::OsString;
use std::time::Duration;

use super::device::{Local, device};
use super::error::Error;
use crate::distributed::{Nodes, Rank, launch};
use crate::signals::Signals;

/// Several processes, here and on other machines.
#[derive(Debug, clap::Args)]
pub(super) struct LaunchArgs {
    /// Works in N processes on this machine, which share the work out. With torchrun or SLURM leave it out.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    nproc: usize,
    /// Machines that work together; run the same command on each, with its own --node-rank.
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = count)]
    nnodes: usize,
    /// This machine, from 0.
    #[arg(long, value_name = "K", default_value_t = 0)]
    node_rank: usize,
    /// Where the processes of several machines meet: the address of machine 0 and a free port there.
    #[arg(long, value_name = "HOST:PORT")]
    rdzv: Option<String>,
}

/// The names of these options, which ranks do not get.
const OPTIONS: [&str; 4] = ["--nproc", "--nnodes", "--node-rank", "--rdzv"];

impl LaunchArgs {
    /// Whether this process starts others.
    pub(super) fn launches(&self) -> bool {
        self.nproc > 1 || self.nnodes > 1
    }

    /// Whether rank 0 is on this machine.
    pub(super) fn is_first_machine(&self) -> bool {
        self.node_rank == 0
    }

    /// Starts the processes with this program's other arguments and waits for them.
    /// Rank 0 has `patience` to save what was trained when another fails.
    pub(super) fn launch(&self, device_name: &str, patience: Duration, signals: &Signals) -> Result<(), Error> {
        Rank::may_launch(self.nnodes)?;
        device(device_name, Local { rank: 0, size: Some(self.nproc) })?;
        Ok(launch(&without_options(std::env::args_os().skip(1)), self.nproc, self.nodes()?, patience, signals)?)
    }

    fn nodes(&self) -> Result<Option<Nodes>, Error> {
        if self.nnodes == 1 {
            return Ok(None);
        }
        let (node_rank, nnodes) = (self.node_rank, self.nnodes);
        if node_rank >= nnodes {
            return Err(Error::Usage(format!("--node-rank {node_rank}: must be below --nnodes {nnodes}")));
        }
        let meeting = self.rdzv.as_deref().and_then(|text| text.rsplit_once(':'));
        let meeting = meeting.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
        let why = "--nnodes needs --rdzv HOST:PORT, the address of machine 0 and a free port there";
        let meeting = meeting.ok_or_else(|| Error::Usage(why.to_owned()))?;
        Ok(Some(Nodes { count: nnodes, rank: node_rank, meeting }))
    }
}

/// A number of processes or machines.
fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| (1..=4096).contains(count)).ok_or_else(|| "must be from 1 to 4096".to_owned())
}

fn without_options(mut arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        let name = text.split_once('=').map_or(&*text, |(name, _)| name);
        if !OPTIONS.contains(&name) {
            kept.push(argument);
        } else if name == text {
            arguments.next();
        }
    }
    kept
}
