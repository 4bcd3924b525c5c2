//! Numbers of elements around a workgroup's and a block's of random numbers, and every kind of probability.

use crate::layer::{Layer, Shape};
use crate::ops::Case;
use crate::rng::Philox;

/// Every case.
pub fn all() -> Vec<Case> {
    let cases = [(1, 1, 0.5), (3, 17, 0.1), (2, 64, 0.0), (5, 1009, 0.9), (2, 25_088, 0.5)];
    cases.map(|(n, features, p)| Case { n, input: Shape::Features(features), layer: Layer::dropout(p) }).into()
}

/// A random probability.
pub fn draw(rng: &mut Philox, _: Shape) -> Option<Layer> {
    Some(Layer::dropout(rng.range(0.0, 0.9)))
}
