//! Holds every kernel, and whole training steps, against the f64 oracle on this machine's adapter.
//!
//! The same cases and the same comparison serve `smoothcnn check`, the GPU tests and the benches.

pub mod batch;
pub mod cases;
pub mod comparator_loss;
pub mod compare;
pub mod differences;
pub mod distillation_loss;
pub mod fused;
mod halves;
pub mod layers;
pub mod linear_tiled;
pub mod losses;
pub mod nan;
pub mod network;
pub mod ops;
mod probe;
pub mod smoothed_loss;
pub mod weighted_loss;

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

/// Random values in [-1, 1), the same everywhere.
pub fn random(len: usize, stream: u64) -> Vec<f32> {
    let mut rng = crate::rng::Philox::new(0x5EED, stream);
    (0..len).map(|_| rng.range(-1.0, 1.0) as f32).collect()
}

/// Random class indices.
pub fn random_targets(len: usize, classes: usize, stream: u64) -> Vec<u32> {
    let mut rng = crate::rng::Philox::new(0x7A6, stream);
    (0..len).map(|_| rng.below(classes as u32)).collect()
}
