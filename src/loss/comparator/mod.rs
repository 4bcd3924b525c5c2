//! Two losses that label smoothing is compared with, fused with log-softmax and their gradient. The target is a class
//! index y; with p = softmax of the logits, H(p) its entropy in nats:
//!
//! ```text
//! confidence penalty   -ln p[y] - beta H(p)              Pereyra et al. 2017, "Regularizing Neural Networks by
//!                                                        Penalizing Confident Output Distributions"
//! focal loss           -(1 - p[y])^gamma ln p[y]         Lin et al. 2017, "Focal Loss for Dense Object Detection"
//! ```
//!
//! The kernel computes `-(1 - p[y])^gamma ln p[y] - beta H(p)`; with both 0 it is plain cross-entropy. A sample whose
//! index is no class ([`crate::ops::IGNORED`]) has loss 0 and gradient 0. Reductions are in the upstream gradient, as
//! in [`super::weighted`].

pub mod cases;
pub mod fast;
pub mod reference;

use super::formula::{Formula, Pass, rows, strength};
use super::{Batch, Buffers, Target, smoothed};
use crate::Result;
use crate::plan::shaders::COMPARATOR_LOSS;
use crate::plan::{Plan, uniform, word};
use crate::real::Real;

/// The loss over rows of `classes` logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ComparatorLoss {
    classes: usize,
    gamma: f64,
    beta: f64,
}

uniform! {
    /// `ComparatorLoss` in `shaders/comparator_loss.wgsl`.
    struct Dims {
        classes: u32,
        stride: u32,
        gamma: f32,
        beta: f32,
    }
}

impl ComparatorLoss {
    /// Cross-entropy less `beta` times the prediction's entropy.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] if beta is negative or not finite.
    pub fn confidence_penalty(classes: usize, beta: f64) -> Result<Self> {
        Ok(Self { classes, gamma: 0.0, beta: strength("confidence penalty", beta)? })
    }

    /// Cross-entropy times `(1 - p[y])^gamma`.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] if gamma is negative or not finite.
    pub fn focal(classes: usize, gamma: f64) -> Result<Self> {
        Ok(Self { classes, gamma: strength("focal loss", gamma)?, beta: 0.0 })
    }

    /// Logits in a row.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The focal loss's exponent.
    pub fn gamma(&self) -> f64 {
        self.gamma
    }

    /// The confidence penalty's factor.
    pub fn beta(&self) -> f64 {
        self.beta
    }
}

impl Formula for ComparatorLoss {
    const NAME: &'static str = "comparator_loss";

    fn classes(&self) -> Option<usize> {
        Some(self.classes)
    }

    fn with_epsilon(&self, _epsilon: f64) -> Self {
        *self
    }

    /// A confidence penalty has no target whose entropy it could not go below.
    fn has_least(&self) -> bool {
        false
    }

    fn record(&self, plan: &mut Plan, pass: Pass, n: usize, classes: usize, at: &Buffers) -> Result<()> {
        let (gamma, beta) = (self.gamma as f32, self.beta as f32);
        let dims = Dims { classes: word(classes), stride: word(at.stride), gamma, beta };
        rows(plan, ("comparator_loss", &COMPARATOR_LOSS), dims, (pass, n), at, &[("targets", at.targets)])
    }

    fn forward<T: Real>(&self, _classes: usize, logits: &[T], batch: Batch<T>, losses: &mut [T]) {
        reference::forward(self, logits, batch.labels, losses);
    }

    fn nll<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, nlls: &mut [T]) {
        smoothed::reference::nll(classes, logits, batch.labels, nlls);
    }

    fn backward<T: Real>(&self, _classes: usize, logits: &[T], batch: Batch<T>, dloss: &[T], dlogits: &mut [T]) {
        reference::backward(self, logits, batch.labels, dloss, dlogits);
    }

    fn fast<T: Real>(&self, logits: &[T], target: Target, _row: &[T], dlogits: &mut [T]) -> [T; 2] {
        fast::row(self, logits, target.label, dlogits)
    }
}
