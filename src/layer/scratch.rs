//! The memory of the fast CPU path's nodes, and how a batch is shared out among threads.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Memory of each thread, used for one chunk after another: so it stays in that processor's cache.
#[derive(Debug, Default)]
pub struct PerThread<R>(Vec<Mutex<R>>);

impl<R: Default> PerThread<R> {
    /// As many as there are threads.
    pub fn fit(&mut self) -> &Self {
        if self.0.len() < rayon::current_num_threads() {
            self.0.resize_with(rayon::current_num_threads(), Mutex::default);
        }
        self
    }

    /// That of the thread that asks. It starts no other task while it has this.
    pub fn own(&self) -> MutexGuard<'_, R> {
        let own = &self.0[rayon::current_thread_index().unwrap_or(0)];
        own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// NodeBytes that a node takes beside its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeBytes {
    /// For each image of a batch.
    pub image: usize,
    /// For each thread. Nodes share it.
    pub thread: usize,
    /// For each chunk of images, backward. Nodes share it.
    pub chunk: usize,
    /// Whatever the batch.
    pub always: usize,
}
