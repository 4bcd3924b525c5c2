//! The record of a training run, and what the user sees of it while it runs.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use smoothcnn::checkpoint;
use smoothcnn::loss::{BatchLoss, Loss};
use smoothcnn::metrics::Metrics;
use smoothcnn::net::Network;
use smoothcnn::train::{Backend, EpochReport, Observer};
use smoothcnn::{Error, Result};

use super::common;
use super::config::Config;
use super::run::{CHECKPOINT, METRICS, write_checkpoint};

/// Set by Ctrl-C, read after every step.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C sets [`INTERRUPTED`]; a second one ends the program at once.
pub fn stop_at_interrupt() {
    // A second handler cannot be set; it would do the same.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
}

/// metrics.jsonl, holding the lines of the epochs that are done, ready for more.
pub fn metrics_file(path: &Path, done: usize) -> Result<std::io::LineWriter<File>> {
    #[derive(Deserialize)]
    struct Line {
        kind: String,
        epoch: usize,
    }
    let mut kept = String::new();
    if done > 0 {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        for line in text.lines() {
            // The last line may have been cut off by whatever ended the run. The test set is measured at the end, anew.
            if serde_json::from_str::<Line>(line).is_ok_and(|l| l.epoch <= done && l.kind != "test") {
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    checkpoint::write_atomic(path, kept.as_bytes())?;
    let file = File::options().append(true).open(path).map_err(Error::io(path))?;
    Ok(std::io::LineWriter::new(file))
}

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
    pub loss: &'a Loss,
    pub out: &'a Path,
    pub log_every: usize,
    pub json: bool,
    pub progress: ProgressBar,
    pub images: usize,
    /// What is measured after each epoch: `test` or `val`.
    pub measured: &'static str,
    pub header_printed: bool,
    pub last_line: Instant,
}

impl Recorder<'_> {
    fn record(&mut self, line: &impl Serialize) -> Result<()> {
        writeln!(self.metrics, "{}", common::to_json(line)).map_err(Error::io(self.out.join(METRICS)))
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
            common::print_if_read(common::to_json(&line))?;
        } else {
            let (accuracy, blank) = (100.0 * accuracy, "");
            common::print_if_read(format_args!(
                " test  {blank:>9}  {blank:>10}  {blank:>9}  {blank:>12}  {nll:>8.4}  {accuracy:>7.2}%  {ece:>6.4}"
            ))?;
        }
        Ok(())
    }
}

impl Observer for Recorder<'_> {
    fn step(&mut self, epoch: usize, step: usize, means: BatchLoss) -> Result<()> {
        let BatchLoss { loss, nll, .. } = means;
        if INTERRUPTED.load(Ordering::SeqCst) {
            return Err(Error::Interrupted);
        }
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
        write_checkpoint(
            &self.out.join(CHECKPOINT),
            self.net,
            &backend.state()?,
            (self.config, self.loss),
            report.epoch,
        )?;
        // The record is on the disk: a reader that went away does not end the training.
        let show = || -> Result<bool> {
            if self.json {
                return common::print_if_read(common::to_json(&line));
            }
            if !self.header_printed {
                common::print_if_read(format_args!(
                    "epoch  smoothing  train loss  train nll  train excess  {:>8}  accuracy     ece  images/s",
                    format!("{} nll", self.measured)
                ))?;
            }
            common::print_if_read(format_args!(
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
            ))
        };
        // On a terminal the bar and the results share the screen: the bar steps aside.
        if std::io::stdout().is_terminal() {
            self.progress.suspend(show)?;
        } else {
            show()?;
        }
        self.header_printed = true;
        self.progress.set_message(format!("{}/{}", report.epoch + 1, self.config.epochs));
        self.progress.reset();
        Ok(())
    }
}
