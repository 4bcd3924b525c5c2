//! For whoever trains into a folder, as the program does: [`train`] begins a run or goes on with one, and tells a
//! [`Listener`] what happens.
//!
//! ```
//! use smoothcnn::backend::device::Device;
//! use smoothcnn::backend::gpu::DeviceKind;
//! use smoothcnn::train::config::Config;
//! use smoothcnn::train::model::{Inference, Model};
//! use smoothcnn::train::run_folder::MODEL;
//! use smoothcnn::train::listener::Listener;
//! use smoothcnn::train::runs::{Folder, Options, train};
//! use smoothcnn::train::EpochReport;
//!
//! /// Keeps the accuracy of each epoch.
//! struct Accuracies(Vec<f64>);
//!
//! impl Listener for Accuracies {
//!     fn epoch(&mut self, report: &EpochReport, _line: &str) {
//!         self.0.push(report.test.accuracy);
//!     }
//! }
//!
//! # fn main() -> smoothcnn::Result<()> {
//! let parent = tempfile::tempdir().expect("room for a folder");
//! let out = parent.path().join("run");
//! let device = Device { kind: DeviceKind::Cpu, ..Device::default() };
//! let options = Options { device: device.clone(), ..Options::default() };
//! let mut found = Accuracies(vec![]);
//!
//! // The built-in digits, a few of them, for an epoch.
//! let config = Config { limit_train: Some(64), limit_test: Some(20), epochs: 1, ..Config::default() };
//! let run = train(config, Folder::New(out.clone()), &options, &mut found)?;
//! // The folder is the run's until it is dropped.
//! drop(run);
//!
//! // The same run goes on, to the end of a second epoch.
//! let (folder, config) = Folder::resume(&out)?;
//! let run = train(Config { epochs: 2, ..config }, folder, &options, &mut found)?;
//! assert_eq!(found.0.len(), 2);
//!
//! // Its file, as anyone finds it later, gives the logits that the run gives.
//! let test = &run.images.test;
//! let model = Model::load(&out.join(MODEL), test.shape, test.classes)?;
//! let how = Inference { device, ..Inference::default() };
//! let logits = model.logits(test, &run.images.normalisation, &how, &|line| println!("{line}"))?;
//! assert_eq!(logits, run.logits(test)?);
//! # Ok(())
//! # }
//! ```

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::best::{Best, BestBy, refined_nll};
use super::checkpoint::Metadata;
use super::config::images::{Images, images};
use super::config::{Config, read_config};
use super::listener::{Begun, Listener};
use super::model::{self, Model, ModelFile, NETWORK};
use super::record::Recorder;
use super::run_folder::{BEST, CHECKPOINT, CONFIG, EVENTS, FLIPPED, MODEL, MODEL_EMA, OwnFolder};
use super::saved::{self, SavedRun};
use super::tensorboard::EventFile;
use super::{Course, Observer, Progress};
use crate::backend::cpu::memory;
use crate::backend::device::{Device, Note, Opened, check_activations, finite};
use crate::backend::{Asked, ImageSet, Setup, State};
use crate::data::Dataset;
use crate::fs::write_atomic;
use crate::loss::{Form, Loss};
use crate::network::Network;
use crate::ops::IGNORED;
use crate::parse::to_json;
use crate::plan::Storage;
use crate::{Error, Result};

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

impl Folder {
    /// The folder of a run that is to go on, and the run's configuration. Nobody else may change the run from here on.
    ///
    /// # Errors
    /// As [`OwnFolder::open_run`] and [`read_config`].
    pub fn resume(path: &Path) -> Result<(Self, Config)> {
        let folder = OwnFolder::open_run(path)?;
        let config = read_config(&path.join(CONFIG))?;
        Ok((Self::Resumed(folder), config))
    }
}

/// What does not change a run's results, but for rounding.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to compute on.
    pub device: Device,
    /// The loss of every N-th step is recorded.
    pub log_every: usize,
    /// The record is written for TensorBoard too. A run that goes on keeps doing so.
    pub tensorboard: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { device: Device::default(), log_every: 50, tensorboard: false }
    }
}

/// A run that is over.
pub struct Trained {
    /// Its folder, which nobody else works in as long as this value lives.
    pub folder: OwnFolder,
    /// Its configuration, as its folder has it.
    pub config: Config,
    /// Its network.
    pub net: Network,
    /// What it was trained and measured on.
    pub images: Images,
    /// Its best epoch, where images were held out to choose it.
    pub best: Option<Best>,
    loss: Loss,
    state: State,
    device: Opened,
    /// [`Self::test_logits`], where the run came to them; not where it was over before.
    test_logits: Option<Vec<f64>>,
}

impl Trained {
    /// The logits of the test set, `[images, classes]`, by the weights that answer for the run: of the best epoch, else
    /// of the last.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn test_logits(&self) -> Result<Cow<'_, [f64]>> {
        match &self.test_logits {
            Some(logits) => Ok(Cow::Borrowed(logits)),
            None => self.logits(&self.images.test).map(Cow::Owned),
        }
    }

    /// The logits of `images`, `[images, classes]`, by the weights of the last epoch.
    ///
    /// # Errors
    /// [`Error::NoNumber`], and whatever the device reports.
    pub fn logits(&self, images: &Dataset) -> Result<Vec<f64>> {
        self.outputs(&self.net, [&self.state.params, &self.state.buffers], images)
    }

    /// What the last layer, a linear one, sees of `images`: `[images, inputs]`.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn features(&self, images: &Dataset) -> Result<Vec<f64>> {
        let net = self.net.without_last();
        let State { params, buffers, .. } = &self.state;
        self.outputs(&net, [&params[..net.flat_len()], &buffers[..net.buffers_len()]], images)
    }

    /// The weight of the last layer, `[classes, inputs]`, and its inputs; `None` with fewer than `least` classes.
    pub fn last_weight(&self, least: usize) -> Option<(&[f64], usize)> {
        let [.., weight, _bias] = &self.net.parameters[..] else { return None };
        (self.net.classes >= least).then(|| (&self.state.params[weight.range()], weight.len() / weight.shape[0]))
    }

    /// What the logits of images with these labels say of the classes that take part: [`crate::loss::restricted`].
    pub fn measurable(&self, logits: &[f64], labels: &[u32]) -> (Vec<f64>, Vec<u32>, usize) {
        crate::measure::loss::taking_part(self.loss.form(), logits, labels, self.net.classes)
    }

    fn outputs(&self, net: &Network, [params, buffers]: [&[f64]; 2], images: &Dataset) -> Result<Vec<f64>> {
        let normalisation = self.config.normalisation(&self.images.normalisation)?;
        let asked = Asked { net, params, buffers, normalisation: &normalisation, batch_size: self.config.batch_size };
        outputs(&self.device, &self.config, &asked, images)
    }
}

fn outputs(device: &Opened, config: &Config, asked: &Asked, images: &Dataset) -> Result<Vec<f64>> {
    let Config { activations, tuning, .. } = *config;
    let mut predictor = device.predictor(activations, tuning, asked, images.len())?;
    finite(predictor.logits(ImageSet::Bytes(images))?, asked.net.classes)
}

/// Trains, and writes the run's folder: [`CONFIG`], [`super::run_folder::METRICS`], checkpoints, [`MODEL`]. Where
/// images are held out, they choose the best epoch, whose weights are [`super::run_folder::BEST`]; the test set is
/// measured once, at the end, with these. With [`BestBy::Last`] nothing is chosen, and the last epoch's are measured.
///
/// # Errors
/// [`Error::Usage`] and [`Error::Data`] for a configuration, data or a folder that is not what it should be, all before
/// anything is written; those of [`super::run`], of the device, and of the disk.
pub fn train(mut config: Config, folder: Folder, options: &Options, listener: &mut dyn Listener) -> Result<Trained> {
    let images = images(&config, &|line| listener.note(line), &|done, all| listener.reading(done, all))?;
    let other_data = config.data_set.as_ref().is_some_and(|record| *record != images.record);
    config.data_set = Some(images.record.clone());
    let Images { train, validation, test, flipped, .. } = &images;
    let measured = validation.as_ref().unwrap_or(test);
    choosing(&mut config, validation.is_some())?;
    if let (Some(init), true) = (&config.init, config.network.is_default()) {
        // Weights say what network they are of.
        config.network = ModelFile::open(init)?.architecture()?;
    }
    let net = config.recipe.sparing(config.network.network(train.shape, train.classes)?);
    net.check_batches(train.len(), config.batch_size)?;
    config.augment.check(train.shape)?;
    memory::check_state(&net, true)?;
    let loss = images.loss(&config)?;
    let normalisation = config.normalisation(&images.normalisation)?;
    (config.mean, config.std) = normalisation.iter().map(|&[mean, std]| (mean, std)).unzip();
    let steps_per_epoch = train.len().div_ceil(config.update_images());
    config.recipe.settle(config.epochs);
    let recipe = config.named(config.recipe.recipe(&config.optimizer, steps_per_epoch, config.epochs))?;
    let SavedRun { state, progress, epochs, best } = match &folder {
        Folder::Resumed(folder) => {
            from_checkpoint(&config, folder.path(), &net, steps_per_epoch, &|line| listener.note(line))?
        }
        _ => beginning(&config, &net, &|line| listener.note(line))?,
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
    let mut device = asked.open(config.dtype, &|line| listener.note(line))?;
    device.kernels = asked.kernels.or(config.kernels).unwrap_or(device.kernels);
    config.kernels = Some(device.kernels);
    check_activations(config.activations, device.gpu.is_some(), device.kernels)?;
    if resumed {
        device.check_resumed(&config.backend, &|line| listener.note(line))?;
    }
    config.backend = device.name();
    let loss = match &config.loss.teacher {
        Some(path) => {
            let logits = teacher_logits(path, &config, &images, &device, &|line| listener.note(line))?;
            loss.with_teacher(logits.into())?
        }
        None => loss,
    };
    let setup = Setup {
        seed: config.seed,
        net: &net,
        batch_size: config.batch_size,
        loss: loss.clone(),
        optimizer: config.optimizer,
        recipe,
        normalisation,
        augment: config.augment,
        train,
        test: measured,
    };
    config.tuning = device.tuning(&setup, config.activations, config.tuning, &|line| listener.note(line))?;
    let Config { activations, tuning, .. } = config;
    let trainer =
        |device: &Opened, state: &State, note: Note| device.trainer(activations, tuning, setup.clone(), state, note);
    let mut backend = trainer(&device, &state, &|line| listener.note(line))?;

    let folder = match folder {
        Folder::Resumed(folder) | Folder::Taken(folder) => folder,
        Folder::New(out) => OwnFolder::new_run(&out)?,
        Folder::Free => OwnFolder::first_free(Path::new("runs"), "train")?,
    };
    let out = folder.path();
    if !folder.is_locked() {
        let shown = out.display();
        listener.note(&format!("{shown}: this file system has no locks: see to it that no other process works there"));
    }
    let text = toml::to_string_pretty(&config).expect("a flat struct of numbers and strings always serialises");
    write_atomic(&out.join(CONFIG), text.as_bytes())?;
    if !flipped.is_empty() {
        let lines: String = flipped.iter().map(|flip| format!("{}\n", flip.file_index)).collect();
        write_atomic(&out.join(FLIPPED), lines.as_bytes())?;
    }
    let measured_as = if validation.is_some() { "val" } else { "test" };
    let (planned, update_images) = (config.epochs, config.update_images());
    let done = (progress.epochs, progress.steps);
    let begun =
        Begun { out, images: train.len(), update_images, epochs: planned, done, net: &net, measured: measured_as };
    listener.begins(&begun);

    let ignored = train.labels.iter().filter(|&&label| label == IGNORED).count();
    listener.note(&format!(
        "{} parameters, {} training{}{} and {} test images, {}",
        net.parameter_count(),
        train.len(),
        if ignored > 0 { format!(" ({ignored} ignored)") } else { String::new() },
        validation.as_ref().map(|held_out| format!(", {} validation", held_out.len())).unwrap_or_default(),
        test.len(),
        config.describe_batches(),
    ));
    let loss_name = config.loss_config().describe(net.classes);
    listener.note(&format!("loss: {loss_name}; run in {}", out.display()));
    if !config.recipe.is_default() {
        listener.note(&format!("optimizer: {}", config.describe_updates()));
    }
    let schedule = Course { epochs: config.epochs, seed: config.seed, shuffle: config.shuffle };
    let metadata = |epoch: usize| metadata(&config, &loss, epoch);
    let tensorboard = options.tensorboard || out.join(EVENTS).exists();
    let mut recorder = Recorder {
        metrics: saved::record(out, &progress, &epochs, steps_per_epoch, &|line| listener.note(line))?,
        events: tensorboard.then(|| EventFile::of_record(out)).transpose()?,
        net: &net,
        optimizer: config.optimizer,
        recipe,
        dtype: config.dtype.into(),
        metadata: &metadata,
        out,
        epochs,
        best_by: config.best_by,
        best,
        patience: config.patience,
        planned: config.epochs,
        checkpoint_every: config.checkpoint_every,
        last_logits: None,
        refined_nll: &|logits| refined_nll(loss.form(), logits, &measured.labels, net.classes),
        log_every: options.log_every,
        images: train.len(),
        measured: measured_as,
        listener,
        #[cfg(debug_assertions)]
        gpu: device.gpu.clone(),
    };
    recorder.write_past()?;
    if resumed && progress.steps == 0 && (progress.epochs == config.epochs || recorder.is_over()) {
        let done = progress.epochs;
        recorder.listener.note(&format!("finished before: {done} epochs are done, and none is to come"));
    }
    let mut outcome = super::run(backend.as_mut(), &setup, schedule, progress, &mut recorder);
    if let (Err(Error::DeviceLost(why)), Some(_)) = (&outcome, &device.gpu) {
        // Once: drivers reset devices, and a device that does so again would do it for ever.
        recorder.listener.note(&format!("the GPU device was lost: {why}; opened again, from the last checkpoint on"));
        let again = device.reopen()?;
        drop(backend);
        let note = |line: &str| recorder.listener.note(line);
        let SavedRun { state, progress, epochs, best } = from_checkpoint(&config, out, &net, steps_per_epoch, &note)?;
        backend = trainer(&again, &state, &note)?;
        device = again;
        recorder.metrics = saved::record(out, &progress, &epochs, steps_per_epoch, &note)?;
        recorder.events = tensorboard.then(|| EventFile::of_record(out)).transpose()?;
        (recorder.epochs, recorder.best) = (epochs, best);
        recorder.write_past()?;
        outcome = super::run(backend.as_mut(), &setup, schedule, progress, &mut recorder);
    }
    outcome?;

    let done = recorder.epochs.len();
    // The model is safe before anything else is done.
    let state = backend.state()?;
    let dtype = config.dtype.into();
    super::store::save_model(&out.join(MODEL), &net, &state, dtype, &metadata(done))?;
    if let Some(decay) = config.recipe.ema {
        let mut metadata = metadata(done);
        metadata.insert("ema".into(), decay.to_string());
        super::store::save_model(&out.join(MODEL_EMA), &net, &state.averaged(), dtype, &metadata)?;
        recorder.listener.note(&format!("moving average of the weights in {}", out.join(MODEL_EMA).display()));
    }
    recorder.listener.saved();
    if let Some(signal) = recorder.listener.wants_stop() {
        return Err(Error::Interrupted(signal));
    }
    drop(backend);
    let best = recorder.best_epoch();
    // Where nothing is held out, the last epoch's weights answer for the run, and were measured with the test set.
    let mut test_logits = recorder.last_logits.take();
    if let Some(by) = config.best_by {
        let (epoch, weights) = recorder.best.as_ref().map_or((done, &state), |best| (best.epoch, &best.state));
        let State { params, buffers, .. } = weights;
        let (normalisation, batch_size) = (&setup.normalisation[..], config.batch_size);
        let asked = Asked { net: &net, params, buffers, normalisation, batch_size };
        let logits = outputs(&device, &config, &asked, test)?;
        let metrics = crate::measure::loss::of_validation(loss.form(), &logits, &test.labels, net.classes);
        if let (Some(waited), Some(patience)) = (recorder.out_of_patience(), config.patience) {
            let (by, planned, than) = (by.name(), config.epochs, best.map_or(0, |best| best.epoch));
            recorder.listener.note(&format!(
                "ended by --patience {patience} after epoch {done} of {planned}: the last {waited} have no better val {by} \
                 than epoch {than}; --resume with a larger --patience goes on"
            ));
        }
        if let Some(Best { value, .. }) = best {
            let by = by.name();
            recorder.listener.note(&format!(
                "the best epoch is {epoch}, by a val {by} of {value:.4}: its weights are measured on the test set, and in {}",
                out.join(BEST).display()
            ));
        }
        recorder.last(epoch, by, &metrics)?;
        test_logits = Some(logits);
    }
    recorder.end()?;
    recorder.listener.note(&format!("model in {}", out.join(MODEL).display()));
    drop(recorder);
    let test_logits = test_logits.map(|logits| finite(logits, net.classes)).transpose()?;
    Ok(Trained { folder, config, net, images, best, loss, state, device, test_logits })
}

/// Settles what chooses the best epoch.
///
/// # Errors
/// [`Error::Usage`] where something is to choose and no images are held out.
fn choosing(config: &mut Config, held_out: bool) -> Result<()> {
    if held_out {
        let by = *config.best_by.get_or_insert_default();
        if by.is_of_average() && config.recipe.ema.is_none() {
            let found = format!("--best-by: found {}, expected --ema with it", by.name());
            return config.named(Err(Error::Usage(found)));
        }
        if let (Some(patience), BestBy::Last) = (config.patience, by) {
            let expected = "expected a measure that says which epochs are better";
            let message = format!("--patience: found {patience} and --best-by last, {expected}");
            return config.named(Err(Error::Usage(message)));
        }
        return Ok(());
    }
    let expected = "expected --val-split with it, or data with a validation set of its own";
    let best_by = config.best_by.map(|by| ("best-by", by.name().to_owned()));
    let patience = config.patience.map(|patience| ("patience", patience.to_string()));
    match best_by.or(patience) {
        Some((flag, found)) => {
            config.named(Err(Error::Usage(format!("--{flag}: found {found} and no images held out, {expected}"))))
        }
        None => Ok(()),
    }
}

/// Where the run in `out` goes on.
fn from_checkpoint(config: &Config, out: &Path, net: &Network, steps_per_epoch: usize, note: Note) -> Result<SavedRun> {
    // As it was when the run ended: it may have changed since.
    let every = read_config(&out.join(CONFIG))?.checkpoint_every;
    let Some(saved) = saved::read(out, (net, &config.optimizer), steps_per_epoch, every)? else {
        return beginning(config, net, note);
    };
    if config.recipe.ema.is_some() == saved.state.averages.is_empty() {
        let [found, expected] = match config.recipe.ema {
            Some(_) => ["none", "the averages of --ema"],
            None => ["some", "none: the run has no --ema"],
        };
        return Err(Error::data(out.join(CHECKPOINT), format!("averages: found {found}, expected {expected}")));
    }
    let expected = config.best_by.and_then(|by| Best::of(&saved.epochs, by)).map(|best| best.epoch);
    let found = saved.best.as_ref().map(|best| best.epoch);
    if found != expected {
        let [found, expected] = [found, expected].map(|epoch| epoch.map_or("none".into(), |epoch| epoch.to_string()));
        let message = format!("metadata best_epoch: found {found}, expected {expected}, by the record's lines in it");
        return Err(Error::data(out.join(CHECKPOINT), message));
    }
    Ok(saved)
}

/// A run before its first step.
fn beginning(config: &Config, net: &Network, note: Note) -> Result<SavedRun> {
    let state = match &config.init {
        Some(init) => {
            let (state, how) = saved::load_foreign(net, init)?;
            how.iter().for_each(|how| note(&format!("init: {}: {how}", init.display())));
            state
        }
        None => State::initial(net, config.seed),
    };
    Ok(SavedRun { state, progress: Progress::default(), epochs: vec![], best: None })
}

/// A teacher's logits of the training images, `[images, classes]`, from images normalised as in its own training.
fn teacher_logits(path: &Path, config: &Config, images: &Images, device: &Opened, note: Note) -> Result<Vec<f32>> {
    let train = &images.train;
    let teacher = Model::teacher(path, train.shape, train.classes)?;
    if let Some(of) = teacher.file.trained_on()?.map(|known| known.data).filter(|of| *of != config.data) {
        let own = config.data.name();
        note(&format!("teacher: {} was trained on {}, and here on {own}", path.display(), of.name()));
    }
    let normalisation = teacher.file.normalisation([&[], &[]], &images.normalisation)?;
    let asked = Asked {
        net: &teacher.net,
        params: &teacher.state.params,
        buffers: &teacher.state.buffers,
        normalisation: &normalisation,
        batch_size: config.batch_size,
    };
    // Without the run's tuning, which is not known yet when it begins, and is when it is resumed: the bits stay the
    // same.
    let mut predictor = device.predictor(Storage::F32, None, &asked, train.len())?;
    let logits = predictor.logits(ImageSet::Bytes(train))?;
    Ok(logits.into_iter().map(|v| v as f32).collect())
}

fn metadata(config: &Config, loss: &Loss, epoch: usize) -> Metadata {
    let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
    let mut metadata = Metadata::from([
        ("format".into(), "pt".into()),
        ("epoch".into(), epoch.to_string()),
        ("mean".into(), list(&config.mean)),
        ("std".into(), list(&config.std)),
        ("label_smoothing".into(), config.label_smoothing.to_string()),
        ("smoothing_variant".into(), config.smoothing_variant.name().into()),
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
    if !config.network.is_default() {
        metadata.insert(NETWORK.into(), to_json(&config.network));
    }
    metadata.extend([model::data_set(&config.trained_on())]);
    metadata
}

#[cfg(test)]
mod tests;
