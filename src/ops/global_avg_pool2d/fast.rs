//! The pooling on the fast CPU path: an image after another, pixel by pixel where a convolution gives it so.

use rayon::prelude::*;

use super::GlobalAvgPool2d;
use crate::layer::{ImageLayout, Mode, Node, NodeBatch, NodeGradients};
use crate::real::Real;

/// The pooling, on a machine with so many values in a vector.
pub struct Average {
    pub dims: GlobalAvgPool2d,
    pub lanes: usize,
}

impl<T: Real> Node<T> for Average {
    fn prefers(&self) -> Option<ImageLayout> {
        let stride = self.dims.0[0].next_multiple_of(self.lanes);
        Some(ImageLayout::pixels(self.dims.0, [0, 0], stride, 0))
    }

    fn forward(&mut self, batch: NodeBatch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { from, to, x, .. } = batch;
        let [channels, rows, columns] = from.dims;
        let k = T::of(self.dims.plane() as f64);
        y.par_chunks_mut(to.len).zip(x.par_chunks(from.len)).for_each(|(y, x)| {
            y.fill(T::zero());
            for i in 0..rows {
                for j in 0..columns {
                    let pixel = x[from.at(0, i, j)..].iter().step_by(from.channel_stride);
                    y.iter_mut().zip(pixel).take(channels).for_each(|(y, &x)| *y += x);
                }
            }
            y.iter_mut().for_each(|y| *y /= k);
        });
    }

    fn backward(&self, batch: NodeBatch<T>, _y: &[T], dy: &[T], NodeGradients { dx, .. }: NodeGradients<T>) {
        let (NodeBatch { from, to, .. }, Some(dx)) = (batch, dx) else { return };
        let [channels, rows, columns] = from.dims;
        let k = T::of(self.dims.plane() as f64);
        dx.par_chunks_mut(from.len).zip(dy.par_chunks(to.len)).for_each(|(dx, dy)| {
            for i in 0..rows {
                for j in 0..columns {
                    let pixel = dx[from.at(0, i, j)..].iter_mut().step_by(from.channel_stride);
                    pixel.zip(dy).take(channels).for_each(|(dx, &dy)| *dx = dy / k);
                }
            }
        });
    }
}
