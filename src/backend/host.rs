//! Training and answering on the CPU: what the plain network ([`super::reference`]) and the fast one ([`super::cpu`])
//! have in common.

use std::ops::ControlFlow;

use rayon::prelude::*;

use crate::Result;
use crate::backend::{Asked, ImageSet, Predictor, Setup, State, Trainer, UpdatePart};
use crate::data::Dataset;
use crate::loss::{Batch, BatchLoss, Form};
use crate::network::Network;
use crate::ops::augment::AugmentTable;
use crate::ops::mix::Mixed;
use crate::optimizer::{Optimizer, Slots, accumulate, ema};
use crate::real::Real;

/// What each byte of each channel becomes: `(byte / 255 - mean) / std`.
pub type Normalised<T> = [[T; 256]];

/// A network that computes on the CPU, in `T`.
pub trait HostNetwork<T>: Send {
    /// A network with these parameters, `[net.flat_len()]`, whose layers draw their random numbers by `seed`.
    fn start(net: &Network, params: Vec<T>, seed: u64) -> Self;
    /// The same for a network that only answers: without a gradient.
    fn answering(net: &Network, params: Vec<T>) -> Self;
    /// Makes `images [n, channels, height, width]` its batch.
    fn take(&mut self, images: &[T]);
    /// Makes the images `indices`, normalised, its batch.
    fn gather(&mut self, data: &Dataset, indices: &[u32], normalised: &Normalised<T>);
    /// Mixes the images of its batch.
    fn mix(&mut self, mixed: &Mixed);
    /// The means of the batch, and the gradient of update `t`, from 1, which is kept. `before` is how many images of
    /// the update came in batches before this one.
    fn gradient(&mut self, form: &Form, batch: Batch<T>, t: u64, before: usize) -> [f64; 2];
    /// The gradient that is kept.
    fn grads(&mut self) -> &mut [T];
    /// Makes the gradient at most `most` long, and gives its norm before that.
    fn clip(&mut self, most: f64) -> f64;
    /// Update `t` by the gradient. Whether parameters and the optimizer's memory are finite after it.
    fn update(&mut self, optimizer: &Optimizer, t: u64) -> bool;
    /// The logits `[n, classes]` of the batch.
    fn logits(&mut self) -> &[T];
    /// The parameters, the optimizer's memory (empty before the first step), and the layers' buffers.
    fn parts(&mut self) -> (&mut Vec<T>, &mut Slots<T>, &mut Vec<T>);
}

/// Does this on a thread of rayon's pool, while this one sleeps. A pass has dozens of loops that the threads share:
/// from outside the pool each would wake it and wait for it, which took up to half the time of a small network's
/// answer.
fn on_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// Trains in `T` on a network `N`.
pub struct HostTrainer<'a, T, N> {
    setup: Setup<'a>,
    network: N,
    normalised: Vec<[T; 256]>,
    /// Of parameters and of buffers, where the recipe has a decay.
    averages: Vec<Vec<T>>,
    room: Room<T>,
}

/// What an update is computed from, kept from one to the next.
struct Room<T> {
    table: AugmentTable,
    /// The batch's images, changed.
    augmented: Dataset,
    labels: Vec<u32>,
    /// The labels of the images that are mixed in.
    others: Vec<u32>,
    /// The loss's numbers of each image, where it has such.
    rows: Vec<T>,
    /// The gradients of the update's batches so far.
    sums: Vec<T>,
}

impl<'a, T: Real, N: HostNetwork<T>> HostTrainer<'a, T, N> {
    /// A trainer that starts from `params`, `[net.flat_len()]`.
    pub fn new(setup: Setup<'a>, params: &[f32]) -> Self {
        let params = params.iter().map(|&p| T::of(p.into())).collect();
        let normalised = tables(&setup.normalisation);
        let mut network = N::start(setup.net, params, setup.seed);
        let averages = Self::first_averages(&setup, &mut network);
        let Dataset { shape, classes, .. } = *setup.train;
        let augmented = Dataset { shape, classes, ..Dataset::default() };
        let room = Room {
            table: setup.augment.table(),
            augmented,
            labels: vec![],
            others: vec![],
            rows: vec![],
            sums: vec![],
        };
        Self { network, normalised, setup, averages, room }
    }

    /// The averages before the first update.
    fn first_averages(setup: &Setup, network: &mut N) -> Vec<Vec<T>> {
        let (params, _, buffers) = network.parts();
        setup.recipe.ema.map_or(vec![], |_| vec![params.clone(), buffers.clone()])
    }

    /// Update `t`, from 1, by these batches of the order.
    fn update(&mut self, order: &[u32], batches: &[UpdatePart], t: u64) -> BatchLoss {
        let [mut loss, mut nll] = [0.0; 2];
        for batch in batches {
            let means = self.gradient(order, batch, t);
            loss += means[0];
            nll += means[1];
            let (grads, sums) = (self.network.grads(), &mut self.room.sums);
            match (batches.len(), batch.which) {
                (1, _) => {}
                (_, 0) => grads.clone_into(sums),
                _ => accumulate::add(grads, sums),
            }
        }
        if batches.len() > 1 {
            self.network.grads().copy_from_slice(&self.room.sums);
        }
        let recipe = &self.setup.recipe;
        let grad_norm = recipe.clip_grad_norm.map(|most| self.network.clip(most));
        let diverged = !self.network.update(&self.setup.optimizer_at(t), t);
        if let (Some(decay), [averages, of_buffers]) = (recipe.ema, &mut self.averages[..]) {
            let (params, _, buffers) = self.network.parts();
            ema::update(decay, params, averages);
            ema::update(decay, buffers, of_buffers);
        }
        BatchLoss { loss, nll, diverged, grad_norm }
    }

    /// The means of one of the update's batches, and its gradient in the network.
    fn gradient(&mut self, order: &[u32], batch: &UpdatePart, t: u64) -> [f64; 2] {
        let Setup { net, train, loss, recipe, augment, seed, .. } = &self.setup;
        let Room { table, augmented, labels, others, rows, .. } = &mut self.room;
        let (indices, update, before) = (&order[batch.images.clone()], &order[batch.update.clone()], batch.before());
        if augment.is_none() {
            self.network.gather(train, indices, &self.normalised);
        } else {
            augmented.images.resize(indices.len() * train.pixels(), 0);
            let images = augmented.images.par_chunks_mut(train.pixels()).zip(indices).enumerate();
            images.for_each(|(k, (to, &index))| {
                let drawn = augment.draw(*seed, t, before + k, train.shape);
                augment.apply(table, &drawn, train.shape, train.image(index as usize), to);
            });
            let all: Vec<u32> = (0..indices.len() as u32).collect();
            self.network.gather(augmented, &all, &self.normalised);
        }
        labels.clear();
        labels.extend(indices.iter().map(|&i| train.labels[i as usize]));
        rows.clear();
        if let Some(all) = loss.rows() {
            let row = |&i: &u32| &all[i as usize * net.classes..][..net.classes];
            rows.extend(indices.iter().flat_map(row).map(|&v| T::of(v.into())));
        }
        let mixed = recipe.mix.draw(*seed, t, batch.which, train.shape);
        others.clear();
        if mixed != Mixed::NONE {
            self.network.mix(&mixed);
            others.extend(labels.iter().rev());
        }
        let [weight, counted] = loss.weights(&train.labels, train.classes, update);
        let batch = Batch { labels, rows, others, share: mixed.share, weight, counted };
        self.network.gradient(&loss.at(t), batch, t, before)
    }
}

impl<T: Real, N: HostNetwork<T>> Trainer for HostTrainer<'_, T, N> {
    fn train_epoch(
        &mut self,
        order: &[u32],
        updates: u64,
        on_losses: &mut dyn FnMut(&[BatchLoss]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        self.setup.check()?;
        self.setup.net.check_batches(order.len(), self.setup.batch_size)?;
        let batches: Vec<UpdatePart> = self.setup.parts(order.len()).collect();
        for (t, batches) in (updates + 1..).zip(batches.chunk_by(|a, b| a.update == b.update)) {
            let losses = on_pool(|| self.update(order, batches, t));
            if on_losses(&[losses])?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn test_logits(&mut self) -> Result<Vec<f64>> {
        self.logits(self.setup.test)
    }

    fn logits(&mut self, images: &Dataset) -> Result<Vec<f64>> {
        let Self { network, normalised, setup, .. } = self;
        Ok(on_pool(|| logits_of(network, normalised, images, setup.batch_size)))
    }

    fn state(&mut self) -> Result<State> {
        let wide = |values: &[T]| -> Vec<f64> { values.iter().map(|v| v.wide()).collect() };
        let (params, slots, buffers) = self.network.parts();
        if slots.is_empty() {
            *slots = self.setup.optimizer.empty(params.len());
        }
        let all = |vectors: &[Vec<T>]| vectors.iter().map(|vector| wide(vector)).collect();
        let averages = all(&self.averages);
        Ok(State { params: wide(params), slots: all(slots), buffers: wide(buffers), averages })
    }

    fn set_state(&mut self, state: &State) {
        let narrow = |values: &[f64]| values.iter().map(|&v| T::of(v)).collect();
        let all = |vectors: &[Vec<f64>]| vectors.iter().map(|vector| narrow(vector)).collect::<Vec<_>>();
        let (params, slots, buffers) = self.network.parts();
        *params = narrow(&state.params);
        *slots = all(&state.slots);
        *buffers = narrow(&state.buffers);
        self.averages = match (self.setup.recipe.ema, state.averages.is_empty()) {
            (Some(_), false) => all(&state.averages),
            _ => Self::first_averages(&self.setup, &mut self.network),
        };
    }
}

fn tables<T: Real>(normalisation: &[[f64; 2]]) -> Vec<[T; 256]> {
    let table = |affine: &[f64; 2]| {
        let [mean, std] = affine.map(T::of);
        std::array::from_fn(|byte| (T::of(byte as f64) / T::of(255.0) - mean) / std)
    };
    normalisation.iter().map(table).collect()
}

/// The logits of a whole set, batch by batch.
fn logits_of<T: Real, N: HostNetwork<T>>(
    network: &mut N,
    normalised: &Normalised<T>,
    images: &Dataset,
    batch_size: usize,
) -> Vec<f64> {
    let indices: Vec<u32> = (0..images.len() as u32).collect();
    let mut logits = vec![];
    for indices in indices.chunks(batch_size) {
        network.gather(images, indices, normalised);
        logits.extend(network.logits().iter().map(|x| x.wide()));
    }
    logits
}

/// Answers in `T` by a network `N`.
pub struct HostPredictor<T, N> {
    network: N,
    normalised: Vec<[T; 256]>,
    pixels: usize,
    batch_size: usize,
}

impl<T: Real, N: HostNetwork<T>> HostPredictor<T, N> {
    /// A predictor.
    pub fn new(asked: &Asked) -> Self {
        let narrow = |values: &[f64]| values.iter().map(|&v| T::of(v)).collect();
        let mut network = N::answering(asked.net, narrow(asked.params));
        *network.parts().2 = narrow(asked.buffers);
        Self {
            network,
            normalised: tables(asked.normalisation),
            pixels: asked.net.input.iter().product(),
            batch_size: asked.batch_size,
        }
    }
}

impl<T: Real, N: HostNetwork<T>> Predictor for HostPredictor<T, N> {
    fn logits(&mut self, images: ImageSet) -> Result<Vec<f64>> {
        let Self { network, normalised, pixels, batch_size } = self;
        images.count(*pixels)?;
        Ok(on_pool(|| match images {
            ImageSet::Bytes(set) => logits_of(network, normalised, set, *batch_size),
            ImageSet::Floats(values) => {
                let mut logits = vec![];
                for batch in values.chunks(*batch_size * *pixels) {
                    network.take(&batch.iter().map(|&v| T::of(v.into())).collect::<Vec<T>>());
                    logits.extend(network.logits().iter().map(|x| x.wide()));
                }
                logits
            }
        }))
    }
}
