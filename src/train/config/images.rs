//! For whoever wants the images of a run: what its configuration makes of its data set.

use std::path::Path;

use super::{Config, Labels};
use crate::backend::device::Note;
use crate::data::format::{Loaded, ReadProgress};
use crate::data::labels::{self, Flipped};
use crate::data::record::{CHANGED, Part, Record};
use crate::data::{Dataset, idx};
use crate::loss::Loss;
use crate::ops::IGNORED;
use crate::{Error, Result};

/// What a run trains on and measures on.
pub struct Images {
    /// What is trained on.
    pub train: Dataset,
    /// What was held out of the training set, if anything.
    pub validation: Option<Dataset>,
    /// Its labels with as much noise as those trained on, as somebody with noisy data has them: flipped ones, or those
    /// of `--train-labels`, which may be right or wrong. `None` where the labels are the data set's own.
    pub noisy_validation: Option<Vec<u32>>,
    /// The test set.
    pub test: Dataset,
    /// The indices of the training images into the training set as its files have it.
    pub kept: Vec<u32>,
    /// The indices of the test images into the test set as its files have it.
    pub test_kept: Vec<u32>,
    /// Whose label noise has changed.
    pub flipped: Vec<Flip>,
    /// What the data set is known by.
    pub record: Record,
    /// Each channel's mean and standard deviation where the configuration has none.
    pub normalisation: Vec<[f64; 2]>,
}

impl Images {
    /// The loss over these images. A teacher's logits are still to come.
    ///
    /// # Errors
    /// [`Error::Usage`] where no training image counts, and as [`super::loss::LossConfig::loss`].
    pub fn loss(&self, config: &Config) -> Result<Loss> {
        let train = &self.train;
        let mut loss = config.named(config.loss_config().loss(train, &self.kept))?;
        if !config.recipe.mix().is_none() {
            loss = loss.mixed()?;
        }
        let all: Vec<u32> = (0..train.len() as u32).collect();
        if loss.weights(&train.labels, train.classes, &all)[0] == 0.0 {
            let n = all.len();
            return config.named(Err(Error::Usage(format!(
                "--ignore-index, --class-mask or --class-weights: found none of {n} training images that counts, \
                 expected at least one"
            ))));
        }
        let steps_per_epoch = train.len().div_ceil(config.update_images()) as u64;
        Ok(loss.scheduled(config.loss.schedule_over(steps_per_epoch)))
    }
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
/// always one of what counts. `progress` is told how far a long reading is. In the training set such labels are
/// [`IGNORED`]; the other sets are without their images.
///
/// # Errors
/// [`Error::Data`] where a file is missing, damaged or changed, [`Error::Usage`] where nothing is left to train or to
/// measure on.
pub fn images(config: &Config, note: Note, progress: ReadProgress) -> Result<Images> {
    config.check()?;
    config.named(read_images(config, note, progress))
}

fn read_images(config: &Config, note: Note, progress: ReadProgress) -> Result<Images> {
    let Labels { val_split, label_noise, noise, train_labels } = &config.labels;
    let ignored = config.loss.ignore_index;
    let source = config.source();
    let places = train_labels.is_some() || config.loss.soft_labels.is_some();
    let loaded = source.load_checked(ignored, places, progress)?;
    let record = Record::new(&loaded);
    let Loaded { mut train, validation: own_validation, test, normalisation, notes, ignored: hashed, .. } = loaded;
    notes.iter().for_each(|line| note(line));
    if let (Some(record), false) = (&config.data_set, config.allow_changed_data) {
        // An entry of a plan, which is JSON, takes no flags of its own.
        let of_run = config.file.as_ref().and_then(|file| file.extension()).is_some_and(|kind| kind == "toml");
        let advice = if of_run { CHANGED } else { "without its folder the run begins anew" };
        record.check(&source, (Part::Train, &train), config.limit_train, hashed, advice)?;
        let none = Dataset { shape: train.shape, ..Dataset::default() };
        let held_out = own_validation.as_ref().unwrap_or(&none);
        if record.val_images.is_some() || own_validation.is_some() {
            record.check(&source, (Part::Validation, held_out), None, hashed, advice)?;
        }
        record.check(&source, (Part::Test, &test), config.limit_test, hashed, advice)?;
    }
    if let Some(path) = train_labels {
        train.labels = replaced_labels(path, &train, ignored)?;
    }
    let classes = train.classes;
    let allowed = config.loss.allowed(classes)?.unwrap_or_else(|| vec![true; classes]);
    let takes_part = |label: u32| allowed.get(label as usize).is_some_and(|allowed| *allowed);
    let part: Vec<u32> = (0..classes as u32).filter(|&class| takes_part(class)).collect();
    train.labels.iter_mut().filter(|label| !takes_part(**label)).for_each(|label| *label = IGNORED);
    let counts = |&i: &u32| test.labels[i as usize] != IGNORED && takes_part(test.labels[i as usize]);
    let test_kept: Vec<u32> = (0..test.len() as u32).filter(counts).collect();
    let test = if test_kept.len() < test.len() { test.subset(&test_kept) } else { test };
    let (train_images, test_images) = (record.train_images, record.test_images);
    let held_out = record.val_images.map_or(String::new(), |n| format!(", {n} validation"));
    note(&format!("data: {}, {train_images} training{held_out} and {test_images} test images", source.describe()));

    let mut validation = own_validation.map(|held_out| {
        let of_part = (0..held_out.len() as u32).filter(|&i| takes_part(held_out.labels[i as usize]));
        held_out.subset(&of_part.collect::<Vec<_>>())
    });
    if validation.is_some() && *val_split > 0.0 {
        let found = format!("found {val_split}, and the data has a validation set of its own");
        return Err(Error::Usage(format!("--val-split: {found}; expected one of the two")));
    }
    let mut kept: Vec<u32> = (0..train.len() as u32).collect();
    if *val_split > 0.0 {
        let (rest, held_out) = labels::stratified_split(&train.labels, classes, *val_split, config.seed);
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
    let flip = |of: &mut [u32], whose| labels::flip(of, whose, &part, *label_noise, *noise, config.seed);
    let flipped = flip(&mut train.labels, Flipped::Training);
    // A split divides the labels of `--train-labels` too.
    let noisy = *label_noise > 0.0 || train_labels.is_some() && *val_split > 0.0;
    let noisy_validation = validation.as_ref().filter(|_| noisy).map(|held_out| {
        let mut noisy = held_out.labels.clone();
        flip(&mut noisy, Flipped::HeldOut);
        noisy
    });
    let flipped = flipped.into_iter().map(|index| Flip { index, file_index: kept[index as usize] }).collect();
    if test.is_empty() {
        let message = "found no test image that counts, expected at least one";
        return Err(Error::Usage(format!("--class-mask or --ignore-index: {message}")));
    }
    Ok(Images { train, validation, noisy_validation, test, kept, test_kept, flipped, record, normalisation })
}

fn replaced_labels(path: &Path, train: &Dataset, ignored: Option<i64>) -> Result<Vec<u32>> {
    let labels = idx::read_labels(path)?;
    if labels.len() < train.len() {
        let message = format!("{} labels, expected at least one for each of {} images", labels.len(), train.len());
        return Err(Error::data(path, message));
    }
    idx::classes(path, &labels[..train.len()], train.classes, ignored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Config {
        Config { limit_train: Some(40), limit_test: Some(20), ..Config::default() }
    }

    fn read(config: &Config) -> Result<Images> {
        images(config, &|_| (), &|_, _| ())
    }

    fn refused<T>(result: Result<T>) -> String {
        result.err().expect("it is refused").to_string()
    }

    /// Catches a share that is one of images that do not count, and a run that has nothing to learn from.
    #[test]
    fn a_split_leaves_something_on_both_sides() {
        let of = |val_split, mask: &[usize]| {
            let mut config = small();
            (config.labels.val_split, config.loss.class_mask) = (val_split, mask.to_vec());
            (read(&config), config)
        };
        let (found, _) = of(0.001, &[]);
        assert!(refused(found).starts_with("--val-split: found 0.001, which leaves one side of 40 images empty"));
        let label = read(&small()).unwrap().train.labels[0] as usize;
        let mask: Vec<usize> = (0..10).filter(|class| *class != label).collect();
        let one = |val_split| {
            let (_, mut config) = of(val_split, &mask);
            config.limit_train = Some(1);
            (read(&config), config)
        };
        // Of one image that does not count no side is empty for want of a share: the loss refuses it.
        let (found, config) = one(0.5);
        let found = refused(found.unwrap().loss(&config));
        assert!(found.contains("found none of 1 training images"), "{found}");
        let (found, _) = of(0.5, &mask);
        let found = found.unwrap();
        let held_out = found.validation.as_ref().unwrap();
        assert!(held_out.len() + found.train.len() == 40 && found.kept.len() == found.train.len());
        assert!(held_out.labels.iter().all(|&held_out| held_out != IGNORED && held_out as usize != label));
    }

    /// Catches noise of another rate or of the training labels' own draws, and noise where none was asked for.
    #[test]
    fn labels_held_out_are_as_noisy_as_the_others() {
        let mut config = Config { limit_train: Some(400), ..small() };
        (config.labels.val_split, config.labels.label_noise) = (0.5, 0.2);
        let found = read(&config).unwrap();
        let clean = &found.validation.as_ref().unwrap().labels;
        let noisy = found.noisy_validation.unwrap();
        let places: Vec<usize> = (0..clean.len()).filter(|&i| clean[i] != noisy[i]).collect();
        assert_eq!((places.len(), found.flipped.len()), (40, 40));
        assert!(found.flipped.iter().zip(&places).any(|(flip, &place)| flip.index as usize != place));
        config.labels.label_noise = 0.0;
        assert_eq!(read(&config).unwrap().noisy_validation, None);
    }

    /// An IDX file of labels: as many as there are images, or more.
    #[test]
    fn labels_are_replaced_by_a_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels");
        let of = |n: u8| {
            let bytes = [&[0, 0, 8, 1, 0, 0, 0, n][..], &(0..n).map(|i| i % 10).collect::<Vec<_>>()].concat();
            std::fs::write(&path, bytes).unwrap();
            let mut config = small();
            config.labels.train_labels = Some(path.clone());
            read(&config).map(|images| images.train.labels)
        };
        let expected: Vec<u32> = (0..40).map(|i| i % 10).collect();
        assert_eq!((of(40).unwrap(), of(50).unwrap()), (expected.clone(), expected));
        // Images held out have labels of the file too, and are told from those of the test set.
        let mut config = small();
        (config.labels.train_labels, config.labels.val_split) = (Some(path.clone()), 0.5);
        let found = read(&config).unwrap();
        assert_eq!(found.noisy_validation.unwrap(), found.validation.unwrap().labels);
        let message = refused(of(39));
        assert!(message.ends_with("labels: 39 labels, expected at least one for each of 40 images"), "{message}");
    }

    /// Catches other images under a run that goes on, and advice that does not help.
    #[test]
    fn images_are_those_that_the_run_began_with() {
        let whole = read(&small()).unwrap().record;
        let of = |change: fn(&mut Record), file: Option<&str>| {
            let mut record = whole.clone();
            change(&mut record);
            read(&Config { data_set: Some(record), file: file.map(Into::into), ..small() })
        };
        assert_eq!(of(|_| (), None).unwrap().record, whole);
        let other = |record: &mut Record| record.test_images = 19;
        assert!(refused(of(other, Some("run/config.toml"))).ends_with(CHANGED));
        for file in [None, Some("entry.json")] {
            assert!(refused(of(other, file)).ends_with("; without its folder the run begins anew"), "{file:?}");
        }
        assert!(refused(of(|record| record.train_images = 39, None)).contains("expected 39 training images of 1x"));
        // It had some that were held out, and now there are none.
        let message = refused(of(|record| record.val_images = Some(3), None));
        let [c, h, w] = whole.shape;
        assert!(message.contains(&format!("found 0 validation images of {c}x{h}x{w} ")), "{message}");
    }
}
