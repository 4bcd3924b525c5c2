//! The fast CPU path against the f64 oracle: each stage's passes, and whole training runs; the training loop, and what
//! a seed gives.

#[path = "../common/golden.rs"]
mod golden;
mod layers;
mod network;
mod pool;
mod predictor;
mod random;
#[path = "../common/random_network.rs"]
mod random_network;
mod recipe;
mod recorded;
mod resnet;
#[path = "../common/resnet8.rs"]
mod resnet8;
mod run;
mod stage;
