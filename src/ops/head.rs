//! The last linear layer, log-softmax, the smoothed loss and its gradient in one pass. Formulas: [`super::linear`],
//! [`crate::loss::smoothed`].

use super::AffineBuffers;
use super::linear::Linear;
use crate::Result;
use crate::plan::Storage;
use crate::plan::shaders::{HEAD, HEAD_F16};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// The most classes, as `MAX_CLASSES` in the shader.
const MAX_CLASSES: usize = 64;

/// Threads that own an image, as `LANES` in the shader.
const LANES: usize = 16;

/// A last layer and its loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    inputs: usize,
    classes: usize,
    /// In what `x` is stored; in halves, two features side by side in a word.
    pub x: Storage,
}

uniform! {
    /// `Head` in `shaders/head.wgsl`.
    struct Dims {
        inputs: u32,
        classes: u32,
        stride: u32,
    }
}

impl Head {
    /// Whether this kernel computes it: inputs in fours, a small number of classes.
    pub fn supports(dims: &Linear) -> bool {
        dims.inputs.is_multiple_of(4) && dims.outputs <= MAX_CLASSES
    }

    /// The head of a network that ends in `dims`, if [`Self::supports`] says so.
    pub fn new(dims: &Linear) -> Option<Self> {
        Self::supports(dims).then_some(Self { inputs: dims.inputs, classes: dims.outputs, x: Storage::F32 })
    }

    /// Elements from one row of `dlogits` to the next; zeros fill it up.
    pub fn stride(&self) -> usize {
        self.classes.next_multiple_of(4)
    }

    /// Records logits, losses and the logits' gradient for a batch of up to `n`; the upstream gradient is the step's
    /// `dloss`. `at.y` is not used. The classes are looked up in `labels`, `[images]`, through `order`, the images'
    /// indices.
    pub fn forward_backward(
        &self,
        plan: &mut Plan,
        name: &str,
        n: usize,
        at: &AffineBuffers,
        [logits, losses, dlogits]: [Slice; 3],
        [labels, order]: [Slice; 2],
    ) -> Result<()> {
        let dims = Dims { inputs: word(self.inputs), classes: word(self.classes), stride: word(self.stride()) };
        plan.dispatch(
            format!("{name}+loss.forward_backward"),
            match self.x {
                Storage::F32 => (&HEAD, "forward_backward"),
                Storage::F16 => (&HEAD_F16, "forward_backward"),
            },
            dims,
            Grid::Threads(n * LANES),
            2 * (n * self.classes * self.inputs) as u64,
            &[
                ("x", at.x),
                ("w", at.w),
                ("b", at.b),
                ("labels", labels),
                ("order", order),
                ("logits", logits),
                ("losses", losses),
                ("dlogits", dlogits),
            ],
        )
    }
}
