//! What the cases of operations, losses and optimizers are made of: random inputs, the same everywhere, and the
//! tolerances that follow from f32's rounding.

use crate::rng::Philox;

/// Random values in [-1, 1), the same everywhere.
pub fn random(len: usize, stream: u64) -> Vec<f32> {
    let mut rng = Philox::new(0x5EED, stream);
    (0..len).map(|_| rng.range(-1.0, 1.0) as f32).collect()
}

/// Random class indices.
pub fn random_targets(len: usize, classes: usize, stream: u64) -> Vec<u32> {
    let mut rng = Philox::new(0x7A6, stream);
    (0..len).map(|_| rng.below(classes as u32)).collect()
}

/// Without loss.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}

/// The tolerance of a sum of `terms` products in f32 whose absolute values add up to `magnitude`.
///
/// Rounding errors of a sum behave like a random walk: their expected size grows with the square root of the number of
/// terms (Higham and Mary 2019), in units of 2^-24 of the terms' total. The constant covers the walk's tail. A missing
/// or a doubled term is about `magnitude / terms`: five times the tolerance at 12,544 terms, and further above it for
/// fewer.
pub fn sum_tolerance(terms: usize, magnitude: f64) -> f64 {
    (8.0 + 2.0 * (terms as f64).sqrt()) * 2f64.powi(-24) * magnitude + f64::from(f32::MIN_POSITIVE)
}
