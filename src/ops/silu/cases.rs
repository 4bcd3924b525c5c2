//! Numbers of elements around a workgroup's, and of a whole layer.

use crate::layer::{Layer, Shape};
use crate::ops::Case;
use crate::rng::Philox;

/// Every case.
pub fn all() -> Vec<Case> {
    let sizes = [(1, 1), (3, 17), (2, 64), (5, 1009), (2, 25_088)];
    sizes.map(|(n, features)| Case { n, input: Shape::Features(features), layer: Layer::silu() }).into()
}

/// SiLU has no settings.
pub fn draw(_: &mut Philox, _: Shape) -> Option<Layer> {
    Some(Layer::silu())
}

/// A recorded case.
pub fn golden(number: &dyn Fn(&str) -> f64) -> Case {
    Case { n: 1, input: Shape::Features(number("len") as usize), layer: Layer::silu() }
}
