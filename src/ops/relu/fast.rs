//! ReLU on the fast CPU path, where no convolution takes it along: waits for memory, and so is spread over the threads.

use rayon::prelude::*;

use crate::layer::{Mode, Node, NodeBatch, NodeGradients};
use crate::real::Real;

/// Elements of one task.
const CHUNK: usize = 1 << 14;

/// ReLU, element by element.
pub struct Elementwise;

impl<T: Real> Node<T> for Elementwise {
    fn forward(&mut self, batch: NodeBatch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        let positive = |v: T| if v <= T::zero() { T::zero() } else { v };
        let chunks = y.par_chunks_mut(CHUNK).zip(batch.x.par_chunks(CHUNK));
        chunks.for_each(|(y, x)| y.iter_mut().zip(x).for_each(|(y, &x)| *y = positive(x)));
    }

    fn backward(&self, _batch: NodeBatch<T>, y: &[T], dy: &[T], NodeGradients { dx, .. }: NodeGradients<T>) {
        let Some(dx) = dx else { return };
        let chunks = dx.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
        chunks.for_each(|((dx, y), dy)| {
            let masked = |(y, dy): (&T, &T)| if *y <= T::zero() { T::zero() } else { *dy };
            dx.iter_mut().zip(y.iter().zip(dy)).for_each(|(dx, both)| *dx = masked(both));
        });
    }
}
