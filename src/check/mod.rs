//! Holds every kernel, and whole training steps, against the f64 oracle on this machine's adapter.
//!
//! The same cases and the same comparison serve `smoothcnn check`, the GPU tests and the benches.

pub mod batch;
mod blocks;
pub mod cases;
pub mod compare;
pub mod conv2d_tiled;
pub mod differences;
pub mod every;
pub mod fused;
mod halves;
pub mod layers;
pub mod linear_tiled;
pub mod losses;
pub mod nan;
pub mod network;
pub mod ops;
mod probe;
mod row_sums;
pub(crate) mod steps;

pub use crate::cases::{random, random_targets};

/// One output of one pass in one case, compared.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// The operation's stem.
    pub op: String,
    /// The pass and its output.
    pub pass: String,
    /// The case's shape.
    pub case: String,
    /// Elements compared.
    pub elements: usize,
    /// The largest absolute error.
    pub worst_error: f64,
    /// The largest share of its tolerance that an element used, in percent; above 100 it fails.
    pub tolerance_used: f64,
    /// What is wrong, or nothing.
    pub failure: Option<String>,
}
