//! Leaky ReLU on the fast CPU path.

use pulp::Simd;

use super::LeakyRelu;
use crate::ops::elementwise::Pointwise;
use crate::real::{Lanes, Real};

impl<T: Real> Pointwise<T> for LeakyRelu {
    #[inline(always)]
    fn value<S: Simd>(self, x: Lanes<T, S>) -> Lanes<T, S> {
        x.if_le(x.all(0.0), x.all(self.slope) * x, x)
    }

    #[inline(always)]
    fn gradient<S: Simd>(self, x: Lanes<T, S>, dy: Lanes<T, S>) -> Lanes<T, S> {
        let cut = x.all(self.slope) * dy;
        // A NaN is not above 0, and nothing is less than it.
        x.if_le(x.all(0.0), cut, x.if_le(x, dy, cut))
    }
}
