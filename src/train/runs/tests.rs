//! Small runs on the built-in digits, from the first step to the files that they leave.

use std::sync::Mutex;

use super::*;
use crate::backend::gpu::DeviceKind;
use crate::loss::BatchLoss;
use crate::measure::Metrics;
use crate::optimizer::{Adam, Optimizer};
use crate::train::EpochReport;
use crate::train::checkpoint::load_metadata;
use crate::train::config::Labels;
use crate::train::run_folder::{METRICS, RESULTS};

/// Keeps what it is told.
#[derive(Default)]
struct Watch {
    notes: Mutex<Vec<String>>,
    out: PathBuf,
    begun: Option<(usize, usize, (usize, usize), &'static str)>,
    /// Epoch, and whether it was recorded.
    steps: Vec<(usize, bool)>,
    /// The epoch that the checkpoint is of after each epoch, and the speed of each.
    checkpoints: Vec<Option<String>>,
    lines: Vec<serde_json::Value>,
    seconds: Vec<f64>,
    saved: usize,
    accuracy: Option<f64>,
    /// Asks for an end after so many steps.
    stop_after: Option<usize>,
}

impl Listener for Watch {
    fn note(&self, line: &str) {
        self.notes.lock().unwrap().push(line.to_owned());
    }
    fn begins(&mut self, run: &Begun) {
        self.out = run.out.to_owned();
        self.begun = Some((run.images, run.epochs, run.done, run.measured));
    }
    fn step(&mut self, epoch: usize, _means: &BatchLoss, recorded: bool) {
        self.steps.push((epoch, recorded));
    }
    fn epoch(&mut self, report: &EpochReport, line: &str) {
        let checkpoint = load_metadata(&self.out.join(CHECKPOINT)).ok();
        self.checkpoints.push(checkpoint.map(|metadata| metadata["epoch"].clone()));
        self.lines.push(serde_json::from_str(line).unwrap());
        self.seconds.push(report.seconds);
    }
    fn saved(&mut self) {
        self.saved += 1;
    }
    fn test(&mut self, metrics: &Metrics, _line: &str) {
        self.accuracy = Some(metrics.accuracy);
    }
    fn wants_stop(&self) -> Option<u8> {
        self.stop_after.filter(|after| self.steps.len() >= *after).map(|_| 15)
    }
}

impl Watch {
    fn said(&self, part: &str) -> bool {
        self.notes.lock().unwrap().iter().any(|line| line.contains(part))
    }
}

/// 40 images in five batches of 8, twice.
fn small() -> Config {
    Config { limit_train: Some(40), limit_test: Some(20), epochs: 2, batch_size: 8, ..Config::default() }
}

/// 10 of the 40 images are held out: four batches are left.
fn with_validation() -> Config {
    Config { labels: Labels { val_split: 0.25, ..Labels::default() }, ..small() }
}

fn options() -> Options {
    Options { device: Device { kind: DeviceKind::Cpu, ..Device::default() }, log_every: 3, tensorboard: false }
}

fn run(config: Config, folder: Folder, watch: &mut Watch) -> Result<Trained> {
    train(config, folder, &options(), watch)
}

fn refused(result: Result<Trained>) -> String {
    result.err().expect("it is refused").to_string()
}

fn text(path: PathBuf) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_run_leaves_its_files_and_answers_for_itself() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let mut watch = Watch::default();
    let trained = run(small(), Folder::New(out.clone()), &mut watch).unwrap();
    assert_eq!((watch.begun, watch.saved), (Some((40, 2, (0, 0), "test")), 1));
    // Every third of ten steps has a line; the fifth is the last of epoch 1.
    let recorded: Vec<usize> = (1..=10).filter(|i| watch.steps[i - 1].1).collect();
    assert_eq!((watch.steps.len(), recorded, watch.steps[4].0, watch.steps[5].0), (10, vec![3, 6, 9], 1, 2));
    assert_eq!(watch.checkpoints, [Some("1".into()), Some("2".into())]);
    let record = text(out.join(METRICS));
    let kinds: Vec<&str> =
        record.lines().map(|line| if line.contains("\"kind\":\"step\"") { "s" } else { "e" }).collect();
    assert_eq!(kinds.concat(), "sesse", "steps 3; 6 and 9, with the epochs behind them");
    for (line, seconds) in watch.lines.iter().zip(&watch.seconds) {
        assert!(*seconds > 0.0, "a run takes its time");
        assert_eq!(line["images_per_second"].as_f64().unwrap(), 40.0 / seconds);
    }
    let table = text(out.join(RESULTS));
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows.len() == 3 && rows[0].starts_with("epoch,step,label_smoothing,test_accuracy,"), "{table}");
    assert!(
        rows[1].starts_with("1,5,0.1,") && rows[2].starts_with("2,10,0.1,") && !table.contains("seconds"),
        "{table}"
    );
    assert!(
        watch.said("40 training and 20 test images, batch size 8") && watch.said("loss: label smoothing 0.1 uniform")
    );
    assert!(!watch.said("ignored") && !watch.said("no locks") && !watch.said("finished before"));
    assert!(
        out.join(MODEL).exists()
            && !out.join(BEST).exists()
            && !out.join(FLIPPED).exists()
            && !out.join(EVENTS).exists()
    );

    // The last layer gives the logits from what it sees.
    let (test, classes) = (&trained.images.test, trained.net.classes);
    let (logits, features) = (trained.logits(test).unwrap(), trained.features(test).unwrap());
    let (weight, inputs) = trained.last_weight(10).unwrap();
    assert_eq!((logits.len(), features.len(), weight.len(), inputs), (200, 20 * 128, 1280, 128));
    assert!(trained.last_weight(11).is_none());
    let bias = &trained.state.params[trained.net.parameters.last().unwrap().range()];
    for (i, found) in logits.iter().enumerate() {
        let (row, k) = (&features[i / classes * inputs..][..inputs], i % classes);
        let expected: f64 = row.iter().zip(&weight[k * inputs..]).map(|(x, w)| x * w).sum::<f64>() + bias[k];
        assert!((found - expected).abs() < 1e-4 * (1.0 + expected.abs()), "{i}: {found}, expected {expected}");
    }
    assert_eq!(trained.test_logits.as_ref(), Some(&logits), "the last epoch's, of no other weights than the last ones");
    assert_eq!(trained.measurable(&logits, &test.labels), (logits.clone(), test.labels.clone(), 10));
    drop(trained);

    // Nothing is left to do, and nothing else may begin there.
    let (folder, config) = Folder::resume(&out).unwrap();
    let mut again = Watch::default();
    let trained = run(config.clone(), folder, &mut again).unwrap();
    assert!(again.said("finished before: 2 epochs are done") && again.steps.is_empty());
    assert!(trained.test_logits.is_none() && *trained.test_logits().unwrap() == logits[..]);
    drop(trained);
    assert!(refused(run(small(), Folder::New(out.clone()), &mut again)).contains("found a run there"));
    let fewer = Config { epochs: 1, ..config };
    let (folder, _) = Folder::resume(&out).unwrap();
    assert!(refused(run(fewer, folder, &mut again)).contains("--epochs: found 1, expected at least the 2"));
}

#[test]
fn a_run_that_is_stopped_goes_on_to_the_same_bits() {
    let parent = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| parent.path().join(name));
    drop(run(with_validation(), Folder::New(whole.clone()), &mut Watch::default()).unwrap());
    let mut watch = Watch { stop_after: Some(6), ..Watch::default() };
    let error =
        train(with_validation(), Folder::New(parts.clone()), &Options { tensorboard: true, ..options() }, &mut watch);
    assert!(matches!(error.err(), Some(Error::Interrupted(15))));
    let (steps, events) = (watch.steps.len(), std::fs::metadata(parts.join(EVENTS)).unwrap().len());
    assert!((6..8).contains(&steps) && !parts.join(MODEL).exists());
    // Fewer epochs than are begun.
    let (folder, config) = Folder::resume(&parts).unwrap();
    let fewer = Config { epochs: 1, ..config.clone() };
    assert!(
        refused(run(fewer, folder, &mut Watch::default())).contains("expected at least the 2 that are done or begun")
    );
    // A step within an epoch of other images.
    let (folder, _) = Folder::resume(&parts).unwrap();
    let other = Config { limit_train: Some(39), allow_changed_data: true, ..config.clone() };
    assert!(
        refused(run(other, folder, &mut Watch::default())).contains("--allow-changed-data: found a checkpoint of step")
    );
    let (folder, _) = Folder::resume(&parts).unwrap();
    let mut rest = Watch::default();
    drop(run(config, folder, &mut rest).unwrap());
    assert_eq!((rest.begun.unwrap().2, steps + rest.steps.len()), ((1, steps - 4), 8));
    for file in [MODEL, BEST, RESULTS] {
        assert_eq!(std::fs::read(whole.join(file)).unwrap(), std::fs::read(parts.join(file)).unwrap(), "{file}");
    }
    let places = |out: &Path| {
        let record = text(out.join(METRICS));
        let place = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            (line["kind"].clone(), line["step"].clone(), line["loss"].clone(), line["ended_by"].clone())
        };
        record.lines().map(place).collect::<Vec<_>>()
    };
    assert_eq!(places(&whole), places(&parts));
    // TensorBoard's file goes on, though nobody asks for it again.
    assert!(std::fs::metadata(parts.join(EVENTS)).unwrap().len() > events + 100);
}

#[test]
fn held_out_images_choose_the_best_epoch() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    // Nothing changes at this rate: the first epoch stays the best, and no later one is better.
    let still = Optimizer::Adam(Adam { lr: 1e-30, ..Adam::default() });
    let config = Config { optimizer: still, epochs: 5, patience: Some(2), ..with_validation() };
    let mut watch = Watch::default();
    let trained = run(config, Folder::New(out.clone()), &mut watch).unwrap();
    assert_eq!(watch.begun, Some((30, 5, (0, 0), "val")));
    assert_eq!((watch.checkpoints.len(), trained.best.as_ref().map(|best| best.epoch)), (3, Some(1)));
    assert!(watch.said("ended by --patience 2 after epoch 3 of 5: the last 2 have no better val nll than epoch 1"));
    assert!(watch.said("the best epoch is 1, by a val nll of") && watch.said("30 training, 10 validation and 20 test"));
    let last: serde_json::Value = serde_json::from_str(text(out.join(METRICS)).lines().last().unwrap()).unwrap();
    assert_eq!(
        (last["kind"].as_str(), last["ended_by"].as_str(), last["epoch"].as_u64()),
        (Some("test"), Some("patience"), Some(1))
    );
    assert!(last["accuracy"].as_f64() == watch.accuracy && last.get("loss").is_none() && last.get("nll").is_some());
    // The weights never changed, so that the best ones give what the last ones give.
    assert_eq!(*trained.test_logits().unwrap(), trained.logits(&trained.images.test).unwrap()[..]);
    assert_eq!(load_metadata(&out.join(BEST)).unwrap()["epoch"], "1");
    assert_eq!(load_metadata(&out.join(MODEL)).unwrap()["epoch"], "3");
    assert_eq!(trained.config.best_by.map(|by| by.name()), Some("nll"));
    drop(trained);
    let (folder, config) = Folder::resume(&out).unwrap();
    let mut again = Watch::default();
    drop(run(config, folder, &mut again).unwrap());
    assert!(again.said("finished before: 3 epochs are done") && again.steps.is_empty());

    // Without any, nothing can be chosen.
    let best_by = Some(crate::train::best::BestBy::Ece);
    let out = Folder::New(parent.path().join("none"));
    let message = refused(run(Config { best_by, ..small() }, out, &mut Watch::default()));
    assert!(message.starts_with("--best-by: found ece and no images held out"), "{message}");
    let out = Folder::New(parent.path().join("none"));
    let message = refused(run(Config { patience: Some(3), ..small() }, out, &mut Watch::default()));
    assert!(message.starts_with("--patience: found 3 and no images held out"), "{message}");
    assert!(!parent.path().join("none").exists(), "nothing was written");
}

/// Catches a test set that is measured by the last epoch's weights, and a temperature that nobody fits.
#[test]
fn the_best_weights_answer_for_the_run() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    // At this rate the first epochs are worse than none: whichever is the best, it is not the last one.
    let wild = Optimizer::Adam(Adam { lr: 0.05, ..Adam::default() });
    let best_by = Some(crate::train::best::BestBy::RefinedNll);
    let config = Config { optimizer: wild, epochs: 3, best_by, checkpoint_every: 2, ..with_validation() };
    let mut watch = Watch::default();
    let trained = run(config, Folder::New(out.clone()), &mut watch).unwrap();
    assert_eq!(watch.checkpoints, [None, Some("2".into()), Some("3".into())]);
    let refined: Vec<f64> = watch.lines.iter().map(|line| line["val_refined_nll"].as_f64().unwrap()).collect();
    let least = (0..3).min_by(|&a, &b| refined[a].total_cmp(&refined[b])).unwrap();
    assert_eq!(trained.best.as_ref().map(|best| best.epoch), Some(least + 1));
    let best = Model::load(&out.join(BEST), trained.images.test.shape, 10).unwrap();
    assert_eq!(best.file.describe(), format!("{}, the weights of epoch {}", out.join(BEST).display(), least + 1));
    let test = trained.test_logits().unwrap();
    let right = test.chunks(10).zip(&trained.images.test.labels);
    let right = right.filter(|(row, label)| (0..10).all(|k| k == **label as usize || row[k] < row[**label as usize]));
    assert_eq!(watch.accuracy.unwrap(), right.count() as f64 / 20.0);
}

#[test]
fn a_checkpoint_may_be_written_at_the_end_alone() {
    let parent = tempfile::tempdir().unwrap();
    let out = Folder::New(parent.path().join("run"));
    let mut watch = Watch::default();
    drop(run(Config { checkpoint_every: 0, epochs: 3, ..small() }, out, &mut watch).unwrap());
    assert_eq!(watch.checkpoints, [None, None, Some("3".into())]);
}

/// A mask, a label that is ignored, noise and a prior: what they leave, and what the model says of them.
#[test]
fn a_model_says_what_took_part() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    let mut config = Config { epochs: 1, ..small() };
    config.labels.label_noise = 0.5;
    config.loss.class_mask = vec![1, 2, 3, 7];
    config.loss.ignore_index = Some(3);
    config.loss.smoothing_prior = Some("unigram".into());
    let mut watch = Watch::default();
    let trained = run(config, Folder::New(out.clone()), &mut watch).unwrap();
    let (images, all) = (&trained.images, &trained.images.train.labels);
    let counted: Vec<u32> = all.iter().copied().filter(|&label| label != IGNORED).collect();
    assert!(counted.iter().all(|label| [1, 2, 3, 7].contains(label)) && counted.len() < 40);
    assert!(watch.said(&format!("40 training ({} ignored) and", 40 - counted.len())));
    assert!(images.test.labels.iter().all(|label| [1, 2, 7].contains(label)) && images.test.len() < 20);
    assert_eq!(images.test_kept.len(), images.test.len());
    let flipped = text(out.join(FLIPPED));
    let lines: Vec<u32> = flipped.lines().map(|line| line.parse().unwrap()).collect();
    assert!(!lines.is_empty() && lines == images.flipped.iter().map(|flip| flip.file_index).collect::<Vec<_>>());
    let metadata = load_metadata(&out.join(MODEL)).unwrap();
    assert_eq!(
        (&metadata["class_mask"][..], &metadata["ignore_index"][..], &metadata["epoch"][..]),
        ("1,2,3,7", "3", "1")
    );
    let share = |class: u32| counted.iter().filter(|label| **label == class).count() as f64 / counted.len() as f64;
    for (class, text) in metadata["smoothing_prior"].split(',').enumerate() {
        assert!((text.parse::<f64>().unwrap() - share(class as u32)).abs() < 1e-12, "{class}");
    }
    let (logits, labels, kept) = trained.measurable(&trained.test_logits().unwrap(), &images.test.labels);
    assert_eq!((logits.len(), kept, labels.len()), (images.test.len() * 4, 4, images.test.len()));
    let places = [1, 2, 3, 7];
    assert!(labels.iter().zip(&images.test.labels).all(|(place, label)| places[*place as usize] == *label));
}

#[test]
fn weights_and_teachers_come_from_other_runs() {
    let parent = tempfile::tempdir().unwrap();
    let of = |name: &str| parent.path().join(name);
    let first = run(small(), Folder::New(of("first")), &mut Watch::default()).unwrap();
    let model = of("first").join(MODEL);
    let logits = first.logits(&first.images.test).unwrap();
    // Begun from these weights, and without a change.
    let still = Optimizer::Adam(Adam { lr: 1e-30, ..Adam::default() });
    let config = Config { init: Some(model.clone()), optimizer: still, epochs: 1, ..small() };
    let mut watch = Watch::default();
    let second = run(config, Folder::New(of("second")), &mut watch).unwrap();
    assert_eq!((second.logits(&first.images.test).unwrap(), watch.said("init:")), (logits, false));
    // Taught by them.
    let mut config = Config { epochs: 1, ..small() };
    config.loss.teacher = Some(model);
    let mut watch = Watch::default();
    let taught = run(config, Folder::New(of("taught")), &mut watch).unwrap();
    assert!(watch.said("distilled from") && !watch.said("teacher: "), "the teacher knows the same data");
    let expected: Vec<f32> = first.logits(&first.images.train).unwrap().iter().map(|&v| v as f32).collect();
    assert_eq!(taught.loss.rows(), Some(&expected[..]));
}

/// Catches averages that are the weights themselves, or that a run goes on with though it asks for none.
#[test]
fn averages_are_measured_and_kept_where_they_are_asked_for() {
    let parent = tempfile::tempdir().unwrap();
    let [out, plain] = ["run", "plain"].map(|name| parent.path().join(name));
    let mut config = Config { epochs: 1, ..small() };
    config.recipe.ema = Some(0.5);
    let mut watch = Watch::default();
    let trained = run(config, Folder::New(out.clone()), &mut watch).unwrap();
    assert!(watch.said("moving average of the weights in") && watch.said("weights averaged with a decay of 0.5"));
    let test = &trained.images.test;
    let average = Model::load(&out.join(MODEL_EMA), test.shape, 10).unwrap();
    assert_eq!(average.file.metadata["ema"], "0.5");
    let how = model::Inference { device: options().device, ..Default::default() };
    let of_average = average.logits(test, &trained.images.normalisation, &how, &|_| ()).unwrap();
    let nll = |logits: &[f64]| crate::measure::loss::of_validation(trained.loss.form(), logits, &test.labels, 10).nll;
    let line = &watch.lines[0];
    for (key, logits) in [("test_ema_nll", &of_average), ("test_nll", &trained.logits(test).unwrap())] {
        assert!((line[key].as_f64().unwrap() - nll(logits)).abs() < 1e-6, "{key} of {line}");
    }
    assert!((line["test_ema_nll"].as_f64().unwrap() - line["test_nll"].as_f64().unwrap()).abs() > 1e-4, "{line}");
    drop(trained);
    let other = |out: &Path, ema| {
        let (folder, mut config) = Folder::resume(out).unwrap();
        config.recipe.ema = ema;
        refused(run(config, folder, &mut Watch::default()))
    };
    assert!(other(&out, None).ends_with("averages: found some, expected none: the run has no --ema"));
    let mut watch = Watch::default();
    drop(run(Config { epochs: 1, ..small() }, Folder::New(plain.clone()), &mut watch).unwrap());
    assert!(!watch.said("optimizer: ") && !plain.join(MODEL_EMA).exists());
    assert!(other(&plain, Some(0.5)).ends_with("averages: found none, expected the averages of --ema"));
}

/// Catches a best epoch that is not the one that the record says, as where a checkpoint was put together of two.
#[test]
fn a_checkpoints_best_epoch_is_that_of_its_record() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("run");
    drop(run(Config { epochs: 1, ..with_validation() }, Folder::New(out.clone()), &mut Watch::default()).unwrap());
    let (folder, config) = Folder::resume(&out).unwrap();
    let net = config.network.network(config.data_set.as_ref().unwrap().shape, 10).unwrap();
    let saved = saved::read(&out, (&net, &config.optimizer), 4, 1).unwrap().unwrap();
    let metadata = (metadata(&config, &Loss::from(crate::loss::smoothing::Smoothing::NONE), 1), config.dtype.into());
    let weights = (&saved.state, None);
    saved::write(&out, (&net, &config.optimizer), weights, metadata, &saved.progress, &saved.epochs).unwrap();
    let message = refused(run(config, folder, &mut Watch::default()));
    assert!(message.contains("metadata best_epoch: found none, expected 1, by the record's lines"), "{message}");
}
