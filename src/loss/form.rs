//! A loss as it is trained with, and the list of the forms. A new form is a folder beside these, a shader, and a line
//! in `forms!` below: `check`, training on either path and the tests then have it.

use std::sync::Arc;

use super::formula::{Formula, Pass};
use super::smoothing::{Smoothing, excess};
use super::{
    Batch, Buffers, LossBlock, Target, comparator, distillation, logit_penalty, mean, mixed, smoothed, weighted,
};
use crate::plan::Plan;
use crate::real::Real;
use crate::schedule::Schedule;
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

impl From<Smoothing> for Loss {
    fn from(smoothing: Smoothing) -> Self {
        Self::new(smoothing, smoothing.epsilon)
    }
}

impl Loss {
    /// A loss of this form; `epsilon` is the mass that its smoothing moves, as its user counts it.
    pub fn new(form: impl Into<Form>, epsilon: f64) -> Self {
        Self { form: form.into(), epsilon, schedule: Schedule::CONSTANT, rows: None }
    }

    /// The same, with an epsilon that changes. The schedule counts updates: update t, from 1, has that of time t - 1.
    pub fn scheduled(self, schedule: Schedule) -> Self {
        Self { schedule, ..self }
    }

    /// The epsilon of update `t`, from 1, as the user counts it.
    pub fn epsilon(&self, t: u64) -> f64 {
        self.schedule.value(self.epsilon, t.saturating_sub(1))
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

    /// The weights of the training images `indices`, together, and how many of them are not ignored. `labels` are those
    /// of all training images.
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

    /// The entropies of the targets of the training images `indices` at update `t`, each with its sample's weight,
    /// added up: what the sum of their losses exceeds. NaN for a negative epsilon, where there is no such bound.
    pub fn entropy(&self, labels: &[u32], classes: usize, indices: &[u32], t: u64) -> f64 {
        self.mixed_entropy(labels, classes, indices, t, 1.0)
    }

    /// The same of the images of one batch, where they are mixed and their own labels have this share.
    pub fn mixed_entropy(&self, labels: &[u32], classes: usize, indices: &[u32], t: u64, share: f64) -> f64 {
        let form = self.at(t);
        let shared = form.shared_entropy(classes);
        let of = |(&i, &partner): (&u32, &u32)| {
            let [label, other] = [i, partner].map(|i| labels[i as usize]);
            form.entropy(shared, Target { label, other, share }, classes, self.row(i, classes))
        };
        indices.iter().zip(indices.iter().rev()).map(of).sum()
    }

    /// The same for images that are mixed.
    ///
    /// # Errors
    /// [`Error::Usage`] unless the form is [`Form::Smoothed`] (or mixed before).
    pub fn mixed(self) -> Result<Self> {
        let form = match self.form {
            Form::Smoothed(smoothing) => mixed::MixedLoss(smoothing).into(),
            mixed @ Form::Mixed(_) => mixed,
            _ => {
                let found = "found a loss that is no smoothed cross-entropy of the labels, expected that";
                return Err(Error::Usage(format!("mixup and cutmix: {found}")));
            }
        };
        Ok(Self { form, ..self })
    }

    /// The mean by which losses exceed the least that they can be, from their sum, the sum of the least
    /// ([`Self::entropy`]) and their weight. Never below 0, but with a confidence penalty, which has no target whose
    /// entropy it could not go below.
    pub fn excess(&self, sum: f64, least: f64, weight: f64) -> f64 {
        let found = mean(sum - least, weight);
        if self.form.has_least() { excess(found) } else { found }
    }

    /// The same, with a distribution over the classes for each training image, `[images, classes]`, in place of its
    /// label.
    ///
    /// # Errors
    /// [`Error::Usage`] unless the form is [`Form::Weighted`], the only one that takes distributions; for a value that
    /// is negative or not finite, and for a row that does not sum to 1 over the classes that take part.
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
}

/// One case of a form: what goes in, and how far from the twin each result may be.
#[derive(Clone, Debug)]
pub struct LossCase {
    /// Its shape and settings.
    pub name: String,
    /// The loss.
    pub form: Form,
    /// Logits in a row.
    pub classes: usize,
    /// `[n, classes]`; NaN where nothing is read.
    pub logits: Vec<f32>,
    /// `[n]`, ignored ones among them.
    pub labels: Vec<u32>,
    /// `[n, classes]`, or nothing.
    pub rows: Vec<f32>,
    /// The share of a sample's own label; the rest is that of the sample as far from the end.
    pub share: f64,
    /// The upstream gradient where all rows share one.
    pub dloss: f32,
    /// Of each row's loss and nll.
    pub loss_tolerance: Vec<[f64; 2]>,
    /// Of each element of the logits' gradient, for an upstream gradient of 1.
    pub gradient_tolerance: Vec<f64>,
}

/// Losses by name.
pub type Named = Vec<(&'static str, Loss)>;

/// A form in the list.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// The stem of its shader.
    pub name: &'static str,
    /// Cases for `check`: `n` rows of so many classes, of logits up to a scale.
    pub cases: fn(usize, usize, f32) -> Result<Vec<LossCase>>,
    /// Losses for whole training steps, over so many classes and training images.
    pub trainings: fn(usize, usize) -> Result<Named>,
}

/// Makes [`Form`] of the list of forms, and `each!`, which does the same with whichever form it is. (A twin is generic
/// over the precision, which no trait object can be: so `Form` is an enum, whose arms are written here, once.)
macro_rules! forms {
    ($d:tt $($(#[$meta:meta])* $name:ident($module:ident, $form:ty),)*) => {
        /// What is computed for each sample.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Form {
            $($(#[$meta])* $name($form),)*
        }

        /// Every form.
        pub const FORMS: &[Listed] = &[
            $(Listed {
                name: <$form>::NAME,
                cases: $module::cases::cases,
                trainings: $module::cases::trainings,
            },)*
        ];

        $(impl From<$form> for Form {
            fn from(form: $form) -> Self {
                Self::$name(form)
            }
        })*

        macro_rules! each {
            ($d self:expr, $d form:ident => $d body:expr) => {
                match $d self { $(Form::$name($d form) => $d body,)* }
            };
        }
    };
}

forms! { $
    /// Cross-entropy with a target of two masses ([`smoothed`]).
    Smoothed(smoothed, Smoothing),
    /// Cross-entropy of images that are mixed, each with two labels ([`mixed`]).
    Mixed(mixed, mixed::MixedLoss),
    /// The general cross-entropy: a prior, class weights, a class mask, soft targets ([`weighted`]).
    Weighted(weighted, weighted::WeightedLoss),
    /// A loss that smoothing is compared with: focal loss, confidence penalty. It has no epsilon ([`comparator`]).
    Comparator(comparator, comparator::ComparatorLoss),
    /// Cross-entropy with a penalty on the largest logit: MaxSup, MbLS ([`logit_penalty`]).
    LogitPenalty(logit_penalty, logit_penalty::LogitPenalty),
    /// Distillation from a teacher, whose logits stand beside the labels ([`distillation`]).
    Distillation(distillation, distillation::DistillationLoss),
}

/// [`Formula`]'s methods, of whichever form it is.
impl Form {
    /// The same form with another epsilon.
    pub fn with_epsilon(&self, epsilon: f64) -> Self {
        each!(self, form => form.with_epsilon(epsilon).into())
    }

    /// The classes it is for, where it knows them.
    pub fn classes(&self) -> Option<usize> {
        each!(self, form => Formula::classes(form))
    }

    /// Which classes take part; `None`: all of them.
    pub fn allowed(&self) -> Option<&[bool]> {
        each!(self, form => Formula::allowed(form))
    }

    /// Whether a sample is not ignored.
    pub fn counts(&self, label: u32, classes: usize, row: Option<&[f32]>) -> bool {
        each!(self, form => form.counts(label, classes, row))
    }

    /// A sample's weight in the mean.
    pub fn weight(&self, label: u32, classes: usize, row: Option<&[f32]>) -> f64 {
        each!(self, form => Formula::weight(form, label, classes, row))
    }

    /// What is missing where there are no rows; `None` where it does without.
    pub fn needs(&self) -> Option<&'static str> {
        each!(self, form => form.needs())
    }

    /// The smoothed cross-entropy that is left of it for images of which there is a label and nothing else, if it is
    /// one.
    pub fn of_labels(&self) -> Option<Smoothing> {
        each!(self, form => form.of_labels())
    }

    /// Whether it has a least value that it cannot go below.
    pub fn has_least(&self) -> bool {
        each!(self, form => form.has_least())
    }

    /// What [`Self::entropy`] needs of the classes alone.
    pub fn shared_entropy(&self, classes: usize) -> [f64; 2] {
        each!(self, form => form.shared_entropy(classes))
    }

    /// The entropy of a sample's target, with the sample's weight.
    pub fn entropy(&self, shared: [f64; 2], target: Target, classes: usize, row: Option<&[f32]>) -> f64 {
        each!(self, form => form.entropy(shared, target, classes, row))
    }

    /// The block with what changes from step to step.
    pub fn fill(&self, classes: usize, block: LossBlock) -> LossBlock {
        each!(self, form => Formula::fill(form, classes, block))
    }

    /// Records a pass over up to `n` rows of `classes` logits.
    ///
    /// # Errors
    /// As [`Plan::dispatch`] and [`Plan::buffer`].
    pub fn record(&self, plan: &mut Plan, pass: Pass, n: usize, classes: usize, at: &Buffers) -> Result<()> {
        each!(self, form => form.record(plan, pass, n, classes, at))
    }

    /// The twin: `logits [n, classes]` to `losses [n]`.
    pub fn forward<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, losses: &mut [T]) {
        each!(self, form => form.forward(classes, logits, batch, losses));
    }

    /// The form of the fast CPU path: loss and nll of each of `logits [n, classes]` into `losses [n]`, and its gradient
    /// for the batch's upstream gradient.
    pub fn fast<T: Real>(&self, logits: &[T], batch: Batch<T>, losses: &mut [[T; 2]], dlogits: &mut [T]) {
        let (classes, dloss) = (logits.len() / losses.len(), T::of(batch.dloss()));
        let rows = logits.chunks(classes).zip(dlogits.chunks_mut(classes)).zip(losses);
        for (n, ((logits, dlogits), loss)) in rows.enumerate() {
            let row = if batch.rows.is_empty() { &[] } else { &batch.rows[n * classes..][..classes] };
            *loss = each!(self, form => form.fast(logits, batch.target(n), row, dlogits));
            dlogits.iter_mut().for_each(|d| *d *= dloss);
        }
    }

    /// The twin: `logits [n, classes]` to plain `nlls [n]`.
    pub fn nll<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, nlls: &mut [T]) {
        each!(self, form => form.nll(classes, logits, batch, nlls));
    }

    /// The twin: `logits`, `dloss [n]` (the losses' upstream gradient) to `dlogits [n, classes]`.
    pub fn backward<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, dloss: &[T], dlogits: &mut [T]) {
        each!(self, form => form.backward(classes, logits, batch, dloss, dlogits));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A form over every case, in f64: `[loss, nll]` of each row and the gradient, by the plain form and by the fast
    /// one, with `shift` added to every logit.
    fn both(case: &LossCase, shift: f64) -> [(Vec<[f64; 2]>, Vec<f64>); 2] {
        let logits: Vec<f64> = case.logits.iter().map(|&v| f64::from(v) + shift).collect();
        let rows: Vec<f64> = case.rows.iter().map(|&v| v.into()).collect();
        let n = case.labels.len();
        let others: Vec<u32> = case.labels.iter().rev().copied().collect();
        let (others, share) = (&others[..], case.share);
        let batch = Batch { rows: &rows, others, share, weight: 4.0, counted: 4.0, ..Batch::new(&case.labels) };
        let [mut losses, mut nlls] = [vec![f64::NAN; n], vec![f64::NAN; n]];
        let mut gradient = vec![f64::NAN; logits.len()];
        case.form.forward(case.classes, &logits, batch, &mut losses);
        case.form.nll(case.classes, &logits, batch, &mut nlls);
        case.form.backward(case.classes, &logits, batch, &vec![batch.dloss(); n], &mut gradient);
        let plain = losses.into_iter().zip(nlls).map(|(loss, nll)| [loss, nll]).collect();
        let mut fast = vec![[f64::NAN; 2]; n];
        let mut fast_gradient = vec![f64::NAN; logits.len()];
        case.form.fast(&logits, batch, &mut fast, &mut fast_gradient);
        [(plain, gradient), (fast, fast_gradient)]
    }

    fn close(what: &str, case: &LossCase, found: &[f64], expected: &[f64], tolerance: f64) {
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (found - expected).abs();
            assert!(error <= tolerance * (1.0 + expected.abs()), "{} {what} {i}: {found}, {expected}", case.name);
        }
    }

    /// Catches a fast form that computes another loss, and a maximum that begins at 0: with every logit far below it
    /// nothing would be left of the exponentials.
    #[test]
    fn the_fast_forms_are_the_plain_ones_wherever_the_logits_lie() {
        for listed in FORMS {
            for (n, classes, scale) in [(5, 10, 4.0), (9, 3, 1.0), (3, 65, 8.0)] {
                for case in (listed.cases)(n, classes, scale).unwrap() {
                    let [plain, fast] = both(&case, 0.0);
                    close("fast", &case, fast.0.as_flattened(), plain.0.as_flattened(), 1e-12);
                    close("fast gradient", &case, &fast.1, &plain.1, 1e-12);
                    for (below, at_zero) in both(&case, -1e4).iter().zip([&plain, &fast]) {
                        close("far below", &case, below.0.as_flattened(), at_zero.0.as_flattened(), 1e-10);
                        close("gradient far below", &case, &below.1, &at_zero.1, 1e-10);
                    }
                }
            }
        }
    }
}
