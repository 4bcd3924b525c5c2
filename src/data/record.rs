//! For whoever trains on data that may change: how a run and its model know their images again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Dataset;
use super::format::{Loaded, Pictures};
use super::source::{DataChoice, DataKind, FOLDER, Source, Wanted, recorded};
use crate::{Error, Result};

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
    /// How many images the data itself holds out, and their hash; none where it holds out none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_images: Option<usize>,
    /// Their hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_sha256: Option<String>,
}

/// What to do about data that has changed.
pub const CHANGED: &str = "--data-dir names another folder, --allow-changed-data goes on with these";

/// One of a data set's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is trained on.
    Train,
    /// What the data itself holds out.
    Validation,
    /// What is measured on.
    Test,
}

impl Record {
    /// The record of these images.
    pub fn new(loaded: &Loaded) -> Self {
        let Loaded { train, validation, test, classes, ignored, .. } = loaded;
        Self {
            shape: train.shape,
            classes: classes.clone(),
            train_images: train.len(),
            train_sha256: train.sha256(usize::MAX, *ignored),
            test_images: test.len(),
            test_sha256: test.sha256(usize::MAX, *ignored),
            val_images: validation.as_ref().map(Dataset::len),
            val_sha256: validation.as_ref().map(|held_out| held_out.sha256(usize::MAX, *ignored)),
        }
    }

    fn part(&self, part: Part) -> (&'static str, usize, &str) {
        match part {
            Part::Train => ("training", self.train_images, &self.train_sha256),
            Part::Validation => {
                ("validation", self.val_images.unwrap_or(0), self.val_sha256.as_deref().unwrap_or_default())
            }
            Part::Test => ("test", self.test_images, &self.test_sha256),
        }
    }

    /// Whether the first of `images` are those of the record; `ignored` is [`Loaded::ignored`].
    pub fn begins(&self, part: Part, images: &Dataset, ignored: Option<i64>) -> bool {
        let (_, n, hash) = self.part(part);
        images.len() >= n && images.shape == self.shape && images.sha256(n, ignored) == hash
    }

    /// Refuses images that are not those of the record, with what was found and what was expected and the advice what
    /// to do; `limit` is what they were cut to when it was made, and there may be more of them now; `ignored` is
    /// [`Loaded::ignored`].
    ///
    /// # Errors
    /// [`Error::Data`].
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
        let path = if source.data.is_built_in() { "the built-in digits".into() } else { source.data_dir.clone() };
        Err(Error::data(path, format!("the data has changed: found {found}, expected {expected}; {advice}")))
    }
}

/// What a model says of the data that it was trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainedOn {
    /// Which set.
    pub data: DataKind,
    /// None for what is built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Only the first so many training images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_train: Option<usize>,
    /// Only the first so many test images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_test: Option<usize>,
    /// How its pictures became images.
    #[serde(default, skip_serializing_if = "Pictures::is_default")]
    pub pictures: Pictures,
    /// None where it is not known: earlier versions did not record it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Record>,
}

impl TrainedOn {
    /// Whether this data is wanted, and where it is: where it was, or where it is said to have moved to.
    ///
    /// # Errors
    /// [`Error::Usage`] as [`Wanted::source`].
    pub fn source(&self, wanted: &Wanted) -> Result<Option<Source>> {
        match &wanted.data {
            Some(DataChoice::Named(data)) if *data != self.data => return Ok(None),
            Some(DataChoice::At(path)) if Some(recorded("--data", path)?) != self.dir => return Ok(None),
            _ => {}
        }
        wanted.check(self.data)?;
        if let Some(flag) = wanted.pictures.first_given() {
            let message =
                "found with the data that the model was trained on, which is read as it was then; expected none";
            return Err(Error::Usage(format!("--{flag}: {message}")));
        }
        let data_dir = match &wanted.dir {
            Some(moved) => recorded("--data-dir", moved)?,
            None => self.dir.clone().unwrap_or(FOLDER.into()),
        };
        let Self { data, limit_train, limit_test, mut pictures, images, .. } = self.clone();
        if let Some(record) = images.as_ref().filter(|_| data.format().is_of_pictures()) {
            // Of the training images, which may not be read this time.
            pictures.channels.get_or_insert(record.shape[0]);
        }
        let classes = images.map(|record| record.classes);
        Ok(Some(Source { data, data_dir, limit_train, limit_test, pictures, classes }))
    }

    /// Other data, to be read as this was: images of the same shape, classes under the same labels. What is not split
    /// is all test set, since nothing is trained on it.
    pub fn like(&self, mut other: Source) -> Source {
        let Pictures { size, crop_mode, channels, test_split, .. } = &mut other.pictures;
        if let Some(record) = &self.images {
            let [c, h, w] = record.shape;
            channels.get_or_insert(c);
            other.classes = Some(record.classes.clone());
            if size.is_none() {
                (*size, *crop_mode) = (Some([h, w]), self.pictures.crop_mode);
            }
        }
        test_split.get_or_insert(1.0);
        other
    }
}
