//! For whoever trains a run into a folder: all that it depends on, as its `config.toml` records it. The default is what
//! the program does without flags.
//!
//! What is refused is named by the flag that gives it, or, where the configuration was read from a file, by the file
//! and its key.

pub mod images;
mod kept;
pub mod loss;
pub mod recipe;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::backend::device::Precision;
use crate::compile::fuse::Kernels;
use crate::data::format::Pictures;
use crate::data::labels::Noise;
use crate::data::record::{Record, TrainedOn};
use crate::data::source::{self, DataKind, Source, Wanted};
use crate::loss::smoothing::Variant;
use crate::network::Architecture;
use crate::ops::augment::Augment;
use crate::optimizer::{Adam, Optimizer};
use crate::plan::Storage;
use crate::plan::tuning::Tuning;
use crate::train::best::BestBy;
use crate::train::checkpoint::Dtype;
use crate::{Error, Result, input, parse};
use loss::{LossConfig, LossSettings};
use recipe::RecipeSettings;

/// The most of anything that is counted: products of a few such numbers and of sizes are far from what 64 bits hold.
pub const MOST: usize = u32::MAX as usize;
/// Epochs of a run where nobody says.
pub const EPOCHS: usize = 10;

impl From<Precision> for Dtype {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F64 => Self::F64,
        }
    }
}

/// What changes which images are trained on, and with which labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Labels {
    /// The share of every class that is held out; 0 for none.
    pub val_split: f64,
    /// The share of the training labels that are flipped.
    pub label_noise: f64,
    /// To which class a label flips.
    pub noise: Noise,
    /// IDX labels that replace the training set's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_labels: Option<PathBuf>,
}

/// Everything a run depends on, as written to config.toml.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The version of the program that wrote it.
    pub version: String,
    /// The data set.
    pub data: DataKind,
    /// From the root, but for what is built in.
    pub data_dir: PathBuf,
    /// Only the first so many training images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_train: Option<usize>,
    /// Only the first so many test images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_test: Option<usize>,
    /// How pictures become images.
    #[serde(default, skip_serializing_if = "Pictures::is_default")]
    pub pictures: Pictures,
    /// The network. Left out where it is the seed network, so that the runs of a sweep keep their names.
    #[serde(default, skip_serializing_if = "Architecture::is_default")]
    pub network: Architecture,
    /// What is done to training images. Left out where it is nothing.
    #[serde(default, skip_serializing_if = "Augment::is_none")]
    pub augment: Augment,
    /// Weights to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Times through the training set.
    pub epochs: usize,
    /// What chooses the best epoch; none where no images are held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_by: Option<BestBy>,
    /// The run ends after so many epochs that are no better than the best one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// A checkpoint is written after every so many epochs; 0: only at the end. Left out where it is 1.
    #[serde(default = "every_epoch", skip_serializing_if = "is_every_epoch")]
    pub checkpoint_every: usize,
    /// Images in a batch.
    pub batch_size: usize,
    /// Epsilon; 0 is plain cross-entropy.
    pub label_smoothing: f64,
    /// Over which classes epsilon is spread.
    pub smoothing_variant: Variant,
    /// Of the initial weights, of the order of the images, of the split and of the noise.
    pub seed: u64,
    /// A new order in each epoch, or the files'.
    pub shuffle: bool,
    /// Each channel's mean, of pixels scaled to 0..1; none for the data set's usual ones.
    pub mean: Vec<f64>,
    /// Their standard deviations.
    pub std: Vec<f64>,
    /// In which precision.
    pub dtype: Precision,
    /// Left out where they are f32, so that the runs of a sweep keep their names.
    #[serde(default, skip_serializing_if = "Storage::is_default")]
    pub activations: Storage,
    /// What it was trained on.
    pub backend: String,
    /// Which images, with which labels.
    #[serde(default)]
    pub labels: Labels,
    /// The loss, but for epsilon.
    #[serde(default, skip_serializing_if = "LossSettings::is_default")]
    pub loss: LossSettings,
    /// Which kernels: a resumed run keeps them, because others round differently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Kernels>,
    /// On a GPU, the form of the fused kernels, which is kept as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// What is done beside its plain updates.
    #[serde(default, skip_serializing_if = "RecipeSettings::is_default")]
    pub recipe: RecipeSettings,
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

fn every_epoch() -> usize {
    1
}

fn is_every_epoch(epochs: &usize) -> bool {
    *epochs == every_epoch()
}

impl Default for Config {
    fn default() -> Self {
        let Source { data, data_dir, limit_train, limit_test, pictures, .. } = Source::default();
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            data,
            data_dir,
            limit_train,
            limit_test,
            pictures,
            network: Architecture::default(),
            augment: Augment::NONE,
            init: None,
            epochs: EPOCHS,
            best_by: None,
            patience: None,
            checkpoint_every: every_epoch(),
            batch_size: 64,
            label_smoothing: 0.1,
            smoothing_variant: Variant::Uniform,
            seed: 0,
            shuffle: true,
            mean: vec![],
            std: vec![],
            dtype: Precision::F32,
            activations: Storage::F32,
            backend: String::new(),
            labels: Labels::default(),
            loss: LossSettings::default(),
            kernels: None,
            tuning: None,
            optimizer: Optimizer::Adam(Adam::default()),
            recipe: RecipeSettings::default(),
            data_set: None,
            file: None,
            allow_changed_data: false,
        }
    }
}

impl Config {
    /// All that finds its data.
    pub fn source(&self) -> Source {
        Source {
            data: self.data,
            data_dir: self.data_dir.clone(),
            limit_train: self.limit_train,
            limit_test: self.limit_test,
            pictures: self.pictures.clone(),
            classes: self.data_set.as_ref().map(|record| record.classes.clone()),
        }
    }

    /// The same run, with its data where it is said to have moved to.
    ///
    /// # Errors
    /// [`Error::Usage`] as [`TrainedOn::source`].
    pub fn move_data(&mut self, wanted: &Wanted, allow_changed: bool) -> Result<()> {
        if let (Some(_), Some(source)) = (&wanted.dir, self.trained_on().source(wanted)?) {
            self.data_dir = source.data_dir;
        }
        self.allow_changed_data = allow_changed;
        Ok(())
    }

    /// What the run's model is to say of its data.
    pub fn trained_on(&self) -> TrainedOn {
        TrainedOn {
            data: self.data,
            dir: (!self.data.is_built_in()).then(|| self.data_dir.clone()),
            limit_train: self.limit_train,
            limit_test: self.limit_test,
            pictures: self.pictures.clone(),
            images: self.data_set.clone(),
        }
    }

    /// All that it says of the loss.
    pub fn loss_config(&self) -> LossConfig<'_> {
        LossConfig { settings: &self.loss, epsilon: self.label_smoothing, variant: self.smoothing_variant }
    }

    /// The same, read from the file at `path`, which is named in place of flags from here on. Refuses what makes no
    /// sense.
    ///
    /// # Errors
    /// [`Error::Data`] with `path`.
    pub fn read_from(mut self, path: &Path) -> Result<Self> {
        self.file = Some(path.to_owned());
        self.check()?;
        Ok(self)
    }

    /// Refuses what no data can mend, wherever it comes from.
    ///
    /// # Errors
    /// [`Error::Usage`] with a flag's name, or [`Error::Data`] with the file and its key ([`Self::named`]).
    pub fn check(&self) -> Result<()> {
        self.named(self.check_fields())
    }

    fn check_fields(&self) -> Result<()> {
        let counts = [
            ("--epochs", Some(self.epochs)),
            ("--patience", self.patience),
            ("--batch-size", Some(self.batch_size)),
            ("--limit-train", self.limit_train),
            ("--limit-test", self.limit_test),
            ("--smoothing-epochs", self.loss.smoothing_epochs),
        ];
        for (flag, count) in counts.into_iter().chain(self.recipe.counts()) {
            if let Some(count) = count.filter(|count| !(1..=MOST).contains(count)) {
                let expected = format!("a whole number of at least 1 and at most {MOST}");
                return Err(Error::Usage(format!("{flag}: found {count}, expected {expected}")));
            }
        }
        if self.checkpoint_every > MOST {
            let found = self.checkpoint_every;
            return Err(Error::Usage(format!("--checkpoint-every: found {found}, expected at most {MOST}")));
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
        self.recipe.check(&self.optimizer)?;
        source::check_normalisation(["--mean", "--std"], [&self.mean, &self.std])?;
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
        if !self.recipe.mix().is_none()
            && let Some(found) = self.loss.unmixable()
        {
            let flag = if self.recipe.mix().mixup > 0.0 { "--mixup" } else { "--cutmix" };
            return Err(Error::Usage(format!(
                "{flag}: found with {found}, expected cross-entropy of the labels alone"
            )));
        }
        // No data has fewer classes: what passes here may still be refused for the data's own number.
        self.loss.smoothing(Variant::Uniform, self.label_smoothing, 2).map(|_| ())
    }

    /// Images of a step: those of all batches whose gradients it adds up.
    pub fn update_images(&self) -> usize {
        self.batch_size.saturating_mul(self.recipe.accumulate.unwrap_or(1))
    }

    /// What a step is made of, for a person.
    pub fn describe_batches(&self) -> String {
        let of_step = match self.recipe.accumulate {
            Some(n) if n > 1 => format!(", {n} batches a step"),
            _ => String::new(),
        };
        format!("batch size {}{of_step}", self.batch_size)
    }

    /// How parameters change, for a person.
    pub fn describe_updates(&self) -> String {
        self.optimizer.describe() + &self.recipe.describe()
    }

    /// What was refused of flags, as refused of the file where the configuration is from one: by its keys.
    ///
    /// # Errors
    /// That of `result`.
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

    /// Mean and standard deviation of each channel, `usual` being those of the data.
    ///
    /// # Errors
    /// As [`source::normalisation`].
    pub fn normalisation(&self, usual: &[[f64; 2]]) -> Result<Vec<[f64; 2]>> {
        self.named(source::normalisation(usual, ["--mean", "--std"], [&self.mean, &self.std]))
    }
}

/// Reads a run's config.toml.
///
/// # Errors
/// [`Error::Data`] with the file and the key, what was found and what was expected.
pub fn read_config(path: &Path) -> Result<Config> {
    let text = input::read_text(path, "the configuration of a run")?;
    parse::toml::<Config>(path, &text)?.read_from(path)
}
