//! Awkward poolings: windows that overlap, leave gaps, or do not cover their image.

use super::{MaxPool2d, Settings};
use crate::layer::{Layer, Shape};
use crate::ops::Case;
use crate::rng::Philox;

const fn pool(n: usize, input: [usize; 3], kernel: [usize; 2], stride: [usize; 2]) -> (usize, MaxPool2d) {
    (n, MaxPool2d { input, kernel, stride })
}

const DIMS: &[(usize, MaxPool2d)] = &[
    pool(1, [1, 1, 1], [1, 1], [1, 1]),
    pool(2, [3, 7, 9], [2, 2], [2, 2]),
    pool(1, [2, 8, 7], [3, 3], [1, 1]),
    pool(3, [1, 11, 13], [3, 2], [2, 3]),
    pool(2, [2, 9, 9], [2, 2], [3, 4]),
    // One row of windows that reach below where a second would start: the next plane's first row is no second.
    pool(2, [3, 4, 6], [3, 3], [2, 2]),
    pool(1, [1, 1, 17], [1, 5], [1, 2]),
    pool(3, [32, 28, 28], [2, 2], [2, 2]),
];

impl MaxPool2d {
    /// The case of this pooling, over a batch of `n`.
    pub fn case(&self, n: usize) -> Case {
        let layer = Layer::new(Settings { kernel_size: self.kernel, stride: self.stride });
        Case { n, input: Shape::Image(self.input), layer }
    }
}

/// Every case.
pub fn all() -> Vec<Case> {
    DIMS.iter().map(|(n, dims)| dims.case(*n)).collect()
}

/// A random pooling of such images.
pub fn draw(rng: &mut Philox, input: Shape) -> Option<Layer> {
    let [_, h, w] = input.image().ok()?;
    let mut upto = |most: usize| 1 + rng.below(most as u32) as usize;
    Some(Layer::new(Settings { kernel_size: [upto(4.min(h)), upto(4.min(w))], stride: [upto(5), upto(5)] }))
}

/// A recorded case.
pub fn golden(number: &dyn Fn(&str) -> f64) -> Case {
    let number = |name| number(name) as usize;
    MaxPool2d {
        input: [number("c"), number("h"), number("w")],
        kernel: [number("kh"), number("kw")],
        stride: [number("stride_h"), number("stride_w")],
    }
    .case(number("n"))
}
