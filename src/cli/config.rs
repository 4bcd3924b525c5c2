//! What a run depends on: its config.toml, and the images that follow from it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use smoothcnn::data::labels::{self, Noise};
use smoothcnn::data::{Dataset, idx};
use smoothcnn::ops::optimizer::Optimizer;
use smoothcnn::smoothing::Variant;
use smoothcnn::tuning::Tuning;
use smoothcnn::{Error, Result};

use super::common::{self, DataArgs, DataKind, Precision};

/// Flags that change which images are trained on, and with which labels.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct LabelArgs {
    /// Hold out this share of every class of the training set, and measure on it after each epoch; the test set is then
    /// measured once, at the end
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, allow_negative_numbers = true)]
    pub val_split: f64,
    /// Flip this share of the training labels (those held out stay as they are); flipped.txt lists which
    #[arg(long, value_name = "RATE", default_value_t = 0.0, allow_negative_numbers = true)]
    pub label_noise: f64,
    /// To which class a label flips
    #[arg(long, value_enum, default_value = "symmetric")]
    pub noise: Noise,
    /// IDX labels that replace the training set's, as CIFAR-10N's; the first ones where there are more
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_labels: Option<PathBuf>,
}

/// Everything a run depends on, as written to config.toml.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// What it was trained on.
    pub backend: String,
    #[serde(default)]
    pub labels: LabelArgs,
    /// On a GPU, the form of the kernels: a resumed run keeps it, because another rounds differently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
    pub optimizer: Optimizer,
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
    /// Indices into the training set as its files have it.
    pub flipped: Vec<u32>,
}

/// The data set, with other labels, a split and noise where they are asked for, in this order.
pub fn images(config: &Config) -> Result<Images> {
    let LabelArgs { val_split, label_noise, noise, train_labels } = &config.labels;
    for (flag, value, most) in [("--val-split", *val_split, 0.9), ("--label-noise", *label_noise, 1.0)] {
        if !(0.0..=most).contains(&value) {
            return Err(Error::Usage(format!("{flag}: found {value}, expected a number from 0 to {most}")));
        }
    }
    let (mut train, test) = common::load_data(&config.data_args())?;
    if let Some(path) = train_labels {
        train.labels = replaced_labels(path, &train)?;
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
    let flipped = flipped.into_iter().map(|i| kept[i as usize]).collect();
    Ok(Images { train, validation, test, flipped })
}

/// What the seed is mixed with, so that split and noise do not share random numbers with weights and order.
const SPLIT_SEED: u64 = 0x5917_0000_0000;
const NOISE_SEED: u64 = 0x2013_0000_0000;

fn replaced_labels(path: &Path, train: &Dataset) -> Result<Vec<u32>> {
    let labels = idx::read_labels(path)?;
    if labels.len() < train.len() {
        let message = format!("{} labels, expected at least one for each of {} images", labels.len(), train.len());
        return Err(Error::data(path, message));
    }
    if let Some((i, label)) = labels.iter().enumerate().find(|&(_, &label)| usize::from(label) >= train.classes) {
        return Err(Error::data(path, format!("the label at index {i} is {label}, expected below {}", train.classes)));
    }
    Ok(labels[..train.len()].iter().map(|&label| label.into()).collect())
}
