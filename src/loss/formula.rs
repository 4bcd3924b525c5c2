//! What a form of loss gives.

use super::{Batch, Buffers, LossBlock, Target};
use crate::loss::smoothing::Smoothing;
use crate::plan::shaders::Shader;
use crate::plan::{Grid, Plan, Slice, Uniform};
use crate::real::Real;
use crate::{Error, Result};

/// What is recorded of a loss.
#[derive(Clone, Copy, Debug)]
pub enum Pass {
    /// The losses alone.
    Forward,
    /// The gradient alone, for an upstream gradient of each row, `[n]` (PyTorch's `reduction='none'`).
    Backward(Slice),
    /// Both; the upstream gradient is the step's ([`LossBlock::dloss`]).
    ForwardBackward,
}

/// A form of loss: one number for each row of logits, and its gradient. In what follows `row` is what the loss has for
/// an image beside its label ([`super::Loss::rows`]), `[classes]`.
pub trait Formula: Clone + std::fmt::Debug + PartialEq {
    /// The stem of its shader.
    const NAME: &'static str;

    /// The classes it is for, where it knows them.
    fn classes(&self) -> Option<usize> {
        None
    }

    /// The same with another epsilon: itself, where it has none.
    fn with_epsilon(&self, epsilon: f64) -> Self;

    /// Which classes take part; `None`: all of them.
    fn allowed(&self) -> Option<&[bool]> {
        None
    }

    /// Whether a sample is not ignored.
    fn counts(&self, label: u32, classes: usize, _row: Option<&[f32]>) -> bool {
        (label as usize) < classes
    }

    /// A sample's weight in the mean.
    fn weight(&self, label: u32, classes: usize, row: Option<&[f32]>) -> f64 {
        f64::from(u8::from(self.counts(label, classes, row)))
    }

    /// What is missing where there are no rows; `None` where it does without.
    fn needs(&self) -> Option<&'static str> {
        None
    }

    /// The smoothed cross-entropy that is left of it for images of which there is a label and nothing else, if it is
    /// one.
    fn of_labels(&self) -> Option<Smoothing> {
        None
    }

    /// Whether it has a least value that it cannot go below: the entropy of its target.
    fn has_least(&self) -> bool {
        true
    }

    /// What [`Self::entropy`] needs of the classes alone, made once. One-hot targets need nothing, as here.
    fn shared_entropy(&self, _classes: usize) -> [f64; 2] {
        [0.0; 2]
    }

    /// The entropy of a sample's target, with the sample's weight: the least that its loss can be. 0 where it is
    /// ignored, and for one-hot targets.
    fn entropy(&self, _shared: [f64; 2], _target: Target, _classes: usize, _row: Option<&[f32]>) -> f64 {
        0.0
    }

    /// The block with what changes from step to step.
    fn fill(&self, _classes: usize, block: LossBlock) -> LossBlock {
        block
    }

    /// Records a pass over up to `n` rows of `classes` logits ([`rows`]).
    ///
    /// # Errors
    /// As [`Plan::dispatch`] and [`Plan::buffer`].
    fn record(&self, plan: &mut Plan, pass: Pass, n: usize, classes: usize, at: &Buffers) -> Result<()>;

    /// The twin: `logits [n, classes]` to `losses [n]`.
    fn forward<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, losses: &mut [T]);

    /// The twin: `logits [n, classes]` to `nlls [n]`: plain cross-entropy with the labels or the distributions as they
    /// are, without smoothing, weights, or a teacher. 0 where a sample is ignored.
    fn nll<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, nlls: &mut [T]);

    /// The twin: `logits`, `dloss [n]` (the losses' upstream gradient) to `dlogits [n, classes]`.
    fn backward<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, dloss: &[T], dlogits: &mut [T]);

    /// The form of the fast CPU path: loss and nll of one row of logits, and its gradient for an upstream gradient of
    /// 1. `row` is what the loss has for the image, or nothing.
    fn fast<T: Real>(&self, logits: &[T], target: Target, row: &[T], dlogits: &mut [T]) -> [T; 2];
}

/// A loss's factor or exponent, if it is a number from 0 on.
///
/// # Errors
/// [`Error::Usage`], which begins with `what`.
pub(super) fn strength(what: &str, value: f64) -> Result<f64> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    Err(Error::Usage(format!("{what}: found {value}, expected a number from 0 on")))
}

/// Records a pass of a shader that takes its entry points from `shaders/common/loss.wgsl`; `more` is what it binds
/// beside logits, labels and results.
///
/// # Errors
/// As [`Plan::dispatch`].
pub fn rows<D: Uniform>(
    plan: &mut Plan,
    (label, shader): (&str, &'static Shader),
    dims: D,
    (pass, n): (Pass, usize),
    at: &Buffers,
    more: &[(&str, Slice)],
) -> Result<()> {
    let (entry, results) = match pass {
        Pass::Forward => ("forward", vec![("losses", at.losses)]),
        Pass::Backward(dloss) => ("backward", vec![("dloss", dloss), ("dlogits", at.dlogits)]),
        Pass::ForwardBackward => ("forward_backward", vec![("losses", at.losses), ("dlogits", at.dlogits)]),
    };
    let bindings = [&[("logits", at.logits)], more, &results].concat();
    plan.dispatch(format!("{label}.{entry}"), (shader, entry), dims, Grid::Workgroups(n), 0, &bindings)
}
