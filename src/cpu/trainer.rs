//! Training on the fast CPU path.

use rayon::prelude::*;

use super::network::CpuNetwork;
use super::simd::Real;
use crate::Result;
use crate::data::Dataset;
use crate::train::{Backend, Setup, State};

/// Trains in `T` on the CPU.
pub struct CpuTrainer<'a, T> {
    setup: Setup<'a>,
    network: CpuNetwork<T>,
    /// What each byte of each channel becomes: `(byte / 255 - mean) / std`.
    normalised: Vec<[T; 256]>,
}

impl<'a, T: Real> CpuTrainer<'a, T> {
    /// A trainer that starts from `params`, `[net.flat_len()]`.
    pub fn new(setup: Setup<'a>, params: &[f32]) -> Self {
        let params = params.iter().map(|&p| T::of(p.into())).collect();
        let table = |affine: &[f64; 2]| {
            let [mean, std] = affine.map(T::of);
            std::array::from_fn(|byte| (T::of(byte as f64) / T::of(255.0) - mean) / std)
        };
        let normalised = setup.normalisation.iter().map(table).collect();
        Self { network: CpuNetwork::new(setup.net, params), normalised, setup }
    }

    /// Writes the images `indices`, normalised, into the network's batch, where and as its first layer reads them.
    fn gather(&mut self, data: &Dataset, indices: &[u32]) {
        let [_, h, w] = data.shape;
        let (batch, layout) = self.network.batch(indices.len());
        batch.par_chunks_mut(layout.len).zip(indices).for_each(|(x, &index)| {
            let planes = data.image(index as usize).chunks(h * w).zip(&self.normalised);
            for (c, (bytes, normalised)) in planes.enumerate() {
                for (i, bytes) in bytes.chunks(w).enumerate() {
                    let row = x[layout.at(c, i, 0)..].iter_mut().step_by(layout.column_stride);
                    for (x, &byte) in row.zip(bytes) {
                        *x = normalised[usize::from(byte)];
                    }
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
        let mut targets = Vec::with_capacity(self.setup.batch_size);
        for (t, indices) in (updates + 1..).zip(order.chunks(self.setup.batch_size)) {
            self.gather(train, indices);
            targets.clear();
            targets.extend(indices.iter().map(|&i| train.labels[i as usize]));
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
            params: wide(self.network.params()),
            first: wide(&self.network.state().first),
            second: wide(&self.network.state().second),
        })
    }

    fn set_state(&mut self, state: &State) {
        let narrow = |values: &[f64]| values.iter().map(|&v| T::of(v)).collect();
        *self.network.params_mut() = narrow(&state.params);
        self.network.state_mut().first = narrow(&state.first);
        self.network.state_mut().second = narrow(&state.second);
    }
}
