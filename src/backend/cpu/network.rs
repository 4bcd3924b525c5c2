//! A whole network on the fast path: forward, backward, and one training step.

use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;

use super::plain::Plain;
use crate::layer::{Element, Following, ImageLayout, MAX_CHUNKS, Mode, Node, NodeBatch, Random, Scratch, Shape, grow};
use crate::loss;
use crate::loss::{BatchLoss, Form, mean};
use crate::network::{FittedLayer, Network};
use crate::optimizer::{Optimizer, Slots, Values, clip};
use crate::real::Real;

/// Rows of logits that one task turns into losses.
const LOSS_ROWS: usize = 16;

/// What one pass does; one or more of the network's layers.
struct Stage<T> {
    node: Box<dyn Node<T>>,
    layers: Range<usize>,
}

/// What flows between two nodes, for a whole batch.
#[derive(Clone, Debug)]
struct Tensor<T> {
    layout: ImageLayout,
    values: Vec<T>,
    gradient: Vec<T>,
}

impl<T: Real> Tensor<T> {
    fn new(layout: ImageLayout) -> Self {
        Self { layout, values: vec![], gradient: vec![] }
    }
}

/// A network with its parameters, and the buffers of one step, which are allocated once and grow with the batch.
pub struct CpuNetwork<T> {
    net: Network,
    arch: Arch,
    params: Vec<T>,
    /// The gradient of the last [`Self::backward`], laid out as the parameters.
    grads: Vec<T>,
    slots: Slots<T>,
    /// What the layers keep from one step to the next.
    buffers: Vec<T>,
    nodes: Vec<Stage<T>>,
    /// `tensors[0]` is the batch, `tensors[i + 1]` what node i gives.
    tensors: Vec<Tensor<T>>,
    /// The first node with parameters: the backward pass ends there.
    first_trained: usize,
    scratch: Scratch,
    /// The run's seed, and the update that the passes are part of: the random numbers of layers follow from them.
    seed: u64,
    step: u64,
    /// Loss and nll of each image.
    losses: Vec<[T; 2]>,
    dlogits: Vec<T>,
    /// Whether the packed weights are older than the parameters.
    stale: bool,
    images: usize,
}

/// NodeBytes of an image in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageBytes {
    /// What every layer gives.
    pub forward: u64,
    /// What a training needs beside that.
    pub backward: u64,
    /// Of each chunk of images that is in work at once, whatever the batch.
    pub scratch: u64,
}

impl<T: Element> CpuNetwork<T> {
    /// A network with these parameters, `[net.flat_len()]`.
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
        let arch = Arch::new();
        let (nodes, layouts) = fuse(net, arch);
        Self {
            arch,
            grads: vec![T::zero(); trained],
            slots: vec![],
            buffers: net.initial_buffers(0).into_iter().map(|v| T::of(v.into())).collect(),
            params,
            first_trained: first_trained(net, &nodes),
            nodes,
            tensors: layouts.into_iter().map(Tensor::new).collect(),
            scratch: Scratch::default(),
            seed: 0,
            step: 0,
            losses: vec![],
            dlogits: vec![],
            stale: true,
            images: 0,
            net: net.clone(),
        }
    }

    /// How much memory a batch takes, worked out and not allocated.
    pub fn image_bytes(net: &Network) -> ImageBytes {
        let (nodes, layouts) = fuse::<T>(net, Arch::new());
        let size = size_of::<T>();
        let of_nodes: Vec<_> = nodes.iter().map(|stage| stage.node.bytes()).collect();
        let forward = layouts.iter().map(|layout| layout.len * size).chain(of_nodes.iter().map(|bytes| bytes.image));
        let most = |of: fn(&crate::layer::NodeBytes) -> usize| of_nodes.iter().map(of).max().unwrap_or(0);
        let first = first_trained(net, &nodes) + 1;
        let backward = layouts.iter().skip(first).map(|layout| layout.len * size).sum::<usize>();
        // Losses and the logits' gradient.
        let losses = (2 + net.classes) * size;
        ImageBytes {
            forward: forward.sum::<usize>() as u64,
            backward: (backward + losses) as u64,
            scratch: (MAX_CHUNKS * (most(|bytes| bytes.forward) + most(|bytes| bytes.backward))) as u64,
        }
    }

    /// Makes the layers draw their random numbers, and their buffers' first values, by this seed.
    pub fn seed(&mut self, seed: u64) {
        self.seed = seed;
        self.buffers = self.net.initial_buffers(seed).into_iter().map(|v| T::of(v.into())).collect();
    }

    /// The network's layers.
    pub fn network(&self) -> &Network {
        &self.net
    }

    /// Every parameter, as one flat vector (see [`crate::network::NamedParameter::range`]).
    pub fn params(&self) -> &[T] {
        &self.params
    }

    /// The parameters, the optimizer's memory and the layers' buffers, to be changed.
    pub fn parts_mut(&mut self) -> (&mut Vec<T>, &mut Slots<T>, &mut Vec<T>) {
        self.stale = true;
        (&mut self.params, &mut self.slots, &mut self.buffers)
    }

    /// The gradient of the last backward pass, laid out as the parameters.
    pub fn grads(&self) -> &[T] {
        &self.grads
    }

    /// The optimizer's memory; empty before the first step.
    pub fn slots(&self) -> &Slots<T> {
        &self.slots
    }

    /// Where the next batch of `n` images is to be written, and how: image k's element is at `k * layout.len` plus
    /// [`ImageLayout::at`]. Nothing else may be written.
    pub fn batch(&mut self, n: usize) -> (&mut [T], ImageLayout) {
        self.images = n;
        let Tensor { layout, values, .. } = &mut self.tensors[0];
        grow(values, n * layout.len);
        (&mut values[..n * layout.len], *layout)
    }

    /// Makes `images [n, channels, height, width]` the next batch.
    pub fn set_batch(&mut self, images: &[T]) {
        let len = self.net.input.iter().product::<usize>();
        let (batch, layout) = self.batch(images.len() / len);
        batch.par_chunks_mut(layout.len).zip(images.par_chunks(len)).for_each(|(to, from)| layout.write(from, to));
    }

    /// The logits `[n, classes]` of the batch.
    pub fn forward(&mut self, mode: Mode) -> &[T] {
        self.pack();
        let Self { net, arch, params, buffers, seed, step, scratch, images: n, .. } = self;
        for (i, Stage { node, layers }) in self.nodes.iter_mut().enumerate() {
            let (before, after) = self.tensors.split_at_mut(i + 1);
            let (from, to) = (&before[i], &mut after[0]);
            grow(&mut to.values, *n * to.layout.len);
            let batch = NodeBatch {
                n: *n,
                arch: *arch,
                from: from.layout,
                to: to.layout,
                x: &from.values[..*n * from.layout.len],
                params: &net.params(params, layers.clone()),
                random: Random { seed: *seed, step: *step, layer: layers.start },
                scratch,
            };
            let buffers = &mut net.buffers_mut(buffers, layers.clone());
            node.forward(batch, mode, buffers, &mut to.values[..*n * to.layout.len]);
        }
        let logits = &self.tensors[self.nodes.len()];
        &logits.values[..self.images * logits.layout.len]
    }

    /// Brings the packed weights up to date.
    fn pack(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let Self { net, params, nodes, .. } = self;
        nodes.par_iter_mut().for_each(|Stage { node, layers }| node.pack(&net.params(params, layers.clone())));
    }

    /// From the gradient of the logits `[n, classes]` to the gradient of the parameters. Below the first layer with
    /// parameters nothing is computed.
    pub fn backward(&mut self, dlogits: &[T]) {
        let last = &mut self.tensors[self.nodes.len()];
        last.gradient.clear();
        last.gradient.extend_from_slice(dlogits);
        let Self { net, arch, params, grads, seed, step, scratch, images: n, .. } = self;
        for (i, Stage { node, layers }) in self.nodes.iter().enumerate().skip(self.first_trained).rev() {
            let wanted = i > self.first_trained;
            let (before, after) = self.tensors.split_at_mut(i + 1);
            let (from, to) = (&mut before[i], &after[0]);
            if wanted {
                grow(&mut from.gradient, *n * from.layout.len);
            }
            let batch = NodeBatch {
                n: *n,
                arch: *arch,
                from: from.layout,
                to: to.layout,
                x: &from.values[..*n * from.layout.len],
                params: &net.params(params, layers.clone()),
                random: Random { seed: *seed, step: *step, layer: layers.start },
                scratch,
            };
            let (y, dy) = (&to.values[..*n * to.layout.len], &to.gradient[..*n * to.layout.len]);
            let dx = wanted.then_some(&mut from.gradient).map(|dx| &mut dx[..*n * from.layout.len]);
            node.backward(batch, y, dy, dx, &mut net.params_mut(grads, layers.clone()));
        }
    }

    /// The mean loss of the batch, with its gradient in [`Self::grads`].
    pub fn loss_and_gradient(&mut self, form: &Form, batch: loss::Batch<T>) -> f64 {
        self.losses_and_gradient(form, batch)[0]
    }

    /// The mean loss and the mean nll of the batch, with the loss's gradient in [`Self::grads`].
    fn losses_and_gradient(&mut self, form: &Form, batch: loss::Batch<T>) -> [f64; 2] {
        let (n, classes) = (batch.labels.len(), self.net.classes);
        let mut losses = std::mem::take(&mut self.losses);
        let mut dlogits = std::mem::take(&mut self.dlogits);
        losses.resize(n, [T::zero(); 2]);
        dlogits.resize(n * classes, T::zero());
        let logits = self.forward(Mode::Training).par_chunks(LOSS_ROWS * classes);
        let results = losses.par_chunks_mut(LOSS_ROWS).zip(dlogits.par_chunks_mut(LOSS_ROWS * classes));
        logits.zip(results).enumerate().for_each(|(i, (logits, (losses, dlogits)))| {
            let part = batch.part(i * LOSS_ROWS..i * LOSS_ROWS + losses.len(), classes);
            form.fast(logits, part, losses, dlogits);
        });
        self.backward(&dlogits);
        let sum = |which: usize| losses.iter().map(|losses| losses[which].wide()).sum();
        let means = [mean(sum(0), batch.weight), mean(sum(1), batch.counted)];
        (self.losses, self.dlogits) = (losses, dlogits);
        means
    }

    /// One training step over the batch: its means before the update, which is number `t` from 1.
    pub fn train_step(&mut self, form: &Form, batch: loss::Batch<T>, optimizer: &Optimizer, t: u64) -> BatchLoss {
        let [loss, nll] = self.step_gradient(form, batch, t);
        BatchLoss { loss, nll, diverged: !self.update(optimizer, t), grad_norm: None }
    }

    /// The means of the batch, with the gradient of update `t`, from 1, in [`Self::grads`].
    pub fn step_gradient(&mut self, form: &Form, batch: loss::Batch<T>, t: u64) -> [f64; 2] {
        self.step = t;
        self.losses_and_gradient(form, batch)
    }

    /// Makes the gradient at most `most` long, and gives its norm before that.
    pub fn clip(&mut self, most: f64) -> f64 {
        clip::fast::clip(&mut self.grads, most)
    }

    /// Update `t` by the gradient. Whether parameters and memory are finite after it.
    pub fn update(&mut self, optimizer: &Optimizer, t: u64) -> bool {
        let Self { net, arch, params, grads, slots, .. } = self;
        if slots.is_empty() {
            *slots = optimizer.empty(params.len());
        }
        self.stale = true;
        optimizer.fast_step(*arch, t, Values { params, grads, slots, decayed: net.decayed_len() })
    }
}

/// The first node with parameters.
fn first_trained<T>(net: &Network, nodes: &[Stage<T>]) -> usize {
    let first = net.first_trained();
    nodes.iter().position(|stage| stage.layers.contains(&first)).unwrap_or(nodes.len())
}

/// The network's layers as nodes, and the layouts between them.
fn fuse<T: Element>(net: &Network, arch: Arch) -> (Vec<Stage<T>>, Vec<ImageLayout>) {
    let ops: Vec<_> = net.layers.iter().map(|layer| layer.op.clone()).collect();
    let mut nodes: Vec<Stage<T>> = vec![];
    let mut layouts = vec![planes(Shape::Image(net.input))];
    let mut at = 0;
    while let Some(FittedLayer { op, .. }) = net.layers.get(at) {
        at += 1;
        // Planes are already flat.
        if op.is_view() {
            continue;
        }
        let following = Following { ops: &ops[at..], wants_dx: at - 1 > net.first_trained(), arch };
        let (node, taken) = op.twin().fast(&following).unwrap_or_else(|| (Box::new(Plain::<T>::new(op)), 0));
        let layers = at - 1..at + taken;
        at += taken;
        // Its own layout: straight from the node before, or the batch written so, or else brought into it.
        if let Some(wanted) = node.reads() {
            let given = nodes.last_mut().is_none_or(|before| before.node.give(&wanted));
            if given {
                *layouts.last_mut().expect("the batch's") = wanted;
            } else {
                nodes.push(Stage { node: Box::new(Repack), layers: layers.start..layers.start });
                layouts.push(wanted);
            }
        }
        layouts.push(planes(net.layers[layers.end - 1].output));
        nodes.push(Stage { node, layers });
    }
    (nodes, layouts)
}

/// From one layout to another.
struct Repack;

impl<T: Real> Node<T> for Repack {
    fn forward(&mut self, batch: NodeBatch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { from, to, x, .. } = batch;
        y.par_chunks_mut(to.len).zip(x.par_chunks(from.len)).for_each(|(y, x)| to.write(x, y));
    }

    fn backward(&self, batch: NodeBatch<T>, _y: &[T], dy: &[T], dx: Option<&mut [T]>, _grads: &mut [&mut [T]]) {
        let (NodeBatch { from, to, .. }, Some(dx)) = (batch, dx) else { return };
        dx.par_chunks_mut(from.len).zip(dy.par_chunks(to.len)).for_each(|(dx, dy)| to.read(dy, dx));
    }
}

fn planes(shape: Shape) -> ImageLayout {
    ImageLayout::planes(match shape {
        Shape::Image(dims) => dims,
        Shape::Features(n) => [n, 1, 1],
    })
}
