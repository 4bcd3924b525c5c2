//! What a form of loss gives, and the list of the forms. A new one is a folder beside these (or a file), a shader, and a line
//! in `forms!` below: `check`, training on either path and the tests then have it.

use super::{Batch, Block, Buffers, Loss, comparator, distillation, smoothed, weighted};
use crate::Result;
use crate::loss::smoothing::Smoothing;
use crate::plan::shaders::Shader;
use crate::plan::{Grid, Plan, Slice, Uniform};
use crate::real::Real;

/// What is recorded of a loss.
#[derive(Clone, Copy, Debug)]
pub enum Pass {
    /// The losses alone.
    Forward,
    /// The gradient alone, for an upstream gradient of each row, `[n]` (PyTorch's `reduction='none'`).
    Backward(Slice),
    /// Both; the upstream gradient is the step's ([`Block::dloss`]).
    ForwardBackward,
}

/// A form of loss: one number for each row of logits, and its gradient. In what follows `row` is what the loss has for an image
/// beside its label ([`Loss::rows`]), `[classes]`.
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

    /// The smoothed cross-entropy that is left of it for images of which there is a label and nothing else, if it is one.
    fn of_labels(&self) -> Option<Smoothing> {
        None
    }

    /// Whether it has a least value that it cannot go below: the entropy of its target.
    fn has_least(&self) -> bool {
        true
    }

    /// What [`Self::entropy`] needs of the classes alone, made once.
    fn shared_entropy(&self, classes: usize) -> [f64; 2];

    /// The entropy of a sample's target, with the sample's weight: the least that its loss can be. 0 where it is ignored.
    fn entropy(&self, shared: [f64; 2], label: u32, classes: usize, row: Option<&[f32]>) -> f64;

    /// The block with what changes from step to step.
    fn fill(&self, _classes: usize, block: Block) -> Block {
        block
    }

    /// Records a pass over up to `n` rows of `classes` logits ([`rows`]).
    ///
    /// # Errors
    /// As [`Plan::dispatch`] and [`Plan::buffer`].
    fn record(&self, plan: &mut Plan, pass: Pass, n: usize, classes: usize, at: &Buffers) -> Result<()>;

    /// The twin: `logits [n, classes]` to `losses [n]`.
    fn forward<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, losses: &mut [T]);

    /// The twin: `logits [n, classes]` to `nlls [n]`: plain cross-entropy with the labels or the distributions as they are,
    /// without smoothing, weights, or a teacher. 0 where a sample is ignored.
    fn nll<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, nlls: &mut [T]) {
        smoothed::reference::forward(Smoothing::NONE.masses(classes), classes, logits, batch.labels, nlls);
    }

    /// The twin: `logits`, `dloss [n]` (the losses' upstream gradient) to `dlogits [n, classes]`.
    fn backward<T: Real>(&self, classes: usize, logits: &[T], batch: Batch<T>, dloss: &[T], dlogits: &mut [T]);

    /// The form of the fast CPU path: loss and nll of one row of logits, and its gradient for an upstream gradient of 1. `row` is
    /// what the loss has for the image, or nothing.
    fn fast<T: Real>(&self, logits: &[T], label: u32, row: &[T], dlogits: &mut [T]) -> [T; 2];

    /// Cases for `check`: `n` rows of logits up to `scale`.
    ///
    /// # Errors
    /// None: the numbers are in range.
    fn cases(n: usize, classes: usize, scale: f32) -> Result<Vec<Case>>;

    /// Losses by name, for whole training steps over `images` training images.
    ///
    /// # Errors
    /// None: the numbers are in range.
    fn trainings(classes: usize, images: usize) -> Result<Vec<(&'static str, Loss)>>;
}

/// Records a pass of a shader that takes its entry points from `shaders/common/loss.wgsl`; `more` is what it binds beside
/// logits, labels and results.
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

/// One case of a form: what goes in, and how far from the twin each result may be.
#[derive(Clone, Debug)]
pub struct Case {
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
    /// The upstream gradient where all rows share one.
    pub dloss: f32,
    /// Of each row's loss and nll.
    pub loss_tolerance: Vec<[f64; 2]>,
    /// Of each element of the logits' gradient, for an upstream gradient of 1.
    pub gradient_tolerance: Vec<f64>,
}

/// Losses by name, for whole training steps over so many classes and training images.
pub type Trainings = fn(usize, usize) -> Result<Vec<(&'static str, Loss)>>;

/// A form in the list.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// The stem of its shader.
    pub name: &'static str,
    /// [`Formula::cases`].
    pub cases: fn(usize, usize, f32) -> Result<Vec<Case>>,
    /// [`Formula::trainings`].
    pub trainings: Trainings,
}

/// Makes [`Form`] of the list of forms, and `each!`, which does the same with whichever form it is. (A twin is generic over the
/// precision, which no trait object can be: so `Form` is an enum, whose arms are written here, once.)
macro_rules! forms {
    ($d:tt $($(#[$meta:meta])* $name:ident($form:ty),)*) => {
        /// What is computed for each sample.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Form {
            $($(#[$meta])* $name($form),)*
        }

        /// Every form.
        pub const FORMS: &[Listed] = &[
            $(Listed { name: <$form>::NAME, cases: <$form>::cases, trainings: <$form>::trainings },)*
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
    Smoothed(Smoothing),
    /// The general cross-entropy: a prior, class weights, a class mask, soft targets ([`weighted`]).
    Weighted(weighted::WeightedLoss),
    /// A loss that smoothing is compared with: focal loss, confidence penalty. It has no epsilon ([`comparator`]).
    Comparator(comparator::ComparatorLoss),
    /// Distillation from a teacher, whose logits stand beside the labels ([`distillation`]).
    Distillation(distillation::DistillationLoss),
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

    /// The smoothed cross-entropy that is left of it for images of which there is a label and nothing else, if it is one.
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
    pub fn entropy(&self, shared: [f64; 2], label: u32, classes: usize, row: Option<&[f32]>) -> f64 {
        each!(self, form => form.entropy(shared, label, classes, row))
    }

    /// The block with what changes from step to step.
    pub fn fill(&self, classes: usize, block: Block) -> Block {
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

    /// The form of the fast CPU path: loss and nll of each of `logits [n, classes]` into `losses [n]`, and its gradient for the
    /// batch's upstream gradient.
    pub fn fast<T: Real>(&self, logits: &[T], batch: Batch<T>, losses: &mut [[T; 2]], dlogits: &mut [T]) {
        let (classes, dloss) = (logits.len() / losses.len(), T::of(batch.dloss()));
        let rows = logits.chunks(classes).zip(dlogits.chunks_mut(classes)).zip(losses).zip(batch.labels);
        for (n, (((logits, dlogits), loss), &label)) in rows.enumerate() {
            let row = if batch.rows.is_empty() { &[] } else { &batch.rows[n * classes..][..classes] };
            *loss = each!(self, form => form.fast(logits, label, row, dlogits));
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

    /// A form over every case, in f64: `[loss, nll]` of each row and the gradient, by the plain form and by the fast one, with
    /// `shift` added to every logit.
    fn both(case: &Case, shift: f64) -> [(Vec<[f64; 2]>, Vec<f64>); 2] {
        let logits: Vec<f64> = case.logits.iter().map(|&v| f64::from(v) + shift).collect();
        let rows: Vec<f64> = case.rows.iter().map(|&v| v.into()).collect();
        let n = case.labels.len();
        let batch = Batch { labels: &case.labels, rows: &rows, weight: 4.0, counted: 4.0 };
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

    fn close(what: &str, case: &Case, found: &[f64], expected: &[f64], tolerance: f64) {
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (found - expected).abs();
            assert!(error <= tolerance * (1.0 + expected.abs()), "{} {what} {i}: {found}, {expected}", case.name);
        }
    }

    /// Catches a fast form that computes another loss, and a maximum that begins at 0: with every logit far below it nothing
    /// would be left of the exponentials.
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
