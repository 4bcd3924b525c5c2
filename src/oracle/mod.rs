//! The CPU path in its plain form: every operation in plain Rust, generic over `f32` and `f64`.
//!
//! In `f64` it is the oracle that every kernel, and the fast path of [`crate::backend::cpu`], is held against. It imports
//! nothing of [`crate::backend::gpu`]. Work is split by fixed rules (never by the number of threads), so the same input gives the
//! same bits with any number of threads.

pub mod comparator_loss;
pub mod distillation_loss;
pub mod optimizer;
pub mod smoothed_loss;
pub mod weighted_loss;

pub use crate::real::Real;
