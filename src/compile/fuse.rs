//! Finds what can be fused in a network: which layers run as one stage, and in which layout a stage hands its output on.
//!
//! Conv2d + ReLU + MaxPool2d become one block where [`Conv2dPool::new`] takes them; Linear + ReLU one layer; the last
//! Linear and the loss one head. Whatever does not match stays a stage of one layer, on the reference kernels.
//!
//! In halves ([`Storage::F16`]) are what a block gives to a block or to a tiled linear layer, and what such a layer gives to
//! the next. In f32 stays what a reference kernel reads or writes, what a head reads from a block without a layer between them,
//! and, because one shader has one kind of storage, what a block gives to a block that gives f32.

use std::ops::Range;

use crate::network::{Affine, Network, Op};
use crate::ops::conv2d_pool::{Conv2dPool, Layout};
use crate::ops::head::Head;
use crate::ops::linear_tiled::LinearTiled;
use crate::plan::Storage;
use crate::plan::tuning::Tuning;

/// Which kernels a network runs on, on the GPU and on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Kernels {
    /// One kernel for each pass of each layer, one thread for each element of its result. What the others are held against.
    Reference,
    /// Fused layers in register tiles, wherever they match.
    #[default]
    Fused,
}

/// Layers that run together.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Indices into [`Network::layers`].
    pub layers: Range<usize>,
    /// The layers' names: `conv1+relu1+pool1`.
    pub name: String,
    /// How they run.
    pub kind: Kind,
}

/// How a stage runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// One layer, on the reference kernels.
    Layer,
    /// Convolution, ReLU, pooling.
    Block(Conv2dPool, Affine),
    /// A fully connected layer, with ReLU if that follows.
    Linear(LinearTiled, Affine),
    /// The last fully connected layer. In training it runs with the loss.
    Head(LinearTiled, Affine),
}

impl Kind {
    /// In what the stage's output is stored.
    pub fn stored(&self) -> Storage {
        match self {
            Self::Block(block, _) => block.stored,
            Self::Linear(layer, _) | Self::Head(layer, _) => layer.y,
            Self::Layer => Storage::F32,
        }
    }
}

/// The stages of `net`.
pub fn stages(net: &Network, kernels: Kernels, tuning: Tuning, activations: Storage) -> Vec<Stage> {
    let mut stages: Vec<Stage> = vec![];
    let mut first = 0;
    while first < net.layers.len() {
        let (kind, len) = match kernels {
            Kernels::Reference => (Kind::Layer, 1),
            Kernels::Fused => fuse(net, first, stages.last(), tuning),
        };
        let layers = first..first + len;
        first = layers.end;
        let names: Vec<_> = net.layers[layers.clone()].iter().map(|layer| layer.name.as_str()).collect();
        stages.push(Stage { name: names.join("+"), layers, kind });
    }
    hand_over(net, &mut stages);
    if activations == Storage::F16 {
        store_halves(net, &mut stages);
    }
    stages
}

/// The stage that starts at layer `i`, and how many layers it has.
fn fuse(net: &Network, i: usize, before: Option<&Stage>, tuning: Tuning) -> (Kind, usize) {
    let op = |i: usize| net.layers.get(i).map(|layer| layer.op);
    match (op(i), op(i + 1), op(i + 2)) {
        (Some(Op::Conv2d(conv, at)), Some(Op::Relu), Some(Op::MaxPool2d(pool))) => {
            let x = match before {
                Some(Stage { kind: Kind::Block(..), .. }) if conv.input[0].is_multiple_of(4) => Layout::ChannelsLast,
                None => Layout::Bytes,
                _ => Layout::Planes,
            };
            let wants_dx = i > net.first_trained();
            match Conv2dPool::new(&conv, &pool, wants_dx, x, Layout::Planes) {
                Some(block) => (Kind::Block(block.tuned(tuning), at), 3),
                None => (Kind::Layer, 1),
            }
        }
        (Some(Op::Linear(dims, at)), next, _) => {
            match LinearTiled::new(&dims).map(|layer| LinearTiled { tiles: tuning.linear, ..layer }) {
                Some(tiled) if next.is_none() && Head::supports(&dims) => (Kind::Head(tiled, at), 1),
                // Its gradient comes in rows of its outputs.
                Some(tiled) if dims.outputs.is_multiple_of(4) => {
                    let relu = next == Some(Op::Relu);
                    (Kind::Linear(LinearTiled { relu, ..tiled }, at), 1 + usize::from(relu))
                }
                _ => (Kind::Layer, 1),
            }
        }
        _ => (Kind::Layer, 1),
    }
}

/// Settles what each stage does for its neighbours: the layout of what passes between blocks, and the backward pass of a
/// ReLU, which falls to the layer above it.
fn hand_over(net: &Network, stages: &mut [Stage]) {
    for i in 1..stages.len() {
        match neighbours(net, stages, i) {
            Some((Kind::Block(block, _), Kind::Block(above, _))) => block.y = above.x,
            Some((Kind::Block(block, _), Kind::Linear(above, _) | Kind::Head(above, _))) => {
                above.plane = block.output()[1] * block.output()[2];
            }
            Some((Kind::Linear(layer, _), Kind::Linear(above, _) | Kind::Head(above, _))) => above.mask = layer.relu,
            _ => {}
        }
    }
}

/// Settles which stages store halves. A block does if the one above reads them, so blocks are settled from above; a linear
/// layer does if it reads some and so does the one above, so these are settled from below.
fn store_halves(net: &Network, stages: &mut [Stage]) {
    for i in (1..stages.len()).rev() {
        match neighbours(net, stages, i) {
            Some((Kind::Block(block, _), Kind::Block(above, _))) => block.stored = above.stored,
            Some((Kind::Block(block, _), Kind::Linear(above, _))) => {
                (block.stored, above.x) = (Storage::F16, Storage::F16);
            }
            _ => {}
        }
    }
    for i in 1..stages.len() {
        if let Some((Kind::Linear(layer, _), Kind::Linear(above, _) | Kind::Head(above, _))) =
            neighbours(net, stages, i)
        {
            (layer.y, above.x) = (layer.x, layer.x);
        }
    }
}

/// Stage `i` and the one whose output it reads. Flatten only renames.
fn neighbours<'a>(net: &Network, stages: &'a mut [Stage], i: usize) -> Option<(&'a mut Kind, &'a mut Kind)> {
    let (below, rest) = stages.split_at_mut(i);
    let computes = |stage: &&mut Stage| net.layers[stage.layers.start].op != Op::Flatten;
    let below = below.iter_mut().rev().find(computes)?;
    Some((&mut below.kind, &mut rest[0].kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Layer;

    fn names(net: &Network, kernels: Kernels) -> Vec<String> {
        stages(net, kernels, Tuning::default(), Storage::F16).into_iter().map(|stage| stage.name).collect()
    }

    #[test]
    fn the_seed_network_is_two_blocks_a_layer_and_a_head() {
        let net = Network::seed([1, 28, 28], 10).unwrap();
        let found = stages(&net, Kernels::Fused, Tuning::default(), Storage::F32);
        let expected = ["conv1+relu1+pool1", "conv2+relu2+pool2", "flatten1", "fc1+relu3", "fc2"];
        assert_eq!(names(&net, Kernels::Fused), expected);
        let (Kind::Block(first, _), Kind::Block(second, _)) = (found[0].kind, found[1].kind) else {
            panic!("{found:?}")
        };
        assert_eq!([first.x, first.y, second.x, second.y], {
            use Layout::{Bytes, ChannelsLast, Planes};
            [Bytes, ChannelsLast, ChannelsLast, Planes]
        });
        let (Kind::Linear(fc1, _), Kind::Head(fc2, _)) = (found[3].kind, found[4].kind) else { panic!("{found:?}") };
        assert_eq!((fc1.relu, fc1.mask, fc1.plane, fc2.mask, fc2.plane), (true, false, 49, true, 1));
        assert_eq!(names(&net, Kernels::Reference).len(), net.layers.len());
    }

    #[test]
    fn what_does_not_match_stays_as_it_is() {
        let layers = [
            Layer::conv2d(6, 3, 1),
            Layer::Relu,
            Layer::max_pool2d(2),
            Layer::conv2d(8, 3, 0),
            Layer::Relu,
            Layer::max_pool2d(2),
            Layer::Flatten,
            Layer::linear(7),
            Layer::Relu,
            Layer::linear(3),
        ];
        let net = Network::new([1, 14, 14], &layers).unwrap();
        // Six channels are no fours; a block with a layer below it must be padded by one; seven outputs are no fours.
        assert!(
            stages(&net, Kernels::Fused, Tuning::default(), Storage::F16).iter().all(|stage| stage.kind == Kind::Layer)
        );
    }

    /// In what each stage that can choose gives its output.
    fn stored(input: [usize; 3], layers: &[Layer]) -> Vec<Storage> {
        let net = Network::new(input, layers).unwrap();
        let all = stages(&net, Kernels::Fused, Tuning::default(), Storage::F16);
        let mut read = None;
        let mut found = vec![];
        for stage in &all {
            let (x, y) = match stage.kind {
                Kind::Block(block, _) if block.x == Layout::ChannelsLast => (Some(block.stored), block.stored),
                Kind::Block(block, _) => (None, block.stored),
                Kind::Linear(layer, _) | Kind::Head(layer, _) => (Some(layer.x), layer.y),
                Kind::Layer if net.layers[stage.layers.start].op == Op::Flatten => continue,
                Kind::Layer => (Some(Storage::F32), Storage::F32),
            };
            assert!(x.is_none() || read.is_none() || x == read, "{}: what is written is not what is read", stage.name);
            (read, found) = (Some(y), [found, vec![y]].concat());
        }
        found
    }

    /// Catches a tensor in halves that somebody reads as f32, and one that could be in halves and is not.
    #[test]
    fn halves_are_what_fused_stages_hand_to_each_other() {
        use Storage::{F16, F32};
        let block = |channels| vec![Layer::conv2d(channels, 3, 1), Layer::Relu, Layer::max_pool2d(2)];
        let tail = vec![Layer::Flatten, Layer::linear(12), Layer::Relu, Layer::linear(8), Layer::linear(3)];
        let lone = vec![Layer::Relu, Layer::Flatten, Layer::linear(3)];
        for (layers, expected) in [
            ([block(8), block(4), tail.clone()].concat(), vec![F16, F16, F16, F16, F32]),
            // A reference layer above the blocks, above one of two, and below one.
            ([block(8), block(4), lone.clone()].concat(), vec![F32; 4]),
            ([block(8), vec![Layer::Relu], block(4), tail.clone()].concat(), vec![F32, F32, F16, F16, F16, F32]),
            ([vec![Layer::max_pool2d(2)], block(4), tail].concat(), vec![F32, F16, F16, F16, F32]),
            // A head that reads a block, an output that is no multiple of four, and images that a linear layer reads.
            ([block(8), vec![Layer::Flatten, Layer::linear(3)]].concat(), vec![F32; 2]),
            (
                [block(8), vec![Layer::Flatten, Layer::linear(8), Layer::Relu, Layer::linear(65)]].concat(),
                vec![F16, F32, F32],
            ),
            (vec![Layer::Flatten, Layer::linear(8), Layer::Relu, Layer::linear(3)], vec![F32; 2]),
        ] {
            assert_eq!(stored([2, 16, 16], &layers), expected, "{layers:?}");
        }
    }
}
