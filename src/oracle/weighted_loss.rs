//! The CPU twin of `shaders/weighted_loss.wgsl`. Formulas: [`crate::ops::weighted_loss`]. Each row's target is made as a
//! list, in the words of the definition, and not by the device's table.

use super::Real;
use crate::ops::weighted_loss::{Reduction, WeightedLoss, Weighting};

/// A batch's targets.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a, T> {
    /// Class indices, `[n]`; what is no class that takes part is ignored.
    Index(&'a [u32]),
    /// Distributions, `[n, classes]`.
    Soft(&'a [T]),
}

/// A row's target with the weights in it: a of the formulas, 0 for classes that take no part. `None` where the sample is
/// ignored.
pub fn masses<T: Real>(loss: &WeightedLoss, targets: Targets<T>, n: usize) -> Option<Vec<T>> {
    let target = target(loss, targets, n)?;
    let sample = expected_weight(loss, &target);
    let of_class = |class: usize| {
        let q = T::of(loss.keep()) * target[class] + T::of(loss.smooth()[class]);
        match loss.weighting() {
            Weighting::PyTorch => T::of(loss.weights()[class]) * q,
            Weighting::Sample => sample * q,
        }
    };
    Some((0..loss.classes()).map(of_class).collect())
}

/// `logits [n, classes]` to `losses [n]`.
pub fn forward<T: Real>(loss: &WeightedLoss, logits: &[T], targets: Targets<T>, losses: &mut [T]) {
    for (n, (row, out)) in logits.chunks(loss.classes()).zip(losses).enumerate() {
        *out = T::zero();
        let Some(masses) = masses(loss, targets, n) else { continue };
        let (max, log_sum) = log_normaliser(loss, row);
        *out = (0..row.len()).filter(|&k| loss.allowed()[k]).map(|k| masses[k] * (log_sum - (row[k] - max))).sum();
    }
}

/// `logits`, `dloss [n]` (the losses' upstream gradient) to `dlogits [n, classes]`.
pub fn backward<T: Real>(loss: &WeightedLoss, logits: &[T], targets: Targets<T>, dloss: &[T], dlogits: &mut [T]) {
    let classes = loss.classes();
    for (n, (row, drow)) in logits.chunks(classes).zip(dlogits.chunks_mut(classes)).enumerate() {
        drow.fill(T::zero());
        let Some(masses) = masses(loss, targets, n) else { continue };
        let (max, log_sum) = log_normaliser(loss, row);
        let total: T = masses.iter().copied().sum();
        for class in (0..classes).filter(|&class| loss.allowed()[class]) {
            drow[class] = dloss[n] * (total * (row[class] - max - log_sum).exp() - masses[class]);
        }
    }
}

/// The samples' weights in the mean, `[n]`: of the true class; of a distribution with PyTorch's weighting, 1.
pub fn weights<T: Real>(loss: &WeightedLoss, targets: Targets<T>, n: usize) -> Vec<T> {
    let weight = |n: usize| match (targets, loss.weighting()) {
        (Targets::Soft(_), Weighting::PyTorch) => T::one(),
        _ => target(loss, targets, n).map_or(T::zero(), |target| expected_weight(loss, &target)),
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

/// The target before smoothing, without what it holds for classes that take no part.
fn target<T: Real>(loss: &WeightedLoss, targets: Targets<T>, n: usize) -> Option<Vec<T>> {
    let allowed = loss.allowed();
    match targets {
        Targets::Index(indices) => {
            let index = indices[n] as usize;
            let mut one_hot = vec![T::zero(); allowed.len()];
            allowed.get(index).is_some_and(|allowed| *allowed).then(|| {
                one_hot[index] = T::one();
                one_hot
            })
        }
        Targets::Soft(rows) => {
            let row = &rows[n * allowed.len()..][..allowed.len()];
            Some(row.iter().zip(allowed).map(|(&t, &allowed)| if allowed { t } else { T::zero() }).collect())
        }
    }
}

fn expected_weight<T: Real>(loss: &WeightedLoss, target: &[T]) -> T {
    loss.weights().iter().zip(target).map(|(&w, &t)| T::of(w) * t).sum()
}

/// The maximum over the classes that take part, and the logarithm of the sum of `exp(x - maximum)`.
fn log_normaliser<T: Real>(loss: &WeightedLoss, row: &[T]) -> (T, T) {
    let taking_part = || row.iter().zip(loss.allowed()).filter(|(_, allowed)| **allowed).map(|(&x, _)| x);
    // A NaN among the logits is not the maximum, but it reaches the sum, and so the loss.
    let max = taking_part().fold(T::neg_infinity(), T::max);
    let sum: T = taking_part().map(|x| (x - max).exp()).sum();
    (max, sum.ln())
}
