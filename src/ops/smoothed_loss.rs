//! Log-softmax fused with the smoothed cross-entropy, and its gradient. The target is a class index; the smoothed
//! distribution is two numbers ([`crate::loss::smoothing::Masses`]) and never a tensor. The device has them from the step
//! ([`Masses::fill`]), so that they may change from one step to the next.
//!
//! With z = x - max(x), s = ln(sum of exp z), and q the target with `on` at class y and `off` elsewhere (they sum to 1):
//!
//! ```text
//! loss[n]      = -sum over c of q[c] * (z[c] - s)  =  s - (on - off) * z[y] - off * sum over c of z[c]
//! dlogits[n,c] = dloss[n] * (exp(z[c] - s) - q[c])
//! ```
//!
//! A sample whose index is no class ([`super::IGNORED`]) has loss 0 and gradient 0.

use crate::Result;
use crate::loss::Block;
use crate::loss::smoothing::Masses;
use crate::plan::shaders::SMOOTHED_LOSS;
use crate::plan::{Grid, Plan, Slice, uniform, word};

uniform! {
    /// `SmoothedLoss` in `shaders/smoothed_loss.wgsl`.
    struct Dims {
        classes: u32,
    }
}

impl Masses {
    /// The block with this target.
    pub fn fill(self, block: Block) -> Block {
        Block { on: self.on as f32, off: self.off as f32, kept: (self.on - self.off) as f32, ..block }
    }
}

/// The loss over rows of `classes` logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmoothedLoss {
    /// Logits in a row.
    pub classes: usize,
}

/// The loss's buffers in a plan.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// `[n, classes]`.
    pub logits: Slice,
    /// Class indices, `[n]`.
    pub targets: Slice,
    /// Loss and nll of each row, `[n, 2]`.
    pub losses: Slice,
    /// Gradient of the logits.
    pub dlogits: Slice,
}

impl SmoothedLoss {
    fn dims(&self) -> Dims {
        Dims { classes: word(self.classes) }
    }

    /// Records the losses of up to `n` rows.
    pub fn forward(&self, plan: &mut Plan, n: usize, at: &Buffers) -> Result<()> {
        plan.dispatch(
            "loss.forward",
            (&SMOOTHED_LOSS, "forward"),
            self.dims(),
            Grid::Workgroups(n),
            0,
            &[("logits", at.logits), ("targets", at.targets), ("losses", at.losses)],
        )
    }

    /// Records the gradient for an upstream gradient `dloss`, `[n]` (PyTorch's `reduction='none'`).
    pub fn backward(&self, plan: &mut Plan, n: usize, at: &Buffers, dloss: Slice) -> Result<()> {
        plan.dispatch(
            "loss.backward",
            (&SMOOTHED_LOSS, "backward"),
            self.dims(),
            Grid::Workgroups(n),
            0,
            &[("logits", at.logits), ("targets", at.targets), ("dloss", dloss), ("dlogits", at.dlogits)],
        )
    }

    /// Records losses and gradient at once; the upstream gradient is the step's `dloss` (1/n for `reduction='mean'`).
    pub fn forward_backward(&self, plan: &mut Plan, n: usize, at: &Buffers) -> Result<()> {
        plan.dispatch(
            "loss.forward_backward",
            (&SMOOTHED_LOSS, "forward_backward"),
            self.dims(),
            Grid::Workgroups(n),
            0,
            &[("logits", at.logits), ("targets", at.targets), ("losses", at.losses), ("dlogits", at.dlogits)],
        )
    }
}
