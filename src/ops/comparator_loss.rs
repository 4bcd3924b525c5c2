//! Two losses that label smoothing is compared with, fused with log-softmax and their gradient. The target is a class index
//! y; with p = softmax of the logits, H(p) its entropy in nats:
//!
//! ```text
//! confidence penalty   -ln p[y] - beta H(p)              Pereyra et al. 2017, "Regularizing Neural Networks by
//!                                                        Penalizing Confident Output Distributions"
//! focal loss           -(1 - p[y])^gamma ln p[y]         Lin et al. 2017, "Focal Loss for Dense Object Detection"
//! ```
//!
//! The kernel computes `-(1 - p[y])^gamma ln p[y] - beta H(p)`; with both 0 it is plain cross-entropy. A sample whose index
//! is no class ([`super::IGNORED`]) has loss 0 and gradient 0. Reductions are in the upstream gradient, as in
//! [`super::weighted_loss`].

use crate::plan::shaders::COMPARATOR_LOSS;
use crate::plan::{Grid, Plan, Slice, uniform, word};
use crate::{Error, Result};

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

/// The loss's buffers in a plan.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// `[n, classes]`.
    pub logits: Slice,
    /// Class indices, `[n]`.
    pub targets: Slice,
    /// Loss and nll of each row, `[n, 2]`.
    pub losses: Slice,
    /// Gradient of the logits, `[n, stride]`.
    pub dlogits: Slice,
    /// Elements from one row of `dlogits` to the next, at least `classes`; zeros fill it up.
    pub stride: usize,
}

impl ComparatorLoss {
    /// Cross-entropy less `beta` times the prediction's entropy.
    ///
    /// # Errors
    /// [`Error::Usage`] if beta is negative or not finite.
    pub fn confidence_penalty(classes: usize, beta: f64) -> Result<Self> {
        Ok(Self { classes, gamma: 0.0, beta: strength("confidence penalty", beta)? })
    }

    /// Cross-entropy times `(1 - p[y])^gamma`.
    ///
    /// # Errors
    /// [`Error::Usage`] if gamma is negative or not finite.
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

    fn dims(&self, stride: usize) -> Dims {
        let (gamma, beta) = (self.gamma as f32, self.beta as f32);
        Dims { classes: word(self.classes), stride: word(stride), gamma, beta }
    }

    /// Records the losses of up to `n` rows. `at.dlogits` is not used.
    pub fn forward(&self, plan: &mut Plan, n: usize, at: &Buffers) -> Result<()> {
        let bindings = [("logits", at.logits), ("targets", at.targets), ("losses", at.losses)];
        self.record(plan, "forward", n, at, &bindings)
    }

    /// Records the gradient of up to `n` rows for an upstream gradient `dloss`, `[n]`.
    pub fn backward(&self, plan: &mut Plan, n: usize, at: &Buffers, dloss: Slice) -> Result<()> {
        let bindings = [("logits", at.logits), ("targets", at.targets), ("dloss", dloss), ("dlogits", at.dlogits)];
        self.record(plan, "backward", n, at, &bindings)
    }

    /// Records losses and gradient of up to `n` rows; the upstream gradient is the step's `dloss`.
    pub fn forward_backward(&self, plan: &mut Plan, n: usize, at: &Buffers) -> Result<()> {
        let bindings = [("logits", at.logits), ("targets", at.targets), ("losses", at.losses), ("dlogits", at.dlogits)];
        self.record(plan, "forward_backward", n, at, &bindings)
    }

    fn record(&self, plan: &mut Plan, pass: &str, n: usize, at: &Buffers, bindings: &[(&str, Slice)]) -> Result<()> {
        let label = format!("comparator_loss.{pass}");
        plan.dispatch(label, (&COMPARATOR_LOSS, pass), self.dims(at.stride), Grid::Workgroups(n), 0, bindings)
    }
}

fn strength(what: &str, value: f64) -> Result<f64> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    Err(Error::Usage(format!("{what}: found {value}, expected a number from 0 on")))
}
