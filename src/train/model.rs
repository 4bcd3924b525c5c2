//! For whoever asks a saved model: its file and what training left in its metadata, the images that it is of, its
//! logits.

use std::path::{Path, PathBuf};

use super::checkpoint::{self, Dtype, Metadata};
use super::config::read_config;
pub use super::inference::{Inference, Tta};
use super::run_folder::{CHECKPOINT, CONFIG, WEIGHTS, run_of};
use super::saved;
use super::store::save_model;
use super::temperature_file::{IN_METADATA, VECTOR_IN_METADATA, keep_scaling_in};
use crate::backend::device::{Note, Opened, finite};
use crate::backend::{Asked, ImageSet, State};
use crate::data::Dataset;
use crate::data::format::{CropMode, Loaded, ReadProgress};
use crate::data::record::{CHANGED, Part, Record, TrainedOn};
use crate::data::source::{self, Source, Wanted};
use crate::loss::smoothing::{Epsilon, Prior, Smoothing, Variant};
use crate::loss::weighted::{Spec, WeightedLoss};
use crate::loss::{Form, Loss};
use crate::measure::scaling::{Scaling, Vector};
use crate::measure::{self, temperature};
use crate::network::{Architecture, Network};
use crate::parse::to_json;
use crate::plan::Storage;
use crate::plan::tuning::Tuning;
use crate::{Error, Result};

/// What goes into a model and what comes out: all that it can be asked with, without a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Channels, height, width of its images.
    pub shape: [usize; 3],
    /// What its classes are called, by their label.
    pub classes: Vec<String>,
    /// What a picture of another shape loses or gains.
    pub crop_mode: CropMode,
}

/// A model's file, as far as it is known without its network.
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// Where it is.
    pub path: PathBuf,
    /// What training left in it beside the weights.
    pub metadata: Metadata,
}

/// The key of a model's metadata that has its [`TrainedOn`], as JSON.
pub(crate) const DATA_SET: &str = "data_set";

/// The key of a model's metadata that has its layers, as JSON; without it they are the seed network's.
pub(super) const NETWORK: &str = "network";

/// What a model's metadata says of its data.
pub(super) fn data_set(trained_on: &TrainedOn) -> (String, String) {
    (DATA_SET.into(), to_json(trained_on))
}

/// The file of the weights at `path`: itself, or, of a run's folder, that of the best epoch, else of the last one, else
/// the checkpoint.
///
/// # Errors
/// [`Error::Data`] for a folder without any of them.
pub fn weights_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let found = WEIGHTS.iter().map(|name| path.join(name)).find(|file| file.is_file());
    let expected = || format!("expected a file, or a run's folder with {}", WEIGHTS.join(" or "));
    found.ok_or_else(|| Error::data(path, format!("found a folder, {}", expected())))
}

impl ModelFile {
    /// Reads the metadata of the weights at `path`: a file, or a run's folder ([`weights_of`]).
    ///
    /// # Errors
    /// As [`weights_of`] and [`checkpoint::load_metadata`].
    pub fn open(path: &Path) -> Result<Self> {
        let path = weights_of(path)?;
        let metadata = checkpoint::load_metadata(&path)?;
        Ok(Self { path, metadata })
    }

    /// The file, and of which epoch its weights are, for a line that says so.
    pub fn describe(&self) -> String {
        let epoch = self.metadata.get("epoch").map_or(String::new(), |epoch| format!(", the weights of epoch {epoch}"));
        format!("{}{epoch}", self.path.display())
    }

    /// What training left in the metadata under `key`; the default where it left nothing, as in PyTorch's files.
    fn left_by_training<T: Default>(&self, key: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
        self.metadata.get(key).map_or(Ok(T::default()), |text| {
            parse(text).ok_or_else(|| {
                let message = format!("metadata {key}: found {text:?}, which training cannot have left");
                Error::data(&self.path, message)
            })
        })
    }

    /// The data that the model was trained on: what its metadata says of it, else, for a run's model of an earlier
    /// version, the run's configuration beside it.
    ///
    /// # Errors
    /// [`Error::Data`] for what no training leaves.
    pub fn trained_on(&self) -> Result<Option<TrainedOn>> {
        if let Some(found) = self.left_by_training(DATA_SET, |text| serde_json::from_str(text).ok().map(Some))? {
            return Ok(Some(found));
        }
        let beside = self.path.with_file_name(CONFIG);
        run_of(&self.path).map(|_| Ok(read_config(&beside)?.trained_on())).transpose()
    }

    /// What the model's images and classes are, and how pictures become such images.
    ///
    /// # Errors
    /// [`Error::Data`] for a model that does not say so, and as [`Self::trained_on`].
    pub fn interface(&self) -> Result<Interface> {
        match self.trained_on()? {
            Some(TrainedOn { images: Some(Record { shape, classes, .. }), pictures, .. }) => {
                Ok(Interface { shape, classes, crop_mode: pictures.crop_mode })
            }
            _ => {
                let message = "found a model that does not say what its images and classes are, expected one that `train` \
                               wrote; `eval` and `predict` with --data answer a data set's test images all the same";
                Err(Error::data(&self.path, message))
            }
        }
    }

    /// Which classes took part in training, if not all.
    ///
    /// # Errors
    /// [`Error::Data`] for what no training leaves.
    pub fn class_mask(&self, classes: usize) -> Result<Option<Vec<bool>>> {
        self.left_by_training("class_mask", |text| {
            let mut allowed = vec![false; classes];
            for class in text.split(',') {
                *allowed.get_mut(class.parse::<usize>().ok()?)? = true;
            }
            // Among fewer than two there is nothing to choose.
            (allowed.iter().filter(|allowed| **allowed).count() >= 2).then_some(Some(allowed))
        })
    }

    /// The label that training ignored, if one. What the data is read with, so that it is known before the network is.
    ///
    /// # Errors
    /// [`Error::Data`] for what no training leaves.
    pub fn ignore_index(&self) -> Result<Option<i64>> {
        self.left_by_training("ignore_index", |text| text.parse().ok().map(Some))
    }

    /// The network's layers.
    ///
    /// # Errors
    /// [`Error::Data`] for what no training leaves.
    pub fn architecture(&self) -> Result<Architecture> {
        self.left_by_training(NETWORK, |text| serde_json::from_str(text).ok())
    }

    /// What is to be done to the logits of a calibrated or exported model, if it says so.
    ///
    /// # Errors
    /// [`Error::Data`] for what neither `calibrate` nor an export leaves.
    pub fn scaling(&self) -> Result<Option<Scaling>> {
        let [least, most] = temperature::RANGE;
        let temperature = self.left_by_training(IN_METADATA, |text| {
            text.parse().ok().filter(|value: &f64| (least..=most).contains(value)).map(Some)
        })?;
        let vector = self.left_by_training(VECTOR_IN_METADATA, |text| {
            serde_json::from_str(text).ok().filter(Vector::is_finite).map(Some)
        })?;
        Ok(vector.map(Scaling::Vector).or(temperature.map(Scaling::Temperature)))
    }

    /// Each channel's mean and standard deviation: what is given, else as in training, else the `usual` ones of the
    /// data.
    ///
    /// # Errors
    /// As [`source::normalisation`].
    pub fn normalisation(&self, [mean, std]: [&[f64]; 2], usual: &[[f64; 2]]) -> Result<Vec<[f64; 2]>> {
        let trained_with = |flag: &[f64], key: &str, valid: fn(f64) -> bool| {
            let parse = |text: &str| numbers(text).filter(|values| values.iter().all(|&value| valid(value)));
            if flag.is_empty() { self.left_by_training(key, parse) } else { Ok(flag.to_vec()) }
        };
        let of_model = [mean.is_empty(), std.is_empty()];
        let mean = trained_with(mean, "mean", f64::is_finite)?;
        let std = trained_with(std, "std", |std| std.is_finite() && std > 0.0)?;
        let name = |of_model, flag, key| if of_model { key } else { flag };
        let names = [name(of_model[0], "--mean", "metadata mean"), name(of_model[1], "--std", "metadata std")];
        source::normalisation(usual, names, [&mean, &std]).map_err(|error| match error {
            Error::Usage(message) if message.starts_with("metadata") => Error::data(&self.path, message),
            other => other,
        })
    }

    /// The smoothed loss that the model is measured with: what is given, else as in training, else an even one of 0.1.
    /// Class weights and the other losses have no part in it.
    ///
    /// # Errors
    /// [`Error::Usage`] for a smoothing that there is not, [`Error::Data`] for what no training leaves.
    pub fn loss(&self, epsilon: Option<f64>, variant: Option<Variant>, classes: usize) -> Result<Loss> {
        let trained = self.left_by_training("label_smoothing", |text| {
            text.parse().ok().filter(|epsilon: &f64| epsilon.is_finite() && *epsilon < 1.0).map(Some)
        })?;
        let of_training = self.left_by_training("smoothing_variant", Variant::from_name)?;
        let prior = self.left_by_training("smoothing_prior", |text| {
            numbers(text).filter(|prior| prior.len() == classes).map(Some)
        })?;
        let prior = prior.filter(|_| variant.is_none());
        let variant = variant.unwrap_or(of_training);
        let allowed = self.class_mask(classes)?;
        let part = allowed.as_ref().map_or(classes, |allowed| allowed.iter().filter(|allowed| **allowed).count());
        let smoothing = match (epsilon, trained) {
            (None, Some(epsilon)) => Smoothing::negative_allowed(variant, epsilon, part)?,
            (given, _) => Smoothing::new(variant, given.unwrap_or(0.1), part)?,
        };
        if prior.is_none() && allowed.is_none() {
            return Ok(smoothing.into());
        }
        let even = if variant == Variant::Uniform { Prior::Uniform } else { Prior::OffTarget };
        let epsilon = Epsilon::negative_allowed(smoothing.epsilon)?;
        let spec = Spec { epsilon, prior: prior.map_or(even, Prior::Given), allowed, ..Spec::new(classes) };
        Ok(Loss::new(Form::Weighted(WeightedLoss::new(&spec)?), smoothing.epsilon))
    }
}

fn numbers(text: &str) -> Option<Vec<f64>> {
    text.split(',').map(|part| part.parse().ok()).collect()
}

/// A saved model, ready to be asked.
pub struct Model {
    /// Its file.
    pub file: ModelFile,
    /// Its network.
    pub net: Network,
    /// Its parameters; the optimizer's memory is empty.
    pub state: State,
}

impl Model {
    /// Reads the model at `path`, for images of `shape` (channels, height, width) in so many classes.
    ///
    /// # Errors
    /// As [`ModelFile::open`], [`ModelFile::architecture`] and [`saved::load_params`]; [`Error::Layer`] for a shape
    /// that the network does not take.
    pub fn load(path: &Path, shape: [usize; 3], classes: usize) -> Result<Self> {
        let file = ModelFile::open(path)?;
        let net = file.architecture()?.network(shape, classes)?;
        let (state, metadata) = saved::load_params(&net, &file.path)?;
        Ok(Self { file: ModelFile { metadata, ..file }, net, state })
    }

    /// Writes the file again with what is to be done to its logits. A checkpoint is left as it is: a run goes on from
    /// it.
    ///
    /// # Errors
    /// As [`save_model`].
    pub fn keep_scaling(&self, dtype: Dtype, scaling: &Scaling) -> Result<()> {
        let ModelFile { path, metadata } = &self.file;
        if path.file_name() == Some(CHECKPOINT.as_ref()) {
            return Ok(());
        }
        let mut metadata = metadata.clone();
        keep_scaling_in(&mut metadata, scaling);
        save_model(path, &self.net, &self.state, dtype, &metadata)
    }

    /// Reads a teacher, which must be of the student's own shape and know every class.
    ///
    /// # Errors
    /// As [`Self::load`]; [`Error::Data`] too for a model that was trained with a class mask.
    pub fn teacher(path: &Path, shape: [usize; 3], classes: usize) -> Result<Self> {
        let model = Self::load(path, shape, classes)?;
        if model.file.class_mask(classes)?.is_some() {
            let message = "found a model that was trained with a class mask, expected one of every class";
            return Err(Error::data(path, message));
        }
        Ok(model)
    }

    /// The logits `[images, classes]` of the model for these images; `usual` are mean and standard deviation of each
    /// channel where neither `how` nor the model has them.
    ///
    /// # Errors
    /// [`Error::NoNumber`] for what is no number; those of the device, and of [`ModelFile::normalisation`].
    pub fn logits(&self, images: &Dataset, usual: &[[f64; 2]], how: &Inference, note: Note) -> Result<Vec<f64>> {
        self.opened(usual, how, note)?.logits(images)
    }

    /// The model on its device, to be asked more than once.
    ///
    /// # Errors
    /// Those of the device, and of [`ModelFile::normalisation`].
    pub fn opened(&self, usual: &[[f64; 2]], how: &Inference, note: Note) -> Result<OpenModel<'_>> {
        let normalisation = self.file.normalisation([&how.mean, &how.std], usual)?;
        let device = how.device.open(how.precision, note)?;
        let tuning = how.device.tiles.map(Tuning::all);
        if how.tta == Tta::Flip {
            note("tta: the mean of each image's logits and its mirror image's");
        }
        let Inference { batch_size, tta, .. } = *how;
        Ok(OpenModel { model: self, normalisation, device, tuning, batch_size, tta })
    }

    /// Logits `[images, classes]` of the model, scaled.
    ///
    /// # Errors
    /// [`Error::Fit`] for a scaling of other classes; [`Error::NoNumber`].
    pub fn scaled(&self, logits: &[f64], scaling: &Scaling) -> Result<Vec<f64>> {
        scaling.check(self.net.classes)?;
        finite(scaling.apply(logits), self.net.classes)
    }

    /// What logits `[images, classes]` of the model, scaled, say: a probability for each class, 0 for one that took no
    /// part in training.
    ///
    /// # Errors
    /// As [`Self::scaled`]; [`Error::Data`] for a class mask that no training leaves.
    pub fn probabilities(&self, logits: &[f64], scaling: &Scaling) -> Result<Vec<f64>> {
        let classes = self.net.classes;
        let logits = self.scaled(logits, scaling)?;
        let allowed = self.file.class_mask(classes)?.unwrap_or_else(|| vec![true; classes]);
        let kept: Vec<usize> = (0..classes).filter(|&class| allowed[class]).collect();
        let part: Vec<f64> = logits.chunks(classes).flat_map(|row| kept.iter().map(|&class| row[class])).collect();
        let mut probabilities = vec![0.0; logits.len()];
        let of_part = measure::probabilities(&part, kept.len());
        for (all, part) in probabilities.chunks_mut(classes).zip(of_part.chunks(kept.len())) {
            kept.iter().zip(part).for_each(|(&class, &p)| all[class] = p);
        }
        Ok(probabilities)
    }
}

/// A model on its device.
pub struct OpenModel<'a> {
    model: &'a Model,
    normalisation: Vec<[f64; 2]>,
    device: Opened,
    tuning: Option<Tuning>,
    batch_size: usize,
    tta: Tta,
}

impl OpenModel<'_> {
    /// The logits `[images, classes]` for these images.
    ///
    /// # Errors
    /// [`Error::NoNumber`] for what is no number; those of the device.
    pub fn logits(&self, images: &Dataset) -> Result<Vec<f64>> {
        let Model { net, state, .. } = self.model;
        let asked = Asked {
            net,
            params: &state.params,
            buffers: &state.buffers,
            normalisation: &self.normalisation,
            batch_size: self.batch_size,
        };
        let mut predictor = self.device.predictor(Storage::F32, self.tuning, &asked, images.len())?;
        let mut logits = predictor.logits(ImageSet::Bytes(images))?;
        if self.tta == Tta::Flip {
            let mirrored = predictor.logits(ImageSet::Bytes(&images.mirrored()))?;
            logits.iter_mut().zip(mirrored).for_each(|(logit, other)| *logit = 0.5 * (*logit + other));
        }
        finite(logits, net.classes)
    }
}

/// A data set that a model is asked about.
pub struct Found {
    /// What it was read from.
    pub source: Source,
    /// Whether that is what the model was trained on.
    pub own: bool,
    /// The training set.
    pub train: Dataset,
    /// The test set; images whose label is ignored have [`crate::ops::IGNORED`].
    pub test: Dataset,
    /// What the classes are called, by their label.
    pub classes: Vec<String>,
    /// Each channel's mean and standard deviation where the model has none.
    pub normalisation: Vec<[f64; 2]>,
    /// What a user should know of the data, a line each.
    pub notes: Vec<String>,
    /// So many training images, the first of the set, are known to have trained the model.
    pub trained: usize,
}

/// Finds the images that are wanted: those that the model is `known` to be of, unless another set is named. Of the
/// model's own the `parts` that are used must be as they were in its training, unless `allow_changed`. Limits, of
/// training and test images, are the model's where none is given. `progress` is told how far a long reading is.
///
/// # Errors
/// [`Error::Data`] where a file is missing, damaged or changed, [`Error::Usage`] as [`Wanted::source`].
pub fn find(
    wanted: &Wanted,
    [limit_train, limit_test]: [Option<usize>; 2],
    (known, parts): (Option<&TrainedOn>, &[Part]),
    allow_changed: bool,
    ignored: Option<i64>,
    progress: ReadProgress,
) -> Result<Found> {
    // Whatever the name of the set, and whether or not others follow them.
    let trained = |train: &Dataset, ignored| {
        let record = known.filter(|_| parts.contains(&Part::Train)).and_then(|known| known.images.as_ref());
        record.filter(|record| record.begins(Part::Train, train, ignored)).map_or(0, |record| record.train_images)
    };
    let own = known.map(|known| Ok((known, known.source(wanted)?))).transpose()?;
    let Some((known, Some(own))) = own else {
        let source = Source { limit_train, limit_test, ..wanted.source()? };
        let source = known.map_or(source.clone(), |known| known.like(source));
        let Loaded { train, test, classes, normalisation, notes, ignored, .. } = source.load(ignored, progress)?;
        let trained = trained(&train, ignored);
        return Ok(Found { trained, own: false, source, train, test, classes, normalisation, notes });
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
    let Loaded { mut train, mut test, classes, normalisation, notes, ignored, .. } = source.load(ignored, progress)?;
    if let (Some(record), false) = (&known.images, allow_changed) {
        for part in parts {
            let (images, limit) = match part {
                Part::Train => (&train, known.limit_train),
                Part::Test => (&test, known.limit_test),
                // No command asks a saved model about it.
                Part::Validation => continue,
            };
            record.check(&source, (*part, images), limit, ignored, CHANGED)?;
        }
    }
    let trained = trained(&train, ignored);
    train.truncate(limit_train.or(known.limit_train).unwrap_or(usize::MAX));
    test.truncate(limit_test.or(known.limit_test).unwrap_or(usize::MAX));
    Ok(Found { source, own: true, train, test, classes, normalisation, notes, trained })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::format::Pictures;

    /// A file of weights with this metadata.
    fn file(entries: &[(&str, &str)]) -> (tempfile::TempDir, ModelFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let metadata = entries.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let tensor = checkpoint::Tensor { name: "w".into(), shape: vec![1], data: vec![1.0].into() };
        checkpoint::save(&path, &[tensor], checkpoint::Dtype::F32, &metadata).unwrap();
        let file = ModelFile::open(&path).unwrap();
        (folder, file)
    }

    fn loss(entries: &[(&str, &str)], epsilon: Option<f64>, variant: Option<Variant>) -> Result<Loss> {
        file(entries).1.loss(epsilon, variant, 4)
    }

    fn weighted(loss: Loss) -> WeightedLoss {
        let Form::Weighted(loss) = loss.form() else { panic!("{loss:?}") };
        loss.clone()
    }

    #[test]
    fn a_model_is_measured_with_the_loss_that_it_was_trained_with() {
        let smoothing = |variant, epsilon| Loss::from(Smoothing { variant, epsilon });
        assert_eq!(loss(&[], None, None).unwrap(), smoothing(Variant::Uniform, 0.1));
        let trained = [("label_smoothing", "-0.5"), ("smoothing_variant", "off-target")];
        assert_eq!(loss(&trained, None, None).unwrap(), smoothing(Variant::OffTarget, -0.5));
        assert_eq!(loss(&trained, Some(0.2), Some(Variant::Uniform)).unwrap(), smoothing(Variant::Uniform, 0.2));
        assert!(loss(&trained, Some(-0.2), None).is_err(), "nobody trained with that");
        for bad in ["1", "inf", "x"] {
            assert!(
                loss(&[("label_smoothing", bad)], None, None).unwrap_err().to_string().contains("metadata label_smo")
            );
        }
        let prior = [("smoothing_prior", "0.5,0.25,0.125,0.125")];
        let found = weighted(loss(&prior, None, None).unwrap());
        assert_eq!((found.prior(), found.epsilon()), (&[0.5, 0.25, 0.125, 0.125][..], 0.1));
        // Another variant has no prior.
        assert_eq!(loss(&prior, None, Some(Variant::Uniform)).unwrap(), smoothing(Variant::Uniform, 0.1));
        assert!(loss(&[("smoothing_prior", "0.5,0.5")], None, None).is_err());
        let masked = [("class_mask", "0,2"), ("smoothing_variant", "off-target")];
        let found = weighted(loss(&masked, Some(0.2), None).unwrap());
        assert_eq!((found.allowed(), found.epsilon()), (&[true, false, true, false][..], 0.4));
        let even = weighted(loss(&masked[..1], Some(0.2), None).unwrap());
        assert_eq!((even.prior(), even.epsilon()), (&[0.5, 0.0, 0.5, 0.0][..], 0.2));
    }

    #[test]
    fn what_training_left_is_read_or_refused() {
        let none = file(&[]).1;
        assert_eq!(
            (none.class_mask(4).unwrap(), none.ignore_index().unwrap(), none.scaling().unwrap()),
            (None, None, None)
        );
        let left = file(&[("class_mask", "1,2"), ("ignore_index", "-1"), ("temperature", "1000"), ("epoch", "7")]).1;
        assert_eq!(left.class_mask(3).unwrap(), Some(vec![false, true, true]));
        assert_eq!(
            (left.ignore_index().unwrap(), left.scaling().unwrap()),
            (Some(-1), Some(Scaling::Temperature(1000.0)))
        );
        assert!(left.describe().ends_with("model.safetensors, the weights of epoch 7"));
        for (key, bad) in [("class_mask", "1"), ("class_mask", "1,4"), ("class_mask", "1,1"), ("ignore_index", "x")] {
            let file = file(&[(key, bad)]).1;
            assert!(file.class_mask(3).is_err() || file.ignore_index().is_err(), "{key} {bad}");
        }
        assert!(file(&[("temperature", "1001")]).1.scaling().is_err());
        assert!(none.interface().is_err() && none.trained_on().unwrap().is_none());
    }

    #[test]
    fn a_wrong_normalisation_is_the_files_or_the_flags() {
        let usual = [[0.5, 0.25]; 3];
        let of = |entries: &[(&str, &str)], mean: &[f64]| file(entries).1.normalisation([mean, &[]], &usual);
        assert_eq!(of(&[], &[]).unwrap(), usual);
        assert_eq!(
            of(&[("mean", "0.1,0.2,0.3"), ("std", "2,2,2")], &[]).unwrap(),
            [[0.1, 2.0], [0.2, 2.0], [0.3, 2.0]]
        );
        let of_file = of(&[("mean", "0.1,0.2")], &[]).unwrap_err();
        assert!(matches!(of_file, Error::Data { .. }) && of_file.to_string().contains("metadata mean"), "{of_file}");
        let of_flag = of(&[], &[0.1, 0.2]).unwrap_err();
        assert!(matches!(of_flag, Error::Usage(_)) && of_flag.to_string().contains("--mean"), "{of_flag}");
        for (key, bad) in [("mean", "inf,0,0"), ("std", "0,1,1"), ("std", "-1,1,1")] {
            assert!(of(&[(key, bad)], &[]).unwrap_err().to_string().contains("cannot have left"), "{key} {bad}");
        }
    }

    /// What is read of a set is what is asked for, but for what the model needs to know its images again.
    #[test]
    fn a_models_data_is_known_again_whatever_is_asked_for() {
        let all = Source::default().load(None, &|_, _| ()).unwrap();
        let of = |limits, known: Option<&TrainedOn>, parts: &[Part]| {
            find(&Wanted::default(), limits, (known, parts), false, None, &|_, _| ()).unwrap()
        };
        let sizes = |found: &Found| (found.train.len(), found.test.len(), found.trained, found.own);
        let limits = |found: &Found| (found.source.limit_train, found.source.limit_test);
        let alone = of([Some(10), Some(5)], None, &[]);
        assert_eq!((sizes(&alone), limits(&alone)), ((10, 5, 0, false), (Some(10), Some(5))));
        let n = (all.train.len(), all.test.len());
        let both = [Part::Train, Part::Test];
        let known = |limit_train, limit_test, images| TrainedOn {
            data: all_kind(),
            dir: None,
            limit_train,
            limit_test,
            pictures: Pictures::default(),
            images,
        };
        let record = Record::new(&all);
        // It knows all of them: all are read, and what was asked for is given.
        let found = of([Some(10), Some(5)], Some(&known(None, None, Some(record.clone()))), &both);
        assert_eq!((sizes(&found), limits(&found)), ((10, 5, n.0, true), (None, None)));
        // A part that nobody looks at is read as asked.
        let found = of([Some(10), Some(5)], Some(&known(None, None, Some(record.clone()))), &[Part::Test]);
        assert_eq!((sizes(&found), limits(&found)), ((10, 5, 0, true), (Some(10), None)));
        // It knows of no images: nothing has to be known again.
        let found = of([Some(10), Some(5)], Some(&known(None, Some(8), None)), &both);
        assert_eq!((sizes(&found), limits(&found)), ((10, 5, 0, true), (Some(10), Some(5))));
        // It had so many, of which fewer or more are asked for.
        let few = Source { limit_train: Some(20), limit_test: Some(8), ..Source::default() };
        let few = known(Some(20), Some(8), Some(Record::new(&few.load(None, &|_, _| ()).unwrap())));
        let found = of([Some(10), Some(30)], Some(&few), &both);
        assert_eq!((sizes(&found), limits(&found)), ((10, 30, 20, true), (Some(20), Some(30))));
        let found = of([None, None], Some(&few), &both);
        assert_eq!((sizes(&found), limits(&found)), ((20, 8, 20, true), (Some(20), Some(8))));
    }

    fn all_kind() -> crate::data::source::DataKind {
        Source::default().data
    }

    #[test]
    fn a_folder_has_weights_of_a_run_or_none() {
        let (folder, file) = file(&[]);
        assert_eq!(weights_of(folder.path()).unwrap(), file.path);
        std::fs::remove_file(&file.path).unwrap();
        assert!(weights_of(folder.path()).unwrap_err().to_string().contains("found a folder, expected a file"));
    }
}
