//! The network compiler: from layers to the plan of a training step and of inference.
//!
//! A training step is: gather the batch (unless its first stage reads the data set's bytes itself), every stage ([`crate::compile::fuse`]) forward, the loss with its gradient, every stage
//! backward, the optimizer. Inference is the gather and the forward passes, over the same buffers. Kernels that read a weight
//! in another order have a copy of it, which the optimizer keeps up to date and which is made once when weights are loaded.

pub mod fuse;

use std::ops::Range;

use crate::compile::fuse::{Kernels, Kind, Stage, stages};
use crate::loss::{self, Form, Loss, Pass};
use crate::network::{Affine, Network, Op, PARAMETER_ALIGNMENT, Parameter};
use crate::ops::conv2d_pool::{self, Input, Layout, Places};
use crate::ops::head::Head;
use crate::ops::seal::{self, Extent};
use crate::ops::{AffineBuffers, gather, relu};
use crate::optimizer::{Buffers, Optimizer, SLOT_WORDS, Segment};
use crate::plan::Storage;
use crate::plan::tuning::Tuning;
use crate::plan::{Plan, Slice};
use crate::{Error, Result};

/// What a training job needs of a device.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The network.
    pub net: &'a Network,
    /// Images in a batch.
    pub batch_size: usize,
    /// The loss. What changes from step to step is in the step.
    pub loss: &'a Loss,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Images of the training set that are on the device at once.
    pub train_images: usize,
    /// Images of the test set that are on the device at once.
    pub test_images: usize,
    /// Steps whose losses are kept on the device until they are read back.
    pub loss_slots: usize,
    /// Which kernels.
    pub kernels: Kernels,
    /// In which form.
    pub tuning: Tuning,
    /// In what activations are stored, where fused kernels hand them to each other.
    pub activations: Storage,
}

/// One data set's buffers.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// Bytes, four a word.
    pub images: Slice,
    /// Class indices.
    pub labels: Slice,
    /// Indices into both, in the order of the steps.
    pub order: Slice,
}

/// A compiled network.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Every buffer and dispatch.
    pub plan: Plan,
    /// The dispatches of a training step.
    pub train: Range<usize>,
    /// The dispatches of inference on the test set. The last one seals the logits.
    pub infer: Range<usize>,
    /// The dispatches that seal the state: parameters and the optimizer's memory.
    pub seal_state: Range<usize>,
    /// The dispatches to run once after parameters were written: they make the copies of weights.
    pub load: Range<usize>,
    /// The training set.
    pub train_data: Data,
    /// The test set.
    pub test_data: Data,
    /// Each channel's scale and offset: [`gather::affine`].
    pub normalisation: Slice,
    /// What the loss has for each training image on the device, `[images, classes]`.
    pub loss_rows: Option<Slice>,
    /// `[batch, classes]`.
    pub logits: Slice,
    /// The logits' seal ([`seal`]).
    pub logits_seal: Slice,
    /// The seals of parameters, first and second moment.
    pub state_seals: [Slice; 3],
    /// A [`Slot`](crate::optimizer::Slot) for each step of a submission.
    pub step_losses: Slice,
    /// All parameters, and the optimizer's memory.
    pub flat: Buffers,
    /// The gradient of all parameters, after a step.
    pub gradient: Slice,
}

/// The largest batch size below `batch_size` for which `fits` holds, if there is one. Cost grows with the batch, so
/// bisection finds it.
pub fn largest_batch(batch_size: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut good, mut bad) = (0, batch_size);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle) { good = middle } else { bad = middle }
    }
    (good > 0).then_some(good)
}

/// Compiles a job. Nothing is allocated.
///
/// # Errors
/// [`Error::OverLimit`] if a buffer would have more elements than 32 bits count, [`Error::Usage`] for a batch of 0.
pub fn compile(job: &Job) -> Result<Compiled> {
    let Job { net, batch_size: n, .. } = *job;
    if n == 0 {
        return Err(Error::Usage("--batch-size: found 0, expected at least 1".into()));
    }
    // Every buffer of a batch is a small multiple of this: what does not wrap here is checked against 32 bits below.
    let widest =
        net.layers.iter().map(|layer| layer.output.len()).chain([net.input.iter().product()]).max().unwrap_or(0);
    if n.checked_mul(widest).is_none_or(|len| len > usize::MAX >> 16) {
        return Err(Error::OverLimit(format!(
            "buffer of {n} images of {widest} elements each: expected fewer than 2^32"
        )));
    }
    let mut plan = Plan::default();
    let pixels: usize = net.input.iter().product();
    let data = |plan: &mut Plan, name: &str, images: usize| -> Result<Data> {
        Ok(Data {
            images: plan.buffer(format!("{name}.images"), images.saturating_mul(pixels).div_ceil(4))?,
            labels: plan.buffer(format!("{name}.labels"), images)?,
            order: plan.buffer(format!("{name}.order"), images)?,
        })
    };
    let train_data = data(&mut plan, "train", job.train_images)?;
    let test_data = data(&mut plan, "test", job.test_images)?;
    let normalisation = plan.buffer("normalisation", net.input[0].saturating_mul(2))?;
    let losses = plan.buffer("batch.losses", n.saturating_mul(2))?;
    let step_losses = plan.buffer("step_losses", job.loss_slots.saturating_mul(SLOT_WORDS))?;

    let flat_len = net.flat_len();
    let stages = stages(net, job.kernels, job.tuning, job.activations);
    let reads_bytes = stages.first().is_some_and(|stage| match &stage.kind {
        Kind::Block(block, _) => block.x == Layout::Bytes,
        _ => false,
    });
    let looks_up_labels =
        matches!((stages.last(), job.loss.form()), (Some(Stage { kind: Kind::Head(..), .. }), Form::Smoothed(_)));
    let x = plan.buffer("batch.images", if reads_bytes { 0 } else { n.saturating_mul(pixels) })?;
    let targets = plan.buffer("batch.labels", n)?;
    let (places, [grads_len, packed_len]) = places(net, &stages, n);
    // The optimizer binds vectors of four, at least one, even if there is nothing to train.
    let mut flat_buffer = |name: &str, len: usize| plan.buffer(name, len.max(4));
    let flat = Buffers {
        params: flat_buffer("params", flat_len)?,
        grads: flat_buffer("grads", grads_len)?,
        first: flat_buffer("optimizer.first", flat_len)?,
        second: flat_buffer("optimizer.second", flat_len)?,
        packed: plan.buffer("packed", packed_len)?,
        losses,
        step_losses,
    };
    let extra = vec![None; stages.len()];
    let mut recorder =
        Recorder { net, n, flat, stages: &stages, places, tensors: vec![x], extra, data: train_data, normalisation };
    recorder.allocate(&mut plan)?;
    let logits = recorder.tensors[stages.len()];
    let gather = |plan: &mut Plan, name: &str, data: &Data| {
        let Data { images, labels, order } = *data;
        gather::gather(plan, name, n, net.input, &gather::Buffers { images, labels, order, normalisation, x, targets })
    };

    let Data { labels, order, .. } = train_data;
    if !reads_bytes {
        gather(&mut plan, "train", &train_data)?;
    } else if !looks_up_labels {
        gather::labels(&mut plan, "train", n, labels, order, targets)?;
    }
    let dlogits = plan.buffer("logits.grad", n.saturating_mul(net.classes.next_multiple_of(4)))?;
    let rows = |plan: &mut Plan| plan.buffer("train.loss_rows", job.train_images.saturating_mul(net.classes));
    let loss_rows = job.loss.rows().map(|_| rows(&mut plan)).transpose()?;
    match (stages.last(), job.loss.form()) {
        (Some(Stage { kind: Kind::Head(tiled, at), layers, name }), Form::Smoothed(_)) => {
            recorder.forward(&mut plan, stages.len() - 1)?;
            let Op::Linear(dims, _) = &net.layers[layers.start].op else { unreachable!("a head is a linear layer") };
            let mut head = Head::new(dims).expect("only what the kernel supports becomes a head");
            head.x = tiled.x;
            let at = recorder.affine(stages.len() - 1, at);
            head.forward_backward(&mut plan, name, n, &at, [logits, losses, dlogits], [labels, order])?;
        }
        (last, form) => {
            recorder.forward(&mut plan, stages.len())?;
            let stride = match last {
                Some(Stage { kind: Kind::Head(layer, _), .. }) => layer.dy_stride(),
                _ => net.classes,
            };
            let order = train_data.order;
            let at = loss::Buffers { logits, targets, rows: loss_rows, order, losses, dlogits, stride };
            form.record(&mut plan, Pass::ForwardBackward, n, net.classes, &at)?;
        }
    }
    recorder.backward(&mut plan, dlogits)?;
    job.optimizer.record(&mut plan, flat_len, &recorder.segments(), &flat)?;
    let train = 0..plan.dispatches.len();

    if !reads_bytes {
        gather(&mut plan, "test", &test_data)?;
    }
    recorder.data = test_data;
    recorder.forward(&mut plan, stages.len())?;
    let extent = Extent::Rows(net.classes, n);
    let logits_seal = plan.buffer("logits.seal", extent.seal_len())?;
    seal::close(&mut plan, "logits", extent, logits, logits_seal)?;
    let infer = train.end..plan.dispatches.len();
    recorder.pack(&mut plan)?;
    let load = infer.end..plan.dispatches.len();
    let mut seal = |name: &str, words: Slice| {
        let extent = Extent::Words(words.bytes as usize / 4);
        let at = plan.buffer(format!("{name}.seal"), extent.seal_len())?;
        seal::close(&mut plan, name, extent, words, at).map(|()| at)
    };
    let state_seals =
        [seal("params", flat.params)?, seal("optimizer.first", flat.first)?, seal("optimizer.second", flat.second)?];
    let seal_state = load.end..plan.dispatches.len();

    Ok(Compiled {
        plan,
        train,
        infer,
        seal_state,
        load,
        train_data,
        test_data,
        normalisation,
        loss_rows,
        logits,
        logits_seal,
        state_seals,
        step_losses,
        flat,
        gradient: flat.grads.part(0, flat_len),
    })
}

/// Where each block's shares of `grads` (behind the parameters' gradient) and of `packed` are, and how long the two are.
fn places(net: &Network, stages: &[Stage], n: usize) -> (Vec<Option<Places>>, [usize; 2]) {
    let take = |total: &mut usize, len: usize| {
        let at = *total;
        *total = (at + len).next_multiple_of(PARAMETER_ALIGNMENT);
        at
    };
    let (mut grads, mut packed) = (net.flat_len(), 0);
    let places = stages
        .iter()
        .map(|stage| match &stage.kind {
            Kind::Block(block, at) => Some(Places {
                weight: net.parameters[at.weight].offset,
                bias: net.parameters[at.bias].offset,
                partials: take(&mut grads, block.partials_len(n)),
                packed: take(&mut packed, block.packed_len()),
                packed_back: (stage.layers.start > net.first_trained())
                    .then(|| take(&mut packed, block.packed_back_len())),
            }),
            _ => None,
        })
        .collect();
    (places, [grads, packed])
}

/// Records a network's passes, stage by stage.
struct Recorder<'a> {
    net: &'a Network,
    n: usize,
    flat: Buffers,
    stages: &'a [Stage],
    /// Of the stages that are blocks.
    places: Vec<Option<Places>>,
    /// What each stage reads, and last the logits.
    tensors: Vec<Slice>,
    /// What a stage's forward pass leaves to its backward pass.
    extra: Vec<Option<Extra>>,
    /// What a first stage reads that gathers its own input.
    data: Data,
    normalisation: Slice,
}

#[derive(Clone, Copy)]
enum Extra {
    Argmax(Slice),
    Codes(Slice),
}

impl Recorder<'_> {
    /// Allocates what every stage gives. Flatten only renames.
    fn allocate(&mut self, plan: &mut Plan) -> Result<()> {
        for (i, stage) in self.stages.iter().enumerate() {
            let last = &self.net.layers[stage.layers.end - 1];
            let len = self.n.saturating_mul(last.output.len());
            let output = match last.op {
                Op::Flatten => self.tensors[i],
                _ => plan.buffer(format!("{}.out", stage.name), len.div_ceil(stage.kind.stored().per_word()))?,
            };
            self.extra[i] = match (stage.kind, last.op) {
                (Kind::Layer, Op::MaxPool2d(_)) => {
                    Some(Extra::Argmax(plan.buffer(format!("{}.argmax", stage.name), len)?))
                }
                (Kind::Block(block, _), _) => Some(Extra::Codes(
                    plan.buffer(format!("{}.codes", stage.name), self.n.saturating_mul(block.codes_len()))?,
                )),
                _ => None,
            };
            self.tensors.push(output);
        }
        Ok(())
    }

    fn affine(&self, stage: usize, at: &Affine) -> AffineBuffers {
        let (weight, bias) = (&self.net.parameters[at.weight], &self.net.parameters[at.bias]);
        let part = |whole: Slice, parameter: &Parameter| whole.part(parameter.offset, parameter.len());
        AffineBuffers {
            x: self.tensors[stage],
            w: part(self.flat.params, weight),
            b: part(self.flat.params, bias),
            y: self.tensors[stage + 1],
            dw: part(self.flat.grads, weight),
            db: part(self.flat.grads, bias),
        }
    }

    fn block(&self, stage: usize, at: &Affine) -> conv2d_pool::Buffers {
        let AffineBuffers { x, w, b, y, .. } = self.affine(stage, at);
        let (Kind::Block(block, _), Some(Extra::Codes(codes)), Some(places)) =
            (self.stages[stage].kind, self.extra[stage], self.places[stage])
        else {
            unreachable!("every block was given its codes and its places")
        };
        let Buffers { grads, packed, .. } = self.flat;
        let Data { images, order, .. } = self.data;
        conv2d_pool::Buffers {
            x: match block.x {
                Layout::Bytes => Input::Bytes { images, order, normalisation: self.normalisation },
                Layout::Planes | Layout::ChannelsLast => Input::Tensor(x),
            },
            w,
            b,
            packed: packed.part(places.packed, block.packed_len()),
            packed_back: places.packed_back.map(|at| packed.part(at, block.packed_back_len())),
            y,
            codes,
            partials: grads.part(places.partials, block.partials_len(self.n)),
        }
    }

    /// What the optimizer does for the blocks.
    fn segments(&self) -> Vec<Segment> {
        let blocks = self.stages.iter().zip(&self.places).filter_map(|(stage, places)| match (stage.kind, places) {
            (Kind::Block(block, _), Some(places)) => Some(block.segments(self.n, places)),
            _ => None,
        });
        blocks.flatten().collect()
    }

    fn argmax(&self, stage: usize) -> Slice {
        match self.extra[stage] {
            Some(Extra::Argmax(argmax)) => argmax,
            _ => unreachable!("every pooling layer was given one"),
        }
    }

    /// The copies of weights, from the parameters.
    fn pack(&self, plan: &mut Plan) -> Result<()> {
        for (i, Stage { name, kind, .. }) in self.stages.iter().enumerate() {
            if let Kind::Block(block, at) = kind {
                block.pack(plan, name, self.n, &self.block(i, at))?;
            }
        }
        Ok(())
    }

    /// The forward passes of the first `count` stages.
    fn forward(&self, plan: &mut Plan, count: usize) -> Result<()> {
        let n = self.n;
        for (i, Stage { layers, name, kind }) in self.stages[..count].iter().enumerate() {
            let layer = &self.net.layers[layers.start];
            let (x, y) = (self.tensors[i], self.tensors[i + 1]);
            match kind {
                Kind::Block(block, at) => block.forward(plan, name, n, &self.block(i, at))?,
                Kind::Linear(d, at) | Kind::Head(d, at) => d.forward(plan, name, n, &self.affine(i, at))?,
                Kind::Layer => match &layer.op {
                    Op::Conv2d(d, at) => d.forward(plan, name, n, &self.affine(i, at))?,
                    Op::Linear(d, at) => d.forward(plan, name, n, &self.affine(i, at))?,
                    Op::MaxPool2d(d) => d.forward(plan, name, n, x, y, self.argmax(i))?,
                    Op::Relu => relu::forward(plan, name, n, layer.output.len(), x, y)?,
                    Op::Flatten => {}
                },
            }
        }
        Ok(())
    }

    /// The backward passes, from the logits' gradient down to the first layer with parameters: below it nobody needs a
    /// gradient.
    fn backward(&self, plan: &mut Plan, dlogits: Slice) -> Result<()> {
        let n = self.n;
        let mut dy = dlogits;
        // Whether `dy` is what the stage below expects: masked for a linear layer with ReLU, channels last for a block.
        let mut ready = false;
        for (i, Stage { layers, name, kind }) in self.stages.iter().enumerate().rev() {
            let layer = &self.net.layers[layers.start];
            if layers.end <= self.net.first_trained() {
                break;
            }
            if layer.op == Op::Flatten {
                continue;
            }
            let wanted = layers.start > self.net.first_trained();
            let dx = match wanted {
                true => plan.buffer(format!("{name}.in.grad"), n.saturating_mul(layer.input.len()))?,
                false => dy,
            };
            match kind {
                Kind::Block(block, at) => {
                    if !ready {
                        let last =
                            plan.buffer(format!("{name}.out.grad"), n.saturating_mul(block.output().iter().product()))?;
                        block.channels_last(plan, name, n, dy, last)?;
                        dy = last;
                    }
                    let buffers = self.block(i, at);
                    block.backward(plan, name, n, &buffers, dy, wanted.then_some(dx))?;
                    ready = block.x == Layout::ChannelsLast;
                }
                Kind::Linear(d, at) | Kind::Head(d, at) => {
                    let buffers = self.affine(i, at);
                    if d.relu && !ready {
                        let features = self.net.layers[layers.end - 1].output.len();
                        let masked = plan.buffer(format!("{name}.out.grad"), n.saturating_mul(features))?;
                        relu::backward(plan, name, n, features, [buffers.y, dy, masked])?;
                        dy = masked;
                    }
                    d.backward(plan, name, n, &buffers, dy, wanted.then_some(dx))?;
                    ready = true;
                }
                Kind::Layer => {
                    self.backward_layer(plan, i, [dy, dx], wanted)?;
                    ready = false;
                }
            }
            dy = dx;
        }
        Ok(())
    }

    fn backward_layer(&self, plan: &mut Plan, i: usize, [dy, dx]: [Slice; 2], wanted: bool) -> Result<()> {
        let Stage { layers, name, .. } = &self.stages[i];
        let (n, layer) = (self.n, &self.net.layers[layers.start]);
        match &layer.op {
            Op::Conv2d(d, at) => {
                d.backward_weight(plan, name, n, &self.affine(i, at), dy)?;
                if wanted {
                    d.backward_input(plan, name, n, &self.affine(i, at), dy, dx)?;
                }
            }
            Op::Linear(d, at) => {
                d.backward_weight(plan, name, n, &self.affine(i, at), dy)?;
                if wanted {
                    d.backward_input(plan, name, n, &self.affine(i, at), dy, dx)?;
                }
            }
            Op::MaxPool2d(d) => d.backward(plan, name, n, self.argmax(i), dy, dx)?,
            Op::Relu => relu::backward(plan, name, n, layer.input.len(), [self.tensors[i + 1], dy, dx])?,
            Op::Flatten => {}
        }
        Ok(())
    }
}
