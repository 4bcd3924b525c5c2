//! The loss on the fast CPU path: a row's loss, nll and gradient at once, with one exponential a class. Formulas:
//! [`super`].

use super::{WeightedLoss, Weighting};
use crate::real::Real;

/// Loss and nll of a row of logits whose target is the class `label`, or a distribution if there is one in `soft`; and
/// the gradient for an upstream gradient of 1 into `d`.
pub fn row<T: Real>(loss: &WeightedLoss, x: &[T], label: u32, soft: &[T], d: &mut [T]) -> [T; 2] {
    let (allowed, class) = (loss.allowed(), label as usize);
    if soft.is_empty() && !allowed.get(class).is_some_and(|allowed| *allowed) {
        d.fill(T::zero());
        return [T::zero(); 2];
    }
    let part = || (0..x.len()).filter(|&k| allowed[k]);
    // A NaN among the logits is not the maximum, but it reaches the sum, and so the loss.
    let max = part().fold(T::neg_infinity(), |max, k| max.max(x[k]));
    d.fill(T::zero());
    let mut sum = T::zero();
    for k in part() {
        d[k] = (x[k] - max).exp();
        sum += d[k];
    }
    let (inverse, log_sum) = (sum.recip(), sum.ln());
    let target = |k: usize| match soft.get(k) {
        Some(&share) => share,
        None if k == class => T::one(),
        None => T::zero(),
    };
    let weight = |k: usize| T::of(loss.weights()[k]);
    let of_sample = match loss.weighting() {
        Weighting::PyTorch => T::one(),
        Weighting::Sample => part().map(|k| weight(k) * target(k)).sum(),
    };
    let (keep, epsilon) = (T::of(1.0 - loss.epsilon()), loss.epsilon());
    let mass = |k: usize| {
        let q = keep * target(k) + T::of(epsilon * loss.prior()[k]);
        if loss.weighting() == Weighting::PyTorch { weight(k) * q } else { of_sample * q }
    };
    let [mut total, mut sum_loss, mut nll] = [T::zero(); 3];
    for k in part() {
        let surprise = log_sum - (x[k] - max);
        total += mass(k);
        sum_loss += mass(k) * surprise;
        nll += target(k) * surprise;
    }
    for k in part() {
        d[k] = total * (d[k] * inverse) - mass(k);
    }
    [sum_loss, nll]
}
