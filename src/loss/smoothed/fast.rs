//! The loss on the fast CPU path: a row's loss, nll and gradient at once, with one exponential a class. Formulas:
//! [`super`].

use crate::loss::smoothing::Masses;
use crate::real::Real;

/// A row's softmax, unnormalised: `exp(x - max)` into `to`; the maximum, their sum's inverse and its logarithm.
pub fn softmax<T: Real>(x: &[T], to: &mut [T]) -> [T; 3] {
    // A NaN among the logits is not the maximum, but it reaches the sum, and so the loss.
    let max = x.iter().copied().fold(T::neg_infinity(), T::max);
    let mut sum = T::zero();
    for (to, &x) in to.iter_mut().zip(x) {
        *to = (x - max).exp();
        sum += *to;
    }
    [max, sum.recip(), sum.ln()]
}

/// Loss and nll of a row of logits whose class is `label`, and the gradient for an upstream gradient of 1 into `d`.
pub fn row<T: Real>(masses: Masses, x: &[T], label: u32, d: &mut [T]) -> [T; 2] {
    let class = label as usize;
    if class >= x.len() {
        d.fill(T::zero());
        return [T::zero(); 2];
    }
    let [max, inverse, log_sum] = softmax(x, d);
    let [off, kept] = [masses.off, masses.on - masses.off].map(T::of);
    let total: T = x.iter().map(|&x| x - max).sum();
    let own = x[class] - max;
    d.iter_mut().for_each(|d| *d = *d * inverse - off);
    d[class] -= kept;
    [log_sum - kept * own - off * total, log_sum - own]
}
