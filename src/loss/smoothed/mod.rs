//! Log-softmax fused with the smoothed cross-entropy, and its gradient. The target is a class index; the smoothed
//! distribution is two numbers ([`crate::loss::smoothing::Masses`]) and never a tensor. The device has them from the
//! step ([`Masses::fill`]), so that they may change from one step to the next.
//!
//! With z = x - max(x), s = ln(sum of exp z), and q the target with `on` at class y and `off` elsewhere (they sum to
//! 1):
//!
//! ```text
//! loss[n]      = -sum over c of q[c] * (z[c] - s)  =  s - (on - off) * z[y] - off * sum over c of z[c]
//! dlogits[n,c] = dloss[n] * (exp(z[c] - s) - q[c])
//! ```
//!
//! A sample whose index is no class ([`crate::ops::IGNORED`]) has loss 0 and gradient 0.

pub mod cases;
pub mod fast;
pub mod reference;

use super::formula::{Formula, Pass, rows};
use super::{Batch, Buffers, LossBlock, Target};
use crate::Result;
use crate::loss::smoothing::{Masses, Smoothing};
use crate::plan::shaders::SMOOTHED_LOSS;
use crate::plan::{Plan, uniform, word};
use crate::real::Real;

uniform! {
    /// `SmoothedLoss` in `shaders/smoothed_loss.wgsl`.
    struct Dims {
        classes: u32,
        stride: u32,
    }
}

impl Masses {
    /// The block with this target.
    pub fn fill(self, block: LossBlock) -> LossBlock {
        LossBlock { on: self.on as f32, off: self.off as f32, kept: (self.on - self.off) as f32, ..block }
    }
}

impl Formula for Smoothing {
    const NAME: &'static str = "smoothed_loss";

    fn with_epsilon(&self, epsilon: f64) -> Self {
        Self { epsilon, ..*self }
    }

    fn of_labels(&self) -> Option<Smoothing> {
        Some(*self)
    }

    fn shared_entropy(&self, classes: usize) -> [f64; 2] {
        [self.target_entropy(classes), 1.0]
    }

    fn entropy(&self, [of_target, _]: [f64; 2], target: Target, classes: usize, _row: Option<&[f32]>) -> f64 {
        if (target.label as usize) < classes { of_target } else { 0.0 }
    }

    fn fill(&self, classes: usize, block: LossBlock) -> LossBlock {
        self.masses(classes).fill(block)
    }

    fn record(&self, plan: &mut Plan, pass: Pass, n: usize, classes: usize, at: &Buffers) -> Result<()> {
        let dims = Dims { classes: word(classes), stride: word(at.stride) };
        rows(plan, ("loss", &SMOOTHED_LOSS), dims, (pass, n), at, &[("targets", at.targets)])
    }

    fn forward<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, losses: &mut [T]) {
        reference::forward(self.masses(classes), classes, logits, batch.labels, losses);
    }

    fn nll<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, nlls: &mut [T]) {
        reference::nll(classes, logits, batch.labels, nlls);
    }

    fn backward<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, dloss: &[T], dlogits: &mut [T]) {
        reference::backward(self.masses(classes), classes, logits, batch.labels, dloss, dlogits);
    }

    fn fast<T: Real>(&self, logits: &[T], target: Target, _row: &[T], dlogits: &mut [T]) -> [T; 2] {
        fast::row(self.masses(logits.len()), logits, target.label, dlogits)
    }
}
