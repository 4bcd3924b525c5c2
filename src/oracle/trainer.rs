//! Training on the CPU path.

use rayon::prelude::*;

use super::Real;
use super::network::CpuNetwork;
use crate::Result;
use crate::data::Dataset;
use crate::train::{Backend, Setup, State};

/// Trains in `T` on the CPU.
pub struct CpuTrainer<'a, T> {
    setup: Setup<'a>,
    network: CpuNetwork<T>,
}

impl<'a, T: Real> CpuTrainer<'a, T> {
    /// A trainer that starts from `params`, `[net.flat_len()]`.
    pub fn new(setup: Setup<'a>, params: &[f32]) -> Self {
        let params = params.iter().map(|&p| T::of(p.into())).collect();
        Self { network: CpuNetwork::new(setup.net, params), setup }
    }

    /// Writes the images `indices`, normalised, into the network's batch.
    fn gather(&mut self, data: &Dataset, indices: &[u32]) {
        let [_, h, w] = data.shape;
        let full = T::of(255.0);
        let normalisation: Vec<_> = self.setup.normalisation.iter().map(|affine| affine.map(T::of)).collect();
        let batch = self.network.batch(indices.len()).par_chunks_mut(data.pixels());
        batch.zip(indices).for_each(|(x, &index)| {
            let planes = x.chunks_mut(h * w).zip(data.image(index as usize).chunks(h * w));
            for ((x, bytes), [mean, std]) in planes.zip(&normalisation) {
                for (x, &byte) in x.iter_mut().zip(bytes) {
                    *x = (T::of(byte.into()) / full - *mean) / *std;
                }
            }
        });
    }
}

impl<T: Real> Backend for CpuTrainer<'_, T> {
    fn train_epoch(
        &mut self,
        order: &[u32],
        updates: u64,
        on_losses: &mut dyn FnMut(&[f64]) -> Result<()>,
    ) -> Result<()> {
        let train = self.setup.train;
        for (t, indices) in (updates + 1..).zip(order.chunks(self.setup.batch_size)) {
            self.gather(train, indices);
            let targets: Vec<u32> = indices.iter().map(|&i| train.labels[i as usize]).collect();
            let loss = self.network.train_step(&targets, self.setup.smoothing, &self.setup.optimizer, t);
            on_losses(&[loss])?;
        }
        Ok(())
    }

    fn test_logits(&mut self) -> Result<Vec<f64>> {
        let test = self.setup.test;
        let indices: Vec<u32> = (0..test.len() as u32).collect();
        let mut logits = Vec::with_capacity(test.len() * self.setup.net.classes);
        for indices in indices.chunks(self.setup.batch_size) {
            self.gather(test, indices);
            logits.extend(self.network.forward().iter().map(|x| x.wide()));
        }
        Ok(logits)
    }

    fn state(&mut self) -> Result<State> {
        let wide = |values: &[T]| values.iter().map(|v| v.wide()).collect();
        Ok(State {
            params: wide(&self.network.params),
            first: wide(&self.network.state.first),
            second: wide(&self.network.state.second),
        })
    }

    fn set_state(&mut self, state: &State) {
        let narrow = |values: &[f64]| values.iter().map(|&v| T::of(v)).collect();
        self.network.params = narrow(&state.params);
        self.network.state.first = narrow(&state.first);
        self.network.state.second = narrow(&state.second);
    }
}
