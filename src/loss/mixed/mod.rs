//! The smoothed cross-entropy of mixed images ([`crate::ops::mix`]), fused with log-softmax and its gradient. An image
//! has two labels: its own, a, and that of its partner, b. With L the loss of [`super::smoothed`], q its target and `s`
//! the batch's share:
//!
//! ```text
//! loss[n]      = s L(a) + (1 - s) L(b)
//! dlogits[n,c] = dloss[n] * (s (p[c] - q_a[c]) + (1 - s) (p[c] - q_b[c]))        p = softmax of the logits
//! ```
//!
//! That is the cross-entropy with the target `s q_a + (1 - s) q_b`, as timm's `mixup_target` and
//! `SoftTargetCrossEntropy` have it; neither is stored. A label that is no class has no part in the sums: with one of
//! them ignored, the other's share is left.

pub mod cases;
pub mod fast;
pub mod reference;

use super::formula::{Formula, Pass, rows};
use super::smoothing::entropy_term;
use super::{Batch, Buffers, LossBlock, Target};
use crate::Result;
use crate::loss::smoothing::{Masses, Smoothing};
use crate::plan::shaders::MIXED_LOSS;
use crate::plan::{Plan, uniform, word};
use crate::real::Real;

/// The loss of mixed images, with this smoothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixedLoss(pub Smoothing);

uniform! {
    /// `MixedLoss` in `shaders/mixed_loss.wgsl`.
    struct Dims {
        classes: u32,
        stride: u32,
    }
}

impl Target {
    /// The shares of both labels over `classes` classes; that of an ignored one is 0.
    fn shares(&self, classes: usize) -> [f64; 2] {
        let share = |label: u32, share: f64| if (label as usize) < classes { share } else { 0.0 };
        [share(self.label, self.share), share(self.other, 1.0 - self.share)]
    }
}

impl Formula for MixedLoss {
    const NAME: &'static str = "mixed_loss";

    fn with_epsilon(&self, epsilon: f64) -> Self {
        Self(self.0.with_epsilon(epsilon))
    }

    fn of_labels(&self) -> Option<Smoothing> {
        Some(self.0)
    }

    fn shared_entropy(&self, classes: usize) -> [f64; 2] {
        self.0.shared_entropy(classes)
    }

    fn entropy(&self, shared: [f64; 2], target: Target, classes: usize, _row: Option<&[f32]>) -> f64 {
        let shares = target.shares(classes);
        let w = shares[0] + shares[1];
        if target.label == target.other || shares.contains(&0.0) {
            return w * shared[0];
        }
        let Masses { on, off } = self.0.masses(classes);
        let own = shares.map(|share| entropy_term(off + (on - off) * share / w));
        w * (own[0] + own[1] + (classes as f64 - 2.0) * entropy_term(off))
    }

    fn fill(&self, classes: usize, block: LossBlock) -> LossBlock {
        self.0.fill(classes, block)
    }

    fn record(&self, plan: &mut Plan, pass: Pass, n: usize, classes: usize, at: &Buffers) -> Result<()> {
        let dims = Dims { classes: word(classes), stride: word(at.stride) };
        rows(plan, ("mixed_loss", &MIXED_LOSS), dims, (pass, n), at, &[("targets", at.targets)])
    }

    fn forward<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, losses: &mut [T]) {
        reference::forward(self.0.masses(classes), classes, logits, batch, losses);
    }

    fn nll<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, nlls: &mut [T]) {
        reference::forward(Smoothing::NONE.masses(classes), classes, logits, batch, nlls);
    }

    fn backward<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, dloss: &[T], dlogits: &mut [T]) {
        reference::backward(self.0.masses(classes), classes, logits, batch, dloss, dlogits);
    }

    fn fast<T: Real>(&self, logits: &[T], target: Target, _row: &[T], dlogits: &mut [T]) -> [T; 2] {
        fast::row(self.0.masses(logits.len()), logits, target, dlogits)
    }
}
