//! What is told of a run to others: the card of its model.

mod card;

pub use card::{CardError, ModelCard};
