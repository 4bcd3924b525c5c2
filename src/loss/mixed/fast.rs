//! The loss on the fast CPU path: a row's loss, nll and gradient at once, with one exponential a class. Formulas:
//! `shaders/mixed_loss.wgsl`.

use crate::loss::Target;
use crate::loss::smoothed::fast::softmax;
use crate::loss::smoothing::Masses;
use crate::real::Real;

/// Loss and nll of a row of logits with both labels of `target`, and the gradient for an upstream gradient of 1 into
/// `d`.
pub fn row<T: Real>(masses: Masses, x: &[T], target: Target, d: &mut [T]) -> [T; 2] {
    let shares = target.shares(x.len());
    if target.label as usize >= x.len() && target.other as usize >= x.len() {
        d.fill(T::zero());
        return [T::zero(); 2];
    }
    let [max, inverse, log_sum] = softmax(x, d);
    let [off, kept, w] = [masses.off, masses.on - masses.off, shares[0] + shares[1]].map(T::of);
    let total: T = x.iter().map(|&x| x - max).sum();
    d.iter_mut().for_each(|d| *d = w * (*d * inverse - off));
    let mut own = T::zero();
    for (label, share) in [target.label, target.other].into_iter().zip(shares.map(T::of)) {
        if let Some(&x) = x.get(label as usize) {
            d[label as usize] -= kept * share;
            own += share * (x - max);
        }
    }
    [w * (log_sum - off * total) - kept * own, w * log_sum - own]
}
