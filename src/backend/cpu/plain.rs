//! An operation in its plain form as a node of the fast path.

use std::sync::Arc;

use crate::layer::{Backward, Element, Forward, Kept, Mode, Node, NodeBatch, NodeBytes, NodeGradients, Op};

/// An operation in its plain form, for the path that has no faster one.
pub struct Plain<T> {
    op: Arc<dyn Op>,
    kept: Kept<T>,
}

impl<T: Element> Plain<T> {
    /// The node of `op`.
    pub fn new(op: &Arc<dyn Op>) -> Self {
        Self { op: op.clone(), kept: Kept::default() }
    }
}

impl<T: Element> Node<T> for Plain<T> {
    fn forward(&mut self, batch: NodeBatch<T>, mode: Mode, buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { n, x, skip, params, random, .. } = batch;
        let skip = skip.map_or(&[][..], |(skip, _)| skip);
        self.kept.fit(&*self.op, n);
        self.op.twin().forward(Forward { n, mode, x, skip, params, buffers, y, kept: &mut self.kept, random });
    }

    fn backward(&self, batch: NodeBatch<T>, y: &[T], dy: &[T], to: NodeGradients<T>) {
        let NodeBatch { n, x, params, random, .. } = batch;
        let NodeGradients { dx, dskip, params: grads, .. } = to;
        if let Some(dskip) = dskip {
            dskip.copy_from_slice(dy);
        }
        self.op.twin().backward(Backward { n, x, y, params, kept: &self.kept, dy, dx, grads, random });
    }

    fn bytes(&self) -> NodeBytes {
        let of_saved =
            |saved: crate::layer::Saved| saved.len * if saved.numbers { size_of::<T>() } else { size_of::<u32>() };
        NodeBytes { image: self.op.saved(1).map_or(0, of_saved), ..NodeBytes::default() }
    }
}
