//! Distillation from a teacher, fused with both softmaxes and its gradient: Hinton, Vinyals, Dean 2015, "Distilling the
//! Knowledge in a Neural Network". The target is a class index, smoothed as in [`super::smoothed`]. With x the
//! student's logits, v the teacher's, T the temperature:
//!
//! ```text
//! u = softmax(x / T),  t = softmax(v / T)
//! loss[n]      = (1 - alpha) * smoothed cross-entropy(x) + alpha T^2 * sum over c of t[c] (ln t[c] - ln u[c])
//! dlogits[n,c] = dloss[n] * ((1 - alpha) (softmax(x)[c] - q[c]) + alpha T (u[c] - t[c]))
//! ```
//!
//! The second term is the Kullback-Leibler divergence; the cross-entropy of t and u, which the paper has, differs from
//! it by the entropy of t, and so by nothing in the gradient. T^2 keeps the share of both terms in the gradient when T
//! changes (section 2 there). A sample whose index is no class ([`crate::ops::IGNORED`]) has loss 0 and gradient 0.

pub mod cases;
pub mod fast;
pub mod reference;

use super::formula::{Formula, Pass, rows};
use super::{Batch, Buffers, LossBlock, Target, smoothed};
use crate::loss::smoothing::Smoothing;
use crate::plan::shaders::DISTILLATION_LOSS;
use crate::plan::{Plan, uniform, word};
use crate::real::Real;
use crate::{Error, Result};

/// The loss over rows of `classes` logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistillationLoss {
    classes: usize,
    temperature: f64,
    alpha: f64,
    smoothing: Smoothing,
}

uniform! {
    /// `DistillationLoss` in `shaders/distillation_loss.wgsl`.
    struct Dims {
        classes: u32,
        stride: u32,
        inverse_temperature: f32,
        hard: f32,
        soft: f32,
        soft_slope: f32,
    }
}

impl DistillationLoss {
    /// The temperature divides both networks' logits; `alpha` is the teacher's share of the loss.
    ///
    /// # Errors
    /// [`Error::Usage`] unless the temperature is a positive number and alpha one from 0 to 1.
    pub fn new(classes: usize, temperature: f64, alpha: f64) -> Result<Self> {
        if !(temperature.is_finite() && temperature > 0.0) {
            return Err(Error::Usage(format!(
                "distillation: found a temperature of {temperature}, expected a positive number"
            )));
        }
        if !(0.0..=1.0).contains(&alpha) {
            return Err(Error::Usage(format!(
                "distillation: found an alpha of {alpha}, expected a number from 0 to 1"
            )));
        }
        Ok(Self { classes, temperature, alpha, smoothing: Smoothing::NONE })
    }

    /// Logits in a row.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// What both networks' logits are divided by.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// The teacher's share of the loss.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The same, with labels that are smoothed so; without this they are not.
    pub fn smoothed(self, smoothing: Smoothing) -> Self {
        Self { smoothing, ..self }
    }

    /// The smoothing of the labels.
    pub fn smoothing(&self) -> Smoothing {
        self.smoothing
    }
}

impl Formula for DistillationLoss {
    const NAME: &'static str = "distillation_loss";

    fn classes(&self) -> Option<usize> {
        Some(self.classes)
    }

    fn with_epsilon(&self, epsilon: f64) -> Self {
        self.smoothed(self.smoothing.with_epsilon(epsilon))
    }

    fn needs(&self) -> Option<&'static str> {
        Some("teacher's logits")
    }

    fn of_labels(&self) -> Option<Smoothing> {
        Some(self.smoothing)
    }

    /// A teacher's divergence is 0 at its least.
    fn shared_entropy(&self, classes: usize) -> [f64; 2] {
        [(1.0 - self.alpha) * self.smoothing.target_entropy(classes), 1.0]
    }

    fn entropy(&self, shared: [f64; 2], target: Target, classes: usize, row: Option<&[f32]>) -> f64 {
        self.smoothing.entropy(shared, target, classes, row)
    }

    fn fill(&self, classes: usize, block: LossBlock) -> LossBlock {
        self.smoothing.masses(classes).fill(block)
    }

    fn record(&self, plan: &mut Plan, pass: Pass, n: usize, classes: usize, at: &Buffers) -> Result<()> {
        let Self { temperature, alpha, .. } = *self;
        let dims = Dims {
            classes: word(classes),
            stride: word(at.stride),
            inverse_temperature: (1.0 / temperature) as f32,
            hard: (1.0 - alpha) as f32,
            soft: (alpha * temperature * temperature) as f32,
            soft_slope: (alpha * temperature) as f32,
        };
        let missing = || Error::Usage("distillation: found no teacher's logits, expected them".into());
        let teacher = at.rows.ok_or_else(missing)?;
        let more = [("targets", at.targets), ("teacher", teacher), ("order", at.order)];
        rows(plan, ("distillation_loss", &DISTILLATION_LOSS), dims, (pass, n), at, &more)
    }

    fn forward<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, losses: &mut [T]) {
        let logits = reference::Logits { student: logits, teacher: batch.rows };
        reference::forward(self, self.smoothing.masses(classes), logits, batch.labels, losses);
    }

    fn nll<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, nlls: &mut [T]) {
        smoothed::reference::nll(classes, logits, batch.labels, nlls);
    }

    fn backward<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, dloss: &[T], dlogits: &mut [T]) {
        let logits = reference::Logits { student: logits, teacher: batch.rows };
        reference::backward(self, self.smoothing.masses(classes), logits, batch.labels, dloss, dlogits);
    }

    fn fast<T: Real>(&self, logits: &[T], target: Target, row: &[T], dlogits: &mut [T]) -> [T; 2] {
        fast::row(self, logits, target.label, row, dlogits)
    }
}
