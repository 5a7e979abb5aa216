//! The processes of a run and this one's place among them.

use std::time::Duration;

use tch::{Device, Tensor};

use super::c10d::{Group, Network, Store, has_nccl, is_loopback};
use super::{Backend, DistributedConfig, DistributedError, Rank};

/// PyTorch's variable for the interfaces of Gloo.
const INTERFACES: &str = "GLOO_SOCKET_IFNAME";

/// This process among those that train together; alone, every collective is the identity.
#[derive(Debug)]
pub struct World {
    rank: usize,
    size: usize,
    here: usize,
    /// Gloo's, for numbers and texts, and for tensors where there is no other. What it carries never waits for the device.
    hosts: Option<Group>,
    /// NCCL's, for tensors.
    devices: Option<Group>,
    /// The server, where this process runs it, must outlive the groups.
    _store: Option<Store>,
}

impl World {
    /// A process by itself.
    #[must_use]
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, here: 1, hosts: None, devices: None, _store: None }
    }

    /// Joins the group at `rank` with tensors on `device`; rank 0's `config.backend` counts. Without a rank it stays alone.
    ///
    /// # Errors
    /// When the others do not come within `config.timeout_seconds`, which bounds every collective as well, or the backend cannot be.
    pub fn join(rank: Option<Rank>, device: Device, config: &DistributedConfig) -> Result<Self, DistributedError> {
        let Some(Rank { rank, size, local_size, host, port, serves, attempt, .. }) = rank else {
            return Ok(Self::alone());
        };
        let timeout = Duration::from_secs(config.timeout_seconds.unsigned_abs());
        let prefix = format!("cmd/{attempt}");
        let network = network(&host)?;
        let failed = |why: String| DistributedError::Join {
            rank,
            size,
            address: format!("{host}:{port}"),
            seconds: timeout.as_secs(),
            why,
        };
        let store = Store::open(&host, port, serves, timeout).map_err(failed)?;
        let hosts = Group::gloo(&store, &prefix, &network, rank, size, timeout).map_err(failed)?;
        let mut world =
            Self { rank, size, here: local_size.unwrap_or(size), hosts: Some(hosts), devices: None, _store: None };
        if world.goes_by_nccl(config.backend, device)? {
            let prefix = format!("{prefix}/nccl");
            world.devices = Some(Group::nccl(&store, &prefix, device, rank, size, timeout).map_err(failed)?);
        }
        world._store = Some(store);
        Ok(world)
    }

    /// Whether tensors go by NCCL: all processes do the same.
    fn goes_by_nccl(&self, backend: Backend, device: Device) -> Result<bool, DistributedError> {
        let wish = match backend {
            Backend::Auto => 0,
            Backend::Nccl => 1,
            Backend::Gloo => 2,
        };
        let wish = self.first_numbers(&[wish])?[0];
        let able = self.gather_numbers(&[i64::from(device.is_cuda()), i64::from(has_nccl())])?;
        let all = |which: usize| able.iter().skip(which).step_by(2).all(|able| *able == 1);
        let (on_devices, with_nccl) = (all(0), all(1));
        if wish == 0 && on_devices && !with_nccl && self.is_first() {
            tracing::warn!(
                "built without NCCL's headers: tensors go through the hosts' memory (Gloo), which is slower"
            );
        }
        Ok(wish == 1 || (wish == 0 && on_devices && with_nccl))
    }

    /// This process, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// All processes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Processes of this machine; all of them where no launcher says.
    #[must_use]
    pub fn here(&self) -> usize {
        self.here
    }

    /// Whether this process prints and writes.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// What carries a tensor: that of its device.
    fn carrier(&self, tensor: &Tensor) -> Option<&Group> {
        self.devices.as_ref().filter(|_| tensor.device().is_cuda()).or(self.hosts.as_ref())
    }

    /// Waits until everything that was sent to devices has come, or has failed.
    ///
    /// # Errors
    /// When another process is gone, or does not come in time.
    pub fn settle(&self) -> Result<(), DistributedError> {
        self.devices.as_ref().map_or(Ok(()), |group| group.settle().map_err(|why| self.lost("waiting", why)))
    }

    /// The rows of all processes in the order of ranks, [W · b, ...], of `own` [b, ...], which has one shape everywhere. No gradient
    /// passes.
    ///
    /// # Errors
    /// When another process is gone, or does not come in time.
    pub fn gather(&self, own: &Tensor) -> Result<Tensor, DistributedError> {
        let Some(group) = self.carrier(own) else { return Ok(own.detach()) };
        let _span = tracing::debug_span!("gather").entered();
        let gathered = group.all_gather(&own.detach().to_device(group.device()).contiguous());
        Ok(gathered.map_err(|why| self.lost("gathering", why))?.to_device(own.device()))
    }

    /// The sum over all processes.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn sum(&self, own: &Tensor) -> Result<Tensor, DistributedError> {
        let Some(group) = self.carrier(own) else { return Ok(own.shallow_clone()) };
        let _span = tracing::debug_span!("sum").entered();
        let mut sum = own.detach().to_device(group.device()).contiguous().copy();
        group.all_reduce(&mut sum).map_err(|why| self.lost("summing", why))?;
        Ok(sum.to_device(own.device()))
    }

    /// Puts rank 0's values into `tensor`.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn broadcast(&self, tensor: &mut Tensor) -> Result<(), DistributedError> {
        let Some(group) = self.carrier(tensor) else { return Ok(()) };
        let mut values = tensor.detach().to_device(group.device()).contiguous().copy();
        group.broadcast(&mut values, 0).map_err(|why| self.lost("broadcasting", why))?;
        tensor.copy_(&values);
        Ok(())
    }

    /// The numbers of all processes, one process after the other; each gives as many.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn gather_numbers(&self, own: &[i64]) -> Result<Vec<i64>, DistributedError> {
        if self.hosts.is_none() {
            return Ok(own.to_vec());
        }
        let all = self.gather(&Tensor::from_slice(own))?;
        numbers(&all).map_err(|why| self.lost("gathering numbers", why))
    }

    /// The sums over all processes of numbers of which each gives as many.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn sum_numbers(&self, own: &[i64]) -> Result<Vec<i64>, DistributedError> {
        if self.hosts.is_none() {
            return Ok(own.to_vec());
        }
        let sum = self.sum(&Tensor::from_slice(own))?;
        numbers(&sum).map_err(|why| self.lost("summing numbers", why))
    }

    /// One text of each process, in the order of ranks.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn gather_texts(&self, own: &str) -> Result<Vec<String>, DistributedError> {
        if self.hosts.is_none() {
            return Ok(vec![own.to_owned()]);
        }
        let lengths = self.gather_numbers(&[own.len() as i64])?;
        let longest = lengths.iter().copied().max().unwrap_or(0).max(1) as usize;
        let mut bytes = own.as_bytes().to_vec();
        bytes.resize(longest, 0);
        let all = self.gather(&Tensor::from_slice(&bytes))?;
        let all = Vec::<u8>::try_from(&all);
        let all = all.map_err(|error: tch::TchError| self.lost("gathering texts", error.to_string()))?;
        let texts = all.chunks_exact(longest).zip(lengths);
        Ok(texts.map(|(bytes, length)| String::from_utf8_lossy(&bytes[..length as usize]).into_owned()).collect())
    }

    /// Rank 0's text.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn first_text(&self, own: &str) -> Result<String, DistributedError> {
        if self.hosts.is_none() {
            return Ok(own.to_owned());
        }
        let length = self.first_numbers(&[own.len() as i64])?[0] as usize;
        let mut bytes = own.as_bytes().to_vec();
        bytes.resize(length.max(1), 0);
        let mut all = Tensor::from_slice(&bytes);
        self.broadcast(&mut all)?;
        let bytes = Vec::<u8>::try_from(&all);
        let bytes = bytes.map_err(|error: tch::TchError| self.lost("broadcasting a text", error.to_string()))?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Numbered lines of all processes, in the order of ranks.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn gather_notes(&self, own: &[(usize, String)]) -> Result<Vec<(usize, String)>, DistributedError> {
        let own: String = own.iter().map(|(number, text)| format!("{number} {}\n", text.replace('\n', " "))).collect();
        let note = |line: &str| {
            let (number, text) = line.split_once(' ')?;
            Some((number.parse().ok()?, text.to_owned()))
        };
        Ok(self.gather_texts(&own)?.iter().flat_map(|text| text.lines().filter_map(note)).collect())
    }

    /// Rows of all processes in one order, on the CPU: `places` says where in it, below `count`, each row of `own` [b, E] stands. Returns the
    /// places that some process has, and their rows.
    ///
    /// # Errors
    /// When two processes have one place, or as [`Self::gather`].
    pub fn gather_rows(
        &self,
        places: &[usize],
        own: &Tensor,
        count: usize,
    ) -> Result<(Vec<usize>, Tensor), DistributedError> {
        let index: Vec<i64> = places.iter().map(|place| *place as i64).collect();
        let mut shape = own.size();
        shape[0] = count as i64;
        let scattered =
            Tensor::zeros(&shape, (own.kind(), Device::Cpu)).index_copy(0, &Tensor::from_slice(&index), own);
        // Each place is one process's, so that adding zeros changes no bit.
        let rows = self.sum(&scattered)?;
        let mut present = vec![0; count];
        places.iter().for_each(|place| present[*place] = 1);
        let present = self.sum_numbers(&present)?;
        self.agree_first("order of files", present.iter().all(|processes| *processes <= 1))?;
        let present: Vec<usize> = (0..count).filter(|place| present[*place] > 0).collect();
        let select: Vec<i64> = present.iter().map(|place| *place as i64).collect();
        let rows = rows.index_select(0, &Tensor::from_slice(&select));
        Ok((present, rows))
    }

    /// Checks that all processes have the same `value` of `what`.
    ///
    /// # Errors
    /// When this one has another than rank 0, or as [`Self::gather`].
    pub fn agree(&self, what: &'static str, value: &str) -> Result<(), DistributedError> {
        let first = self.first_text(value)?;
        self.agree_first(what, first == value)
    }

    /// An error where this process does not have rank 0's `what`.
    ///
    /// # Errors
    /// See above.
    pub fn agree_first(&self, what: &'static str, is_same: bool) -> Result<(), DistributedError> {
        if is_same { Ok(()) } else { Err(DistributedError::Differs { rank: self.rank, what }) }
    }

    /// Rank 0's numbers; each process gives as many.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn first_numbers(&self, own: &[i64]) -> Result<Vec<i64>, DistributedError> {
        let mut all = Tensor::from_slice(own);
        self.broadcast(&mut all)?;
        numbers(&all).map_err(|why| self.lost("broadcasting numbers", why))
    }

    fn lost(&self, what: &'static str, why: String) -> DistributedError {
        // Else the device waits for the one that is gone, and what it holds cannot be saved.
        self.devices.iter().for_each(Group::abort);
        DistributedError::Lost { rank: self.rank, what, why }
    }
}

/// The values of a tensor of whole numbers.
fn numbers(tensor: &Tensor) -> Result<Vec<i64>, String> {
    Vec::try_from(tensor.flatten(0, -1)).map_err(|error| format!("numbers came back as {:?}: {error}", tensor.kind()))
}

/// The network that the ranks of a group that meets at `host` use: the one that the environment names, or that of the host.
fn network(host: &str) -> Result<Network, DistributedError> {
    match std::env::var(INTERFACES).ok().filter(|names| !names.is_empty()) {
        Some(names) => {
            let known = std::path::Path::new("/sys/class/net");
            match names.split(',').find(|name| known.is_dir() && !known.join(name).exists()) {
                Some(name) => {
                    let why = format!("there is no network interface {name:?} on this machine");
                    Err(DistributedError::Environment { name: INTERFACES, value: names.clone(), why })
                }
                None => Ok(Network::Interfaces(names)),
            }
        }
        None if is_loopback(host) => Ok(Network::Address("127.0.0.1".to_owned())),
        None => Ok(Network::Default),
    }
}
