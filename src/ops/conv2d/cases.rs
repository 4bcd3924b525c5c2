//! Awkward convolutions: single elements, primes, kernels as large as the image, strides that leave pixels out, and the
//! seed network's own.

use super::{Conv2d, Settings};
use crate::layer::{Layer, Shape};
use crate::ops::Case;
use crate::rng::Philox;

const fn conv(
    n: usize,
    input: [usize; 3],
    c_out: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> (usize, Conv2d) {
    (n, Conv2d { input, c_out, kernel, stride, padding, bias: true })
}

/// Images in a batch, and the convolution.
pub const DIMS: &[(usize, Conv2d)] = &[
    conv(1, [1, 1, 1], 1, [1, 1], [1, 1], [0, 0]),
    conv(2, [1, 1, 17], 3, [1, 3], [1, 1], [0, 1]),
    conv(1, [3, 5, 7], 2, [3, 3], [1, 1], [1, 1]),
    conv(3, [2, 7, 5], 5, [5, 3], [2, 1], [2, 1]),
    conv(2, [3, 11, 13], 7, [2, 4], [3, 2], [0, 3]),
    conv(2, [5, 4, 4], 3, [6, 6], [1, 1], [1, 1]),
    conv(1, [1, 9, 9], 2, [1, 1], [4, 4], [0, 0]),
    conv(5, [17, 3, 3], 19, [3, 3], [1, 1], [1, 1]),
    conv(3, [1, 28, 28], 32, [3, 3], [1, 1], [1, 1]),
    conv(2, [32, 14, 14], 64, [3, 3], [1, 1], [1, 1]),
    conv(1, [3, 32, 32], 8, [3, 3], [1, 1], [1, 1]),
];

impl Conv2d {
    /// The case of this convolution, over a batch of `n`.
    pub fn case(&self, n: usize) -> Case {
        let Self { input, c_out, kernel, stride, padding, bias } = *self;
        let settings = Settings { in_channels: None, out_channels: c_out, kernel_size: kernel, stride, padding, bias };
        Case { n, input: Shape::Image(input), layer: Layer::new(settings) }
    }
}

/// Every case.
pub fn all() -> Vec<Case> {
    let without_bias = DIMS[3..5].iter().map(|(n, dims)| Conv2d { bias: false, ..*dims }.case(*n));
    DIMS.iter().map(|(n, dims)| dims.case(*n)).chain(without_bias).collect()
}

/// A random convolution of such images, if one fits.
pub fn draw(rng: &mut Philox, input: Shape) -> Option<Layer> {
    let [_, h, w] = input.image().ok()?;
    let mut upto = |most: usize| 1 + rng.below(most as u32) as usize;
    let padding = [upto(3) - 1, upto(3) - 1];
    let kernel_size = [upto(5.min(h + 2 * padding[0])), upto(5.min(w + 2 * padding[1]))];
    let settings = Settings {
        in_channels: None,
        out_channels: upto(9),
        kernel_size,
        stride: [upto(3), upto(3)],
        padding,
        bias: true,
    };
    Some(Layer::new(settings))
}

/// A recorded case.
pub fn golden(number: &dyn Fn(&str) -> f64) -> Case {
    let number = |name| number(name) as usize;
    let pair = |a, b| [number(a), number(b)];
    Conv2d {
        input: [number("c_in"), number("h"), number("w")],
        c_out: number("c_out"),
        kernel: pair("kh", "kw"),
        stride: pair("stride_h", "stride_w"),
        padding: pair("pad_h", "pad_w"),
        bias: true,
    }
    .case(number("n"))
}
