//! Stages: one or more layers that run as one on a GPU, and how neighbours agree on what passes between them.
//!
//! A fused operation is a stage that takes the place of layers (its [`Pattern`] finds them); every other layer is a
//! stage of its own. Neighbours settle, from below, in which order and storage an output is given, and in which form
//! the stage above gives its gradient. What they do not agree on is in planes, in f32, with the plain gradient.

use std::fmt::Debug;
use std::sync::Arc;

use crate::Result;
use crate::layer::{Mode, Op, Saved};
use crate::ops::linear::Linear;
use crate::plan::tuning::Tuning;
use crate::plan::{Plan, Slice, Storage};

/// The order of an image's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Channel, row, column: PyTorch's.
    Planes,
    /// Row, column, channel.
    ChannelsLast,
    /// The data set's bytes, in planes, which the first layer gathers and normalises while it loads: [`super::gather`].
    Bytes,
}

/// Which of a stage's tensors have their channels last: what it reads, adds and gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelsLast {
    /// Its input.
    pub x: bool,
    /// What it adds.
    pub skip: bool,
    /// Its output.
    pub y: bool,
}

/// The form of an output's gradient, which the stage above gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// As the output lies in planes.
    Plain,
    /// With its channels last, of which each has so many positions.
    ChannelsLast(usize),
    /// 0 where the output is not above 0: the ReLU's backward pass has been done.
    Masked,
}

/// The data set, for a first stage that reads its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    /// Four a word, `[images, c_in, height, width]`.
    pub images: Slice,
    /// Indices of the epoch's images, in order.
    pub order: Slice,
    /// Each channel's scale and offset.
    pub normalisation: Slice,
}

/// What a stage takes of the buffers that all stages share, in elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Of the gradients, behind the parameters' own: partial sums that the optimizer adds.
    pub partials: usize,
    /// Of the packed weights.
    pub packed: usize,
    /// Of these too: as the backward pass reads them, if the gradient of the input is wanted.
    pub packed_back: usize,
}

/// Where a stage's shares begin; `None` where it takes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// In the gradients.
    pub partials: usize,
    /// In the packed weights.
    pub packed: usize,
    /// In these too.
    pub packed_back: Option<usize>,
}

/// Where a stage's passes find their buffers in a plan.
#[derive(Clone, Copy, Debug)]
pub struct StageAt<'a> {
    /// The stage's name, for the labels of its dispatches.
    pub name: &'a str,
    /// Images in a batch, at most.
    pub n: usize,
    /// What a forward pass is for.
    pub mode: Mode,
    /// Input, `[n, …]`.
    pub x: Slice,
    /// What is added, if one of its layers [adds](Op::adds).
    pub skip: Option<Slice>,
    /// Where the gradient of what is added goes, if it is wanted.
    pub dskip: Option<Slice>,
    /// The gradient that other readers of the input gave, where the stage [adds its own](Stage::adds_gradient).
    pub before: Option<Slice>,
    /// The data set, if the stage reads its bytes in place of `x`.
    pub bytes: Bytes,
    /// Output, `[n, …]`.
    pub y: Slice,
    /// The trained parameters of its layers, in order.
    pub params: &'a [Slice],
    /// The buffers of its layers, in order.
    pub buffers: &'a [Slice],
    /// The gradients of the trained parameters.
    pub grads: &'a [Slice],
    /// [`Stage::saved`], in order.
    pub saved: &'a [Slice],
    /// [`Shares::partials`] elements.
    pub partials: Slice,
    /// [`Shares::packed`] elements.
    pub packed: Slice,
    /// [`Shares::packed_back`] elements, if the gradient of the input is wanted.
    pub packed_back: Option<Slice>,
    /// The first layer's place in the network.
    pub layer: usize,
}

/// Parameters whose gradient comes in parts, which the optimizer adds in their order; and copies of these parameters,
/// which it keeps up to date. `Segment` in `shaders/common/segments.wgsl`. Offsets and lengths are elements, in fours.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Segment {
    /// The first parameter.
    pub first: u32,
    /// How many.
    pub len: u32,
    /// Where the first part is among the gradients.
    pub partials: u32,
    /// How many parts.
    pub splits: u32,
    /// From one part to the next.
    pub stride: u32,
    /// Input channels of the convolution whose weight this is; 0 where there are no copies.
    pub c_in: u32,
    /// Where the copy for forward is among the packed weights.
    pub packed: u32,
    /// Where the copy for backward is, or [`Segment::NONE`].
    pub packed_back: u32,
    /// Taps of the convolution's kernel.
    pub taps: u32,
    /// The shader's vectors have room for more.
    pub unused: [u32; 3],
}

impl Segment {
    /// In place of an offset: there is no such copy.
    pub const NONE: u32 = u32::MAX;

    /// The same, where the gradient has been added already and stands at the parameters' own place.
    pub fn whole(self) -> Self {
        Self { partials: self.first, splits: 1, stride: 0, ..self }
    }
}

/// Layers that run as one.
pub trait Stage: Debug + Send + Sync {
    /// How it reads its input.
    fn reads(&self) -> Layout {
        Layout::Planes
    }

    /// Whether it can give its output in this order.
    fn can_give(&self, layout: Layout) -> bool {
        layout == Layout::Planes
    }

    /// In what its output is stored.
    fn stored(&self) -> Storage {
        Storage::F32
    }

    /// Settles with the stage above, which reads this one's output, in which order it is given and in which form its
    /// gradient comes back.
    fn hand_over(&mut self, _above: &mut dyn Stage) {}

    /// Settles with the stage above whether its output is stored in halves: if both can.
    fn store_halves(&mut self, _above: &mut dyn Stage) {}

    /// Asks it to read halves, of an image or of features; whether it will.
    fn read_halves(&mut self, _image: bool) -> bool {
        false
    }

    /// Asks it to give the gradient of its input in this form; whether it will.
    fn give_gradient(&mut self, _form: Gradient) -> bool {
        false
    }

    /// The form in which it gives the gradient of its input.
    fn gives_gradient(&self) -> Gradient {
        Gradient::Plain
    }

    /// The form in which it takes the gradient of its output.
    fn takes_gradient(&self) -> Gradient {
        Gradient::Plain
    }

    /// Elements from one image's gradient of the output to the next's, where there are `len`.
    fn gradient_stride(&self, len: usize) -> usize {
        len
    }

    /// Which of its tensors it takes with their channels last, where all who use them do.
    fn channels_last(&self) -> ChannelsLast {
        ChannelsLast::default()
    }

    /// Tells it which of them are.
    fn settle(&mut self, _last: ChannelsLast) {}

    /// The form in which it gives the gradient of what it adds.
    fn skip_gradient(&self) -> Gradient {
        Gradient::Plain
    }

    /// Whether it adds the gradient of its input to what other readers gave ([`StageAt::before`]).
    fn adds_gradient(&self) -> bool {
        false
    }

    /// What its forward pass over a batch of `n` leaves for its backward pass.
    fn saved(&self, _n: usize) -> Vec<Saved> {
        vec![]
    }

    /// What it takes of the shared buffers for a batch of `n`.
    fn shares(&self, _n: usize) -> Shares {
        Shares::default()
    }

    /// What the optimizer does for its parameters, whose places these are, beside adding their gradient.
    fn segments(&self, _n: usize, _params: &[usize], _at: Places) -> Vec<Segment> {
        vec![]
    }

    /// Records what makes its copies of the parameters.
    ///
    /// # Errors
    /// As [`Plan::dispatch`].
    fn pack(&self, _plan: &mut Plan, _at: &StageAt) -> Result<()> {
        Ok(())
    }

    /// Records the forward pass.
    ///
    /// # Errors
    /// As [`Plan::dispatch`].
    fn forward(&self, plan: &mut Plan, at: &StageAt) -> Result<()>;

    /// Records, from the plain gradient `dy` of the output, the form that its backward pass takes, to `to`.
    ///
    /// # Errors
    /// As [`Plan::dispatch`].
    fn convert_gradient(&self, _plan: &mut Plan, _at: &StageAt, _dy: Slice, _to: Slice) -> Result<()> {
        Ok(())
    }

    /// Records, from `dy` in the form that it takes, the gradients of the parameters, and that of the input to `dx` if
    /// it is wanted.
    ///
    /// # Errors
    /// As [`Plan::dispatch`].
    fn backward(&self, plan: &mut Plan, at: &StageAt, dy: Slice, dx: Option<Slice>) -> Result<()>;

    /// The last fully connected layer of a network of few classes, which a loss may take along, and how its input is
    /// stored.
    fn head(&self) -> Option<(&Linear, Storage)> {
        None
    }
}

/// A place in a network at which a fused operation may begin.
#[derive(Debug)]
pub struct Site<'a> {
    /// The layer's operation and those above it that may run as one with it.
    pub ops: &'a [Arc<dyn Op>],
    /// The stage that gives its input, if it gives it to nobody else.
    pub below: Option<&'a dyn Stage>,
    /// Whether the gradient of the input is wanted.
    pub wants_dx: bool,
    /// The forms of the kernels.
    pub tuning: Tuning,
    /// How the network's batches come: a first stage may read [`Layout::Bytes`] where they come so.
    pub batch: Layout,
}

/// Finds a fused operation at a site: the stage, and how many layers it takes the place of.
pub type Pattern = fn(&Site) -> Option<(Box<dyn Stage>, usize)>;
