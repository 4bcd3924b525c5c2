//! The fast CPU path against the f64 oracle: each stage's passes, and whole training runs; the training loop, and what
//! a seed gives.

mod network;
mod predictor;
mod random;
#[path = "../common/random_network.rs"]
mod random_network;
mod recipe;
mod recorded;
mod run;
mod stage;
