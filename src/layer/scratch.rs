//! The memory of the fast CPU path's nodes, and how a batch is shared out among threads.

use std::any::{Any, TypeId};
use std::collections::HashMap;

/// At most so many chunks of images are in work at once, each with its own partial sums.
pub const MAX_CHUNKS: usize = 64;
/// Fewer images than this are not worth a chunk's partial sums.
const MIN_CHUNK: usize = 4;

/// How many images make a chunk: by the batch alone, so that the threads decide no sum's order.
pub fn chunk_len(images: usize) -> usize {
    images.div_ceil(MAX_CHUNKS).max(MIN_CHUNK)
}

/// Makes room for `len` elements; what is there stays, what is new is zero. Never shrinks: the last batch of an epoch
/// is smaller than the next epoch's first.
pub fn grow<T: Copy + Default>(values: &mut Vec<T>, len: usize) {
    if values.len() < len {
        values.resize(len, T::default());
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

/// NodeBytes that a node takes beside its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeBytes {
    /// For each image of a batch.
    pub image: usize,
    /// For each chunk of images, forward. Nodes share it.
    pub forward: usize,
    /// For each chunk of images, backward. Nodes share it.
    pub backward: usize,
    /// Whatever the batch.
    pub always: usize,
}
