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
use crate::ops::stage::{Layout, Site, Stage, StageAt};
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
        At { name, n, mode, x, skip, y, params, grads, saved, layer }
    }

    /// Trained parameters and buffers, in the order of the layer.
    fn in_order(&self, trained: &[Slice], buffers: &[Slice]) -> Vec<Slice> {
        let (mut trained, mut buffers) = (trained.iter(), buffers.iter());
        let of = |role| if role == crate::layer::Role::Buffer { buffers.next() } else { trained.next() };
        self.0.parameters().iter().map(|parameter| parameter.role).filter_map(of).copied().collect()
    }
}

impl Stage for Single {
    fn saved(&self, n: usize) -> Option<Saved> {
        self.0.saved(n)
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
    use crate::network::Layer;
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
            Layer::conv2d(8, 3, 0),
            Layer::relu(),
            Layer::max_pool2d(2),
            Layer::flatten(),
            Layer::linear(7),
            Layer::relu(),
            Layer::linear(3),
        ];
        let net = Network::new([1, 14, 14], &layers).unwrap();
        // Six channels are no fours; a block with a layer below it must be padded by one; seven outputs are no fours.
        assert!(
            stages(&net, Layout::Bytes, Kernels::Fused, Tuning::default(), Storage::F16)
                .iter()
                .all(|staged| !staged.fused)
        );
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
