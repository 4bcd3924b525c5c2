//! GELU on the fast CPU path. Formulas: [`super`].

use super::{CUBE, SCALE};
use crate::ops::elementwise::{Pointwise, exp, sigmoid};
use crate::real::Real;

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
fn exact<T: Real>(x: T) -> [T; 2] {
    let e = exp(x * x * T::of(-0.5));
    let t = T::one() / (T::one() + T::of(NEAR) * x.abs());
    let mut q = T::zero();
    for coefficient in Q {
        q = q * t + T::of(coefficient);
    }
    let tail = T::of(0.5) * e * (q * t);
    [if x >= T::zero() { T::one() - tail } else { tail }, e * T::of(SCALE / 2.0)]
}

impl<T: Real> Pointwise<T> for Exact {
    #[inline(always)]
    fn value(self, x: T) -> T {
        x * exact(x)[0]
    }

    #[inline(always)]
    fn gradient(self, x: T, dy: T) -> T {
        let [share, slope] = exact(x);
        dy * (share + x * slope)
    }
}

/// The form with tanh: `P(x) = s(2u)` with the logistic function s.
#[derive(Clone, Copy, Debug)]
pub struct ByTanh;

#[inline(always)]
fn by_tanh<T: Real>(x: T) -> [T; 2] {
    // Beyond 40 the share is 0 or 1, and a square could leave the numbers. A NaN stays one.
    let most = T::of(40.0);
    let x = if x > most { most } else { x };
    let x = if x < -most { -most } else { x };
    let square = x * x;
    let share = sigmoid(T::of(2.0 * SCALE) * x * (T::one() + T::of(CUBE) * square));
    let inner = T::of(2.0 * SCALE) * (T::one() + T::of(3.0 * CUBE) * square);
    [share, share * (T::one() - share) * inner]
}

impl<T: Real> Pointwise<T> for ByTanh {
    #[inline(always)]
    fn value(self, x: T) -> T {
        x * by_tanh(x)[0]
    }

    #[inline(always)]
    fn gradient(self, x: T, dy: T) -> T {
        let [share, slope] = by_tanh(x);
        dy * (share + x * slope)
    }
}
