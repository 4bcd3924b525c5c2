//! The network compiler: from layers to the plan of a training step and of inference.
//!
//! A training step is: gather the batch (unless its first stage reads the data set's bytes itself), mix it, every stage
//! ([`crate::compile::fuse`]) forward, the loss with its gradient, every stage backward, the optimizer. Inference is
//! the gather and the forward passes, over the same buffers. Kernels that read a weight in another order have a copy of
//! it, which the optimizer keeps up to date and which is made once when weights are loaded.

pub mod fuse;
pub mod inference;
mod recorder;

pub use recorder::Data;

use std::ops::Range;

use crate::Result;
use crate::compile::fuse::{Kernels, stages};
use crate::compile::recorder::{Recorder, check_batch, places};
use crate::layer::Mode;
use crate::loss::{self, Form, Loss, Pass};
use crate::network::Network;
use crate::ops::augment::Augment;
use crate::ops::head::Head;
use crate::ops::seal::{self, Extent};
use crate::ops::stage::Layout;
use crate::ops::{gather, mix};
use crate::optimizer::{Buffers, Optimizer, SLOT_WORDS, accumulate, clip, ema, recipe::Recipe};
use crate::plan::Storage;
use crate::plan::tuning::Tuning;
use crate::plan::{Plan, Slice};

/// What a training job needs of a device.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The network.
    pub net: &'a Network,
    /// Images in a batch.
    pub batch_size: usize,
    /// What is done to training images.
    pub augment: Augment,
    /// The loss. What changes from step to step is in the step.
    pub loss: &'a Loss,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// What is done beside its plain updates.
    pub recipe: Recipe,
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

/// A compiled network.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Every buffer and dispatch.
    pub plan: Plan,
    /// The dispatches of a training step.
    pub train: Range<usize>,
    /// Those of them that an update's batches before its last one have.
    pub part: Range<usize>,
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
    /// Parameters, each of the optimizer's slots, the layers' buffers if they have some, and the averages: each with
    /// its seal.
    pub state: Vec<[Slice; 2]>,
    /// The layers' buffers.
    pub buffers: Option<Slice>,
    /// The moving averages of the parameters, and of the buffers if there are some, where the recipe has a decay.
    pub averages: Vec<Slice>,
    /// A [`Slot`](crate::optimizer::Slot) for each step of a submission.
    pub step_losses: Slice,
    /// The norm of each step's gradient, where it is clipped.
    pub step_norms: Option<Slice>,
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
/// [`crate::Error::OverLimit`] if a buffer would have more elements than 32 bits count, [`crate::Error::Usage`] for a
/// batch of 0.
pub fn compile(job: &Job) -> Result<Compiled> {
    let Job { net, batch_size: n, .. } = *job;
    check_batch(net, n)?;
    let mut plan = Plan::default();
    let pixels: usize = net.input.iter().product();
    let train_data = Data::new(&mut plan, "train", job.train_images, pixels)?;
    let test_data = Data::new(&mut plan, "test", job.test_images, pixels)?;
    let normalisation = plan.buffer("normalisation", net.input[0].saturating_mul(2))?;
    let losses = plan.buffer("batch.losses", n.saturating_mul(2))?;
    let step_losses = plan.buffer("step_losses", job.loss_slots.saturating_mul(SLOT_WORDS))?;

    let flat_len = net.flat_len();
    // Augmented and mixed images are gathered by a kernel of its own.
    let batch = if job.augment.is_none() && job.recipe.mix.is_none() { Layout::Bytes } else { Layout::Planes };
    let stages = stages(net, batch, job.kernels, job.tuning, job.activations);
    let reads_bytes = stages.first().is_some_and(|staged| staged.stage.reads() == Layout::Bytes);
    let head =
        stages.last().and_then(|staged| staged.stage.head()).filter(|_| matches!(job.loss.form(), Form::Smoothed(_)));
    let looks_up_labels = head.is_some();
    let x = plan.buffer("batch.images", if reads_bytes { 0 } else { n.saturating_mul(pixels) })?;
    let targets = plan.buffer("batch.labels", n)?;
    let (places, [grads_len, packed_len]) = places(net, &stages, n, Mode::Training);
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
        params: flat.params,
        grads: Some(flat.grads),
        packed: flat.packed,
        buffers,
        stages: &stages,
        places,
        tensors: vec![Some(x)],
        saved: vec![],
        data: train_data,
        normalisation,
        mode: Mode::Training,
    };
    recorder.allocate(&mut plan)?;
    let logits = recorder.logits();
    let gather = |plan: &mut Plan, name: &str, data: &Data, augment: Augment| {
        let Data { images, labels, order } = *data;
        let at = gather::Buffers { images, labels, order, normalisation, x, targets };
        gather::gather(plan, name, n, net.input, &augment, &at)
    };

    let Data { labels, order, .. } = train_data;
    if !reads_bytes {
        gather(&mut plan, "train", &train_data, job.augment)?;
        if !job.recipe.mix.is_none() {
            mix::record(&mut plan, n, net.input, x)?;
        }
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
    let mut segments = recorder.segments();
    // Where the gradient of an update is.
    let mut update = flat;
    let mut part = None;
    if job.recipe.accumulate > 1 {
        update.grads = plan.buffer("accumulated", flat_len.max(4))?;
        let at = accumulate::Buffers { grads: flat.grads, sums: update.grads, losses, step_losses };
        segments = accumulate::record(&mut plan, flat_len, &segments, &at)?;
        part = Some(0..plan.dispatches.len());
    }
    let mut step_norms = None;
    if let Some(most) = job.recipe.clip_grad_norm {
        let at = clip::Buffers { grads: update.grads, step_norms: plan.buffer("step_norms", job.loss_slots)? };
        segments = clip::record(&mut plan, most, flat_len, &segments, &at)?;
        step_norms = Some(at.step_norms);
    }
    let matrices = net.weight_matrices();
    job.optimizer.record(&mut plan, [flat_len, net.decayed_len()], &matrices, &segments, &update)?;
    let mut averages = vec![];
    if let Some(decay) = job.recipe.ema {
        let of_buffers = buffers.map(|buffers| ("buffers", net.buffers_len(), buffers));
        for (name, len, values) in [("params", flat_len, flat.params)].into_iter().chain(of_buffers) {
            let at = plan.buffer(format!("ema.{name}"), values.bytes as usize / 4)?;
            ema::record(&mut plan, name, decay, len, values, at)?;
            averages.push(at);
        }
    }
    let train = 0..plan.dispatches.len();

    if !reads_bytes {
        gather(&mut plan, "test", &test_data, Augment::NONE)?;
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
    let names = names.chain(["ema.params", "ema.buffers"].map(str::to_owned));
    let parts = std::iter::once(flat.params).chain(flat.slots.into_iter().flatten()).chain(buffers);
    let parts = parts.chain(averages.iter().copied());
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
        part: part.unwrap_or(train.clone()),
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
        averages,
        step_losses,
        step_norms,
        flat,
        gradient: update.grads.part(0, flat_len),
    })
}
