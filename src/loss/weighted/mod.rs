//! Log-softmax fused with the general cross-entropy, and its gradient: any prior for the smoothing mass, class weights,
//! ignored samples, classes that take no part, and targets that are distributions. Where a target is a class index its
//! distribution is one number per class of a table that all rows share, and never a tensor `[n, classes]`.
//!
//! With A the classes that take part, z = x - max over A of x, s = ln(sum over A of exp z), p = exp(z - s), the target
//! t (one-hot at y, or given), a prior u over A, and class weights w (1 where there are none):
//!
//! ```text
//! q[k]         = (1 - e) t[k] + e u[k]                              the smoothed target, over A
//! W[n]         = sum over A of w[k] t[k]   (= w[y] for an index)    the sample's weight; 0 where it is ignored
//! a[k]         = w[k] q[k]  (PyTorch)   or   W[n] q[k]  (Sample)    both 0 where the sample is ignored
//! loss[n]      = -sum over A of a[k] (z[k] - s)
//! dlogits[n,k] = dloss[n] * (p[k] * (sum over A of a) - a[k])       0 outside A
//! ```
//!
//! Reductions are in `dloss`, the upstream gradient of each row: 1 for the sum, 1 / (sum of W) for the mean, 0 for the
//! mean of nothing (PyTorch gives NaN there); anything at all for `reduction='none'`. The batch's loss is the sum of
//! `dloss[n] * loss[n]`. W needs the labels and no logits: the host adds it up ([`WeightedLoss::weight`]).
//!
//! With [`Weighting::PyTorch`] this is `torch.nn.CrossEntropyLoss(weight=w, label_smoothing=e, ignore_index=i)`, whose
//! smoothing term is weighted by each class's own weight while the mean divides by the weights of the true classes
//! (`cross_entropy_loss_label_smoothing` in ATen's LossNLL.cpp); for targets that are distributions its mean divides by
//! n (`cross_entropy_loss_prob_target`, same file), and so does ours.
//!
//! The device has e from the step ([`Formula::fill`]), so that it may change from one step to the next.

pub mod cases;
pub mod fast;
pub mod reference;

use std::sync::Arc;

use super::formula::{Formula, Pass, rows};
use super::{Batch, Buffers, LossBlock, Target};
use crate::loss::smoothing::{Epsilon, Prior, entropy_term};
use crate::ops::IGNORED;
use crate::plan::shaders::{WEIGHTED_LOSS, WEIGHTED_LOSS_SOFT};
use crate::plan::{Plan, uniform, word};
use crate::real::Real;
use crate::{Error, Result};

/// The weight that stands for a class that takes no part; real weights are not negative.
const NO_PART: f32 = -1.0;

/// What a class weight multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Weighting {
    /// Each class's term: `-sum of w[k] q[k] ln p[k]`.
    #[default]
    #[cfg_attr(feature = "cli", value(name = "pytorch"))]
    PyTorch,
    /// The whole sample: `w[y]` times the cross-entropy of q and p.
    Sample,
}

impl Weighting {
    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PyTorch => "pytorch",
            Self::Sample => "sample",
        }
    }
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

/// The loss over rows of [`WeightedLoss::classes`] logits. A copy shares what it knows of the classes.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedLoss {
    /// e of the form with a prior.
    epsilon: f64,
    /// That e, for a mass of 1 that smoothing moves ([`Prior::effective_epsilon`]).
    of_one: f64,
    prior: Arc<[f64]>,
    weighting: Weighting,
    weights: Arc<[f64]>,
    allowed: Arc<[bool]>,
}

uniform! {
    /// `WeightedLoss` in `shaders/weighted_loss.wgsl`.
    struct Dims {
        classes: u32,
        first: u32,
        by_sample: u32,
        stride: u32,
        prior_total: f32,
    }
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
        // Where one class takes part only an e of 0 has come this far.
        let of_one = if part > 1 { spec.prior.effective_epsilon(1.0, part) } else { 1.0 };
        let prior = spec.prior.over(&allowed)?.into();
        Ok(Self { epsilon, of_one, prior, weighting, weights: weights.into(), allowed: allowed.into() })
    }

    /// Logits in a row.
    pub fn classes(&self) -> usize {
        self.allowed.len()
    }

    /// e of the form with a prior.
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// The prior, `[classes]`; 0 where a class takes no part.
    pub fn prior(&self) -> &[f64] {
        &self.prior
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

    /// A sample's weight in the mean: that of its class, 0 where it is ignored; of a distribution the expected weight,
    /// or 1 with PyTorch's weighting.
    pub fn weight(&self, target: u32, soft: Option<&[f32]>) -> f64 {
        let class = target as usize;
        match soft {
            None if self.allowed.get(class).is_some_and(|allowed| *allowed) => self.weights[class],
            None => 0.0,
            Some(_) if self.weighting == Weighting::PyTorch => 1.0,
            Some(row) => {
                let of_class = |class: usize| self.weights[class] * f64::from(row[class]);
                (0..row.len()).filter(|&class| self.allowed[class]).map(of_class).sum()
            }
        }
    }

    /// What the device knows of the classes, `[classes, 2]`: the weight (negative where a class takes no part) and the
    /// prior (with PyTorch's weighting: times the weight).
    pub fn class_table(&self) -> Vec<f32> {
        let row = |class: usize| {
            if self.allowed[class] {
                [self.weights[class] as f32, self.weighted_prior(class) as f32]
            } else {
                [NO_PART, 0.0]
            }
        };
        (0..self.classes()).flat_map(row).collect()
    }

    fn weighted_prior(&self, class: usize) -> f64 {
        match self.weighting {
            Weighting::PyTorch => self.weights[class] * self.prior[class],
            Weighting::Sample => self.prior[class],
        }
    }

    fn dims(&self, stride: usize) -> Dims {
        let first = self.allowed.iter().position(|allowed| *allowed).expect("a class takes part: new() checks it");
        let prior_total: f64 = (0..self.classes()).map(|class| self.weighted_prior(class)).sum();
        Dims {
            classes: word(self.classes()),
            first: word(first),
            by_sample: u32::from(self.weighting == Weighting::Sample),
            stride: word(stride),
            prior_total: prior_total as f32,
        }
    }

    /// What smoothing gives a class, for every sample of weight 1.
    fn shared_mass(&self, class: usize) -> f64 {
        let mass = self.epsilon * self.prior[class];
        if self.weighting == Weighting::PyTorch { self.weights[class] * mass } else { mass }
    }
}

impl Formula for WeightedLoss {
    const NAME: &'static str = "weighted_loss";

    fn classes(&self) -> Option<usize> {
        Some(self.classes())
    }

    /// `epsilon` is a number below 1, and no larger than that of [`Spec::epsilon`] where the prior is off-target.
    fn with_epsilon(&self, epsilon: f64) -> Self {
        Self { epsilon: self.of_one * epsilon, ..self.clone() }
    }

    fn allowed(&self) -> Option<&[bool]> {
        Some(self.allowed())
    }

    fn counts(&self, label: u32, _classes: usize, row: Option<&[f32]>) -> bool {
        row.is_some() || self.allowed.get(label as usize).is_some_and(|allowed| *allowed)
    }

    fn weight(&self, label: u32, _classes: usize, row: Option<&[f32]>) -> f64 {
        self.weight(label, row)
    }

    /// Of a sample of weight 1 without its own class's mass: `-sum of a ln a`, and the sum of a. Between two indices
    /// the sum of [`Self::entropy`] differs at two classes only.
    fn shared_entropy(&self, classes: usize) -> [f64; 2] {
        let mass = |class: usize| self.shared_mass(class);
        [(0..classes).map(|class| entropy_term(mass(class))).sum(), (0..classes).map(mass).sum()]
    }

    /// With the masses a of a cross-entropy, `A` their sum, the least of `-sum of a ln p` is at `p = a / A`:
    /// `A ln A - sum of a ln a`, which is the entropy where A is 1.
    fn entropy(&self, [sum, total]: [f64; 2], target: Target, classes: usize, row: Option<&[f32]>) -> f64 {
        let label = target.label;
        let least = |sum: f64, total: f64| sum - entropy_term(total);
        let keep = 1.0 - self.epsilon;
        let by_sample = self.weighting == Weighting::Sample;
        if !Formula::counts(self, label, classes, row) {
            return 0.0;
        }
        let Some(row) = row else {
            let class = label as usize;
            let weight = self.weights[class];
            let (scale, kept) = if by_sample { (weight, keep) } else { (1.0, keep * weight) };
            let mass = self.shared_mass(class);
            return scale * least(sum - entropy_term(mass) + entropy_term(mass + kept), total + kept);
        };
        let scale = if by_sample { self.weight(label, Some(row)) } else { 1.0 };
        let mass = |class: usize| {
            let t = if self.allowed[class] { keep * f64::from(row[class]) } else { 0.0 };
            let weight = if by_sample { 1.0 } else { self.weights[class] };
            weight * t + self.shared_mass(class)
        };
        let classes = 0..row.len();
        scale * least(classes.clone().map(|class| entropy_term(mass(class))).sum(), classes.map(mass).sum())
    }

    fn fill(&self, _classes: usize, block: LossBlock) -> LossBlock {
        LossBlock { kept: (1.0 - self.epsilon) as f32, epsilon: self.epsilon as f32, ..block }
    }

    fn record(&self, plan: &mut Plan, pass: Pass, n: usize, _classes: usize, at: &Buffers) -> Result<()> {
        let class_table = plan.constant("loss.class_table", &self.class_table())?;
        let (shader, targets) = match at.rows {
            None => (("weighted_loss", &WEIGHTED_LOSS), vec![("targets", at.targets)]),
            Some(soft) => {
                (("weighted_loss_soft", &WEIGHTED_LOSS_SOFT), vec![("soft_targets", soft), ("order", at.order)])
            }
        };
        let more = [&targets[..], &[("class_table", class_table)]].concat();
        rows(plan, shader, self.dims(at.stride), (pass, n), at, &more)
    }

    fn forward<T: Real>(&self, _classes: usize, logits: &[T], batch: Batch<T>, losses: &mut [T]) {
        reference::forward(self, logits, targets(batch), losses);
    }

    fn nll<T: Real>(&self, _classes: usize, logits: &[T], batch: Batch<T>, nlls: &mut [T]) {
        reference::nll(self, logits, targets(batch), nlls);
    }

    fn backward<T: Real>(&self, _classes: usize, logits: &[T], batch: Batch<T>, dloss: &[T], dlogits: &mut [T]) {
        reference::backward(self, logits, targets(batch), dloss, dlogits);
    }

    fn fast<T: Real>(&self, logits: &[T], target: Target, row: &[T], dlogits: &mut [T]) -> [T; 2] {
        fast::row(self, logits, target.label, row, dlogits)
    }
}

fn targets<'a, T>(batch: Batch<'a, T>) -> reference::Targets<'a, T> {
    if batch.rows.is_empty() { reference::Targets::Index(batch.labels) } else { reference::Targets::Soft(batch.rows) }
}
