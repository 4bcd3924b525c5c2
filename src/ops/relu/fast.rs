//! ReLU on the fast CPU path, where no convolution and no norm takes it along.

use pulp::Simd;

use super::Relu;
use crate::ops::elementwise::Pointwise;
use crate::real::{Lanes, Real};

impl<T: Real> Pointwise<T> for Relu {
    #[inline(always)]
    fn value<S: Simd>(self, x: Lanes<T, S>) -> Lanes<T, S> {
        let zero = x.all(0.0);
        x.if_le(zero, zero, x)
    }

    #[inline(always)]
    fn gradient<S: Simd>(self, x: Lanes<T, S>, dy: Lanes<T, S>) -> Lanes<T, S> {
        let zero = x.all(0.0);
        x.if_le(zero, zero, dy)
    }
}
