//! `smoothcnn eval`.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;
use smoothcnn::checkpoint::{self, Metadata, Tensor};
use smoothcnn::data::Dataset;
use smoothcnn::loss::{Form, Loss};
use smoothcnn::metrics::bootstrap::{self, Interval, Intervals};
use smoothcnn::metrics::{self, Metrics};
use smoothcnn::net::Network;
use smoothcnn::ops::optimizer::{Adam, Optimizer};
use smoothcnn::ops::weighted_loss::{Spec, WeightedLoss};
use smoothcnn::smoothing::{Epsilon, Prior, Smoothing, Variant};
use smoothcnn::temperature;
use smoothcnn::train::{Setup, State};
use smoothcnn::{Error, Result};

use super::calibrate;
use super::common::{self, DataArgs, DataKind, DeviceArgs, Precision};

/// Measures a saved model on a test set.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Weights, as safetensors under PyTorch's names
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Epsilon of the smoothed loss [default: as in training, else 0.1]
    #[arg(long, value_name = "E", allow_negative_numbers = true)]
    label_smoothing: Option<f64>,
    /// How epsilon is spread [default: as in training, else uniform]
    #[arg(long, value_enum)]
    smoothing_variant: Option<Variant>,
    /// Leave out images with this label, whatever number it is
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    ignore_index: Option<i64>,
    #[command(flatten)]
    inference: InferenceArgs,
    /// Divide the logits by this: a number, or the temperature.toml that `smoothcnn calibrate` wrote
    #[arg(long, value_name = "FILE|T", allow_negative_numbers = true)]
    temperature: Option<String>,
    /// 95 % intervals of accuracy, nll and ece from N resamples of the test set, always the same ones (1000 is usual)
    #[arg(long, value_name = "N", default_value_t = 0)]
    bootstrap: usize,
    /// Write the logits, `[images, classes]`, as safetensors, as they are without --temperature
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What --json prints: the metrics, and what the flags add.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    metrics: &'a Metrics,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(flatten)]
    bootstrap: Option<Bootstrap>,
}

#[derive(Serialize)]
struct Bootstrap {
    #[serde(rename = "bootstrap")]
    resamples: usize,
    accuracy_interval: Interval,
    nll_interval: Interval,
    ece_interval: Interval,
}

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    let temperature = args.temperature.as_deref().map(calibrate::temperature).transpose()?;
    let (_, test) = common::load_data(&args.data, args.ignore_index)?;
    let net = Network::seed(test.shape, test.classes)?;
    let (state, metadata) = common::load_params(&net, &args.model)?;
    let loss = loss(&args, &metadata, net.classes)?;
    let logits = args.inference.logits(&net, (&args.model, &state, &metadata), args.data.data, &test)?;
    let scaled = temperature.map(|t| temperature::apply(&logits, t));
    let measured = scaled.as_deref().unwrap_or(&logits);
    let metrics = loss.evaluate(measured, &test.labels, net.classes, 1);
    let bootstrap = (args.bootstrap > 0).then(|| {
        let (part, labels, kept) = loss.form().restricted(measured, &test.labels, net.classes);
        let predictions = metrics::predictions(&part, &labels, kept, Smoothing::NONE);
        let Intervals { accuracy, nll, ece } = bootstrap::of_predictions(&predictions, args.bootstrap, 0.95, 0);
        Bootstrap { resamples: args.bootstrap, accuracy_interval: accuracy, nll_interval: nll, ece_interval: ece }
    });
    if let Some(path) = &args.logits {
        let tensor = Tensor { name: "logits".into(), shape: vec![test.len(), net.classes], data: logits };
        checkpoint::save(path, &[tensor], args.inference.dtype.dtype(), &Metadata::new())?;
    }
    if args.json {
        common::print_json(&Report { metrics: &metrics, temperature, bootstrap })?;
    } else {
        show(&metrics, bootstrap.as_ref())?;
    }
    Ok(0)
}

fn show(metrics: &Metrics, bootstrap: Option<&Bootstrap>) -> Result<()> {
    for (name, value, interval) in [
        ("loss", metrics.loss, None),
        ("nll", metrics.nll, bootstrap.map(|b| b.nll_interval)),
        ("accuracy", metrics.accuracy, bootstrap.map(|b| b.accuracy_interval)),
        ("error", metrics.error, None),
        ("ece", metrics.ece, bootstrap.map(|b| b.ece_interval)),
        ("brier", metrics.brier, None),
        ("mean confidence", metrics.mean_confidence, None),
        ("ece, equal mass", metrics.ece_equal_mass, None),
        ("ece, classwise", metrics.ece_classwise, None),
        ("mce", metrics.mce, None),
        // Where there are no such answers there is no mean.
        ("conf. if right", metrics.confidence_right.unwrap_or(f64::NAN), None),
        ("conf. if wrong", metrics.confidence_wrong.unwrap_or(f64::NAN), None),
        ("above 0.99", metrics.above_99, None),
        ("aurc", metrics.aurc, None),
        ("excess loss", metrics.excess_loss, None),
    ] {
        let interval = interval.map_or(String::new(), |i| format!("  (95 %: {:.6} to {:.6})", i.low, i.high));
        common::print(format_args!("{name:<16} {value:.6}{interval}"))?;
    }
    common::print(format_args!("{:<16} {}", "images", metrics.images))
}

/// Flags of what computes a saved model's logits, and how.
#[derive(Debug, clap::Args)]
pub(super) struct InferenceArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Precision; f64 on the CPU path
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Precision,
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
    pub(super) fn logits(
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
pub(super) fn trained_normalisation(
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
fn from_training<T: Default>(
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

fn numbers(text: &str) -> Option<Vec<f64>> {
    text.split(',').map(|part| part.parse().ok()).collect()
}

/// Which classes took part in training, if not all.
pub(super) fn class_mask(model: &Path, metadata: &Metadata, classes: usize) -> Result<Option<Vec<bool>>> {
    from_training(model, metadata, "class_mask", |text| {
        let mut allowed = vec![false; classes];
        for class in text.split(',') {
            *allowed.get_mut(class.parse::<usize>().ok()?)? = true;
        }
        Some(Some(allowed))
    })
}

/// The smoothed loss as in training, or as the flags have it. Class weights and the other losses have no part in it.
fn loss(args: &Args, metadata: &Metadata, classes: usize) -> Result<Loss> {
    let epsilon = from_training(&args.model, metadata, "label_smoothing", |text| {
        text.parse().ok().filter(|epsilon: &f64| epsilon.is_finite() && *epsilon < 1.0).map(Some)
    })?;
    let variant =
        from_training(&args.model, metadata, "smoothing_variant", |text| Variant::from_str(text, false).ok())?;
    let variant = args.smoothing_variant.unwrap_or(variant);
    let prior = from_training(&args.model, metadata, "smoothing_prior", |text| {
        numbers(text).filter(|prior| prior.len() == classes).map(Some)
    })?;
    let allowed = class_mask(&args.model, metadata, classes)?;
    let part = allowed.as_ref().map_or(classes, |allowed| allowed.iter().filter(|allowed| **allowed).count());
    let smoothing = match (args.label_smoothing, epsilon) {
        (None, Some(epsilon)) => Smoothing::negative_allowed(variant, epsilon, part)?,
        (given, _) => Smoothing::new(variant, given.unwrap_or(0.1), part)?,
    };
    let prior = prior.filter(|_| args.smoothing_variant.is_none());
    if prior.is_none() && allowed.is_none() {
        return Ok(smoothing.into());
    }
    let even = if variant == Variant::Uniform { Prior::Uniform } else { Prior::OffTarget };
    let epsilon = Epsilon::negative_allowed(smoothing.epsilon)?;
    let spec = Spec { epsilon, prior: prior.map_or(even, Prior::Given), allowed, ..Spec::new(classes) };
    Ok(Loss::new(Form::Weighted(WeightedLoss::new(&spec)?), smoothing.epsilon))
}
