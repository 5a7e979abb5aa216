//! `--nproc N`: one process a rank on this machine. The variables are torchrun's, so that ranks do not know who launched them.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::DistributedError;
use super::c10d::Store;
use crate::signals::{Interrupted, Signals};

/// Time between looks at the ranks.
const POLL: Duration = Duration::from_millis(50);
/// Time that ranks have to end after a signal.
const GRACE: Duration = Duration::from_secs(5);
const HOST: &str = "127.0.0.1";

/// This machine among several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nodes {
    /// Machines.
    pub count: usize,
    /// This one, from 0; the first one serves the meeting place.
    pub rank: usize,
    /// Where the processes meet: the first machine's address and a free port there.
    pub meeting: (String, u16),
}

/// Runs this program with `arguments` in `count` processes here and waits for them. When one fails, the others are stopped.
///
/// Rank 0, which may be saving what was trained, has `patience` to end then; the others have seconds.
///
/// # Errors
/// When they cannot be started, one of them fails, or a signal comes.
pub fn launch(
    arguments: &[OsString],
    count: usize,
    nodes: Option<Nodes>,
    patience: Duration,
    signals: &Signals,
) -> Result<(), DistributedError> {
    let Nodes { count: nodes, rank: node, meeting: (host, port) } =
        nodes.unwrap_or_else(|| Nodes { count: 1, rank: 0, meeting: (HOST.to_owned(), 0) });
    let size = count * nodes;
    let serve = || Store::open(&host, port, true, GRACE);
    let store = (node == 0).then(serve).transpose().map_err(|why| DistributedError::Join {
        rank: 0,
        size,
        address: format!("{host}:{port}"),
        seconds: GRACE.as_secs(),
        why,
    })?;
    let port = store.as_ref().map_or(port, Store::port);
    let program = std::env::current_exe().map_err(failed("this program"))?;
    let parent = std::process::id();
    let mut ranks = Ranks(Vec::new());
    for rank in 0..count {
        let mut command = Command::new(&program);
        // Its own process group: Ctrl-C reaches the launcher alone, which hands it on once.
        command.args(arguments).process_group(0).stdin(Stdio::null());
        for (name, value) in [
            ("RANK", (node * count + rank).to_string()),
            ("LOCAL_RANK", rank.to_string()),
            ("LOCAL_WORLD_SIZE", count.to_string()),
            ("WORLD_SIZE", size.to_string()),
            ("MASTER_ADDR", host.clone()),
            ("MASTER_PORT", port.to_string()),
            ("TORCHELASTIC_USE_AGENT_STORE", "True".to_owned()),
        ] {
            command.env(name, value);
        }
        if std::env::var_os("OMP_NUM_THREADS").is_none() {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            command.env("OMP_NUM_THREADS", (cores / count).max(1).to_string());
        }
        // SAFETY: only calls that are allowed between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // The parent may have died before that.
                if libc::getppid() as u32 == parent { Ok(()) } else { Err(std::io::ErrorKind::NotFound.into()) }
            });
        }
        ranks.0.push(Some(command.spawn().map_err(failed(program.display()))?));
    }

    let mut failure: Option<(Instant, DistributedError)> = None;
    let mut stop: Option<Interrupted> = None;
    while ranks.0.iter().any(Option::is_some) {
        // A rank that does not listen yet dies of the signal itself.
        let is_stop = |status: &ExitStatus| {
            stop.is_some_and(|stop| {
                status.code() == Some(i32::from(stop.exit_status())) || status.signal() == Some(stop.signal)
            })
        };
        let mut gone = ranks.ended()?;
        gone.retain(|(_, status)| !status.success() && !is_stop(status));
        // Of those that ended since the last look one that was killed is the cause, not those that lost it.
        gone.sort_by_key(|(rank, status)| (status.signal().is_none(), *rank));
        if let (Some((rank, status)), None) = (gone.first(), &failure) {
            failure = Some((Instant::now(), ended(node * count + rank, *status)));
            // Where a signal has been handed on, they are stopping already: a second one would cut a save short.
            if stop.is_none() {
                ranks.signal(libc::SIGTERM);
            }
        }
        if let (None, Err(signal)) = (stop, signals.check()) {
            // Ranks leave a checkpoint first. A second signal ends the launcher and, with it, them.
            stop = Some(signal);
            ranks.signal(signal.signal);
        }
        if signals.take_save() {
            ranks.signal(libc::SIGUSR1);
        }
        if let Some((since, _)) = &failure {
            let writer = usize::from(node == 0);
            if since.elapsed() > GRACE {
                ranks.signal_from(writer, libc::SIGKILL);
            }
            if since.elapsed() > GRACE + patience {
                ranks.signal(libc::SIGKILL);
            }
        }
        std::thread::sleep(POLL);
    }
    match (failure, stop) {
        (Some((_, error)), _) => Err(error),
        (None, Some(signal)) => Err(signal.into()),
        (None, None) => Ok(()),
    }
}

fn failed(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> DistributedError {
    move |error| DistributedError::Launch { what: what.to_string(), why: error.to_string() }
}

fn ended(rank: usize, status: ExitStatus) -> DistributedError {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, signal) => format!("was killed by signal {}", signal.unwrap_or(0)),
    };
    DistributedError::Ended { rank, how, status: status.code().map_or(1, |code| code as u8) }
}

/// The running ranks; those that are left when this is dropped are killed.
struct Ranks(Vec<Option<Child>>);

impl Ranks {
    /// The ranks of this machine that have ended since the last call, and how.
    fn ended(&mut self) -> Result<Vec<(usize, ExitStatus)>, DistributedError> {
        let mut ended = Vec::new();
        for (rank, slot) in self.0.iter_mut().enumerate() {
            let Some(child) = slot else { continue };
            if let Some(status) = child.try_wait().map_err(failed(format!("rank {rank}")))? {
                ended.push((rank, status));
                *slot = None;
            }
        }
        Ok(ended)
    }

    fn signal(&self, signal: i32) {
        self.signal_from(0, signal);
    }

    /// Signals this machine's ranks from the one with number `first` on.
    fn signal_from(&self, first: usize, signal: i32) {
        for child in self.0.iter().skip(first).flatten() {
            // SAFETY: a child that has not been waited for keeps its number.
            unsafe { libc::kill(child.id() as i32, signal) };
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
        for child in self.0.iter_mut().flatten() {
            let _ = child.wait();
        }
    }
}
