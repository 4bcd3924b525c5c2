//! Training on the fast CPU path.

use rayon::prelude::*;

use super::network::CpuNetwork;
use crate::backend::host::{HostNetwork, HostPredictor, HostTrainer, Normalised};
use crate::data::Dataset;
use crate::layer::{Element, Mode};
use crate::loss::{Batch, Form};
use crate::network::Network;
use crate::ops::mix::Mixed;
use crate::optimizer::{Optimizer, Slots};

/// Answers in `T` on the fast CPU path.
pub type CpuPredictor<T> = HostPredictor<T, CpuNetwork<T>>;

/// Trains in `T` on the fast CPU path.
pub type CpuTrainer<'a, T> = HostTrainer<'a, T, CpuNetwork<T>>;

impl<T: Element> HostNetwork<T> for CpuNetwork<T> {
    fn start(net: &Network, params: Vec<T>, seed: u64) -> Self {
        let mut network = Self::new(net, params);
        network.seed(seed);
        network
    }

    fn answering(net: &Network, params: Vec<T>) -> Self {
        Self::answering(net, params)
    }

    fn take(&mut self, images: &[T]) {
        self.set_batch(images);
    }

    /// The images are written where and as the first layer reads them.
    fn gather(&mut self, data: &Dataset, indices: &[u32], normalised: &Normalised<T>) {
        let [_, h, w] = data.shape;
        let (batch, layout) = self.batch(indices.len());
        batch.par_chunks_mut(layout.len).zip(indices).for_each(|(x, &index)| {
            let planes = data.image(index as usize).chunks(h * w).zip(normalised);
            for (c, (bytes, normalised)) in planes.enumerate() {
                for (i, bytes) in bytes.chunks(w).enumerate() {
                    let row = x[layout.at(c, i, 0)..].iter_mut().step_by(layout.column_stride);
                    row.zip(bytes).for_each(|(x, &byte)| *x = normalised[usize::from(byte)]);
                }
            }
        });
    }

    fn mix(&mut self, mixed: &Mixed) {
        let (batch, layout) = self.batch(self.images());
        mixed.apply(layout, batch);
    }

    fn gradient(&mut self, form: &Form, batch: Batch<T>, t: u64, before: usize) -> [f64; 2] {
        self.part(before);
        self.step_gradient(form, batch, t)
    }

    fn grads(&mut self) -> &mut [T] {
        self.grads_mut()
    }

    fn clip(&mut self, most: f64) -> f64 {
        self.clip(most)
    }

    fn update(&mut self, optimizer: &Optimizer, t: u64) -> bool {
        self.update(optimizer, t)
    }

    fn logits(&mut self) -> &[T] {
        self.forward(Mode::Inference)
    }

    fn parts(&mut self) -> (&mut Vec<T>, &mut Slots<T>, &mut Vec<T>) {
        self.parts_mut()
    }
}
