//! All that there is to know of a device, in one file that a stranger can send: is it right, which forms of the
//! kernels are fast, how fast, how long until a network has learnt, and does it give the same bits again.
//!
//! A part that fails is recorded with its error, and the next one begins: on a device that nobody here has, that is
//! what the file is for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Bench, Report};
use crate::backend::device::{Note, Opened};
use crate::backend::gpu::{Gpu, autotune};
use crate::backend::{Setup, State, Trainer};
use crate::check::{Row, every};
use crate::data::Dataset;
use crate::data::digits::{self, Digits};
use crate::loss::smoothing::{Smoothing, Variant};
use crate::network::{Architecture, Network};
use crate::optimizer::{Adam, Optimizer};
use crate::parse::hex;
use crate::plan::Storage;
use crate::plan::tuning::Tuning;
use crate::train::{Course, EpochReport, Observer, Progress, run};
use crate::{Error, Result};

/// What the file says that it is.
pub const FORMAT: &str = "smoothcnn bench --full, 1";

/// No size is begun later than this, so that all is over within ten minutes.
const LAST_START: Duration = Duration::from_secs(450);

/// The accuracy on the test set that a network is trained to.
pub const TARGET: f64 = 0.99;

/// Images in a batch, where no size is measured.
const BATCH: usize = 64;

/// What is measured.
#[derive(Clone)]
pub struct FullBench {
    /// On what.
    pub device: Opened,
    /// Images' shapes and batch sizes, the cheapest first.
    pub sizes: Vec<([usize; 3], usize)>,
    /// Whether they are fewer than on a hardware GPU.
    pub reduced: bool,
    /// Seconds for each task of each size.
    pub seconds: f64,
    /// The longest that the training to [`TARGET`] may take.
    pub patience: Duration,
}

/// The file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FullReport {
    /// [`FORMAT`].
    pub format: String,
    /// The program's version.
    pub version: String,
    /// Seconds since 1970, when it began.
    pub unix_time: u64,
    /// The operating system and the processor's kind.
    pub system: String,
    /// Processors that the program may use.
    pub processors: usize,
    /// The adapter, or the CPU path.
    pub device: String,
    /// What the adapter says of itself; absent for the CPU path.
    pub adapter: Option<AdapterFacts>,
    /// Whether fewer sizes were measured than on a hardware GPU.
    pub reduced: bool,
    /// Sizes that do not fit the device or the time.
    pub left_out: Vec<String>,
    /// Sizes whose answer was wrong, or that the driver refused.
    pub failed: Vec<String>,
    /// Seconds that all of it took.
    pub seconds: f64,
    /// Every kernel against its twin; absent for the CPU path, whose answers are checked at every size.
    pub check: Option<FullPart<CheckSummary>>,
    /// Which forms of the kernels are fastest; absent for the CPU path.
    pub autotune: Option<FullPart<Forms>>,
    /// Whether two trainings give the same bits.
    pub determinism: FullPart<TwoTrainings>,
    /// How long until a network has learnt.
    pub accuracy: FullPart<Learning>,
    /// Each size, as `bench --save` has it.
    pub bench: FullPart<Report>,
}

/// What came of one part: what was found, or why nothing was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FullPart<T> {
    /// Seconds that it took.
    pub seconds: f64,
    /// Why it failed.
    pub error: Option<String>,
    /// What was found.
    pub found: Option<T>,
}

/// An adapter as it describes itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AdapterFacts {
    /// Its maker's number.
    pub vendor: u32,
    /// Its own number.
    pub device: u32,
    /// The smallest and the largest subgroup.
    pub subgroups: [u32; 2],
    /// Bytes that a workgroup's threads may share.
    pub workgroup_memory: u32,
    /// Threads of a workgroup, at most.
    pub invocations: u32,
    /// Bytes that can be bound at once.
    pub binding: u64,
}

/// The comparisons of one operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpSummary {
    /// The operation.
    pub op: String,
    /// How many comparisons.
    pub comparisons: usize,
    /// The largest share of a tolerance that was used, in percent.
    pub tolerance_used: f64,
}

/// Every kernel against its twin.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CheckSummary {
    /// In the order in which they were checked.
    pub ops: Vec<OpSummary>,
    /// What was outside its tolerance.
    pub failures: Vec<String>,
}

/// The forms of the kernels on this device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forms {
    /// What would run without timing.
    pub usual: Tuning,
    /// The fastest.
    pub fastest: Tuning,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// The same training, twice.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TwoTrainings {
    /// SHA-256 of the parameters and the optimizer's memory after each.
    pub hashes: [String; 2],
    /// Whether they are equal.
    pub equal: bool,
    /// Updates of each.
    pub steps: usize,
}

/// An epoch of a training.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct EpochTime {
    /// Seconds since the training began, kernels built and tests included.
    pub seconds: f64,
    /// Seconds of training in them.
    pub training_seconds: f64,
    /// On the test set.
    pub accuracy: f64,
}

/// A training on the built-in digits up to [`TARGET`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Learning {
    /// The accuracy to be reached.
    pub target: f64,
    /// Seconds until it was, kernels built and tests included; absent where the time was not enough.
    pub reached_after: Option<f64>,
    /// Images trained on.
    pub train_images: usize,
    /// Images tested on.
    pub test_images: usize,
    /// Images in a batch.
    pub batch_size: usize,
    /// Each epoch.
    pub epochs: Vec<EpochTime>,
}

impl<T> FullPart<T> {
    fn of(work: impl FnOnce() -> Result<T>) -> Self {
        let began = Instant::now();
        let found = work();
        let seconds = began.elapsed().as_secs_f64();
        match found {
            Ok(found) => Self { seconds, error: None, found: Some(found) },
            Err(error) => Self { seconds, error: Some(error.to_string()), found: None },
        }
    }
}

impl FullReport {
    /// What is wrong with the device, a line each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = vec![];
        let errors = [
            ("check", self.check.as_ref().and_then(|part| part.error.as_ref())),
            ("autotune", self.autotune.as_ref().and_then(|part| part.error.as_ref())),
            ("determinism", self.determinism.error.as_ref()),
            ("accuracy", self.accuracy.error.as_ref()),
            ("bench", self.bench.error.as_ref()),
        ];
        faults.extend(errors.into_iter().filter_map(|(part, error)| Some(format!("{part}: {}", error?))));
        if let Some(found) = self.check.as_ref().and_then(|part| part.found.as_ref()) {
            faults.extend(found.failures.iter().map(|failure| format!("check: {failure}")));
        }
        faults.extend(self.failed.iter().map(|failure| format!("bench: {failure}")));
        if self.determinism.found.as_ref().is_some_and(|found| !found.equal) {
            faults.push("determinism: two trainings gave different bits".into());
        }
        faults
    }
}

impl FullBench {
    /// Measures everything, and says how far it is.
    ///
    /// # Errors
    /// None that is the device's: those are in the file.
    pub fn run(&self, note: Note) -> Result<FullReport> {
        let began = Instant::now();
        let unix_time = std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs());
        let gpu = self.device.gpu.as_ref();
        let check = gpu.map(|gpu| {
            note("1 of 5: every kernel against plain f64 code");
            FullPart::of(|| check(gpu))
        });
        let (train, test) = Digits::default().generate();
        let net = Network::seed([1, digits::SIDE, digits::SIDE], digits::CLASSES)?;
        let data = Data { train, test, net };
        let autotune = gpu.map(|gpu| {
            note("2 of 5: the forms of the kernels");
            FullPart::of(|| forms(gpu, &data.setup()))
        });
        let tuning = autotune.as_ref().and_then(|part| Some(part.found.as_ref()?.fastest));
        // Where a form is asked for, it is that.
        let tuning = self.device.wanted.tiles.map(Tuning::all).or(tuning);
        note("3 of 5: two trainings, which must give the same bits");
        let determinism = FullPart::of(|| self.two_trainings(&data, tuning));
        note("4 of 5: seconds to an accuracy of 99 % on the built-in digits");
        let accuracy = FullPart::of(|| self.learning(&data, tuning));
        let (mut left_out, mut failed) = (vec![], vec![]);
        let bench = FullPart::of(|| self.bench(began, tuning, [&mut left_out, &mut failed], note));
        Ok(FullReport {
            format: FORMAT.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            unix_time,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            device: self.device.name(),
            adapter: gpu.map(facts),
            reduced: self.reduced,
            left_out,
            failed,
            seconds: began.elapsed().as_secs_f64(),
            check,
            autotune,
            determinism,
            accuracy,
            bench,
        })
    }

    fn bench(
        &self,
        began: Instant,
        tuning: Option<Tuning>,
        [left_out, failed]: [&mut Vec<String>; 2],
        note: Note,
    ) -> Result<Report> {
        let bench = Bench {
            network: Architecture::default(),
            gpu: self.device.gpu.clone(),
            kernels: self.device.kernels,
            tuning,
            activations: Storage::F32,
            augment: crate::ops::augment::Augment::NONE,
            seconds: self.seconds,
        };
        let mut report = bench.report()?;
        for &(input, batch_size) in &self.sizes {
            let [c, h, w] = input;
            let size = format!("{c}x{h}x{w} batch {batch_size}");
            if began.elapsed() > LAST_START {
                left_out.push(format!("{size}: ten minutes would not be enough"));
                continue;
            }
            note(&format!("5 of 5: images a second, {size}"));
            match bench.fits(input, batch_size).and_then(|()| bench.measure(input, batch_size)) {
                Ok(results) => report.results.extend(results),
                Err(Error::OverLimit(reason)) => left_out.push(format!("{size}: {reason}")),
                // What is wrong with one size says nothing of the next.
                Err(error @ (Error::Check(_) | Error::Gpu { .. })) => failed.push(format!("{size}: {error}")),
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }

    fn two_trainings(&self, data: &Data, tuning: Option<Tuning>) -> Result<TwoTrainings> {
        const STEPS: usize = 40;
        let setup = data.setup();
        let few: Vec<u32> = (0..(STEPS * BATCH).min(setup.train.len()) as u32).collect();
        let train = setup.train.subset(&few);
        let setup = Setup { train: &train, ..setup };
        let hash = || -> Result<String> {
            let mut trainer = self.trainer(&setup, tuning)?;
            let schedule = Course { epochs: 1, seed: 0, shuffle: true };
            run(&mut *trainer, &setup, schedule, Progress::default(), &mut ())?;
            Ok(digest(&trainer.state()?))
        };
        let hashes = [hash()?, hash()?];
        Ok(TwoTrainings { equal: hashes[0] == hashes[1], hashes, steps: few.len().div_ceil(BATCH) })
    }

    fn learning(&self, data: &Data, tuning: Option<Tuning>) -> Result<Learning> {
        let setup = data.setup();
        let mut watch = Watch { began: Instant::now(), patience: self.patience, training: 0.0, epochs: vec![] };
        let mut trainer = self.trainer(&setup, tuning)?;
        let schedule = Course { epochs: 1000, seed: 0, shuffle: true };
        match run(&mut *trainer, &setup, schedule, Progress::default(), &mut watch) {
            Err(Error::Interrupted(_)) if watch.is_late() => {}
            other => other?,
        }
        let reached = watch.epochs.iter().find(|epoch| epoch.accuracy >= TARGET);
        Ok(Learning {
            target: TARGET,
            reached_after: reached.map(|epoch| epoch.seconds),
            train_images: setup.train.len(),
            test_images: setup.test.len(),
            batch_size: BATCH,
            epochs: watch.epochs,
        })
    }

    fn trainer<'a>(&self, setup: &Setup<'a>, tuning: Option<Tuning>) -> Result<Box<dyn Trainer + 'a>> {
        self.device.trainer(Storage::F32, tuning, setup.clone(), &State::initial(setup.net, 0), &|_| ())
    }
}

/// The built-in digits, and a network for them.
struct Data {
    train: Dataset,
    test: Dataset,
    net: Network,
}

impl Data {
    fn setup(&self) -> Setup<'_> {
        let (mean, deviation) = digits::MEAN_AND_STD;
        Setup {
            seed: 0,
            net: &self.net,
            batch_size: BATCH,
            loss: Smoothing { variant: Variant::Uniform, epsilon: 0.1 }.into(),
            optimizer: Optimizer::Adam(Adam::default()),
            recipe: Default::default(),
            normalisation: vec![[mean, deviation]],
            augment: crate::ops::augment::Augment::NONE,
            train: &self.train,
            test: &self.test,
        }
    }
}

/// Ends a training where the target is reached, or the time is over.
struct Watch {
    began: Instant,
    patience: Duration,
    training: f64,
    epochs: Vec<EpochTime>,
}

impl Watch {
    fn is_late(&self) -> bool {
        self.began.elapsed() > self.patience
    }
}

impl Observer for Watch {
    fn epoch(&mut self, report: &EpochReport, _backend: &mut dyn Trainer) -> Result<()> {
        self.training += report.seconds;
        self.epochs.push(EpochTime {
            seconds: self.began.elapsed().as_secs_f64(),
            training_seconds: self.training,
            accuracy: report.test.accuracy,
        });
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.epochs.last().is_some_and(|epoch| epoch.accuracy >= TARGET)
    }

    fn wants_stop(&self) -> bool {
        self.is_late()
    }
}

fn check(gpu: &Arc<Gpu>) -> Result<CheckSummary> {
    let mut summary = CheckSummary::default();
    every::with_training(gpu, |rows| rows.iter().for_each(|row| summary.add(row)))?;
    Ok(summary)
}

impl CheckSummary {
    fn add(&mut self, row: &Row) {
        let at = self.ops.iter().position(|op| op.op == row.op).unwrap_or_else(|| {
            self.ops.push(OpSummary { op: row.op.clone(), comparisons: 0, tolerance_used: 0.0 });
            self.ops.len() - 1
        });
        let op = &mut self.ops[at];
        op.comparisons += 1;
        op.tolerance_used = op.tolerance_used.max(row.tolerance_used);
        if let Some(failure) = &row.failure {
            self.failures.push(format!("{}, {}, {}: {failure}", row.op, row.pass, row.case));
        }
    }
}

fn forms(gpu: &Arc<Gpu>, setup: &Setup) -> Result<Forms> {
    let autotune::Chosen { tuning, notes } = autotune::fresh(gpu, setup, Storage::F32)?;
    Ok(Forms { usual: gpu.tuning(), fastest: tuning, notes })
}

fn facts(gpu: &Arc<Gpu>) -> AdapterFacts {
    let (info, limits) = (&gpu.info, gpu.device.limits());
    AdapterFacts {
        vendor: info.vendor,
        device: info.device,
        subgroups: [info.subgroup_min_size, info.subgroup_max_size],
        workgroup_memory: limits.max_compute_workgroup_storage_size,
        invocations: limits.max_compute_invocations_per_workgroup,
        binding: limits.max_storage_buffer_binding_size,
    }
}

/// Of every number of the state. Bits count: -0 is not 0.
fn digest(state: &State) -> String {
    let mut hash = Sha256::new();
    for numbers in [&state.params, &state.buffers].into_iter().chain(&state.slots) {
        numbers.iter().for_each(|number| hash.update(number.to_le_bytes()));
    }
    hex(&hash.finalize())
}
