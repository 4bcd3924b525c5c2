//! Log-softmax fused with the general cross-entropy, and its gradient: any prior for the smoothing mass, class weights,
//! ignored samples, classes that take no part, and targets that are distributions. Where a target is a class index its
//! distribution is one number per class of a table that all rows share, and never a tensor `[n, classes]`.
//!
//! With A the classes that take part, z = x - max over A of x, s = ln(sum over A of exp z), p = exp(z - s), the target t
//! (one-hot at y, or given), a prior u over A, and class weights w (1 where there are none):
//!
//! ```text
//! q[k]         = (1 - e) t[k] + e u[k]                              the smoothed target, over A
//! W[n]         = sum over A of w[k] t[k]   (= w[y] for an index)    the sample's weight; 0 where it is ignored
//! a[k]         = w[k] q[k]  (PyTorch)   or   W[n] q[k]  (Sample)    both 0 where the sample is ignored
//! loss[n]      = -sum over A of a[k] (z[k] - s)
//! dlogits[n,k] = dloss[n] * (p[k] * (sum over A of a) - a[k])       0 outside A
//! ```
//!
//! Reductions are in `dloss`, the upstream gradient of each row ([`WeightedLoss::upstream`]): 1 for the sum,
//! 1 / (sum of W) for the mean, 0 for the mean of nothing (PyTorch gives NaN there); anything at all for
//! `reduction='none'`. The batch's loss is the sum of `dloss[n] * loss[n]`.
//!
//! With [`Weighting::PyTorch`] this is `torch.nn.CrossEntropyLoss(weight=w, label_smoothing=e, ignore_index=i)`, whose
//! smoothing term is weighted by each class's own weight while the mean divides by the weights of the true classes
//! (`cross_entropy_loss_label_smoothing` in ATen's LossNLL.cpp); for targets that are distributions its mean divides by
//! n (`cross_entropy_loss_prob_target`, same file), and so does ours.

use crate::plan::{Grid, Plan, Slice, uniform, word};
use crate::shaders::WEIGHTED_LOSS;
use crate::smoothing::{Epsilon, Prior};
use crate::{Error, Result};

/// The target that stands for an ignored sample on the device and in the oracle.
pub const IGNORED: u32 = u32::MAX;

/// The weight that stands for a class that takes no part; real weights are not negative.
const NO_PART: f32 = -1.0;

/// What a class weight multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Weighting {
    /// Each class's term: `-sum of w[k] q[k] ln p[k]`.
    #[default]
    PyTorch,
    /// The whole sample: `w[y]` times the cross-entropy of q and p.
    Sample,
}

/// How the rows' losses become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Over the sum of the samples' weights.
    Mean,
    /// Their sum.
    Sum,
}

/// What to build a [`WeightedLoss`] from.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Logits in a row.
    pub classes: usize,
    /// The mass that smoothing moves.
    pub epsilon: Epsilon,
    /// Where it goes.
    pub prior: Prior,
    /// A weight of each class, finite and not negative, and what it multiplies.
    pub weights: Option<(Weighting, Vec<f64>)>,
    /// Which classes take part; all where there is no mask.
    pub allowed: Option<Vec<bool>>,
}

impl Spec {
    /// Plain cross-entropy over `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, epsilon: Epsilon::default(), prior: Prior::Uniform, weights: None, allowed: None }
    }
}

/// The loss over rows of [`WeightedLoss::classes`] logits.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedLoss {
    keep: f64,
    smooth: Vec<f64>,
    weighting: Weighting,
    weights: Vec<f64>,
    allowed: Vec<bool>,
}

uniform! {
    /// `WeightedLoss` in `shaders/weighted_loss.wgsl`.
    struct Dims {
        classes: u32,
        first: u32,
        by_sample: u32,
        mean: u32,
        keep: f32,
        smooth_total: f32,
    }
}

/// A batch's targets in a plan.
#[derive(Clone, Copy, Debug)]
pub enum Targets {
    /// Class indices from [`WeightedLoss::targets`], `[n]`.
    Index(Slice),
    /// Distributions, `[n, classes]`. What they hold for a class that takes no part is not read.
    Soft(Slice),
}

/// The loss's buffers in a plan.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// `[n, classes]`.
    pub logits: Slice,
    /// Index or distribution.
    pub targets: Targets,
    /// [`WeightedLoss::class_table`], `[classes, 2]`.
    pub class_table: Slice,
    /// `[n]`.
    pub losses: Slice,
    /// Upstream gradient of each loss, `[n]`.
    pub dloss: Slice,
    /// Gradient of the logits, `[n, classes]`.
    pub dlogits: Slice,
}

impl WeightedLoss {
    /// Checks the parts against each other.
    ///
    /// # Errors
    /// [`Error::Usage`]: lists of another length than `classes`, a weight that is negative or not finite, no class that
    /// takes part, a prior with nothing to spread over, an off-target epsilon from which on the true class is not the
    /// target's largest.
    pub fn new(spec: &Spec) -> Result<Self> {
        let classes = spec.classes;
        let fail = |what: String| Err(Error::Usage(format!("loss: {what}")));
        let allowed = spec.allowed.clone().unwrap_or_else(|| vec![true; classes]);
        if allowed.len() != classes {
            return fail(format!("found {} entries in the class mask, expected {classes}", allowed.len()));
        }
        let part = allowed.iter().filter(|allowed| **allowed).count();
        if part == 0 {
            return fail(format!("found no class of {classes} that takes part, expected at least one"));
        }
        let (weighting, weights) = spec.weights.clone().unwrap_or_else(|| (Weighting::PyTorch, vec![1.0; classes]));
        if weights.len() != classes {
            return fail(format!("found {} class weights, expected {classes}", weights.len()));
        }
        if let Some(class) = weights.iter().position(|w| !w.is_finite() || *w < 0.0) {
            return fail(format!("weight of class {class}: found {}, expected a number from 0 on", weights[class]));
        }
        let epsilon = spec.prior.effective_epsilon(spec.epsilon.value(), part);
        if !(epsilon.is_finite() && epsilon < 1.0) {
            let given = spec.epsilon.value();
            return fail(format!(
                "found off-target smoothing of {given} over {part} classes, expected less than (C-1)/C"
            ));
        }
        let smooth = spec.prior.over(&allowed)?.into_iter().map(|u| epsilon * u).collect();
        Ok(Self { keep: 1.0 - epsilon, smooth, weighting, weights, allowed })
    }

    /// Logits in a row.
    pub fn classes(&self) -> usize {
        self.allowed.len()
    }

    /// 1 - e, what the target keeps (e being that of the form with a prior).
    pub fn keep(&self) -> f64 {
        self.keep
    }

    /// e times the prior, `[classes]`; 0 where a class takes no part.
    pub fn smooth(&self) -> &[f64] {
        &self.smooth
    }

    /// What the class weights multiply.
    pub fn weighting(&self) -> Weighting {
        self.weighting
    }

    /// The class weights, 1 where none were given.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Which classes take part.
    pub fn allowed(&self) -> &[bool] {
        &self.allowed
    }

    /// Labels as the device takes them: those equal to `ignore_index` (any number, PyTorch's default is -100) become
    /// [`IGNORED`].
    ///
    /// # Errors
    /// [`Error::Usage`] for a label that is no class, or one of a class that takes no part: its loss would be infinite.
    /// (A device that meets either all the same ignores the sample.)
    pub fn targets(&self, labels: &[i64], ignore_index: Option<i64>) -> Result<Vec<u32>> {
        let target = |(i, &label): (usize, &i64)| {
            if ignore_index == Some(label) {
                return Ok(IGNORED);
            }
            match usize::try_from(label).ok().and_then(|class| self.allowed.get(class)) {
                Some(true) => Ok(label as u32),
                Some(false) => Err(Error::Usage(format!(
                    "label {i}: found class {label}, which the class mask leaves out; expected one that takes part"
                ))),
                None => Err(Error::Usage(format!(
                    "label {i}: found {label}, expected a class below {}{}",
                    self.classes(),
                    ignore_index.map(|index| format!(", or {index}, which is ignored")).unwrap_or_default()
                ))),
            }
        };
        labels.iter().enumerate().map(target).collect()
    }

    /// What the device knows of the classes, `[classes, 2]`: the weight (negative where a class takes no part) and the
    /// smoothing mass (with PyTorch's weighting: times the weight).
    pub fn class_table(&self) -> Vec<f32> {
        let row = |class: usize| {
            if self.allowed[class] {
                [self.weights[class] as f32, self.weighted_smooth(class) as f32]
            } else {
                [NO_PART, 0.0]
            }
        };
        (0..self.classes()).flat_map(row).collect()
    }

    fn weighted_smooth(&self, class: usize) -> f64 {
        match self.weighting {
            Weighting::PyTorch => self.weights[class] * self.smooth[class],
            Weighting::Sample => self.smooth[class],
        }
    }

    fn dims(&self, mean: bool) -> Dims {
        let first = self.allowed.iter().position(|allowed| *allowed).expect("a class takes part: new() checks it");
        let smooth_total: f64 = (0..self.classes()).map(|class| self.weighted_smooth(class)).sum();
        Dims {
            classes: word(self.classes()),
            first: word(first),
            by_sample: u32::from(self.weighting == Weighting::Sample),
            mean: u32::from(mean),
            keep: self.keep as f32,
            smooth_total: smooth_total as f32,
        }
    }

    /// Records the losses of up to `n` rows. `at.dloss` and `at.dlogits` are not used.
    pub fn forward(&self, plan: &mut Plan, n: usize, at: &Buffers) -> Result<()> {
        let (pass, targets) = match at.targets {
            Targets::Index(slice) => ("forward", ("targets", slice)),
            Targets::Soft(slice) => ("forward_soft", ("soft_targets", slice)),
        };
        let bindings = [("logits", at.logits), targets, ("class_table", at.class_table), ("losses", at.losses)];
        let label = format!("weighted_loss.{pass}");
        plan.dispatch(label, (&WEIGHTED_LOSS, pass), self.dims(false), Grid::Workgroups(n), 0, &bindings)
    }

    /// Records losses and gradient of up to `n` rows, for the upstream gradient `at.dloss`.
    pub fn forward_backward(&self, plan: &mut Plan, n: usize, at: &Buffers) -> Result<()> {
        let (pass, targets) = match at.targets {
            Targets::Index(slice) => ("forward_backward", ("targets", slice)),
            Targets::Soft(slice) => ("forward_backward_soft", ("soft_targets", slice)),
        };
        let bindings = [
            ("logits", at.logits),
            targets,
            ("class_table", at.class_table),
            ("losses", at.losses),
            ("dloss", at.dloss),
            ("dlogits", at.dlogits),
        ];
        let label = format!("weighted_loss.{pass}");
        plan.dispatch(label, (&WEIGHTED_LOSS, pass), self.dims(false), Grid::Workgroups(n), 0, &bindings)
    }

    /// Records the upstream gradient of up to `n` rows for a reduction, into `at.dloss`; `weights` `[n]` receives the
    /// samples' weights on the way. `at.logits`, `at.losses` and `at.dlogits` are not used.
    pub fn upstream(
        &self,
        plan: &mut Plan,
        n: usize,
        at: &Buffers,
        reduction: Reduction,
        weights: Slice,
    ) -> Result<()> {
        let (pass, grid, targets) = match at.targets {
            Targets::Index(slice) => ("weigh", Grid::Threads(n), ("targets", slice)),
            Targets::Soft(slice) => ("weigh_soft", Grid::Workgroups(n), ("soft_targets", slice)),
        };
        let dims = self.dims(reduction == Reduction::Mean);
        let bindings = [targets, ("class_table", at.class_table), ("weights", weights)];
        plan.dispatch(format!("weighted_loss.{pass}"), (&WEIGHTED_LOSS, pass), dims, grid, 0, &bindings)?;
        plan.dispatch(
            "weighted_loss.spread",
            (&WEIGHTED_LOSS, "spread"),
            dims,
            Grid::Workgroups(1),
            0,
            &[("weights_in", weights), ("upstream", at.dloss)],
        )
    }
}

/// Records the batch's loss into the step's slot of `step_losses`: the sum of `dloss` times `losses`.
pub fn reduce(plan: &mut Plan, dloss: Slice, losses: Slice, step_losses: Slice) -> Result<()> {
    plan.dispatch(
        "weighted_loss.reduce",
        (&WEIGHTED_LOSS, "reduce"),
        Dims::default(),
        Grid::Workgroups(1),
        0,
        &[("dloss", dloss), ("losses_in", losses), ("step_losses", step_losses)],
    )
}
