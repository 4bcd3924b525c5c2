//! Muon's update as its formulas say, sum by sum.

use super::{COEFFICIENTS, LEAST_NORM, STEPS, size};
use crate::optimizer::adam::{self, Adam};
use crate::optimizer::update::{Update, Values, between};
use crate::real::Real;

/// An update in place. Whether parameters and memory are finite after it.
pub fn step<T: Real>(adam: &Adam, update: Update, values: Values<T>) -> bool {
    let Values { params, grads, slots, decayed, matrices } = values;
    let [first, second] = adam::moments(slots);
    let mut finite = true;
    for range in between(matrices, params.len()) {
        let decayed = decayed.saturating_sub(range.start);
        let moments = [&mut first[range.clone()], &mut second[range.clone()]];
        finite &=
            adam::reference::step(adam, update, &mut params[range.clone()], &grads[range.clone()], moments, decayed);
    }
    let (momentum, rest) = (T::of(update.momentum), T::of(1.0 - update.momentum));
    for matrix in matrices {
        let range = matrix.range();
        let Update { keep, rate, .. } = if range.start < decayed { update } else { update.undecayed() };
        let mut step = vec![];
        for (m, &g) in first[range.clone()].iter_mut().zip(&grads[range.clone()]) {
            *m = momentum * *m + rest * g;
            step.push(rest * g + momentum * *m);
        }
        let step = orthogonal(step, [matrix.rows, matrix.columns]);
        for ((p, m), step) in params[range.clone()].iter_mut().zip(&first[range]).zip(step) {
            *p = T::of(keep) * *p - T::of(rate * size(matrix)) * step;
            finite &= p.is_finite() & m.is_finite();
        }
    }
    finite
}

/// The matrix `[rows, columns]` with its singular values brought near 1.
pub(super) fn orthogonal<T: Real>(x: Vec<T>, [rows, columns]: [usize; 2]) -> Vec<T> {
    if rows > columns {
        return transposed(&orthogonal(transposed(&x, rows), [columns, rows]), columns);
    }
    let [a, b, c] = COEFFICIENTS.map(T::of);
    let norm = x.iter().map(|&v| v * v).sum::<T>().sqrt();
    // A norm that is no number stays none.
    let norm = if norm < T::of(LEAST_NORM) { T::of(LEAST_NORM) } else { norm };
    let mut x: Vec<T> = x.into_iter().map(|v| v / norm).collect();
    for _ in 0..STEPS {
        let row = |i: usize| &x[i * columns..][..columns];
        let gram = table(rows, rows, |i, j| row(i).iter().zip(row(j)).map(|(&u, &v)| u * v).sum());
        let square = table(rows, rows, |i, j| (0..rows).map(|k| gram[i * rows + k] * gram[k * rows + j]).sum());
        let factor: Vec<T> = gram.iter().zip(&square).map(|(&g, &s)| b * g + c * s).collect();
        x = table(rows, columns, |i, j| {
            a * x[i * columns + j] + (0..rows).map(|k| factor[i * rows + k] * x[k * columns + j]).sum::<T>()
        });
    }
    x
}

fn table<T>(rows: usize, columns: usize, at: impl Fn(usize, usize) -> T) -> Vec<T> {
    (0..rows * columns).map(|i| at(i / columns, i % columns)).collect()
}

/// Of a matrix of so many rows.
fn transposed<T: Real>(x: &[T], rows: usize) -> Vec<T> {
    let columns = x.len() / rows;
    table(columns, rows, |i, j| x[j * columns + i])
}
