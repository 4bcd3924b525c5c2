//! A saved model: the flags that name it and the images it is asked about, what training left in its metadata, its logits.

use std::path::{Path, PathBuf};

use smoothcnn::data::Dataset;
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::network::Network;
use smoothcnn::optimizer::{Adam, Optimizer};
use smoothcnn::train::checkpoint::{self, Metadata};
use smoothcnn::train::run_folder::{CHECKPOINT, CONFIG, MODEL};
use smoothcnn::train::{Setup, State};
use smoothcnn::{Error, Result};

use super::common::{self, DeviceArgs, Precision};
use super::config::read_config;
use super::dataset::{self, DataArgs, DataKind, Part, Source, TrainedOn};
use super::parse::from_training;
use super::temperature_file;

/// Flags that `eval` and `predict` share.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// Weights, as safetensors under PyTorch's names
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    #[command(flatten)]
    pub data: DataArgs,
    /// Keep only the first N test images [default: as in training, where it is the model's own data]
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    pub limit_test: Option<usize>,
    /// Take the model's own data set though its images are not those that the model was trained with
    #[arg(long)]
    pub allow_changed_data: bool,
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
    pub data: DataKind,
    /// The test images; those whose label is ignored have [`smoothcnn::ops::IGNORED`].
    pub test: Dataset,
    pub temperature: Option<f64>,
}

impl ModelArgs {
    /// Reads the files that the flags name, and says which images they are.
    pub fn load(&self) -> Result<Model> {
        let temperature = self.temperature.as_deref().map(temperature_file::read).transpose()?;
        let metadata = checkpoint::load_metadata(&self.model)?;
        let ignored = match self.ignore_index {
            Some(ignored) => Some(ignored),
            None => ignore_index(&self.model, &metadata)?,
        };
        let known = trained_on(&self.model, &metadata)?;
        let limits = [Some(0), self.limit_test];
        let Found { source, test, .. } =
            find(&self.data, limits, (known.as_ref(), &[Part::Test]), self.allow_changed_data, ignored)?;
        let net = Network::seed(test.shape, test.classes)?;
        let (state, metadata) = common::load_params(&net, &self.model)?;
        let others = known.filter(|known| known.data != source.data);
        let others = others.map_or(String::new(), |known| format!(" (the model is of {})", known.data.name()));
        common::note(format_args!("data: {}, {} test images{others}", source.describe(), test.len()));
        Ok(Model { net, state, metadata, data: source.data, test, temperature })
    }

    /// The logits `[images, classes]` of the model for these images.
    pub fn logits(&self, Model { net, state, metadata, data, .. }: &Model, images: &Dataset) -> Result<Vec<f64>> {
        self.inference.logits(net, (&self.model, state, metadata), *data, images)
    }
}

/// The data that the model at `path` was trained on: what its metadata says of it, else, for a run's model of an
/// earlier version, the run's configuration beside it.
pub fn trained_on(path: &Path, metadata: &Metadata) -> Result<Option<TrainedOn>> {
    if let Some(found) = TrainedOn::of_model(path, metadata)? {
        return Ok(Some(found));
    }
    let beside = path.with_file_name(CONFIG);
    let of_run = [MODEL, CHECKPOINT].iter().any(|name| path.file_name() == Some(name.as_ref())) && beside.is_file();
    of_run.then(|| Ok(read_config(&beside)?.trained_on())).transpose()
}

/// A data set that a model is asked about.
pub struct Found {
    pub source: Source,
    pub train: Dataset,
    pub test: Dataset,
    /// So many training images, the first of the set, are known to have trained the model.
    pub trained: usize,
}

/// Finds the images that the flags name: those that the model is `known` to be of, unless another set is named. Of the
/// model's own the `parts` that are used must be as they were in its training, unless `allow_changed`. Limits are the
/// flags', of training and test images, else the model's.
pub fn find(
    args: &DataArgs,
    [limit_train, limit_test]: [Option<usize>; 2],
    (known, parts): (Option<&TrainedOn>, &[Part]),
    allow_changed: bool,
    ignored: Option<i64>,
) -> Result<Found> {
    // Whatever the name of the set, and whether or not others follow them.
    let trained = |train: &Dataset| {
        let record = known.filter(|_| parts.contains(&Part::Train)).and_then(|known| known.images.as_ref());
        record.filter(|record| record.begins(Part::Train, train, ignored)).map_or(0, |record| record.train_images)
    };
    let own = known.map(|known| Ok((known, args.own(known)?))).transpose()?;
    let Some((known, Some(own))) = own else {
        let source = Source { limit_train, limit_test, ..args.source()? };
        let (train, test) = source.load(ignored)?;
        return Ok(Found { trained: trained(&train), source, train, test });
    };
    // All that the model had is needed to know it again, also where less is asked about.
    let used = |part: Part| known.images.is_some() && parts.contains(&part);
    let limit = |part: Part, asked: Option<usize>, known: Option<usize>| match (asked, known) {
        (Some(asked), Some(known)) if used(part) => Some(asked.max(known)),
        (Some(_), None) if used(part) => None,
        (asked, known) => asked.or(known),
    };
    let source = Source {
        limit_train: limit(Part::Train, limit_train, own.limit_train),
        limit_test: limit(Part::Test, limit_test, own.limit_test),
        ..own
    };
    let (mut train, mut test) = source.load(ignored)?;
    if let (Some(record), false) = (&known.images, allow_changed) {
        for part in parts {
            let (images, limit) = match part {
                Part::Train => (&train, known.limit_train),
                Part::Test => (&test, known.limit_test),
            };
            record.check(&source, (*part, images), limit, ignored, dataset::CHANGED)?;
        }
    }
    let trained = trained(&train);
    train.truncate(limit_train.or(known.limit_train).unwrap_or(usize::MAX));
    test.truncate(limit_test.or(known.limit_test).unwrap_or(usize::MAX));
    Ok(Found { source, train, test, trained })
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
            seed: 0,
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
        let mut backend = common::backend(gpu.as_ref(), &self.device, self.device.tuning(), self.dtype, setup, state)?;
        common::finite(backend.test_logits()?, net.classes)
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
    let of_model = [mean.is_empty(), std.is_empty()];
    let mean = trained_with(mean, "mean", f64::is_finite)?;
    let std = trained_with(std, "std", |std| std.is_finite() && std > 0.0)?;
    let name = |of_model, flag, key| if of_model { key } else { flag };
    let names = [name(of_model[0], "--mean", "metadata mean"), name(of_model[1], "--std", "metadata std")];
    dataset::normalisation(data, names, [&mean, &std], channels).map_err(|error| match error {
        Error::Usage(message) if message.starts_with("metadata") => Error::data(model, message),
        other => other,
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
        // Among fewer than two there is nothing to choose.
        (allowed.iter().filter(|allowed| **allowed).count() >= 2).then_some(Some(allowed))
    })
}

/// The label that training ignored, if one. What the data is read with, so that it is known before the network is.
pub fn ignore_index(model: &Path, metadata: &Metadata) -> Result<Option<i64>> {
    from_training(model, metadata, "ignore_index", |text| text.parse().ok().map(Some))
}
