//! Awkward shapes: single elements, primes, batches of one, windows that do not cover their image, and the seed network's
//! own. One list for the tests, the check and the benches.

use crate::ops::conv2d::Conv2d;
use crate::ops::linear::Linear;
use crate::ops::max_pool2d::MaxPool2d;

/// A batch and the operation's dimensions.
#[derive(Clone, Copy, Debug)]
pub struct Case<D> {
    /// Images.
    pub n: usize,
    /// Dimensions.
    pub dims: D,
}

const fn conv(
    n: usize,
    input: [usize; 3],
    c_out: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> Case<Conv2d> {
    Case { n, dims: Conv2d { input, c_out, kernel, stride, padding } }
}

/// Convolutions.
pub const CONV2D: &[Case<Conv2d>] = &[
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

/// Convolutions for conv + ReLU + 2x2 pooling: planes whose last row or column no window covers, planes of one window,
/// channels beside the tiles, every padding.
pub const CONV2D_POOL: &[Case<Conv2d>] = &[
    conv(1, [1, 2, 2], 4, [3, 3], [1, 1], [1, 1]),
    conv(2, [4, 5, 7], 4, [3, 3], [1, 1], [1, 1]),
    conv(3, [8, 7, 4], 12, [3, 3], [1, 1], [1, 1]),
    conv(1, [3, 9, 6], 20, [3, 3], [1, 1], [1, 1]),
    conv(2, [4, 6, 5], 8, [3, 3], [1, 1], [0, 2]),
    conv(5, [1, 28, 28], 32, [3, 3], [1, 1], [1, 1]),
    conv(3, [32, 14, 14], 64, [3, 3], [1, 1], [1, 1]),
    // More windows in a row, and more channels, than one tile of any form has; an odd number of each.
    conv(2, [36, 5, 19], 44, [3, 3], [1, 1], [1, 1]),
];

/// Poolings.
pub const MAX_POOL2D: &[Case<MaxPool2d>] = &[
    Case { n: 1, dims: MaxPool2d { input: [1, 1, 1], kernel: [1, 1], stride: [1, 1] } },
    Case { n: 2, dims: MaxPool2d { input: [3, 7, 9], kernel: [2, 2], stride: [2, 2] } },
    Case { n: 1, dims: MaxPool2d { input: [2, 8, 7], kernel: [3, 3], stride: [1, 1] } },
    Case { n: 3, dims: MaxPool2d { input: [1, 11, 13], kernel: [3, 2], stride: [2, 3] } },
    Case { n: 2, dims: MaxPool2d { input: [2, 9, 9], kernel: [2, 2], stride: [3, 4] } },
    // One row of windows that reach below where a second would start: the next plane's first row is no second.
    Case { n: 2, dims: MaxPool2d { input: [3, 4, 6], kernel: [3, 3], stride: [2, 2] } },
    Case { n: 1, dims: MaxPool2d { input: [1, 1, 17], kernel: [1, 5], stride: [1, 2] } },
    Case { n: 3, dims: MaxPool2d { input: [32, 28, 28], kernel: [2, 2], stride: [2, 2] } },
];

/// Fully connected layers.
pub const LINEAR: &[Case<Linear>] = &[
    Case { n: 1, dims: Linear { inputs: 1, outputs: 1 } },
    Case { n: 5, dims: Linear { inputs: 17, outputs: 3 } },
    Case { n: 1, dims: Linear { inputs: 127, outputs: 131 } },
    Case { n: 65, dims: Linear { inputs: 33, outputs: 64 } },
    Case { n: 7, dims: Linear { inputs: 128, outputs: 10 } },
    Case { n: 1, dims: Linear { inputs: 4, outputs: 2 } },
    Case { n: 17, dims: Linear { inputs: 36, outputs: 12 } },
    Case { n: 3, dims: Linear { inputs: 3136, outputs: 128 } },
    Case { n: 35, dims: Linear { inputs: 140, outputs: 52 } },
];

/// Elements of an image for element-wise operations, and the batch.
pub const RELU: &[(usize, usize)] = &[(1, 1), (3, 17), (2, 64), (5, 1009), (2, 25_088)];

/// Rows, classes, and the size of the logits for the loss.
pub const SMOOTHED_LOSS: &[(usize, usize, f32)] = &[
    (1, 2, 1.0),
    (5, 3, 4.0),
    (17, 10, 4.0),
    (3, 63, 1.0),
    (2, 64, 1.0),
    (4, 65, 1.0),
    (3, 10, 1e4),
    (7, 1000, 8.0),
    (2, 32_000, 4.0),
];

/// Numbers of parameters for the optimizers, which take them in fours.
pub const OPTIMIZER: &[usize] = &[4, 252, 256, 260, 4100];
