//! The loss on the fast CPU path: a row's loss, nll and gradient at once, with one exponential a class. Formulas:
//! [`super`].

use super::LogitPenalty;
use crate::loss::smoothed::fast::softmax;
use crate::real::Real;

/// Loss and nll of a row of logits whose class is `label`, and the gradient for an upstream gradient of 1 into `d`.
pub fn row<T: Real>(loss: &LogitPenalty, x: &[T], label: u32, d: &mut [T]) -> [T; 2] {
    let class = label as usize;
    if class >= x.len() {
        d.fill(T::zero());
        return [T::zero(); 2];
    }
    let [max, inverse, log_sum] = softmax(x, d);
    let [alpha, each, margin] = [loss.alpha(), loss.each(), loss.margin()].map(T::of);
    let share = alpha / T::of(x.len() as f64);
    let (mut below, mut beyond, mut far, mut ties) = (T::zero(), T::zero(), 0, 0);
    for (d, &x) in d.iter_mut().zip(x) {
        let by = max - x;
        below += by;
        *d = *d * inverse - share;
        if by > margin {
            beyond += by - margin;
            *d -= each;
            far += 1;
        }
        ties += usize::from(x == max);
    }
    let of_largest = (alpha + each * T::of(far as f64)) / T::of(ties as f64);
    d.iter_mut().zip(x).filter(|(_, x)| **x == max).for_each(|(d, _)| *d += of_largest);
    d[class] -= T::one();
    let nll = log_sum + (max - x[class]);
    [nll + share * below + each * beyond, nll]
}
