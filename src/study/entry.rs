//! For whoever trains the runs of a sweep: an entry of its plan is one run, trained, measured, and marked as done by
//! its result.json.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ensemble::Answers;
use super::projection::{self, Projected, Set};
use super::{Judged, Measured, Outcome};
use crate::backend::device::Note;
use crate::data::Dataset;
use crate::fs::{remove, write_atomic};
use crate::loss::smoothing::Smoothing;
use crate::measure::cross_fit::cross_fit;
use crate::measure::perfect::Perfection;
use crate::measure::scaling::Method;
use crate::measure::selective::Rankings;
use crate::measure::{self, calibration, temperature};
use crate::parse::{self, hex, to_json};
use crate::train::best::BestBy;
use crate::train::config::{Config, read_config};
use crate::train::listener::Listener;
use crate::train::run_folder::{CHECKPOINT, CONFIG, OwnFolder, PROJECTION, RESULT, RUN_FILES};
use crate::train::runs::{self, Folder, Options, Trained};
use crate::{Error, Result, input};

/// One run of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepEntry {
    /// The first 16 hexadecimal digits of the SHA-256 of the configuration as JSON.
    pub id: String,
    /// The run's folder, relative to where the plan was made.
    pub out: PathBuf,
    /// Everything that the run depends on.
    pub config: Config,
}

impl SweepEntry {
    /// The entry of a configuration, below the sweep's folder.
    pub fn new(sweep: &Path, config: Config) -> Self {
        let id = hex(&Sha256::digest(to_json(&config))[..8]);
        let out = sweep.join("runs").join(&id);
        Self { id, out, config }
    }

    /// Refuses an entry that no plan has: its id is its configuration's, and its folder's name is its id.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self) -> Result<()> {
        let expected = Self::new(Path::new(""), self.config.clone()).id;
        let Self { id, out, .. } = self;
        if *id != expected {
            let message = format!("found an entry with the id {id:?}, expected {expected}, its configuration's");
            return Err(Error::Usage(format!("--entry: {message}: make another plan for another configuration")));
        }
        if out.file_name() != Some(id.as_ref()) {
            let message = format!("run {id}: found the folder {}, expected one called {id}", out.display());
            return Err(Error::Usage(format!("--entry: {message}")));
        }
        Ok(())
    }

    /// The same, read from the file at `path`, which refusals name.
    fn read_from(self, path: &Path) -> Result<Self> {
        Ok(Self { config: self.config.read_from(path)?, ..self })
    }

    /// What the run left, if it is done. A result that cannot be read is none, which is said: the run is done again.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn outcome(&self, note: Note) -> Result<Option<Outcome>> {
        let path = self.out.join(RESULT);
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)
                .map_err(|e| note(&format!("{}: {e}: this run counts as not done", path.display())))
                .ok()),
            // A file in the folder's place is for whoever trains the run to say.
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => Ok(None),
            Err(source) => Err(Error::Io { path, source }),
        }
    }
}

enum Entries {
    One(Box<SweepEntry>),
    Many(Vec<SweepEntry>),
}

/// The entries of a plan, which is the text of the file at `path`.
///
/// # Errors
/// [`Error::Data`] with `path`.
pub fn entries(path: &Path, text: &str) -> Result<Vec<SweepEntry>> {
    parse::json(path, text, EXPECTED)
}

/// What a file of entries is expected to be.
pub const EXPECTED: &str = "an entry of `smoothcnn sweep plan`, or its plan";

/// The entry in the file at `path`.
///
/// # Errors
/// As [`parse()`], and those of [`input::read_text`].
pub fn read(path: &Path, index: Option<usize>) -> Result<SweepEntry> {
    parse(path, &input::read_text(path, EXPECTED)?, index)
}

/// The entry in the text of the file at `path`: the only one, or number `index` of a plan, from 0.
///
/// # Errors
/// [`Error::Data`] with `path`; [`Error::Usage`] for an index that there is not.
pub fn parse(path: &Path, text: &str, index: Option<usize>) -> Result<SweepEntry> {
    // A plan is a list.
    let entries = match text.trim_start().starts_with('[') {
        true => Entries::Many(entries(path, text)?),
        false => Entries::One(Box::new(parse::json::<SweepEntry>(path, text, EXPECTED)?.read_from(path)?)),
    };
    match (entries, index) {
        (Entries::One(entry), None) => Ok(*entry),
        (Entries::Many(mut entries), Some(index)) if index < entries.len() => {
            entries.swap_remove(index).read_from(path)
        }
        (Entries::Many(mut entries), None) if entries.len() == 1 => entries.remove(0).read_from(path),
        (entries, index) => {
            let found = match entries {
                Entries::One(_) => "one entry".to_owned(),
                Entries::Many(entries) => format!("{} entries", entries.len()),
            };
            let wanted = index.map_or("no --index".into(), |index| format!("--index {index}"));
            Err(Error::Usage(format!(
                "--entry {}: found {found} and {wanted}, expected an index below it, or a \
                                      single entry without one",
                path.display()
            )))
        }
    }
}

/// Trains and measures an entry; nothing to do where it is done. A run that was interrupted goes on after its last
/// whole epoch. Several processes may be asked for the same entry: one trains, the others wait for it.
///
/// # Errors
/// [`Error::Usage`] for an entry that no plan has; those of [`runs::train`]; [`Error::Run`] for a result that is no
/// number.
pub fn run(entry: &SweepEntry, options: &Options, listener: &mut dyn Listener) -> Result<()> {
    let began = Instant::now();
    let SweepEntry { id, out, config } = entry;
    if config.labels.val_split == 0.0 {
        let message = "found a val-split of 0, expected images held out, which the study measures on";
        return Err(Error::Usage(format!("--entry: run {id}: {message}")));
    }
    entry.check()?;
    let own = OwnFolder::wait_for(out, &RUN_FILES, &mut |holder| {
        listener.note(&format!("{id}: {holder} is at it; waiting for it to end"));
    })?;
    if entry.outcome(&|line| listener.note(line))?.is_some() {
        listener.note(&format!("{id}: done before"));
        return Ok(());
    }
    let mut config = config.clone();
    // Runs are compared after equally many epochs, and their folders have what was measured.
    config.best_by = Some(BestBy::Last);
    let folder = if out.join(CHECKPOINT).exists() {
        // It began with certain kernels, of a certain form, and goes on with them.
        let began_with = read_config(&out.join(CONFIG))?;
        (config.kernels, config.tuning) = (began_with.kernels, began_with.tuning);
        (config.backend, config.data_set) = (began_with.backend, began_with.data_set);
        Folder::Resumed(own)
    } else {
        // What a run without a checkpoint left is of no use.
        own.clear()?;
        Folder::Taken(own)
    };
    let trained = runs::train(config.clone(), folder, options, listener)?;
    let images = &trained.images;
    let validation = images.validation.as_ref().expect("a split that is not 0 leaves images on both sides");

    let train_logits = trained.logits(&images.train)?;
    let validation_logits = trained.logits(validation)?;
    let test_logits = trained.test_logits()?;
    let (part, labels, kept) = trained.measurable(&validation_logits, &validation.labels);
    let fitted = temperature::fit(&part, &labels, kept)?;
    let answers = {
        let (logits, labels, _) = trained.measurable(&test_logits, &images.test.labels);
        Answers { logits, labels }
    };
    let outcome = Outcome {
        id: id.clone(),
        label_smoothing: config.label_smoothing,
        smoothing_variant: config.smoothing_variant,
        loss: config.loss.kind,
        label_noise: config.labels.label_noise,
        seed: config.seed,
        classes: kept,
        train: {
            let (part, labels, kept) = trained.measurable(&train_logits, &images.train.labels);
            measure::evaluate(&part, &labels, kept, Smoothing::NONE)
        },
        memorised: memorised(&trained, &train_logits),
        validation: measured(&trained, &validation_logits, validation, fitted.value),
        noisy_validation: judged(&trained, &validation_logits),
        test: measured(&trained, &test_logits, &images.test, fitted.value),
        rankings: Some(Rankings::of(&answers.logits, &answers.labels, kept)),
        perfection: Some([1.0, fitted.value].map(|t| {
            let logits = temperature::apply(&answers.logits, t);
            Perfection::of(&measure::predictions(&logits, &answers.labels, kept, Smoothing::NONE))
        })),
        temperature: fitted.value,
        refined_nll: cross_fit(Method::Temperature, &part, &labels, kept).ok().map(|found| found.nll),
        seconds: began.elapsed().as_secs_f64(),
    };
    write_projection(&trained)?;
    answers.write(out)?;
    let text = to_json(&outcome);
    if let Err(error) = serde_json::from_str::<Outcome>(&text) {
        // A measure that is no number would be written as null.
        return Err(Error::Run(format!("run {id}: found a result that cannot be read back ({error}): {text}")));
    }
    write_atomic(&out.join(RESULT), text.as_bytes())?;
    // Its optimizer's memory is three quarters of the folder, and nobody goes on from here.
    remove(&out.join(CHECKPOINT))
}

/// The images held out against labels with noise, if there is noise.
fn judged(trained: &Trained, logits: &[f64]) -> Option<Judged> {
    let labels = trained.images.noisy_validation.as_ref()?;
    let (logits, labels, classes) = trained.measurable(logits, labels);
    let found = measure::evaluate(&logits, &labels, classes, Smoothing::NONE);
    let refined_nll = cross_fit(Method::Temperature, &logits, &labels, classes).ok()?.nll;
    Some(Judged { error: found.error, nll: found.nll, ece: found.ece, refined_nll })
}

fn measured(trained: &Trained, logits: &[f64], images: &Dataset, temperature: f64) -> Measured {
    let (logits, labels, classes) = trained.measurable(logits, &images.labels);
    let of = |logits: &[f64]| {
        let predictions = measure::predictions(logits, &labels, classes, Smoothing::NONE);
        let mut bins = calibration::reliability(&predictions);
        // The mean of nothing is not a number, and has no place in a JSON file.
        bins.retain(|bin| bin.images > 0);
        (measure::evaluate(logits, &labels, classes, Smoothing::NONE), bins)
    };
    let ((plain, reliability), (scaled, reliability_scaled)) =
        (of(&logits), of(&temperature::apply(&logits, temperature)));
    Measured { plain, scaled, reliability, reliability_scaled }
}

/// The share of the flipped images whose answer is the label they were given.
fn memorised(trained: &Trained, logits: &[f64]) -> Option<f64> {
    let images = &trained.images;
    let of_flipped: Vec<u32> = images.flipped.iter().map(|flip| flip.index).collect();
    let classes = trained.net.classes;
    let labels: Vec<u32> = of_flipped.iter().map(|&i| images.train.labels[i as usize]).collect();
    let logits: Vec<f64> =
        of_flipped.iter().flat_map(|&i| &logits[i as usize * classes..][..classes]).copied().collect();
    // Those that a class mask leaves out are not learnt at all.
    let (logits, labels, kept) = trained.measurable(&logits, &labels);
    (!labels.is_empty()).then(|| measure::evaluate(&logits, &labels, kept, Smoothing::NONE).accuracy)
}

/// The classes that are projected, as many images of each, and from which set.
const PROJECTED_CLASSES: u32 = 3;
const PROJECTED_IMAGES: usize = 100;

/// Up to 100 images of each of the first three classes, of the training and of the test set.
fn write_projection(trained: &Trained) -> Result<()> {
    let Some((templates, inputs)) = trained.last_weight(PROJECTED_CLASSES as usize) else { return Ok(()) };
    let mut projected = vec![];
    for (set, images) in [(Set::Train, &trained.images.train), (Set::Test, &trained.images.test)] {
        for class in 0..PROJECTED_CLASSES {
            let of_class = (0..images.len() as u32).filter(|&i| images.labels[i as usize] == class);
            let chosen = images.subset(&of_class.take(PROJECTED_IMAGES).collect::<Vec<_>>());
            let row = |k: usize| &templates[k * inputs..][..inputs];
            let points = projection::project([row(0), row(1), row(2)], &trained.features(&chosen)?);
            projected.extend(points.into_iter().map(|[x, y]| Projected { set, class, x, y }));
        }
    }
    write_atomic(&trained.folder.path().join(PROJECTION), projection::to_csv(&projected).as_bytes())
}

/// What [`run`] left of the projection in the folder `out`.
///
/// # Errors
/// [`Error::Data`] with the file.
pub fn projected(out: &Path) -> Result<Vec<Projected>> {
    let path = out.join(PROJECTION);
    let text = input::read_text(&path, "the projection of a sweep's run")?;
    projection::from_csv(&text).map_err(|message| Error::data(&path, message))
}

#[cfg(test)]
mod tests {
    use super::super::tests::outcome;
    use super::*;
    use crate::train::run_folder::{BEST, METRICS};

    fn entry(seed: u64) -> SweepEntry {
        SweepEntry::new(Path::new("sweep"), Config { seed, ..Config::default() })
    }

    fn refused<T>(result: Result<T>) -> String {
        result.err().expect("it is refused").to_string()
    }

    #[test]
    fn an_entry_is_named_by_its_configuration() {
        let (one, other) = (entry(1), entry(2));
        assert!(one.check().is_ok() && one.id.len() == 16 && one.id != other.id);
        assert_eq!(one.out, Path::new("sweep/runs").join(&one.id));
        let renamed = SweepEntry { id: other.id.clone(), ..one.clone() };
        assert!(refused(renamed.check()).contains(&format!("expected {}, its configuration's", one.id)));
        let moved = SweepEntry { out: "sweep/runs/x".into(), ..one.clone() };
        assert!(refused(moved.check()).contains(&format!("expected one called {}", one.id)));
        // The same run in a plan that has moved.
        assert!(SweepEntry { out: Path::new("/other").join(&one.id), ..one }.check().is_ok());
    }

    #[test]
    fn an_entry_is_found_by_its_number() {
        let path = Path::new("plan.json");
        let plan = |entries: &[SweepEntry]| to_json(&entries.to_vec());
        let of = |text: &str, index| parse(path, text, index).map(|entry| (entry.id, entry.config.file));
        let found = |seed| (entry(seed).id, Some(path.to_owned()));
        let two = plan(&[entry(1), entry(2)]);
        assert_eq!((of(&two, Some(0)).unwrap(), of(&two, Some(1)).unwrap()), (found(1), found(2)));
        assert!(refused(of(&two, Some(2))).contains("found 2 entries and --index 2"));
        assert!(refused(of(&two, Some(3))).contains("found 2 entries and --index 3"));
        assert!(refused(of(&two, None)).contains("found 2 entries and no --index"));
        assert_eq!(of(&plan(&[entry(1)]), None).unwrap(), found(1));
        assert_eq!(of(&to_json(&entry(2)), None).unwrap(), found(2));
        assert!(refused(of(&to_json(&entry(2)), Some(0))).contains("found one entry and --index 0"));
        assert_eq!(entries(path, &two).unwrap(), [entry(1), entry(2)]);
        let bad = SweepEntry { config: Config { epochs: 0, ..Config::default() }, ..entry(1) };
        assert!(refused(of(&to_json(&bad), None)).contains("plan.json: epochs: found 0"));
    }

    #[test]
    fn a_result_is_there_or_not_or_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let entry = SweepEntry { out: folder.path().join("run"), ..entry(1) };
        let lines = std::cell::RefCell::new(vec![]);
        let read = || entry.outcome(&|line| lines.borrow_mut().push(line.to_owned()));
        assert_eq!(read().unwrap(), None);
        // A file where the folder should be.
        fs::write(&entry.out, "").unwrap();
        assert_eq!(read().unwrap(), None);
        fs::remove_file(&entry.out).unwrap();
        fs::create_dir_all(entry.out.join(RESULT)).unwrap();
        assert!(matches!(read(), Err(Error::Io { .. })), "a folder in its place");
        fs::remove_dir(entry.out.join(RESULT)).unwrap();
        let done = outcome([0.1, 0.0], 3, 20, 1.0);
        fs::write(entry.out.join(RESULT), to_json(&done)).unwrap();
        assert_eq!((read().unwrap(), lines.borrow().len()), (Some(done), 0));
        fs::write(entry.out.join(RESULT), "{").unwrap();
        assert_eq!(read().unwrap(), None);
        assert!(lines.borrow()[0].ends_with("this run counts as not done"), "{lines:?}");
    }

    #[test]
    fn a_study_holds_images_out() {
        let none = SweepEntry { out: "/nowhere/at/all".into(), ..entry(1) };
        assert_eq!(none.config.labels.val_split, 0.0);
        assert!(refused(run(&none, &Options::default(), &mut ())).contains("found a val-split of 0"));
    }

    /// Catches a share that is of other images than the flipped ones, and an entry that is trained twice.
    #[test]
    fn an_entry_is_trained_and_measured_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut config =
            Config { limit_train: Some(60), limit_test: Some(30), epochs: 3, batch_size: 8, ..Config::default() };
        (config.labels.val_split, config.labels.label_noise) = (0.2, 0.4);
        let entry = SweepEntry::new(folder.path(), config.clone());
        let device =
            crate::backend::device::Device { kind: crate::backend::gpu::DeviceKind::Cpu, ..Default::default() };
        let options = Options { device, ..Options::default() };
        run(&entry, &options, &mut ()).unwrap();
        let found = entry.outcome(&|_| ()).unwrap().unwrap();
        assert_eq!((found.test.plain.images, found.validation.plain.images, found.classes), (30, 10, 10));
        assert!(!entry.out.join(CHECKPOINT).exists(), "nobody goes on from here");
        assert!(!entry.out.join(BEST).exists(), "other weights than were measured");
        let record = fs::read_to_string(entry.out.join(METRICS)).unwrap();
        let tests = record.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let tests: Vec<_> = tests.filter(|line| line["kind"] == "test").collect();
        assert_eq!((tests.len(), &tests[0]["epoch"], &tests[0]["best_by"]), (1, &3.into(), &"last".into()));
        assert_eq!(tests[0]["nll"], found.test.plain.nll, "the record is of other weights");
        for of in [&found.test, &found.validation] {
            for (bins, metrics) in [(&of.reliability, &of.plain), (&of.reliability_scaled, &of.scaled)] {
                assert!(bins.iter().all(|bin| bin.images > 0));
                assert_eq!(bins.iter().map(|bin| bin.images).sum::<usize>(), metrics.images);
            }
        }
        // Of ten labels held out four are flipped: as many answers are right as fit them.
        let noisy = found.noisy_validation.unwrap();
        assert!(
            found.rankings.unwrap().aurc_normalised.unwrap() >= 0.0 && found.perfection.unwrap()[1].calibrated_p > 0.0
        );
        assert!((noisy.error - found.validation.plain.error).abs() <= 0.4 + 1e-12 && noisy.refined_nll > 0.0);
        // The same run again: of its flipped images so many have the label that they were given.
        let other = Folder::New(folder.path().join("other"));
        let trained = runs::train(config, other, &options, &mut ()).unwrap();
        let images = &trained.images;
        let logits = trained.logits(&images.train).unwrap();
        let learnt = images.flipped.iter().filter(|flip| {
            let (row, label) = (&logits[flip.index as usize * 10..][..10], images.train.labels[flip.index as usize]);
            (0..10).all(|k| k == label as usize || row[k] < row[label as usize])
        });
        let (learnt, flipped) = (learnt.count(), images.flipped.len());
        assert!(flipped > 10 && found.memorised == Some(learnt as f64 / flipped as f64), "{learnt} of {flipped}");
        // Every image of the first three classes, by its features.
        let points = projected(&entry.out).unwrap();
        for (set, images) in [(Set::Train, &images.train), (Set::Test, &images.test)] {
            for class in 0..4 {
                let expected = images.labels.iter().filter(|&&label| label == class && class < 3).count();
                assert_eq!(points.iter().filter(|p| p.set == set && p.class == class).count(), expected);
            }
        }
        // The first template is the origin, and the second one along the first axis.
        let (templates, inputs) = trained.last_weight(3).unwrap();
        let row = |k: usize| &templates[k * inputs..][..inputs];
        let of_class = (0..images.test.len() as u32).find(|&i| images.test.labels[i as usize] == 1).unwrap();
        let features = trained.features(&images.test.subset(&[of_class])).unwrap();
        let [x, y] = projection::project([row(0), row(1), row(2)], &features)[0];
        let point = points.iter().find(|p| p.set == Set::Test && p.class == 1).unwrap();
        // Alone in its batch its features are rounded in another way.
        assert!((point.x - x).abs() < 1e-5 && (point.y - y).abs() < 1e-5, "{point:?}, expected {x} {y}");

        let notes = std::sync::Mutex::new(vec![]);
        struct Notes<'a>(&'a std::sync::Mutex<Vec<String>>);
        impl Listener for Notes<'_> {
            fn note(&self, line: &str) {
                self.0.lock().unwrap().push(line.to_owned());
            }
        }
        run(&entry, &options, &mut Notes(&notes)).unwrap();
        assert_eq!(*notes.lock().unwrap(), [format!("{}: done before", entry.id)]);
    }
}
