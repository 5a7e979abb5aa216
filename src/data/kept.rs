//! Features that are known already, so that their files need not be read.

use std::ops::{Deref, Range};
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

/// Bytes of their own, or a part of what others use too.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// Of their own.
    Own(Vec<u8>),
    /// A part of a block.
    Part(Arc<Vec<u8>>, Range<usize>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Part(block, range) => &block[range.clone()],
        }
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// Features of one utterance or image, as bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its values, in order.
    pub bytes: Bytes,
    /// Their kind.
    pub kind: Kind,
    /// Hidden states [L, t, D], or CLS and patches [1 + N, E].
    pub shape: Vec<i64>,
}

impl Row {
    /// The values of a tensor.
    #[must_use]
    pub fn of(tensor: &Tensor) -> Self {
        let tensor = tensor.to_device(Device::Cpu).contiguous();
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        Self { bytes: Bytes::Own(bytes), kind: tensor.kind(), shape: tensor.size() }
    }
}

/// Where known features of a split lie. Asked by many threads.
pub trait Kept: Send + Sync {
    /// Hidden states [L, t, D] of an utterance.
    fn speech(&self, utterance: usize) -> Option<Row>;

    /// CLS and patches [1 + N, E] of an image.
    fn image(&self, image: usize) -> Option<Row>;
}
