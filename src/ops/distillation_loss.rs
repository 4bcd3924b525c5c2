//! Distillation from a teacher, fused with both softmaxes and its gradient: Hinton, Vinyals, Dean 2015, "Distilling the
//! Knowledge in a Neural Network". The target is a class index, smoothed as in [`super::smoothed_loss`]. With x the student's
//! logits, v the teacher's, T the temperature:
//!
//! ```text
//! u = softmax(x / T),  t = softmax(v / T)
//! loss[n]      = (1 - alpha) * smoothed cross-entropy(x) + alpha T^2 * sum over c of t[c] (ln t[c] - ln u[c])
//! dlogits[n,c] = dloss[n] * ((1 - alpha) (softmax(x)[c] - q[c]) + alpha T (u[c] - t[c]))
//! ```
//!
//! The second term is the Kullback-Leibler divergence; the cross-entropy of t and u, which the paper has, differs from it by
//! the entropy of t, and so by nothing in the gradient. T^2 keeps the share of both terms in the gradient when T changes
//! (section 2 there). A sample whose index is no class ([`super::IGNORED`]) has loss 0 and gradient 0.

use crate::plan::shaders::DISTILLATION_LOSS;
use crate::plan::{Grid, Plan, Slice, uniform, word};
use crate::{Error, Result};

/// The loss over rows of `classes` logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistillationLoss {
    classes: usize,
    temperature: f64,
    alpha: f64,
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

/// The loss's buffers in a plan. The step has the masses of the smoothed target.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// `[n, classes]`.
    pub logits: Slice,
    /// Class indices, `[n]`.
    pub targets: Slice,
    /// The teacher's logits of each image of the data set, `[images, classes]`.
    pub teacher: Slice,
    /// Which images the epoch's are, `[images]`; the step says where its batch begins.
    pub order: Slice,
    /// Loss and nll of each row, `[n, 2]`.
    pub losses: Slice,
    /// Gradient of the logits, `[n, stride]`.
    pub dlogits: Slice,
    /// Elements from one row of `dlogits` to the next, at least `classes`; zeros fill it up.
    pub stride: usize,
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
        Ok(Self { classes, temperature, alpha })
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

    fn dims(&self, stride: usize) -> Dims {
        let Self { classes, temperature, alpha } = *self;
        Dims {
            classes: word(classes),
            stride: word(stride),
            inverse_temperature: (1.0 / temperature) as f32,
            hard: (1.0 - alpha) as f32,
            soft: (alpha * temperature * temperature) as f32,
            soft_slope: (alpha * temperature) as f32,
        }
    }

    /// Records the losses of up to `n` rows. `at.dlogits` is not used.
    pub fn forward(&self, plan: &mut Plan, n: usize, at: &Buffers) -> Result<()> {
        self.record(plan, "forward", n, at, &[("losses", at.losses)])
    }

    /// Records the gradient of up to `n` rows for an upstream gradient `dloss`, `[n]`.
    pub fn backward(&self, plan: &mut Plan, n: usize, at: &Buffers, dloss: Slice) -> Result<()> {
        self.record(plan, "backward", n, at, &[("dloss", dloss), ("dlogits", at.dlogits)])
    }

    /// Records losses and gradient of up to `n` rows; the upstream gradient is the step's `dloss`.
    pub fn forward_backward(&self, plan: &mut Plan, n: usize, at: &Buffers) -> Result<()> {
        self.record(plan, "forward_backward", n, at, &[("losses", at.losses), ("dlogits", at.dlogits)])
    }

    fn record(&self, plan: &mut Plan, pass: &str, n: usize, at: &Buffers, outputs: &[(&str, Slice)]) -> Result<()> {
        let mut bindings =
            vec![("logits", at.logits), ("targets", at.targets), ("teacher", at.teacher), ("order", at.order)];
        bindings.extend(outputs);
        let label = format!("distillation_loss.{pass}");
        plan.dispatch(label, (&DISTILLATION_LOSS, pass), self.dims(at.stride), Grid::Workgroups(n), 0, &bindings)
    }
}
