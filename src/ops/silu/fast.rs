//! SiLU on the fast CPU path.

use pulp::Simd;

use super::Silu;
use crate::ops::elementwise::{Pointwise, sigmoid};
use crate::real::{Lanes, Real};

impl<T: Real> Pointwise<T> for Silu {
    #[inline(always)]
    fn value<S: Simd>(self, x: Lanes<T, S>) -> Lanes<T, S> {
        x * sigmoid(x)
    }

    #[inline(always)]
    fn gradient<S: Simd>(self, x: Lanes<T, S>, dy: Lanes<T, S>) -> Lanes<T, S> {
        let (share, one) = (sigmoid(x), x.all(1.0));
        dy * share * x.mul_add(one - share, one)
    }
}
