//! The CPU twin of `shaders/weighted_loss.wgsl`. Formulas: [`super`]. A target's mass is computed where
//! it is needed, in the words of the definition, and not by the device's table: no list over the classes is made.

use crate::loss::weighted::{WeightedLoss, Weighting};
use crate::real::Real;

/// A batch's targets.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a, T> {
    /// Class indices, `[n]`; what is no class that takes part is ignored.
    Index(&'a [u32]),
    /// Distributions, `[n, classes]`.
    Soft(&'a [T]),
}

/// How the rows' losses become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Over the sum of the samples' weights.
    Mean,
    /// Their sum.
    Sum,
}

/// The target of one row.
struct Target<'a, T> {
    loss: &'a WeightedLoss,
    of_row: OfRow<'a, T>,
    /// The sample's weight: the expected weight of its class.
    weight: T,
}

enum OfRow<'a, T> {
    Index(usize),
    Soft(&'a [T]),
}

impl<'a, T: Real> Target<'a, T> {
    /// Row `n`'s, or `None` where it is ignored.
    fn new(loss: &'a WeightedLoss, targets: Targets<'a, T>, n: usize) -> Option<Self> {
        let of_row = match targets {
            Targets::Index(indices) => OfRow::Index(indices[n] as usize),
            Targets::Soft(rows) => OfRow::Soft(&rows[n * loss.classes()..][..loss.classes()]),
        };
        let mut target = Self { loss, of_row, weight: T::zero() };
        target.weight = match target.of_row {
            OfRow::Index(class) if !loss.allowed().get(class).is_some_and(|allowed| *allowed) => return None,
            OfRow::Index(class) => T::of(loss.weights()[class]),
            OfRow::Soft(_) => (0..loss.classes()).map(|k| T::of(loss.weights()[k]) * target.mass_before(k)).sum(),
        };
        Some(target)
    }

    /// t of the formulas; 0 for classes that take no part.
    fn mass_before(&self, class: usize) -> T {
        match self.of_row {
            _ if !self.loss.allowed()[class] => T::zero(),
            OfRow::Index(index) => T::of(f64::from(u8::from(index == class))),
            OfRow::Soft(row) => row[class],
        }
    }

    /// a of the formulas; 0 for classes that take no part.
    fn mass(&self, class: usize) -> T {
        let e = self.loss.epsilon();
        let q = T::of(1.0 - e) * self.mass_before(class) + T::of(e * self.loss.prior()[class]);
        match self.loss.weighting() {
            Weighting::PyTorch => T::of(self.loss.weights()[class]) * q,
            Weighting::Sample => self.weight * q,
        }
    }
}

/// A row's target with the weights in it: a of the formulas, 0 for classes that take no part. `None` where the sample
/// is ignored.
pub fn masses<T: Real>(loss: &WeightedLoss, targets: Targets<T>, n: usize) -> Option<Vec<T>> {
    let target = Target::new(loss, targets, n)?;
    Some((0..loss.classes()).map(|class| target.mass(class)).collect())
}

/// `logits [n, classes]` to `losses [n]`.
pub fn forward<T: Real>(loss: &WeightedLoss, logits: &[T], targets: Targets<T>, losses: &mut [T]) {
    for (n, (row, out)) in logits.chunks(loss.classes()).zip(losses).enumerate() {
        *out = T::zero();
        let Some(target) = Target::new(loss, targets, n) else { continue };
        let (max, log_sum) = log_normaliser(loss, row);
        let taking_part = (0..row.len()).filter(|&k| loss.allowed()[k]);
        *out = taking_part.map(|k| target.mass(k) * (log_sum - (row[k] - max))).sum();
    }
}

/// `logits [n, classes]` to `nlls [n]`: with the targets as they are, without smoothing or weights.
pub fn nll<T: Real>(loss: &WeightedLoss, logits: &[T], targets: Targets<T>, nlls: &mut [T]) {
    for (n, (row, out)) in logits.chunks(loss.classes()).zip(nlls).enumerate() {
        *out = T::zero();
        let Some(target) = Target::new(loss, targets, n) else { continue };
        let (max, log_sum) = log_normaliser(loss, row);
        let taking_part = (0..row.len()).filter(|&k| loss.allowed()[k]);
        *out = taking_part.map(|k| target.mass_before(k) * (log_sum - (row[k] - max))).sum();
    }
}

/// `logits`, `dloss [n]` (the losses' upstream gradient) to `dlogits [n, classes]`.
pub fn backward<T: Real>(loss: &WeightedLoss, logits: &[T], targets: Targets<T>, dloss: &[T], dlogits: &mut [T]) {
    let classes = loss.classes();
    for (n, (row, drow)) in logits.chunks(classes).zip(dlogits.chunks_mut(classes)).enumerate() {
        drow.fill(T::zero());
        let Some(target) = Target::new(loss, targets, n) else { continue };
        let (max, log_sum) = log_normaliser(loss, row);
        let total: T = (0..classes).map(|class| target.mass(class)).sum();
        for class in (0..classes).filter(|&class| loss.allowed()[class]) {
            drow[class] = dloss[n] * (total * (row[class] - max - log_sum).exp() - target.mass(class));
        }
    }
}

/// The samples' weights in the mean, `[n]`: of the true class; of a distribution with PyTorch's weighting, 1.
pub fn weights<T: Real>(loss: &WeightedLoss, targets: Targets<T>, n: usize) -> Vec<T> {
    let weight = |n: usize| match (targets, loss.weighting()) {
        (Targets::Soft(_), Weighting::PyTorch) => T::one(),
        _ => Target::new(loss, targets, n).map_or(T::zero(), |target| target.weight),
    };
    (0..n).map(weight).collect()
}

/// The upstream gradient of each of `n` losses.
pub fn upstream<T: Real>(loss: &WeightedLoss, targets: Targets<T>, n: usize, reduction: Reduction) -> Vec<T> {
    let total: T = weights(loss, targets, n).into_iter().sum();
    let value = match reduction {
        Reduction::Sum => T::one(),
        // The mean of nothing is nothing.
        Reduction::Mean if total > T::zero() => T::one() / total,
        Reduction::Mean => T::zero(),
    };
    vec![value; n]
}

/// The batch's loss: each loss times its upstream gradient, summed.
pub fn reduce<T: Real>(dloss: &[T], losses: &[T]) -> T {
    dloss.iter().zip(losses).map(|(&d, &loss)| d * loss).sum()
}

/// The maximum over the classes that take part, and the logarithm of the sum of `exp(x - maximum)`.
fn log_normaliser<T: Real>(loss: &WeightedLoss, row: &[T]) -> (T, T) {
    let taking_part = || row.iter().zip(loss.allowed()).filter(|(_, allowed)| **allowed).map(|(&x, _)| x);
    // A NaN among the logits is not the maximum, but it reaches the sum, and so the loss.
    let max = taking_part().fold(T::neg_infinity(), T::max);
    let sum: T = taking_part().map(|x| (x - max).exp()).sum();
    (max, sum.ln())
}
