//! A whole network on the fast path: forward, backward, and one training step.

use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;

use super::gradients::{GradientPlaces, GradientStep};
use super::nodes::{NodeStage, nodes};
use crate::layer::{
    Aligned, Element, ImageLayout, MAX_CHUNKS, Mode, NodeBatch, NodeBytes, NodeGradients, Random, Scratch,
};
use crate::loss;
use crate::loss::{BatchLoss, Form, mean};
use crate::network::Network;
use crate::optimizer::{Optimizer, Slots, Values, clip};
use crate::real::Real;

/// Rows of logits that one task turns into losses.
const LOSS_ROWS: usize = 16;
/// Elements of two gradients that one task adds.
const ADDED: usize = 1 << 14;
/// What a thread's part of a batch reads and writes at a node, about: half of a core's second-level cache.
const PART_BYTES: usize = 1 << 19;
/// Images of a thread's part, at least.
const LEAST_PART: usize = 4;

/// What flows between nodes, for a whole batch.
#[derive(Clone, Debug)]
struct Tensor<T> {
    layout: ImageLayout,
    values: Aligned<T>,
}

impl<T: Real> Tensor<T> {
    /// The values of `n` images.
    fn images(&self, n: usize) -> &[T] {
        &self.values[..n * self.layout.len]
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
    nodes: Vec<NodeStage<T>>,
    /// `tensors[0]` is the batch, the last one the logits.
    tensors: Vec<Tensor<T>>,
    gradients: GradientPlaces,
    /// The places of [`GradientPlaces`].
    places: Vec<Aligned<T>>,
    scratch: Scratch,
    /// The run's seed, and the update that the passes are part of: the random numbers of layers follow from them.
    seed: u64,
    step: u64,
    /// Images of that update in batches before this one.
    before: usize,
    /// Loss and nll of each image.
    losses: Vec<[T; 2]>,
    dlogits: Vec<T>,
    /// For passes of which mode the weights are packed; none where they are older than the parameters.
    packed: Option<Mode>,
    parts: Parts,
    images: usize,
}

/// How a batch is answered: in sections of the network, each for some images at a time, so that what flows between its
/// nodes stays in cache.
#[derive(Clone, Debug)]
struct Parts {
    sections: Vec<Section>,
    /// Of each tensor whether it is there for the whole batch: another section reads it, or it is the result.
    whole: Vec<bool>,
}

/// Nodes that follow each other.
#[derive(Clone, Debug)]
struct Section {
    nodes: Range<usize>,
    /// Images at a time.
    images: usize,
}

impl Parts {
    fn new<T: Real>(stages: &[NodeStage<T>], layouts: &[ImageLayout]) -> Self {
        let threads = rayon::current_num_threads();
        let images = |stage: &NodeStage<T>| match stage.node.wants_batch() {
            true => usize::MAX,
            false => {
                let bytes = (layouts[stage.from].len + layouts[stage.to].len) * size_of::<T>();
                threads * (PART_BYTES / bytes).max(LEAST_PART)
            }
        };
        let mut sections: Vec<Section> = vec![];
        for (at, stage) in stages.iter().enumerate() {
            let images = images(stage);
            match sections.last_mut() {
                Some(last) if images < last.images.saturating_mul(2) && last.images < usize::MAX => {
                    last.nodes.end = at + 1;
                    last.images = last.images.min(images);
                }
                _ => sections.push(Section { nodes: at..at + 1, images }),
            }
        }
        let mut whole = vec![false; layouts.len()];
        (whole[0], whole[layouts.len() - 1]) = (true, true);
        for Section { nodes, .. } in &sections {
            let given: Vec<usize> = stages[nodes.clone()].iter().map(|stage| stage.to).collect();
            let read = stages[nodes.clone()].iter().flat_map(|stage| std::iter::once(stage.from).chain(stage.skip));
            read.filter(|tensor| !given.contains(tensor)).for_each(|tensor| whole[tensor] = true);
        }
        Self { sections, whole }
    }
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
        let (nodes, layouts) = nodes(net, arch);
        let parts = Parts::new(&nodes, &layouts);
        let gradients = GradientPlaces::new(&nodes, &layouts, net.first_trained());
        Self {
            arch,
            grads: vec![T::zero(); trained],
            slots: vec![],
            buffers: net.initial_buffers(0).into_iter().map(|v| T::of(v.into())).collect(),
            params,
            nodes,
            tensors: layouts.into_iter().map(|layout| Tensor { layout, values: Aligned::default() }).collect(),
            places: vec![Aligned::default(); gradients.places.len()],
            gradients,
            scratch: Scratch::default(),
            seed: 0,
            step: 0,
            before: 0,
            losses: vec![],
            dlogits: vec![],
            packed: None,
            parts,
            images: 0,
            net: net.clone(),
        }
    }

    /// How many bytes batches of up to `train` training images and `infer` others take, worked out and not allocated.
    pub fn batch_bytes(net: &Network, train: usize, infer: usize) -> u64 {
        let (nodes, layouts) = nodes::<T>(net, Arch::new());
        let parts = Parts::new(&nodes, &layouts);
        let bytes = |images: usize, of_one: usize| (images as u64).saturating_mul(of_one as u64);
        let (mut held, mut grows) = (0u64, 0u64);
        let mut holds = |answered: usize, of_one: usize| {
            held = held.saturating_add(bytes(train.max(answered), of_one));
            // A buffer that grows is there twice for a moment.
            if train != answered {
                grows = grows.max(bytes(train.min(answered), of_one));
            }
        };
        holds(infer, layouts[0].len * size_of::<T>());
        for Section { nodes: range, images } in parts.sections {
            for NodeStage { node, to, .. } in &nodes[range] {
                let part = infer.min(images);
                holds(if parts.whole[*to] { infer } else { part }, layouts[*to].len * size_of::<T>());
                holds(part, node.bytes().image);
            }
        }
        let mut backward = 0;
        if train > 0 {
            let gradients = GradientPlaces::new(&nodes, &layouts, net.first_trained());
            // Losses and the logits' gradient.
            backward = (gradients.places.iter().sum::<usize>() + 2 + net.classes) * size_of::<T>();
        }
        let most = |of: fn(&NodeBytes) -> usize| nodes.iter().map(|stage| of(&stage.node.bytes())).max().unwrap_or(0);
        // Of the threads, and of the sums of chunks of images.
        let chunks = if train > 0 { MAX_CHUNKS * most(|bytes| bytes.chunk) } else { 0 };
        let packed = nodes.iter().map(|stage| stage.node.bytes().always).sum::<usize>();
        let scratch = rayon::current_num_threads() * most(|bytes| bytes.thread) + chunks + packed;
        held.saturating_add(grows).saturating_add(bytes(train, backward)).saturating_add(scratch as u64)
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
        self.packed = None;
        (&mut self.params, &mut self.slots, &mut self.buffers)
    }

    /// The gradient of the last backward pass, laid out as the parameters.
    pub fn grads(&self) -> &[T] {
        &self.grads
    }

    /// The same, to be changed.
    pub fn grads_mut(&mut self) -> &mut [T] {
        &mut self.grads
    }

    /// So many images of the update came in batches before the next one.
    pub fn part(&mut self, before: usize) {
        self.before = before;
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
        values.grow(n * layout.len);
        (&mut values[..n * layout.len], *layout)
    }

    /// Images in the batch.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Makes `images [n, channels, height, width]` the next batch.
    pub fn set_batch(&mut self, images: &[T]) {
        let len = self.net.input.iter().product::<usize>();
        let (batch, layout) = self.batch(images.len() / len);
        batch.par_chunks_mut(layout.len).zip(images.par_chunks(len)).for_each(|(to, from)| layout.write(from, to));
    }

    /// The logits `[n, classes]` of the batch.
    pub fn forward(&mut self, mode: Mode) -> &[T] {
        self.pack(mode);
        let n = self.images;
        match mode {
            Mode::Training => self.run(0..self.nodes.len(), 0..n, mode),
            Mode::Inference => {
                for Section { nodes, images } in self.parts.sections.clone() {
                    let firsts = (0..n).step_by(images);
                    firsts.for_each(|first| self.run(nodes.clone(), first..n.min(first.saturating_add(images)), mode));
                }
            }
        }
        self.logits()
    }

    /// Some nodes over some images of the batch.
    fn run(&mut self, nodes: Range<usize>, images: Range<usize>, mode: Mode) {
        let Self { net, arch, params, buffers, seed, step, before, scratch, images: all, parts, .. } = self;
        let n = images.len();
        // Where the images are in a tensor.
        let place = |tensor: usize| if parts.whole[tensor] { images.clone() } else { 0..n };
        for NodeStage { node, layers, from, skip, to, .. } in &mut self.nodes[nodes] {
            let mut given = std::mem::take(&mut self.tensors[*to].values);
            let layout = self.tensors[*to].layout;
            given.grow(if parts.whole[*to] { *all } else { n } * layout.len);
            let read = |tensor: usize| {
                let (place, Tensor { values, layout, .. }) = (place(tensor), &self.tensors[tensor]);
                (&values[place.start * layout.len..place.end * layout.len], *layout)
            };
            let (x, from) = read(*from);
            let batch = NodeBatch {
                n,
                arch: *arch,
                from,
                to: layout,
                x,
                skip: skip.map(read),
                params: &net.params(params, layers.clone()),
                random: Random { seed: *seed, step: *step, layer: layers.start, before: *before },
                scratch,
            };
            let buffers = &mut net.buffers_mut(buffers, layers.clone());
            let Range { start, end } = place(*to);
            node.forward(batch, mode, buffers, &mut given[start * layout.len..end * layout.len]);
            self.tensors[*to].values = given;
        }
    }

    fn logits(&self) -> &[T] {
        self.tensors.last().expect("the logits'").images(self.images)
    }

    /// Brings the packed weights up to date. A training's passes change the buffers; before the next answer they are
    /// packed anew.
    fn pack(&mut self, mode: Mode) {
        if self.packed.replace(mode) == Some(mode) {
            return;
        }
        let Self { net, params, buffers, nodes, .. } = self;
        nodes.par_iter_mut().for_each(|NodeStage { node, layers, .. }| {
            node.pack(&net.params(params, layers.clone()), &net.buffers(buffers, layers.clone()), mode);
        });
    }

    /// From the gradient of the logits `[n, classes]` to the gradient of the parameters. Below the first layer with
    /// parameters nothing is computed.
    pub fn backward(&mut self, dlogits: &[T]) {
        let Self { net, arch, params, grads, seed, step, before, scratch, images: n, tensors, places, .. } = self;
        let GradientPlaces { steps, places: lens } = &self.gradients;
        let n = *n;
        for (place, len) in places.iter_mut().zip(lens) {
            place.grow(n * len);
        }
        for (stage, gradient) in self.nodes.iter().zip(steps).rev() {
            let NodeStage { node, layers, from, skip, to, .. } = stage;
            let Some(GradientStep { dy, dx, dskip }) = gradient else { continue };
            // Out of their places while they are written.
            let [mut given, mut given_skip] =
                [dx, dskip].map(|part| part.map(|part| std::mem::take(&mut places[part.place])));
            let len = |tensor: usize| n * tensors[tensor].layout.len;
            let batch = NodeBatch {
                n,
                arch: *arch,
                from: tensors[*from].layout,
                to: tensors[*to].layout,
                x: tensors[*from].images(n),
                skip: skip.map(|skip| &tensors[skip]).map(|skip| (skip.images(n), skip.layout)),
                params: &net.params(params, layers.clone()),
                random: Random { seed: *seed, step: *step, layer: layers.start, before: *before },
                scratch,
            };
            let gradients = NodeGradients {
                dx: given.as_mut().map(|dx| &mut dx[..len(*from)]),
                adds: dx.is_some_and(|dx| dx.adds),
                dskip: given_skip.as_mut().zip(*skip).map(|(dskip, skip)| &mut dskip[..len(skip)]),
                params: &mut net.params_mut(grads, layers.clone()),
            };
            let dy = dy.map_or(dlogits, |dy| &places[dy][..len(*to)]);
            node.backward(batch, tensors[*to].images(n), dy, gradients);
            for (part, given, tensor) in [(dx, given, Some(*from)), (dskip, given_skip, *skip)] {
                let (Some(part), Some(given), Some(tensor)) = (part, given, tensor) else { continue };
                if let Some(then) = part.then {
                    let len = len(tensor);
                    let sums = places[then][..len].par_chunks_mut(ADDED).zip(given[..len].par_chunks(ADDED));
                    sums.for_each(|(sums, given)| sums.iter_mut().zip(given).for_each(|(sum, &given)| *sum += given));
                }
                places[part.place] = given;
            }
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
        self.packed = None;
        let matrices = &net.weight_matrices();
        optimizer.fast_step(*arch, t, Values { params, grads, slots, decayed: net.decayed_len(), matrices })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::smoothing::{Smoothing, Variant};
    use crate::network::Preset;

    fn networks() -> impl Iterator<Item = Network> {
        Preset::ALL.into_iter().map(|preset| {
            let input = if matches!(preset, Preset::Seed | Preset::Lenet5) { [1, 28, 28] } else { [3, 16, 16] };
            Network::new(input, &preset.layers(10)).unwrap()
        })
    }

    /// Catches a pass that counts on what another tensor's gradient has left in its place.
    #[test]
    fn what_lies_in_a_place_counts_for_nothing() {
        for net in networks() {
            let mut network = CpuNetwork::new(&net, net.initial_parameters(1));
            let pixels = 9 * net.input.iter().product::<usize>();
            let images: Vec<f32> = (0..pixels).map(|i| ((i * 7919) % 1013) as f32 / 500.0 - 1.0).collect();
            let labels: Vec<u32> = (0..9).collect();
            let form = Form::Smoothed(Smoothing { variant: Variant::Uniform, epsilon: 0.1 });
            network.set_batch(&images);
            network.loss_and_gradient(&form, loss::Batch::new(&labels));
            let clean: Vec<u32> = network.grads().iter().map(|gradient| gradient.to_bits()).collect();
            network.places.iter_mut().for_each(|place| place.fill(f32::NAN));
            network.loss_and_gradient(&form, loss::Batch::new(&labels));
            let poisoned: Vec<u32> = network.grads().iter().map(|gradient| gradient.to_bits()).collect();
            assert!(clean == poisoned, "{:?}", net.layers.first());
        }
    }

    /// Catches an estimate for answers that forgets what is held for the whole batch, or counts what is not.
    #[test]
    fn what_answers_hold_is_known_before() {
        for net in networks() {
            let mut network = CpuNetwork::<f32>::answering(&net, net.initial_parameters(1));
            let mut held = |n: usize| {
                network.batch(n);
                network.forward(Mode::Inference);
                network.tensors.iter().map(|tensor| tensor.values.len() * size_of::<f32>()).sum::<usize>() as f64
            };
            let estimate = |n: usize| CpuNetwork::<f32>::batch_bytes(&net, 0, n) as f64;
            let [few, many] = [300, 600].map(|n| (held(n), estimate(n)));
            let name = net.layers.first();
            assert!(many.0 <= many.1, "{name:?}: {many:?}");
            let grown = [many.0 - few.0, many.1 - few.1];
            assert!(grown[0] > 0.0 && (grown[0]..1.2 * grown[0] + 1.0).contains(&grown[1]), "{name:?}: {grown:?}");
        }
    }

    /// Catches a place that is not free again when its gradient has been read.
    #[test]
    fn a_deep_network_has_few_places_for_gradients() {
        let net = Network::new([3, 32, 32], &Preset::Resnet20.layers(10)).unwrap();
        let (nodes, layouts) = nodes::<f32>(&net, Arch::new());
        let GradientPlaces { places, steps } = GradientPlaces::new(&nodes, &layouts, net.first_trained());
        let largest = layouts.iter().map(|layout| layout.len).max().unwrap();
        assert!(steps.iter().all(Option::is_some));
        assert!(places.len() <= 4 && places.iter().sum::<usize>() <= 3 * largest, "{places:?}, {largest}");
    }
}
