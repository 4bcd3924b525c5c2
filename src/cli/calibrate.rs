//! `smoothcnn calibrate`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use smoothcnn::data::Dataset;
use smoothcnn::data::record::Part;
use smoothcnn::data::source::DataKind;
use smoothcnn::fs::{is_standard_output, write_output};
use smoothcnn::loss::restricted;
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::measure;
use smoothcnn::measure::conformal::{Promise, Sets, promises};
use smoothcnn::measure::cross_fit::cross_fit;
use smoothcnn::measure::scaling::{Method, Scaling, Vector};
use smoothcnn::measure::temperature::{self, End};
use smoothcnn::train::checkpoint::tensors_sha256;
use smoothcnn::train::config::images::{Images, images};
use smoothcnn::train::config::read_config;
use smoothcnn::train::conformal_file::ConformalFile;
use smoothcnn::train::model::{Found, Model, ModelFile, find, weights_of};
use smoothcnn::train::run_folder::{self, CONFIG, OwnFolder, TEMPERATURE};
use smoothcnn::train::temperature_file::{self, TemperatureFile};
use smoothcnn::{Error, Result};

use super::common;
use super::dataset::DataArgs;
use super::model::InferenceArgs;

/// Fits a temperature to a saved model.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of a run of `train --val-split`: its model, its data, its held-out images
    #[arg(
        required_unless_present = "model",
        conflicts_with_all = ["model", "data", "limit_train", "limit_test", "val_images"]
    )]
    run: Option<PathBuf>,
    /// Weights, as safetensors under PyTorch's names; a run's folder is RUN, unless other images are named
    #[arg(long, value_name = "FILE|RUN")]
    model: Option<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    /// Keep only the first N training images [default: as in training, where it is the model's own data]
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    limit_train: Option<usize>,
    /// Keep only the first N test images [default: as in training, where it is the model's own data]
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    limit_test: Option<usize>,
    /// Take the data of the model or run though its images are not those that it was trained with
    #[arg(long)]
    allow_changed_data: bool,
    /// Fit on the last N training images (after --limit-train), which the model should not have been trained on
    /// [default: 5000, or a tenth of the training set if that is less]
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    val_images: Option<usize>,
    #[command(flatten)]
    inference: InferenceArgs,
    /// What is fitted
    #[arg(long, value_enum, default_value = "temperature")]
    method: Method,
    /// Where to write what was fitted [default: temperature.toml beside the model]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What share of the test images the reported sets of classes should hold
    #[arg(long, value_name = "SHARE", default_value_t = 0.9, value_parser = common::between_0_and_1)]
    coverage: f64,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// A set of images, with their logits as they are and scaled.
#[derive(Serialize)]
struct Set {
    images: usize,
    nll_before: f64,
    nll_after: f64,
    ece_before: f64,
    ece_after: f64,
}

impl Set {
    fn new(logits: &[f64], labels: &[u32], classes: usize, scaling: &Scaling) -> Self {
        let of = |logits: &[f64]| measure::evaluate(logits, labels, classes, Smoothing::NONE);
        let (before, after) = (of(logits), of(&scaling.apply(logits)));
        Self {
            images: labels.len(),
            nll_before: before.nll,
            nll_after: after.nll,
            ece_before: before.ece,
            ece_after: after.ece,
        }
    }
}

#[derive(Serialize)]
struct Report {
    method: Method,
    temperature: f64,
    /// Of each class that takes part, where the method is vector scaling.
    #[serde(flatten)]
    vector: Option<Vector>,
    /// The temperature's 95 % interval.
    interval: [f64; 2],
    /// The nll of the validation images, each scaled by a fit to other ones.
    nll_cross_fitted: Option<f64>,
    /// The same by a temperature.
    nll_of_temperature: Option<f64>,
    end: End,
    file: String,
    /// Fitted on.
    validation: Set,
    /// Report only.
    test: Set,
    /// Sets of classes, made on the validation images and measured on the test set.
    sets: Vec<Promise>,
}

/// The model, and what it is fitted on and reported on.
struct Source {
    model: PathBuf,
    data: DataKind,
    normalisation: Vec<[f64; 2]>,
    validation: Dataset,
    test: Dataset,
}

fn source(args: &Args) -> Result<Source> {
    let Args { data, limit_train, limit_test, val_images, .. } = args;
    let named = data.data.is_some() || [limit_train, limit_test, val_images].iter().any(|n| n.is_some());
    match (&args.run, &args.model) {
        (Some(run), _) => of_run(run, args),
        // A run knows what it held out.
        (None, Some(folder)) if !named && folder.join(CONFIG).is_file() => of_run(folder, args),
        (None, Some(model)) => of_model(model, args),
        // clap asks for one of them.
        (None, None) => Err(Error::Usage("--model: found none and no run, expected one of the two".into())),
    }
}

fn of_run(run: &Path, args: &Args) -> Result<Source> {
    let file = run.join(CONFIG);
    let mut config = read_config(&file)?;
    config.move_data(&args.data.wanted(), args.allow_changed_data)?;
    let bar = common::ReadingBar::default();
    let read = images(&config, &|line| common::note(line), &|done, all| bar.show(done, all));
    let Images { validation, test, normalisation, .. } = read?;
    let Some(validation) = validation else {
        let message = "found a run without --val-split, expected held-out images; --model FILE fits on others";
        return Err(Error::data(&file, message));
    };
    let model = weights_of(run)?;
    common::note(format_args!("model: {}", ModelFile::open(&model)?.describe()));
    Ok(Source { model, data: config.data, normalisation, validation, test })
}

fn of_model(path: &Path, args: &Args) -> Result<Source> {
    let file = ModelFile::open(path)?;
    let ignored = file.ignore_index()?;
    let known = file.trained_on()?;
    let bar = common::ReadingBar::default();
    let limits = [args.limit_train, args.limit_test];
    let parts = (known.as_ref(), &[Part::Train, Part::Test][..]);
    let Found { source, train, test, trained, normalisation, notes, .. } =
        find(&args.data.wanted(), limits, parts, args.allow_changed_data, ignored, &|done, all| bar.show(done, all))?;
    notes.iter().for_each(common::note);
    common::note(format_args!("data: {}, {} training and {} test images", source.describe(), train.len(), test.len()));
    let n = args.val_images.unwrap_or((train.len() / 10).clamp(1, 5000));
    let validation = last(&train, n)?;
    if train.len() - n < trained {
        let found = format!("the last {n} of {} training images, and the first {trained} were its own", train.len());
        let expected = "expected new ones (a temperature would be too low): the folder of a run with --val-split, or \
                        --limit-train and --val-images beyond those";
        return Err(Error::Fit(format!("found {found}; {expected}")));
    }
    Ok(Source { model: file.path, data: source.data, normalisation, validation, test: test.labelled() })
}

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    // Nobody may train the run on, or begin it again, while its model is measured and the temperature put beside it.
    let model = args.model.as_deref().map(weights_of).transpose()?;
    let run = args.run.as_deref().or(model.as_deref().and_then(run_folder::run_of));
    let _held = run.map(OwnFolder::open_run).transpose()?;
    let Source { model: path, data, normalisation, validation: images, test } = source(&args)?;
    let val_images = images.len();
    let model = Model::load(&path, test.shape, test.classes)?;
    let both = Dataset {
        images: [&images.images[..], &test.images].concat(),
        labels: [&images.labels[..], &test.labels].concat(),
        files: vec![],
        ..images
    };
    let logits = model.logits(&both, &normalisation, &args.inference.inference(), &|line| common::note(line))?;
    let all = model.net.classes;
    let (of_validation, of_test) = logits.split_at(val_images * all);
    // Of the classes that took part in training.
    let allowed = model.file.class_mask(all)?.unwrap_or_else(|| vec![true; all]);
    let (of_validation, validation_labels, classes) = restricted(&allowed, of_validation, &both.labels[..val_images]);
    let (of_test, test_labels, _) = restricted(&allowed, of_test, &both.labels[val_images..]);
    if test_labels.is_empty() {
        return Err(Error::Fit("found no test image that counts, expected at least one".into()));
    }

    let found = temperature::fit(&of_validation, &validation_labels, classes)?;
    if let Some(why) = match found.end {
        End::Minimum | End::Flat => None,
        End::Coldest => Some("as where every answer is right"),
        End::Hottest => Some("as where the answers are no better than chance"),
    } {
        let (value, n) = (found.value, validation_labels.len());
        return Err(Error::Fit(format!(
            "found {value}, the end of its range, and none is written: the nll of {n} validation images falls all the \
             way there, {why}; expected a minimum within the range, as more images may have"
        )));
    }
    let interval = temperature::interval(&of_validation, &validation_labels, classes, found.value);
    let cross_fitted = |method| cross_fit(method, &of_validation, &validation_labels, classes).map(|found| found.nll);
    let nll_of_temperature = cross_fitted(Method::Temperature).ok();
    let (scaling, nll_cross_fitted) = match args.method {
        Method::Temperature => (Scaling::Temperature(found.value), nll_of_temperature),
        Method::Vector => {
            let nll = cross_fitted(Method::Vector)?;
            if nll_of_temperature.is_none_or(|of_temperature| nll >= of_temperature) {
                let n = validation_labels.len();
                let of_temperature = nll_of_temperature.unwrap_or(f64::NAN);
                return Err(Error::Fit(format!(
                    "found a nll of {nll:.6} by vector scaling, each of {n} validation images scaled by a fit to others, \
                     and nothing is written; expected less than the {of_temperature:.6} of a temperature, which --method \
                     temperature writes"
                )));
            }
            (Method::Vector.fit(&of_validation, &validation_labels, classes)?.0, Some(nll))
        }
    };
    let of_all = scaling.clone().of_all(&allowed);
    let fitted = Set::new(&of_validation, &validation_labels, classes, &scaling);
    let out = args.out.clone().unwrap_or_else(|| path.with_file_name(TEMPERATURE));
    if args.out.is_none() && out.exists() && temperature_file::read(&out.to_string_lossy()).is_err() {
        let message = "found a file that is not of `smoothcnn calibrate`, expected none, or --out with another one";
        return Err(Error::data(&out, message));
    }
    if args.out.is_none() {
        ConformalFile::check_place(&path)?;
    }
    let file = TemperatureFile {
        temperature: found.value,
        temperature_low: interval[0],
        temperature_high: interval[1],
        vector: of_all.vector().cloned(),
        nll_cross_fitted,
        end: found.end,
        model: &path.display().to_string(),
        weights_sha256: tensors_sha256(&path)?,
        data,
        val_images,
        nll_before: found.nll_before,
        nll_after: fitted.nll_after,
        version: env!("CARGO_PKG_VERSION"),
    };
    // The logits as they are: no number was fitted to the images that the sets are made of.
    if args.out.is_none() {
        let probabilities = measure::probabilities(&of_validation, classes);
        ConformalFile::new(&path, &probabilities, &validation_labels, classes)?.write(&path)?;
    }
    let text = toml::to_string_pretty(&file).expect("a flat struct of numbers and strings always serialises");
    write_output(&out, text.as_bytes())?;
    // Beside a run's weights, it is in them too: they answer alike away from their run.
    if let (Some(run), None) = (run_folder::run_of(&path), &args.out) {
        model.keep_scaling(read_config(&run.join(CONFIG))?.dtype.into(), &of_all)?;
    }
    if is_standard_output(&out) {
        // The report would be in the middle of the file.
        common::note(scaling.describe());
        return Ok(0);
    }
    let (validation, test) = ((&of_validation[..], &validation_labels[..]), (&of_test[..], &test_labels[..]));
    let report = Report {
        method: args.method,
        temperature: found.value,
        interval,
        nll_cross_fitted,
        nll_of_temperature,
        end: found.end,
        file: out.display().to_string(),
        validation: fitted,
        test: Set::new(&of_test, &test_labels, classes, &scaling),
        sets: promises(args.coverage, validation, test, classes).into(),
        vector: scaling.vector().cloned(),
    };
    if args.json {
        common::print_json(&report)?
    } else {
        show(&report)?
    }
    Ok(0)
}

fn show(report: &Report) -> Result<()> {
    let end = match report.end {
        End::Minimum => "the least nll on the validation images",
        End::Coldest | End::Hottest => "an end of its range",
        End::Flat => "each image's logits are all equal: no temperature changes anything",
    };
    let [low, high] = report.interval;
    common::print(format_args!("temperature {:.6} (95 %: {low:.4} to {high:.4}): {end}", report.temperature))?;
    if let Some(nll) = report.nll_cross_fitted {
        let before = report.validation.nll_before;
        let told = if nll < before { "it helps" } else { "it is not shown to help" };
        let beside = match (&report.vector, report.nll_of_temperature) {
            (Some(vector), Some(other)) => {
                common::print(Scaling::Vector(vector.clone()).describe())?;
                format!("{other:.6} with a temperature, ")
            }
            _ => String::new(),
        };
        let fitted = if report.vector.is_some() { "is scaled by a fit to" } else { "has a temperature of" };
        common::print(format_args!(
            "nll {nll:.6} where each validation image {fitted} others, {beside}{before:.6} without one: {told}"
        ))?;
    }
    common::print("                        images  nll before  nll after  ece before  ece after")?;
    for (name, set) in [("validation (fitted on)", &report.validation), ("test (report only)", &report.test)] {
        let Set { images, nll_before, nll_after, ece_before, ece_after } = set;
        common::print(format_args!(
            "{name:<22}  {images:>6}  {nll_before:>10.6}  {nll_after:>9.6}  {ece_before:>10.6}  {ece_after:>9.6}"
        ))?;
    }
    common::print("sets of classes         promised  covered  classes  after a temperature: covered  classes")?;
    for Promise { promised, plain, scaled } in &report.sets {
        let of = |sets: &Sets| (sets.all.coverage, sets.all.size);
        let (covered, size) = of(plain);
        let after = scaled.as_ref().map_or("                         none".into(), |sets| {
            let (covered, size) = of(sets);
            format!("{covered:>29.3}  {size:>7.2}")
        });
        let name = plain.score.name();
        common::print(format_args!("{name:<22}  {promised:>8}  {covered:>7.3}  {size:>7.2}{after}"))?;
    }
    common::print(format_args!("written to {}", report.file))
}

/// The last `n` images.
fn last(all: &Dataset, n: usize) -> Result<Dataset> {
    let Some(first) = all.len().checked_sub(n) else {
        let most = all.len();
        return Err(Error::Usage(format!("--val-images: found {n}, expected at most the {most} training images")));
    };
    let images = all.images[first * all.pixels()..].to_vec();
    let files = all.files.get(first..).unwrap_or_default().to_vec();
    Ok(Dataset { images, labels: all.labels[first..].to_vec(), files, ..*all })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_images() {
        let all = Dataset {
            shape: [1, 1, 2],
            classes: 3,
            images: (0..10).collect(),
            labels: vec![0, 1, 2, 0, 1],
            files: vec![],
        };
        let two = last(&all, 2).unwrap();
        assert_eq!((two.images, two.labels, two.shape, two.classes), (vec![6, 7, 8, 9], vec![0, 1], [1, 1, 2], 3));
        assert_eq!(last(&all, 5).unwrap(), all);
        assert!(matches!(last(&all, 6), Err(Error::Usage(message)) if message.contains("at most the 5")));
    }
}
