//! The loss of a training: which form it has, how its smoothing changes from step to step, and what it knows of each image.
//!
//! A batch's loss is the mean over its samples, each with its weight W: `sum of loss[n] / sum of W[n]`, where `loss[n]` has
//! its weight in it, and an ignored sample has neither. The mean of nothing is 0, and so is its gradient. Epochs are averaged
//! in the same way, so that an image counts the same in a small batch and in a large one.
//!
//! | form                   | what it is                                                                           |
//! |------------------------|--------------------------------------------------------------------------------------|
//! | [`Form::Smoothed`]     | [`smoothed`] cross-entropy; fused with the last layer where that has few classes      |
//! | [`Form::Weighted`]     | [`weighted`] cross-entropy: a prior, class weights, a class mask, soft targets        |
//! | [`Form::Comparator`]   | [`comparator`]s of smoothing: focal loss, confidence penalty                          |
//! | [`Form::Distillation`] | [`distillation`] from a teacher, whose logits stand beside the labels                 |
//!
//! A form is a folder: formula, settings and recording in its `mod.rs`, its twin on the CPU in `reference.rs`, what `check` runs in
//! `cases.rs`; and a line of the list in [`form`].

pub mod comparator;
pub mod distillation;
pub mod form;
pub mod smoothed;
pub mod smoothing;
pub mod weighted;

pub use form::{Case, FORMS, Form, Formula, Pass};

use std::sync::Arc;

use crate::loss::smoothing::{Schedule, Smoothing, excess};
use crate::plan::{Slice, uniform};
use crate::{Error, Result};

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
        Self::new(smoothing, smoothing.epsilon)
    }
}

impl Loss {
    /// A loss of this form; `epsilon` is the mass that its smoothing moves, as its user counts it.
    pub fn new(form: impl Into<Form>, epsilon: f64) -> Self {
        Self { form: form.into(), epsilon, schedule: Schedule::Constant, rows: None }
    }

    /// The same, with an epsilon that changes. The schedule counts updates: update t, from 1, has that of time t - 1.
    pub fn scheduled(self, schedule: Schedule) -> Self {
        Self { schedule, ..self }
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

    /// The weights of the training images `indices`, together, and how many of them are not ignored. `labels` are those of all
    /// training images.
    pub fn weights(&self, labels: &[u32], classes: usize, indices: &[u32]) -> [f64; 2] {
        let mut sums = [0.0; 2];
        for &i in indices {
            let (label, row) = (labels[i as usize], self.row(i, classes));
            sums[0] += self.form.weight(label, classes, row);
            sums[1] += f64::from(u8::from(self.form.counts(label, classes, row)));
        }
        sums
    }

    /// Checks the loss against a network's classes and a training set of so many images.
    ///
    /// # Errors
    /// [`Error::Usage`] where their sizes differ.
    pub fn check(&self, classes: usize, images: usize) -> Result<()> {
        let own = self.form.classes().unwrap_or(classes);
        if own != classes {
            return Err(Error::Usage(format!("loss: found one over {own} classes, expected {classes}")));
        }
        if let (None, Some(missing)) = (&self.rows, self.form.needs()) {
            return Err(Error::Usage(format!("loss: found no {missing}, expected them")));
        }
        let (found, expected) = (self.rows().map_or(0, <[f32]>::len), images * classes);
        if self.rows.is_some() && found != expected {
            return Err(Error::Usage(format!(
                "loss: found {found} values for the training images, expected {expected}: {classes} for each of {images}"
            )));
        }
        Ok(())
    }

    /// The entropies of the targets of the training images `indices` at update `t`, each with its sample's weight, added up:
    /// what the sum of their losses exceeds. NaN for a negative epsilon, where there is no such bound.
    pub fn entropy(&self, labels: &[u32], classes: usize, indices: &[u32], t: u64) -> f64 {
        let form = self.at(t);
        let shared = form.shared_entropy(classes);
        let of = |&i: &u32| form.entropy(shared, labels[i as usize], classes, self.row(i, classes));
        indices.iter().map(of).sum()
    }

    /// The mean by which losses exceed the least that they can be, from their sum, the sum of the least
    /// ([`Self::entropy`]) and their weight. Never below 0, but with a confidence penalty, which has no target whose
    /// entropy it could not go below.
    pub fn excess(&self, sum: f64, least: f64, weight: f64) -> f64 {
        let found = mean(sum - least, weight);
        if self.form.has_least() { excess(found) } else { found }
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
}
