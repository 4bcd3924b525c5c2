//! Where the gradients of what flows between the nodes lie.
//!
//! A tensor's gradient is wanted from when its first reader gives it until the node that gave the tensor has read it.
//! Then its place serves others: a deep network has a few such places, whatever its depth.

use super::nodes::NodeStage;
use crate::layer::ImageLayout;
use crate::real::Real;

/// Where one reader's part of a gradient is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GradientPart {
    /// The place that the node is given.
    pub place: usize,
    /// Whether other readers' parts are there already, and the node adds its own.
    pub adds: bool,
    /// Where the others' are, if the node can not add: it is added there afterwards.
    pub then: Option<usize>,
}

/// What a node's backward pass reads and writes, as indices of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GradientStep {
    /// The output's gradient; none for the logits', which have no place here.
    pub dy: Option<usize>,
    /// The input's.
    pub dx: Option<GradientPart>,
    /// Of what is added.
    pub dskip: Option<GradientPart>,
}

/// The backward pass of each node, and how large the places are.
#[derive(Clone, Debug, Default)]
pub struct GradientPlaces {
    /// For each node; none where nothing is computed.
    pub steps: Vec<Option<GradientStep>>,
    /// Numbers of an image.
    pub places: Vec<usize>,
}

impl GradientPlaces {
    /// Of the nodes between tensors of these layouts, the last one being the logits. Nothing is computed below layer
    /// `first`, the first one with parameters.
    pub fn new<T: Real>(nodes: &[NodeStage<T>], layouts: &[ImageLayout], first: usize) -> Self {
        let mut all = Places { lens: vec![], free: vec![] };
        let mut of: Vec<Option<usize>> = vec![None; layouts.len()];
        let mut steps = vec![None; nodes.len()];
        for (stage, step) in nodes.iter().zip(&mut steps).rev().filter(|(stage, _)| stage.layers.end > first) {
            let dy = of[stage.to].take();
            let mut part = |tensor: usize, adds: bool| {
                let len = layouts[tensor].len;
                match of[tensor] {
                    None => {
                        let place = *of[tensor].insert(all.take(len));
                        GradientPart { place, adds: false, then: None }
                    }
                    Some(place) if adds => GradientPart { place, adds: true, then: None },
                    then => GradientPart { place: all.take(len), adds: false, then },
                }
            };
            let dx = stage.wants_dx.then(|| part(stage.from, stage.node.adds_gradient()));
            let dskip = stage.skip.filter(|_| stage.wants_dskip).map(|skip| part(skip, false));
            let parts = dx.into_iter().chain(dskip);
            parts.filter(|part| part.then.is_some()).for_each(|part| all.free.push(part.place));
            all.free.extend(dy);
            *step = Some(GradientStep { dy, dx, dskip });
        }
        Self { steps, places: all.lens }
    }
}

struct Places {
    lens: Vec<usize>,
    free: Vec<usize>,
}

impl Places {
    /// One of at least this size: the smallest that is free and large enough, or else the largest, which grows.
    fn take(&mut self, len: usize) -> usize {
        let best = (0..self.free.len()).min_by_key(|&at| {
            let have = self.lens[self.free[at]];
            if have >= len { (0, have) } else { (1, usize::MAX - have) }
        });
        let place = match best {
            Some(at) => self.free.swap_remove(at),
            None => {
                self.lens.push(0);
                self.lens.len() - 1
            }
        };
        self.lens[place] = self.lens[place].max(len);
        place
    }
}
