//! The CPU twin of `shaders/conv2d.wgsl`: each image's windows become the columns of a matrix (im2col), and every pass is
//! a matrix product. Formulas: [`crate::ops::conv2d`].

use gemm::Parallelism;
use rayon::prelude::*;

use super::{IMAGES_PER_PARTIAL_SUM, Into, Matrix, Real, matmul};
use crate::ops::conv2d::Conv2d;

/// Calls `each(column row, output position, input position)` for every tap of every window that falls inside the image.
/// Taps in the padding are left out: they are zeros.
fn for_each_tap(d: &Conv2d, mut each: impl FnMut(usize, usize, usize)) {
    let [c_in, h, w] = d.input;
    let [rows, columns] = d.output_plane();
    for c in 0..c_in {
        for p in 0..d.kernel[0] {
            for q in 0..d.kernel[1] {
                let tap = (c * d.kernel[0] + p) * d.kernel[1] + q;
                for i in 0..rows {
                    let y = (i * d.stride[0] + p).wrapping_sub(d.padding[0]);
                    if y >= h {
                        continue;
                    }
                    for j in 0..columns {
                        let x = (j * d.stride[1] + q).wrapping_sub(d.padding[1]);
                        if x < w {
                            each(tap, i * columns + j, (c * h + y) * w + x);
                        }
                    }
                }
            }
        }
    }
}

/// The windows of one image as a matrix `[fan_in, output positions]`.
fn im2col<T: Real>(d: &Conv2d, image: &[T], columns: &mut Vec<T>) {
    let positions: usize = d.output_plane().iter().product();
    columns.clear();
    columns.resize(d.fan_in() * positions, T::zero());
    for_each_tap(d, |tap, position, from| columns[tap * positions + position] = image[from]);
}

/// `x [n, c_in, h, w]`, `w [c_out, c_in, kh, kw]`, `b [c_out]` to `y [n, c_out, rows, columns]`.
pub fn forward<T: Real>(d: &Conv2d, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
    let positions: usize = d.output_plane().iter().product();
    let images = x.par_chunks(d.input_len()).zip(y.par_chunks_mut(d.output_len()));
    images.for_each_init(Vec::new, |columns, (x, y)| {
        im2col(d, x, columns);
        for (channel, bias) in y.chunks_mut(positions).zip(b) {
            channel.fill(*bias);
        }
        let weight = Matrix::new(w, d.c_out, d.fan_in());
        matmul(weight, Matrix::new(columns, d.fan_in(), positions), y, Into::Add, Parallelism::None);
    });
}

/// `dy [n, c_out, rows, columns]`, `w` to `dx [n, c_in, h, w]`.
pub fn backward_input<T: Real>(d: &Conv2d, dy: &[T], w: &[T], dx: &mut [T]) {
    let positions: usize = d.output_plane().iter().product();
    let images = dy.par_chunks(d.output_len()).zip(dx.par_chunks_mut(d.input_len()));
    images.for_each_init(Vec::new, |columns, (dy, dx)| {
        columns.resize(d.fan_in() * positions, T::zero());
        let weight = Matrix::new(w, d.c_out, d.fan_in()).transposed();
        matmul(weight, Matrix::new(dy, d.c_out, positions), columns, Into::Replace, Parallelism::None);
        dx.fill(T::zero());
        for_each_tap(d, |tap, position, to| dx[to] += columns[tap * positions + position]);
    });
}

/// `x`, `dy` to `dw [c_out, c_in, kh, kw]` and `db [c_out]`, summed over the batch.
pub fn backward_weight<T: Real>(d: &Conv2d, x: &[T], dy: &[T], dw: &mut [T], db: &mut [T]) {
    let positions: usize = d.output_plane().iter().product();
    let groups = x
        .par_chunks(d.input_len() * IMAGES_PER_PARTIAL_SUM)
        .zip(dy.par_chunks(d.output_len() * IMAGES_PER_PARTIAL_SUM));
    let partial_sums: Vec<(Vec<T>, Vec<T>)> = groups
        .map(|(x, dy)| {
            let mut columns = Vec::new();
            let mut dw = vec![T::zero(); d.weight_len()];
            let mut db = vec![T::zero(); d.c_out];
            for (x, dy) in x.chunks(d.input_len()).zip(dy.chunks(d.output_len())) {
                im2col(d, x, &mut columns);
                let windows = Matrix::new(&columns, d.fan_in(), positions).transposed();
                matmul(Matrix::new(dy, d.c_out, positions), windows, &mut dw, Into::Add, Parallelism::None);
                for (db, channel) in db.iter_mut().zip(dy.chunks(positions)) {
                    *db += channel.iter().copied().sum();
                }
            }
            (dw, db)
        })
        .collect();
    dw.fill(T::zero());
    db.fill(T::zero());
    for (dw_part, db_part) in &partial_sums {
        dw.iter_mut().zip(dw_part).for_each(|(sum, part)| *sum += *part);
        db.iter_mut().zip(db_part).for_each(|(sum, part)| *sum += *part);
    }
}
