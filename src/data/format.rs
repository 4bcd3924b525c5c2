//! For whoever adds a format of data: what it must say and do. A format has a file of its own and a line in
//! [`super::source::FORMATS`].

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Dataset;
use crate::{Error, Result};

/// A format of data sets: what it is called, and how it is read.
pub trait Format: Sync {
    /// As flags and files have it: `cifar-10`.
    fn name(&self) -> &'static str;

    /// What it is, in a line.
    fn about(&self) -> &'static str;

    /// Whether it needs no files.
    fn is_built_in(&self) -> bool {
        false
    }

    /// Whether what lies at `path`, a file or a folder, is of this format. The first of the list that says yes reads
    /// it.
    fn recognises(&self, _path: &Path) -> bool {
        false
    }

    /// Whether its images are made of pictures, so that [`Pictures`] has a meaning.
    fn is_of_pictures(&self) -> bool {
        false
    }

    /// Whether [`Self::read`] itself makes the label [`Reading::ignored`] to [`crate::ops::IGNORED`]: where the labels
    /// of the files are not the classes, nobody could afterwards.
    fn reads_ignored(&self) -> bool {
        false
    }

    /// The images at `path`. More images than the limits may be given, where that is less work. `progress` is told how
    /// far a long reading is.
    ///
    /// # Errors
    /// [`crate::Error::Data`] where a file is missing, damaged, or not what it should be.
    fn read(&self, path: &Path, how: &Reading, progress: ReadProgress) -> Result<Loaded>;

    /// Refuses training images that are not at their places in a published set, where labels that come in a file of
    /// their own expect them.
    ///
    /// # Errors
    /// [`crate::Error::Data`].
    fn check_places(&self, path: &Path, _train: &Dataset) -> Result<()> {
        Err(Error::data(path, format!("found data in the format {}, expected a published set", self.name())))
    }
}

/// Is told how many files are read, and of how many.
pub type ReadProgress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// How data is read, beside where it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Only the first so many training images.
    pub limit_train: Option<usize>,
    /// Only the first so many test images.
    pub limit_test: Option<usize>,
    /// This label of the file, which may be any number that the format holds, becomes [`crate::ops::IGNORED`].
    pub ignored: Option<i64>,
    /// How pictures become images; where files hold images of one size already, it has no part.
    pub pictures: Pictures,
    /// The classes in the order of their labels, where they are known before: a model's. Else the data says.
    pub classes: Option<Vec<String>>,
    /// The folder of the images that are kept for the next start, if any.
    pub cache: Option<PathBuf>,
}

/// How pictures of any size become the images of a set, and its sets. A configuration records it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Pictures {
    /// Height and width of the images; without it pictures must be of one size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<[usize; 2]>,
    /// What a picture of another shape loses or gains.
    pub crop_mode: CropMode,
    /// 1 for grey, 3 for RGB; without it RGB where a pixel of a training picture has a colour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// The share of every class that becomes the test set, where the data has none; none for [`TEST_SPLIT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_split: Option<f64>,
    /// Leaves out files that are no pictures, which are an error otherwise.
    pub skip_bad: bool,
}

/// The share of the images that is held out as a test set, where the data has none and nobody says.
pub const TEST_SPLIT: f64 = 0.2;

impl Pictures {
    /// Whether it says nothing.
    pub fn is_default(&self) -> bool {
        self.first_given().is_none()
    }

    /// The flag of the first setting that is not the default.
    pub fn first_given(&self) -> Option<&'static str> {
        let Self { size, crop_mode, channels, test_split, skip_bad } = self;
        let given = [
            ("size", size.is_some()),
            ("crop-mode", *crop_mode != CropMode::default()),
            ("channels", channels.is_some()),
            ("test-split", test_split.is_some()),
            ("skip-bad", *skip_bad),
        ];
        given.into_iter().find_map(|(flag, given)| given.then_some(flag))
    }

    /// Refuses what makes no images.
    ///
    /// # Errors
    /// [`Error::Usage`] with the flag's name.
    pub fn check(&self) -> Result<()> {
        let wrong = |flag: &str, found: String, expected: &str| {
            Err(Error::Usage(format!("--{flag}: found {found}, expected {expected}")))
        };
        match self {
            Self { size: Some([h, w]), .. } if !(1..=MOST_SIDE).contains(h) || !(1..=MOST_SIDE).contains(w) => {
                wrong("size", format!("{h}x{w}"), &format!("sides from 1 to {MOST_SIDE}"))
            }
            Self { channels: Some(channels), .. } if ![1, 3].contains(channels) => {
                wrong("channels", channels.to_string(), "1 (grey) or 3 (RGB)")
            }
            Self { test_split: Some(share), .. } if !(*share > 0.0 && *share <= 1.0) => {
                wrong("test-split", share.to_string(), "a share above 0 and below 1")
            }
            _ => Ok(()),
        }
    }
}

/// The most pixels on a side of an image.
pub const MOST_SIDE: usize = 4096;

/// What becomes of a picture whose sides are not in proportion to those of the images. The names are timm's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum CropMode {
    /// Scaled until it covers the image, then cut around its centre
    #[default]
    Center,
    /// Scaled until the image holds all of it, then filled up with black
    Border,
    /// Scaled to the image's sides, each by its own factor
    Squash,
}

impl CropMode {
    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Center => "center",
            Self::Border => "border",
            Self::Squash => "squash",
        }
    }
}

/// A data set as it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// What is trained on.
    pub train: Dataset,
    /// What the data itself holds out to measure on during the training, if anything.
    pub validation: Option<Dataset>,
    /// What is measured on in the end.
    pub test: Dataset,
    /// What the classes are called, by their label.
    pub classes: Vec<String>,
    /// Each channel's mean and standard deviation, of pixels scaled to 0..1: those that are usual for a published set,
    /// else those of the training images; no numbers where there are no training images.
    pub normalisation: Vec<[f64; 2]>,
    /// What a user should know, a line each: a test set that was carved out, files left out, classes with few images.
    pub notes: Vec<String>,
    /// Files that were left out, and why.
    pub left_out: Vec<String>,
    /// What [`Dataset::sha256`] has in the place of a label that is ignored: that label as the files have it, or the
    /// class that it would be.
    pub ignored: Option<i64>,
    /// Which sizes pictures had, height and width, and how many had them; the most frequent first.
    pub sizes: Vec<([usize; 2], usize)>,
}

impl Loaded {
    /// A published set: its images, the names of its classes, and its channels' usual mean and standard deviation.
    pub fn published((train, test): (Dataset, Dataset), classes: &[&str], normalisation: &[[f64; 2]]) -> Self {
        let classes = classes.iter().map(|&name| name.into()).collect();
        Self { train, test, classes, normalisation: normalisation.to_vec(), ..Self::default() }
    }
}
