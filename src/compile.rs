//! The network compiler: from layers to the plan of a training step and of inference.
//!
//! A training step is: gather the batch, every layer forward, the loss with its gradient, every layer backward, the
//! optimizer. Inference is the gather and the forward passes, over the same buffers.

use std::ops::Range;

use crate::net::{Affine, Network, Op, Parameter};
use crate::ops::optimizer::Optimizer;
use crate::ops::smoothed_loss::SmoothedLoss;
use crate::ops::{AffineBuffers, gather, optimizer, relu, smoothed_loss};
use crate::plan::{Plan, Slice};
use crate::smoothing::Smoothing;
use crate::{Error, Result};

/// What a training job needs of a device.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The network.
    pub net: &'a Network,
    /// Images in a batch.
    pub batch_size: usize,
    /// The loss's smoothing.
    pub smoothing: Smoothing,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Images of the training set that are on the device at once.
    pub train_images: usize,
    /// Images of the test set that are on the device at once.
    pub test_images: usize,
    /// Steps whose losses are kept on the device until they are read back.
    pub loss_slots: usize,
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
    /// The dispatches of inference on the test set.
    pub infer: Range<usize>,
    /// The training set.
    pub train_data: Data,
    /// The test set.
    pub test_data: Data,
    /// Mean and standard deviation of each channel.
    pub normalisation: Slice,
    /// `[batch, channels, height, width]`.
    pub x: Slice,
    /// `[batch]`.
    pub targets: Slice,
    /// What each layer gives, `[batch, …]`.
    pub activations: Vec<Slice>,
    /// `[batch, classes]`.
    pub logits: Slice,
    /// One loss for each step of a submission.
    pub step_losses: Slice,
    /// All parameters, their gradient and the optimizer's memory.
    pub flat: optimizer::Buffers,
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
    let normalisation = plan.buffer("normalisation", net.input[0] * 2)?;
    let x = plan.buffer("batch.images", n.saturating_mul(pixels))?;
    let targets = plan.buffer("batch.labels", n)?;
    let losses = plan.buffer("batch.losses", n)?;
    let step_losses = plan.buffer("step_losses", job.loss_slots)?;

    let flat_len = net.flat_len();
    let flat = optimizer::Buffers {
        params: plan.buffer("params", flat_len)?,
        grads: plan.buffer("grads", flat_len)?,
        first: plan.buffer("optimizer.first", flat_len)?,
        second: plan.buffer("optimizer.second", flat_len)?,
    };
    let part = |whole: Slice, parameter: &Parameter| whole.part(parameter.offset, parameter.len());

    // What each layer reads and gives. Flatten only renames.
    let mut tensors = vec![x];
    let mut argmax = vec![None; net.layers.len()];
    for (i, layer) in net.layers.iter().enumerate() {
        let output = match layer.op {
            Op::Flatten => tensors[i],
            _ => plan.buffer(format!("{}.out", layer.name), n * layer.output.len())?,
        };
        if matches!(layer.op, Op::MaxPool2d(_)) {
            argmax[i] = Some(plan.buffer(format!("{}.argmax", layer.name), n * layer.output.len())?);
        }
        tensors.push(output);
    }
    let logits = tensors[net.layers.len()];

    let affine = |layer: usize, at: &Affine| {
        let (weight, bias) = (&net.parameters[at.weight], &net.parameters[at.bias]);
        AffineBuffers {
            x: tensors[layer],
            w: part(flat.params, weight),
            b: part(flat.params, bias),
            y: tensors[layer + 1],
            dw: part(flat.grads, weight),
            db: part(flat.grads, bias),
        }
    };
    let forward = |plan: &mut Plan| -> Result<()> {
        for (i, layer) in net.layers.iter().enumerate() {
            let (x, y) = (tensors[i], tensors[i + 1]);
            match &layer.op {
                Op::Conv2d(d, at) => d.forward(plan, &layer.name, n, &affine(i, at))?,
                Op::Linear(d, at) => d.forward(plan, &layer.name, n, &affine(i, at))?,
                Op::MaxPool2d(d) => {
                    d.forward(plan, &layer.name, n, x, y, argmax[i].expect("every pooling layer was given one"))?;
                }
                Op::Relu => relu::forward(plan, &layer.name, n, layer.output.len(), x, y)?,
                Op::Flatten => {}
            }
        }
        Ok(())
    };
    let gather = |plan: &mut Plan, name: &str, data: &Data| {
        let Data { images, labels, order } = *data;
        gather::gather(plan, name, n, net.input, &gather::Buffers { images, labels, order, normalisation, x, targets })
    };

    gather(&mut plan, "train", &train_data)?;
    forward(&mut plan)?;
    let loss = SmoothedLoss { classes: net.classes, masses: job.smoothing.masses(net.classes) };
    let dlogits = plan.buffer("logits.grad", n * net.classes)?;
    loss.forward_backward(&mut plan, n, &smoothed_loss::Buffers { logits, targets, losses, dlogits })?;
    smoothed_loss::reduce(&mut plan, losses, step_losses)?;

    // Below the first layer with parameters nobody needs a gradient.
    let mut dy = dlogits;
    for (i, layer) in net.layers.iter().enumerate().skip(net.first_trained()).rev() {
        if layer.op == Op::Flatten {
            continue;
        }
        let (name, input) = (&layer.name, layer.input.len());
        let wanted = i > net.first_trained();
        let dx = if wanted { plan.buffer(format!("{name}.in.grad"), n * input)? } else { dy };
        match &layer.op {
            Op::Conv2d(d, at) => {
                d.backward_weight(&mut plan, name, n, &affine(i, at), dy)?;
                if wanted {
                    d.backward_input(&mut plan, name, n, &affine(i, at), dy, dx)?;
                }
            }
            Op::Linear(d, at) => {
                d.backward_weight(&mut plan, name, n, &affine(i, at), dy)?;
                if wanted {
                    d.backward_input(&mut plan, name, n, &affine(i, at), dy, dx)?;
                }
            }
            Op::MaxPool2d(d) => {
                d.backward(&mut plan, name, n, argmax[i].expect("every pooling layer was given one"), dy, dx)?;
            }
            Op::Relu => relu::backward(&mut plan, name, n, input, [tensors[i + 1], dy, dx])?,
            Op::Flatten => {}
        }
        dy = dx;
    }
    job.optimizer.record(&mut plan, flat_len, &flat)?;
    let train = 0..plan.dispatches.len();

    gather(&mut plan, "test", &test_data)?;
    forward(&mut plan)?;
    let infer = train.end..plan.dispatches.len();

    let activations = tensors[1..].to_vec();
    Ok(Compiled {
        plan,
        train,
        infer,
        train_data,
        test_data,
        normalisation,
        x,
        targets,
        activations,
        logits,
        step_losses,
        flat,
    })
}
