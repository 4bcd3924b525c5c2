//! A fully connected layer on the fast CPU path: matrix products. Formulas: [`crate::ops::linear`].
//!
//! With many inputs the forward pass goes vector by vector instead: for few images a matrix product spends most of its
//! time bringing the weights into its own order; here both sides are read as they lie, along the inputs.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::Linear;
use super::product::{ALL_THREADS, Into, Matrix, matmul};
use crate::layer::{Mode, Node, NodeBatch, NodeBytes, NodeGradients};
use crate::real::Real;

/// The node of a fully connected layer.
pub struct Dense(pub Linear);

/// Partial sums of wide layers, which they use one after another.
#[derive(Default)]
struct Parts<T>(Vec<T>);

impl<T: Real> Node<T> for Dense {
    /// The weights are brought into the product's order once for all images.
    fn wants_batch(&self) -> bool {
        true
    }

    fn forward(&mut self, batch: NodeBatch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { arch, x, params, scratch, .. } = batch;
        forward(arch, &self.0, [x, params[0], params[1]], y, &mut scratch.of::<Parts<T>>().0);
    }

    fn backward(&self, batch: NodeBatch<T>, _y: &[T], dy: &[T], to: NodeGradients<T>) {
        let NodeGradients { dx, params, .. } = to;
        let [dw, db] = params else { unreachable!("a weight and a bias") };
        backward_weight(&self.0, batch.x, dy, dw, db);
        if let Some(dx) = dx {
            backward_input(&self.0, dy, batch.params[0], dx);
        }
    }

    fn bytes(&self) -> NodeBytes {
        NodeBytes { image: parts_len(&self.0) * size_of::<T>(), ..NodeBytes::default() }
    }
}

/// From so many inputs on, bringing them into a matrix product's order costs more than the product gains.
const WIDE: usize = 8192;
/// Inputs of one part: a tile's rows of both sides, 1024 x 8 values, stay in a core's first cache. A task owns a part,
/// and the parts are added in order: the bits do not depend on the threads.
const INPUTS_PER_PART: usize = 1024;
/// Images, and outputs, of a tile: 16 sums in registers.
const TILE: usize = 4;

/// Elements of scratch that an image takes in [`forward`].
fn parts_len(d: &Linear) -> usize {
    if d.inputs < WIDE { 0 } else { d.inputs.div_ceil(INPUTS_PER_PART) * d.outputs }
}

/// `x [n, inputs]`, `w [outputs, inputs]`, `b [outputs]` to `y [n, outputs]`. `parts` is scratch, and grows to
/// `[parts, n, outputs]`.
fn forward<T: Real>(arch: Arch, d: &Linear, [x, w, b]: [&[T]; 3], y: &mut [T], parts: &mut Vec<T>) {
    if d.inputs < WIDE {
        return product(d, x, w, b, y);
    }
    parts.resize(d.inputs.div_ceil(INPUTS_PER_PART) * y.len(), T::zero());
    parts.par_chunks_mut(y.len()).enumerate().for_each(|(i, part)| {
        let range = i * INPUTS_PER_PART..d.inputs.min((i + 1) * INPUTS_PER_PART);
        arch.dispatch(Part { d, x, w, range, part });
    });
    for row in y.chunks_mut(d.outputs) {
        row.copy_from_slice(b);
    }
    for part in parts.chunks(y.len()) {
        y.iter_mut().zip(part).for_each(|(sum, part)| *sum += *part);
    }
}

/// Every output of every image, summed over a range of the inputs.
struct Part<'a, T> {
    d: &'a Linear,
    x: &'a [T],
    w: &'a [T],
    range: std::ops::Range<usize>,
    part: &'a mut [T],
}

impl<T: Real> WithSimd for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Linear { inputs, outputs, .. } = *self.d;
        let n = self.part.len() / outputs;
        // A tile at the edge repeats its last row, and computes it again.
        let rows = |data: &'_ [T], first: usize, count: usize| -> [usize; TILE] {
            debug_assert!(data.len() == count * inputs);
            std::array::from_fn(|i| (first + i).min(count - 1))
        };
        for first_image in (0..n).step_by(TILE) {
            let images = rows(self.x, first_image, n);
            let x = images.map(|i| &self.x[i * inputs..][self.range.clone()]);
            for first_output in (0..outputs).step_by(TILE) {
                let chosen = rows(self.w, first_output, outputs);
                let w = chosen.map(|o| &self.w[o * inputs..][self.range.clone()]);
                let sums = tile(simd, x, w);
                for (image, sums) in images.iter().zip(sums) {
                    for (output, sum) in chosen.iter().zip(sums) {
                        self.part[image * outputs + output] = sum;
                    }
                }
            }
        }
    }
}

/// The product of each row of `x` with each row of `w`, all equally long.
#[inline(always)]
fn tile<T: Real, S: Simd>(simd: S, x: [&[T]; TILE], w: [&[T]; TILE]) -> [[T; TILE]; TILE] {
    let len = x[0].len();
    let xs = x.map(|row| T::vectors::<S>(row));
    let ws = w.map(|row| T::vectors::<S>(row));
    let whole = xs[0].len();
    let [xs, ws] = [xs, ws].map(|rows| rows.map(|row| &row[..whole]));
    let mut acc = [[T::splat(simd, T::zero()); TILE]; TILE];
    for k in 0..whole {
        let w = [ws[0][k], ws[1][k], ws[2][k], ws[3][k]];
        for (acc, x) in acc.iter_mut().zip([xs[0][k], xs[1][k], xs[2][k], xs[3][k]]) {
            for (acc, w) in acc.iter_mut().zip(w) {
                *acc = T::vmul_add(simd, x, w, *acc);
            }
        }
    }
    let done = if whole == 0 { 0 } else { whole * (size_of::<T::Vector<S>>() / size_of::<T>()) };
    let mut sums = [[T::zero(); TILE]; TILE];
    for i in 0..TILE {
        for j in 0..TILE {
            let lanes: &[T] = bytemuck::cast_slice(std::slice::from_ref(&acc[i][j]));
            let rest = (done..len).map(|k| x[i][k] * w[j][k]);
            sums[i][j] = lanes.iter().copied().chain(rest).sum();
        }
    }
    sums
}

/// `x [n, inputs]`, `w [outputs, inputs]`, `b [outputs]` to `y [n, outputs]`.
fn product<T: Real>(d: &Linear, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
    let n = x.len() / d.inputs;
    for row in y.chunks_mut(d.outputs) {
        row.copy_from_slice(b);
    }
    let weight = Matrix::new(w, d.outputs, d.inputs).transposed();
    matmul(Matrix::new(x, n, d.inputs), weight, y, Into::Add, ALL_THREADS);
}

/// `dy [n, outputs]`, `w` to `dx [n, inputs]`.
fn backward_input<T: Real>(d: &Linear, dy: &[T], w: &[T], dx: &mut [T]) {
    let n = dy.len() / d.outputs;
    matmul(Matrix::new(dy, n, d.outputs), Matrix::new(w, d.outputs, d.inputs), dx, Into::Replace, ALL_THREADS);
}

/// `x`, `dy` to `dw [outputs, inputs]` and `db [outputs]`, summed over the batch.
fn backward_weight<T: Real>(d: &Linear, x: &[T], dy: &[T], dw: &mut [T], db: &mut [T]) {
    let n = x.len() / d.inputs;
    let upstream = Matrix::new(dy, n, d.outputs).transposed();
    matmul(upstream, Matrix::new(x, n, d.inputs), dw, Into::Replace, ALL_THREADS);
    db.fill(T::zero());
    for row in dy.chunks(d.outputs) {
        db.iter_mut().zip(row).for_each(|(sum, value)| *sum += *value);
    }
}
