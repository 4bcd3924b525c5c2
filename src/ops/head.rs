//! The last linear layer, log-softmax, the smoothed loss and its gradient in one pass. Formulas: [`super::linear`],
//! [`super::smoothed_loss`].

use super::AffineBuffers;
use super::linear::Linear;
use super::smoothed_loss::{self, SmoothedLoss};
use crate::Result;
use crate::plan::{Grid, Plan, Slice, uniform, word};
use crate::shaders::HEAD;
use crate::smoothing::Masses;

/// The most classes, as `MAX_CLASSES` in the shader.
const MAX_CLASSES: usize = 64;

/// Threads that own an image, as `LANES` in the shader.
const LANES: usize = 16;

/// A last layer and its loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    inputs: usize,
    loss: SmoothedLoss,
}

uniform! {
    /// `Head` in `shaders/head.wgsl`.
    struct Dims {
        inputs: u32,
        classes: u32,
        stride: u32,
        on: f32,
        off: f32,
        on_minus_off: f32,
    }
}

impl Head {
    /// Whether this kernel computes it: inputs in fours, a small number of classes.
    pub fn supports(dims: &Linear) -> bool {
        dims.inputs.is_multiple_of(4) && dims.outputs <= MAX_CLASSES
    }

    /// The head of a network that ends in `dims`, if [`Self::supports`] says so.
    pub fn new(dims: &Linear, masses: Masses) -> Option<Self> {
        let loss = SmoothedLoss { classes: dims.outputs, masses };
        Self::supports(dims).then_some(Self { inputs: dims.inputs, loss })
    }

    /// Elements from one row of `dlogits` to the next; zeros fill it up.
    pub fn stride(&self) -> usize {
        self.loss.classes.next_multiple_of(4)
    }

    /// Records logits, losses and the logits' gradient for a batch of up to `n`; the upstream gradient is the step's
    /// `dloss`. `at.y` is not used: the logits go to `loss.logits`. Nor is `loss.targets`: the classes are looked up in
    /// `labels`, `[images]`, through `order`, the images' indices.
    pub fn forward_backward(
        &self,
        plan: &mut Plan,
        name: &str,
        n: usize,
        at: &AffineBuffers,
        loss: &smoothed_loss::Buffers,
        [labels, order]: [Slice; 2],
    ) -> Result<()> {
        let SmoothedLoss { classes, masses: Masses { on, off } } = self.loss;
        let dims = Dims {
            inputs: word(self.inputs),
            classes: word(classes),
            stride: word(self.stride()),
            on: on as f32,
            off: off as f32,
            on_minus_off: (on - off) as f32,
        };
        plan.dispatch(
            format!("{name}+loss.forward_backward"),
            (&HEAD, "forward_backward"),
            dims,
            Grid::Threads(n * LANES),
            2 * (n * classes * self.inputs) as u64,
            &[
                ("x", at.x),
                ("w", at.w),
                ("b", at.b),
                ("labels", labels),
                ("order", order),
                ("logits", loss.logits),
                ("losses", loss.losses),
                ("dlogits", loss.dlogits),
            ],
        )
    }
}
