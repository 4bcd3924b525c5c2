//! The loss of a training: which form it has, how its smoothing changes from step to step, and what it knows of each image.
//!
//! A batch's loss is the mean over its samples, each with its weight W: `sum of loss[n] / sum of W[n]`, where `loss[n]` has
//! its weight in it, and an ignored sample has neither. The mean of nothing is 0, and so is its gradient. Epochs are averaged
//! in the same way, so that an image counts the same in a small batch and in a large one.
//!
//! | form                        | formulas                     | sources in its module                                  |
//! |-----------------------------|------------------------------|---------------------------------------------------------|
//! | [`Form::Smoothed`]          | [`crate::ops::smoothed_loss`] | fused with the last layer where that has few classes     |
//! | [`Form::Weighted`]          | [`crate::ops::weighted_loss`] | a prior, class weights, a class mask, soft targets       |
//! | [`Form::Comparator`]        | [`crate::ops::comparator_loss`] | focal loss, confidence penalty                         |
//! | [`Form::Distillation`]      | [`crate::ops::distillation_loss`] | a teacher's logits beside the labels                 |

pub mod smoothing;

use std::sync::Arc;

use crate::data::Dataset;
use crate::loss::smoothing::{Schedule, Smoothing, entropy_term, excess};
use crate::measure::{self, Metrics};
use crate::ops::comparator_loss::{self, ComparatorLoss};
use crate::ops::distillation_loss::{self, DistillationLoss};
use crate::ops::smoothed_loss::{self, SmoothedLoss};
use crate::ops::weighted_loss::{self, WeightedLoss, Weighting};
use crate::oracle;
use crate::plan::{Plan, Slice, uniform};
use crate::{Error, Result};

/// What is computed for each sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// Cross-entropy with a target of two masses.
    Smoothed(Smoothing),
    /// The general cross-entropy.
    Weighted(WeightedLoss),
    /// A loss that smoothing is compared with. It has no epsilon.
    Comparator(ComparatorLoss),
    /// Distillation from a teacher, with this smoothing of the labels.
    Distillation(DistillationLoss, Smoothing),
}

/// A form with what it needs over a whole training. Copies share what is large.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    form: Form,
    epsilon: f64,
    schedule: Schedule,
    /// `[training images, classes]`.
    rows: Option<Arc<[f32]>>,
}

/// A batch's targets, in the precision of a network on the CPU.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a, T> {
    /// Class indices, `[n]`; [`crate::ops::IGNORED`] is none.
    pub labels: &'a [u32],
    /// What the loss has for each image, `[n, classes]`, or nothing.
    pub rows: &'a [T],
    /// What the sum of the samples' losses is divided by: their weights, together.
    pub weight: f64,
    /// What the sum of their nlls is divided by: how many are not ignored.
    pub counted: f64,
}

/// The means of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchLoss {
    /// Of the loss, each sample with its weight. 0 where every sample is ignored.
    pub loss: f64,
    /// Of the plain negative log-likelihood, unsmoothed and unweighted ([`Form::nll`]). 0 where every sample is ignored.
    pub nll: f64,
    /// Whether, after the step, a parameter or a number of the optimizer's memory is not finite.
    pub diverged: bool,
}

impl<'a, T> Batch<'a, T> {
    /// Class indices, each with the weight 1.
    pub fn new(labels: &'a [u32]) -> Self {
        let n = labels.len() as f64;
        Self { labels, rows: &[], weight: n, counted: n }
    }

    /// The upstream gradient of each loss.
    pub fn dloss(&self) -> f64 {
        of_each(self.weight)
    }
}

/// What each element of a mean is multiplied by, `weight` being their weights, together. The mean of nothing is 0.
pub fn of_each(weight: f64) -> f64 {
    if weight > 0.0 { 1.0 / weight } else { 0.0 }
}

/// A mean from its sum. That of nothing is 0, also where the samples have a loss and weigh nothing; what is no number
/// becomes NaN. So it is on a device, which multiplies each loss with [`of_each`].
pub fn mean(sum: f64, weight: f64) -> f64 {
    if weight > 0.0 { sum / weight } else { sum * 0.0 + 0.0 }
}

uniform! {
    /// What the loss changes from step to step (`Loss` in `shaders/common/loss_block.wgsl`).
    pub struct Block {
        /// The upstream gradient of each loss: `1 / count` for the mean.
        dloss: f32,
        /// What the nll is multiplied by: 1 / the images that are not ignored.
        dnll: f32,
        /// The smoothed target's mass on the true class ([`crate::loss::smoothing::Masses`]).
        on: f32,
        /// On each other class.
        off: f32,
        /// What the target keeps of its own: `on - off`, or `1 - e` where a prior has the rest.
        kept: f32,
        /// The mass that goes by the prior.
        epsilon: f32,
    }
}

impl Block {
    /// The means of `count` samples of weight 1.
    pub fn mean(count: usize) -> Self {
        let each = of_each(count as f64) as f32;
        Self { dloss: each, dnll: each, ..Self::default() }
    }
}

/// The loss's buffers in a plan.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// `[n, classes]`.
    pub logits: Slice,
    /// Class indices, `[n]`.
    pub targets: Slice,
    /// What the loss has for each image of the data set, `[images, classes]`, if it has something.
    pub rows: Option<Slice>,
    /// The epoch's order, `[images]`.
    pub order: Slice,
    /// Loss and nll of each sample, `[n, 2]`.
    pub losses: Slice,
    /// Gradient of the logits, `[n, stride]`.
    pub dlogits: Slice,
    /// Elements from one row of `dlogits` to the next.
    pub stride: usize,
}

impl From<Smoothing> for Loss {
    fn from(smoothing: Smoothing) -> Self {
        Self::new(Form::Smoothed(smoothing), smoothing.epsilon)
    }
}

impl Loss {
    /// A loss of this form; `epsilon` is the mass that its smoothing moves, as its user counts it.
    pub fn new(form: Form, epsilon: f64) -> Self {
        Self { form, epsilon, schedule: Schedule::Constant, rows: None }
    }

    /// The same, with an epsilon that changes. The schedule counts updates: update t, from 1, has that of time t - 1.
    pub fn scheduled(self, schedule: Schedule) -> Self {
        Self { schedule, ..self }
    }

    /// The same, with a distribution over the classes for each training image, `[images, classes]`, in place of its label.
    ///
    /// # Errors
    /// [`Error::Usage`] unless the form is [`Form::Weighted`], the only one that takes distributions; for a value that is
    /// negative or not finite, and for a row that does not sum to 1 over the classes that take part.
    pub fn with_soft_targets(self, rows: Arc<[f32]>) -> Result<Self> {
        let Form::Weighted(loss) = &self.form else {
            return Err(Error::Usage("soft targets: found a loss of labels, expected a cross-entropy".into()));
        };
        for (image, row) in rows.chunks(loss.classes()).enumerate() {
            let part = row.iter().zip(loss.allowed()).filter(|(_, allowed)| **allowed).map(|(&t, _)| f64::from(t));
            let total: f64 = part.sum();
            let bad = row.iter().find(|t| !(t.is_finite() && **t >= 0.0));
            if bad.is_some() || (total - 1.0).abs() > 1e-4 {
                let found = bad.map_or(format!("a sum of {total}"), |t| t.to_string());
                return Err(Error::Usage(format!(
                    "soft targets: image {image}: found {found}, expected a distribution over the classes that take part"
                )));
            }
        }
        Ok(Self { rows: Some(rows), ..self })
    }

    /// The same, with a teacher's logits of each training image, `[images, classes]`.
    ///
    /// # Errors
    /// [`Error::Usage`] unless the form is [`Form::Distillation`], and for a logit that is not finite.
    pub fn with_teacher(self, logits: Arc<[f32]>) -> Result<Self> {
        if !matches!(self.form, Form::Distillation(..)) {
            return Err(Error::Usage("teacher: found a loss without one, expected distillation".into()));
        }
        if let Some(bad) = logits.iter().find(|v| !v.is_finite()) {
            return Err(Error::Usage(format!("teacher: found a logit of {bad}, expected finite numbers")));
        }
        Ok(Self { rows: Some(logits), ..self })
    }

    /// The epsilon of update `t`, from 1, as the user counts it.
    pub fn epsilon(&self, t: u64) -> f64 {
        self.schedule.epsilon(self.epsilon, t.saturating_sub(1))
    }

    /// How epsilon changes.
    pub fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// The form at the full epsilon.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// The form at update `t`, from 1.
    pub fn at(&self, t: u64) -> Form {
        self.form.with_epsilon(self.epsilon(t))
    }

    /// What the loss has for each training image, `[images, classes]`.
    pub fn rows(&self) -> Option<&[f32]> {
        self.rows.as_deref()
    }

    /// What it has for image `i` over `classes` classes.
    fn row(&self, i: u32, classes: usize) -> Option<&[f32]> {
        self.rows().map(|rows| &rows[i as usize * classes..][..classes])
    }

    /// The weights of the training images `indices`, together, and how many of them are not ignored.
    pub fn weights(&self, train: &Dataset, indices: &[u32]) -> [f64; 2] {
        let mut sums = [0.0; 2];
        for &i in indices {
            let (label, row) = (train.labels[i as usize], self.row(i, train.classes));
            sums[0] += self.form.weight(label, train.classes, row);
            sums[1] += f64::from(u8::from(self.form.counts(label, train.classes, row)));
        }
        sums
    }

    /// Checks the loss against a network's classes and a training set.
    ///
    /// # Errors
    /// [`Error::Usage`] where their sizes differ.
    pub fn check(&self, classes: usize, train: &Dataset) -> Result<()> {
        let own = self.form.classes().unwrap_or(classes);
        if own != classes {
            return Err(Error::Usage(format!("loss: found one over {own} classes, expected {classes}")));
        }
        if self.rows.is_none() && matches!(self.form, Form::Distillation(..)) {
            return Err(Error::Usage("distillation: found no teacher's logits, expected them".into()));
        }
        let (found, expected) = (self.rows().map_or(0, <[f32]>::len), train.len() * classes);
        if self.rows.is_some() && found != expected {
            return Err(Error::Usage(format!(
                "loss: found {found} values for the training images, expected {expected}: {classes} for each of {}",
                train.len()
            )));
        }
        Ok(())
    }

    /// The entropies of the targets of the training images `indices` at update `t`, each with its sample's weight, added up:
    /// what the sum of their losses exceeds. NaN for a negative epsilon, where there is no such bound.
    pub fn entropy(&self, train: &Dataset, indices: &[u32], t: u64) -> f64 {
        let form = self.at(t);
        let entropy = Entropy::new(&form, train.classes);
        indices.iter().map(|&i| entropy.of(train.labels[i as usize], self.row(i, train.classes))).sum()
    }

    /// The mean by which losses exceed the least that they can be, from their sum, the sum of the least
    /// ([`Self::entropy`]) and their weight. Never below 0, but with a confidence penalty, which has no target whose
    /// entropy it could not go below.
    pub fn excess(&self, sum: f64, least: f64, weight: f64) -> f64 {
        let found = mean(sum - least, weight);
        if matches!(self.form, Form::Comparator(_)) { found } else { excess(found) }
    }

    /// The metrics of `logits` `[labels.len(), classes]` against `labels`, with plain cross-entropy as the loss: a
    /// validation is unsmoothed. A class mask makes it a smaller problem, as in [`Self::evaluate`].
    pub fn validate(&self, logits: &[f64], labels: &[u32], classes: usize) -> Metrics {
        let (part, renamed, kept) = self.form.restricted(logits, labels, classes);
        measure::evaluate(&part, &renamed, kept, Smoothing::NONE)
    }

    /// The metrics of `logits` `[labels.len(), classes]` against `labels`, with this loss, at the full epsilon, as the loss. A class
    /// mask makes it a smaller problem: the images whose label is none of the classes that take part are left out, and so
    /// are the other classes' logits. Soft targets and a teacher's logits are those of training images: here labels count.
    pub fn evaluate(&self, logits: &[f64], labels: &[u32], classes: usize) -> Metrics {
        let form = match &self.form {
            Form::Distillation(_, smoothing) => &Form::Smoothed(*smoothing),
            form => form,
        };
        if let &Form::Smoothed(smoothing) = form
            && labels.iter().all(|&label| (label as usize) < classes)
        {
            return measure::evaluate(logits, labels, classes, smoothing);
        }
        let mut losses = vec![0.0; labels.len()];
        form.forward(classes, logits, Batch::new(labels), &mut losses);
        let weight: f64 = labels.iter().map(|&label| form.weight(label, classes, None)).sum();
        let entropy = Entropy::new(form, classes);
        let least: f64 = labels.iter().map(|&label| entropy.of(label, None)).sum();
        let sum: f64 = losses.iter().sum();
        let excess_loss = self.excess(sum, least, weight);
        Metrics { loss: mean(sum, weight), excess_loss, ..self.validate(logits, labels, classes) }
    }
}

impl Form {
    /// The classes it is for, where it knows them.
    fn classes(&self) -> Option<usize> {
        match self {
            Self::Smoothed(_) => None,
            Self::Weighted(loss) => Some(loss.classes()),
            Self::Comparator(loss) => Some(loss.classes()),
            Self::Distillation(loss, _) => Some(loss.classes()),
        }
    }

    /// The same form with another epsilon.
    fn with_epsilon(&self, epsilon: f64) -> Self {
        match self {
            Self::Smoothed(smoothing) => Self::Smoothed(Smoothing { epsilon, ..*smoothing }),
            Self::Weighted(loss) => Self::Weighted(loss.with_epsilon(epsilon)),
            Self::Comparator(loss) => Self::Comparator(*loss),
            Self::Distillation(loss, smoothing) => Self::Distillation(*loss, Smoothing { epsilon, ..*smoothing }),
        }
    }

    /// Whether a sample is not ignored.
    fn counts(&self, label: u32, classes: usize, row: Option<&[f32]>) -> bool {
        match self {
            Self::Weighted(loss) => row.is_some() || loss.allowed().get(label as usize).is_some_and(|allowed| *allowed),
            _ => (label as usize) < classes,
        }
    }

    /// A sample's weight in the mean.
    fn weight(&self, label: u32, classes: usize, row: Option<&[f32]>) -> f64 {
        match self {
            Self::Weighted(loss) => loss.weight(label, row),
            _ => f64::from(u8::from(self.counts(label, classes, row))),
        }
    }

    /// The block with what the device needs to know of this form's epsilon.
    pub fn fill(&self, classes: usize, block: Block) -> Block {
        match self {
            Self::Smoothed(smoothing) | Self::Distillation(_, smoothing) => smoothing.masses(classes).fill(block),
            Self::Weighted(loss) => loss.fill(block),
            Self::Comparator(_) => block,
        }
    }

    /// Records losses and gradient of up to `n` rows, with the step's upstream gradient and epsilon.
    ///
    /// # Errors
    /// As [`Plan::dispatch`] and [`Plan::buffer`].
    pub fn forward_backward(&self, plan: &mut Plan, n: usize, classes: usize, at: &Buffers) -> Result<()> {
        let Buffers { logits, targets, rows, order, losses, dlogits, stride } = *at;
        match self {
            Self::Smoothed(_) => {
                let buffers = smoothed_loss::Buffers { logits, targets, losses, dlogits };
                SmoothedLoss { classes }.forward_backward(plan, n, &buffers)
            }
            Self::Weighted(loss) => {
                let class_table = plan.constant("loss.class_table", &loss.class_table())?;
                let index = weighted_loss::Targets::Index(targets);
                let targets = rows.map_or(index, |rows| weighted_loss::Targets::Soft { rows, order });
                let buffers = weighted_loss::Buffers { logits, targets, class_table, losses, dlogits, stride };
                loss.forward_backward(plan, n, &buffers)
            }
            Self::Comparator(loss) => {
                let buffers = comparator_loss::Buffers { logits, targets, losses, dlogits, stride };
                loss.forward_backward(plan, n, &buffers)
            }
            Self::Distillation(loss, _) => {
                let teacher =
                    rows.ok_or_else(|| Error::Usage("distillation: found no teacher's logits, expected them".into()))?;
                let buffers = distillation_loss::Buffers { logits, targets, teacher, order, losses, dlogits, stride };
                loss.forward_backward(plan, n, &buffers)
            }
        }
    }

    /// `logits [n, classes]` to `losses [n]`, on the CPU.
    pub fn forward<T: oracle::Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, losses: &mut [T]) {
        match self {
            Self::Smoothed(smoothing) => {
                oracle::smoothed_loss::forward(smoothing.masses(classes), classes, logits, batch.labels, losses);
            }
            Self::Weighted(loss) => oracle::weighted_loss::forward(loss, logits, batch.weighted(), losses),
            Self::Comparator(loss) => oracle::comparator_loss::forward(loss, logits, batch.labels, losses),
            Self::Distillation(loss, smoothing) => {
                let logits = oracle::distillation_loss::Logits { student: logits, teacher: batch.rows };
                let masses = smoothing.masses(classes);
                oracle::distillation_loss::forward(loss, masses, logits, batch.labels, losses);
            }
        }
    }

    /// `logits [n, classes]` to `nlls [n]`, on the CPU: plain cross-entropy with the labels or the distributions as they are,
    /// without smoothing, weights, or a teacher. 0 where a sample is ignored.
    pub fn nll<T: oracle::Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, nlls: &mut [T]) {
        match self {
            Self::Weighted(loss) => oracle::weighted_loss::nll(loss, logits, batch.weighted(), nlls),
            _ => {
                let plain = Smoothing::NONE.masses(classes);
                oracle::smoothed_loss::forward(plain, classes, logits, batch.labels, nlls);
            }
        }
    }

    /// `logits`, `dloss [n]` (the losses' upstream gradient) to `dlogits [n, classes]`, on the CPU.
    pub fn backward<T: oracle::Real>(
        &self,
        classes: usize,
        logits: &[T],
        batch: Batch<T>,
        dloss: &[T],
        dlogits: &mut [T],
    ) {
        match self {
            Self::Smoothed(smoothing) => {
                let masses = smoothing.masses(classes);
                oracle::smoothed_loss::backward(masses, classes, logits, batch.labels, dloss, dlogits);
            }
            Self::Weighted(loss) => oracle::weighted_loss::backward(loss, logits, batch.weighted(), dloss, dlogits),
            Self::Comparator(loss) => oracle::comparator_loss::backward(loss, logits, batch.labels, dloss, dlogits),
            Self::Distillation(loss, smoothing) => {
                let logits = oracle::distillation_loss::Logits { student: logits, teacher: batch.rows };
                let masses = smoothing.masses(classes);
                oracle::distillation_loss::backward(loss, masses, logits, batch.labels, dloss, dlogits);
            }
        }
    }

    /// The logits of the classes that take part, of the samples that count; these samples' labels among those classes; how
    /// many classes they are.
    pub fn restricted(&self, logits: &[f64], labels: &[u32], classes: usize) -> (Vec<f64>, Vec<u32>, usize) {
        let allowed = match self {
            Self::Weighted(loss) => loss.allowed().to_vec(),
            _ => vec![true; classes],
        };
        restricted(&allowed, logits, labels)
    }
}

/// The logits `[n, allowed.len()]` of the classes that are `allowed`, of the samples whose label is one of them; these
/// samples' labels, counted among those classes; how many classes they are.
pub fn restricted(allowed: &[bool], logits: &[f64], labels: &[u32]) -> (Vec<f64>, Vec<u32>, usize) {
    let kept: Vec<usize> = (0..allowed.len()).filter(|&class| allowed[class]).collect();
    let (mut part, mut renamed) = (vec![], vec![]);
    for (row, &label) in logits.chunks(allowed.len()).zip(labels) {
        if let Ok(place) = kept.binary_search(&(label as usize)) {
            part.extend(kept.iter().map(|&class| row[class]));
            renamed.push(place as u32);
        }
    }
    (part, renamed, kept.len())
}

impl<'a, T> Batch<'a, T> {
    /// The rows of images `from..to`, over `classes` classes. The divisors are the whole batch's.
    pub fn part(&self, range: std::ops::Range<usize>, classes: usize) -> Self {
        let rows =
            if self.rows.is_empty() { self.rows } else { &self.rows[range.start * classes..range.end * classes] };
        Self { labels: &self.labels[range], rows, ..*self }
    }

    fn weighted(&self) -> oracle::weighted_loss::Targets<'a, T> {
        if self.rows.is_empty() {
            oracle::weighted_loss::Targets::Index(self.labels)
        } else {
            oracle::weighted_loss::Targets::Soft(self.rows)
        }
    }
}

/// The entropy of targets: the least that a sample's loss can be. With the masses a of a cross-entropy, `A` their sum, the
/// least of `-sum of a ln p` is at `p = a / A`: `A ln A - sum of a ln a`, which is the entropy where A is 1. Between two
/// indices that sum differs at two classes only, so it is made once.
///
/// A focal loss and a confidence penalty have one-hot targets, whose entropy is 0. A teacher's divergence is 0 at its least.
struct Entropy<'a> {
    form: &'a Form,
    classes: usize,
    /// Of a sample of weight 1 without its own class's mass: `-sum of a ln a`, and A.
    shared: [f64; 2],
}

impl<'a> Entropy<'a> {
    fn new(form: &'a Form, classes: usize) -> Self {
        let shared = match form {
            Form::Smoothed(smoothing) => [smoothing.target_entropy(classes), 1.0],
            Form::Distillation(loss, smoothing) => [(1.0 - loss.alpha()) * smoothing.target_entropy(classes), 1.0],
            Form::Comparator(_) => [0.0; 2],
            Form::Weighted(loss) => {
                let mass = |class: usize| shared_mass(loss, class);
                [(0..classes).map(|class| entropy_term(mass(class))).sum(), (0..classes).map(mass).sum()]
            }
        };
        Self { form, classes, shared }
    }

    fn of(&self, label: u32, row: Option<&[f32]>) -> f64 {
        let class = label as usize;
        let [sum, total] = self.shared;
        let least = |sum: f64, total: f64| sum - entropy_term(total);
        match (self.form, row) {
            (Form::Comparator(_), _) => 0.0,
            (Form::Smoothed(_) | Form::Distillation(..), _) => {
                if class < self.classes {
                    sum
                } else {
                    0.0
                }
            }
            (Form::Weighted(loss), None) => {
                if !loss.allowed().get(class).is_some_and(|allowed| *allowed) {
                    return 0.0;
                }
                let keep = 1.0 - loss.epsilon();
                let (scale, kept) = match loss.weighting() {
                    Weighting::PyTorch => (1.0, keep * loss.weights()[class]),
                    Weighting::Sample => (loss.weights()[class], keep),
                };
                let mass = shared_mass(loss, class);
                scale * least(sum - entropy_term(mass) + entropy_term(mass + kept), total + kept)
            }
            (Form::Weighted(loss), Some(row)) => {
                let keep = 1.0 - loss.epsilon();
                let scale = if loss.weighting() == Weighting::Sample { loss.weight(label, Some(row)) } else { 1.0 };
                let mass = |class: usize| {
                    let t = if loss.allowed()[class] { keep * f64::from(row[class]) } else { 0.0 };
                    let weight = if loss.weighting() == Weighting::PyTorch { loss.weights()[class] } else { 1.0 };
                    weight * t + shared_mass(loss, class)
                };
                let classes = 0..row.len();
                scale * least(classes.clone().map(|class| entropy_term(mass(class))).sum(), classes.map(mass).sum())
            }
        }
    }
}

/// What smoothing gives a class, for every sample of weight 1.
fn shared_mass(loss: &WeightedLoss, class: usize) -> f64 {
    let mass = loss.epsilon() * loss.prior()[class];
    if loss.weighting() == Weighting::PyTorch { loss.weights()[class] * mass } else { mass }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_nothing_is_zero_and_what_is_no_number_stays_none() {
        assert_eq!((mean(6.0, 3.0), mean(0.0, 0.0), mean(5.0, 0.0)), (2.0, 0.0, 0.0));
        assert!(mean(-5.0, 0.0).is_sign_positive());
        assert!([f64::NAN, f64::INFINITY].iter().all(|&sum| mean(sum, 0.0).is_nan()));
        assert_eq!((excess(-1e-17), excess(0.5)), (0.0, 0.5));
        assert!(excess(f64::NAN).is_nan());
    }

    /// A class of weight 0 with smoothing has a loss, by the other classes' weights, and no weight.
    #[test]
    fn an_evaluation_in_which_nothing_weighs_is_zero() {
        let weights = Some((Weighting::PyTorch, vec![0.0, 1.0, 1.0]));
        let epsilon = crate::loss::smoothing::Epsilon::new(0.3).unwrap();
        let spec = weighted_loss::Spec { epsilon, weights, ..weighted_loss::Spec::new(3) };
        let loss = Loss::new(Form::Weighted(WeightedLoss::new(&spec).unwrap()), 0.3);
        let found = loss.evaluate(&[1.0, 2.0, 3.0], &[0], 3);
        assert_eq!((found.loss, found.excess_loss), (0.0, 0.0));
        assert!(found.nll > 0.0);
    }
}
