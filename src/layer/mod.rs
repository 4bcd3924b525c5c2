//! What a layer is: the contract between an operation and everything that uses it.
//!
//! A layer is written in two steps. Its author gives settings ([`Fit`]), which are fitted to what reaches the layer;
//! the result ([`Op`]) knows its shapes and parameters, and has each pass twice:
//!
//! - recorded into a plan for the GPU ([`Op::record_forward`], [`Op::record_backward`]), on a WGSL shader of its own;
//! - as plain Rust for the CPU ([`Twin`]), in `f32` and `f64` from one source. In `f64` it is what the shader is tested
//!   against; it may offer a faster form for the CPU path beside it ([`Twin::fast`]).
//!
//! [`crate::ops`] holds the layers that this crate brings. One of your own needs no change to the crate:
//! [`crate::docs::own_layer`] shows one whole.

mod aligned;
mod exported;
mod init;
mod layout;
mod scratch;

pub use aligned::Aligned;
pub use exported::{Exported, OnnxInput, OnnxOperator, OnnxValue};
pub use init::{First, Init};
pub use layout::ImageLayout;
pub use scratch::{MAX_CHUNKS, NodeBytes, PerThread, Scratch, chunk_len, grow};

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use pulp::Arch;

use crate::Result;
use crate::plan::{Plan, Slice};
use crate::real::{Real, machine_lanes};
use crate::rng::Philox;

/// What flows between layers, for one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Channels, height, width.
    Image([usize; 3]),
    /// A flat vector.
    Features(usize),
}

impl Shape {
    /// How many numbers.
    pub fn len(&self) -> usize {
        match self {
            Self::Image(dims) => dims.iter().product(),
            Self::Features(n) => *n,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Channels, height and width.
    ///
    /// # Errors
    /// [`Misfit`] for a flat vector.
    pub fn image(&self) -> Result<[usize; 3], Misfit> {
        match self {
            Self::Image(dims) => Ok(*dims),
            Self::Features(n) => Err(Misfit {
                got: format!("a flat vector of {n}"),
                needs: "an image (channels x height x width)".into(),
            }),
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Image([c, h, w]) => write!(f, "{c}x{h}x{w}"),
            Self::Features(n) => write!(f, "{n}"),
        }
    }
}

/// Why a layer does not fit what reaches it: what it got, and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// What reached the layer.
    pub got: String,
    /// What it needs.
    pub needs: String,
}

impl Misfit {
    /// Refuses a number that was declared and is not what was found.
    ///
    /// # Errors
    /// Itself.
    pub fn check(what: &str, declared: Option<usize>, found: usize, from: Shape) -> Result<(), Self> {
        match declared {
            Some(declared) if declared != found => {
                Err(Self { got: format!("{found} {what} (from {from})"), needs: format!("{declared}, as declared") })
            }
            _ => Ok(()),
        }
    }
}

/// Whether a network learns or answers. Dropout drops in training alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward passes before a backward pass.
    Training,
    /// Forward passes alone.
    Inference,
}

/// What a parameter is to an optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Trained. PyTorch's optimizers decay every parameter that they are given, biases too, and so is it here.
    Trained,
    /// Trained, and no weight decay reaches it.
    Undecayed,
    /// Not trained: what forward passes in training leave for inference, as running statistics.
    Buffer,
}

/// A parameter tensor of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// PyTorch's name within the layer: `weight`, `bias`, …
    pub name: &'static str,
    /// Row-major.
    pub shape: Vec<usize>,
    /// Its first values.
    pub first: First,
    /// What it is to an optimizer.
    pub role: Role,
}

impl Parameter {
    /// A weight and its bias, one for each output: `shape[0]` of them, each fed by all other places of the shape.
    pub fn weight_and_bias(shape: Vec<usize>, init: Init) -> Vec<Self> {
        let outputs = shape[0];
        let elements = |sizes: &[usize]| sizes.iter().product::<usize>();
        let first = match init {
            Init::Default => [First::FanIn(elements(&shape[1..])); 2],
            // As PyTorch counts, also of a convolution in groups: all output channels at every place of the kernel.
            Init::Kaiming => [First::Kaiming(outputs * elements(&shape[2..])), First::Constant(0.0)],
        };
        let parameter = |name, shape, first| Self { name, shape, first, role: Role::Trained };
        vec![parameter("weight", shape, first[0]), parameter("bias", vec![outputs], first[1])]
    }
}

/// What a forward pass leaves for its backward pass, beside input and output, in a buffer of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// For the printed plan: `argmax`.
    pub name: &'static str,
    /// Words.
    pub len: usize,
    /// Whether they are numbers; else they are whole numbers that must be exact.
    pub numbers: bool,
}

/// Where a pass of a layer finds its buffers in a plan.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// The layer's name, for the labels of its dispatches.
    pub name: &'a str,
    /// Images in a batch, at most; the step says how many there are.
    pub n: usize,
    /// What the pass is for.
    pub mode: Mode,
    /// Input, `[n, …]`.
    pub x: Slice,
    /// What an operation that [adds](Op::adds) adds.
    pub skip: Option<Slice>,
    /// Output, `[n, …]`.
    pub y: Slice,
    /// The parameters, in the order of [`Op::parameters`].
    pub params: &'a [Slice],
    /// Their gradients; none in inference, and none that means anything for a buffer.
    pub grads: &'a [Slice],
    /// [`Op::saved`].
    pub saved: Option<Slice>,
    /// The layer's place in its network: what tells its random numbers from those of others.
    pub layer: usize,
}

/// How large the rounding errors of a pass may be.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rounding {
    /// Products that an element of the output, of the input's gradient and of the parameters' gradients sums; 0 where
    /// it is copied, and exact. Not more than this is said of passes that sum products.
    pub terms: [usize; 3],
    /// For a pass that does more: units in the last place of the result.
    pub ulps: f64,
}

/// Which inputs show an operation's mistakes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inputs {
    /// Any numbers around 0.
    #[default]
    Any,
    /// Numbers with zeros of both signs among them, at which the operation has a kink.
    Zeros,
    /// Few different numbers, so that many are equal.
    Ties,
}

/// A layer as its author writes it: settings that are fitted to what reaches the layer.
pub trait Fit: Debug + Send + Sync + 'static {
    /// What layers of the kind are called, with a count behind: `conv`.
    fn kind(&self) -> &'static str;

    /// The operation for this input.
    ///
    /// # Errors
    /// [`Misfit`]: what reached the layer, and what it needs.
    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit>;

    /// The layers of a residual block, whose operation is the addition at its end.
    fn branches(&self) -> Option<Branches<'_>> {
        None
    }
}

/// What a residual block adds: two stacks of layers over the same input.
#[derive(Clone, Copy, Debug)]
pub struct Branches<'a> {
    /// At least one layer.
    pub branch: &'a [Layer],
    /// None where the input itself is added.
    pub shortcut: &'a [Layer],
}

/// Any layer's settings.
#[derive(Clone, Debug)]
pub struct Layer(Arc<dyn Fit>);

impl Layer {
    /// A layer with these settings.
    pub fn new(settings: impl Fit) -> Self {
        Self(Arc::new(settings))
    }

    /// As [`Fit::kind`].
    pub fn kind(&self) -> &'static str {
        self.0.kind()
    }

    /// As [`Fit::fit`].
    ///
    /// # Errors
    /// As [`Fit::fit`].
    pub fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        self.0.fit(input)
    }

    /// As [`Fit::branches`].
    pub fn branches(&self) -> Option<Branches<'_>> {
        self.0.branches()
    }
}

/// An operation, fitted to its input.
pub trait Op: Twin<f32> + Twin<f64> + Any + Debug + Send + Sync {
    /// The shape of an image's input.
    fn input(&self) -> Shape;

    /// The shape of an image's output.
    fn output(&self) -> Shape;

    /// The parameters.
    fn parameters(&self) -> Vec<Parameter> {
        vec![]
    }

    /// What the forward pass over a batch of `n` leaves for the backward pass.
    fn saved(&self, _n: usize) -> Option<Saved> {
        None
    }

    /// Whether the output is the input under another shape. Nothing is recorded then.
    fn is_view(&self) -> bool {
        false
    }

    /// Whether it adds a second input, of its output's shape. That input's gradient is the output's.
    fn adds(&self) -> bool {
        false
    }

    /// Floating-point operations of a forward pass over one image (two for each multiply-add of its products).
    fn flops(&self) -> u64 {
        0
    }

    /// The smallest batch that it learns from.
    fn least_batch(&self) -> usize {
        1
    }

    /// How exact the passes are over a batch of `n`.
    fn rounding(&self, n: usize) -> Rounding;

    /// As [`Twin::forward`], with the size of the terms that each result adds in its place. False where the plain form
    /// over absolute values gives it.
    fn forward_terms(&self, _pass: Forward<f64>) -> bool {
        false
    }

    /// As [`Twin::backward`], likewise.
    fn backward_terms(&self, _pass: Backward<f64>) -> bool {
        false
    }

    /// Which inputs it is tested with.
    fn inputs(&self) -> Inputs {
        Inputs::Any
    }

    /// How other programs write it, for `smoothcnn export`; none where they have no such operation.
    fn exported(&self) -> Option<Exported> {
        None
    }

    /// Records the forward pass.
    ///
    /// # Errors
    /// As [`Plan::dispatch`].
    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()>;

    /// Records, from the output's gradient `dy`, the parameters' gradients, and the input's to `dx` if it is wanted.
    ///
    /// # Errors
    /// As [`Plan::dispatch`].
    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()>;
}

impl dyn Op {
    /// The operation as a `T`, if it is one: what fused kernels look for.
    pub fn is<T: Op>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }

    /// Its passes in `T`.
    pub fn twin<T: Element>(&self) -> &dyn Twin<T> {
        T::twin(self)
    }

    /// Whether an optimizer changes something in it.
    pub fn is_trained(&self) -> bool {
        self.parameters().iter().any(|parameter| parameter.role != Role::Buffer)
    }
}

/// `f32` or `f64`, as the passes of any operation are had in them.
pub trait Element: Real {
    /// The passes in this precision.
    fn twin(op: &dyn Op) -> &dyn Twin<Self>;
}

impl Element for f32 {
    fn twin(op: &dyn Op) -> &dyn Twin<Self> {
        op
    }
}

impl Element for f64 {
    fn twin(op: &dyn Op) -> &dyn Twin<Self> {
        op
    }
}

/// What a forward pass on the CPU leaves for its backward pass: [`Op::saved`], as whole numbers or as numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept<T> {
    /// Whole numbers.
    pub words: Vec<u32>,
    /// Numbers.
    pub numbers: Vec<T>,
}

impl<T: Real> Kept<T> {
    /// Makes room for a batch of `n`.
    pub fn fit(&mut self, op: &dyn Op, n: usize) {
        let len = |numbers| op.saved(n).filter(|saved| saved.numbers == numbers).map_or(0, |saved| saved.len);
        self.words.resize(len(false), 0);
        self.numbers.resize(len(true), T::zero());
    }
}

/// The random numbers of one pass of one layer: a pure function of the run's seed, the update and the layer, the same
/// on every device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Random {
    /// The run's seed.
    pub seed: u64,
    /// The update that the pass is part of, from 1.
    pub step: u64,
    /// The layer's place in its network.
    pub layer: usize,
    /// Images of the update that came in batches before this one: its elements are counted behind theirs, where one
    /// update has several.
    pub before: usize,
}

impl Random {
    /// 32 random bits of element `i`.
    pub fn word(&self, i: usize) -> u32 {
        Philox::of_layer(self.seed, self.step, self.layer, i)
    }
}

/// A forward pass on the CPU.
#[derive(Debug)]
pub struct Forward<'a, 'b, T> {
    /// Images.
    pub n: usize,
    /// What it is for.
    pub mode: Mode,
    /// Input, `[n, …]`.
    pub x: &'a [T],
    /// What an operation that [adds](Op::adds) adds; empty for others.
    pub skip: &'a [T],
    /// The trained parameters, in the order of [`Op::parameters`].
    pub params: &'a [&'a [T]],
    /// The parameters that are buffers, in their order. Training may change them.
    pub buffers: &'a mut [&'b mut [T]],
    /// Output, `[n, …]`: every element is to be written.
    pub y: &'a mut [T],
    /// What the backward pass will need. It has room for [`Op::saved`].
    pub kept: &'a mut Kept<T>,
    /// Random numbers.
    pub random: Random,
}

/// A backward pass on the CPU.
#[derive(Debug)]
pub struct Backward<'a, 'b, T> {
    /// Images.
    pub n: usize,
    /// Input of the forward pass.
    pub x: &'a [T],
    /// Its output.
    pub y: &'a [T],
    /// The trained parameters.
    pub params: &'a [&'a [T]],
    /// What the forward pass kept.
    pub kept: &'a Kept<T>,
    /// The output's gradient.
    pub dy: &'a [T],
    /// The input's gradient, if it is wanted: every element is to be written.
    pub dx: Option<&'a mut [T]>,
    /// The trained parameters' gradients, summed over the batch: every element is to be written.
    pub grads: &'a mut [&'b mut [T]],
    /// As in the forward pass.
    pub random: Random,
}

/// An operation's passes on the CPU in `T`, in their plain form: loops that read as the formula. They are what the
/// shader and every fast form are tested against, and so they share nothing with them.
pub trait Twin<T: Real> {
    /// `x` to `y`.
    fn forward(&self, pass: Forward<T>);

    /// `dy` to the gradients.
    fn backward(&self, pass: Backward<T>);

    /// The operation as the fast CPU path computes it, with how many of the `following` layers it takes along. Without
    /// one the path runs the plain form.
    fn fast(&self, _following: &Following) -> Option<(Box<dyn Node<T>>, usize)> {
        None
    }
}

/// What stands above an operation in its network.
#[derive(Debug)]
pub struct Following<'a> {
    /// The operations after it, in order.
    pub ops: &'a [Arc<dyn Op>],
    /// Whether the gradient of its input is wanted.
    pub wants_dx: bool,
    /// This machine's instruction set.
    pub arch: Arch,
}

impl Following<'_> {
    /// Values in a vector of this machine.
    pub fn lanes<T: Real>(&self) -> usize {
        machine_lanes::<T>(self.arch)
    }
}

/// What a node's passes have in common.
#[derive(Debug)]
pub struct NodeBatch<'a, T> {
    /// Images.
    pub n: usize,
    /// This machine's instruction set.
    pub arch: Arch,
    /// How each image of `x` lies.
    pub from: ImageLayout,
    /// How each image of `y` lies.
    pub to: ImageLayout,
    /// The input, `n` times `from.len`.
    pub x: &'a [T],
    /// What is added, and how each image of it lies, where one of the layers [adds](Op::adds).
    pub skip: Option<(&'a [T], ImageLayout)>,
    /// The trained parameters of all layers that the node computes, in order.
    pub params: &'a [&'a [T]],
    /// Random numbers of the first of these layers.
    pub random: Random,
    /// What nodes share.
    pub scratch: &'a mut Scratch,
}

/// What a node's backward pass gives: every element is to be written.
#[derive(Debug)]
pub struct NodeGradients<'a, 'b, T> {
    /// Of the input, if it is wanted.
    pub dx: Option<&'a mut [T]>,
    /// Whether `dx` holds what other readers gave, to be added to: only for a node that [adds](Node::adds_gradient).
    pub adds: bool,
    /// Of what is added, if there is something and its gradient is wanted.
    pub dskip: Option<&'a mut [T]>,
    /// Of the trained parameters of all layers that the node computes, summed over the batch.
    pub params: &'a mut [&'b mut [T]],
}

/// One or more layers, as the fast path computes them.
pub trait Node<T: Real>: Send + Sync {
    /// How it takes its input; `None` for planes, channel after channel.
    fn reads(&self) -> Option<ImageLayout> {
        None
    }

    /// Asks it to take its input so, because another reader does; whether it will.
    fn takes(&mut self, _layout: &ImageLayout) -> bool {
        false
    }

    /// How it would like its input; it takes any layout all the same.
    fn prefers(&self) -> Option<ImageLayout> {
        None
    }

    /// How it would like what is added, likewise.
    fn prefers_added(&self) -> Option<ImageLayout> {
        None
    }

    /// Asks it to give its output so; whether it will. Else it is in planes.
    fn give(&mut self, _layout: &ImageLayout) -> bool {
        false
    }

    /// Makes what passes of this mode need of parameters and buffers that have changed.
    fn pack(&mut self, _params: &[&[T]], _buffers: &[&[T]], _mode: Mode) {}

    /// Whether it is best given a whole batch to answer. Others are given some images at a time, while they are in
    /// cache.
    fn wants_batch(&self) -> bool {
        false
    }

    /// The batch to `y`.
    fn forward(&mut self, batch: NodeBatch<T>, mode: Mode, buffers: &mut [&mut [T]], y: &mut [T]);

    /// Whether it can add the input's gradient to that of other readers.
    fn adds_gradient(&self) -> bool {
        false
    }

    /// From the output `y` and its gradient `dy` to other gradients.
    fn backward(&self, batch: NodeBatch<T>, y: &[T], dy: &[T], to: NodeGradients<T>);

    /// What it takes.
    fn bytes(&self) -> NodeBytes {
        NodeBytes::default()
    }
}
