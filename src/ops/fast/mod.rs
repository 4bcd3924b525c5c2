//! What the fast CPU path asks of an operation: a node, which computes whole batches, may take along layers that follow it,
//! and may have its images in an order of its own ([`Layout`]).

pub mod layout;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use pulp::Arch;

use crate::layer::{Backward, Forward, Kept, Mode, Op, Precision, Random};
use crate::real::{Real, machine_lanes};
pub use layout::Layout;

/// At most so many chunks of images are in work at once, each with its own partial sums.
pub const MAX_CHUNKS: usize = 64;
/// Fewer images than this are not worth a chunk's partial sums.
const MIN_CHUNK: usize = 4;

/// How many images make a chunk: by the batch alone, so that the threads decide no sum's order.
pub fn chunk_len(images: usize) -> usize {
    images.div_ceil(MAX_CHUNKS).max(MIN_CHUNK)
}

/// Makes room for `len` elements; what is there stays, what is new is zero. Never shrinks: the last batch of an epoch is
/// smaller than the next epoch's first.
pub fn grow<T: Copy + Default>(values: &mut Vec<T>, len: usize) {
    if values.len() < len {
        values.resize(len, T::default());
    }
}

/// What stands above an operation in its network.
#[derive(Debug)]
pub struct Following<'a> {
    /// The operations after it, in order.
    pub ops: &'a [Arc<dyn Op>],
    /// Whether the gradient of its input is wanted.
    pub wants_dx: bool,
    /// This machine's instruction set.
    pub arch: Arch,
}

impl Following<'_> {
    /// Values in a vector of this machine.
    pub fn lanes<T: Real>(&self) -> usize {
        machine_lanes::<T>(self.arch)
    }
}

/// Memory that nodes use one after another, a value for each type.
#[derive(Debug, Default)]
pub struct Scratch(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl Scratch {
    /// The value of this type, as the last node left it.
    pub fn of<S: Any + Default + Send + Sync>(&mut self) -> &mut S {
        let value = self.0.entry(TypeId::of::<S>()).or_insert_with(|| Box::new(S::default()));
        value.downcast_mut().expect("it was put in under its own type")
    }
}

/// What a node's passes have in common.
#[derive(Debug)]
pub struct Batch<'a, T> {
    /// Images.
    pub n: usize,
    /// This machine's instruction set.
    pub arch: Arch,
    /// How each image of `x` lies.
    pub from: Layout,
    /// How each image of `y` lies.
    pub to: Layout,
    /// The input, `n` times `from.len`.
    pub x: &'a [T],
    /// The trained parameters of all layers that the node computes, in order.
    pub params: &'a [&'a [T]],
    /// Random numbers of the first of these layers.
    pub random: Random,
    /// What nodes share.
    pub scratch: &'a mut Scratch,
}

/// Bytes that a node takes beside its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// For each image of a batch.
    pub image: usize,
    /// For each chunk of images, forward. Nodes share it.
    pub forward: usize,
    /// For each chunk of images, backward. Nodes share it.
    pub backward: usize,
}

/// One or more layers, as the fast path computes them.
pub trait Node<T: Real>: Send + Sync {
    /// How it takes its input; `None` for planes, channel after channel.
    fn reads(&self) -> Option<Layout> {
        None
    }

    /// Asks it to give its output so; whether it will. Else it is in planes.
    fn give(&mut self, _layout: &Layout) -> bool {
        false
    }

    /// Makes what it needs of parameters that have changed.
    fn pack(&mut self, _params: &[&[T]]) {}

    /// The batch to `y`.
    fn forward(&mut self, batch: Batch<T>, mode: Mode, buffers: &mut [&mut [T]], y: &mut [T]);

    /// From the output `y` and its gradient `dy` to the gradients of the parameters, and of the input if it is wanted.
    fn backward(&self, batch: Batch<T>, y: &[T], dy: &[T], dx: Option<&mut [T]>, grads: &mut [&mut [T]]);

    /// What it takes.
    fn bytes(&self) -> Bytes {
        Bytes::default()
    }
}

/// An operation in its plain form, for the path that has no faster one.
pub struct Plain<T> {
    op: Arc<dyn Op>,
    kept: Kept<T>,
}

impl<T: Precision> Plain<T> {
    /// The node of `op`.
    pub fn new(op: &Arc<dyn Op>) -> Self {
        Self { op: op.clone(), kept: Kept::default() }
    }
}

impl<T: Precision> Node<T> for Plain<T> {
    fn forward(&mut self, batch: Batch<T>, mode: Mode, buffers: &mut [&mut [T]], y: &mut [T]) {
        let Batch { n, x, params, random, .. } = batch;
        self.kept.fit(&*self.op, n);
        self.op.twin().forward(Forward { n, mode, x, params, buffers, y, kept: &mut self.kept, random });
    }

    fn backward(&self, batch: Batch<T>, y: &[T], dy: &[T], dx: Option<&mut [T]>, grads: &mut [&mut [T]]) {
        let Batch { n, x, params, random, .. } = batch;
        self.op.twin().backward(Backward { n, x, y, params, kept: &self.kept, dy, dx, grads, random });
    }

    fn bytes(&self) -> Bytes {
        let of_saved =
            |saved: crate::layer::Saved| saved.len * if saved.numbers { size_of::<T>() } else { size_of::<u32>() };
        Bytes { image: self.op.saved(1).map_or(0, of_saved), ..Bytes::default() }
    }
}
