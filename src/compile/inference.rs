//! The plan of a network that only answers: no gradient, no memory of an optimizer, no loss.

use std::ops::Range;

use super::Data;
use super::fuse::{Kernels, stages};
use super::recorder::{Recorder, check_batch, places};
use crate::Result;
use crate::layer::Mode;
use crate::network::Network;
use crate::ops::augment::Augment;
use crate::ops::gather;
use crate::ops::seal::{self, Extent};
use crate::ops::stage::Layout;
use crate::plan::tuning::Tuning;
use crate::plan::{Plan, Slice, Storage};

/// What is wanted of a device that only answers.
#[derive(Clone, Copy, Debug)]
pub struct InferenceJob<'a> {
    /// The network.
    pub net: &'a Network,
    /// Images in a batch.
    pub batch_size: usize,
    /// Images of a data set that are on the device at once; `None` where batches come as numbers, normalised.
    pub images: Option<usize>,
    /// Which kernels.
    pub kernels: Kernels,
    /// In which form.
    pub tuning: Tuning,
    /// In what activations are stored, where fused kernels hand them to each other.
    pub activations: Storage,
}

/// A network that answers.
#[derive(Clone, Debug)]
pub struct CompiledInference {
    /// Every buffer and dispatch.
    pub plan: Plan,
    /// The dispatches that answer for a batch. The last one seals the logits.
    pub infer: Range<usize>,
    /// The dispatches to run once after parameters were written: they make the copies of weights.
    pub load: Range<usize>,
    /// The data set. Empty where batches come as numbers.
    pub data: Data,
    /// Each channel's scale and offset: [`gather::affine`].
    pub normalisation: Slice,
    /// The batch, `[n, channels, height, width]`; empty where the first stage reads the data set's bytes itself.
    pub batch: Slice,
    /// All trained parameters.
    pub params: Slice,
    /// The layers' buffers.
    pub buffers: Option<Slice>,
    /// `[batch, classes]`.
    pub logits: Slice,
    /// The logits' seal ([`seal`]).
    pub logits_seal: Slice,
}

/// Compiles a job. Nothing is allocated.
///
/// # Errors
/// As [`super::compile`].
pub fn inference(job: &InferenceJob) -> Result<CompiledInference> {
    let InferenceJob { net, batch_size: n, images, kernels, tuning, activations } = *job;
    check_batch(net, n)?;
    let mut plan = Plan::default();
    let pixels: usize = net.input.iter().product();
    let data = Data::new(&mut plan, "data", images.unwrap_or(0), pixels)?;
    let normalisation = plan.buffer("normalisation", net.input[0].saturating_mul(2))?;
    let layout = if images.is_some() { Layout::Bytes } else { Layout::Planes };
    let stages = stages(net, layout, kernels, tuning, activations);
    let reads_bytes = stages.first().is_some_and(|staged| staged.stage.reads() == Layout::Bytes);
    let batch = plan.buffer("batch.images", if reads_bytes { 0 } else { n.saturating_mul(pixels) })?;
    let (places, [_, packed_len]) = places(net, &stages, n, Mode::Inference);
    let params = plan.buffer("params", net.flat_len().max(4))?;
    let packed = plan.buffer("packed", packed_len)?;
    let buffers = match net.buffers_len() {
        0 => None,
        len => Some(plan.buffer("buffers", len)?),
    };
    let mut recorder = Recorder {
        net,
        n,
        params,
        grads: None,
        packed,
        buffers,
        stages: &stages,
        places,
        tensors: vec![Some(batch)],
        saved: vec![],
        data,
        normalisation,
        mode: Mode::Inference,
    };
    recorder.allocate(&mut plan)?;
    let logits = recorder.logits();
    if images.is_some() && !reads_bytes {
        // The labels come along: the kernel that gathers is the training's.
        let targets = plan.buffer("batch.labels", n)?;
        let Data { images, labels, order } = data;
        let at = gather::Buffers { images, labels, order, normalisation, x: batch, targets };
        gather::gather(&mut plan, "data", n, net.input, &Augment::NONE, &at)?;
    }
    recorder.forward(&mut plan, stages.len())?;
    let extent = Extent::Rows(net.classes, n);
    let logits_seal = plan.buffer("logits.seal", extent.seal_len())?;
    seal::close(&mut plan, "logits", extent, logits, logits_seal)?;
    let infer = 0..plan.dispatches.len();
    recorder.pack(&mut plan)?;
    let load = infer.end..plan.dispatches.len();
    Ok(CompiledInference { plan, infer, load, data, normalisation, batch, params, buffers, logits, logits_seal })
}
