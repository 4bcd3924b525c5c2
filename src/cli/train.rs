//! `smoothcnn train`: the run directory, the record of the run, and what the user sees of it.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use smoothcnn::checkpoint::{self, Metadata};
use smoothcnn::net::Network;
use smoothcnn::ops::optimizer::{Adam, Optimizer, Sgd};
use smoothcnn::smoothing::{Smoothing, Variant};
use smoothcnn::train::{self, Backend, EpochReport, Observer, Schedule, Setup, State};
use smoothcnn::{Error, Result};

use super::common::{self, DataArgs, DataKind, DeviceArgs, Precision, SmoothingArgs};

/// Trains the seed network and writes the run to a folder: config.toml, metrics.jsonl, model.safetensors.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Times through the training set, those before --resume included [default: 10, or as the resumed run was asked for]
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    epochs: Option<usize>,
    /// Images in a batch
    #[arg(short, long, default_value_t = 64, value_parser = common::at_least_one)]
    batch_size: usize,
    /// Learning rate
    #[arg(long, default_value_t = 1e-3, allow_negative_numbers = true)]
    lr: f64,
    /// Optimizer
    #[arg(long, value_enum, default_value = "adam")]
    opt: OptimizerKind,
    /// SGD's momentum
    #[arg(long, default_value_t = 0.9, allow_negative_numbers = true)]
    momentum: f64,
    /// Nesterov's form of SGD's momentum
    #[arg(long)]
    nesterov: bool,
    /// Weight decay: an L2 term for adam and sgd, decoupled for adamw
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    weight_decay: f64,
    #[command(flatten)]
    smoothing: SmoothingArgs,
    /// Seed of the initial weights and of the order of the images
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Keep the file's order in every epoch
    #[arg(long)]
    no_shuffle: bool,
    /// Start from these weights
    #[arg(long, value_name = "FILE.safetensors")]
    init: Option<PathBuf>,
    /// Mean of the pixels, scaled to 0..1: one value, or one a channel [default: the data set's usual one]
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    mean: Vec<f64>,
    /// Their standard deviation
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    std: Vec<f64>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Precision; f64 on the CPU path
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Precision,
    /// Folder of the run; must not hold one yet [default: the first free of runs/train1, runs/train2, …]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder after its last whole epoch; its config.toml counts, and of the flags only
    /// --epochs, --device, --adapter, --log-every and --json
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "init"])]
    resume: Option<PathBuf>,
    /// Record the loss of every N-th step
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = common::at_least_one)]
    log_every: usize,
    /// Results as JSON, a line for each epoch
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OptimizerKind {
    Adam,
    Adamw,
    Sgd,
}

/// Everything a run depends on, as written to config.toml.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Config {
    version: String,
    data: DataKind,
    data_dir: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_train: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_test: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    init: Option<PathBuf>,
    epochs: usize,
    batch_size: usize,
    label_smoothing: f64,
    smoothing_variant: Variant,
    seed: u64,
    shuffle: bool,
    mean: Vec<f64>,
    std: Vec<f64>,
    dtype: Precision,
    /// What it was trained on.
    backend: String,
    optimizer: Optimizer,
}

impl Config {
    fn data_args(&self) -> DataArgs {
        DataArgs {
            data: self.data,
            data_dir: self.data_dir.clone(),
            limit_train: self.limit_train,
            limit_test: self.limit_test,
        }
    }
}

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
const MODEL: &str = "model.safetensors";
const CHECKPOINT: &str = "checkpoint.safetensors";

/// Set by Ctrl-C, read after every step.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    let mut config = match &args.resume {
        Some(out) => {
            let config = read_config(&out.join(CONFIG))?;
            Config { epochs: args.epochs.unwrap_or(config.epochs), ..config }
        }
        None => config(&args)?,
    };
    let (train, test) = common::load_data(&config.data_args())?;
    let net = Network::seed(train.shape, train.classes)?;
    let smoothing = Smoothing::new(config.smoothing_variant, config.label_smoothing, net.classes)?;
    let normalisation = common::normalisation(config.data, &config.mean, &config.std, train.shape[0])?;
    (config.mean, config.std) = normalisation.iter().map(|&[mean, std]| (mean, std)).unzip();
    let (state, done) = match (&args.resume, &config.init) {
        (Some(out), _) => read_checkpoint(&net, &out.join(CHECKPOINT))?,
        (None, Some(init)) => (common::load_params(&net, init)?.0, 0),
        (None, None) => {
            let params = net.initial_parameters(config.seed).into_iter().map(f64::from).collect();
            let zeros = vec![0.0; net.flat_len()];
            (State { params, first: zeros.clone(), second: zeros }, 0)
        }
    };
    if done > config.epochs {
        let epochs = config.epochs;
        return Err(Error::Usage(format!("--epochs: found {epochs}, expected at least the {done} that are done")));
    }
    let gpu = common::choose_device(&args.device, config.dtype)?;
    config.backend = gpu.as_ref().map_or("cpu".into(), |gpu| smoothcnn::gpu::device::describe(&gpu.info));
    let setup = Setup {
        net: &net,
        batch_size: config.batch_size,
        smoothing,
        optimizer: config.optimizer,
        normalisation,
        train: &train,
        test: &test,
    };
    let mut backend = common::backend(gpu.as_ref(), args.device.kernels, config.dtype, setup.clone(), &state)?;

    let out = match (args.resume, args.out) {
        (Some(out), _) => out,
        (None, Some(out)) => new_run(out)?,
        (None, None) => {
            let free = |i: &usize| !Path::new(&format!("runs/train{i}")).exists();
            let i = (1..).find(free).expect("some number is free");
            new_run(format!("runs/train{i}").into())?
        }
    };
    let text = toml::to_string_pretty(&config).expect("a flat struct of numbers and strings always serialises");
    checkpoint::write_atomic(&out.join(CONFIG), text.as_bytes())?;
    // A second handler cannot be set; in the program there is only this one.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });

    common::note(format_args!(
        "{} parameters, {} training and {} test images, batch size {}, {}; run in {}",
        net.parameter_count(),
        train.len(),
        test.len(),
        config.batch_size,
        loss_line(&smoothing, net.classes),
        out.display()
    ));
    let schedule = Schedule { epochs: config.epochs, seed: config.seed, shuffle: config.shuffle };
    let mut recorder = Recorder {
        metrics: metrics_file(&out.join(METRICS), done)?,
        net: &net,
        config: &config,
        out: &out,
        log_every: args.log_every,
        json: args.json,
        progress: progress_bar(train.len(), config.epochs),
        images: train.len(),
        header_printed: false,
        last_line: Instant::now(),
    };
    let outcome = train::run(backend.as_mut(), &setup, schedule, done, &mut recorder);
    recorder.progress.finish_and_clear();
    recorder.metrics.flush().map_err(Error::io(out.join(METRICS)))?;
    match outcome {
        Err(Error::Interrupted) => {
            if out.join(CHECKPOINT).exists() {
                common::note(format_args!(
                    "stopped; `smoothcnn train --resume {}` goes on after the last whole epoch",
                    out.display()
                ));
            } else {
                common::note(format_args!("stopped before the first epoch was over: there is nothing to go on from"));
            }
            Err(Error::Interrupted)
        }
        Err(error) => Err(error),
        Ok(()) => {
            let params = common::tensors(&net, "", &backend.state()?.params);
            checkpoint::save(&out.join(MODEL), &params, config.dtype.dtype(), &metadata(&config, config.epochs))?;
            common::note(format_args!("model in {}", out.join(MODEL).display()));
            Ok(0)
        }
    }
}

/// The configuration that the flags ask for.
fn config(args: &Args) -> Result<Config> {
    let non_negative = |flag: &str, value: f64| {
        if value.is_finite() && value >= 0.0 {
            Ok(value)
        } else {
            Err(Error::Usage(format!("{flag}: found {value}, expected a number of at least 0")))
        }
    };
    let lr = non_negative("--lr", args.lr)?;
    let weight_decay = non_negative("--weight-decay", args.weight_decay)?;
    let momentum = non_negative("--momentum", args.momentum)?;
    let adam = Adam { lr, weight_decay, ..Adam::default() };
    Ok(Config {
        version: env!("CARGO_PKG_VERSION").into(),
        data: args.data.data,
        data_dir: args.data.data_dir.clone(),
        limit_train: args.data.limit_train,
        limit_test: args.data.limit_test,
        init: args.init.clone(),
        epochs: args.epochs.unwrap_or(10),
        batch_size: args.batch_size,
        label_smoothing: args.smoothing.label_smoothing,
        smoothing_variant: args.smoothing.smoothing_variant,
        seed: args.seed,
        shuffle: !args.no_shuffle,
        mean: args.mean.clone(),
        std: args.std.clone(),
        dtype: args.dtype,
        backend: String::new(),
        optimizer: match args.opt {
            OptimizerKind::Adam => Optimizer::Adam(adam),
            OptimizerKind::Adamw => Optimizer::AdamW(adam),
            OptimizerKind::Sgd => Optimizer::Sgd(Sgd { lr, momentum, nesterov: args.nesterov, weight_decay }),
        },
    })
}

/// What the loss is, with the smoothing's meaning spelled out.
fn loss_line(smoothing: &Smoothing, classes: usize) -> String {
    let Smoothing { variant, epsilon } = smoothing;
    if *epsilon == 0.0 {
        return "plain cross-entropy".into();
    }
    let (name, other, same) = match variant {
        Variant::Uniform => ("uniform", "off-target", epsilon * (classes as f64 - 1.0) / classes as f64),
        Variant::OffTarget => ("off-target", "uniform", epsilon * classes as f64 / (classes as f64 - 1.0)),
    };
    format!("label smoothing {epsilon} {name} (= {same:.4} {other})")
}

fn read_config(path: &Path) -> Result<Config> {
    let text = fs::read_to_string(path).map_err(|e| Error::data(path, format!("{e}: expected the folder of a run")))?;
    toml::from_str(&text).map_err(|e| Error::data(path, e.message().replace('\n', " ")))
}

/// Makes the folder of a new run.
fn new_run(out: PathBuf) -> Result<PathBuf> {
    if out.join(CONFIG).exists() {
        let shown = out.display();
        return Err(Error::Usage(format!(
            "--out {shown}: found a run there, expected a new folder (or --resume {shown})"
        )));
    }
    if out.exists() && !out.is_dir() {
        let source = std::io::Error::new(std::io::ErrorKind::NotADirectory, "found a file, expected a new folder");
        return Err(Error::Io { path: out, source });
    }
    fs::create_dir_all(&out).map_err(Error::io(&out))?;
    Ok(out)
}

fn metadata(config: &Config, epoch: usize) -> Metadata {
    let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
    let variant = config.smoothing_variant.to_possible_value().expect("no variant is hidden");
    Metadata::from([
        ("format".into(), "pt".into()),
        ("epoch".into(), epoch.to_string()),
        ("mean".into(), list(&config.mean)),
        ("std".into(), list(&config.std)),
        ("label_smoothing".into(), config.label_smoothing.to_string()),
        ("smoothing_variant".into(), variant.get_name().into()),
    ])
}

/// The three parts of a checkpoint, by the prefix of their tensors' names.
const PARTS: [&str; 3] = ["", "optimizer.first.", "optimizer.second."];

fn write_checkpoint(path: &Path, net: &Network, state: &State, config: &Config, epoch: usize) -> Result<()> {
    let flats = [&state.params, &state.first, &state.second];
    let tensors: Vec<_> =
        PARTS.iter().zip(flats).flat_map(|(prefix, flat)| common::tensors(net, prefix, flat)).collect();
    checkpoint::save(path, &tensors, config.dtype.dtype(), &metadata(config, epoch))
}

/// The state after the last whole epoch, and which that was.
fn read_checkpoint(net: &Network, path: &Path) -> Result<(State, usize)> {
    let expected: Vec<_> = PARTS.iter().flat_map(|prefix| common::expected(net, prefix)).collect();
    let (tensors, metadata) = checkpoint::load(path, &expected)?;
    let epoch = metadata.get("epoch").and_then(|text| text.parse().ok());
    let epoch = epoch.ok_or_else(|| Error::data(path, "metadata epoch: found no number, expected the epochs done"))?;
    let mut flats = tensors.chunks(net.parameters.len()).map(|part| common::flatten(net, part));
    let mut next = || flats.next().expect("load gives every tensor that is expected");
    Ok((State { params: next(), first: next(), second: next() }, epoch))
}

/// metrics.jsonl, holding the lines of the epochs that are done, ready for more.
fn metrics_file(path: &Path, done: usize) -> Result<std::io::LineWriter<File>> {
    #[derive(Deserialize)]
    struct Line {
        epoch: usize,
    }
    let mut kept = String::new();
    if done > 0 {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        for line in text.lines() {
            // The last line may have been cut off by whatever ended the run.
            if serde_json::from_str::<Line>(line).is_ok_and(|parsed| parsed.epoch <= done) {
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
fn progress_bar(images: usize, epochs: usize) -> ProgressBar {
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
}

#[derive(Serialize)]
struct EpochLine {
    kind: &'static str,
    epoch: usize,
    step: usize,
    train_loss: f64,
    test_loss: f64,
    test_nll: f64,
    test_accuracy: f64,
    test_ece: f64,
    test_brier: f64,
    test_mean_confidence: f64,
    seconds: f64,
    images_per_second: f64,
}

/// Writes the record and shows the progress.
struct Recorder<'a> {
    metrics: std::io::LineWriter<File>,
    net: &'a Network,
    config: &'a Config,
    out: &'a Path,
    log_every: usize,
    json: bool,
    progress: ProgressBar,
    images: usize,
    header_printed: bool,
    last_line: Instant,
}

impl Recorder<'_> {
    fn record(&mut self, line: &impl Serialize) -> Result<()> {
        writeln!(self.metrics, "{}", common::to_json(line)).map_err(Error::io(self.out.join(METRICS)))
    }
}

impl Observer for Recorder<'_> {
    fn step(&mut self, epoch: usize, step: usize, loss: f64) -> Result<()> {
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
            self.record(&StepLine { kind: "step", epoch, step, loss })?;
        }
        Ok(())
    }

    fn epoch(&mut self, report: &EpochReport, backend: &mut dyn Backend) -> Result<()> {
        let test = &report.test;
        let line = EpochLine {
            kind: "epoch",
            epoch: report.epoch,
            step: report.step,
            train_loss: report.train_loss,
            test_loss: test.loss,
            test_nll: test.nll,
            test_accuracy: test.accuracy,
            test_ece: test.ece,
            test_brier: test.brier,
            test_mean_confidence: test.mean_confidence,
            seconds: report.seconds,
            images_per_second: self.images as f64 / report.seconds,
        };
        self.record(&line)?;
        write_checkpoint(&self.out.join(CHECKPOINT), self.net, &backend.state()?, self.config, report.epoch)?;
        // The record is on the disk: a reader that went away does not end the training.
        let show = || -> Result<bool> {
            if self.json {
                return common::print_if_read(common::to_json(&line));
            }
            if !self.header_printed {
                common::print_if_read("epoch  train loss  test loss  test nll  accuracy     ece  images/s")?;
            }
            common::print_if_read(format_args!(
                "{:>5}  {:>10.4}  {:>9.4}  {:>8.4}  {:>7.2}%  {:>6.4}  {:>8.0}",
                line.epoch,
                line.train_loss,
                line.test_loss,
                line.test_nll,
                100.0 * line.test_accuracy,
                line.test_ece,
                line.images_per_second
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
