//! The processes of a run and this one's place among them.

use std::time::Duration;

use tch::{Device, Tensor};

use super::{DistributedError, Group, Place, Store};

/// This process among those that train together; alone, every collective is the identity.
#[derive(Debug)]
pub struct World {
    rank: usize,
    size: usize,
    group: Option<Group>,
    /// The server, where this process runs it, must outlive the group.
    _store: Option<Store>,
}

impl World {
    /// A process by itself.
    #[must_use]
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, group: None, _store: None }
    }

    /// Joins the group at `place` with tensors on `device`: NCCL's on CUDA, Gloo's on the CPU. Without a place it stays alone.
    ///
    /// # Errors
    /// When the others do not come within `timeout`, which bounds every collective as well.
    pub fn join(place: Option<Place>, device: Device, timeout: Duration) -> Result<Self, DistributedError> {
        let Some(Place { rank, size, host, port, serves, attempt, .. }) = place else { return Ok(Self::alone()) };
        let prefix = format!("cmd/{attempt}");
        let join = || {
            let store = Store::open(&host, port, serves, timeout)?;
            let group = if device.is_cuda() {
                Group::nccl(&store, &prefix, device, rank, size, timeout)?
            } else {
                let is_loopback = matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1");
                let interface = if is_loopback { "127.0.0.1" } else { "" };
                Group::gloo(&store, &prefix, interface, rank, size, timeout)?
            };
            Ok((store, group))
        };
        let (store, group) = join().map_err(|why| DistributedError::Join {
            rank,
            size,
            address: format!("{host}:{port}"),
            seconds: timeout.as_secs(),
            why,
        })?;
        Ok(Self { rank, size, group: Some(group), _store: Some(store) })
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

    /// Whether this process prints and writes.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// The rows of all processes in the order of ranks, [W · b, ...], of `own` [b, ...], which has one shape everywhere. No gradient
    /// passes.
    ///
    /// # Errors
    /// When another process is gone, or does not come in time.
    pub fn gather(&self, own: &Tensor) -> Result<Tensor, DistributedError> {
        let Some(group) = &self.group else { return Ok(own.detach()) };
        let gathered = group.all_gather(&own.detach().to_device(group.device()).contiguous());
        Ok(gathered.map_err(|why| self.lost("gathering", why))?.to_device(own.device()))
    }

    /// The sum over all processes.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn sum(&self, own: &Tensor) -> Result<Tensor, DistributedError> {
        let Some(group) = &self.group else { return Ok(own.shallow_clone()) };
        let mut sum = own.detach().to_device(group.device()).contiguous().copy();
        group.all_reduce(&mut sum).map_err(|why| self.lost("summing", why))?;
        Ok(sum.to_device(own.device()))
    }

    /// Puts rank 0's values into `tensor`.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn broadcast(&self, tensor: &mut Tensor) -> Result<(), DistributedError> {
        let Some(group) = &self.group else { return Ok(()) };
        let mut values = tensor.detach().to_device(group.device()).contiguous().copy();
        group.broadcast(&mut values, 0).map_err(|why| self.lost("broadcasting", why))?;
        tensor.copy_(&values);
        Ok(())
    }

    /// One text of each process, in the order of ranks.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub fn gather_texts(&self, own: &str) -> Result<Vec<String>, DistributedError> {
        let lengths = self.gather(&Tensor::from_slice(&[own.len() as i64]))?;
        let lengths: Vec<i64> = Vec::try_from(&lengths).unwrap_or_default();
        let longest = lengths.iter().copied().max().unwrap_or(0).max(1) as usize;
        let mut bytes = own.as_bytes().to_vec();
        bytes.resize(longest, 0);
        let all: Vec<u8> = Vec::try_from(&self.gather(&Tensor::from_slice(&bytes))?).unwrap_or_default();
        let texts = all.chunks_exact(longest).zip(lengths);
        Ok(texts.map(|(bytes, length)| String::from_utf8_lossy(&bytes[..length as usize]).into_owned()).collect())
    }

    /// Checks that all processes have the same `value` of `what`.
    ///
    /// # Errors
    /// When this one has another than rank 0, or as [`Self::gather`].
    pub fn agree(&self, what: &'static str, value: &str) -> Result<(), DistributedError> {
        let texts = self.gather_texts(value)?;
        if texts.first().is_some_and(|first| first == value) {
            Ok(())
        } else {
            Err(DistributedError::Differs { rank: self.rank, what })
        }
    }

    fn lost(&self, what: &'static str, why: String) -> DistributedError {
        DistributedError::Lost { rank: self.rank, what, why }
    }
}
