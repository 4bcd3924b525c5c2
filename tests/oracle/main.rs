//! Proof of the CPU path, the oracle that every kernel is held against: finite differences, laws that the mathematics
//! demands, and values recorded from PyTorch.

mod finite_differences;
mod golden;
mod laws;
mod op;
#[path = "../common/property.rs"]
mod property;
#[path = "../common/golden.rs"]
mod recorded;
mod schedule;
