//! The two precisions of the CPU, `f32` and `f64`, and this machine's vectors of them.
//!
//! A vector's width is known only at run time: `S` is the machine's instruction set, and every kernel is compiled once
//! for each. Kernels and all they call are `#[inline(always)]`: only code that is inlined into the entry point of an
//! instruction set is compiled for it. Closures need it too, and a function is passed on in such a closure, not by its
//! name: that would be a call in between that is not inlined (an inference took four times as long).

use std::ops::{Add, Div, Mul, Neg, Sub};

use pulp::{Simd, WithSimd};

/// `f32` or `f64`, with the vectors of `S` that hold it.
pub trait Real:
    num_traits::Float
    + num_traits::NumAssign
    + std::iter::Sum
    + std::fmt::Debug
    + Default
    + Send
    + Sync
    + bytemuck::Pod
    + 'static
{
    /// The nearest value.
    fn of(value: f64) -> Self;
    /// Widened without loss.
    fn wide(self) -> f64;

    /// A register full of values. It needs no alignment beyond that of one value.
    type Vector<S: Simd>: bytemuck::Pod + Send + Sync;

    /// A small whole number.
    fn from_byte(byte: u8) -> Self;
    /// Back from [`Self::from_byte`].
    fn to_byte(self) -> u8;
    /// 2 to the power of a whole number, where that is a normal number.
    fn power_of_two(self) -> Self;
    /// The whole vectors in `values`; what is left over at the end is not among them.
    fn vectors<S: Simd>(values: &[Self]) -> &[Self::Vector<S>];
    /// As [`Self::vectors`], to write to.
    fn vectors_mut<S: Simd>(values: &mut [Self]) -> &mut [Self::Vector<S>];
    /// `value` in every lane.
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S>;
    /// `a * b + c`, fused where the machine can.
    fn vmul_add<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>, c: Self::Vector<S>) -> Self::Vector<S>;
    /// `a + b`.
    fn vadd<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// `a - b`.
    fn vsub<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// `a * b`.
    fn vmul<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// `a / b`.
    fn vdiv<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// The square root, lane by lane.
    fn vsqrt<S: Simd>(simd: S, a: Self::Vector<S>) -> Self::Vector<S>;
    /// `a <= b ? yes : no`, lane by lane; a NaN on either side gives `no`. Takes `[a, b]`.
    fn select_le<S: Simd>(
        simd: S,
        a_b: [Self::Vector<S>; 2],
        yes: Self::Vector<S>,
        no: Self::Vector<S>,
    ) -> Self::Vector<S>;
    /// `a == b ? yes : no`, lane by lane.
    fn select_eq<S: Simd>(
        simd: S,
        a_b: [Self::Vector<S>; 2],
        yes: Self::Vector<S>,
        no: Self::Vector<S>,
    ) -> Self::Vector<S>;
}

/// How many values a vector of `S` holds.
pub const fn lanes<T: Real, S: Simd>() -> usize {
    size_of::<T::Vector<S>>() / size_of::<T>()
}

/// How many values a vector of this machine holds.
pub fn machine_lanes<T: Real>(arch: pulp::Arch) -> usize {
    struct Lanes<T>(std::marker::PhantomData<T>);
    impl<T: Real> WithSimd for Lanes<T> {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            lanes::<T, S>()
        }
    }
    arch.dispatch(Lanes::<T>(std::marker::PhantomData))
}

/// A vector that is computed with as one number is: every operation is done lane by lane.
#[derive(Clone, Copy)]
pub struct Lanes<T: Real, S: Simd> {
    simd: S,
    values: T::Vector<S>,
}

impl<T: Real, S: Simd> Lanes<T, S> {
    /// Those of a vector.
    #[inline(always)]
    pub fn of(simd: S, values: T::Vector<S>) -> Self {
        Self { simd, values }
    }

    /// The vector.
    #[inline(always)]
    pub fn vector(self) -> T::Vector<S> {
        self.values
    }

    /// `value` in every lane.
    #[inline(always)]
    pub fn all(self, value: f64) -> Self {
        Self { values: T::splat(self.simd, T::of(value)), ..self }
    }

    /// `self * b + c`, fused where the machine can.
    #[inline(always)]
    pub fn mul_add(self, b: Self, c: Self) -> Self {
        Self { values: T::vmul_add(self.simd, self.values, b.values, c.values), ..self }
    }

    /// `self <= bound ? yes : no`; a NaN on either side gives `no`.
    #[inline(always)]
    pub fn if_le(self, bound: Self, yes: Self, no: Self) -> Self {
        Self { values: T::select_le(self.simd, [self.values, bound.values], yes.values, no.values), ..self }
    }

    /// The nearest number from -most to most. A NaN stays one.
    #[inline(always)]
    pub fn within(self, most: f64) -> Self {
        let (least, most) = (self.all(-most), self.all(most));
        let above = self.if_le(least, least, self);
        most.if_le(above, most, above)
    }

    /// The nearest whole number, of numbers up to the square root of 1 / epsilon: in one addition and one subtraction.
    #[inline(always)]
    pub fn nearest_whole(self) -> Self {
        // Added to 1.5 * 2^(bits of the mantissa), nothing is left of a fraction.
        let large = self.all(1.5 / T::epsilon().wide());
        (self + large) - large
    }

    /// [`Real::power_of_two`].
    #[inline(always)]
    pub fn power_of_two(mut self) -> Self {
        let lanes = bytemuck::cast_slice_mut::<T::Vector<S>, T>(std::slice::from_mut(&mut self.values));
        lanes.iter_mut().for_each(|lane| *lane = lane.power_of_two());
        self
    }
}

macro_rules! lane_by_lane {
    ($operator:ident, $name:ident, $of_vectors:ident) => {
        impl<T: Real, S: Simd> $operator for Lanes<T, S> {
            type Output = Self;
            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                Self { values: T::$of_vectors(self.simd, self.values, other.values), ..self }
            }
        }
    };
}

lane_by_lane!(Add, add, vadd);
lane_by_lane!(Sub, sub, vsub);
lane_by_lane!(Mul, mul, vmul);
lane_by_lane!(Div, div, vdiv);

impl<T: Real, S: Simd> Neg for Lanes<T, S> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        self.all(0.0) - self
    }
}

macro_rules! real {
    ($real:ty, $vector:ident, $as_simd:ident, $as_mut_simd:ident, $splat:ident, $mul_add:ident, $add:ident, $sub:ident,
     $mul:ident, $div:ident, $sqrt:ident, $less_equal:ident, $equal:ident, $select:ident) => {
        impl Real for $real {
            type Vector<S: Simd> = S::$vector;

            #[inline(always)]
            fn of(value: f64) -> Self {
                value as $real
            }
            #[inline(always)]
            fn wide(self) -> f64 {
                self.into()
            }
            #[inline(always)]
            fn from_byte(byte: u8) -> Self {
                byte.into()
            }
            #[inline(always)]
            fn to_byte(self) -> u8 {
                // Added to 1.5 * 2^(bits of the mantissa), the number is the sum's lowest bits: a cast from floating
                // point, which has to saturate, would be several times as slow.
                (self + 1.5 / <$real>::EPSILON).to_bits() as u8
            }

            #[inline(always)]
            fn power_of_two(self) -> Self {
                // The exponent, with what is added to every exponent, as the lowest bits of the sum.
                const LARGE: $real = 1.5 / <$real>::EPSILON + (<$real>::MAX_EXP - 1) as $real;
                <$real>::from_bits((self + LARGE).to_bits() << (<$real>::MANTISSA_DIGITS - 1))
            }

            #[inline(always)]
            fn vectors<S: Simd>(values: &[Self]) -> &[S::$vector] {
                S::$as_simd(values).0
            }
            #[inline(always)]
            fn vectors_mut<S: Simd>(values: &mut [Self]) -> &mut [S::$vector] {
                S::$as_mut_simd(values).0
            }
            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> S::$vector {
                simd.$splat(value)
            }
            #[inline(always)]
            fn vmul_add<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn vadd<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$add(a, b)
            }
            #[inline(always)]
            fn vsub<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$sub(a, b)
            }
            #[inline(always)]
            fn vmul<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$mul(a, b)
            }
            #[inline(always)]
            fn vdiv<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$div(a, b)
            }
            #[inline(always)]
            fn vsqrt<S: Simd>(simd: S, a: S::$vector) -> S::$vector {
                simd.$sqrt(a)
            }
            #[inline(always)]
            fn select_le<S: Simd>(simd: S, [a, b]: [S::$vector; 2], yes: S::$vector, no: S::$vector) -> S::$vector {
                simd.$select(simd.$less_equal(a, b), yes, no)
            }
            #[inline(always)]
            fn select_eq<S: Simd>(simd: S, [a, b]: [S::$vector; 2], yes: S::$vector, no: S::$vector) -> S::$vector {
                simd.$select(simd.$equal(a, b), yes, no)
            }
        }
    };
}

real!(
    f32,
    f32s,
    as_simd_f32s,
    as_mut_simd_f32s,
    splat_f32s,
    mul_add_e_f32s,
    add_f32s,
    sub_f32s,
    mul_f32s,
    div_f32s,
    sqrt_f32s,
    less_than_or_equal_f32s,
    equal_f32s,
    select_f32s
);
real!(
    f64,
    f64s,
    as_simd_f64s,
    as_mut_simd_f64s,
    splat_f64s,
    mul_add_e_f64s,
    add_f64s,
    sub_f64s,
    mul_f64s,
    div_f64s,
    sqrt_f64s,
    less_than_or_equal_f64s,
    equal_f64s,
    select_f64s
);
