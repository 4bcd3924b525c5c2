//! The fast CPU path against the f64 oracle: each stage's passes, and whole training runs.

mod network;
mod stage;
