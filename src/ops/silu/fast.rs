//! SiLU on the fast CPU path.

use super::Silu;
use crate::ops::elementwise::{Pointwise, sigmoid};
use crate::real::Real;

impl<T: Real> Pointwise<T> for Silu {
    #[inline(always)]
    fn value(self, x: T) -> T {
        x * sigmoid(x)
    }

    #[inline(always)]
    fn gradient(self, x: T, dy: T) -> T {
        let share = sigmoid(x);
        dy * share * (T::one() + x * (T::one() - share))
    }
}
