//! Adam's update as its formula says, parameter by parameter.

use super::Adam;
use crate::optimizer::update::Update;
use crate::real::Real;

/// An update in place of parameters of which the first `decayed` decay, with both moments. Whether all are finite after
/// it.
pub fn step<T: Real>(
    adam: &Adam,
    update: Update,
    params: &mut [T],
    grads: &[T],
    [first, second]: [&mut [T]; 2],
    decayed: usize,
) -> bool {
    let [b1, b2] = adam.betas.map(T::of);
    let [rest1, rest2] = adam.betas.map(|b| T::of(1.0 - b));
    let mut finite = true;
    for (i, ((p, &g), (m, v))) in params.iter_mut().zip(grads).zip(first.iter_mut().zip(second)).enumerate() {
        let Update { keep, l2, step_size, denominator, .. } = if i < decayed { update } else { update.undecayed() };
        *p *= T::of(keep);
        let g = g + T::of(l2) * *p;
        *m = b1 * *m + rest1 * g;
        *v = b2 * *v + rest2 * g * g;
        *p -= T::of(step_size) * *m / (v.sqrt() / T::of(denominator) + T::of(adam.eps));
        finite &= p.is_finite() & m.is_finite() & v.is_finite();
    }
    finite
}
