//! Optimisation (Section 3.1).

mod adam;

pub use adam::{Adam, AdamSettings};
