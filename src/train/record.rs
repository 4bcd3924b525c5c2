//! The record of a run while it trains: a line for every N-th step and for every epoch, and checkpoints.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{LineWriter, Write};
use std::path::Path;
#[cfg(debug_assertions)]
use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::best::{Best, BestBy, waited};
use super::checkpoint::{Dtype, Metadata};
use super::listener::Listener;
use super::run_folder::{BEST, METRICS, RESULTS};
use super::store::{BestWeights, save_model};
use super::tensorboard::EventFile;
use super::{EpochReport, Observer, Progress, saved};
#[cfg(debug_assertions)]
use crate::backend::gpu::Gpu;
use crate::backend::{State, Trainer};
use crate::fs::{remove, write_atomic};
use crate::loss::BatchLoss;
use crate::measure::Metrics;
use crate::network::Network;
use crate::optimizer::{Optimizer, recipe::Recipe};
use crate::parse::to_json;
use crate::{Error, Result};

#[derive(Serialize)]
struct StepLine {
    kind: &'static str,
    epoch: usize,
    step: usize,
    loss: f64,
    nll: f64,
    /// The learning rate of its update.
    lr: f64,
    /// Its momentum (Adam's first beta), where it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    momentum: Option<f64>,
    /// The norm of its gradient before it was clipped, where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    grad_norm: Option<f64>,
}

/// An epoch's line. The measures' names begin with what they were measured on: `test` or `val`.
struct EpochLine<'a> {
    measured: &'a str,
    report: &'a EpochReport,
    refined_nll: Option<f64>,
    images_per_second: f64,
}

impl Serialize for EpochLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", "epoch")?;
        map.serialize_entry("epoch", &self.report.epoch)?;
        map.serialize_entry("step", &self.report.step)?;
        map.serialize_entry("label_smoothing", &self.report.label_smoothing)?;
        map.serialize_entry("train_loss", &self.report.train_loss)?;
        map.serialize_entry("train_nll", &self.report.train_nll)?;
        map.serialize_entry("train_excess_loss", &self.report.train_excess_loss)?;
        let m = &self.report.test;
        for (name, value) in [
            ("nll", m.nll),
            ("accuracy", m.accuracy),
            ("ece", m.ece),
            ("brier", m.brier),
            ("mean_confidence", m.mean_confidence),
        ] {
            map.serialize_entry(&format!("{}_{name}", self.measured), &value)?;
        }
        if let Some(m) = &self.report.ema {
            for (name, value) in [("nll", m.nll), ("accuracy", m.accuracy), ("ece", m.ece)] {
                map.serialize_entry(&format!("{}_ema_{name}", self.measured), &value)?;
            }
        }
        if let Some(refined) = self.refined_nll {
            map.serialize_entry(&format!("{}_refined_nll", self.measured), &refined)?;
        }
        map.serialize_entry("seconds", &self.report.seconds)?;
        map.serialize_entry("images_per_second", &self.images_per_second)?;
        map.end()
    }
}

/// What was held back to the end, measured with the weights of `epoch`. Unsmoothed: the nll is its loss.
#[derive(Serialize)]
struct TestLine {
    kind: &'static str,
    epoch: usize,
    best_by: BestBy,
    epochs: usize,
    ended_by: &'static str,
    #[serde(flatten)]
    metrics: Map<String, Value>,
}

/// Writes the record, and tells the listener of it.
pub(super) struct Recorder<'a> {
    pub metrics: LineWriter<File>,
    /// The same for TensorBoard.
    pub events: Option<EventFile>,
    pub net: &'a Network,
    pub optimizer: Optimizer,
    pub recipe: Recipe,
    pub dtype: Dtype,
    /// A model's, after so many epochs.
    pub metadata: &'a dyn Fn(usize) -> Metadata,
    pub out: &'a Path,
    /// The lines of the epochs that are done, without what a clock measured.
    pub epochs: Vec<Value>,
    /// What chooses the best epoch, where images are held out.
    pub best_by: Option<BestBy>,
    /// The weights of the best epoch so far.
    pub best: Option<BestWeights>,
    /// The run ends after so many epochs that are no better.
    pub patience: Option<usize>,
    /// The epochs that are planned.
    pub planned: usize,
    /// A checkpoint is written after every so many epochs, and at the end.
    pub checkpoint_every: usize,
    /// The logits of the test set by the weights of the last epoch, where no image is held out, once it is done.
    pub last_logits: Option<Vec<f64>>,
    /// The nll of the held-out images' logits after a temperature of their own.
    pub refined_nll: &'a dyn Fn(&[f64]) -> f64,
    pub log_every: usize,
    /// Training images.
    pub images: usize,
    /// What is measured after each epoch: `test` or `val`.
    pub measured: &'static str,
    pub listener: &'a mut dyn Listener,
    /// What the tests take away: see [`Recorder::lose_device`].
    #[cfg(debug_assertions)]
    pub gpu: Option<Arc<Gpu>>,
}

/// In the tests' build: the step after which the device is lost, once.
#[cfg(debug_assertions)]
const LOSE_DEVICE: &str = "SMOOTHCNN_LOSE_DEVICE_AFTER_STEP";

impl Recorder<'_> {
    #[cfg(debug_assertions)]
    fn lose_device(&mut self, step: usize) {
        let at = std::env::var(LOSE_DEVICE).ok().and_then(|step| step.parse().ok());
        if let (true, Some(gpu)) = (at == Some(step), &self.gpu) {
            gpu.device.destroy();
            self.gpu = None;
        }
    }

    /// Adds a line, and gives it.
    fn record(&mut self, line: &impl Serialize) -> Result<String> {
        let line = to_json(line);
        writeln!(self.metrics, "{line}").map_err(Error::io(self.out.join(METRICS)))?;
        if let Some(events) = &mut self.events {
            events.add(&line)?;
        }
        Ok(line)
    }

    /// The record, whole and on the disk.
    pub fn end(&mut self) -> Result<()> {
        let written = self.metrics.flush().and_then(|()| self.metrics.get_ref().sync_all());
        written.map_err(Error::io(self.out.join(METRICS)))
    }

    /// Writes a checkpoint. The record is on the disk before it.
    fn save(&mut self, progress: &Progress, state: &State) -> Result<()> {
        self.end()?;
        let metadata = ((self.metadata)(progress.epochs), self.dtype);
        let weights = (state, self.best.as_ref());
        saved::write(self.out, (self.net, &self.optimizer), weights, metadata, progress, &self.epochs)
    }

    /// The best epoch so far.
    pub fn best_epoch(&self) -> Option<Best> {
        Best::of(&self.epochs, self.best_by?)
    }

    /// How many epochs, the last ones, are no better than the best one, where that ends the run ahead of its epochs.
    pub fn out_of_patience(&self) -> Option<usize> {
        let waited = waited(&self.epochs, self.best_epoch());
        (self.epochs.len() < self.planned && self.patience.is_some_and(|patience| waited >= patience)).then_some(waited)
    }

    /// Writes what the epochs so far came to, for a run that goes on: the files of one that was killed may be older
    /// than its checkpoint, or of an epoch that is lost.
    pub fn write_past(&self) -> Result<()> {
        self.write_results()?;
        self.write_best()
    }

    /// Writes the best weights so far.
    fn write_best(&self) -> Result<()> {
        let path = self.out.join(BEST);
        match &self.best {
            Some(best) => save_model(&path, self.net, &best.state, self.dtype, &(self.metadata)(best.epoch)),
            None => remove(&path),
        }
    }

    /// The epochs so far as a table: without what a clock measured, so that a run that went on has the same.
    fn write_results(&self) -> Result<()> {
        let path = self.out.join(RESULTS);
        if self.epochs.is_empty() {
            return remove(&path);
        }
        let first_columns = ["epoch", "step"];
        // A measure may be no number in some epochs.
        let measures = self.epochs.iter().flat_map(Value::as_object).flatten().filter(|(_, value)| value.is_number());
        let others: BTreeSet<&str> = measures.map(|(name, _)| &name[..]).collect();
        let others = others.into_iter().filter(|name| !first_columns.contains(name));
        let columns: Vec<&str> = first_columns.into_iter().chain(others).collect();
        let row = |epoch: &Value| {
            let cells = columns.iter().map(|column| match &epoch[*column] {
                Value::Number(number) => number.to_string(),
                _ => String::new(),
            });
            cells.collect::<Vec<_>>().join(",")
        };
        let lines: Vec<String> = [columns.join(",")].into_iter().chain(self.epochs.iter().map(row)).collect();
        write_atomic(&path, format!("{}\n", lines.join("\n")).as_bytes())
    }

    /// The test set's measures by the weights of `epoch`, where it was held back to the end.
    pub fn last(&mut self, epoch: usize, best_by: BestBy, metrics: &Metrics) -> Result<()> {
        let Ok(Value::Object(mut measures)) = serde_json::to_value(metrics) else {
            unreachable!("a struct of numbers becomes an object")
        };
        measures.retain(|name, _| !["loss", "excess_loss"].contains(&name.as_str()));
        let epochs = self.epochs.len();
        let ended_by = if self.out_of_patience().is_some() { "patience" } else { "epochs" };
        let line = TestLine { kind: "test", epoch, best_by, epochs, ended_by, metrics: measures };
        let line = self.record(&line)?;
        self.listener.test(metrics, &line);
        Ok(())
    }
}

impl Observer for Recorder<'_> {
    fn step(&mut self, epoch: usize, step: usize, means: BatchLoss) -> Result<()> {
        #[cfg(debug_assertions)]
        self.lose_device(step);
        let recorded = step.is_multiple_of(self.log_every);
        self.listener.step(epoch, &means, recorded);
        if recorded {
            let BatchLoss { loss, nll, grad_norm, .. } = means;
            let optimizer = self.recipe.at(self.optimizer, step as u64);
            let momentum = self.recipe.momentum.map(|_| optimizer.update(step as u64).momentum);
            let lr = optimizer.lr();
            self.record(&StepLine { kind: "step", epoch, step, loss, nll, lr, momentum, grad_norm })?;
        }
        Ok(())
    }

    fn epoch(&mut self, report: &EpochReport, backend: &mut dyn Trainer) -> Result<()> {
        let images_per_second = self.images as f64 / report.seconds;
        let refined = self.best_by == Some(BestBy::RefinedNll);
        let refined_nll = refined.then(|| (self.refined_nll)(&report.logits));
        let line = EpochLine { measured: self.measured, report, refined_nll, images_per_second };
        let text = self.record(&line)?;
        let mut timeless = serde_json::to_value(&line).expect("a map of numbers always serialises");
        for clock in ["seconds", "images_per_second"] {
            timeless[clock] = Value::Null;
        }
        self.epochs.push(timeless);
        self.write_results()?;
        let is_best = self.best_epoch().is_some_and(|best| best.epoch == report.epoch);
        let due = self.checkpoint_every > 0 && report.epoch.is_multiple_of(self.checkpoint_every);
        let saves = due || report.epoch == self.planned || self.is_over();
        let state = if is_best || saves { backend.state()? } else { State::default() };
        if is_best {
            let averaged = self.best_by.is_some_and(BestBy::is_of_average);
            let State { params, buffers, .. } = if averaged { state.averaged() } else { state.clone() };
            let weights = State { params, buffers, ..State::default() };
            self.best = Some(BestWeights { epoch: report.epoch, state: weights });
            self.write_best()?;
        }
        if report.epoch == self.planned && self.best_by.is_none() {
            self.last_logits = Some(report.logits.clone());
        }
        if saves {
            self.save(&Progress { epochs: report.epoch, ..Progress::default() }, &state)?;
        }
        self.listener.epoch(report, &text);
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.out_of_patience().is_some()
    }

    fn wants_stop(&self) -> bool {
        self.listener.wants_stop().is_some()
    }

    fn stopped(&mut self, progress: &Progress, backend: &mut dyn Trainer) -> Error {
        match backend.state().and_then(|state| self.save(progress, &state)) {
            Ok(()) => Error::Interrupted(self.listener.wants_stop().unwrap_or(2)),
            Err(error) => error,
        }
    }
}
