//! Two losses that came of criticism of label smoothing, fused with log-softmax and their gradient: cross-entropy with
//! a penalty on how far the largest logit stands above the others. The target is a class index y; over C classes:
//!
//! ```text
//! MaxSup   -ln p[y] + alpha (max x - mean x)                         Zhou et al. 2025, "MaxSup: Overcoming Representation
//!                                                                    Collapse in Label Smoothing"
//! MbLS     -ln p[y] + lambda/C sum over c of max(0, max x - x[c] - m)
//!                                                                    Liu et al. 2022, "The Devil is in the Margin:
//!                                                                    Margin-based Label Smoothing for Network Calibration"
//! ```
//!
//! Uniform smoothing with e is `-ln p[y] + e (x[y] - mean x)`: MaxSup puts the largest logit in the true one's place,
//! so that a wrong answer is pushed down too. Its alpha is the run's epsilon, and may change from step to step as that
//! may. MbLS leaves differences up to the margin m as they are. Of several largest logits each has an equal share of
//! the gradient. A sample whose index is no class ([`crate::ops::IGNORED`]) has loss 0 and gradient 0.

pub mod cases;
pub mod fast;
pub mod reference;

use super::formula::{Formula, Pass, rows, strength};
use super::{Batch, Buffers, LossBlock, Target, smoothed};
use crate::Result;
use crate::plan::shaders::LOGIT_PENALTY;
use crate::plan::{Plan, uniform, word};
use crate::real::Real;

/// The loss over rows of `classes` logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitPenalty {
    classes: usize,
    alpha: f64,
    lambda: f64,
    margin: f64,
}

uniform! {
    /// `LogitPenalty` in `shaders/logit_penalty.wgsl`.
    struct Dims {
        classes: u32,
        stride: u32,
        each: f32,
        margin: f32,
    }
}

impl LogitPenalty {
    /// Cross-entropy and `alpha` times how far the largest logit is above the mean.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] if alpha is negative or not finite.
    pub fn maxsup(classes: usize, alpha: f64) -> Result<Self> {
        Ok(Self { classes, alpha: strength("maxsup's alpha", alpha)?, lambda: 0.0, margin: 0.0 })
    }

    /// Cross-entropy and `lambda` times the mean over the classes of what is more than `margin` below the largest
    /// logit.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] if lambda or the margin is negative or not finite.
    pub fn mbls(classes: usize, lambda: f64, margin: f64) -> Result<Self> {
        let (lambda, margin) = (strength("mbls' lambda", lambda)?, strength("mbls' margin", margin)?);
        Ok(Self { classes, alpha: 0.0, lambda, margin })
    }

    /// Logits in a row.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// MaxSup's factor.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// MbLS' factor.
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    /// MbLS' margin.
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// What a penalised class of a row counts: lambda / C.
    fn each(&self) -> f64 {
        self.lambda / self.classes as f64
    }
}

impl Formula for LogitPenalty {
    const NAME: &'static str = "logit_penalty";

    fn classes(&self) -> Option<usize> {
        Some(self.classes)
    }

    /// MaxSup's alpha follows; MbLS has none.
    fn with_epsilon(&self, epsilon: f64) -> Self {
        if self.lambda == 0.0 { Self { alpha: epsilon, ..*self } } else { *self }
    }

    /// Its least value is that of no target's entropy.
    fn has_least(&self) -> bool {
        false
    }

    fn fill(&self, _classes: usize, block: LossBlock) -> LossBlock {
        LossBlock { epsilon: self.alpha as f32, ..block }
    }

    fn record(&self, plan: &mut Plan, pass: Pass, n: usize, classes: usize, at: &Buffers) -> Result<()> {
        let (each, margin) = (self.each() as f32, self.margin as f32);
        let dims = Dims { classes: word(classes), stride: word(at.stride), each, margin };
        rows(plan, ("logit_penalty", &LOGIT_PENALTY), dims, (pass, n), at, &[("targets", at.targets)])
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
