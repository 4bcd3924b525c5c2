//! Muon's update on the fast CPU path: AdamW's form for what lies between the matrices, and matrix products.

use pulp::Arch;
use rayon::prelude::*;

use super::{COEFFICIENTS, LEAST_NORM, STEPS, size};
use crate::ops::linear::product::{ALL_THREADS, Into, Matrix, matmul};
use crate::optimizer::adam::{self, Adam};
use crate::optimizer::update::{Update, Values, between};
use crate::real::Real;

/// An update in place. Whether parameters and memory are finite after it.
pub fn step<T: Real>(arch: Arch, adam: &Adam, update: Update, values: Values<T>) -> bool {
    let Values { params, grads, slots, decayed, matrices } = values;
    let [first, second] = adam::moments(slots);
    let mut finite = true;
    for range in between(matrices, params.len()) {
        let decayed = decayed.saturating_sub(range.start);
        let moments = [&mut first[range.clone()], &mut second[range.clone()]];
        let (params, grads) = (&mut params[range.clone()], &grads[range.clone()]);
        finite &= adam::fast::step(arch, adam, update, params, grads, moments, decayed);
    }
    let (momentum, rest) = (T::of(update.momentum), T::of(1.0 - update.momentum));
    for matrix in matrices {
        let range = matrix.range();
        let Update { keep, rate, .. } = if range.start < decayed { update } else { update.undecayed() };
        let (keep, rate) = (T::of(keep), T::of(rate * size(matrix)));
        let (first, params) = (&mut first[range.clone()], &mut params[range.clone()]);
        let mut step = vec![T::zero(); range.len()];
        first.par_iter_mut().zip(&grads[range]).zip(&mut step).with_min_len(4096).for_each(|((m, &g), step)| {
            *m = momentum * *m + rest * g;
            *step = rest * g + momentum * *m;
        });
        let step = orthogonal(step, [matrix.rows, matrix.columns]);
        finite &= params
            .par_iter_mut()
            .zip(&step)
            .zip(&*first)
            .with_min_len(4096)
            .map(|((p, &step), m)| {
                *p = keep * *p - rate * step;
                p.is_finite() & m.is_finite()
            })
            .reduce(|| true, |all, one| all & one);
    }
    finite
}

/// The matrix `[rows, columns]` with its singular values brought near 1. The products are on the shorter side.
pub(super) fn orthogonal<T: Real>(mut x: Vec<T>, [rows, columns]: [usize; 2]) -> Vec<T> {
    let [a, b, c] = COEFFICIENTS.map(T::of);
    // In chunks, so that the sum is the same with any number of threads.
    let norm = x.chunks(1024).map(|chunk| chunk.iter().map(|&v| v * v).sum::<T>()).sum::<T>().sqrt();
    let norm = if norm < T::of(LEAST_NORM) { T::of(LEAST_NORM) } else { norm };
    x.iter_mut().for_each(|v| *v /= norm);
    let side = rows.min(columns);
    let [mut gram, mut factor] = [(); 2].map(|()| vec![T::zero(); side * side]);
    let mut next = vec![T::zero(); x.len()];
    for _ in 0..STEPS {
        let own = Matrix::new(&x, rows, columns);
        let across = own.transposed();
        let [left, right] = if rows > columns { [across, own] } else { [own, across] };
        matmul(left, right, &mut gram, Into::Replace, ALL_THREADS);
        let of_gram = Matrix::new(&gram, side, side);
        matmul(of_gram, of_gram, &mut factor, Into::Replace, ALL_THREADS);
        factor.iter_mut().zip(&gram).for_each(|(f, &g)| *f = b * g + c * *f);
        // a X + F X = (F + a) X
        factor.iter_mut().step_by(side + 1).for_each(|f| *f += a);
        let factor = Matrix::new(&factor, side, side);
        let [left, right] = if rows > columns { [own, factor] } else { [factor, own] };
        matmul(left, right, &mut next, Into::Replace, ALL_THREADS);
        std::mem::swap(&mut x, &mut next);
    }
    x
}
