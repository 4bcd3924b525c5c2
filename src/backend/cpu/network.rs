//! A whole network on the fast path: forward, backward, and one training step.

use pulp::Arch;
use rayon::prelude::*;

use super::conv2d::{Packed, Stage};
use super::conv2d_backward::{Image, Sums};
use super::layout::Layout;
use super::linear;
use super::optimizer;
use super::simd::{Real, machine_lanes};
use crate::loss::{Batch, BatchLoss, Form, mean};
use crate::network::{Affine, Network, Op, Shape};
use crate::ops::linear::Linear;
use crate::ops::max_pool2d::MaxPool2d;
use crate::optimizer::Optimizer;
use crate::oracle;
use crate::oracle::optimizer::State;

/// At most so many chunks of images are in work at once, each with its own partial sums.
const MAX_CHUNKS: usize = 64;
/// Fewer images than this are not worth a chunk's partial sums.
const MIN_CHUNK: usize = 4;
/// Rows of logits that one task turns into losses.
const LOSS_ROWS: usize = 16;

/// What one pass does; one or more of the network's layers.
#[derive(Clone, Debug)]
enum Node<T> {
    /// A convolution with what follows it.
    Stage { stage: Box<Stage>, at: Affine, packed: Packed<T>, argmax: Vec<u8> },
    /// From planes to the layout that a convolution takes.
    Repack,
    /// A pooling that no convolution takes along.
    MaxPool2d { dims: MaxPool2d, argmax: Vec<u32> },
    /// A ReLU that no convolution takes along.
    Relu,
    /// A fully connected layer.
    Linear { dims: Linear, at: Affine },
}

/// What flows between two nodes, for a whole batch.
#[derive(Clone, Debug)]
struct Tensor<T> {
    layout: Layout,
    values: Vec<T>,
    gradient: Vec<T>,
}

impl<T: Real> Tensor<T> {
    fn new(layout: Layout) -> Self {
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
    state: State<T>,
    nodes: Vec<Node<T>>,
    /// `tensors[0]` is the batch, `tensors[i + 1]` what node i gives.
    tensors: Vec<Tensor<T>>,
    /// The first node with parameters: the backward pass ends there.
    first_trained: usize,
    /// Scratch and partial sums of each chunk of images.
    chunks: Vec<Chunk<T>>,
    /// Scratch of wide linear layers.
    parts: Vec<T>,
    losses: Vec<T>,
    dloss: Vec<T>,
    dlogits: Vec<T>,
    /// Whether the packed weights are older than the parameters.
    stale: bool,
    images: usize,
}

#[derive(Clone, Debug, Default)]
struct Chunk<T> {
    band: Vec<T>,
    sums: Sums<T>,
}

/// Bytes of an image in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageBytes {
    /// What every layer gives.
    pub forward: u64,
    /// What a training needs beside that.
    pub backward: u64,
    /// Of each chunk of images that is in work at once, whatever the batch.
    pub scratch: u64,
}

/// How many images make a chunk, by the batch alone.
fn chunk_len(images: usize) -> usize {
    images.div_ceil(MAX_CHUNKS).max(MIN_CHUNK)
}

impl<T: Real> CpuNetwork<T> {
    /// A network with these parameters, `[net.flat_len()]`.
    pub fn new(net: &Network, params: Vec<T>) -> Self {
        assert_eq!(params.len(), net.flat_len());
        let arch = Arch::new();
        let (nodes, layouts) = fuse(net, machine_lanes::<T>(arch));
        let trained = |node: &Node<T>| matches!(node, Node::Stage { .. } | Node::Linear { .. });
        Self {
            arch,
            grads: vec![T::zero(); params.len()],
            state: State::new(params.len()),
            params,
            first_trained: nodes.iter().position(trained).unwrap_or(nodes.len()),
            nodes,
            tensors: layouts.into_iter().map(Tensor::new).collect(),
            chunks: vec![],
            parts: vec![],
            losses: vec![],
            dloss: vec![],
            dlogits: vec![],
            stale: true,
            images: 0,
            net: net.clone(),
        }
    }

    /// How much memory a batch takes, worked out and not allocated.
    pub fn image_bytes(net: &Network) -> ImageBytes {
        let (nodes, layouts) = fuse::<T>(net, machine_lanes::<T>(Arch::new()));
        let size = size_of::<T>();
        let trained = |node: &Node<T>| matches!(node, Node::Stage { .. } | Node::Linear { .. });
        let first_trained = nodes.iter().position(trained).unwrap_or(nodes.len());
        let (mut forward, mut band, mut sums) = (layouts.iter().map(|layout| layout.len).sum::<usize>() * size, 0, 0);
        for (node, layout) in nodes.iter().zip(&layouts[1..]) {
            match node {
                Node::Stage { stage, .. } => {
                    forward += stage.argmax_len();
                    band = band.max(stage.band_len() * size);
                    sums = sums.max(stage.sums_bytes::<T>());
                }
                Node::MaxPool2d { .. } => forward += layout.len * size_of::<u32>(),
                Node::Linear { dims, .. } => forward += linear::parts_len(dims) * size,
                Node::Repack | Node::Relu => {}
            }
        }
        let backward = layouts.iter().skip(first_trained + 1).map(|layout| layout.len).sum::<usize>() * size;
        // Losses and the logits' gradient.
        let losses = (2 + net.classes) * size;
        ImageBytes {
            forward: forward as u64,
            backward: (backward + losses) as u64,
            scratch: (MAX_CHUNKS * (band + sums)) as u64,
        }
    }

    /// The network's layers.
    pub fn network(&self) -> &Network {
        &self.net
    }

    /// Every parameter, as one flat vector (see [`crate::network::Parameter::range`]).
    pub fn params(&self) -> &[T] {
        &self.params
    }

    /// The parameters and the optimizer's memory, to be changed.
    pub fn parts_mut(&mut self) -> (&mut Vec<T>, &mut State<T>) {
        self.stale = true;
        (&mut self.params, &mut self.state)
    }

    /// The gradient of the last backward pass, laid out as the parameters.
    pub fn grads(&self) -> &[T] {
        &self.grads
    }

    /// The optimizer's memory.
    pub fn state(&self) -> &State<T> {
        &self.state
    }

    /// Where the next batch of `n` images is to be written, and how: image k's element is at `k * layout.len` plus
    /// [`Layout::at`]. Nothing else may be written.
    pub fn batch(&mut self, n: usize) -> (&mut [T], Layout) {
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
    pub fn forward(&mut self) -> &[T] {
        let n = self.images;
        let chunk_len = chunk_len(n);
        self.pack();
        if self.chunks.len() < n.div_ceil(chunk_len) {
            self.chunks.resize_with(n.div_ceil(chunk_len), Chunk::default);
        }
        let parameter = |i: usize| &self.params[self.net.parameters[i].range()];
        for (i, node) in self.nodes.iter_mut().enumerate() {
            let (before, after) = self.tensors.split_at_mut(i + 1);
            let (from, to) = (&before[i], &mut after[0]);
            grow(&mut to.values, n * to.layout.len);
            let (x, y) = (&from.values[..n * from.layout.len], &mut to.values[..n * to.layout.len]);
            match node {
                Node::Stage { stage, packed, argmax, .. } => {
                    grow(argmax, n * stage.argmax_len());
                    x.par_chunks(from.layout.len * chunk_len)
                        .zip(y.par_chunks_mut(to.layout.len * chunk_len))
                        .zip(argmax.par_chunks_mut(stage.argmax_len() * chunk_len))
                        .zip(&mut self.chunks)
                        .with_max_len(1)
                        .for_each(|(((x, y), argmax), chunk)| {
                            chunk.band.resize(stage.band_len(), T::zero());
                            let images = x.chunks(from.layout.len).zip(y.chunks_mut(to.layout.len));
                            for ((x, y), argmax) in images.zip(argmax.chunks_mut(stage.argmax_len())) {
                                stage.forward(self.arch, packed, x, y, argmax, &mut chunk.band);
                            }
                        });
                }
                Node::Repack => y
                    .par_chunks_mut(to.layout.len)
                    .zip(x.par_chunks(from.layout.len))
                    .for_each(|(y, x)| to.layout.write(x, y)),
                Node::MaxPool2d { dims, argmax } => {
                    grow(argmax, y.len());
                    oracle::max_pool2d::forward(dims, x, y, &mut argmax[..n * to.layout.len]);
                }
                Node::Relu => oracle::relu::forward(x, y),
                Node::Linear { dims, at } => {
                    let operands = [x, parameter(at.weight), parameter(at.bias)];
                    linear::forward(self.arch, dims, operands, y, &mut self.parts);
                }
            }
        }
        let logits = &self.tensors[self.nodes.len()];
        &logits.values[..n * logits.layout.len]
    }

    /// Brings the packed weights up to date.
    fn pack(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let parameter = |i: usize| &self.params[self.net.parameters[i].range()];
        self.nodes.par_iter_mut().for_each(|node| {
            if let Node::Stage { stage, at, packed, .. } = node {
                stage.pack(parameter(at.weight), parameter(at.bias), packed);
            }
        });
    }

    /// From the gradient of the logits `[n, classes]` to the gradient of the parameters. Below the first layer with
    /// parameters nothing is computed.
    pub fn backward(&mut self, dlogits: &[T]) {
        let n = self.images;
        let chunk_len = chunk_len(n);
        let last = &mut self.tensors[self.nodes.len()];
        last.gradient.clear();
        last.gradient.extend_from_slice(dlogits);
        for (i, node) in self.nodes.iter().enumerate().skip(self.first_trained).rev() {
            let wanted = i > self.first_trained;
            let (before, after) = self.tensors.split_at_mut(i + 1);
            let (from, to) = (&mut before[i], &after[0]);
            if wanted {
                grow(&mut from.gradient, n * from.layout.len);
            }
            let x = &from.values[..n * from.layout.len];
            let (y, dy) = (&to.values[..n * to.layout.len], &to.gradient[..n * to.layout.len]);
            let dx = if wanted { &mut from.gradient[..n * from.layout.len] } else { &mut [][..] };
            match node {
                Node::Stage { stage, at, packed, argmax } => {
                    let argmax = &argmax[..n * stage.argmax_len()];
                    let chunks = &mut self.chunks[..n.div_ceil(chunk_len)];
                    let work = |at: usize, chunk: &mut Chunk<T>, dx: &mut [T]| {
                        stage.clear(&mut chunk.sums);
                        // Empty if it is not wanted.
                        let mut dx = dx.chunks_mut(from.layout.len);
                        for k in at * chunk_len..n.min((at + 1) * chunk_len) {
                            let [x, y, dy] = [(x, from.layout.len), (y, to.layout.len), (dy, to.layout.len)]
                                .map(|(values, len)| &values[k * len..][..len]);
                            let argmax = &argmax[k * stage.argmax_len()..][..stage.argmax_len()];
                            let dx = dx.next().unwrap_or_default();
                            stage.backward(self.arch, packed, Image { x, y, argmax, dy, dx }, &mut chunk.sums);
                        }
                    };
                    let tasks = chunks.par_iter_mut().with_max_len(1);
                    if wanted {
                        let dx = dx.par_chunks_mut(from.layout.len * chunk_len);
                        tasks.zip(dx).enumerate().for_each(|(at, (chunk, dx))| work(at, chunk, dx));
                    } else {
                        tasks.enumerate().for_each(|(at, chunk)| work(at, chunk, &mut []));
                    }
                    let (total, parts) = chunks.split_first_mut().expect("a batch has at least one image");
                    for part in parts {
                        optimizer::add(self.arch, &mut total.sums.dw, &part.sums.dw);
                        optimizer::add(self.arch, &mut total.sums.db, &part.sums.db);
                    }
                    let (dw, db) = weight_and_bias(&mut self.grads, &self.net, at);
                    stage.unpack(&total.sums.dw, dw);
                    db.copy_from_slice(&total.sums.db[..db.len()]);
                }
                Node::Repack => dx
                    .par_chunks_mut(from.layout.len)
                    .zip(dy.par_chunks(to.layout.len))
                    .for_each(|(dx, dy)| to.layout.read(dy, dx)),
                Node::MaxPool2d { dims, argmax } => {
                    oracle::max_pool2d::backward(dims, &argmax[..n * to.layout.len], dy, dx);
                }
                Node::Relu => oracle::relu::backward(y, dy, dx),
                Node::Linear { dims, at } => {
                    let (dw, db) = weight_and_bias(&mut self.grads, &self.net, at);
                    oracle::linear::backward_weight(dims, x, dy, dw, db);
                    if wanted {
                        let weight = &self.params[self.net.parameters[at.weight].range()];
                        oracle::linear::backward_input(dims, dy, weight, dx);
                    }
                }
            }
        }
    }

    /// The mean loss of the batch, with its gradient in [`Self::grads`].
    pub fn loss_and_gradient(&mut self, form: &Form, batch: Batch<T>) -> f64 {
        let (n, classes) = (batch.labels.len(), self.net.classes);
        let mut losses = std::mem::take(&mut self.losses);
        let mut dlogits = std::mem::take(&mut self.dlogits);
        let mut dloss = std::mem::take(&mut self.dloss);
        losses.resize(n, T::zero());
        dlogits.resize(n * classes, T::zero());
        dloss.clear();
        dloss.resize(n, T::of(batch.dloss()));
        let logits = self.forward().par_chunks(LOSS_ROWS * classes).zip(losses.par_chunks_mut(LOSS_ROWS));
        let gradients = dloss.par_chunks(LOSS_ROWS).zip(dlogits.par_chunks_mut(LOSS_ROWS * classes));
        logits.zip(gradients).enumerate().for_each(|(i, ((logits, losses), (dloss, dlogits)))| {
            let part = batch.part(i * LOSS_ROWS..i * LOSS_ROWS + losses.len(), classes);
            form.forward(classes, logits, part, losses);
            form.backward(classes, logits, part, dloss, dlogits);
        });
        self.backward(&dlogits);
        let loss = mean(losses.iter().map(|loss| loss.wide()).sum(), batch.weight);
        (self.losses, self.dlogits, self.dloss) = (losses, dlogits, dloss);
        loss
    }

    /// The mean nll of the batch, by the logits of the last [`Self::forward`].
    fn nll(&mut self, form: &Form, batch: Batch<T>) -> f64 {
        let (n, classes) = (batch.labels.len(), self.net.classes);
        let logits = &self.tensors[self.nodes.len()].values[..n * classes];
        let parts = logits.par_chunks(LOSS_ROWS * classes).zip(self.losses.par_chunks_mut(LOSS_ROWS));
        parts.enumerate().for_each(|(i, (logits, nlls))| {
            form.nll(classes, logits, batch.part(i * LOSS_ROWS..i * LOSS_ROWS + nlls.len(), classes), nlls);
        });
        mean(self.losses.iter().map(|nll| nll.wide()).sum(), batch.counted)
    }

    /// One training step over the batch: its means before the update, which is number `t` from 1.
    pub fn train_step(&mut self, form: &Form, batch: Batch<T>, optimizer: &Optimizer, t: u64) -> BatchLoss {
        let loss = self.loss_and_gradient(form, batch);
        let nll = self.nll(form, batch);
        let finite = optimizer::step(self.arch, optimizer, t, &mut self.params, &self.grads, &mut self.state);
        self.stale = true;
        BatchLoss { loss, nll, diverged: !finite }
    }
}

/// Makes room for `len` elements; what is there stays, what is new is zero. Never shrinks: the last batch of an epoch is
/// smaller than the next epoch's first.
fn grow<T: Copy + Default>(values: &mut Vec<T>, len: usize) {
    if values.len() < len {
        values.resize(len, T::default());
    }
}

/// The network's layers as nodes, and the layouts between them. Each convolution takes along a ReLU and a pooling that
/// follow it, in either order.
fn fuse<T: Real>(net: &Network, lanes: usize) -> (Vec<Node<T>>, Vec<Layout>) {
    let mut nodes = vec![];
    let mut layouts = vec![planes(Shape::Image(net.input))];
    let mut trained = false;
    let mut at = 0;
    while at < net.layers.len() {
        let layer = &net.layers[at];
        at += 1;
        let mut output = layer.output;
        let node = match layer.op {
            // Planes are already flat.
            Op::Flatten => continue,
            Op::Relu => Node::Relu,
            Op::MaxPool2d(dims) => Node::MaxPool2d { dims, argmax: vec![] },
            Op::Linear(dims, affine) => {
                trained = true;
                Node::Linear { dims, at: affine }
            }
            Op::Conv2d(dims, affine) => {
                let (mut relu, mut pool) = (false, None);
                while let Some(next) = net.layers.get(at) {
                    match next.op {
                        Op::Relu => relu = true,
                        Op::MaxPool2d(dims) if pool.is_none() && Stage::takes(&dims) => pool = Some(dims),
                        _ => break,
                    }
                    output = next.output;
                    at += 1;
                }
                let stage = Stage::new(dims, relu, pool, trained, lanes);
                trained = true;
                // The convolution's input layout: straight from the stage before, or the batch written so.
                match nodes.last_mut() {
                    Some(Node::Stage { stage: before, .. }) => {
                        before.output = stage.input;
                        *layouts.last_mut().expect("the batch's") = stage.input;
                    }
                    None => layouts[0] = stage.input,
                    Some(_) => {
                        nodes.push(Node::Repack);
                        layouts.push(stage.input);
                    }
                }
                Node::Stage { stage: Box::new(stage), at: affine, packed: Packed::default(), argmax: vec![] }
            }
        };
        nodes.push(node);
        layouts.push(planes(output));
    }
    (nodes, layouts)
}

fn planes(shape: Shape) -> Layout {
    Layout::planes(match shape {
        Shape::Image(dims) => dims,
        Shape::Features(n) => [n, 1, 1],
    })
}

/// The gradients of a layer's weight and bias.
fn weight_and_bias<'a, T>(grads: &'a mut [T], net: &Network, at: &Affine) -> (&'a mut [T], &'a mut [T]) {
    let (weight, bias) = (net.parameters[at.weight].range(), net.parameters[at.bias].range());
    let (before, after) = grads.split_at_mut(bias.start);
    (&mut before[weight], &mut after[..bias.len()])
}
