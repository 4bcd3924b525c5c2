//! For whoever looks at a run afterwards: what it recorded, and what its weights make of its own test set.
//!
//! ```
//! use smoothcnn::backend::device::Device;
//! use smoothcnn::backend::gpu::DeviceKind;
//! use smoothcnn::report::run::RunReport;
//! use smoothcnn::report::run_page;
//! use smoothcnn::train::config::Config;
//! use smoothcnn::train::runs::{Folder, Options, train};
//!
//! # fn main() -> smoothcnn::Result<()> {
//! let parent = tempfile::tempdir().expect("room for a folder");
//! let options = Options { device: Device { kind: DeviceKind::Cpu, ..Device::default() }, ..Options::default() };
//! let config = Config { limit_train: Some(64), limit_test: Some(20), epochs: 1, ..Config::default() };
//! let run = train(config, Folder::New(parent.path().join("run")), &options, &mut ())?;
//!
//! let report = RunReport::of(&run)?;
//! assert_eq!(report.metrics.images, 20);
//! assert!(run_page::html(&report)?.starts_with("<!DOCTYPE html>"));
//! # Ok(())
//! # }
//! ```

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::backend::device::Note;
use crate::data::Dataset;
use crate::data::format::ReadProgress;
use crate::data::record::Part;
use crate::data::source::Wanted;
use crate::loss::smoothing::Smoothing;
use crate::measure::calibration::{Bin, reliability};
use crate::measure::loss::{of_validation, taking_part};
use crate::measure::scaling::Scaling;
use crate::measure::{Metrics, predictions};
use crate::train::config::{Config, read_config};
use crate::train::marked::Marked;
use crate::train::model::{Found, Inference, Model, ModelFile, find};
use crate::train::run_folder::{CONFIG, name_of};
use crate::train::runs::Trained;
use crate::train::saved::read_record;
use crate::train::temperature_file;
use crate::{Error, Result};

/// What there is to say of a run.
pub struct RunReport {
    /// Its folder, as it was named.
    pub path: PathBuf,
    /// Its configuration.
    pub config: Config,
    /// The lines of its record.
    pub record: Vec<Value>,
    /// The network with the weights that answer for the run: of its best epoch, else of its last.
    pub model: Model,
    /// What the classes are called, by their label.
    pub classes: Vec<String>,
    /// The answers to its test set, by the temperature where there is one.
    pub marked: Marked,
    /// What `calibrate` left in the folder.
    pub scaling: Option<Scaling>,
    /// Why that is left out, where it is.
    pub left_out: Option<String>,
    /// Of the test set, without a temperature. No measure is of the smoothed loss.
    pub metrics: Metrics,
    /// The same with the temperature.
    pub scaled: Option<Metrics>,
    /// The bins of the reliability diagram of the test set, without a temperature.
    pub reliability: Vec<Bin>,
    /// The same with the temperature.
    pub reliability_scaled: Option<Vec<Bin>>,
}

/// Where a run's data is, for who knows it better than the run.
#[derive(Clone, Debug, Default)]
pub struct DataPlace {
    /// Its folder, where it has moved.
    pub dir: Option<PathBuf>,
    /// Whether images count that are not those of the training.
    pub allow_changed: bool,
}

impl RunReport {
    /// The report of a run that has just ended.
    ///
    /// # Errors
    /// Those of the device, and of the files in the run's folder.
    pub fn of(run: &Trained) -> Result<Self> {
        let (path, test) = (run.folder.path(), &run.images.test);
        let model = Model::load(path, test.shape, test.classes)?;
        let logits = run.test_logits()?;
        let places = &run.images.test_kept;
        let classes = run.images.record.classes.clone();
        Self::new(path, run.config.clone(), model, classes, (test, places), &logits)
    }

    /// The report of the run in the folder `path`, whose test set is read and answered again.
    ///
    /// # Errors
    /// [`Error::Data`] where the folder holds no run that has weights, or its data is missing or has changed; those of
    /// the device.
    pub fn read(path: &Path, data: &DataPlace, how: &Inference, note: Note, progress: ReadProgress) -> Result<Self> {
        let config = read_config(&path.join(CONFIG))?;
        let file = ModelFile::open(path)?;
        let (known, ignored) = (file.trained_on()?, file.ignore_index()?);
        let wanted = Wanted { dir: data.dir.clone(), ..Wanted::default() };
        let limits = [Some(0), None];
        let parts = (known.as_ref(), &[Part::Test][..]);
        let Found { test, classes, normalisation, .. } =
            find(&wanted, limits, parts, data.allow_changed, ignored, progress)?;
        let model = Model::load(path, test.shape, test.classes)?;
        let places = test.labelled_indices();
        let test = test.subset(&places);
        let logits = model.logits(&test, &normalisation, how, note)?;
        Self::new(path, config, model, classes, (&test, &places), &logits)
    }

    fn new(
        path: &Path,
        config: Config,
        model: Model,
        classes: Vec<String>,
        (test, places): (&Dataset, &[u32]),
        logits: &[f64],
    ) -> Result<Self> {
        // A run that went on has other weights than those it was fitted to.
        let (scaling, left_out) = match temperature_file::of_run(path, &model.file.path) {
            Ok(scaling) => (scaling, None),
            Err(Error::Data { message, .. }) => (None, Some(message)),
            Err(other) => return Err(other),
        };
        let loss = model.file.loss(None, None, model.net.classes)?;
        let form = loss.form();
        let measured = |logits: &[f64]| {
            let (part, labels, kept) = taking_part(form, logits, &test.labels, model.net.classes);
            let bins = reliability(&predictions(&part, &labels, kept, Smoothing::NONE));
            (of_validation(form, logits, &test.labels, model.net.classes), bins)
        };
        let (metrics, reliability) = measured(logits);
        if metrics.images == 0 {
            return Err(Error::data(path, "found no test image that counts, expected at least one"));
        }
        let scaled_logits = scaling.as_ref().map(|scaling| model.scaled(logits, scaling)).transpose()?;
        let (scaled, reliability_scaled) = scaled_logits.map(|logits| measured(&logits)).unzip();
        let marked = Marked::new(&model, test, places, logits, scaling.as_ref().unwrap_or(&Scaling::NONE))?;
        let (path, record) = (path.to_owned(), read_record(path)?);
        Ok(Self {
            path,
            config,
            record,
            model,
            classes,
            marked,
            scaling,
            left_out,
            metrics,
            scaled,
            reliability,
            reliability_scaled,
        })
    }

    /// The name of the folder, which tells runs apart.
    pub fn name(&self) -> String {
        name_of(&self.path)
    }

    /// The lines of that kind in the record: `step`, `epoch`, `test`.
    pub fn lines<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> + 'a {
        self.record.iter().filter(move |line| line["kind"] == kind)
    }

    /// A measure over the epochs: the epoch, and its value where it is a number.
    pub fn curve(&self, measure: &str) -> Vec<(f64, f64)> {
        let point = |line: &Value| Some((line["epoch"].as_f64()?, line[measure].as_f64()?));
        self.lines("epoch").filter_map(point).collect()
    }

    /// The learning rate over the epochs and their parts, of the steps that have a line.
    pub fn rates(&self) -> Vec<(f64, f64)> {
        // The first epoch's steps are every epoch's.
        let of_epoch = self.lines("epoch").find_map(|line| Some(line["step"].as_f64()? / line["epoch"].as_f64()?));
        let point = |line: &Value| Some((line["step"].as_f64()? / of_epoch?, line["lr"].as_f64()?));
        self.lines("step").filter_map(point).collect()
    }

    /// Seconds of all epochs that a clock was read for.
    pub fn seconds(&self) -> f64 {
        self.lines("epoch").filter_map(|line| line["seconds"].as_f64()).sum()
    }

    /// What was measured after every epoch: `val`, images held out, or `test`.
    pub fn measured(&self) -> &'static str {
        let held_out = self.lines("epoch").any(|line| line.get("val_nll").is_some());
        if held_out { "val" } else { "test" }
    }

    /// Of which epoch the weights are that answer for the run, if they say so.
    pub fn epoch(&self) -> Option<usize> {
        self.model.file.metadata.get("epoch")?.parse().ok()
    }

    /// How many epochs are done.
    pub fn epochs(&self) -> usize {
        self.lines("epoch").filter_map(|line| line["epoch"].as_u64()).max().unwrap_or(0) as usize
    }

    /// The measures that answer for the run: with the temperature where there is one.
    pub fn answer(&self) -> &Metrics {
        self.scaled.as_ref().unwrap_or(&self.metrics)
    }
}
