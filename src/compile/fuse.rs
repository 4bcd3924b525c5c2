//! Which layers run as one stage, and what neighbouring stages agree on. The fused operations are found by their
//! patterns ([`crate::ops::FUSED`]); whatever none of them takes stays a stage of one layer, on the reference kernels.
//!
//! In halves ([`Storage::F16`]) are what a block gives to a block or to a tiled linear layer, and what such a layer
//! gives to the next. In f32 stays what a reference kernel reads or writes, what a head reads from a block without a
//! layer between them, and, because one shader has one kind of storage, what a block gives to a block that gives f32.

use std::ops::Range;
use std::sync::Arc;

use crate::Result;
use crate::layer::{At, Op, Saved};
use crate::network::Network;
use crate::ops::FUSED;
use crate::ops::stage::{ChannelsLast, Layout, Site, Stage, StageAt};
use crate::plan::tuning::Tuning;
use crate::plan::{Plan, Slice, Storage};

/// Which kernels a network runs on, on the GPU and on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Kernels {
    /// One kernel for each pass of each layer, one thread for each element of its result. What the others are held
    /// against.
    Reference,
    /// Fused layers in register tiles, wherever they match.
    #[default]
    Fused,
}

/// Layers that run together.
#[derive(Debug)]
pub struct Staged {
    /// Indices into [`Network::layers`].
    pub layers: Range<usize>,
    /// The layers' names: `conv1+relu1+pool1`.
    pub name: String,
    /// Whether a fused operation takes their place.
    pub fused: bool,
    /// How they run.
    pub stage: Box<dyn Stage>,
}

/// The stages of `net`, whose batches come as a data set's [`Layout::Bytes`] (a first stage may read them) or in
/// planes.
pub fn stages(net: &Network, batch: Layout, kernels: Kernels, tuning: Tuning, activations: Storage) -> Vec<Staged> {
    let ops: Vec<_> = net.layers.iter().map(|layer| layer.op.clone()).collect();
    let mut stages: Vec<Staged> = vec![];
    let mut first = 0;
    while first < ops.len() {
        let from = net.layers[first].from;
        let below = giver(net, &stages, from).map(|below| &*stages[below].stage);
        // Only where nobody else reads them can the first layers take their images as bytes.
        let batch = if from == 0 && !net.reads_alone(first) { Layout::Planes } else { batch };
        let wants_dx = net.wants_gradient(from);
        let site = Site { ops: &ops[net.run(first)], below, wants_dx, tuning, batch };
        let found = FUSED.iter().find_map(|pattern| pattern(&site)).filter(|_| kernels == Kernels::Fused);
        let fused = found.is_some();
        let (stage, len) = found.unwrap_or_else(|| (Box::new(Single(ops[first].clone())), 1));
        let layers = first..first + len;
        first = layers.end;
        let names: Vec<_> = net.layers[layers.clone()].iter().map(|layer| layer.name.as_str()).collect();
        stages.push(Staged { name: names.join("+"), layers, fused, stage });
    }
    settle_channels_last(net, &mut stages);
    for i in 1..stages.len() {
        neighbours(net, &mut stages, i, |below, above| below.hand_over(above));
    }
    if activations == Storage::F16 {
        // A block gives halves if the stage above reads them, so blocks are settled from above; a linear layer does if
        // it reads some and so does the one above, so these are settled from below.
        for i in (1..stages.len()).rev().chain(1..stages.len()) {
            neighbours(net, &mut stages, i, |below, above| below.store_halves(above));
        }
    }
    stages
}

/// Stage `i`, and the one whose output it alone reads. What only renames has no part in it.
fn neighbours(net: &Network, stages: &mut [Staged], i: usize, settle: impl FnOnce(&mut dyn Stage, &mut dyn Stage)) {
    let from = net.layers[stages[i].layers.start].from;
    if let Some(below) = giver(net, stages, from) {
        let (below, rest) = stages[below..].split_at_mut(i - below);
        settle(&mut *below[0].stage, &mut *rest[0].stage);
    }
}

/// A tensor has its channels last where the stage that gives it and all that read it take it so.
fn settle_channels_last(net: &Network, stages: &mut [Staged]) {
    // The images come in planes, and so do the logits leave.
    let mut last = vec![false; net.layers.len() + 1];
    for staged in &*stages {
        last[staged.layers.end] = staged.stage.channels_last().y && staged.layers.end < net.layers.len();
    }
    let tensors = |layers: &Range<usize>| {
        [Some(net.layers[layers.start].from), net.layers[layers.clone()].iter().find_map(|layer| layer.skip)]
    };
    for staged in &*stages {
        let takes = staged.stage.channels_last();
        for (tensor, takes) in tensors(&staged.layers).into_iter().zip([takes.x, takes.skip]) {
            if let Some(tensor) = tensor.filter(|_| !takes) {
                last[tensor] = false;
            }
        }
    }
    for Staged { layers, stage, .. } in stages {
        let [x, skip] = tensors(layers).map(|tensor| tensor.is_some_and(|tensor| last[tensor]));
        stage.settle(ChannelsLast { x, skip, y: last[layers.end] });
    }
}

/// The stage that gives a tensor to one reader alone.
fn giver(net: &Network, stages: &[Staged], tensor: usize) -> Option<usize> {
    let layer = net.sole_giver(tensor)?;
    stages.iter().position(|staged| staged.layers.contains(&layer))
}

/// One layer, on the reference kernels.
#[derive(Debug)]
struct Single(Arc<dyn Op>);

impl Single {
    fn at<'a>(&self, at: &'a StageAt, params: &'a [Slice], grads: &'a [Slice]) -> At<'a> {
        let StageAt { name, n, mode, x, skip, y, saved, layer, .. } = *at;
        At { name, n, mode, x, skip, y, params, grads, saved: saved.first().copied(), layer }
    }

    /// Trained parameters and buffers, in the order of the layer.
    fn in_order(&self, trained: &[Slice], buffers: &[Slice]) -> Vec<Slice> {
        let (mut trained, mut buffers) = (trained.iter(), buffers.iter());
        let of = |role| if role == crate::layer::Role::Buffer { buffers.next() } else { trained.next() };
        self.0.parameters().iter().map(|parameter| parameter.role).filter_map(of).copied().collect()
    }
}

impl Stage for Single {
    fn saved(&self, n: usize) -> Vec<Saved> {
        self.0.saved(n).into_iter().collect()
    }

    fn forward(&self, plan: &mut Plan, at: &StageAt) -> Result<()> {
        self.0.record_forward(plan, &self.at(at, &self.in_order(at.params, at.buffers), &[]))
    }

    fn backward(&self, plan: &mut Plan, at: &StageAt, dy: Slice, dx: Option<Slice>) -> Result<()> {
        let params = self.in_order(at.params, at.buffers);
        self.0.record_backward(plan, &self.at(at, &params, &self.in_order(at.grads, at.buffers)), dy, dx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Layer, Preset};
    use crate::ops::stage::{Gradient, Layout};

    fn names(net: &Network, kernels: Kernels) -> Vec<String> {
        stages(net, Layout::Bytes, kernels, Tuning::default(), Storage::F16)
            .into_iter()
            .map(|stage| stage.name)
            .collect()
    }

    #[test]
    fn the_seed_network_is_two_blocks_a_layer_and_a_head() {
        let net = Network::seed([1, 28, 28], 10).unwrap();
        let found = stages(&net, Layout::Bytes, Kernels::Fused, Tuning::default(), Storage::F32);
        let expected = ["conv1+relu1+pool1", "conv2+relu2+pool2", "flatten1", "fc1+relu3", "fc2"];
        assert_eq!(names(&net, Kernels::Fused), expected);
        let orders = found.iter().map(|staged| (staged.stage.reads(), staged.stage.gives_gradient()));
        use Layout::{Bytes, ChannelsLast, Planes};
        assert_eq!(
            orders.collect::<Vec<_>>(),
            [
                (Bytes, Gradient::Plain),
                (ChannelsLast, Gradient::ChannelsLast(14 * 14)),
                (Planes, Gradient::Plain),
                (Planes, Gradient::ChannelsLast(49)),
                (Planes, Gradient::Masked),
            ]
        );
        let takes: Vec<_> = found.iter().map(|staged| staged.stage.takes_gradient()).collect();
        assert_eq!([takes[0], takes[3]], [Gradient::ChannelsLast(14 * 14), Gradient::Masked]);
        assert_eq!(names(&net, Kernels::Reference).len(), net.layers.len());
    }

    #[test]
    fn what_does_not_match_stays_as_it_is() {
        let layers = [
            Layer::conv2d(6, 3, 1),
            Layer::relu(),
            Layer::max_pool2d(2),
            Layer::conv2d(8, 5, 2),
            Layer::relu(),
            Layer::max_pool2d(2),
            Layer::flatten(),
            Layer::linear(7),
            Layer::relu(),
            Layer::linear(3),
        ];
        let net = Network::new([1, 14, 14], &layers).unwrap();
        // Six channels are no fours; 5x5 is another kernel; seven outputs are no fours.
        assert!(
            stages(&net, Layout::Bytes, Kernels::Fused, Tuning::default(), Storage::F16)
                .iter()
                .all(|staged| !staged.fused)
        );
    }

    /// Catches a stage that leaves to others what it could take along, and a tensor of which one reader thinks that it
    /// lies another way.
    #[test]
    fn convolutions_take_along_what_follows_them() {
        let named = |preset: Preset| Network::new([3, 32, 32], &preset.layers(10)).unwrap();
        let resnet = named(Preset::Resnet8);
        assert_eq!(
            names(&resnet, Kernels::Fused),
            [
                "conv1+bn1+relu1",
                "res1.conv1+res1.bn1+res1.relu1",
                "res1.conv2+res1.bn2+res1+relu2",
                "res2.shortcut.conv1+res2.shortcut.bn1",
                "res2.conv1+res2.bn1+res2.relu1",
                "res2.conv2+res2.bn2+res2+relu3",
                "res3.shortcut.conv1+res3.shortcut.bn1",
                "res3.conv1+res3.bn1+res3.relu1",
                "res3.conv2+res3.bn2+res3+relu4",
                "globalpool1",
                "flatten1",
                "fc1"
            ]
        );
        assert_eq!(names(&named(Preset::Cifar), Kernels::Fused)[2], "conv3+bn3+relu3+pool2");
        let found = stages(&resnet, Layout::Bytes, Kernels::Fused, Tuning::default(), Storage::F32);
        let plain = |form: Gradient| form == Gradient::Plain;
        let of = |i: usize| [found[i].stage.gives_gradient(), found[i].stage.takes_gradient()].map(plain);
        // The images come in planes, and the last average is one of features.
        assert_eq!([of(0), of(1), of(8), of(9)], [[true, false], [false; 2], [false; 2], [false, true]]);
        assert!(found[..9].iter().all(|staged| staged.fused));

        // One reader in planes is enough.
        let block = |layers: Vec<Layer>| [vec![Layer::conv2d(4, 3, 1)], vec![Layer::residual(layers)]].concat();
        let tail = [Layer::flatten(), Layer::linear(3)];
        let mixed = block(vec![Layer::conv2d(4, 5, 2), Layer::batch_norm2d()]);
        let net = Network::new([3, 8, 8], &[&mixed[..], &tail].concat()).unwrap();
        let found = stages(&net, Layout::Bytes, Kernels::Fused, Tuning::default(), Storage::F32);
        assert!(found[0].fused && found[0].stage.takes_gradient() == Gradient::Plain, "{found:?}");
    }

    /// In what each stage but those that rename gives its output.
    fn stored(input: [usize; 3], layers: &[Layer]) -> Vec<Storage> {
        let net = Network::new(input, layers).unwrap();
        let all = stages(&net, Layout::Bytes, Kernels::Fused, Tuning::default(), Storage::F16);
        let computes = |staged: &&Staged| !net.layers[staged.layers.start].op.is_view();
        all.iter().filter(computes).map(|staged| staged.stage.stored()).collect()
    }

    /// Catches a tensor in halves that somebody reads as f32, and one that could be in halves and is not.
    #[test]
    fn halves_are_what_fused_stages_hand_to_each_other() {
        use Storage::{F16, F32};
        let block = |channels| vec![Layer::conv2d(channels, 3, 1), Layer::relu(), Layer::max_pool2d(2)];
        let tail = vec![Layer::flatten(), Layer::linear(12), Layer::relu(), Layer::linear(8), Layer::linear(3)];
        let lone = vec![Layer::relu(), Layer::flatten(), Layer::linear(3)];
        for (layers, expected) in [
            ([block(8), block(4), tail.clone()].concat(), vec![F16, F16, F16, F16, F32]),
            // A reference layer above the blocks, above one of two, and below one.
            ([block(8), block(4), lone.clone()].concat(), vec![F32; 4]),
            ([block(8), vec![Layer::relu()], block(4), tail.clone()].concat(), vec![F32, F32, F16, F16, F16, F32]),
            ([vec![Layer::max_pool2d(2)], block(4), tail].concat(), vec![F32, F16, F16, F16, F32]),
            // A head that reads a block, an output that is no multiple of four, and images that a linear layer reads.
            ([block(8), vec![Layer::flatten(), Layer::linear(3)]].concat(), vec![F32; 2]),
            (
                [block(8), vec![Layer::flatten(), Layer::linear(8), Layer::relu(), Layer::linear(65)]].concat(),
                vec![F16, F32, F32],
            ),
            (vec![Layer::flatten(), Layer::linear(8), Layer::relu(), Layer::linear(3)], vec![F32; 2]),
        ] {
            assert_eq!(stored([2, 16, 16], &layers), expected, "{layers:?}");
        }
    }
}
