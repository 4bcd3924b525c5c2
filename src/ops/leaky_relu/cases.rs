//! Numbers of elements around a workgroup's, and slopes on both sides of 0 and 1.

use crate::layer::{Layer, Shape};
use crate::ops::Case;
use crate::rng::Philox;

fn leaky(n: usize, features: usize, negative_slope: f64) -> Case {
    Case { n, input: Shape::Features(features), layer: Layer::leaky_relu(negative_slope) }
}

/// Every case.
pub fn all() -> Vec<Case> {
    vec![leaky(1, 1, 0.01), leaky(3, 17, 0.25), leaky(2, 64, -0.5), leaky(5, 1009, 1.5), leaky(2, 25_088, 0.01)]
}

/// A random slope.
pub fn draw(rng: &mut Philox, _: Shape) -> Option<Layer> {
    Some(Layer::leaky_relu(rng.range(-0.5, 0.9)))
}

/// A recorded case.
pub fn golden(number: &dyn Fn(&str) -> f64) -> Case {
    leaky(1, number("len") as usize, number("negative_slope"))
}
