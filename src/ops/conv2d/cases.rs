//! Awkward convolutions: single elements, primes, kernels as large as the image, strides that leave pixels out, the
//! seed network's own; kernels with gaps, and channels in groups.

use super::{Conv2d, Settings};
use crate::layer::{Init, Layer, Shape};
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
    (n, Conv2d { input, c_out, kernel, stride, padding, bias: true, ..Conv2d::PLAIN })
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

/// Convolutions in groups, and with gaps in their kernels, likewise: no fused form takes them.
const SPARSE: &[(usize, Conv2d)] = &[
    sparse(conv(2, [4, 5, 7], 4, [3, 3], [1, 1], [1, 1]), 4, [1, 1]),
    sparse(conv(1, [3, 6, 5], 9, [3, 2], [2, 1], [1, 0]), 3, [1, 1]),
    sparse(conv(3, [6, 7, 5], 4, [1, 3], [1, 2], [0, 1]), 2, [1, 1]),
    sparse(conv(2, [2, 9, 11], 3, [3, 3], [1, 1], [2, 2]), 1, [2, 2]),
    sparse(conv(1, [3, 11, 7], 2, [3, 2], [2, 3], [0, 4]), 1, [4, 3]),
    // A kernel as large as the padded image, whose taps are all in the padding.
    sparse(conv(2, [1, 1, 2], 2, [3, 2], [1, 1], [1, 1]), 1, [1, 3]),
    sparse(conv(2, [6, 8, 9], 12, [3, 3], [2, 1], [3, 2]), 6, [2, 3]),
    sparse(conv(2, [32, 14, 14], 32, [3, 3], [1, 1], [1, 1]), 32, [1, 1]),
];

const fn sparse((n, dims): (usize, Conv2d), groups: usize, dilation: [usize; 2]) -> (usize, Conv2d) {
    (n, Conv2d { groups, dilation, ..dims })
}

impl Conv2d {
    /// The case of this convolution, over a batch of `n`.
    pub fn case(&self, n: usize) -> Case {
        let Self { input, c_out: out_channels, kernel: kernel_size, stride, padding, dilation, groups, bias, init } =
            *self;
        let in_channels = None;
        let settings =
            Settings { in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, init };
        Case { n, input: Shape::Image(input), layer: Layer::new(settings) }
    }
}

/// Every case.
pub fn all() -> Vec<Case> {
    let without_bias = DIMS[3..5].iter().map(|(n, dims)| Conv2d { bias: false, ..*dims }.case(*n));
    DIMS.iter().chain(SPARSE).map(|(n, dims)| dims.case(*n)).chain(without_bias).collect()
}

/// A random convolution of such images, if one fits. Every other one is dense.
pub fn draw(rng: &mut Philox, input: Shape) -> Option<Layer> {
    let [channels, h, w] = input.image().ok()?;
    let mut upto = |most: usize| 1 + rng.below(most as u32) as usize;
    let padding = [upto(3) - 1, upto(3) - 1];
    let kernel_size = [upto(5.min(h + 2 * padding[0])), upto(5.min(w + 2 * padding[1]))];
    let (mut groups, mut dilation) = (1, [1; 2]);
    if upto(2) == 1 {
        let divisors: Vec<usize> = (1..=channels).filter(|groups| channels.is_multiple_of(*groups)).collect();
        groups = divisors[upto(divisors.len()) - 1];
        dilation = [(kernel_size[0], h + 2 * padding[0]), (kernel_size[1], w + 2 * padding[1])]
            .map(|(kernel, size)| if kernel == 1 { 1 } else { upto(3.min((size - 1) / (kernel - 1))) });
    }
    let settings = Settings {
        in_channels: None,
        out_channels: if groups == 1 { upto(9) } else { groups * upto(2) },
        kernel_size,
        stride: [upto(3), upto(3)],
        padding,
        dilation,
        groups,
        bias: true,
        init: [Init::Default, Init::Kaiming][upto(2) - 1],
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
        dilation: pair("dilation_h", "dilation_w"),
        groups: number("groups"),
        ..Conv2d::PLAIN
    }
    .case(number("n"))
}
