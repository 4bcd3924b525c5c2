//! A training run: its folder, and what is in it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use smoothcnn::checkpoint::{self, Metadata};
use smoothcnn::data::Dataset;
use smoothcnn::gpu::Gpu;
use smoothcnn::loss::{Form, Loss};
use smoothcnn::net::Network;
use smoothcnn::ops::IGNORED;
use smoothcnn::smoothing::Smoothing;
use smoothcnn::train::{self, Schedule, Setup, State};
use smoothcnn::{Error, Result};

use super::common::{self, DeviceArgs};
use super::config::{Config, Images, images};
use super::loss::loss;
use super::model;
use super::record::{Recorder, metrics_file, progress_bar, stop_at_interrupt};

pub const CONFIG: &str = "config.toml";
pub const METRICS: &str = "metrics.jsonl";
pub const MODEL: &str = "model.safetensors";
pub const CHECKPOINT: &str = "checkpoint.safetensors";
const FLIPPED: &str = "flipped.txt";

/// Where a run's folder is.
pub enum Folder {
    /// Here; it must not hold a run yet.
    New(PathBuf),
    /// The first free of runs/train1, runs/train2, …
    Free,
    /// Here, where a run is to go on after its last whole epoch.
    Resumed(PathBuf),
}

/// What does not change a run's results.
#[derive(Clone, Debug)]
pub struct Options {
    pub device: DeviceArgs,
    /// The loss of every N-th step is recorded.
    pub log_every: usize,
    /// Results as JSON.
    pub json: bool,
}

/// A run that is over.
pub struct Trained {
    pub out: PathBuf,
    pub net: Network,
    pub images: Images,
    loss: Loss,
    config: Config,
    state: State,
    gpu: Option<Arc<Gpu>>,
    device: DeviceArgs,
}

impl Trained {
    /// The logits of `images`, `[images, classes]`.
    pub fn logits(&self, images: &Dataset) -> Result<Vec<f64>> {
        self.outputs(&self.net, &self.state, images)
    }

    /// What the last layer, a linear one, sees of `images`: `[images, inputs]`.
    pub fn features(&self, images: &Dataset) -> Result<Vec<f64>> {
        let net = self.net.without_last();
        let part = |all: &[f64]| all[..net.flat_len()].to_vec();
        let State { params, first, second } = &self.state;
        let state = State { params: part(params), first: part(first), second: part(second) };
        self.outputs(&net, &state, images)
    }

    /// The weight of the last layer, `[classes, inputs]`, and its inputs; `None` with fewer than `least` classes.
    pub fn last_weight(&self, least: usize) -> Option<(&[f64], usize)> {
        let [.., weight, _bias] = &self.net.parameters[..] else { return None };
        (self.net.classes >= least).then(|| (&self.state.params[weight.range()], weight.fan_in))
    }

    /// What the logits of images with these labels say of the classes that take part: [`smoothcnn::loss::restricted`].
    pub fn measurable(&self, logits: &[f64], labels: &[u32]) -> (Vec<f64>, Vec<u32>, usize) {
        self.loss.form().restricted(logits, labels, self.net.classes)
    }

    fn outputs(&self, net: &Network, state: &State, images: &Dataset) -> Result<Vec<f64>> {
        let nothing = images.subset(&[]);
        let setup = Setup {
            net,
            batch_size: self.config.batch_size,
            loss: Smoothing::NONE.into(),
            optimizer: self.config.optimizer,
            normalisation: self.config.normalisation(images)?,
            train: &nothing,
            test: images,
        };
        let Self { gpu, device, config, .. } = self;
        let Config { activations, tuning, dtype, .. } = *config;
        let mut backend = common::backend_storing(activations, gpu.as_ref(), device, tuning, dtype, setup, state)?;
        common::finite(backend.test_logits()?, net.classes)
    }
}

/// Trains, and writes the run's folder.
pub fn train(mut config: Config, folder: Folder, options: &Options) -> Result<Trained> {
    let images = images(&config)?;
    config.data_set = Some(images.record.clone());
    let Images { train, validation, test, flipped, .. } = &images;
    let measured = validation.as_ref().unwrap_or(test);
    let net = Network::seed(train.shape, train.classes)?;
    smoothcnn::cpu::memory::check_state(&net, true)?;
    let loss = loss(&config, &images)?;
    let normalisation = config.normalisation(train)?;
    (config.mean, config.std) = normalisation.iter().map(|&[mean, std]| (mean, std)).unzip();
    let (state, done) = match (&folder, &config.init) {
        (Folder::Resumed(out), _) => read_checkpoint(&net, &out.join(CHECKPOINT))?,
        (_, Some(init)) => (common::load_params(&net, init)?.0, 0),
        (_, None) => {
            let params = net.initial_parameters(config.seed).into_iter().map(f64::from).collect();
            let zeros = vec![0.0; net.flat_len()];
            (State { params, first: zeros.clone(), second: zeros }, 0)
        }
    };
    if done > config.epochs {
        let epochs = config.epochs;
        return Err(Error::Usage(format!("--epochs: found {epochs}, expected at least the {done} that are done")));
    }
    let resumed = matches!(folder, Folder::Resumed(_));
    let asked = if resumed { options.device.resumed(&config.backend) } else { options.device.clone() };
    let gpu = common::choose_device(&asked, config.dtype)?;
    if resumed {
        common::check_resumed(&asked, gpu.as_deref(), &config.backend)?;
    }
    let device = DeviceArgs {
        kernels: Some(asked.kernels.or(config.kernels).unwrap_or(common::usual_kernels(config.dtype))),
        ..asked
    };
    config.kernels = device.kernels;
    common::check_activations(config.activations, gpu.is_some(), device.kernels.unwrap_or_default())?;
    config.backend = common::backend_name(gpu.as_deref());
    let loss = match &config.loss.teacher {
        Some(path) => loss.with_teacher(teacher_logits(path, &config, &net, train, (&gpu, &device))?.into())?,
        None => loss,
    };
    let setup = Setup {
        net: &net,
        batch_size: config.batch_size,
        loss: loss.clone(),
        optimizer: config.optimizer,
        normalisation,
        train,
        test: measured,
    };
    config.tuning = common::tuning(gpu.as_ref(), &device, &setup, config.activations, config.tuning)?;
    let backend_for = |setup, state| {
        let Config { activations, tuning, dtype, .. } = config;
        common::backend_storing(activations, gpu.as_ref(), &device, tuning, dtype, setup, state)
    };
    let mut backend = backend_for(setup.clone(), &state)?;

    let out = match folder {
        Folder::Resumed(out) => out,
        Folder::New(out) => new_run(out)?,
        Folder::Free => {
            let free = |i: &usize| !Path::new(&format!("runs/train{i}")).exists();
            let i = (1..).find(free).expect("some number is free");
            new_run(format!("runs/train{i}").into())?
        }
    };
    let text = toml::to_string_pretty(&config).expect("a flat struct of numbers and strings always serialises");
    checkpoint::write_atomic(&out.join(CONFIG), text.as_bytes())?;
    if !flipped.is_empty() {
        let lines: String = flipped.iter().map(|flip| format!("{}\n", flip.file_index)).collect();
        checkpoint::write_atomic(&out.join(FLIPPED), lines.as_bytes())?;
    }
    stop_at_interrupt();

    let ignored = train.labels.iter().filter(|&&label| label == IGNORED).count();
    common::note(format_args!(
        "{} parameters, {} training{}{} and {} test images, batch size {}, {}; run in {}",
        net.parameter_count(),
        train.len(),
        if ignored > 0 { format!(" ({ignored} ignored)") } else { String::new() },
        validation.as_ref().map(|held_out| format!(", {} validation", held_out.len())).unwrap_or_default(),
        test.len(),
        config.batch_size,
        config.loss_config().describe(net.classes),
        out.display()
    ));
    let schedule = Schedule { epochs: config.epochs, seed: config.seed, shuffle: config.shuffle };
    let mut recorder = Recorder {
        metrics: metrics_file(&out.join(METRICS), done)?,
        net: &net,
        config: &config,
        loss: &loss,
        out: &out,
        log_every: options.log_every,
        json: options.json,
        progress: progress_bar(train.len(), config.epochs),
        images: train.len(),
        measured: if validation.is_some() { "val" } else { "test" },
        header_printed: false,
        last_line: Instant::now(),
    };
    let outcome = train::run(backend.as_mut(), &setup, schedule, done, &mut recorder);
    recorder.progress.finish_and_clear();
    recorder.metrics.flush().map_err(Error::io(out.join(METRICS)))?;
    if matches!(outcome, Err(Error::Interrupted)) {
        if out.join(CHECKPOINT).exists() {
            let shown = out.display();
            common::note(format_args!(
                "stopped; `smoothcnn train --resume {shown}` goes on after the last whole epoch"
            ));
        } else {
            common::note(format_args!("stopped before the first epoch was over: there is nothing to go on from"));
        }
    }
    outcome?;

    let state = backend.state()?;
    if validation.is_some() {
        let setup = Setup { test, ..setup };
        let mut backend = backend_for(setup, &state)?;
        let metrics = loss.validate(&backend.test_logits()?, &test.labels, net.classes);
        recorder.last(config.epochs, metrics)?;
    }
    let params = common::tensors(&net, "", &state.params);
    checkpoint::save(&out.join(MODEL), &params, config.dtype.dtype(), &metadata(&config, &loss, config.epochs))?;
    common::note(format_args!("model in {}", out.join(MODEL).display()));
    drop((backend, recorder));
    Ok(Trained { out, net, images, loss, config, state, gpu, device })
}

/// A teacher, which must be of the student's own shape and know every class.
pub fn load_teacher(path: &Path, net: &Network) -> Result<(State, Metadata)> {
    let (state, metadata) = common::load_params(net, path)?;
    if model::class_mask(path, &metadata, net.classes)?.is_some() {
        return Err(Error::data(path, "found a model that was trained with a class mask, expected one of every class"));
    }
    Ok((state, metadata))
}

/// A teacher's logits of the training images, `[images, classes]`, from images normalised as in its own training.
fn teacher_logits(
    path: &Path,
    config: &Config,
    net: &Network,
    train: &Dataset,
    (gpu, device): (&Option<Arc<Gpu>>, &DeviceArgs),
) -> Result<Vec<f32>> {
    let (state, metadata) = load_teacher(path, net)?;
    if let Some(of) = model::trained_on(path, &metadata)?.map(|known| known.data).filter(|of| *of != config.data) {
        let [of, own] = [of, config.data].map(|data| data.name());
        common::note(format_args!("teacher: {} was trained on {of}, and here on {own}", path.display()));
    }
    let nothing = train.subset(&[]);
    let setup = Setup {
        net,
        batch_size: config.batch_size,
        loss: Smoothing::NONE.into(),
        optimizer: config.optimizer,
        normalisation: model::trained_normalisation(path, &metadata, config.data, train.shape[0])?,
        train: &nothing,
        test: train,
    };
    // Without the run's tuning, which is not known yet when it begins, and is when it is resumed: the bits stay the same.
    let logits = common::backend(gpu.as_ref(), device, None, config.dtype, setup, &state)?.test_logits()?;
    Ok(logits.into_iter().map(|v| v as f32).collect())
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

fn metadata(config: &Config, loss: &Loss, epoch: usize) -> Metadata {
    let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
    let variant = config.smoothing_variant.to_possible_value().expect("no variant is hidden");
    let mut metadata = Metadata::from([
        ("format".into(), "pt".into()),
        ("epoch".into(), epoch.to_string()),
        ("mean".into(), list(&config.mean)),
        ("std".into(), list(&config.std)),
        ("label_smoothing".into(), config.label_smoothing.to_string()),
        ("smoothing_variant".into(), variant.get_name().into()),
    ]);
    if !config.loss.class_mask.is_empty() {
        let classes: Vec<_> = config.loss.class_mask.iter().map(usize::to_string).collect();
        metadata.insert("class_mask".into(), classes.join(","));
    }
    if let Some(ignored) = config.loss.ignore_index {
        metadata.insert("ignore_index".into(), ignored.to_string());
    }
    if let (Some(_), Form::Weighted(loss)) = (&config.loss.smoothing_prior, loss.form()) {
        metadata.insert("smoothing_prior".into(), list(loss.prior()));
    }
    metadata.extend([config.trained_on().metadata()]);
    metadata
}

/// The three parts of a checkpoint, by the prefix of their tensors' names.
const PARTS: [&str; 3] = ["", "optimizer.first.", "optimizer.second."];

pub fn write_checkpoint(
    path: &Path,
    net: &Network,
    state: &State,
    (config, loss): (&Config, &Loss),
    epoch: usize,
) -> Result<()> {
    // Said here, where it is known why: a file of weights would be refused as bad data.
    state.check(epoch, config.optimizer.lr())?;
    let flats = [&state.params, &state.first, &state.second];
    let tensors: Vec<_> =
        PARTS.iter().zip(flats).flat_map(|(prefix, flat)| common::tensors(net, prefix, flat)).collect();
    checkpoint::save(path, &tensors, config.dtype.dtype(), &metadata(config, loss, epoch))
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
