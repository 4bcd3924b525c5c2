//! Awkward convolutions.

use crate::ops::conv2d::Conv2d;

const fn conv(
    n: usize,
    input: [usize; 3],
    c_out: usize,
    kernel: usize,
    stride: usize,
    padding: [usize; 2],
    bias: bool,
) -> (usize, Conv2d) {
    (n, Conv2d { input, c_out, kernel: [kernel; 2], stride: [stride; 2], padding, bias, ..Conv2d::PLAIN })
}

/// Planes beside the tiles, of one position and of one row; channels beside the blocks and their pairs; every padding
/// and stride; more tiles than a workgroup has.
pub const CASES: &[(usize, Conv2d)] = &[
    conv(2, [1, 3, 3], 4, 3, 1, [0, 0], true),
    conv(2, [3, 5, 7], 8, 3, 1, [1, 1], false),
    conv(3, [8, 7, 4], 12, 3, 1, [1, 0], true),
    conv(2, [5, 9, 6], 20, 3, 2, [1, 1], true),
    conv(3, [4, 8, 8], 4, 3, 2, [0, 1], false),
    conv(2, [12, 6, 11], 16, 3, 2, [0, 0], true),
    conv(3, [6, 5, 6], 8, 1, 1, [0, 0], true),
    conv(2, [16, 7, 8], 12, 1, 2, [0, 0], false),
    conv(5, [1, 1, 2], 4, 1, 2, [0, 0], true),
    conv(9, [16, 32, 32], 16, 3, 1, [1, 1], false),
    conv(5, [20, 16, 17], 36, 3, 2, [1, 1], false),
];

/// Batches of images with their channels last, whose channels are averaged.
pub const AVERAGES: &[(usize, [usize; 3])] = &[(1, [4, 1, 1]), (3, [12, 7, 5]), (9, [64, 8, 8])];
