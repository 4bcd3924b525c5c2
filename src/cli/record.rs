//! The record of a training run, and what the user sees of it while it runs.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
#[cfg(debug_assertions)]
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
#[cfg(debug_assertions)]
use smoothcnn::backend::gpu::Gpu;
use smoothcnn::loss::BatchLoss;
use smoothcnn::measure::Metrics;
use smoothcnn::network::Network;
use smoothcnn::train::checkpoint::Metadata;
use smoothcnn::train::run_folder::METRICS;
use smoothcnn::train::{Backend, EpochReport, Observer, Progress};
use smoothcnn::{Error, Result};

use super::config::Config;
use super::{common, saved, signals};

/// Where standard error is no terminal, a plain line says this often how far it is.
const PLAIN_LINE_EVERY: Duration = Duration::from_secs(10);

/// Images done in the epoch under way; hidden where standard error is no terminal.
pub fn progress_bar(images: usize, epochs: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(images as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("epoch {msg} [{bar:30}] {pos}/{len} {per_sec} eta {eta} loss {prefix}")
        .expect("the template is well formed");
    bar.set_style(style.progress_chars("=> ").with_key(
        "per_sec",
        |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
            // A terminal that cannot be written to shows no progress, which is no reason to stop.
            let _ = write!(out, "{:.0} images/s", state.per_sec());
        },
    ));
    bar.set_message(format!("1/{epochs}"));
    bar
}

#[derive(Serialize)]
struct StepLine {
    kind: &'static str,
    epoch: usize,
    step: usize,
    loss: f64,
    nll: f64,
}

/// An epoch's line. The measures' names begin with what they were measured on: `test` or `val`.
struct EpochLine<'a> {
    measured: &'a str,
    report: &'a EpochReport,
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
        map.serialize_entry("seconds", &self.report.seconds)?;
        map.serialize_entry("images_per_second", &self.images_per_second)?;
        map.end()
    }
}

/// What was held back to the end. Unsmoothed: the nll is its loss.
#[derive(Serialize)]
struct TestLine {
    kind: &'static str,
    epoch: usize,
    #[serde(flatten)]
    metrics: serde_json::Map<String, serde_json::Value>,
}

/// Writes the record and shows the progress.
pub struct Recorder<'a> {
    pub metrics: std::io::LineWriter<File>,
    pub net: &'a Network,
    pub config: &'a Config,
    /// A model's, after so many epochs.
    pub metadata: &'a dyn Fn(usize) -> Metadata,
    pub out: &'a Path,
    /// The lines of the epochs that are done, without what a clock measured.
    pub epochs: Vec<Value>,
    pub log_every: usize,
    pub json: bool,
    pub progress: ProgressBar,
    pub images: usize,
    /// What is measured after each epoch: `test` or `val`.
    pub measured: &'static str,
    pub header_printed: bool,
    /// Whether standard output takes what is printed.
    pub printing: bool,
    /// What the tests take away: see [`Recorder::lose_device`].
    #[cfg(debug_assertions)]
    pub gpu: Option<Arc<Gpu>>,
    pub last_line: Instant,
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

    fn record(&mut self, line: &impl Serialize) -> Result<()> {
        writeln!(self.metrics, "{}", common::to_json(line)).map_err(Error::io(self.out.join(METRICS)))
    }

    /// Prints a line of results. What is printed is in the record as well: that it cannot be printed does not end a training.
    fn print(&mut self, line: impl std::fmt::Display) {
        if !self.printing {
            return;
        }
        match common::print_if_read(line) {
            Ok(read) => self.printing = read,
            Err(error) => {
                self.printing = false;
                common::note(format_args!("{error}; the results are in {} only", self.out.join(METRICS).display()));
            }
        }
    }

    /// The record, whole and on the disk.
    pub fn end(&mut self) -> Result<()> {
        let written = self.metrics.flush().and_then(|()| self.metrics.get_ref().sync_all());
        written.map_err(Error::io(self.out.join(METRICS)))
    }

    /// Writes a checkpoint. The record is on the disk before it.
    fn save(&mut self, progress: &Progress, backend: &mut dyn Backend) -> Result<()> {
        self.end()?;
        let metadata = ((self.metadata)(progress.epochs), self.config.dtype);
        saved::write(self.out, self.net, &backend.state()?, metadata, progress, &self.epochs)
    }

    /// The test set's measures, where it was held back to the end.
    pub fn last(&mut self, epoch: usize, metrics: Metrics) -> Result<()> {
        let Metrics { nll, accuracy, ece, .. } = metrics;
        let Ok(serde_json::Value::Object(mut measures)) = serde_json::to_value(metrics) else {
            unreachable!("a struct of numbers becomes an object")
        };
        measures.retain(|name, _| !["loss", "excess_loss"].contains(&name.as_str()));
        let line = TestLine { kind: "test", epoch, metrics: measures };
        self.record(&line)?;
        if self.json {
            self.print(common::to_json(&line));
        } else {
            let (accuracy, blank) = (100.0 * accuracy, "");
            self.print(format_args!(
                " test  {blank:>9}  {blank:>10}  {blank:>9}  {blank:>12}  {nll:>8.4}  {accuracy:>7.2}%  {ece:>6.4}"
            ));
        }
        Ok(())
    }
}

impl Observer for Recorder<'_> {
    fn step(&mut self, epoch: usize, step: usize, means: BatchLoss) -> Result<()> {
        let BatchLoss { loss, nll, .. } = means;
        #[cfg(debug_assertions)]
        self.lose_device(step);
        self.progress.inc(self.config.batch_size as u64);
        if self.progress.is_hidden() && self.last_line.elapsed() > PLAIN_LINE_EVERY {
            let (done, epochs) = (self.progress.position().min(self.images as u64), self.config.epochs);
            common::note(format_args!("epoch {epoch}/{epochs}: {done} of {} images, loss {loss:.4}", self.images));
            self.last_line = Instant::now();
        }
        if step.is_multiple_of(self.log_every) {
            self.progress.set_prefix(format!("{loss:.4}"));
            self.record(&StepLine { kind: "step", epoch, step, loss, nll })?;
        }
        Ok(())
    }

    fn epoch(&mut self, report: &EpochReport, backend: &mut dyn Backend) -> Result<()> {
        let images_per_second = self.images as f64 / report.seconds;
        let line = EpochLine { measured: self.measured, report, images_per_second };
        self.record(&line)?;
        let mut timeless = serde_json::to_value(&line).expect("a map of numbers always serialises");
        for clock in ["seconds", "images_per_second"] {
            timeless[clock] = Value::Null;
        }
        self.epochs.push(timeless);
        self.save(&Progress { epochs: report.epoch, ..Progress::default() }, backend)?;
        let mut text = String::new();
        if self.json {
            text = common::to_json(&line);
        } else {
            if !self.header_printed {
                text += &format!(
                    "epoch  smoothing  train loss  train nll  train excess  {:>8}  accuracy     ece  images/s\n",
                    format!("{} nll", self.measured)
                );
            }
            text += &format!(
                "{:>5}  {:>9.4}  {:>10.4}  {:>9.4}  {:>12.4}  {:>8.4}  {:>7.2}%  {:>6.4}  {:>8.0}",
                report.epoch,
                report.label_smoothing,
                report.train_loss,
                report.train_nll,
                report.train_excess_loss,
                report.test.nll,
                100.0 * report.test.accuracy,
                report.test.ece,
                images_per_second
            );
        }
        // On a terminal the bar and the results share the screen: the bar steps aside.
        if std::io::stdout().is_terminal() {
            let progress = self.progress.clone();
            progress.suspend(|| self.print(text));
        } else {
            self.print(text);
        }
        self.header_printed = true;
        self.progress.set_message(format!("{}/{}", report.epoch + 1, self.config.epochs));
        self.progress.reset();
        Ok(())
    }

    fn wants_stop(&self) -> bool {
        signals::received().is_some()
    }

    fn stopped(&mut self, progress: &Progress, backend: &mut dyn Backend) -> Error {
        match self.save(progress, backend) {
            Ok(()) => Error::Interrupted(signals::received().unwrap_or(2)),
            Err(error) => error,
        }
    }
}
