//! `smoothcnn train`.

use std::path::PathBuf;

use smoothcnn::Result;
use smoothcnn::run_folder::{CONFIG, OwnFolder};

use super::common::{self, DeviceArgs};
use super::config::{Config, RunArgs, Varied, read_config};
use super::entry;
use super::run::{self, Folder, Options};

/// Trains the seed network and writes the run to a folder: config.toml, metrics.jsonl, model.safetensors.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Epsilon: how much of the target's mass is spread; 0 is plain cross-entropy [default: 0.1; 0 for other losses]
    #[arg(long, value_name = "E", allow_negative_numbers = true)]
    label_smoothing: Option<f64>,
    /// Flip this share of the training labels (those held out stay as they are); flipped.txt lists which
    #[arg(long, value_name = "RATE", default_value_t = 0.0, allow_negative_numbers = true)]
    label_noise: f64,
    /// Seed of the initial weights, of the order of the images, of the split and of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Train an entry of `smoothcnn sweep plan` and measure it for the study: a file, or - for standard input. Nothing is done
    /// where it is done, and an interrupted run goes on. Of the other flags only --index, --device, --adapter,
    /// --kernels, --tiles, --autotune, --log-every and --json count
    #[arg(long, value_name = "FILE", conflicts_with_all = ["out", "resume"])]
    entry: Option<PathBuf>,
    /// Which entry of a plan, from 0
    #[arg(long, value_name = "N", requires = "entry")]
    index: Option<usize>,
    /// Folder of the run: a new or an empty one, or one with a run that was ended before its first checkpoint [default: the first free of runs/train1, runs/train2, …]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder, from its checkpoint. Its config.toml counts, and of the flags only --epochs (those
    /// done included), --device, --adapter, --log-every, --json, and --kernels, --tiles and --autotune, without which the run
    /// keeps its kernels and, where the device runs it, their form: others round differently
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "init"])]
    resume: Option<PathBuf>,
    /// Record the loss of every N-th step
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = common::at_least_one)]
    log_every: usize,
    /// Results as JSON, a line for each epoch
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    let Args { run, label_smoothing, label_noise, seed, device, entry, index, out, resume, log_every, json } = args;
    let options = Options { device, log_every, json };
    if let Some(path) = entry {
        entry::run(&entry::read(&path, index)?, &options)?;
        return Ok(0);
    }
    // Nobody else may change the run while its configuration is read.
    let resume = resume.map(|out| OwnFolder::open_run(&out)).transpose()?;
    let config = match &resume {
        Some(folder) => {
            let config = read_config(&folder.path().join(CONFIG))?;
            Config { epochs: run.epochs.unwrap_or(config.epochs), ..config }
        }
        None => {
            let label_smoothing = label_smoothing.unwrap_or(run.loss.usual_epsilon());
            run.config(Varied { label_smoothing, label_noise, seed })?
        }
    };
    let folder = match (resume, out) {
        (Some(folder), _) => Folder::Resumed(folder),
        (None, Some(out)) => Folder::New(out),
        (None, None) => Folder::Free,
    };
    run::train(config, folder, &options)?;
    Ok(0)
}
