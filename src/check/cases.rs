//! Awkward sizes of what is no layer. One list for the tests, the check and the benches.

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
