//! The operations: for each, its shape rule, its dimensions, and how it is recorded into a plan.
//!
//! One stem names an operation everywhere: `shaders/<stem>.wgsl` computes it on a GPU, `src/ops/<stem>.rs` gives its
//! shapes and records its dispatches, `src/oracle/<stem>.rs` is its twin on the CPU.

pub mod ceiling;
pub mod conv2d;
pub mod conv2d_pool;
pub mod gather;
pub mod head;
pub mod linear;
pub mod linear_tiled;
pub mod max_pool2d;
pub mod relu;
pub mod seal;

use crate::plan::Slice;

/// The target that stands for an ignored sample, on the device, in the oracle and in a data set: no class.
pub const IGNORED: u32 = u32::MAX;

/// Threads of a workgroup, as `WORKGROUP` in `shaders/common/dispatch.wgsl`.
pub(crate) const WORKGROUP: usize = 64;

/// The buffers of a layer with a weight and a bias in a plan.
#[derive(Clone, Copy, Debug)]
pub struct AffineBuffers {
    /// Input, `[n, …]`.
    pub x: Slice,
    /// Weight: OIHW, or `[outputs, inputs]`.
    pub w: Slice,
    /// Bias, one for each output channel or feature.
    pub b: Slice,
    /// Output, `[n, …]`.
    pub y: Slice,
    /// Gradient of the weight.
    pub dw: Slice,
    /// Gradient of the bias.
    pub db: Slice,
}

/// Why an operation does not fit its input: what it got, and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// What reached the operation.
    pub got: String,
    /// What it needs.
    pub needs: String,
}

/// PyTorch's floor rule for a window over one axis: `floor((size + 2 padding - kernel) / stride) + 1`, or `None` where
/// the window does not fit once.
pub(crate) fn windows(size: usize, kernel: usize, stride: usize, padding: usize) -> Option<usize> {
    (kernel > 0 && stride > 0 && size > 0)
        .then(|| (size + 2 * padding).checked_sub(kernel).map(|room| room / stride + 1))?
}
