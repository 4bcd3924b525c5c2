//! A saved model: the flags that name it and the images it is asked about, what training left in its metadata, its logits.

use std::path::{Path, PathBuf};

use smoothcnn::checkpoint::{self, Metadata};
use smoothcnn::data::Dataset;
use smoothcnn::net::Network;
use smoothcnn::ops::optimizer::{Adam, Optimizer};
use smoothcnn::smoothing::Smoothing;
use smoothcnn::train::{Setup, State};
use smoothcnn::{Error, Result};

use super::calibrate;
use super::common::{self, DataArgs, DataKind, DeviceArgs, Precision};

/// Flags that `eval` and `predict` share.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// Weights, as safetensors under PyTorch's names
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    #[command(flatten)]
    pub data: DataArgs,
    /// This label, whatever number it is, is none: `eval` leaves such images out, `predict` answers them and writes no label
    /// [default: as in training]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub ignore_index: Option<i64>,
    #[command(flatten)]
    pub inference: InferenceArgs,
    /// Divide the logits by this: a number, or the temperature.toml that `smoothcnn calibrate` wrote
    #[arg(long, value_name = "FILE|T", allow_negative_numbers = true)]
    pub temperature: Option<String>,
}

/// A saved model and what it is asked about.
pub struct Model {
    pub net: Network,
    pub state: State,
    pub metadata: Metadata,
    /// The test images; those whose label is ignored have [`smoothcnn::ops::IGNORED`].
    pub test: Dataset,
    pub temperature: Option<f64>,
}

impl ModelArgs {
    /// Reads the files that the flags name.
    pub fn load(&self) -> Result<Model> {
        let temperature = self.temperature.as_deref().map(calibrate::temperature).transpose()?;
        let ignored = match self.ignore_index {
            Some(ignored) => Some(ignored),
            None => ignore_index(&self.model)?,
        };
        let (_, test) = common::load_marked(&self.data, ignored)?;
        let net = Network::seed(test.shape, test.classes)?;
        let (state, metadata) = common::load_params(&net, &self.model)?;
        Ok(Model { net, state, metadata, test, temperature })
    }

    /// The logits `[images, classes]` of the model for these images.
    pub fn logits(&self, Model { net, state, metadata, .. }: &Model, images: &Dataset) -> Result<Vec<f64>> {
        self.inference.logits(net, (&self.model, state, metadata), self.data.data, images)
    }
}

/// Flags of what computes a saved model's logits, and how.
#[derive(Debug, clap::Args)]
pub struct InferenceArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Precision; f64 on the CPU path
    #[arg(long, value_enum, default_value = "f32")]
    pub dtype: Precision,
    /// Images in a batch
    #[arg(short, long, default_value_t = 256, value_parser = common::at_least_one)]
    batch_size: usize,
    /// Mean of the pixels, scaled to 0..1: one value, or one a channel [default: as in training]
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    mean: Vec<f64>,
    /// Their standard deviation [default: as in training]
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    std: Vec<f64>,
}

impl InferenceArgs {
    /// The logits `[images, classes]` of a model: its file, its parameters, and what training left in its metadata.
    pub fn logits(
        &self,
        net: &Network,
        (model, state, metadata): (&Path, &State, &Metadata),
        data: DataKind,
        images: &Dataset,
    ) -> Result<Vec<f64>> {
        let nothing = Dataset { shape: images.shape, classes: images.classes, images: vec![], labels: vec![] };
        let setup = Setup {
            net,
            batch_size: self.batch_size,
            // Neither has a part in inference.
            loss: Smoothing::NONE.into(),
            optimizer: Optimizer::Adam(Adam::default()),
            normalisation: self.normalisation(model, metadata, data, images.shape[0])?,
            train: &nothing,
            test: images,
        };
        let gpu = common::choose_device(&self.device, self.dtype)?;
        common::backend(gpu.as_ref(), &self.device, self.device.tuning(), self.dtype, setup, state)?.test_logits()
    }

    /// Each channel's mean and standard deviation: the flags', else those of training, else the data set's usual ones.
    fn normalisation(
        &self,
        model: &Path,
        metadata: &Metadata,
        data: DataKind,
        channels: usize,
    ) -> Result<Vec<[f64; 2]>> {
        normalisation([&self.mean, &self.std], model, metadata, data, channels)
    }
}

/// Each channel's mean and standard deviation as in a model's training, else the data set's usual ones.
pub fn trained_normalisation(
    model: &Path,
    metadata: &Metadata,
    data: DataKind,
    channels: usize,
) -> Result<Vec<[f64; 2]>> {
    normalisation([&[], &[]], model, metadata, data, channels)
}

fn normalisation(
    [mean, std]: [&[f64]; 2],
    model: &Path,
    metadata: &Metadata,
    data: DataKind,
    channels: usize,
) -> Result<Vec<[f64; 2]>> {
    let trained_with = |flag: &[f64], key: &str, valid: fn(f64) -> bool| {
        let parse = |text: &str| numbers(text).filter(|values| values.iter().all(|&value| valid(value)));
        if flag.is_empty() { from_training(model, metadata, key, parse) } else { Ok(flag.to_vec()) }
    };
    let mean = trained_with(mean, "mean", f64::is_finite)?;
    let std = trained_with(std, "std", |std| std.is_finite() && std > 0.0)?;
    common::normalisation(data, &mean, &std, channels)
}

/// What training left in the model's metadata under `key`; the default where it left nothing, as in PyTorch's files.
pub fn from_training<T: Default>(
    model: &Path,
    metadata: &Metadata,
    key: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T> {
    metadata.get(key).map_or(Ok(T::default()), |text| {
        parse(text).ok_or_else(|| {
            Error::data(model, format!("metadata {key}: found {text:?}, which training cannot have left"))
        })
    })
}

pub fn numbers(text: &str) -> Option<Vec<f64>> {
    text.split(',').map(|part| part.parse().ok()).collect()
}

/// Which classes took part in training, if not all.
pub fn class_mask(model: &Path, metadata: &Metadata, classes: usize) -> Result<Option<Vec<bool>>> {
    from_training(model, metadata, "class_mask", |text| {
        let mut allowed = vec![false; classes];
        for class in text.split(',') {
            *allowed.get_mut(class.parse::<usize>().ok()?)? = true;
        }
        Some(Some(allowed))
    })
}

/// The label that training ignored, if one. What the data is read with, so that it is known before the network is.
pub fn ignore_index(model: &Path) -> Result<Option<i64>> {
    from_training(model, &checkpoint::load_metadata(model)?, "ignore_index", |text| text.parse().ok().map(Some))
}
