//! `smoothcnn train`: the run directory, and what is in it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use smoothcnn::checkpoint::{self, Metadata};
use smoothcnn::metrics;
use smoothcnn::net::Network;
use smoothcnn::ops::optimizer::{Adam, Optimizer, Sgd};
use smoothcnn::smoothing::{Smoothing, Variant};
use smoothcnn::train::{self, Schedule, Setup, State};
use smoothcnn::{Error, Result};

use super::common::{self, DataArgs, DeviceArgs, Precision, SmoothingArgs};
use super::config::{Config, Images, LabelArgs, images, read_config};
use super::record::{INTERRUPTED, Recorder, metrics_file, progress_bar};

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
    #[command(flatten)]
    labels: LabelArgs,
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

pub const CONFIG: &str = "config.toml";
pub const METRICS: &str = "metrics.jsonl";
pub const MODEL: &str = "model.safetensors";
pub const CHECKPOINT: &str = "checkpoint.safetensors";
const FLIPPED: &str = "flipped.txt";

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    let mut config = match &args.resume {
        Some(out) => {
            let config = read_config(&out.join(CONFIG))?;
            Config { epochs: args.epochs.unwrap_or(config.epochs), ..config }
        }
        None => config(&args)?,
    };
    let Images { train, validation, test, flipped } = images(&config)?;
    let measured = validation.as_ref().unwrap_or(&test);
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
        test: measured,
    };
    config.tuning = common::tuning(gpu.as_ref(), &args.device, &setup, config.tuning)?;
    let mut backend = common::backend(gpu.as_ref(), &args.device, config.tuning, config.dtype, setup.clone(), &state)?;

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
    if !flipped.is_empty() {
        let lines: String = flipped.iter().map(|i| format!("{i}\n")).collect();
        checkpoint::write_atomic(&out.join(FLIPPED), lines.as_bytes())?;
    }
    // A second handler cannot be set; in the program there is only this one.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });

    common::note(format_args!(
        "{} parameters, {} training{} and {} test images, batch size {}, {}; run in {}",
        net.parameter_count(),
        train.len(),
        validation.as_ref().map(|held_out| format!(", {} validation", held_out.len())).unwrap_or_default(),
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
        measured: if validation.is_some() { "val" } else { "test" },
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
            let state = backend.state()?;
            if validation.is_some() {
                let setup = Setup { test: &test, ..setup };
                let mut backend =
                    common::backend(gpu.as_ref(), &args.device, config.tuning, config.dtype, setup, &state)?;
                let metrics = metrics::evaluate(&backend.test_logits()?, &test.labels, net.classes, smoothing);
                recorder.last(config.epochs, metrics)?;
            }
            let params = common::tensors(&net, "", &state.params);
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
        labels: args.labels.clone(),
        tuning: None,
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

pub fn write_checkpoint(path: &Path, net: &Network, state: &State, config: &Config, epoch: usize) -> Result<()> {
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
