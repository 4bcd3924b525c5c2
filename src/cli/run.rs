//! A training run: its folder, and what is in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use smoothcnn::backend::gpu::Gpu;
use smoothcnn::data::Dataset;
use smoothcnn::fs::write_atomic;
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::loss::{Form, Loss};
use smoothcnn::measure::loss::{of_validation, taking_part};
use smoothcnn::network::Network;
use smoothcnn::ops::IGNORED;
use smoothcnn::train::checkpoint::{self, Metadata};
use smoothcnn::train::run_folder::{CONFIG, FLIPPED, MODEL, OwnFolder};
use smoothcnn::train::{self, Progress, Schedule, Setup, State};
use smoothcnn::{Error, Result};

use super::common::{self, DeviceArgs};
use super::config::{Config, Images, images};
use super::record::{Recorder, progress_bar};
use super::saved::{self, Saved};
use super::{model, signals};

/// Where a run's folder is.
pub enum Folder {
    /// Here; it must not hold a run yet.
    New(PathBuf),
    /// The first free of runs/train1, runs/train2, …
    Free,
    /// Here, for a new run.
    Taken(OwnFolder),
    /// Here, where a run is to go on from its checkpoint; from the beginning, if it has none.
    Resumed(OwnFolder),
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
    pub folder: OwnFolder,
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
        taking_part(self.loss.form(), logits, labels, self.net.classes)
    }

    fn outputs(&self, net: &Network, state: &State, images: &Dataset) -> Result<Vec<f64>> {
        let nothing = images.subset(&[]);
        let setup = Setup {
            seed: 0,
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
    let other_data = config.data_set.as_ref().is_some_and(|record| *record != images.record);
    config.data_set = Some(images.record.clone());
    let Images { train, validation, test, flipped, .. } = &images;
    let measured = validation.as_ref().unwrap_or(test);
    let net = Network::seed(train.shape, train.classes)?;
    smoothcnn::backend::cpu::memory::check_state(&net, true)?;
    let loss = config.loss(&images)?;
    let normalisation = config.normalisation(train)?;
    (config.mean, config.std) = normalisation.iter().map(|&[mean, std]| (mean, std)).unzip();
    let steps_per_epoch = train.len().div_ceil(config.batch_size);
    let Saved { state, progress, epochs } = match &folder {
        Folder::Resumed(folder) => from_checkpoint(&config, folder.path(), &net, steps_per_epoch)?,
        _ => beginning(&config, &net)?,
    };
    if other_data && progress.steps > 0 {
        let found = format!("found a checkpoint of step {} within an epoch", progress.steps);
        return Err(Error::Usage(format!(
            "--allow-changed-data: {found}, whose other images are not known; expected one of a whole epoch"
        )));
    }
    let done = progress.epochs + usize::from(progress.steps > 0);
    if done > config.epochs {
        let epochs = config.epochs;
        return Err(Error::Usage(format!(
            "--epochs: found {epochs}, expected at least the {done} that are done or begun"
        )));
    }
    let resumed = matches!(folder, Folder::Resumed(_));
    let asked = if resumed { options.device.resumed(&config.backend) } else { options.device.clone() };
    let mut gpu = common::choose_device(&asked, config.dtype)?;
    let device = DeviceArgs {
        kernels: Some(asked.kernels.or(config.kernels).unwrap_or(common::usual_kernels(config.dtype))),
        ..asked
    };
    config.kernels = device.kernels;
    common::check_activations(config.activations, gpu.is_some(), device.kernels.unwrap_or_default())?;
    if resumed {
        common::check_resumed(&device, gpu.as_deref(), &config.backend)?;
    }
    config.backend = common::backend_name(gpu.as_deref());
    let loss = match &config.loss.teacher {
        Some(path) => loss.with_teacher(teacher_logits(path, &config, &net, train, (&gpu, &device))?.into())?,
        None => loss,
    };
    let setup = Setup {
        seed: config.seed,
        net: &net,
        batch_size: config.batch_size,
        loss: loss.clone(),
        optimizer: config.optimizer,
        normalisation,
        train,
        test: measured,
    };
    config.tuning = common::tuning(gpu.as_ref(), &device, &setup, config.activations, config.tuning)?;
    let Config { activations, tuning, dtype, .. } = config;
    let backend_on = |gpu: &Option<Arc<Gpu>>, state: &State| {
        common::backend_storing(activations, gpu.as_ref(), &device, tuning, dtype, setup.clone(), state)
    };
    let mut backend = backend_on(&gpu, &state)?;

    let folder = match folder {
        Folder::Resumed(folder) | Folder::Taken(folder) => folder,
        Folder::New(out) => OwnFolder::new_run(&out)?,
        Folder::Free => OwnFolder::first_free(Path::new("runs"), "train")?,
    };
    let out = folder.path();
    if !folder.is_locked() {
        let shown = out.display();
        common::note(format_args!(
            "{shown}: this file system has no locks: see to it that no other process works there"
        ));
    }
    let text = toml::to_string_pretty(&config).expect("a flat struct of numbers and strings always serialises");
    write_atomic(&out.join(CONFIG), text.as_bytes())?;
    if !flipped.is_empty() {
        let lines: String = flipped.iter().map(|flip| format!("{}\n", flip.file_index)).collect();
        write_atomic(&out.join(FLIPPED), lines.as_bytes())?;
    }
    let ending_well = signals::ending_well();

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
    let metadata = |epoch: usize| metadata(&config, &loss, epoch);
    let mut recorder = Recorder {
        metrics: saved::record(out, &progress, &epochs, steps_per_epoch, common::note)?,
        net: &net,
        config: &config,
        metadata: &metadata,
        out,
        epochs,
        log_every: options.log_every,
        json: options.json,
        progress: progress_bar(train.len(), config.epochs),
        images: train.len(),
        measured: if validation.is_some() { "val" } else { "test" },
        header_printed: false,
        printing: true,
        #[cfg(debug_assertions)]
        gpu: gpu.clone(),
        last_line: Instant::now(),
    };
    let mut outcome = train::run(backend.as_mut(), &setup, schedule, progress, &mut recorder);
    if let (Err(Error::DeviceLost(why)), Some(lost)) = (&outcome, &gpu) {
        // Once: drivers reset devices, and a device that does so again would do it for ever.
        common::note(format_args!("the GPU device was lost: {why}; opened again, from the last checkpoint on"));
        let again = Some(Arc::new(lost.reopen()?));
        drop(backend);
        let Saved { state, progress, epochs } = from_checkpoint(&config, out, &net, steps_per_epoch)?;
        backend = backend_on(&again, &state)?;
        gpu = again;
        recorder.metrics = saved::record(out, &progress, &epochs, steps_per_epoch, common::note)?;
        recorder.epochs = epochs;
        outcome = train::run(backend.as_mut(), &setup, schedule, progress, &mut recorder);
    }
    recorder.progress.finish_and_clear();
    if matches!(outcome, Err(Error::Interrupted(_))) {
        say_how_to_go_on(out);
    }
    outcome?;

    // The model is safe before anything else is done.
    let state = backend.state()?;
    let params = common::tensors(&net, "", &state.params);
    checkpoint::save(&out.join(MODEL), &params, config.dtype.dtype(), &metadata(config.epochs))?;
    drop(ending_well);
    if let Some(signal) = signals::received() {
        say_how_to_go_on(out);
        return Err(Error::Interrupted(signal));
    }
    if validation.is_some() {
        let metrics = of_validation(loss.form(), &backend.logits(test)?, &test.labels, net.classes);
        recorder.last(config.epochs, metrics)?;
    }
    recorder.end()?;
    common::note(format_args!("model in {}", out.join(MODEL).display()));
    drop((backend, recorder));
    Ok(Trained { folder, net, images, loss, config, state, gpu, device })
}

fn say_how_to_go_on(out: &Path) {
    common::note(format_args!("stopped; `smoothcnn train --resume {}` goes on from there", out.display()));
}

/// Where the run in `out` goes on.
fn from_checkpoint(config: &Config, out: &Path, net: &Network, steps_per_epoch: usize) -> Result<Saved> {
    saved::read(out, net, steps_per_epoch)?.map_or_else(|| beginning(config, net), Ok)
}

/// A run before its first step.
fn beginning(config: &Config, net: &Network) -> Result<Saved> {
    let state = match &config.init {
        Some(init) => common::load_params(net, init)?.0,
        None => initial(net, config.seed),
    };
    Ok(Saved { state, progress: Progress::default(), epochs: vec![] })
}

/// A run's first parameters, and an empty optimizer's memory.
fn initial(net: &Network, seed: u64) -> State {
    let zeros = vec![0.0; net.flat_len()];
    let params = net.initial_parameters(seed).into_iter().map(f64::from).collect();
    State { params, first: zeros.clone(), second: zeros }
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
        seed: 0,
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
