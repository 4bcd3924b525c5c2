//! The network compiler: from layers to the plan of a training step and of inference.
//!
//! A training step is: gather the batch (unless its first stage reads the data set's bytes itself), every stage ([`crate::compile::fuse`]) forward, the loss with its gradient, every stage
//! backward, the optimizer. Inference is the gather and the forward passes, over the same buffers. Kernels that read a weight
//! in another order have a copy of it, which the optimizer keeps up to date and which is made once when weights are loaded.

pub mod fuse;

use std::ops::Range;

use crate::compile::fuse::{Kernels, Staged, stages};
use crate::layer::Mode;
use crate::loss::{self, Form, Loss, Pass};
use crate::network::{NamedParameter, Network, PARAMETER_ALIGNMENT};
use crate::ops::head::Head;
use crate::ops::seal::{self, Extent};
use crate::ops::stage::{self, Layout, Places, Shares, StageAt};
use crate::ops::{AffineBuffers, gather};
use crate::optimizer::{Buffers, Optimizer, SLOT_WORDS};
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
    /// Parameters, each of the optimizer's slots, and the layers' buffers if they have some: each with its seal.
    pub state: Vec<[Slice; 2]>,
    /// The layers' buffers.
    pub buffers: Option<Slice>,
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
    let reads_bytes = stages.first().is_some_and(|staged| staged.stage.reads() == Layout::Bytes);
    let head =
        stages.last().and_then(|staged| staged.stage.head()).filter(|_| matches!(job.loss.form(), Form::Smoothed(_)));
    let looks_up_labels = head.is_some();
    let x = plan.buffer("batch.images", if reads_bytes { 0 } else { n.saturating_mul(pixels) })?;
    let targets = plan.buffer("batch.labels", n)?;
    let (places, [grads_len, packed_len]) = places(net, &stages, n);
    // The optimizer binds vectors of four, at least one, even if there is nothing to train.
    let mut flat_buffer = |name: &str, len: usize| plan.buffer(name, len.max(4));
    let flat = Buffers {
        params: flat_buffer("params", flat_len)?,
        grads: flat_buffer("grads", grads_len)?,
        slots: {
            let mut slots = [None; 2];
            for (slot, name) in slots.iter_mut().zip(job.optimizer.slots()) {
                *slot = Some(flat_buffer(&format!("optimizer.{name}"), flat_len)?);
            }
            slots
        },
        packed: plan.buffer("packed", packed_len)?,
        losses,
        step_losses,
    };
    let buffers = match net.buffers_len() {
        0 => None,
        len => Some(plan.buffer("buffers", len)?),
    };
    let mut recorder = Recorder {
        net,
        n,
        flat,
        buffers,
        stages: &stages,
        places,
        tensors: vec![x],
        saved: vec![],
        data: train_data,
        normalisation,
        mode: Mode::Training,
    };
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
    match (stages.last(), head) {
        (Some(staged), Some((dims, stored))) => {
            recorder.forward(&mut plan, stages.len() - 1)?;
            let mut head = Head::new(dims).expect("only what the kernel supports becomes a head");
            head.x = stored;
            let at = recorder.affine(stages.len() - 1);
            head.forward_backward(&mut plan, &staged.name, n, &at, [logits, losses, dlogits], [labels, order])?;
        }
        (last, _) => {
            recorder.forward(&mut plan, stages.len())?;
            let stride = last.map_or(net.classes, |staged| staged.stage.gradient_stride(net.classes));
            let order = train_data.order;
            let at = loss::Buffers { logits, targets, rows: loss_rows, order, losses, dlogits, stride };
            job.loss.form().record(&mut plan, Pass::ForwardBackward, n, net.classes, &at)?;
        }
    }
    recorder.backward(&mut plan, dlogits)?;
    job.optimizer.record(&mut plan, [flat_len, net.decayed_len()], &recorder.segments(), &flat)?;
    let train = 0..plan.dispatches.len();

    if !reads_bytes {
        gather(&mut plan, "test", &test_data)?;
    }
    (recorder.data, recorder.mode) = (test_data, Mode::Inference);
    recorder.forward(&mut plan, stages.len())?;
    let extent = Extent::Rows(net.classes, n);
    let logits_seal = plan.buffer("logits.seal", extent.seal_len())?;
    seal::close(&mut plan, "logits", extent, logits, logits_seal)?;
    let infer = train.end..plan.dispatches.len();
    recorder.pack(&mut plan)?;
    let load = infer.end..plan.dispatches.len();
    let slots = job.optimizer.slots().iter().map(|name| format!("optimizer.{name}"));
    let names = std::iter::once("params".to_owned()).chain(slots).chain(buffers.map(|_| "buffers".to_owned()));
    let parts = std::iter::once(flat.params).chain(flat.slots.into_iter().flatten()).chain(buffers);
    let mut state = vec![];
    for (name, words) in names.zip(parts) {
        let extent = Extent::Words(words.bytes as usize / 4);
        let at = plan.buffer(format!("{name}.seal"), extent.seal_len())?;
        seal::close(&mut plan, &name, extent, words, at)?;
        state.push([words, at]);
    }
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
        state,
        buffers,
        step_losses,
        flat,
        gradient: flat.grads.part(0, flat_len),
    })
}

/// Where each stage's shares of the gradients (behind the parameters' own) and of the packed weights are, and how long the two
/// are.
fn places(net: &Network, stages: &[Staged], n: usize) -> (Vec<(Shares, Places)>, [usize; 2]) {
    let take = |total: &mut usize, len: usize| {
        let at = *total;
        *total = (at + len).next_multiple_of(PARAMETER_ALIGNMENT);
        at
    };
    let (mut grads, mut packed) = (net.flat_len(), 0);
    let places = stages
        .iter()
        .map(|staged| {
            let shares = staged.stage.shares(n);
            let places = Places {
                partials: take(&mut grads, shares.partials),
                packed: take(&mut packed, shares.packed),
                packed_back: (shares.packed_back > 0).then(|| take(&mut packed, shares.packed_back)),
            };
            (shares, places)
        })
        .collect();
    (places, [grads, packed])
}

/// Records a network's passes, stage by stage.
struct Recorder<'a> {
    net: &'a Network,
    n: usize,
    flat: Buffers,
    /// The layers' buffers.
    buffers: Option<Slice>,
    stages: &'a [Staged],
    places: Vec<(Shares, Places)>,
    /// What each stage reads, and last the logits.
    tensors: Vec<Slice>,
    /// What a stage's forward pass leaves to its backward pass.
    saved: Vec<Option<Slice>>,
    /// What a first stage reads that gathers its own input.
    data: Data,
    normalisation: Slice,
    mode: Mode,
}

/// A stage's parameters.
struct Parameters {
    params: Vec<Slice>,
    grads: Vec<Slice>,
    buffers: Vec<Slice>,
}

impl Recorder<'_> {
    /// Allocates what every stage gives. What only renames gives what it reads.
    fn allocate(&mut self, plan: &mut Plan) -> Result<()> {
        for (i, Staged { layers, name, stage, .. }) in self.stages.iter().enumerate() {
            let last = &self.net.layers[layers.end - 1];
            let len = self.n.saturating_mul(last.output.len());
            let output = match last.op.is_view() {
                true => self.tensors[i],
                false => plan.buffer(format!("{name}.out"), len.div_ceil(stage.stored().per_word()))?,
            };
            let saved = stage.saved(self.n);
            self.saved.push(saved.map(|saved| plan.buffer(format!("{name}.{}", saved.name), saved.len)).transpose()?);
            self.tensors.push(output);
        }
        Ok(())
    }

    fn parameters(&self, i: usize) -> Parameters {
        let part = |whole: Slice, list: &[NamedParameter]| -> Vec<Slice> {
            list.iter().map(|parameter| whole.part(parameter.offset, parameter.len())).collect()
        };
        let layers = &self.net.layers[self.stages[i].layers.clone()];
        let mut of = Parameters { params: vec![], grads: vec![], buffers: vec![] };
        for layer in layers {
            let trained = &self.net.parameters[layer.parameters.clone()];
            of.params.extend(part(self.flat.params, trained));
            of.grads.extend(part(self.flat.grads, trained));
            of.buffers.extend(
                self.buffers.map(|all| part(all, &self.net.buffers[layer.buffers.clone()])).unwrap_or_default(),
            );
        }
        of
    }

    /// Where stage `i`, whose parameters these are, finds its buffers.
    fn at<'a>(&'a self, i: usize, own: &'a Parameters) -> StageAt<'a> {
        let Staged { layers, name, .. } = &self.stages[i];
        let (shares, places) = self.places[i];
        let Buffers { grads, packed, .. } = self.flat;
        let Data { images, order, .. } = self.data;
        StageAt {
            name,
            n: self.n,
            mode: self.mode,
            x: self.tensors[i],
            bytes: stage::Bytes { images, order, normalisation: self.normalisation },
            y: self.tensors[i + 1],
            params: &own.params,
            buffers: &own.buffers,
            grads: &own.grads,
            saved: self.saved[i],
            partials: grads.part(places.partials, shares.partials),
            packed: packed.part(places.packed, shares.packed),
            packed_back: places.packed_back.map(|at| packed.part(at, shares.packed_back)),
            layer: layers.start,
        }
    }

    /// The buffers of a stage with a weight and a bias.
    fn affine(&self, i: usize) -> AffineBuffers {
        let Parameters { params, grads, .. } = self.parameters(i);
        AffineBuffers {
            x: self.tensors[i],
            w: params[0],
            b: params[1],
            y: self.tensors[i + 1],
            dw: grads[0],
            db: grads[1],
        }
    }

    /// What the optimizer does for the stages beside adding their gradients.
    fn segments(&self) -> Vec<stage::Segment> {
        let of_stage = |(staged, (_, places)): (&Staged, &(Shares, Places))| {
            let layers = &self.net.layers[staged.layers.clone()];
            let places_of = |layer: &crate::network::FittedLayer| layer.parameters.clone();
            let params: Vec<_> = layers.iter().flat_map(places_of).map(|i| self.net.parameters[i].offset).collect();
            staged.stage.segments(self.n, &params, *places)
        };
        self.stages.iter().zip(&self.places).flat_map(of_stage).collect()
    }

    /// The copies of weights, from the parameters.
    fn pack(&self, plan: &mut Plan) -> Result<()> {
        (0..self.stages.len()).try_for_each(|i| self.stages[i].stage.pack(plan, &self.at(i, &self.parameters(i))))
    }

    /// The forward passes of the first `count` stages.
    fn forward(&self, plan: &mut Plan, count: usize) -> Result<()> {
        (0..count).try_for_each(|i| self.stages[i].stage.forward(plan, &self.at(i, &self.parameters(i))))
    }

    /// The backward passes, from the logits' gradient down to the first layer with parameters: below it nobody needs a
    /// gradient.
    fn backward(&self, plan: &mut Plan, dlogits: Slice) -> Result<()> {
        let mut dy = dlogits;
        let mut given = stage::Gradient::Plain;
        for (i, Staged { layers, name, stage, .. }) in self.stages.iter().enumerate().rev() {
            let [first, last] = [layers.start, layers.end - 1].map(|i| &self.net.layers[i]);
            if layers.end <= self.net.first_trained() {
                break;
            }
            if first.op.is_view() {
                continue;
            }
            let buffer = |plan: &mut Plan, which: &str, len: usize| {
                plan.buffer(format!("{name}.{which}.grad"), self.n.saturating_mul(len))
            };
            let wanted = layers.start > self.net.first_trained();
            let dx = wanted.then(|| buffer(plan, "in", first.input.len())).transpose()?;
            let own = self.parameters(i);
            let at = self.at(i, &own);
            if stage.takes_gradient() != given && stage.takes_gradient() != stage::Gradient::Plain {
                let converted = buffer(plan, "out", last.output.len())?;
                stage.convert_gradient(plan, &at, dy, converted)?;
                dy = converted;
            }
            stage.backward(plan, &at, dy, dx)?;
            let Some(dx) = dx else { break };
            (dy, given) = (dx, stage.gives_gradient());
        }
        Ok(())
    }
}
