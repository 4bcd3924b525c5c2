//! The CPU twin of `shaders/linear.wgsl`. Formulas: [`crate::ops::linear`].

use gemm::Parallelism;

use super::{Into, Matrix, Real, matmul};
use crate::ops::linear::Linear;

/// gemm splits rows and columns of the result among threads, never the sum: the bits do not depend on the threads.
const ALL_THREADS: Parallelism = Parallelism::Rayon(0);

/// `x [n, inputs]`, `w [outputs, inputs]`, `b [outputs]` to `y [n, outputs]`.
pub fn forward<T: Real>(d: &Linear, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
    let n = x.len() / d.inputs;
    for row in y.chunks_mut(d.outputs) {
        row.copy_from_slice(b);
    }
    let weight = Matrix::new(w, d.outputs, d.inputs).transposed();
    matmul(Matrix::new(x, n, d.inputs), weight, y, Into::Add, ALL_THREADS);
}

/// `dy [n, outputs]`, `w` to `dx [n, inputs]`.
pub fn backward_input<T: Real>(d: &Linear, dy: &[T], w: &[T], dx: &mut [T]) {
    let n = dy.len() / d.outputs;
    matmul(Matrix::new(dy, n, d.outputs), Matrix::new(w, d.outputs, d.inputs), dx, Into::Replace, ALL_THREADS);
}

/// `x`, `dy` to `dw [outputs, inputs]` and `db [outputs]`, summed over the batch.
pub fn backward_weight<T: Real>(d: &Linear, x: &[T], dy: &[T], dw: &mut [T], db: &mut [T]) {
    let n = x.len() / d.inputs;
    let upstream = Matrix::new(dy, n, d.outputs).transposed();
    matmul(upstream, Matrix::new(x, n, d.inputs), dw, Into::Replace, ALL_THREADS);
    db.fill(T::zero());
    for row in dy.chunks(d.outputs) {
        db.iter_mut().zip(row).for_each(|(sum, value)| *sum += *value);
    }
}
