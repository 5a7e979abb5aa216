//! The trainable parameters: named leaves that share one flat buffer, so that the optimizer's update, the gradient norm and
//! an all-reduce are each a handful of operations on one tensor.

use tch::{Device, Kind, Tensor};

use crate::draw::{Draw, Purpose};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initial {
    /// The same value everywhere.
    Constant(f64),
    /// Uniform in ±bound.
    Uniform(f64),
    /// N(0, 1).
    Normal,
}

/// Name, shape and start of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSpec {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape.
    pub shape: Vec<i64>,
    /// First values.
    pub initial: Initial,
}

impl ParameterSpec {
    /// A parameter of `shape` called `name`.
    #[must_use]
    pub fn new(name: impl Into<String>, shape: &[i64], initial: Initial) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), initial }
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// Named f32 leaves over one flat buffer `[P]`.
#[derive(Debug)]
pub struct Parameters {
    specs: Vec<ParameterSpec>,
    flat: Tensor,
    leaves: Vec<Tensor>,
}

impl Parameters {
    /// Draws first values: parameter i of `specs` from the stream (seed, init, i), the same on every device.
    #[must_use]
    pub fn new(specs: Vec<ParameterSpec>, seed: u64, device: Device) -> Self {
        let mut values: Vec<f32> = Vec::with_capacity(specs.iter().map(ParameterSpec::count).sum::<i64>() as usize);
        for (index, spec) in specs.iter().enumerate() {
            let mut draw = Draw::new(seed, Purpose::Init, [index as u64, 0]);
            values.extend((0..spec.count()).map(|_| match spec.initial {
                Initial::Constant(value) => value as f32,
                Initial::Uniform(bound) => (2.0 * draw.unit() - 1.0) * bound as f32,
                Initial::Normal => draw.normal(),
            }));
        }
        let flat = Tensor::from_slice(&values).to_device(device);
        let mut start = 0;
        let leaves = specs
            .iter()
            .map(|spec| {
                let leaf = flat.narrow(0, start, spec.count()).view(spec.shape.as_slice()).detach();
                start += spec.count();
                leaf.set_requires_grad(true)
            })
            .collect();
        Self { specs, flat, leaves }
    }

    /// The leaf called `name`.
    ///
    /// # Panics
    /// When there is none: names are fixed by the model that made the specs.
    pub fn get(&self, name: &str) -> Tensor {
        let index = self.specs.iter().position(|spec| spec.name == name);
        #[expect(clippy::expect_used, reason = "the model binds only names of its own specs")]
        self.leaves[index.expect("a parameter of the model's own specs")].shallow_clone()
    }

    /// Names, shapes and leaves, in the order of the flat buffer.
    pub fn iter(&self) -> impl Iterator<Item = (&ParameterSpec, &Tensor)> {
        self.specs.iter().zip(&self.leaves)
    }

    /// Leaves in the order of the flat buffer.
    pub fn leaves(&self) -> &[Tensor] {
        &self.leaves
    }

    /// Specs in the order of the flat buffer.
    #[must_use]
    pub fn specs(&self) -> &[ParameterSpec] {
        &self.specs
    }

    /// All values, `[P]`; changing it changes the leaves.
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.flat.numel() as i64
    }

    /// Slices a tensor over the flat buffer (values, gradients, moments; `[P]`) into one tensor per parameter.
    #[must_use]
    pub fn split(&self, flat: &Tensor) -> Vec<(String, Tensor)> {
        let mut start = 0;
        self.specs
            .iter()
            .map(|spec| {
                let part = flat.narrow(0, start, spec.count()).view(spec.shape.as_slice());
                start += spec.count();
                (spec.name.clone(), part)
            })
            .collect()
    }

    /// Sets the values of parameter `name` (same shape) without touching the autograd graph.
    pub fn set(&mut self, name: &str, value: &Tensor) {
        let mut leaf = self.get(name).detach();
        leaf.copy_(&value.to_kind(Kind::Float));
    }
}
