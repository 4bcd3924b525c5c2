//! Awkward blocks.

use crate::ops::conv2d::Conv2d;

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

/// Convolutions for conv + ReLU + 2x2 pooling: planes whose last row or column no window covers, planes of one window,
/// channels beside the tiles, every padding.
pub const CASES: &[(usize, Conv2d)] = &[
    conv(1, [1, 2, 2], 4, [3, 3], [1, 1], [1, 1]),
    conv(2, [4, 5, 7], 4, [3, 3], [1, 1], [1, 1]),
    conv(3, [8, 7, 4], 12, [3, 3], [1, 1], [1, 1]),
    conv(1, [3, 9, 6], 20, [3, 3], [1, 1], [1, 1]),
    conv(2, [4, 6, 5], 8, [3, 3], [1, 1], [0, 2]),
    conv(5, [1, 28, 28], 32, [3, 3], [1, 1], [1, 1]),
    conv(3, [32, 14, 14], 64, [3, 3], [1, 1], [1, 1]),
    // More windows in a row, and more channels, than one tile of any form has; an odd number of each.
    conv(2, [36, 5, 19], 44, [3, 3], [1, 1], [1, 1]),
    // So many parts that few workgroups are large ones, of y and of dx.
    conv(9, [4, 31, 32], 36, [3, 3], [1, 1], [1, 1]),
];
