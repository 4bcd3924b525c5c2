//! ReLU on the fast CPU path, where no convolution and no norm takes it along.

use super::Relu;
use crate::ops::elementwise::Pointwise;
use crate::real::Real;

impl<T: Real> Pointwise<T> for Relu {
    #[inline(always)]
    fn value(self, x: T) -> T {
        if x <= T::zero() { T::zero() } else { x }
    }

    #[inline(always)]
    fn gradient(self, x: T, dy: T) -> T {
        if x <= T::zero() { T::zero() } else { dy }
    }
}
