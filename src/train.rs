//! Training: what both paths have in common. A [`Backend`] computes; [`run`] orders the data, checks every loss, and tells
//! an [`Observer`] what happened.

use std::time::Instant;

use crate::data::Dataset;
use crate::loss::{BatchLoss, Loss, mean};
use crate::metrics::Metrics;
use crate::net::{Network, streams};
use crate::ops::optimizer::Optimizer;
use crate::rng::Philox;
use crate::{Error, Result};

/// What is trained, on what, how.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// The network.
    pub net: &'a Network,
    /// Images in a batch; the epoch's last batch may be smaller.
    pub batch_size: usize,
    /// The loss.
    pub loss: Loss,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Each channel's mean and standard deviation, of pixels scaled to 0..1.
    pub normalisation: Vec<[f64; 2]>,
    /// The training set.
    pub train: &'a Dataset,
    /// The test set.
    pub test: &'a Dataset,
}

/// Parameters and the optimizer's memory, each a flat vector (see [`crate::net::Parameter::range`]).
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Parameters.
    pub params: Vec<f64>,
    /// First moment, or momentum.
    pub first: Vec<f64>,
    /// Second moment.
    pub second: Vec<f64>,
}

/// Something that trains.
pub trait Backend {
    /// Trains on the images `order`, batch by batch. `updates` is how many updates there were before. `on_losses` gets
    /// the means of each batch ([`crate::loss`]), in order, a few at a time; an error from it ends the epoch.
    ///
    /// # Errors
    /// `on_losses`' own, and whatever the device reports.
    fn train_epoch(
        &mut self,
        order: &[u32],
        updates: u64,
        on_losses: &mut dyn FnMut(&[BatchLoss]) -> Result<()>,
    ) -> Result<()>;

    /// The logits of the whole test set, `[images, classes]`.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn test_logits(&mut self) -> Result<Vec<f64>>;

    /// Parameters and the optimizer's memory.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn state(&mut self) -> Result<State>;

    /// Goes on from `state`.
    fn set_state(&mut self, state: &State);
}

/// How long, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How many times through the training set.
    pub epochs: usize,
    /// The run's seed.
    pub seed: u64,
    /// A new order each epoch, or the file's.
    pub shuffle: bool,
}

impl Schedule {
    /// The order of epoch `epoch`, from 1, over `images` images: a pure function of the seed and the epoch.
    pub fn order(&self, epoch: usize, images: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..images as u32).collect();
        if self.shuffle {
            Philox::new(self.seed, streams::SHUFFLE + epoch as u64).shuffle(&mut order);
        }
        order
    }
}

/// What one epoch came to.
#[derive(Clone, Debug)]
pub struct EpochReport {
    /// From 1.
    pub epoch: usize,
    /// Updates since the run began.
    pub step: usize,
    /// The mass that smoothing moved at the epoch's last step.
    pub label_smoothing: f64,
    /// Mean of the loss over the epoch's images, each with its weight and seen with the parameters of its step. 0 where every
    /// image is ignored.
    pub train_loss: f64,
    /// Mean over the same images of the plain negative log-likelihood, unsmoothed and unweighted.
    pub train_nll: f64,
    /// By how much the loss exceeds the mean entropy of the targets; NaN for a negative epsilon.
    pub train_excess_loss: f64,
    /// On the test set, unsmoothed: its loss is its nll.
    pub test: Metrics,
    /// Training time, without the test.
    pub seconds: f64,
}

/// Watches a run. An error ends the run with that error.
pub trait Observer {
    /// After the losses of a step are known. Epoch and step count from 1, steps over the whole run.
    fn step(&mut self, _epoch: usize, _step: usize, _means: BatchLoss) -> Result<()> {
        Ok(())
    }

    /// After an epoch and its test.
    fn epoch(&mut self, _report: &EpochReport, _backend: &mut dyn Backend) -> Result<()> {
        Ok(())
    }
}

/// Trains from after epoch `done` to the end of the schedule.
///
/// # Errors
/// [`Error::NonFinite`] as soon as a loss is not a number, the test's included; [`Error::Diverged`] as soon as a parameter or
/// the optimizer's memory is not. The backend's and the observer's errors too.
pub fn run(
    backend: &mut dyn Backend,
    setup: &Setup,
    schedule: Schedule,
    done: usize,
    observer: &mut dyn Observer,
) -> Result<()> {
    let images = setup.train.len();
    let steps_per_epoch = images.div_ceil(setup.batch_size);
    for epoch in done + 1..=schedule.epochs {
        let order = schedule.order(epoch, images);
        let first_step = (epoch - 1) * steps_per_epoch;
        let mut step = first_step;
        let (mut sum, mut least, mut weights) = (BatchLoss::default(), 0.0, [0.0; 2]);
        let began = Instant::now();
        backend.train_epoch(&order, first_step as u64, &mut |losses| {
            for &means in losses {
                let batch = order.chunks(setup.batch_size).nth(step - first_step).unwrap_or_default();
                step += 1;
                let BatchLoss { loss, nll, diverged } = means;
                if !loss.is_finite() {
                    return Err(Error::NonFinite { epoch, step, loss, lr: setup.optimizer.lr() });
                }
                if diverged {
                    return Err(Error::Diverged { epoch, step, lr: setup.optimizer.lr() });
                }
                let [weight, counted] = setup.loss.weights(setup.train, batch);
                sum.loss += loss * weight;
                sum.nll += nll * counted;
                weights[0] += weight;
                weights[1] += counted;
                least += setup.loss.entropy(setup.train, batch, step as u64);
                observer.step(epoch, step, means)?;
            }
            Ok(())
        })?;
        let seconds = began.elapsed().as_secs_f64();
        let logits = backend.test_logits()?;
        let test = setup.loss.validate(&logits, &setup.test.labels, setup.net.classes);
        if !test.loss.is_finite() {
            return Err(Error::NonFinite { epoch, step, loss: test.loss, lr: setup.optimizer.lr() });
        }
        let report = EpochReport {
            epoch,
            step,
            label_smoothing: setup.loss.epsilon(step as u64),
            train_loss: mean(sum.loss, weights[0]),
            train_nll: mean(sum.nll, weights[1]),
            train_excess_loss: mean(sum.loss - least, weights[0]),
            test,
            seconds,
        };
        observer.epoch(&report, backend)?;
    }
    Ok(())
}
