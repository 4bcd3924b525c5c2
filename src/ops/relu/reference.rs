//! ReLU as its formula says.

use crate::real::Real;

/// `y = max(x, 0)`, element by element. NaN stays NaN, as in PyTorch.
pub fn forward<T: Real>(x: &[T], y: &mut [T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = if x <= T::zero() { T::zero() } else { x };
    }
}

/// `dx = dy` where `y > 0`, else 0. Takes the output: the input need not be kept.
pub fn backward<T: Real>(y: &[T], dy: &[T], dx: &mut [T]) {
    for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
        *dx = if y <= T::zero() { T::zero() } else { dy };
    }
}
