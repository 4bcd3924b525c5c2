//! `smoothcnn lr-find`.

use std::path::PathBuf;

use smoothcnn::fs::write_output;
use smoothcnn::report::run_plots;
use smoothcnn::train::listener::Listener;
use smoothcnn::train::lr_find::{RangeTest, Rates, Tried, find};
use smoothcnn::{Error, Result};

use super::common::{self, DeviceArgs, ReadingBar};
use super::config::{RunArgs, Varied};
use super::given::Given;

/// Looks for a learning rate: trains for a moment with a rate that grows from step to step, and prints the loss of
/// each.
///
/// Smith's range test, as in PyTorch Lightning: the suggestion is the rate at which the smoothed loss falls fastest. It
/// is a place to begin; with a schedule, rates up to some times as high often do well. Nothing is saved.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Epsilon: how much of the target's mass is spread; 0 is plain cross-entropy [default: 0.1; 0 for other losses]
    #[arg(long, value_name = "E", allow_negative_numbers = true)]
    label_smoothing: Option<f64>,
    /// Seed of the initial weights and of the order of the images
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The first rate
    #[arg(long, value_name = "LR", default_value_t = 1e-6, allow_negative_numbers = true)]
    from: f64,
    /// The last rate
    #[arg(long, value_name = "LR", default_value_t = 1.0, allow_negative_numbers = true)]
    to: f64,
    /// How many rates, a step each; no more than an epoch has steps
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = common::at_least_one)]
    steps: usize,
    #[command(flatten)]
    device: DeviceArgs,
    /// Draw the losses over the rates
    #[arg(long, value_name = "FILE.svg")]
    svg: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// The flags of a run that have no effect here.
const IDLE: [&str; 13] = [
    "--lr",
    "--epochs",
    "--lr-schedule",
    "--lr-epochs",
    "--warmup-epochs",
    "--warmup-steps",
    "--warmup-lr",
    "--min-lr",
    "--decay-epochs",
    "--decay-rate",
    "--ema",
    "--noise",
    "--teacher",
];

/// Tells people what is read and chosen.
struct Notes(ReadingBar);

impl Listener for Notes {
    fn note(&self, line: &str) {
        common::note(line);
    }

    fn reading(&self, done: usize, all: usize) {
        self.0.show(done, all);
    }
}

/// Runs the command.
pub fn run(args: Args, given: &Given) -> Result<u8> {
    given.without("lr-find", &IDLE)?;
    let label_smoothing = args.label_smoothing.unwrap_or(args.run.loss.kind.usual_epsilon());
    let config = args.run.config(Varied { label_smoothing, label_noise: 0.0, seed: args.seed })?;
    let test = RangeTest { from: args.from, to: args.to, steps: args.steps };
    let rates = find(config, &args.device.device(), test, &Notes(ReadingBar::default()))?;
    if let Some(path) = &args.svg {
        write_output(path, run_plots::rates(&rates)?.as_bytes())?;
    }
    if args.json {
        common::print_json(&rates)?;
    } else {
        show(&rates)?;
    }
    if rates.steps.is_empty() {
        return Err(Error::Usage(format!("--from: found {}, with which no loss is a number", args.from)));
    }
    Ok(0)
}

fn show(rates: &Rates) -> Result<()> {
    common::print(format_args!("{:>12}  {:>10}  {:>10}", "lr", "loss", "smoothed"))?;
    for Tried { lr, loss, smoothed } in &rates.steps {
        common::print(format_args!("{lr:>12.3e}  {loss:>10.4}  {smoothed:>10.4}"))?;
    }
    if rates.ended_early {
        common::note("ended early: the loss grew to four times its least");
    }
    match rates.suggestion {
        Some(lr) => common::print(format_args!("suggestion: --lr {lr:.2e}, where the smoothed loss falls fastest")),
        None => common::print("no suggestion: too few steps; give more --steps, or data for them"),
    }
}
