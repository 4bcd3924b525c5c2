//! A pooling on the fast CPU path, where no convolution takes it along: planes are spread over the threads.

use rayon::prelude::*;

use super::MaxPool2d;
use crate::layer::{Mode, Node, NodeBatch, NodeBytes, grow};
use crate::real::Real;

/// A pooling, and where its maxima were.
pub struct Pool {
    dims: MaxPool2d,
    argmax: Vec<u32>,
}

impl Pool {
    /// The node of a pooling.
    pub fn new(dims: &MaxPool2d) -> Self {
        Self { dims: *dims, argmax: vec![] }
    }
}

impl<T: Real> Node<T> for Pool {
    fn forward(&mut self, batch: NodeBatch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        grow(&mut self.argmax, y.len());
        forward(&self.dims, batch.x, y, &mut self.argmax[..y.len()]);
    }

    fn backward(&self, _batch: NodeBatch<T>, _y: &[T], dy: &[T], dx: Option<&mut [T]>, _grads: &mut [&mut [T]]) {
        if let Some(dx) = dx {
            backward(&self.dims, &self.argmax[..dy.len()], dy, dx);
        }
    }

    fn bytes(&self) -> NodeBytes {
        NodeBytes { image: self.dims.output_len() * size_of::<u32>(), ..NodeBytes::default() }
    }
}

/// `x [n, channels, h, w]` to `y` and `argmax`, both `[n, channels, rows, columns]`; an argmax is `row * w + column` in
/// its plane. A NaN wins its window, as in PyTorch.
fn forward<T: Real>(d: &MaxPool2d, x: &[T], y: &mut [T], argmax: &mut [u32]) {
    let [_, h, w] = d.input;
    let [rows, columns] = d.output_plane();
    let planes = x.par_chunks(h * w).zip(y.par_chunks_mut(rows * columns)).zip(argmax.par_chunks_mut(rows * columns));
    planes.for_each(|((x, y), argmax)| {
        for i in 0..rows {
            for j in 0..columns {
                let mut best = i * d.stride[0] * w + j * d.stride[1];
                for p in 0..d.kernel[0] {
                    for q in 0..d.kernel[1] {
                        let at = (i * d.stride[0] + p) * w + j * d.stride[1] + q;
                        if x[at] > x[best] || x[at].is_nan() && !x[best].is_nan() {
                            best = at;
                        }
                    }
                }
                y[i * columns + j] = x[best];
                argmax[i * columns + j] = best as u32;
            }
        }
    });
}

/// `argmax`, `dy [n, channels, rows, columns]` to `dx [n, channels, h, w]`.
fn backward<T: Real>(d: &MaxPool2d, argmax: &[u32], dy: &[T], dx: &mut [T]) {
    let [_, h, w] = d.input;
    let positions: usize = d.output_plane().iter().product();
    let planes = dx.par_chunks_mut(h * w).zip(dy.par_chunks(positions)).zip(argmax.par_chunks(positions));
    planes.for_each(|((dx, dy), argmax)| {
        dx.fill(T::zero());
        for (&dy, &at) in dy.iter().zip(argmax) {
            dx[at as usize] += dy;
        }
    });
}
