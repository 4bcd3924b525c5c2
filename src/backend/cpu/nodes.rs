//! A network's layers as nodes of the fast path, and how what flows between them lies.

use std::ops::Range;
use std::sync::Arc;

use pulp::Arch;
use rayon::prelude::*;

use super::plain::Plain;
use crate::layer::{Element, Following, ImageLayout, Mode, Node, NodeBatch, NodeGradients, Op, Shape};
use crate::network::{FittedLayer, Network};
use crate::real::Real;

/// What one pass does; one or more of the network's layers.
pub struct NodeStage<T> {
    /// How they are computed.
    pub node: Box<dyn Node<T>>,
    /// Indices into [`Network::layers`]; none for what only brings a tensor into another layout.
    pub layers: Range<usize>,
    /// The tensor that it reads.
    pub from: usize,
    /// The tensor that it adds.
    pub skip: Option<usize>,
    /// The tensor that it gives.
    pub to: usize,
    /// Whether the gradient of `from` is wanted.
    pub wants_dx: bool,
    /// Whether there is `skip`, and its gradient is wanted.
    pub wants_dskip: bool,
}

/// The nodes, and the layout of each tensor: 0 is the batch, the last one the logits.
pub fn nodes<T: Element>(net: &Network, arch: Arch) -> (Vec<NodeStage<T>>, Vec<ImageLayout>) {
    let batch = planes(Shape::Image(net.input));
    let mut chain = Chain { stages: vec![], tensors: vec![Layout { layout: batch, giver: None, is_read: false }] };
    let ops: Vec<_> = net.layers.iter().map(|layer| layer.op.clone()).collect();
    // Where the network's tensors are.
    let mut places = vec![0; net.layers.len() + 1];
    let mut at = 0;
    while let Some(FittedLayer { op, from, .. }) = net.layers.get(at) {
        let x = places[*from];
        let wants_dx = net.wants_gradient(*from);
        if op.is_view() {
            // Planes are already flat.
            let planes = ImageLayout::planes(chain.tensors[x].layout.dims);
            places[at + 1] = chain.read(x, planes, at, wants_dx);
            at += 1;
            continue;
        }
        let following = Following { ops: &ops[at + 1..net.run(at).end], wants_dx, arch };
        let (mut node, taken) = op.twin().fast(&following).unwrap_or_else(|| (Box::new(Plain::<T>::new(op)), 0));
        let layers = at..at + 1 + taken;
        let reads = node.reads().unwrap_or_else(|| ImageLayout::planes(chain.tensors[x].layout.dims));
        let from = match node.prefers() {
            Some(liked) => chain.offer(x, liked),
            None if op.adds() => x,
            // Another reader has settled it.
            None if chain.tensors[x].is_read && node.takes(&chain.tensors[x].layout) => x,
            None => {
                let reads =
                    widest::<T>(net, &ops, *from, &following).filter(|widest| node.takes(widest)).unwrap_or(reads);
                chain.read(x, reads, at, wants_dx)
            }
        };
        // What is added is mostly read as it lies: another reader, which came before, has settled that.
        let added = net.layers[layers.clone()].iter().find_map(|layer| layer.skip);
        let skip = added.map(|skip| match node.prefers_added() {
            Some(liked) => chain.offer(places[skip], liked),
            None => places[skip],
        });
        let wants_dskip = added.is_some_and(|skip| net.wants_gradient(skip));
        let output = planes(net.layers[layers.end - 1].output);
        let stage = NodeStage { node, layers: layers.clone(), from, skip, to: 0, wants_dx, wants_dskip };
        places[layers.end] = chain.push(stage, output);
        at = layers.end;
    }
    (chain.stages, chain.tensors.into_iter().map(|tensor| tensor.layout).collect())
}

/// Of what the readers of the network's tensor `from` want, the layout with the widest border: the others may take it
/// too.
fn widest<T: Element>(net: &Network, ops: &[Arc<dyn Op>], from: usize, like: &Following) -> Option<ImageLayout> {
    let readers = net.layers.iter().enumerate().filter(|(_, layer)| layer.from == from);
    let wanted = readers.filter_map(|(at, layer)| {
        let following = Following { ops: &ops[at + 1..net.run(at).end], ..*like };
        layer.op.twin::<T>().fast(&following)?.0.reads()
    });
    wanted.max_by_key(|layout| layout.border())
}

/// How a tensor lies, as far as that is settled.
struct Layout {
    layout: ImageLayout,
    /// The stage that gives it.
    giver: Option<usize>,
    /// Whether it stays as it is, because somebody reads it so.
    is_read: bool,
}

struct Chain<T> {
    stages: Vec<NodeStage<T>>,
    tensors: Vec<Layout>,
}

impl<T: Real> Chain<T> {
    fn push(&mut self, stage: NodeStage<T>, layout: ImageLayout) -> usize {
        let giver = Some(self.stages.len());
        self.stages.push(NodeStage { to: self.tensors.len(), ..stage });
        self.tensors.push(Layout { layout, giver, is_read: false });
        self.tensors.len() - 1
    }

    /// A tensor for a reader that takes it in any layout, in the one that it likes if that is still open.
    fn offer(&mut self, tensor: usize, liked: ImageLayout) -> usize {
        let Self { stages, tensors } = self;
        let Layout { layout, giver, is_read } = &mut tensors[tensor];
        if !*is_read && *layout != liked && giver.is_none_or(|giver| stages[giver].node.give(&liked)) {
            *layout = liked;
        }
        *is_read = true;
        tensor
    }

    /// A tensor as its reader wants it: straight from whoever gives it (the batch is written so), or else brought into
    /// that layout. The first reader decides.
    fn read(&mut self, tensor: usize, wanted: ImageLayout, layer: usize, wants_dx: bool) -> usize {
        let Self { stages, tensors } = self;
        let Layout { layout, giver, is_read } = &mut tensors[tensor];
        if *layout != wanted {
            if *is_read || !giver.is_none_or(|giver| stages[giver].node.give(&wanted)) {
                let (node, layers) = (Box::new(Repack), layer..layer);
                let repack = NodeStage { node, layers, from: tensor, skip: None, to: 0, wants_dx, wants_dskip: false };
                return self.push(repack, wanted);
            }
            *layout = wanted;
        }
        *is_read = true;
        tensor
    }
}

/// From one layout to another.
struct Repack;

impl<T: Real> Node<T> for Repack {
    fn forward(&mut self, batch: NodeBatch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { from, to, x, .. } = batch;
        y.par_chunks_mut(to.len).zip(x.par_chunks(from.len)).for_each(|(y, x)| repack(&from, x, &to, y));
    }

    fn backward(&self, batch: NodeBatch<T>, _y: &[T], dy: &[T], NodeGradients { dx, .. }: NodeGradients<T>) {
        let (NodeBatch { from, to, .. }, Some(dx)) = (batch, dx) else { return };
        dx.par_chunks_mut(from.len).zip(dy.par_chunks(to.len)).for_each(|(dx, dy)| repack(&to, dy, &from, dx));
    }
}

/// Borders are left as they are.
fn repack<T: Copy>(from: &ImageLayout, x: &[T], to: &ImageLayout, y: &mut [T]) {
    let [channels, rows, columns] = from.dims;
    if [from.channel_stride, to.channel_stride] != [1, 1] {
        return from.for_each(|[c, i, j], at| y[to.at(c, i, j)] = x[at]);
    }
    for i in 0..rows {
        for j in 0..columns {
            y[to.at(0, i, j)..][..channels].copy_from_slice(&x[from.at(0, i, j)..][..channels]);
        }
    }
}

fn planes(shape: Shape) -> ImageLayout {
    ImageLayout::planes(match shape {
        Shape::Image(dims) => dims,
        Shape::Features(n) => [n, 1, 1],
    })
}
