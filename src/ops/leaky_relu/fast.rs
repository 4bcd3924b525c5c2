//! Leaky ReLU on the fast CPU path.

use super::LeakyRelu;
use crate::ops::elementwise::Pointwise;
use crate::real::Real;

impl<T: Real> Pointwise<T> for LeakyRelu {
    #[inline(always)]
    fn value(self, x: T) -> T {
        if x > T::zero() { x } else { T::of(self.slope) * x }
    }

    #[inline(always)]
    fn gradient(self, x: T, dy: T) -> T {
        if x > T::zero() { dy } else { T::of(self.slope) * dy }
    }
}
