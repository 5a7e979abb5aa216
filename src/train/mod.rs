//! Optimisation (Section 3.1).

mod adam;
mod schedule;

pub use adam::{Adam, AdamSettings};
pub use schedule::Schedule;
