//! Whole training steps on a device against the f64 oracle.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::compare::compare;
use super::{Row, halves};
use crate::Result;
use crate::backend::gpu::Gpu;
use crate::backend::gpu::trainer::{GpuOptions, GpuTrainer};
use crate::backend::reference::ReferenceTrainer;
use crate::backend::{Setup, Trainer};
use crate::compile::fuse::{self, Kernels};
use crate::data::Dataset;
use crate::loss::{Form, Loss};
use crate::network::Network;
use crate::ops::IGNORED;
use crate::ops::augment::Augment;
use crate::ops::mix::Mix;
use crate::ops::stage::Layout;
use crate::optimizer::recipe::Recipe;
use crate::optimizer::{Adam, Optimizer};
use crate::plan::Storage;
use crate::plan::tuning::{Tiles, Tuning};
use crate::rng::Philox;

/// A data set of random bytes.
pub fn random_data(images: usize, shape: [usize; 3], classes: usize) -> Dataset {
    let mut rng = Philox::new(0xDA7A, 0);
    let pixels: usize = shape.iter().product();
    Dataset {
        shape,
        classes,
        images: (0..images * pixels).map(|_| rng.below(256) as u8).collect(),
        labels: (0..images).map(|_| rng.below(classes as u32)).collect(),
        files: vec![],
    }
}

/// How many images `steps` batches are, the last one smaller.
pub fn images(batch_size: usize, steps: usize) -> usize {
    (batch_size * steps).saturating_sub(batch_size / 2).max(1)
}

/// `steps` training steps of `net` on `gpu` against the oracle's, in every form of these kernels that the device runs
/// and in every storage of activations that it has: see [`against_oracle`].
///
/// # Errors
/// What the device reports. A wrong result is in its row.
pub fn training(
    gpu: &Arc<Gpu>,
    net: &Network,
    loss: impl Into<Loss>,
    batch_size: usize,
    steps: usize,
    kernels: &[Kernels],
) -> Result<Vec<Row>> {
    let oracle = Oracle::train(net, loss, [batch_size, steps])?;
    let mut rows = vec![];
    for (kernels, tiles, activations) in kernels.iter().flat_map(|&kernels| forms(gpu, kernels)) {
        let what = match (kernels, activations) {
            (Kernels::Reference, _) => format!("{kernels:?}"),
            (Kernels::Fused, Storage::F32) => format!("{kernels:?} {tiles:?}"),
            (Kernels::Fused, Storage::F16) => format!("{kernels:?} {tiles:?} F16"),
        };
        let rounded = tensors_in_halves(net, kernels, activations);
        if activations == Storage::F16 && rounded == 0 {
            continue;
        }
        rows.extend(oracle.compare(&what, rounded, |setup, params| {
            let options =
                GpuOptions { kernels, tuning: Some(Tuning::all(tiles)), activations, ..GpuOptions::default() };
            Ok(Box::new(GpuTrainer::with_options(gpu, setup, params, options)?))
        })?);
    }
    Ok(rows)
}

/// Every form of `kernels` that the device runs, in every storage of activations that it has. Reference kernels have
/// one.
fn forms(gpu: &Gpu, kernels: Kernels) -> Vec<(Kernels, Tiles, Storage)> {
    if kernels == Kernels::Reference {
        return vec![(kernels, Tiles::DIVISIONS[0], Storage::F32)];
    }
    let tiles = Tiles::DIVISIONS.into_iter().filter(|&tiles| gpu.runs(tiles));
    let storages = halves::ALL.into_iter().filter(|&activations| gpu.stores(activations));
    tiles.flat_map(|tiles| storages.clone().map(move |activations| (kernels, tiles, activations))).collect()
}

/// How many tensors of a step are rounded to halves.
pub fn tensors_in_halves(net: &Network, kernels: Kernels, activations: Storage) -> usize {
    let stages = fuse::stages(net, Layout::Bytes, kernels, Tuning::default(), activations);
    stages.iter().filter(|staged| staged.stage.stored() == Storage::F16).count()
}

/// `steps` training steps of `net` on the backend that `make` makes, and on the f64 oracle. `what` names the backend in
/// the rows: see [`Oracle`].
///
/// # Errors
/// What the device reports. A wrong result is in its row.
pub fn against_oracle(
    what: &str,
    net: &Network,
    loss: impl Into<Loss>,
    [batch_size, steps]: [usize; 2],
    make: impl for<'a> FnOnce(Setup<'a>, &[f32]) -> Result<Box<dyn Trainer + 'a>>,
) -> Result<Vec<Row>> {
    Oracle::train(net, loss, [batch_size, steps])?.compare(what, 0, make)
}

/// Some training steps of the f64 oracle, from random weights over random images. The last batch is smaller than the
/// others. Where the loss is not simply smoothed, every third image is ignored, and so is the whole second batch.
pub struct Oracle<'net> {
    net: &'net Network,
    loss: Loss,
    batch_size: usize,
    steps: usize,
    train: Dataset,
    test: Dataset,
    found: Reached,
}

/// The eps of Adam, which takes the steps. With one far below a gradient a step is of one size, by the sign alone.
/// Where a gradient is what rounding leaves, as that of a bias before a batch norm is, so is the sign, and many
/// networks make much of such a step. With an eps of the size of a gradient a step is as right as the gradient is.
const EPS: f64 = 1e-3;

/// What some training steps come to.
#[derive(Default)]
struct Reached {
    losses: Vec<f64>,
    nlls: Vec<f64>,
    params: Vec<f64>,
    /// The logits of a test set, before and after.
    logits: [Vec<f64>; 2],
}

impl<'net> Oracle<'net> {
    /// Trains the oracle.
    ///
    /// # Errors
    /// A number that is not finite.
    pub fn train(net: &'net Network, loss: impl Into<Loss>, [batch_size, steps]: [usize; 2]) -> Result<Self> {
        let loss = loss.into();
        let mut train = random_data(images(batch_size, steps), net.input, net.classes);
        if !matches!(loss.form(), Form::Smoothed(_)) {
            train.labels.iter_mut().step_by(3).for_each(|label| *label = IGNORED);
            // The order is backwards.
            train.labels.iter_mut().rev().skip(batch_size).take(batch_size).for_each(|label| *label = IGNORED);
        }
        let test = random_data(batch_size + 1, net.input, net.classes);
        let found = Reached::default();
        let mut oracle = Self { net, loss, batch_size, steps, train, test, found };
        oracle.found = oracle.run(&mut ReferenceTrainer::<f64>::new(oracle.setup(), &oracle.initial()))?;
        Ok(oracle)
    }

    fn initial(&self) -> Vec<f32> {
        self.net.initial_parameters(1)
    }

    fn setup(&self) -> Setup<'_> {
        // Both kinds.
        let mixed = matches!(self.loss.form(), Form::Mixed(_));
        let mix = if mixed { Mix { mixup: 1.0, cutmix: 1.0 } } else { Mix::default() };
        Setup {
            seed: 0,
            net: self.net,
            batch_size: self.batch_size,
            loss: self.loss.clone(),
            optimizer: Optimizer::Adam(Adam { eps: EPS, ..Adam::default() }),
            recipe: Recipe { mix, ..Recipe::default() },
            normalisation: vec![[0.5, 0.25]; self.net.input[0]],
            augment: Augment::NONE,
            train: &self.train,
            test: &self.test,
        }
    }

    /// Trains a backend, and gives what it finds.
    fn run(&self, backend: &mut dyn Trainer) -> Result<Reached> {
        let order: Vec<u32> = (0..self.train.labels.len() as u32).rev().collect();
        let before = backend.test_logits()?;
        let (mut losses, mut nlls) = (vec![], vec![]);
        backend.train_epoch(&order, 0, &mut |some| {
            losses.extend(some.iter().map(|means| means.loss));
            nlls.extend(some.iter().map(|means| means.nll));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Reached { losses, nlls, params: backend.state()?.params, logits: [before, backend.test_logits()?] })
    }

    /// The same steps on the backend that `make` makes from the oracle's first weights, which rounds the activations of
    /// `rounded` layers to halves. Compares every loss and nll, every parameter and the logits of a test set. `what`
    /// names the backend in the rows.
    ///
    /// # Errors
    /// What the device reports. A wrong result is in its row.
    pub fn compare<'a>(
        &'a self,
        what: &str,
        rounded: usize,
        make: impl FnOnce(Setup<'a>, &[f32]) -> Result<Box<dyn Trainer + 'a>>,
    ) -> Result<Vec<Row>> {
        let params = self.initial();
        let want = &self.found;
        let got = self.run(make(self.setup(), &params)?.as_mut())?;
        let (net, batch_size, steps) = (self.net, self.batch_size, self.steps);
        let row = |pass: &str, got: &[f64], want: &[f64], tolerance: f64| {
            let narrow: Vec<f32> = got.iter().map(|&v| v as f32).collect();
            let found = compare(&narrow, want, &vec![tolerance; want.len()]);
            Row {
                op: "network".into(),
                pass: format!("{what}, {steps} steps, {pass}"),
                case: format!("{}x{:?}, {} parameters", batch_size, net.input, net.parameter_count()),
                elements: want.len(),
                worst_error: found.worst_error,
                tolerance_used: found.tolerance_used,
                failure: found.failure,
            }
        };
        let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        // How far the device's weights are from the oracle's, as a share of how far the oracle's moved.
        let start: Vec<f64> = params.iter().map(|&p| p.into()).collect();
        let drift = distance(&got.params, &want.params) / distance(&want.params, &start);
        // Halves: each tensor that is rounded to them adds an error of up to 2^-10 of the signal, which together walk
        // at random; 8 is the walk's tail, as in `sum_tolerance`. A gradient is as much off, so the signs of a share
        // `walk` of its elements are open; each of these moves the other way, off by twice its step: 2 sqrt(walk) of
        // how far all moved, and of what that did to a logit. To the loss, though not to the nll, it does nothing:
        // these are the elements whose gradient is near zero.
        let walk = 2f64.powi(-10) * (rounded as f64).sqrt();
        let open = 2.0 * walk.sqrt();
        let [before, after] = &want.logits;
        let largest = after.iter().fold(0f64, |m, v| m.max(v.abs()));
        let moved = after.iter().zip(before).fold(0f64, |m, (now, then)| m.max((now - then).abs()));
        let rounding = 8.0 * walk * largest;
        Ok(vec![
            row("losses", &got.losses, &want.losses, 2e-4 + rounding),
            row("nlls", &got.nlls, &want.nlls, 2e-4 + rounding + open * moved),
            // A ReLU near zero, or a maximum near another, may go either way: with them the whole step of a
            // parameter, but only rarely.
            row("parameters", &got.params, &want.params, 2.0 * Adam::default().lr * steps as f64),
            row("drift", &[drift], &[0.0], 0.02 + open),
            row("test logits", &got.logits[1], after, 5e-3 + rounding + open * moved),
        ])
    }
}
