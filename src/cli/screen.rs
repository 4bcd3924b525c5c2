//! What the user sees of a training while it runs, and how the user ends it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use smoothcnn::loss::BatchLoss;
use smoothcnn::measure::Metrics;
use smoothcnn::network::Network;
use smoothcnn::train::EpochReport;
use smoothcnn::train::listener::{Begun, Listener};
use smoothcnn::train::run_folder::METRICS;
use smoothcnn::{Error, Result};

use super::signals::EndingWell;
use super::{common, signals};

/// Where standard error is no terminal, a plain line says this often how far it is.
const PLAIN_LINE_EVERY: Duration = Duration::from_secs(10);

/// The images of the whole run, of which `done` are; hidden where standard error is no terminal.
fn progress_bar(images: usize, epochs: usize, done: u64) -> ProgressBar {
    let all = (images * epochs) as u64;
    let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr()).with_position(done);
    let style = ProgressStyle::with_template("epoch {msg} [{bar:20}] {percent}% {per_sec} {eta} left, loss {prefix}")
        .expect("the template is well formed");
    bar.set_style(style.progress_chars("=> ").with_key(
        "per_sec",
        |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
            // A terminal that cannot be written to shows no progress, which is no reason to stop.
            let _ = write!(out, "{:.0} images/s", state.per_sec());
        },
    ));
    bar.reset_eta();
    // Not drawn before the first step: a note comes before it.
    bar.with_message(format!("{}/{epochs}", (done / images.max(1) as u64 + 1).min(epochs as u64)))
}

/// The network, a line a layer: what it gives, and how many trained numbers it has.
fn summary(net: &Network) -> String {
    let [c, h, w] = net.input;
    let wide = net.layers.iter().map(|layer| layer.name.len()).max().unwrap_or(0).max(12);
    let row = |name: &str, output: &str, parameters: &str| format!("{name:<wide$} {output:<16} {parameters:>12}");
    let mut text = row("layer", "output", "parameters");
    let mut add = |line: String| text += &format!("\n{}", line.trim_end());
    add(row("images", &format!("{c}x{h}x{w}"), ""));
    for layer in &net.layers {
        let parameters: usize = net.parameters[layer.parameters.clone()].iter().map(|parameter| parameter.len()).sum();
        let parameters = if parameters == 0 { String::new() } else { parameters.to_string() };
        add(row(&layer.name, &layer.output.to_string(), &parameters));
    }
    add(row("in all", "", &net.parameter_count().to_string()));
    text
}

/// Prints results, and shows the progress.
pub struct Screen {
    json: bool,
    /// Whether standard output takes what is printed.
    printing: bool,
    /// The arguments with which the run in a folder goes on.
    again: Box<dyn Fn(&Path) -> String + Sync>,
    run: Option<Shown>,
    reading: common::ReadingBar,
}

/// A run that is under way.
struct Shown {
    out: PathBuf,
    images: usize,
    update_images: usize,
    epochs: usize,
    measured: &'static str,
    bar: ProgressBar,
    header_printed: bool,
    last_line: Instant,
    /// Until the model is on the disk.
    ending_well: Option<EndingWell>,
}

impl Screen {
    /// Prints JSON, or a table. `again` gives the arguments with which the run in a folder goes on.
    pub fn new(json: bool, again: impl Fn(&Path) -> String + Sync + 'static) -> Self {
        Self { json, printing: true, again: Box::new(again), run: None, reading: common::ReadingBar::default() }
    }

    /// What `work` gives, a run that was told to this screen as its listener.
    pub fn show<T>(mut self, work: impl FnOnce(&mut dyn Listener) -> Result<T>) -> Result<T> {
        let result = work(&mut self);
        if let Some(run) = &self.run {
            run.bar.finish_and_clear();
            if matches!(result, Err(Error::Interrupted(_))) {
                common::note(format_args!("stopped; `smoothcnn {}` goes on from there", (self.again)(&run.out)));
            }
        }
        result
    }

    /// Prints a line of results. What is printed is in the record as well: that it cannot be printed does not end a
    /// training.
    fn print(&mut self, line: impl std::fmt::Display) {
        if !self.printing {
            return;
        }
        match common::print_if_read(line) {
            Ok(read) => self.printing = read,
            Err(error) => {
                self.printing = false;
                let out = self.run.as_ref().map(|run| run.out.join(METRICS)).unwrap_or_default();
                common::note(format_args!("{error}; the results are in {} only", out.display()));
            }
        }
    }
}

impl Listener for Screen {
    fn note(&self, line: &str) {
        common::note(line);
    }

    fn reading(&self, done: usize, all: usize) {
        self.reading.show(done, all);
    }

    fn begins(&mut self, run: &Begun) {
        let Begun { out, images, update_images, epochs, done: (done, steps), net, measured } = *run;
        if std::io::stderr().is_terminal() {
            common::note(summary(net));
        }
        let done = done * images + (steps * update_images).min(images);
        self.run = Some(Shown {
            out: out.to_owned(),
            images,
            update_images,
            epochs,
            measured,
            bar: progress_bar(images, epochs, done as u64),
            header_printed: false,
            last_line: Instant::now(),
            ending_well: Some(signals::ending_well()),
        });
    }

    fn step(&mut self, epoch: usize, BatchLoss { loss, .. }: &BatchLoss, recorded: bool) {
        let Some(run) = &mut self.run else { return };
        run.bar.inc(run.update_images as u64);
        if run.bar.is_hidden() && run.last_line.elapsed() > PLAIN_LINE_EVERY {
            let before = (epoch as u64 - 1) * run.images as u64;
            let done = run.bar.position().saturating_sub(before).min(run.images as u64);
            common::note(format_args!("epoch {epoch}/{}: {done} of {} images, loss {loss:.4}", run.epochs, run.images));
            run.last_line = Instant::now();
        }
        if recorded {
            run.bar.set_prefix(format!("{loss:.4}"));
        }
    }

    fn epoch(&mut self, report: &EpochReport, line: &str) {
        let Some(run) = &mut self.run else { return };
        let bar = run.bar.clone();
        let mut text = String::new();
        if self.json {
            text += line;
        } else {
            if !run.header_printed {
                text += &format!(
                    "epoch       e  train loss     nll  excess  {:>8}  accuracy     ece  images/s\n",
                    format!("{} nll", run.measured)
                );
            }
            run.header_printed = true;
            text += &format!(
                "{:>5}  {:>6.4}  {:>10.4}  {:>6.4}  {:>6.4}  {:>8.4}  {:>7.2}%  {:>6.4}  {:>8.0}",
                report.epoch,
                report.label_smoothing,
                report.train_loss,
                report.train_nll,
                report.train_excess_loss,
                report.test.nll,
                100.0 * report.test.accuracy,
                report.test.ece,
                run.images as f64 / report.seconds
            );
        }
        // The last batch of an epoch may be smaller than the others.
        let done = (report.epoch * run.images) as u64;
        let next = format!("{}/{}", (report.epoch + 1).min(run.epochs), run.epochs);
        // On a terminal the bar and the results share the screen: the bar steps aside.
        if std::io::stdout().is_terminal() {
            bar.suspend(|| self.print(text));
        } else {
            self.print(text);
        }
        bar.set_message(next);
        bar.set_position(done);
    }

    fn saved(&mut self) {
        if let Some(run) = &mut self.run {
            run.bar.finish_and_clear();
            run.ending_well = None;
        }
    }

    fn test(&mut self, Metrics { nll, accuracy, ece, .. }: &Metrics, line: &str) {
        if self.json {
            self.print(line);
        } else {
            let (accuracy, blank) = (100.0 * accuracy, "");
            self.print(format_args!(
                " test  {blank:>6}  {blank:>10}  {blank:>6}  {blank:>6}  {nll:>8.4}  {accuracy:>7.2}%  {ece:>6.4}"
            ));
        }
    }

    fn wants_stop(&self) -> Option<u8> {
        signals::received()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_adds_up() {
        let text = summary(&Network::seed([1, 28, 28], 10).unwrap());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 13, "{text}");
        assert_eq!(lines[2], "conv1        32x28x28                  320");
        assert_eq!(lines[12], "in all                              421642");
        assert!(lines.iter().all(|line| line.len() <= 80), "{text}");
    }
}
