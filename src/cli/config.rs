//! What a run depends on: its config.toml, and the images that follow from it.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use smoothcnn::activations::Activations;
use smoothcnn::data::labels::{self, Noise};
use smoothcnn::data::{Dataset, idx};
use smoothcnn::fusion::Kernels;
use smoothcnn::ops::IGNORED;
use smoothcnn::ops::optimizer::{Adam, Optimizer, Sgd};
use smoothcnn::smoothing::Variant;
use smoothcnn::tuning::Tuning;
use smoothcnn::{Error, Result};

use super::common::{self, DataArgs, DataKind, Precision};
use super::loss::{LossArgs, LossConfig, Spread};

/// Epochs of a run where nobody says.
pub const EPOCHS: usize = 10;

/// Flags that `train` and `sweep` share: all that a run depends on but epsilon, the rate of label noise and the seed.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub data: DataArgs,
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
    /// SGD's momentum
    #[arg(long, default_value_t = 0.9, allow_negative_numbers = true)]
    pub momentum: f64,
    /// Nesterov's form of SGD's momentum
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
    /// To which class a label flips
    #[arg(long, value_enum, default_value = "symmetric")]
    pub noise: Noise,
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
    pub activations: Activations,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OptimizerKind {
    Adam,
    Adamw,
    Sgd,
}

/// What changes which images are trained on, and with which labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Labels {
    pub val_split: f64,
    pub label_noise: f64,
    pub noise: Noise,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_labels: Option<PathBuf>,
}

/// Everything a run depends on, as written to config.toml.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    pub version: String,
    pub data: DataKind,
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
    #[serde(default, skip_serializing_if = "Activations::is_default")]
    pub activations: Activations,
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
        let non_negative = |flag: &str, value: f64| {
            if value.is_finite() && value >= 0.0 {
                Ok(value)
            } else {
                Err(Error::Usage(format!("{flag}: found {value}, expected a number of at least 0")))
            }
        };
        let lr = non_negative("--lr", self.lr)?;
        let weight_decay = non_negative("--weight-decay", self.weight_decay)?;
        let momentum = non_negative("--momentum", self.momentum)?;
        let epochs = self.epochs.unwrap_or(EPOCHS);
        let (loss, smoothing_variant) = self.loss.recorded(self.smoothing_variant, epochs)?;
        let adam = Adam { lr, weight_decay, ..Adam::default() };
        Ok(Config {
            version: env!("CARGO_PKG_VERSION").into(),
            data: self.data.data,
            data_dir: self.data.data_dir.clone(),
            limit_train: self.data.limit_train,
            limit_test: self.data.limit_test,
            init: self.init.clone(),
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
                noise: self.noise,
                train_labels: self.train_labels.clone(),
            },
            loss,
            optimizer: match self.opt {
                OptimizerKind::Adam => Optimizer::Adam(adam),
                OptimizerKind::Adamw => Optimizer::AdamW(adam),
                OptimizerKind::Sgd => Optimizer::Sgd(Sgd { lr, momentum, nesterov: self.nesterov, weight_decay }),
            },
        })
    }
}

impl Config {
    pub fn data_args(&self) -> DataArgs {
        DataArgs {
            data: self.data,
            data_dir: self.data_dir.clone(),
            limit_train: self.limit_train,
            limit_test: self.limit_test,
        }
    }

    pub fn loss_config(&self) -> LossConfig<'_> {
        LossConfig { args: &self.loss, epsilon: self.label_smoothing, variant: self.smoothing_variant }
    }

    /// Refuses what no data can mend.
    pub fn check(&self) -> Result<()> {
        let Labels { val_split, label_noise, .. } = self.labels;
        for (flag, value, most) in [("--val-split", val_split, 0.9), ("--label-noise", label_noise, 1.0)] {
            if !(0.0..=most).contains(&value) {
                return Err(Error::Usage(format!("{flag}: found {value}, expected a number from 0 to {most}")));
            }
        }
        if self.dtype == Precision::F64 && self.activations == Activations::F16 {
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

    /// Mean and standard deviation of each channel of `images`.
    pub fn normalisation(&self, images: &Dataset) -> Result<Vec<[f64; 2]>> {
        common::normalisation(self.data, &self.mean, &self.std, images.shape[0])
    }
}

pub fn read_config(path: &Path) -> Result<Config> {
    let text = fs::read_to_string(path).map_err(|e| Error::data(path, format!("{e}: expected the folder of a run")))?;
    toml::from_str(&text).map_err(|e| Error::data(path, e.message().replace('\n', " ")))
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
}

/// A training image with a wrong label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// Its index into [`Images::train`].
    pub index: u32,
    /// Its index into the training set as its files have it.
    pub file_index: u32,
}

/// The data set, with other labels, a split and noise where they are asked for, in this order. Labels that are ignored are so
/// in the training set; the other sets are without their images, and without those of classes that take no part.
pub fn images(config: &Config) -> Result<Images> {
    config.check()?;
    let Labels { val_split, label_noise, noise, train_labels } = &config.labels;
    let ignored = config.loss.ignore_index;
    let (mut train, mut test) = common::load_data(&config.data_args(), ignored)?;
    if let Some(path) = train_labels {
        train.labels = replaced_labels(path, &train, ignored)?;
    }
    let mut validation = None;
    let mut kept: Vec<u32> = (0..train.len() as u32).collect();
    if *val_split > 0.0 {
        let (rest, held_out) =
            labels::stratified_split(&train.labels, train.classes, *val_split, config.seed ^ SPLIT_SEED);
        if rest.is_empty() || held_out.is_empty() {
            let message =
                format!("--val-split: found {val_split}, which leaves one side of {} images empty", train.len());
            return Err(Error::Usage(message));
        }
        validation = Some(train.subset(&held_out));
        train = train.subset(&rest);
        kept = rest;
    }
    let classes = train.classes;
    let flipped = labels::flip(&mut train.labels, classes, *label_noise, *noise, config.seed ^ NOISE_SEED);
    let flipped = flipped.into_iter().map(|index| Flip { index, file_index: kept[index as usize] }).collect();
    if let Some(allowed) = config.loss.allowed(classes)? {
        let takes_part = |images: &Dataset| {
            let indices = 0..images.len() as u32;
            images.subset(&indices.filter(|&i| allowed[images.labels[i as usize] as usize]).collect::<Vec<_>>())
        };
        test = takes_part(&test);
        validation = validation.map(|held_out| takes_part(&held_out));
        let out = train.labels.iter_mut().filter(|label| allowed.get(**label as usize) == Some(&false));
        out.for_each(|label| *label = IGNORED);
    }
    for (what, images) in [("test", Some(&test)), ("validation", validation.as_ref())] {
        if images.is_some_and(Dataset::is_empty) {
            let message = format!("found no {what} image that counts, expected at least one");
            return Err(Error::Usage(format!("--class-mask or --ignore-index: {message}")));
        }
    }
    Ok(Images { train, validation, test, kept, flipped })
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
