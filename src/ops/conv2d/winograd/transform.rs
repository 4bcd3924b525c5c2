//! The transforms of a tile, in vectors of channels.

use pulp::Simd;

use crate::real::Real;

/// The points at which a tile's polynomials are multiplied are 0, ±[`A`], ±[`B`] and infinity. With these two, which
/// binary numbers hold exactly, rounding errors are about twice those of the direct way; with the usual 1 and 2, five
/// times.
const A: f64 = 0.625;
const B: f64 = 1.5;

/// `G`: the values of a kernel's row at the points, each divided by the point's distances from the others.
pub(super) const G: [[f64; 3]; 6] = {
    const fn at(point: f64, other: f64) -> [f64; 3] {
        let share = 1.0 / (2.0 * point * point * (point * point - other * other));
        [share, share * point, share * point * point]
    }
    [[1.0 / (A * A * B * B), 0.0, 0.0], at(A, B), at(-A, B), at(B, A), at(-B, A), [0.0, 0.0, 1.0]]
};

/// An array of what an expression gives for each index, written out: one that a loop fills is first filled with zeros.
macro_rules! four {
    ($i:ident, $value:expr) => {
        [four!(@ $i 0 $value), four!(@ $i 1 $value), four!(@ $i 2 $value), four!(@ $i 3 $value)]
    };
    (@ $i:ident $index:literal $value:expr) => {{
        let $i = $index;
        $value
    }};
}

/// As [`four`].
macro_rules! six {
    ($i:ident, $value:expr) => {{
        let [a, b, c, d] = four!($i, $value);
        [a, b, c, d, four!(@ $i 4 $value), four!(@ $i 5 $value)]
    }};
}

/// `f x f^T` of one vector of channels: `f` goes over each line of x, as `load(line)` gives them, and over what it
/// makes of them at each of `TO` places, which `store(place, values)` takes. Line by line, for a line's values lie at
/// one place in slices of one length: 36 single places need an address and a check each, more instructions than the
/// arithmetic.
#[inline(always)]
pub(super) fn transform<V: Copy, const FROM: usize, const TO: usize>(
    lines: &mut [[V; TO]; FROM],
    f: impl Fn([V; FROM]) -> [V; TO],
    load: impl Fn(usize) -> [V; FROM],
    mut store: impl FnMut(usize, [V; TO]),
) {
    for (at, line) in lines.iter_mut().enumerate() {
        *line = f(load(at));
    }
    for at in 0..TO {
        let mut values = [lines[0][at]; FROM];
        for (value, line) in values.iter_mut().zip(&*lines) {
            *value = line[at];
        }
        store(at, f(values));
    }
}

/// A number in every lane.
#[inline(always)]
pub(super) fn all<S: Simd, T: Real>(simd: S, value: f64) -> T::Vector<S> {
    T::splat(simd, T::of(value))
}

/// `B^T d`.
#[inline(always)]
pub(super) fn input_side<S: Simd, T: Real>(simd: S, d: [T::Vector<S>; 6]) -> [T::Vector<S>; 6] {
    let [product, minus_sum] = [all::<S, T>(simd, A * A * B * B), all::<S, T>(simd, -(A * A + B * B))];
    let [a, minus_a, minus_a2] = [all::<S, T>(simd, A), all::<S, T>(simd, -A), all::<S, T>(simd, -A * A)];
    let [b, minus_b, minus_b2] = [all::<S, T>(simd, B), all::<S, T>(simd, -B), all::<S, T>(simd, -B * B)];
    let [even_a, odd_a] = [T::vmul_add(simd, minus_b2, d[2], d[4]), T::vmul_add(simd, minus_b2, d[1], d[3])];
    let [even_b, odd_b] = [T::vmul_add(simd, minus_a2, d[2], d[4]), T::vmul_add(simd, minus_a2, d[1], d[3])];
    [
        T::vmul_add(simd, product, d[0], T::vmul_add(simd, minus_sum, d[2], d[4])),
        T::vmul_add(simd, a, odd_a, even_a),
        T::vmul_add(simd, minus_a, odd_a, even_a),
        T::vmul_add(simd, b, odd_b, even_b),
        T::vmul_add(simd, minus_b, odd_b, even_b),
        T::vmul_add(simd, product, d[1], T::vmul_add(simd, minus_sum, d[3], d[5])),
    ]
}

/// `A^T m`.
#[inline(always)]
pub(super) fn output_side<S: Simd, T: Real>(simd: S, m: [T::Vector<S>; 6]) -> [T::Vector<S>; 4] {
    let [sum_a, difference_a] = [T::vadd(simd, m[1], m[2]), T::vsub(simd, m[1], m[2])];
    let [sum_b, difference_b] = [T::vadd(simd, m[3], m[4]), T::vsub(simd, m[3], m[4])];
    [
        T::vadd(simd, m[0], T::vadd(simd, sum_a, sum_b)),
        T::vmul_add(simd, all::<S, T>(simd, A), difference_a, T::vmul(simd, all::<S, T>(simd, B), difference_b)),
        T::vmul_add(simd, all::<S, T>(simd, A * A), sum_a, T::vmul(simd, all::<S, T>(simd, B * B), sum_b)),
        T::vmul_add(
            simd,
            all::<S, T>(simd, A * A * A),
            difference_a,
            T::vmul_add(simd, all::<S, T>(simd, B * B * B), difference_b, m[5]),
        ),
    ]
}

/// `A y`.
#[inline(always)]
pub(super) fn gradient_side<S: Simd, T: Real>(simd: S, y: [T::Vector<S>; 4]) -> [T::Vector<S>; 6] {
    let [even_a, odd_a] = [
        T::vmul_add(simd, all::<S, T>(simd, A * A), y[2], y[0]),
        T::vmul_add(simd, all::<S, T>(simd, A * A), y[3], y[1]),
    ];
    let [even_b, odd_b] = [
        T::vmul_add(simd, all::<S, T>(simd, B * B), y[2], y[0]),
        T::vmul_add(simd, all::<S, T>(simd, B * B), y[3], y[1]),
    ];
    [
        y[0],
        T::vmul_add(simd, all::<S, T>(simd, A), odd_a, even_a),
        T::vmul_add(simd, all::<S, T>(simd, -A), odd_a, even_a),
        T::vmul_add(simd, all::<S, T>(simd, B), odd_b, even_b),
        T::vmul_add(simd, all::<S, T>(simd, -B), odd_b, even_b),
        y[3],
    ]
}

pub(super) use {four, six};
