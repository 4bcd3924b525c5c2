//! The CPU twin of `shaders/relu.wgsl`. Formulas: [`crate::ops::relu`].

use super::Real;

/// `y = max(x, 0)`, element by element. NaN stays NaN, as in PyTorch.
pub fn forward<T: Real>(x: &[T], y: &mut [T]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x <= T::zero() { T::zero() } else { x });
}

/// `dx = dy` where `y > 0`, else 0. Takes the output: the input need not be kept.
pub fn backward<T: Real>(y: &[T], dy: &[T], dx: &mut [T]) {
    for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
        *dx = if y <= T::zero() { T::zero() } else { dy };
    }
}
