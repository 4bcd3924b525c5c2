//! A whole network in its plain form: forward, backward, and one training step, layer by layer, by each operation's
//! [`Twin`](crate::layer::Twin). In f64 it is the oracle; nothing that is fast has a part in it.

use rayon::prelude::*;

use super::host::{HostNetwork, HostPredictor, HostTrainer, Normalised};
use crate::data::Dataset;
use crate::layer::{Backward, Element, Forward, ImageLayout, Kept, Mode, Random};
use crate::loss::{Batch, BatchLoss, Form, mean};
use crate::network::Network;
use crate::ops::mix::Mixed;
use crate::optimizer::{Optimizer, Slots, Values, clip};

/// A network with its parameters, and the buffers of one step, which are allocated once and grow with the batch.
pub struct ReferenceNetwork<T> {
    net: Network,
    /// Every trained parameter, as one flat vector (see [`crate::network::NamedParameter::range`]).
    pub params: Vec<T>,
    /// What the layers keep from one step to the next, as another.
    pub buffers: Vec<T>,
    /// The gradient of the last [`Self::backward`], laid out as `params`.
    pub grads: Vec<T>,
    /// The optimizer's memory.
    pub slots: Slots<T>,
    /// The run's seed, which the random numbers of layers follow from.
    seed: u64,
    /// The update that the passes are part of.
    step: u64,
    /// Images of that update in batches before this one.
    before: usize,
    n: usize,
    /// `activations[0]` is the batch, `activations[i + 1]` what layer i gives.
    activations: Vec<Vec<T>>,
    /// The loss's gradient with respect to `activations[i]`.
    gradients: Vec<Vec<T>>,
    /// What each layer's forward pass keeps for its backward pass.
    kept: Vec<Kept<T>>,
}

impl<T: Element> ReferenceNetwork<T> {
    /// A network with these parameters, `[net.flat_len()]`, and its buffers' first values.
    pub fn new(net: &Network, params: Vec<T>) -> Self {
        let trained = params.len();
        Self::with(net, params, trained)
    }

    /// The same without a gradient: it only answers.
    pub fn answering(net: &Network, params: Vec<T>) -> Self {
        Self::with(net, params, 0)
    }

    /// With room for the gradient of so many parameters.
    fn with(net: &Network, params: Vec<T>, trained: usize) -> Self {
        assert_eq!(params.len(), net.flat_len());
        Self {
            grads: vec![T::zero(); trained],
            buffers: net.initial_buffers(0).into_iter().map(|v| T::of(v.into())).collect(),
            slots: vec![],
            params,
            seed: 0,
            step: 0,
            before: 0,
            n: 0,
            activations: vec![vec![]; net.layers.len() + 1],
            gradients: vec![vec![]; net.layers.len() + 1],
            kept: vec![Kept::default(); net.layers.len()],
            net: net.clone(),
        }
    }

    /// The network's layers.
    pub fn network(&self) -> &Network {
        &self.net
    }

    /// Where the next batch of `n` images `[n, channels, height, width]` is to be written.
    pub fn batch(&mut self, n: usize) -> &mut [T] {
        self.n = n;
        self.activations[0].resize(n * self.net.input.iter().product::<usize>(), T::zero());
        &mut self.activations[0]
    }

    /// The logits `[n, classes]` of the batch.
    pub fn forward(&mut self, mode: Mode) -> &[T] {
        let Self { net, params, buffers, n, seed, step, before: earlier, .. } = self;
        for (i, layer) in net.layers.iter().enumerate() {
            let (before, after) = self.activations.split_at_mut(i + 1);
            let (x, y, kept) = (&before[layer.from], &mut after[0], &mut self.kept[i]);
            y.resize(*n * layer.output.len(), T::zero());
            kept.fit(&*layer.op, *n);
            layer.op.twin().forward(Forward {
                n: *n,
                mode,
                x,
                skip: layer.skip.map_or(&[], |skip| &before[skip]),
                params: &net.params(params, i..i + 1),
                buffers: &mut net.buffers_mut(buffers, i..i + 1),
                y,
                kept,
                random: Random { seed: *seed, step: *step, layer: i, before: *earlier },
            });
        }
        &self.activations[self.net.layers.len()]
    }

    /// From the gradient of the logits `[n, classes]` to `grads`. Below the first layer with parameters
    /// nothing is computed.
    pub fn backward(&mut self, dlogits: &[T]) {
        let Self { net, params, grads, n, seed, step, before: earlier, .. } = self;
        // What several layers read has a gradient from each, which add up.
        for (gradient, values) in self.gradients.iter_mut().zip(&self.activations) {
            gradient.clear();
            gradient.resize(values.len(), T::zero());
        }
        self.gradients[net.layers.len()].copy_from_slice(dlogits);
        let first = net.first_trained();
        for (i, layer) in net.layers.iter().enumerate().skip(first).rev() {
            let (before, after) = self.gradients.split_at_mut(i + 1);
            let dy = &after[0];
            let x = &self.activations[layer.from];
            let mut dx = vec![T::zero(); x.len()];
            layer.op.twin().backward(Backward {
                n: *n,
                x,
                y: &self.activations[i + 1],
                params: &net.params(params, i..i + 1),
                kept: &self.kept[i],
                dy,
                dx: net.wants_gradient(layer.from).then_some(&mut dx[..]),
                grads: &mut net.params_mut(grads, i..i + 1),
                random: Random { seed: *seed, step: *step, layer: i, before: *earlier },
            });
            let parts = [(layer.from, &dx)].into_iter().chain(layer.skip.map(|skip| (skip, dy)));
            for (tensor, part) in parts {
                before[tensor].iter_mut().zip(part).for_each(|(sum, &part)| *sum += part);
            }
        }
    }

    /// The mean loss of the batch, with its gradient in `grads`.
    pub fn loss_and_gradient(&mut self, form: &Form, batch: Batch<T>) -> f64 {
        let n = batch.labels.len();
        let classes = self.net.classes;
        let mut losses = vec![T::zero(); n];
        let mut dlogits = vec![T::zero(); n * classes];
        let logits = self.forward(Mode::Training);
        form.forward(classes, logits, batch, &mut losses);
        let dloss = vec![T::of(batch.dloss()); n];
        form.backward(classes, logits, batch, &dloss, &mut dlogits);
        self.backward(&dlogits);
        mean(losses.iter().map(|l| l.wide()).sum(), batch.weight)
    }

    /// The mean nll of the batch, by the logits of the last [`Self::forward`].
    fn nll(&self, form: &Form, batch: Batch<T>) -> f64 {
        let mut nlls = vec![T::zero(); batch.labels.len()];
        form.nll(self.net.classes, &self.activations[self.net.layers.len()], batch, &mut nlls);
        mean(nlls.iter().map(|nll| nll.wide()).sum(), batch.counted)
    }

    /// One training step over the batch: its means before the update, which is number `t` from 1.
    pub fn train_step(&mut self, form: &Form, batch: Batch<T>, optimizer: &Optimizer, t: u64) -> BatchLoss {
        let [loss, nll] = self.step_gradient(form, batch, t);
        BatchLoss { loss, nll, diverged: !self.update(optimizer, t), grad_norm: None }
    }

    /// The means of the batch, with the gradient of update `t`, from 1, in `grads`.
    pub fn step_gradient(&mut self, form: &Form, batch: Batch<T>, t: u64) -> [f64; 2] {
        self.step = t;
        let loss = self.loss_and_gradient(form, batch);
        [loss, self.nll(form, batch)]
    }

    /// Update `t` by the gradient. Whether parameters and memory are finite after it.
    pub fn update(&mut self, optimizer: &Optimizer, t: u64) -> bool {
        let Self { net, params, grads, slots, .. } = self;
        if slots.is_empty() {
            *slots = optimizer.empty(params.len());
        }
        let matrices = &net.weight_matrices();
        optimizer.step(t, Values { params, grads, slots, decayed: net.decayed_len(), matrices })
    }
}

/// Answers in `T` by the plain network.
pub type ReferencePredictor<T> = HostPredictor<T, ReferenceNetwork<T>>;

/// Trains in `T` on the plain network.
pub type ReferenceTrainer<'a, T> = HostTrainer<'a, T, ReferenceNetwork<T>>;

impl<T: Element> HostNetwork<T> for ReferenceNetwork<T> {
    fn start(net: &Network, params: Vec<T>, seed: u64) -> Self {
        let buffers = net.initial_buffers(seed).into_iter().map(|v| T::of(v.into())).collect();
        Self { seed, buffers, ..Self::new(net, params) }
    }

    fn answering(net: &Network, params: Vec<T>) -> Self {
        Self::answering(net, params)
    }

    fn take(&mut self, images: &[T]) {
        let n = images.len() / self.net.input.iter().product::<usize>();
        self.batch(n).copy_from_slice(images);
    }

    fn gather(&mut self, data: &Dataset, indices: &[u32], normalised: &Normalised<T>) {
        let [_, h, w] = data.shape;
        let batch = self.batch(indices.len()).par_chunks_mut(data.pixels());
        batch.zip(indices).for_each(|(x, &index)| {
            let planes = x.chunks_mut(h * w).zip(data.image(index as usize).chunks(h * w)).zip(normalised);
            for ((x, bytes), normalised) in planes {
                x.iter_mut().zip(bytes).for_each(|(x, &byte)| *x = normalised[usize::from(byte)]);
            }
        });
    }

    fn mix(&mut self, mixed: &Mixed) {
        let len = self.n * self.net.input.iter().product::<usize>();
        mixed.apply(ImageLayout::planes(self.net.input), &mut self.activations[0][..len]);
    }

    fn gradient(&mut self, form: &Form, batch: Batch<T>, t: u64, before: usize) -> [f64; 2] {
        self.before = before;
        self.step_gradient(form, batch, t)
    }

    fn grads(&mut self) -> &mut [T] {
        &mut self.grads
    }

    fn clip(&mut self, most: f64) -> f64 {
        clip::reference::clip(&mut self.grads, most)
    }

    fn update(&mut self, optimizer: &Optimizer, t: u64) -> bool {
        self.update(optimizer, t)
    }

    fn logits(&mut self) -> &[T] {
        self.forward(Mode::Inference)
    }

    fn parts(&mut self) -> (&mut Vec<T>, &mut Slots<T>, &mut Vec<T>) {
        (&mut self.params, &mut self.slots, &mut self.buffers)
    }
}
