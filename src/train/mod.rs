//! Training: what both paths have in common. A [`Trainer`] computes; [`run`] orders the data, checks every loss, and
//! tells an [`Observer`] what happened.

#[cfg(feature = "pictures")]
pub mod answers;
pub mod best;
pub mod checkpoint;
pub mod config;
pub mod conformal_file;
pub mod inference;
pub mod listener;
pub mod lr_find;
pub mod marked;
pub mod model;
mod names;
mod record;
pub mod run_folder;
pub mod runs;
pub mod saved;
pub mod soft_labels;
pub mod store;
pub mod temperature_file;
mod tensorboard;

use std::ops::ControlFlow;
use std::time::Instant;

use crate::backend::{Setup, Trainer};
use crate::loss::{BatchLoss, mean};
use crate::measure::Metrics;
use crate::measure::loss::of_validation;
use crate::rng::{Philox, Stream};
use crate::{Error, Result};

/// How long, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// How many times through the training set.
    pub epochs: usize,
    /// The run's seed.
    pub seed: u64,
    /// A new order each epoch, or the file's.
    pub shuffle: bool,
}

impl Course {
    /// The order of epoch `epoch`, from 1, over `images` images: a pure function of the seed and the epoch.
    pub fn order(&self, epoch: usize, images: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..images as u32).collect();
        if self.shuffle {
            Philox::of(self.seed, Stream::Shuffle(epoch)).shuffle(&mut order);
        }
        order
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Whole epochs that are done.
    pub epochs: usize,
    /// Steps that are done of the epoch after them.
    pub steps: usize,
    /// What those steps came to.
    pub sums: Sums,
}

/// What the means of an epoch are made of, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Of the losses, each with its weight.
    pub loss: f64,
    /// Of the nlls of the images that are not ignored.
    pub nll: f64,
    /// Of the images' weights.
    pub weight: f64,
    /// Images that are not ignored.
    pub counted: f64,
    /// Of the entropies of the targets, each with its weight: the least that the losses can come to.
    pub entropy: f64,
    /// Training time.
    pub seconds: f64,
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
    /// Mean of the loss over the epoch's images, each with its weight and seen with the parameters of its step. 0 where
    /// every image is ignored.
    pub train_loss: f64,
    /// Mean over the same images of the plain negative log-likelihood, unsmoothed and unweighted.
    pub train_nll: f64,
    /// By how much the loss exceeds the mean entropy of the targets; NaN for a negative epsilon.
    pub train_excess_loss: f64,
    /// On the test set, unsmoothed: its loss is its nll.
    pub test: Metrics,
    /// The logits `[images, classes]` that [`Self::test`] measures.
    pub logits: Vec<f64>,
    /// On the test set, by the weights' moving average, where there is one.
    pub ema: Option<Metrics>,
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
    fn epoch(&mut self, _report: &EpochReport, _backend: &mut dyn Trainer) -> Result<()> {
        Ok(())
    }

    /// Whether the run has come to its end ahead of its epochs. Asked between epochs.
    fn is_over(&self) -> bool {
        false
    }

    /// Whether the run is to end after the steps under way. Asked after every few steps.
    fn wants_stop(&self) -> bool {
        false
    }

    /// After the last step of a run that was asked to end: the error that it ends with.
    fn stopped(&mut self, _progress: &Progress, _backend: &mut dyn Trainer) -> Error {
        Error::Interrupted(2)
    }
}

/// Nobody watches.
impl Observer for () {}

/// Trains from `from` to the end of the schedule, or to where the observer finds the run over.
///
/// # Errors
/// [`Error::NonFinite`] as soon as a loss is not a number, the test's included; [`Error::Diverged`] as soon as a
/// parameter or the optimizer's memory is not. The backend's and the observer's errors too; [`Observer::stopped`]'s
/// where it was asked to end.
pub fn run(
    backend: &mut dyn Trainer,
    setup: &Setup,
    schedule: Course,
    from: Progress,
    observer: &mut dyn Observer,
) -> Result<()> {
    let images = setup.train.len();
    let of_update = setup.update_images();
    let steps_per_epoch = images.div_ceil(of_update);
    for epoch in from.epochs + 1..=schedule.epochs {
        let order = schedule.order(epoch, images);
        let first_step = (epoch - 1) * steps_per_epoch;
        let mut at = Progress { epochs: epoch - 1, ..Progress::default() };
        if at.epochs == from.epochs {
            at = from;
        }
        if at.steps == 0 && observer.is_over() {
            break;
        }
        if observer.wants_stop() {
            return Err(observer.stopped(&at, backend));
        }
        let left = &order[images.min(at.steps.saturating_mul(of_update))..];
        let began = Instant::now();
        backend.train_epoch(left, (first_step + at.steps) as u64, &mut |losses| {
            for &means in losses {
                let update = order.chunks(of_update).nth(at.steps).unwrap_or_default();
                at.steps += 1;
                let step = first_step + at.steps;
                let BatchLoss { loss, nll, diverged, .. } = means;
                let lr = || setup.optimizer_at(step as u64).lr();
                if !loss.is_finite() {
                    return Err(Error::NonFinite { epoch, step, loss, lr: lr() });
                }
                if diverged {
                    return Err(Error::Diverged { epoch, step, lr: lr() });
                }
                let Setup { loss: form, train, .. } = setup;
                let [weight, counted] = form.weights(&train.labels, train.classes, update);
                at.sums.loss += loss * weight;
                at.sums.nll += nll * counted;
                at.sums.weight += weight;
                at.sums.counted += counted;
                let t = step as u64;
                for (which, batch) in update.chunks(setup.batch_size).enumerate() {
                    let share = setup.recipe.mix.draw(setup.seed, t, which, train.shape).share;
                    at.sums.entropy += form.mixed_entropy(&train.labels, train.classes, batch, t, share);
                }
                observer.step(epoch, step, means)?;
            }
            Ok(if observer.wants_stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        at.sums.seconds += began.elapsed().as_secs_f64();
        if at.steps < steps_per_epoch {
            return Err(observer.stopped(&at, backend));
        }
        let step = first_step + at.steps;
        let logits = backend.test_logits()?;
        let test = of_validation(setup.loss.form(), &logits, &setup.test.labels, setup.net.classes);
        if !test.loss.is_finite() {
            return Err(Error::NonFinite { epoch, step, loss: test.loss, lr: setup.optimizer_at(step as u64).lr() });
        }
        let measured = |logits: &[f64]| of_validation(setup.loss.form(), logits, &setup.test.labels, setup.net.classes);
        let ema = setup.recipe.ema.map(|_| averaged_logits(backend)).transpose()?.map(|logits| measured(&logits));
        let Sums { loss, nll, weight, counted, entropy, seconds } = at.sums;
        let report = EpochReport {
            epoch,
            step,
            label_smoothing: setup.loss.epsilon(step as u64),
            train_loss: mean(loss, weight),
            train_nll: mean(nll, counted),
            train_excess_loss: setup.loss.excess(loss, entropy, weight),
            test,
            logits,
            ema,
            seconds,
        };
        observer.epoch(&report, backend)?;
    }
    Ok(())
}

/// The logits of the test set by the weights' moving average. The state is what it was.
fn averaged_logits(backend: &mut dyn Trainer) -> Result<Vec<f64>> {
    let state = backend.state()?;
    backend.set_state(&state.averaged());
    let logits = backend.test_logits()?;
    backend.set_state(&state);
    Ok(logits)
}
