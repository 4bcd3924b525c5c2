//! SGD's update as its formula says, parameter by parameter.

use super::Sgd;
use crate::optimizer::update::{Update, Values};
use crate::real::Real;

/// An update in place. Whether parameters and momentum are finite after it.
pub fn step<T: Real>(sgd: &Sgd, update: Update, values: Values<T>) -> bool {
    let Values { params, grads, slots, decayed, .. } = values;
    let momentum = T::of(sgd.momentum);
    let mut finite = true;
    for (i, (p, &g)) in params.iter_mut().zip(grads).enumerate() {
        let Update { l2, step_size, .. } = if i < decayed { update } else { update.undecayed() };
        let g = g + T::of(l2) * *p;
        let mut way = g;
        if let Some(m) = slots.first_mut() {
            m[i] = momentum * m[i] + g;
            way = if sgd.nesterov { g + momentum * m[i] } else { m[i] };
            finite &= m[i].is_finite();
        }
        *p -= T::of(step_size) * way;
        finite &= p.is_finite();
    }
    finite
}
