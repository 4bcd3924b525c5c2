//! What a run depends on: its config.toml, and the images that follow from it.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use smoothcnn::compile::fuse::Kernels;
use smoothcnn::data::labels::{self, Noise};
use smoothcnn::data::{Dataset, idx};
use smoothcnn::loss::Loss;
use smoothcnn::loss::smoothing::Variant;
use smoothcnn::ops::IGNORED;
use smoothcnn::optimizer::{Adam, Optimizer, Sgd};
use smoothcnn::plan::Storage;
use smoothcnn::plan::tuning::Tuning;
use smoothcnn::{Error, Result, input};

use super::common::{self, MOST, Precision};
use super::dataset::{self, CHANGED, DataArgs, DataKind, Part, Record, Source, TrainedOn, labelled, recorded};
use super::loss::{LossArgs, LossConfig, Spread};
use super::parse;

/// Epochs of a run where nobody says.
pub const EPOCHS: usize = 10;
/// SGD's momentum where nobody says.
const MOMENTUM: f64 = 0.9;

/// Flags that `train` and `sweep` share: all that a run depends on but epsilon, the rate of label noise and the seed.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Keep only the first N training images
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    pub limit_train: Option<usize>,
    /// Keep only the first N test images
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    pub limit_test: Option<usize>,
    /// Times through the training set [default: 10]
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    pub epochs: Option<usize>,
    /// Images in a batch
    #[arg(short, long, default_value_t = 64, value_parser = common::at_least_one)]
    pub batch_size: usize,
    /// Learning rate
    #[arg(long, default_value_t = 1e-3, allow_negative_numbers = true)]
    pub lr: f64,
    /// Optimizer
    #[arg(long, value_enum, default_value = "adam")]
    pub opt: OptimizerKind,
    /// With --opt sgd: its momentum [default: 0.9]
    #[arg(long, allow_negative_numbers = true)]
    pub momentum: Option<f64>,
    /// With --opt sgd: Nesterov's form of its momentum
    #[arg(long)]
    pub nesterov: bool,
    /// Weight decay: an L2 term for adam and sgd, decoupled for adamw
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub weight_decay: f64,
    /// Over which classes epsilon is spread
    #[arg(long, value_enum, default_value = "uniform")]
    pub smoothing_variant: Spread,
    #[command(flatten)]
    pub loss: LossArgs,
    /// Hold out this share of every class of the training set, and measure on it after each epoch; the test set is then
    /// measured once, at the end [default: none; 0.1 in a sweep]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub val_split: Option<f64>,
    /// With --label-noise: to which class a label flips [default: symmetric]
    #[arg(long, value_enum)]
    pub noise: Option<Noise>,
    /// IDX labels that replace the training set's, as CIFAR-10N's; the first ones where there are more
    #[arg(long, value_name = "FILE")]
    pub train_labels: Option<PathBuf>,
    /// Keep the file's order in every epoch
    #[arg(long)]
    pub no_shuffle: bool,
    /// Start from these weights
    #[arg(long, value_name = "FILE.safetensors")]
    pub init: Option<PathBuf>,
    /// Mean of the pixels, scaled to 0..1: one value, or one a channel [default: the data set's usual one]
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    pub mean: Vec<f64>,
    /// Their standard deviation
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    pub std: Vec<f64>,
    /// Precision; f64 on the CPU path
    #[arg(long, value_enum, default_value = "f32")]
    pub dtype: Precision,
    /// In what a GPU's fused kernels store what one layer gives to the next: f16 takes half the memory and rounds to 11 bits;
    /// everything is computed in f32 either way
    #[arg(long, value_enum, default_value = "f32")]
    pub activations: Storage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OptimizerKind {
    Adam,
    Adamw,
    Sgd,
}

/// What changes which images are trained on, and with which labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Labels {
    pub val_split: f64,
    pub label_noise: f64,
    pub noise: Noise,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_labels: Option<PathBuf>,
}

/// Everything a run depends on, as written to config.toml.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    pub version: String,
    pub data: DataKind,
    /// From the root, but for what is built in.
    pub data_dir: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_train: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_test: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    pub epochs: usize,
    pub batch_size: usize,
    pub label_smoothing: f64,
    pub smoothing_variant: Variant,
    pub seed: u64,
    pub shuffle: bool,
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
    pub dtype: Precision,
    /// Left out where they are f32, so that the runs of a sweep keep their names.
    #[serde(default, skip_serializing_if = "Storage::is_default")]
    pub activations: Storage,
    /// What it was trained on.
    pub backend: String,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default, skip_serializing_if = "LossArgs::is_default")]
    pub loss: LossArgs,
    /// Which kernels: a resumed run keeps them, because others round differently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Kernels>,
    /// On a GPU, the form of the fused kernels, which is kept as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
    pub optimizer: Optimizer,
    /// The images that the run began with. A plan is without it, and so is an entry's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_set: Option<Record>,
    /// The file that it was read from, which a refusal names. Without one it comes from flags.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// Whether the run goes on with images that are not those that it began with.
    #[serde(skip)]
    pub allow_changed_data: bool,
}

/// What the runs of a sweep differ in.
#[derive(Clone, Copy, Debug)]
pub struct Varied {
    pub label_smoothing: f64,
    pub label_noise: f64,
    pub seed: u64,
}

impl RunArgs {
    /// The configuration that the flags ask for.
    pub fn config(&self, varied: Varied) -> Result<Config> {
        let Self { lr, weight_decay, nesterov, .. } = *self;
        let optimizer = match self.opt {
            OptimizerKind::Adam | OptimizerKind::Adamw => {
                let found = [("--momentum", self.momentum.is_some()), ("--nesterov", nesterov)];
                if let Some((flag, _)) = found.iter().find(|(_, given)| *given) {
                    let opt = self.opt.to_possible_value().map(|opt| opt.get_name().to_owned()).unwrap_or_default();
                    return Err(Error::Usage(format!("{flag}: found with --opt {opt}, expected --opt sgd with it")));
                }
                let adam = Adam { lr, weight_decay, ..Adam::default() };
                if self.opt == OptimizerKind::Adam { Optimizer::Adam(adam) } else { Optimizer::AdamW(adam) }
            }
            OptimizerKind::Sgd => {
                Optimizer::Sgd(Sgd { lr, momentum: self.momentum.unwrap_or(MOMENTUM), nesterov, weight_decay })
            }
        };
        let epochs = self.epochs.unwrap_or(EPOCHS);
        let (loss, smoothing_variant) = self.loss.recorded(self.smoothing_variant, epochs)?;
        let Source { data, data_dir, .. } = self.data.source()?;
        let path = |flag, path: &Option<PathBuf>| path.as_deref().map(|path| recorded(flag, path)).transpose();
        Ok(Config {
            version: env!("CARGO_PKG_VERSION").into(),
            data,
            data_dir,
            limit_train: self.limit_train,
            limit_test: self.limit_test,
            init: path("--init", &self.init)?,
            epochs,
            batch_size: self.batch_size,
            label_smoothing: varied.label_smoothing,
            smoothing_variant,
            seed: varied.seed,
            shuffle: !self.no_shuffle,
            mean: self.mean.clone(),
            std: self.std.clone(),
            dtype: self.dtype,
            activations: self.activations,
            backend: String::new(),
            kernels: None,
            tuning: None,
            labels: Labels {
                val_split: self.val_split.unwrap_or(0.0),
                label_noise: varied.label_noise,
                noise: self.noise.unwrap_or_default(),
                train_labels: path("--train-labels", &self.train_labels)?,
            },
            loss,
            optimizer,
            data_set: None,
            file: None,
            allow_changed_data: false,
        })
    }

    /// Refuses a kind of noise where no rate of it was `given`.
    pub fn check_noise(&self, given: bool) -> Result<()> {
        match self.noise.and_then(|noise| noise.to_possible_value()) {
            Some(noise) if !given => {
                let noise = noise.get_name();
                Err(Error::Usage(format!("--noise: found {noise} alone, expected --label-noise with it")))
            }
            _ => Ok(()),
        }
    }
}

impl Config {
    pub fn source(&self) -> Source {
        Source {
            data: self.data,
            data_dir: self.data_dir.clone(),
            limit_train: self.limit_train,
            limit_test: self.limit_test,
        }
    }

    /// The same run, with its data where the flags say that it moved to.
    pub fn move_data(&mut self, args: &DataArgs, allow_changed: bool) -> Result<()> {
        if let (Some(_), Some(source)) = (&args.data_dir, args.own(&self.trained_on())?) {
            self.data_dir = source.data_dir;
        }
        self.allow_changed_data = allow_changed;
        Ok(())
    }

    /// What the run's model is to say of its data.
    pub fn trained_on(&self) -> TrainedOn {
        TrainedOn {
            data: self.data,
            dir: (self.data != DataKind::Digits).then(|| self.data_dir.clone()),
            limit_train: self.limit_train,
            limit_test: self.limit_test,
            images: self.data_set.clone(),
        }
    }

    pub fn loss_config(&self) -> LossConfig<'_> {
        LossConfig { args: &self.loss, epsilon: self.label_smoothing, variant: self.smoothing_variant }
    }

    /// The same, read from the file at `path`, which is named in place of flags from here on. Refuses what makes no
    /// sense.
    pub fn read_from(mut self, path: &Path) -> Result<Self> {
        self.file = Some(path.to_owned());
        self.check()?;
        Ok(self)
    }

    /// Refuses what no data can mend, wherever it comes from.
    pub fn check(&self) -> Result<()> {
        self.named(self.check_fields())
    }

    fn check_fields(&self) -> Result<()> {
        let counts = [
            ("--epochs", Some(self.epochs)),
            ("--batch-size", Some(self.batch_size)),
            ("--limit-train", self.limit_train),
            ("--limit-test", self.limit_test),
            ("--smoothing-epochs", self.loss.smoothing_epochs),
        ];
        for (flag, count) in counts {
            if let Some(count) = count.filter(|count| !(1..=MOST).contains(count)) {
                let expected = format!("a whole number of at least 1 and at most {MOST}");
                return Err(Error::Usage(format!("{flag}: found {count}, expected {expected}")));
            }
        }
        // TOML has no larger ones.
        if i64::try_from(self.seed).is_err() {
            return Err(Error::Usage(format!("--seed: found {}, expected at most {}", self.seed, i64::MAX)));
        }
        let Labels { val_split, label_noise, .. } = self.labels;
        for (flag, value, most) in [("--val-split", val_split, 0.9), ("--label-noise", label_noise, 1.0)] {
            if !(0.0..=most).contains(&value) {
                return Err(Error::Usage(format!("{flag}: found {value}, expected a number from 0 to {most}")));
            }
        }
        let most = if self.dtype == Precision::F64 { f64::MAX } else { f32::MAX.into() };
        self.optimizer.check(most)?;
        dataset::check_normalisation(["--mean", "--std"], [&self.mean, &self.std])?;
        if self.dtype == Precision::F64 && self.activations == Storage::F16 {
            let expected = "--dtype f32: f64 is the CPU path's";
            return Err(Error::Usage(format!("--activations f16: found --dtype f64, expected {expected}")));
        }
        self.loss_config().check()?;
        if self.loss.soft_labels.is_some() {
            let found = [
                ("--label-noise", self.labels.label_noise != 0.0),
                ("--train-labels", self.labels.train_labels.is_some()),
            ];
            if let Some((flag, _)) = found.iter().find(|(_, given)| *given) {
                return Err(Error::Usage(format!(
                    "{flag}: found with --soft-labels, which take the labels' place; expected one"
                )));
            }
        }
        // No data has fewer classes: what passes here may still be refused for the data's own number.
        self.loss.smoothing(Variant::Uniform, self.label_smoothing, 2).map(|_| ())
    }

    /// What was refused of flags, as refused of the file where the configuration is from one: by its keys.
    pub fn named<T>(&self, result: Result<T>) -> Result<T> {
        let Some(file) = &self.file else { return result };
        result.map_err(|error| match error {
            Error::Usage(message) => match message.strip_prefix("--").and_then(|rest| rest.split_once(": ")) {
                Some((flag, rest)) if !flag.contains(' ') => Error::data(file, format!("{}: {rest}", self.key(flag))),
                _ => Error::data(file, message),
            },
            other => other,
        })
    }

    /// The key that a flag is recorded under.
    fn key(&self, flag: &str) -> String {
        let names = [flag.to_owned(), flag.replace('-', "_")];
        // Paths that are no text cannot be in a file.
        let table = toml::Table::try_from(self).unwrap_or_default();
        let inner = |(name, value): (&String, &toml::Value)| {
            let key = names.iter().find(|key| value.get(key.as_str()).is_some())?;
            Some(format!("{name}.{key}"))
        };
        match names.iter().find(|key| table.contains_key(*key)) {
            Some(key) => key.clone(),
            None => table.iter().find_map(inner).unwrap_or_else(|| flag.to_owned()),
        }
    }

    /// The loss over these images. A teacher's logits are still to come.
    pub fn loss(&self, images: &Images) -> Result<Loss> {
        let train = &images.train;
        let loss = self.named(self.loss_config().loss(train, &images.kept))?;
        let all: Vec<u32> = (0..train.len() as u32).collect();
        if loss.weights(&train.labels, train.classes, &all)[0] == 0.0 {
            let n = all.len();
            return self.named(Err(Error::Usage(format!(
                "--ignore-index, --class-mask or --class-weights: found none of {n} training images that counts, \
                 expected at least one"
            ))));
        }
        let steps_per_epoch = train.len().div_ceil(self.batch_size) as u64;
        Ok(loss.scheduled(self.loss.schedule_over(steps_per_epoch)))
    }

    /// Mean and standard deviation of each channel of `images`.
    pub fn normalisation(&self, images: &Dataset) -> Result<Vec<[f64; 2]>> {
        let names = ["--mean", "--std"];
        self.named(dataset::normalisation(self.data, names, [&self.mean, &self.std], images.shape[0]))
    }
}

/// Reads a run's config.toml.
pub fn read_config(path: &Path) -> Result<Config> {
    let text = input::read_text(path, "the configuration of a run")?;
    parse::toml::<Config>(path, &text)?.read_from(path)
}

/// What a run trains on and measures on.
pub struct Images {
    pub train: Dataset,
    pub validation: Option<Dataset>,
    pub test: Dataset,
    /// The indices of the training images into the training set as its files have it.
    pub kept: Vec<u32>,
    /// Whose label noise has changed.
    pub flipped: Vec<Flip>,
    /// What the data set is known by.
    pub record: Record,
}

/// A training image with a wrong label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// Its index into [`Images::train`].
    pub index: u32,
    /// Its index into the training set as its files have it.
    pub file_index: u32,
}

/// The data set: with other labels where they are asked for; without classes that take no part and labels that are
/// ignored; then split; then with noise among the labels that are left and count. In this order, so that a share is
/// always one of what counts. In the training set such labels are [`IGNORED`]; the other sets are without their images.
pub fn images(config: &Config) -> Result<Images> {
    config.check()?;
    config.named(read_images(config))
}

fn read_images(config: &Config) -> Result<Images> {
    let Labels { val_split, label_noise, noise, train_labels } = &config.labels;
    let ignored = config.loss.ignore_index;
    let source = config.source();
    let places = train_labels.is_some() || config.loss.soft_labels.is_some();
    let (mut train, test) = source.load_checked(ignored, places)?;
    if let (Some(record), false) = (&config.data_set, config.allow_changed_data) {
        // An entry of a plan, which is JSON, takes no flags of its own.
        let of_run = config.file.as_ref().and_then(|file| file.extension()).is_some_and(|kind| kind == "toml");
        let advice = if of_run { CHANGED } else { "without its folder the run begins anew" };
        record.check(&source, (Part::Train, &train), config.limit_train, ignored, advice)?;
        record.check(&source, (Part::Test, &test), config.limit_test, ignored, advice)?;
    }
    let record = Record::new(&source, [&train, &test], ignored);
    let mut test = if ignored.is_some() { labelled(&test) } else { test };
    if let Some(path) = train_labels {
        train.labels = replaced_labels(path, &train, ignored)?;
    }
    let classes = train.classes;
    let allowed = config.loss.allowed(classes)?.unwrap_or_else(|| vec![true; classes]);
    let takes_part = |label: u32| allowed.get(label as usize).is_some_and(|allowed| *allowed);
    let part: Vec<u32> = (0..classes as u32).filter(|&class| takes_part(class)).collect();
    train.labels.iter_mut().filter(|label| !takes_part(**label)).for_each(|label| *label = IGNORED);
    if part.len() < classes {
        let of_part = (0..test.len() as u32).filter(|&i| takes_part(test.labels[i as usize]));
        test = test.subset(&of_part.collect::<Vec<_>>());
    }
    common::note(format_args!(
        "data: {}, {} training and {} test images",
        source.describe(),
        record.train_images,
        record.test_images
    ));

    let mut validation = None;
    let mut kept: Vec<u32> = (0..train.len() as u32).collect();
    if *val_split > 0.0 {
        let (rest, held_out) = labels::stratified_split(&train.labels, classes, *val_split, config.seed ^ SPLIT_SEED);
        let n = train.labels.iter().filter(|label| **label != IGNORED).count();
        // Where nothing counts the loss says so.
        if n > 0 && [0, n].contains(&held_out.len()) {
            let message = format!("--val-split: found {val_split}, which leaves one side of {n} images empty");
            return Err(Error::Usage(message));
        }
        validation = Some(train.subset(&held_out));
        train = train.subset(&rest);
        kept = rest;
    }
    let flipped = labels::flip(&mut train.labels, &part, *label_noise, *noise, config.seed ^ NOISE_SEED);
    let flipped = flipped.into_iter().map(|index| Flip { index, file_index: kept[index as usize] }).collect();
    if test.is_empty() {
        let message = "found no test image that counts, expected at least one";
        return Err(Error::Usage(format!("--class-mask or --ignore-index: {message}")));
    }
    Ok(Images { train, validation, test, kept, flipped, record })
}

/// What the seed is mixed with, so that split and noise do not share random numbers with weights and order.
const SPLIT_SEED: u64 = 0x5917_0000_0000;
const NOISE_SEED: u64 = 0x2013_0000_0000;

fn replaced_labels(path: &Path, train: &Dataset, ignored: Option<i64>) -> Result<Vec<u32>> {
    let labels = idx::read_labels(path)?;
    if labels.len() < train.len() {
        let message = format!("{} labels, expected at least one for each of {} images", labels.len(), train.len());
        return Err(Error::data(path, message));
    }
    idx::classes(path, &labels[..train.len()], train.classes, ignored)
}
