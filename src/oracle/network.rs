//! A whole network on the CPU path: forward, backward, and one training step.

use super::{Real, conv2d, linear, max_pool2d, optimizer, relu};
use crate::loss::{Batch, BatchLoss, Form, mean};
use crate::network::{Network, Op};
use crate::optimizer::Optimizer;

/// A network with its parameters, and the buffers of one step, which are allocated once and grow with the batch.
pub struct CpuNetwork<T> {
    net: Network,
    /// Every parameter, as one flat vector (see [`crate::network::Parameter::range`]).
    pub params: Vec<T>,
    /// The gradient of the last [`Self::backward`], laid out as `params`.
    pub grads: Vec<T>,
    /// The optimizer's memory.
    pub state: optimizer::State<T>,
    /// `activations[0]` is the batch, `activations[i + 1]` what layer i gives.
    activations: Vec<Vec<T>>,
    /// The loss's gradient with respect to `activations[i]`.
    gradients: Vec<Vec<T>>,
    /// Each pooling layer's argmax; empty for other layers.
    argmax: Vec<Vec<u32>>,
}

impl<T: Real> CpuNetwork<T> {
    /// A network with these parameters, `[net.flat_len()]`.
    pub fn new(net: &Network, params: Vec<T>) -> Self {
        assert_eq!(params.len(), net.flat_len());
        Self {
            grads: vec![T::zero(); params.len()],
            state: optimizer::State::new(params.len()),
            params,
            activations: vec![vec![]; net.layers.len() + 1],
            gradients: vec![vec![]; net.layers.len() + 1],
            argmax: vec![vec![]; net.layers.len()],
            net: net.clone(),
        }
    }

    /// The network's layers.
    pub fn network(&self) -> &Network {
        &self.net
    }

    /// Where the next batch of `n` images `[n, channels, height, width]` is to be written.
    pub fn batch(&mut self, n: usize) -> &mut [T] {
        let len = n * self.net.input.iter().product::<usize>();
        self.activations[0].resize(len, T::zero());
        &mut self.activations[0]
    }

    /// The logits `[n, classes]` of the batch.
    pub fn forward(&mut self) -> &[T] {
        let n = self.activations[0].len() / self.net.input.iter().product::<usize>();
        let range = |i: usize| self.net.parameters[i].range();
        for (i, layer) in self.net.layers.iter().enumerate() {
            let (before, after) = self.activations.split_at_mut(i + 1);
            let (x, y) = (&before[i], &mut after[0]);
            y.resize(n * layer.output.len(), T::zero());
            match &layer.op {
                Op::Conv2d(d, at) => {
                    conv2d::forward(d, x, &self.params[range(at.weight)], &self.params[range(at.bias)], y);
                }
                Op::Linear(d, at) => {
                    linear::forward(d, x, &self.params[range(at.weight)], &self.params[range(at.bias)], y);
                }
                Op::MaxPool2d(d) => {
                    self.argmax[i].resize(y.len(), 0);
                    max_pool2d::forward(d, x, y, &mut self.argmax[i]);
                }
                Op::Relu => relu::forward(x, y),
                Op::Flatten => y.copy_from_slice(x),
            }
        }
        &self.activations[self.net.layers.len()]
    }

    /// From the gradient of the logits `[n, classes]` to `grads`. Below the first layer with parameters
    /// nothing is computed.
    pub fn backward(&mut self, dlogits: &[T]) {
        let last = self.net.layers.len();
        self.gradients[last].clear();
        self.gradients[last].extend_from_slice(dlogits);
        let first = self.net.first_trained();
        for (i, layer) in self.net.layers.iter().enumerate().skip(first).rev() {
            let (before, after) = self.gradients.split_at_mut(i + 1);
            let (dx, dy) = (&mut before[i], &after[0]);
            let x = &self.activations[i];
            dx.resize(x.len(), T::zero());
            let parameters = &self.net.parameters;
            match &layer.op {
                Op::Conv2d(d, at) => {
                    let (dw, db) = weight_and_bias(&mut self.grads, parameters, at);
                    conv2d::backward_weight(d, x, dy, dw, db);
                    if i > first {
                        conv2d::backward_input(d, dy, &self.params[parameters[at.weight].range()], dx);
                    }
                }
                Op::Linear(d, at) => {
                    let (dw, db) = weight_and_bias(&mut self.grads, parameters, at);
                    linear::backward_weight(d, x, dy, dw, db);
                    if i > first {
                        linear::backward_input(d, dy, &self.params[parameters[at.weight].range()], dx);
                    }
                }
                Op::MaxPool2d(d) => max_pool2d::backward(d, &self.argmax[i], dy, dx),
                Op::Relu => relu::backward(&self.activations[i + 1], dy, dx),
                Op::Flatten => dx.copy_from_slice(dy),
            }
        }
    }

    /// The mean loss of the batch, with its gradient in `grads`.
    pub fn loss_and_gradient(&mut self, form: &Form, batch: Batch<T>) -> f64 {
        let n = batch.labels.len();
        let classes = self.net.classes;
        let mut losses = vec![T::zero(); n];
        let mut dlogits = vec![T::zero(); n * classes];
        let logits = self.forward();
        form.forward(classes, logits, batch, &mut losses);
        let dloss = vec![T::of(batch.dloss()); n];
        form.backward(classes, logits, batch, &dloss, &mut dlogits);
        self.backward(&dlogits);
        mean(losses.iter().map(|l| l.wide()).sum(), batch.weight)
    }

    /// The mean nll of the batch, by the logits of the last [`Self::forward`].
    fn nll(&self, form: &Form, batch: Batch<T>) -> f64 {
        let mut nlls = vec![T::zero(); batch.labels.len()];
        form.nll(self.net.classes, &self.activations[self.net.layers.len()], batch, &mut nlls);
        mean(nlls.iter().map(|nll| nll.wide()).sum(), batch.counted)
    }

    /// One training step over the batch: its means before the update, which is number `t` from 1.
    pub fn train_step(&mut self, form: &Form, batch: Batch<T>, optimizer: &Optimizer, t: u64) -> BatchLoss {
        let loss = self.loss_and_gradient(form, batch);
        let nll = self.nll(form, batch);
        let finite = optimizer::step(optimizer, t, &mut self.params, &self.grads, &mut self.state);
        BatchLoss { loss, nll, diverged: !finite }
    }
}

/// The gradients of a layer's weight and bias.
fn weight_and_bias<'a, T>(
    grads: &'a mut [T],
    parameters: &[crate::network::Parameter],
    at: &crate::network::Affine,
) -> (&'a mut [T], &'a mut [T]) {
    let (weight, bias) = (parameters[at.weight].range(), parameters[at.bias].range());
    let (before, after) = grads.split_at_mut(bias.start);
    (&mut before[weight], &mut after[..bias.len()])
}
