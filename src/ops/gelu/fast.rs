//! GELU on the fast CPU path. Formulas: [`super`].

use pulp::Simd;

use super::{CUBE, SCALE};
use crate::ops::elementwise::{Pointwise, exp, sigmoid};
use crate::real::{Lanes, Real};

/// The exact form, in f32: with the kernel's polynomial, as `shaders/gelu.wgsl` explains it.
#[derive(Clone, Copy, Debug)]
pub struct Exact;

/// Of the tail, `P(-|x|) = exp(-x^2 / 2) t Q(t) / 2` with `t = 1 / (1 + NEAR |x|)`.
const NEAR: f64 = 0.212132034;
/// `Q`, the highest power first.
const Q: [f64; 9] = [
    -0.129523138,
    0.485564414,
    -0.512280736,
    0.547723269,
    -0.0946531343,
    0.214927169,
    0.14833886,
    0.170715275,
    0.169188002,
];

/// `P(x)` and `P'(x)`.
#[inline(always)]
fn exact<T: Real, S: Simd>(x: Lanes<T, S>) -> [Lanes<T, S>; 2] {
    let (zero, one) = (x.all(0.0), x.all(1.0));
    let e = exp(x * x * x.all(-0.5));
    let size = x.if_le(zero, -x, x);
    let t = one / size.mul_add(x.all(NEAR), one);
    let mut q = zero;
    for coefficient in Q {
        q = q.mul_add(t, x.all(coefficient));
    }
    let tail = x.all(0.5) * e * (q * t);
    [x.if_le(zero, tail, one - tail), e * x.all(SCALE / 2.0)]
}

impl<T: Real> Pointwise<T> for Exact {
    #[inline(always)]
    fn value<S: Simd>(self, x: Lanes<T, S>) -> Lanes<T, S> {
        x * exact(x)[0]
    }

    #[inline(always)]
    fn gradient<S: Simd>(self, x: Lanes<T, S>, dy: Lanes<T, S>) -> Lanes<T, S> {
        let [share, slope] = exact(x);
        dy * x.mul_add(slope, share)
    }
}

/// The form with tanh: `P(x) = s(2u)` with the logistic function s.
#[derive(Clone, Copy, Debug)]
pub struct ByTanh;

#[inline(always)]
fn by_tanh<T: Real, S: Simd>(x: Lanes<T, S>) -> [Lanes<T, S>; 2] {
    // Beyond 40 the share is 0 or 1, and a square could leave the numbers.
    let x = x.within(40.0);
    let (square, one, scale) = (x * x, x.all(1.0), x.all(2.0 * SCALE));
    let share = sigmoid(scale * x * square.mul_add(x.all(CUBE), one));
    let inner = scale * square.mul_add(x.all(3.0 * CUBE), one);
    [share, share * (one - share) * inner]
}

impl<T: Real> Pointwise<T> for ByTanh {
    #[inline(always)]
    fn value<S: Simd>(self, x: Lanes<T, S>) -> Lanes<T, S> {
        x * by_tanh(x)[0]
    }

    #[inline(always)]
    fn gradient<S: Simd>(self, x: Lanes<T, S>, dy: Lanes<T, S>) -> Lanes<T, S> {
        let [share, slope] = by_tanh(x);
        dy * x.mul_add(slope, share)
    }
}
