//! Awkward poolings: windows that overlap, leave gaps, do not cover their image, or reach beyond it.

use super::{MaxPool2d, Settings};
use crate::layer::{Layer, Shape};
use crate::ops::Case;
use crate::rng::Philox;

const fn pool(n: usize, input: [usize; 3], kernel: [usize; 2], stride: [usize; 2]) -> (usize, MaxPool2d) {
    (n, MaxPool2d { input, kernel, stride, padding: [0; 2] })
}

const fn padded(
    n: usize,
    input: [usize; 3],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> (usize, MaxPool2d) {
    (n, MaxPool2d { input, kernel, stride, padding })
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
    padded(1, [1, 1, 1], [5, 3], [1, 1], [2, 1]),
    padded(2, [3, 7, 8], [3, 3], [2, 2], [1, 1]),
    padded(3, [2, 5, 6], [2, 2], [2, 2], [1, 1]),
    padded(1, [2, 9, 4], [5, 2], [1, 3], [2, 0]),
    padded(2, [3, 6, 5], [1, 4], [2, 1], [0, 2]),
    padded(3, [16, 28, 28], [3, 3], [2, 2], [1, 1]),
];

impl MaxPool2d {
    /// The case of this pooling, over a batch of `n`.
    pub fn case(&self, n: usize) -> Case {
        let Self { input, kernel, stride, padding } = *self;
        let layer = Layer::new(Settings { kernel_size: kernel, stride, padding });
        Case { n, input: Shape::Image(input), layer }
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
    let kernel_size = [upto(4.min(h)), upto(4.min(w))];
    let (stride, padding) = ([upto(5), upto(5)], kernel_size.map(|size| upto(size / 2 + 1) - 1));
    Some(Layer::new(Settings { kernel_size, stride, padding }))
}

/// A recorded case.
pub fn golden(number: &dyn Fn(&str) -> f64) -> Case {
    let number = |name| number(name) as usize;
    MaxPool2d {
        input: [number("c"), number("h"), number("w")],
        kernel: [number("kh"), number("kw")],
        stride: [number("stride_h"), number("stride_w")],
        padding: [number("pad_h"), number("pad_w")],
    }
    .case(number("n"))
}
