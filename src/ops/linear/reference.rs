//! A fully connected layer as its formula says. The rows of each result, which share nothing, are spread over the
//! threads.

use rayon::prelude::*;

use super::Linear;
use crate::real::Real;

/// `x [n, inputs]`, `w [outputs, inputs]`, `b [outputs]` to `y [n, outputs]`.
pub fn forward<T: Real>(d: &Linear, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
    y.par_chunks_mut(d.outputs).zip(x.par_chunks(d.inputs)).for_each(|(y, x)| {
        for ((y, w), &b) in y.iter_mut().zip(w.chunks(d.inputs)).zip(b) {
            *y = b;
            for (&w, &x) in w.iter().zip(x) {
                *y += w * x;
            }
        }
    });
}

/// `dy [n, outputs]`, `w` to `dx [n, inputs]`.
pub fn backward_input<T: Real>(d: &Linear, dy: &[T], w: &[T], dx: &mut [T]) {
    dx.par_chunks_mut(d.inputs).zip(dy.par_chunks(d.outputs)).for_each(|(dx, dy)| {
        dx.fill(T::zero());
        for (w, &dy) in w.chunks(d.inputs).zip(dy) {
            for (dx, &w) in dx.iter_mut().zip(w) {
                *dx += w * dy;
            }
        }
    });
}

/// `x`, `dy` to `dw [outputs, inputs]` and `db [outputs]`, summed over the batch, image after image.
pub fn backward_weight<T: Real>(d: &Linear, x: &[T], dy: &[T], dw: &mut [T], db: &mut [T]) {
    dw.par_chunks_mut(d.inputs).zip(db).enumerate().for_each(|(o, (dw, db))| {
        dw.fill(T::zero());
        *db = T::zero();
        for (x, dy) in x.chunks(d.inputs).zip(dy.chunks(d.outputs)) {
            *db += dy[o];
            for (dw, &x) in dw.iter_mut().zip(x) {
                *dw += dy[o] * x;
            }
        }
    });
}
