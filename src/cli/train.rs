//! `smoothcnn train`.

use std::io::Read;
use std::path::{Path, PathBuf};

use smoothcnn::data::format::Pictures;
use smoothcnn::data::source::{DataChoice, Wanted};
use smoothcnn::report::run::RunReport;
use smoothcnn::report::run_page;
use smoothcnn::study::entry::{self, SweepEntry};
use smoothcnn::train::best::BestBy;
use smoothcnn::train::config::Config;
use smoothcnn::train::runs::{self, Folder, Options};
use smoothcnn::{Error, Result, input};

use super::common::{self, DeviceArgs};
use super::config::{RunArgs, Varied};
use super::given::Given;
use super::screen::Screen;

/// Trains a network and writes the run to a folder: config.toml, metrics.jsonl, model.safetensors, with
/// --val-split best.safetensors too.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Epsilon: how much of the target's mass is spread; 0 is plain cross-entropy [default: 0.1; 0 for other losses]
    #[arg(long, value_name = "E", allow_negative_numbers = true)]
    label_smoothing: Option<f64>,
    /// Flip this share of the training labels (those held out stay as they are); flipped.txt lists which
    /// [default: 0]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    label_noise: Option<f64>,
    /// Seed of the initial weights, of the order of the images, of the split and of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// By which measure of the images held out an epoch is the best: its weights go to best.safetensors, and are
    /// measured on the test set at the end. refined-nll is the nll after a temperature fitted on the same images; with
    /// --ema, the measures that begin with ema- choose by the weights' moving average, and take it; last chooses
    /// nothing: the last epoch is measured [default: nll]
    #[arg(long, value_enum, value_name = "MEASURE")]
    best_by: Option<BestBy>,
    /// End the run after N epochs that are no better than the best one; 0: never [default: 0]
    #[arg(long, value_name = "N", value_parser = common::count)]
    patience: Option<usize>,
    /// Write a checkpoint after every N epochs; 0: only at the end, and where a signal ends the run [default: 1]
    #[arg(long, value_name = "N", value_parser = common::count)]
    checkpoint_every: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Train an entry of `smoothcnn sweep plan` and measure it for the study: a file, or - for standard input. Nothing
    /// is done where it is done, and an interrupted run goes on. Of the other flags only --index, --device, --adapter,
    /// --kernels, --tiles, --autotune, --log-every, --tensorboard and --json may be given
    #[arg(long, value_name = "FILE", conflicts_with_all = ["out", "resume"])]
    entry: Option<PathBuf>,
    /// Which entry of a plan, from 0
    #[arg(long, value_name = "N", requires = "entry")]
    index: Option<usize>,
    /// Folder of the run: a new or an empty one, or one with a run that was ended before its first checkpoint [default:
    /// the first free of runs/train1, runs/train2, …]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder, from its checkpoint
    ///
    /// Its config.toml counts: a flag with another value is refused, but for --epochs (those done included),
    /// --patience, --checkpoint-every, --data-dir, where its data has moved, --log-every, --tensorboard (which it
    /// keeps), --json, and --device, --adapter, --kernels, --tiles and --autotune, without which the run keeps its kind
    /// of device, its kernels and, where the device runs it, their form: others round differently
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    resume: Option<PathBuf>,
    /// Go on though the images are not those that the run began with: its steps are counted as if they had always been
    /// these
    #[arg(long, requires = "resume")]
    allow_changed_data: bool,
    /// Record the loss of every N-th step
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = common::at_least_one)]
    log_every: usize,
    /// Write the record for TensorBoard too
    #[arg(long)]
    tensorboard: bool,
    /// Results as JSON, a line for each epoch
    #[arg(long)]
    json: bool,
}

/// The flags that do not change what is computed, but for rounding.
const DEVICE: [&str; 8] =
    ["--device", "--adapter", "--kernels", "--tiles", "--autotune", "--log-every", "--tensorboard", "--json"];

/// The flags that a run may go on with, though it began without them.
const CHANGES: [&str; 5] = ["--epochs", "--patience", "--checkpoint-every", "--data-dir", "--allow-changed-data"];

/// Runs the command.
pub fn run(args: Args, given: &Given) -> Result<u8> {
    let Args { run, label_smoothing, label_noise, seed, .. } = args;
    let options = Options { device: args.device.device(), log_every: args.log_every, tensorboard: args.tensorboard };
    // What is in no configuration is said again.
    let own_flags = own_flags(&args.device, args.log_every, given);
    let resumed = move |out: &Path| format!("train --resume {}{own_flags}", common::quoted(out));
    if let Some(path) = args.entry {
        given.only("--entry", &[&["--index"], &DEVICE[..]].concat())?;
        let entry = entry_of(&path, args.index)?;
        // The same again: it goes on, and is measured then.
        let again = std::env::args_os().skip(1).map(common::quoted).collect::<Vec<_>>().join(" ");
        let screen = Screen::new(args.json, move |_| again.clone());
        screen.show(|screen| entry::run(&entry, &options, screen))?;
        return Ok(0);
    }
    let (folder, mut config) = match (args.resume, args.out) {
        (Some(out), _) => {
            let (folder, mut config) = Folder::resume(&out)?;
            let varied = Varied {
                label_smoothing: label_smoothing.unwrap_or(0.0),
                label_noise: label_noise.unwrap_or(0.0),
                seed,
            };
            keeps(&config, &run, varied, args.best_by, given)?;
            // Flags of pictures are as the run has them.
            let wanted = Wanted { pictures: Pictures::default(), ..run.data.wanted() };
            config.move_data(&wanted, args.allow_changed_data)?;
            config.epochs = run.epochs.unwrap_or(config.epochs);
            (folder, config)
        }
        (None, out) => {
            run.check_noise(label_noise.is_some())?;
            let label_smoothing = label_smoothing.unwrap_or(run.loss.kind.usual_epsilon());
            let config = run.config(Varied { label_smoothing, label_noise: label_noise.unwrap_or(0.0), seed })?;
            (out.map_or(Folder::Free, Folder::New), Config { best_by: args.best_by, ..config })
        }
    };
    if let Some(patience) = args.patience {
        config.patience = (patience > 0).then_some(patience);
    }
    config.checkpoint_every = args.checkpoint_every.unwrap_or(config.checkpoint_every);
    let run = Screen::new(args.json, resumed).show(|screen| runs::train(config, folder, &options, screen))?;
    let report = RunReport::of(&run)?;
    common::note(format_args!("report in {}", run_page::write(&report)?.display()));
    common::note(format_args!("result: {}", run_page::in_words(&report).join("\n        ")));
    common::note(format_args!("next: smoothcnn eval --model {}", common::quoted(run.folder.path())));
    Ok(0)
}

/// The given flags of [`DEVICE`], as they are given again.
fn own_flags(device: &DeviceArgs, log_every: usize, given: &Given) -> String {
    let mut flags = device.flags();
    flags.extend(["--log-every".into(), log_every.to_string()]);
    let mut text: String = flags
        .chunks(2)
        .filter(|flag| given.has(&flag[0]))
        .map(|flag| format!(" {} {}", flag[0], common::quoted(&flag[1])))
        .collect();
    if given.has("--json") {
        text += " --json";
    }
    text
}

/// Refuses what was given to a run that goes on, and is not as the run has it.
fn keeps(config: &Config, run: &RunArgs, varied: Varied, best_by: Option<BestBy>, given: &Given) -> Result<()> {
    let may_change = [&CHANGES[..], &DEVICE].concat();
    let flags = given.beside("--resume", &may_change);
    let mut asked = run.clone().beside(config, given).config(varied)?;
    asked.best_by = best_by;
    if !matches!(run.data.data, Some(DataChoice::At(_))) {
        asked.data_dir.clone_from(&config.data_dir);
    }
    let unknown = config.refuse_changes(&asked, &flags)?;
    given.without("--resume", &unknown)
}

/// The entry in a file, `-` being standard input.
fn entry_of(path: &Path, index: Option<usize>) -> Result<SweepEntry> {
    if path != Path::new("-") {
        return entry::read(path, index);
    }
    let mut text = String::new();
    let read = std::io::stdin().take(input::TEXT).read_to_string(&mut text);
    read.map_err(|e| Error::data(path, format!("{e}: expected {}", entry::EXPECTED)))?;
    entry::parse(path, &text, index)
}
