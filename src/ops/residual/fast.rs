//! The addition on the fast CPU path: waits for memory, and so is spread over the threads. Either input may lie in any
//! way: a tensor that is added has another reader, which chooses how it lies.

use rayon::prelude::*;

use crate::layer::{ImageLayout, Mode, Node, NodeBatch, NodeGradients};
use crate::real::Real;

/// `y = x + skip`, element by element.
pub struct Addition;

impl<T: Real> Node<T> for Addition {
    fn give(&mut self, _layout: &ImageLayout) -> bool {
        true
    }

    fn forward(&mut self, batch: NodeBatch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { from, to, x, skip, .. } = batch;
        let (skip, skipped) = skip.expect("an addition has two inputs");
        let images = y.par_chunks_mut(to.len).zip(x.par_chunks(from.len)).zip(skip.par_chunks(skipped.len));
        let alike = alike(&[from, skipped, to]);
        images.for_each(|((y, x), skip)| match alike {
            true => y.iter_mut().zip(x.iter().zip(skip)).for_each(|(y, (&x, &skip))| *y = x + skip),
            false => to.for_each(|[c, i, j], at| y[at] = x[from.at(c, i, j)] + skip[skipped.at(c, i, j)]),
        });
    }

    fn backward(&self, batch: NodeBatch<T>, _y: &[T], dy: &[T], grads: NodeGradients<T>) {
        let NodeBatch { from, to, skip, .. } = batch;
        let (_, skipped) = skip.expect("an addition has two inputs");
        let copy = |given: &mut [T], layout: ImageLayout| {
            let images = given.par_chunks_mut(layout.len).zip(dy.par_chunks(to.len));
            let alike = alike(&[layout, to]);
            images.for_each(|(given, dy)| match alike {
                true => given.copy_from_slice(dy),
                false => to.for_each(|[c, i, j], at| given[layout.at(c, i, j)] = dy[at]),
            });
        };
        if let Some(dx) = grads.dx {
            copy(dx, from);
        }
        if let Some(dskip) = grads.dskip {
            copy(dskip, skipped);
        }
    }
}

/// Whether images lie so alike that they are added element by element. Planes do, whatever shape they are given: a
/// vector may be an image that was flattened.
fn alike(layouts: &[ImageLayout]) -> bool {
    layouts.iter().all(ImageLayout::is_planes) || layouts.iter().all(|layout| *layout == layouts[0])
}
