//! Awkward fully connected layers, and the seed network's own.

use super::Linear;
use crate::layer::{Layer, Shape};
use crate::ops::Case;
use crate::rng::Philox;

const fn linear(n: usize, inputs: usize, outputs: usize) -> (usize, Linear) {
    (n, Linear::new(inputs, outputs))
}

/// Images in a batch, and the layer.
pub const DIMS: &[(usize, Linear)] = &[
    linear(1, 1, 1),
    linear(5, 17, 3),
    linear(1, 127, 131),
    linear(65, 33, 64),
    linear(7, 128, 10),
    linear(1, 4, 2),
    linear(17, 36, 12),
    linear(3, 3136, 128),
    linear(35, 140, 52),
];

impl Linear {
    /// The case of this layer, over a batch of `n`.
    pub fn case(&self, n: usize) -> Case {
        Case { n, input: Shape::Features(self.inputs), layer: Layer::linear(self.outputs) }
    }
}

/// Every case.
pub fn all() -> Vec<Case> {
    DIMS.iter().map(|(n, dims)| dims.case(*n)).collect()
}

/// A random layer over such a vector.
pub fn draw(rng: &mut Philox, input: Shape) -> Option<Layer> {
    matches!(input, Shape::Features(_)).then(|| Layer::linear(1 + rng.below(70) as usize))
}

/// A recorded case.
pub fn golden(number: &dyn Fn(&str) -> f64) -> Case {
    let number = |name| number(name) as usize;
    Linear::new(number("in"), number("out")).case(number("n"))
}
