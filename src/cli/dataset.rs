//! Data sets: the flags that choose one, and how a run and its model know theirs again.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use smoothcnn::backend::cpu::memory;
use smoothcnn::data::digits::{self, Digits};
use smoothcnn::data::{Dataset, cifar, idx};
use smoothcnn::ops::IGNORED;
use smoothcnn::train::checkpoint::Metadata;
use smoothcnn::{Error, Result};

use super::common;
use super::parse::from_training;

/// Which images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// Built in: drawn by the program, 28x28, ten classes.
    Digits,
    /// MNIST's IDX files.
    Mnist,
    /// Fashion-MNIST's IDX files.
    FashionMnist,
    /// CIFAR-10's binary files.
    #[value(name = "cifar-10")]
    #[serde(rename = "cifar-10")]
    Cifar10,
}

impl DataKind {
    /// As the flag has it.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What the classes are called, by their label.
    pub fn class_names(self) -> [&'static str; 10] {
        match self {
            Self::Digits | Self::Mnist => ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
            Self::FashionMnist => [
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ],
            Self::Cifar10 => ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
        }
    }

    /// Mean and standard deviation of each channel that are usual for it.
    fn usual_normalisation(self) -> [Vec<f64>; 2] {
        match self {
            Self::Digits => [vec![digits::MEAN_AND_STD.0], vec![digits::MEAN_AND_STD.1]],
            Self::Mnist => [vec![0.1307], vec![0.3081]],
            Self::FashionMnist => [vec![0.2860], vec![0.3530]],
            Self::Cifar10 => [vec![0.4914, 0.4822, 0.4465], vec![0.2470, 0.2435, 0.2616]],
        }
    }
}

/// Where a data set's files are, if nobody says.
const FOLDER: &str = "data";

/// Flags that choose a data set.
#[derive(Clone, Debug, clap::Args)]
pub struct DataArgs {
    /// Data set [default: that of the model or run, where there is one, else digits]
    #[arg(long, value_enum)]
    pub data: Option<DataKind>,
    /// Folder with the data set's files, plain or .gz, under their published names [default: where the model or run had
    /// them, else data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// All that finds a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub data: DataKind,
    /// Without a meaning for what is built in.
    pub data_dir: PathBuf,
    pub limit_train: Option<usize>,
    pub limit_test: Option<usize>,
}

impl DataArgs {
    /// What the flags name, without limits.
    pub fn source(&self) -> Result<Source> {
        let data = self.data.unwrap_or(DataKind::Digits);
        self.check(data)?;
        let data_dir = match data {
            DataKind::Digits => FOLDER.into(),
            _ => recorded("--data-dir", self.data_dir.as_deref().unwrap_or(Path::new(FOLDER)))?,
        };
        Ok(Source { data, data_dir, limit_train: None, limit_test: None })
    }

    /// Whether the data of a model, or of a run, is meant, and where it is: `known`, or where the flags say that it
    /// moved to.
    pub fn own(&self, known: &TrainedOn) -> Result<Option<Source>> {
        if self.data.is_some_and(|data| data != known.data) {
            return Ok(None);
        }
        self.check(known.data)?;
        let data_dir = match &self.data_dir {
            Some(moved) => recorded("--data-dir", moved)?,
            None => known.dir.clone().unwrap_or(FOLDER.into()),
        };
        let TrainedOn { data, limit_train, limit_test, .. } = *known;
        Ok(Some(Source { data, data_dir, limit_train, limit_test }))
    }

    fn check(&self, data: DataKind) -> Result<()> {
        match &self.data_dir {
            Some(dir) if data == DataKind::Digits => Err(Error::Usage(format!(
                "--data-dir: found {}, but the digits are built in; expected --data with a set that is read from files",
                dir.display()
            ))),
            _ => Ok(()),
        }
    }
}

impl Source {
    /// `mnist in /home/me/data`.
    pub fn describe(&self) -> String {
        match self.data {
            DataKind::Digits => "digits (built in)".into(),
            data => format!("{} in {}", data.name(), self.data_dir.display()),
        }
    }

    /// Training and test set, cut to the limits. The label `ignored` has become [`IGNORED`] in both.
    pub fn load(&self, ignored: Option<i64>) -> Result<(Dataset, Dataset)> {
        self.load_checked(ignored, false)
    }

    /// As [`Self::load`]; with `places` only if every training image is at its place in the published set.
    pub fn load_checked(&self, ignored: Option<i64>, places: bool) -> Result<(Dataset, Dataset)> {
        let (mut train, mut test) = match self.data {
            // A larger set begins with the smaller one: only what is kept is drawn.
            DataKind::Digits => {
                let all = Digits::default();
                let kept = |limit: Option<usize>, n: usize| limit.map_or(n, |limit| limit.min(n));
                let (train, test) = (kept(self.limit_train, all.train), kept(self.limit_test, all.test));
                Digits { train, test, ..all }.generate()
            }
            DataKind::Mnist => idx::load_dir_ignoring(&self.data_dir, "MNIST", 10, ignored)?,
            DataKind::FashionMnist => idx::load_dir_ignoring(&self.data_dir, "FashionMNIST", 10, ignored)?,
            DataKind::Cifar10 => cifar::load_dir(&self.data_dir)?,
        };
        if places && self.data == DataKind::Cifar10 {
            cifar::check_places(&self.data_dir, &train).map_err(|error| match error {
                Error::Data { path, message } => {
                    Error::data(path, format!("{message}: --train-labels and --soft-labels go by their place in it"))
                }
                other => other,
            })?;
        }
        train.truncate(self.limit_train.unwrap_or(usize::MAX));
        test.truncate(self.limit_test.unwrap_or(usize::MAX));
        // What is split or left out is a copy.
        let copies = (train.images.len() + test.images.len()) as u64;
        if let Some(available) = memory::available().filter(|available| copies > *available) {
            let [copies, available] = [copies, available].map(common::bytes);
            let message = format!("found {copies} of images, and {available} of memory are available to copy them");
            return Err(Error::OverLimit(format!("{}: {message}; --limit-train takes fewer", self.describe())));
        }
        if ignored.is_some() {
            // IDX files have been read so; the other formats have classes only.
            for label in train.labels.iter_mut().chain(&mut test.labels) {
                if ignored == Some((*label).into()) {
                    *label = IGNORED;
                }
            }
        }
        Ok((train, test))
    }
}

/// A path as a configuration records it: from the root, so that it means the same wherever the run goes on.
pub fn recorded(flag: &str, path: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(path).map_err(Error::io(path))?;
    match whole.to_str() {
        Some(_) => Ok(whole),
        None => {
            Err(Error::Usage(format!("{flag}: found {path:?}, expected a path in UTF-8, which config.toml can hold")))
        }
    }
}

/// The images whose label is not ignored.
pub fn labelled(images: &Dataset) -> Dataset {
    let counts = (0..images.len() as u32).filter(|&i| images.labels[i as usize] != IGNORED);
    images.subset(&counts.collect::<Vec<_>>())
}

/// Mean and standard deviation of each channel: what was given, else the data set's usual values. `names` are what gave
/// them.
pub fn normalisation(
    data: DataKind,
    names: [&str; 2],
    [mean, std]: [&[f64]; 2],
    channels: usize,
) -> Result<Vec<[f64; 2]>> {
    let one_each = |name: &str, given: &[f64], usual: Vec<f64>| match given.len() {
        0 => Ok(usual),
        1 => Ok(vec![given[0]; channels]),
        n if n == channels => Ok(given.to_vec()),
        n => Err(Error::Usage(format!("{name}: found {n} values, expected 1 or one for each of {channels} channels"))),
    };
    let [usual_mean, usual_std] = data.usual_normalisation();
    let (mean, std) = (one_each(names[0], mean, usual_mean)?, one_each(names[1], std, usual_std)?);
    check_normalisation(names, [&mean, &std])?;
    Ok(mean.into_iter().zip(std).map(|(mean, std)| [mean, std]).collect())
}

/// Refuses what makes no numbers of pixels, whatever the data.
pub fn check_normalisation(names: [&str; 2], [mean, std]: [&[f64]; 2]) -> Result<()> {
    // Kernels divide by it in f32.
    if let Some(bad) = std.iter().find(|std| !(std.is_finite() && **std >= f64::from(f32::MIN_POSITIVE))) {
        return Err(Error::Usage(format!("{}: found {bad}, expected numbers above 0", names[1])));
    }
    if let Some(bad) = mean.iter().find(|mean| !(**mean as f32).is_finite()) {
        return Err(Error::Usage(format!("{}: found {bad}, expected numbers", names[0])));
    }
    Ok(())
}

/// What the images were when a run began: enough to tell whether others are the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Record {
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// What the classes are called, by their label.
    pub classes: Vec<String>,
    /// How many training images, after --limit-train.
    pub train_images: usize,
    /// [`Dataset::sha256`] of these, with the labels of the data set's own files.
    pub train_sha256: String,
    /// How many test images, after --limit-test.
    pub test_images: usize,
    /// Their hash.
    pub test_sha256: String,
}

/// What to do about data that has changed.
pub const CHANGED: &str = "--data-dir names another folder, --allow-changed-data goes on with these";

/// One of a data set's two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Train,
    Test,
}

impl Record {
    pub fn new(source: &Source, [train, test]: [&Dataset; 2], ignored: Option<i64>) -> Self {
        Self {
            shape: train.shape,
            classes: source.data.class_names().map(String::from).to_vec(),
            train_images: train.len(),
            train_sha256: train.sha256(usize::MAX, ignored),
            test_images: test.len(),
            test_sha256: test.sha256(usize::MAX, ignored),
        }
    }

    fn part(&self, part: Part) -> (&'static str, usize, &str) {
        match part {
            Part::Train => ("training", self.train_images, &self.train_sha256),
            Part::Test => ("test", self.test_images, &self.test_sha256),
        }
    }

    /// Whether the first of `images` are those of the record.
    pub fn begins(&self, part: Part, images: &Dataset, ignored: Option<i64>) -> bool {
        let (_, n, hash) = self.part(part);
        images.len() >= n && images.shape == self.shape && images.sha256(n, ignored) == hash
    }

    /// Refuses images that are not those of the record, with what was found and what was expected and the advice what to do;
    /// `limit` is what they were cut to when it was made, and there may be more of them now.
    pub fn check(
        &self,
        source: &Source,
        (part, images): (Part, &Dataset),
        limit: Option<usize>,
        ignored: Option<i64>,
        advice: &str,
    ) -> Result<()> {
        let (name, n, hash) = self.part(part);
        let found = images.len().min(limit.unwrap_or(usize::MAX));
        let seems = |n: usize, [c, h, w]: [usize; 3], hash: &str| {
            format!("{n} {name} images of {c}x{h}x{w} with SHA-256 {}…", hash.get(..12).unwrap_or(hash))
        };
        let found_hash = images.sha256(found, ignored);
        if (found, images.shape, &found_hash[..]) == (n, self.shape, hash) {
            return Ok(());
        }
        let (found, expected) = (seems(found, images.shape, &found_hash), seems(n, self.shape, hash));
        let path = if source.data == DataKind::Digits { "the built-in digits".into() } else { source.data_dir.clone() };
        Err(Error::data(path, format!("the data has changed: found {found}, expected {expected}; {advice}")))
    }
}

/// What a model says of the data that it was trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainedOn {
    pub data: DataKind,
    /// None for what is built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_train: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_test: Option<usize>,
    /// None where it is not known: earlier versions did not record it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Record>,
}

/// The key of a model's metadata that has it, as JSON.
const KEY: &str = "data_set";

impl TrainedOn {
    /// For a model's metadata.
    pub fn metadata(&self) -> (String, String) {
        (KEY.into(), common::to_json(self))
    }

    /// What the metadata of the model at `path` says, if anything.
    pub fn of_model(path: &Path, metadata: &Metadata) -> Result<Option<Self>> {
        from_training(path, metadata, KEY, |text| serde_json::from_str(text).ok().map(Some))
    }
}
