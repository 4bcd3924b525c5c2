//! Measurements of this machine: training and inference as a user sees them, each kernel by the device's clock, and
//! what the device could do at most.
//!
//! A result counts only if its answer is right: every configuration first trains a few steps against the f64 oracle.

pub mod full;
pub mod layer;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::backend::gpu::clock::{Clock, Times};
use crate::backend::gpu::device::describe;
use crate::backend::gpu::trainer::{GpuOptions, GpuTrainer};
use crate::backend::gpu::{Engine, Gpu};
use crate::backend::reference::ReferenceTrainer;
use crate::backend::{Setup, Trainer, cpu};
use crate::check::network::{Oracle, tensors_in_halves};
use crate::compile::fuse::Kernels;
use crate::data::Dataset;
use crate::data::digits::{self, Digits, SIDE};
use crate::loss::smoothing::{Smoothing, Variant};
use crate::network::{Architecture, Network};
use crate::ops::augment::Augment;
use crate::ops::ceiling;
use crate::optimizer::{Adam, Optimizer};
use crate::plan::Storage;
use crate::plan::tuning::Tuning;
use crate::plan::{Plan, Step};
use crate::{Error, Result, memory};

/// A file of results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The program's version.
    pub version: String,
    /// Seconds since 1970.
    pub unix_time: u64,
    /// What was measured: the adapter, or the CPU path with its threads.
    pub device: String,
    /// The network.
    #[serde(default, skip_serializing_if = "Architecture::is_default")]
    pub network: Architecture,
    /// In what activations were stored.
    #[serde(default, skip_serializing_if = "Storage::is_default")]
    pub activations: Storage,
    /// What it can do at most; absent for the CPU path.
    pub ceilings: Option<Ceilings>,
    /// One for each configuration.
    pub results: Vec<Measurement>,
}

/// A device's measured limits.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes a second of a large copy, read and written.
    pub bytes_per_second: f64,
    /// Floating-point operations a second of independent multiply-adds.
    pub flops_per_second: f64,
    /// Seconds from a submission of nothing to its end.
    pub submit_seconds: f64,
    /// Seconds that one more dispatch, of a single workgroup, costs in a submission of many.
    pub dispatch_seconds: f64,
}

/// One configuration's results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measurement {
    /// `train` or `infer`.
    pub task: String,
    /// Channels, height, width.
    pub input: [usize; 3],
    /// Images in a batch.
    pub batch_size: usize,
    /// Images a second: the median of the windows, the worst, the best.
    pub images_per_second: [f64; 3],
    /// Seconds from nothing to the first result: kernels compiled, data uploaded, one step done.
    pub cold_start_seconds: f64,
    /// Bytes of the plan's buffers; 0 for the CPU path.
    pub plan_bytes: u64,
    /// Bytes that the device's allocator handed out for it; 0 where it does not say.
    pub allocated_bytes: u64,
    /// Each dispatch of a step; empty for the CPU path.
    pub kernels: Vec<KernelTime>,
    /// Whose clock timed them: the host's where the device's cannot be believed.
    #[serde(default)]
    pub clock: Clock,
    /// The largest share of its tolerance that the check against the oracle used, in percent.
    pub tolerance_used: f64,
    /// By how much longer a step takes with augmented images, as a share, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment_cost: Option<f64>,
}

/// One dispatch of a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KernelTime {
    /// Its label in the plan.
    pub label: String,
    /// Seconds: the median of several steps.
    pub seconds: f64,
    /// Floating-point operations of its products.
    pub flops: u64,
    /// Bytes it must at least move.
    pub bytes: u64,
}

impl Measurement {
    /// Seconds of a step, from the median window.
    pub fn step_seconds(&self) -> f64 {
        self.batch_size as f64 / self.images_per_second[0]
    }

    /// Seconds of all kernels.
    pub fn kernel_seconds(&self) -> f64 {
        self.kernels.iter().map(|kernel| kernel.seconds).sum()
    }

    /// Seconds that the device would need at its ceilings: each dispatch its arithmetic or its traffic, whichever is
    /// longer, and its launch.
    pub fn floor_seconds(&self, ceilings: &Ceilings) -> f64 {
        let floor = |k: &KernelTime| {
            let (arithmetic, traffic) =
                (k.flops as f64 / ceilings.flops_per_second, k.bytes as f64 / ceilings.bytes_per_second);
            arithmetic.max(traffic) + ceilings.dispatch_seconds
        };
        self.kernels.iter().map(floor).sum()
    }
}

/// Throughput is measured in this many windows.
const WINDOWS: usize = 5;

/// What is measured, on what.
pub struct Bench {
    /// The network.
    pub network: Architecture,
    /// The GPU, or `None` for the CPU path.
    pub gpu: Option<Arc<Gpu>>,
    /// The fast ones, or those they are held against.
    pub kernels: Kernels,
    /// In which form, on a GPU; without one, as the device likes best.
    pub tuning: Option<Tuning>,
    /// In what a GPU's fused kernels store activations.
    pub activations: Storage,
    /// What is done to images where its cost is asked for.
    pub augment: Augment,
    /// Seconds for the throughput of one task of one configuration.
    pub seconds: f64,
}

impl Bench {
    /// An empty report on the device, with its ceilings.
    ///
    /// # Errors
    /// What the device reports.
    pub fn report(&self) -> Result<Report> {
        let cpu = || format!("CPU path ({} threads)", rayon::current_num_threads());
        Ok(Report {
            version: env!("CARGO_PKG_VERSION").into(),
            unix_time: std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs()),
            device: self.gpu.as_ref().map_or_else(cpu, |gpu| describe(&gpu.info)),
            network: self.network.clone(),
            activations: self.activations,
            ceilings: self.gpu.as_ref().map(ceilings).transpose()?.flatten(),
            results: vec![],
        })
    }

    /// Refuses what the host has no memory for: two sets of two batches of images, the oracle that answers are held
    /// against, and without a GPU a trainer and a tester.
    ///
    /// # Errors
    /// [`Error::OverLimit`].
    pub fn fits(&self, input: [usize; 3], batch_size: usize) -> Result<()> {
        let net = self.network.network(input, 10)?;
        cpu::memory::check_state(&net, false)?;
        let of = |kernels, train, infer| cpu::memory::of_backend::<f32>(&net, kernels, train, infer).total();
        let pixels = input.iter().product::<usize>() as u64;
        let images = (batch_size as u64).saturating_mul(4).saturating_mul(pixels);
        let oracle =
            cpu::memory::of_backend::<f64>(&net, Kernels::Reference, batch_size.min(16), batch_size.min(16)).total();
        let backends = match self.gpu {
            Some(_) => 0,
            None => of(self.kernels, batch_size, batch_size).saturating_add(of(self.kernels, 0, batch_size)),
        };
        let needed = images.saturating_add(oracle).saturating_add(backends);
        match memory::available() {
            Some(available) if needed > available => {
                let [needed, available] = [needed, available].map(memory::bytes);
                Err(Error::OverLimit(format!("needs {needed} of memory, and {available} is available")))
            }
            _ => Ok(()),
        }
    }

    /// Training and inference on `input`.
    ///
    /// # Errors
    /// What the device reports; [`Error::Check`] if its answer is wrong.
    pub fn measure(&self, input: [usize; 3], batch_size: usize) -> Result<[Measurement; 2]> {
        let net = self.network.network(input, 10)?;
        let smoothing = Smoothing { variant: Variant::Uniform, epsilon: 0.1 };
        let tolerance_used = self.verify(&net, smoothing, batch_size)?;

        let pixels: usize = input.iter().product();
        let most = (8usize << 20).div_ceil(pixels).max(batch_size);
        let train = pictures(most.max(batch_size * 2), input);
        let order: Vec<u32> = (0..train.len() as u32).collect();
        let params = net.initial_parameters(0);
        let setup = Setup {
            seed: 0,
            net: &net,
            batch_size,
            loss: smoothing.into(),
            optimizer: Optimizer::Adam(Adam::default()),
            recipe: Default::default(),
            normalisation: vec![digits::MEAN_AND_STD.into(); input[0]],
            augment: crate::ops::augment::Augment::NONE,
            train: &train,
            test: &train,
        };
        let before = self.allocated();
        let began = Instant::now();
        let mut trainer = self.trainer(setup.clone(), &params)?;
        trainer.backend().train_epoch(&order[..batch_size], 0, &mut |_| Ok(ControlFlow::Continue(())))?;
        let cold_start_seconds = began.elapsed().as_secs_f64();
        let allocated_bytes = self.allocated().saturating_sub(before);
        let trained = train_windows(trainer.backend(), &order, batch_size, self.seconds)?;

        // One pass over the test set is to take no longer than a window, on slow devices too.
        let mut test = train.clone();
        let images = (trained[0] * self.seconds / WINDOWS as f64) as usize / batch_size * batch_size;
        test.truncate(images.max(batch_size));
        let mut tester = self.trainer(Setup { test: &test, ..setup.clone() }, &params)?;
        let inferred = infer_windows(tester.backend(), test.len(), self.seconds)?;

        let measured = |task: &str, images_per_second| Measurement {
            task: task.into(),
            input,
            batch_size,
            images_per_second,
            cold_start_seconds,
            plan_bytes: 0,
            allocated_bytes,
            kernels: vec![],
            clock: Clock::Device,
            tolerance_used,
            augment_cost: None,
        };
        let mut results = [measured("train", trained), measured("infer", inferred)];
        if !self.augment.is_none() {
            self.augment.check(input)?;
            let mut augmented = self.trainer(Setup { augment: self.augment, ..setup.clone() }, &params)?;
            let cost = extra_time([&mut trainer, &mut augmented], &order, batch_size, self.seconds)?;
            results[0].augment_cost = Some(cost);
        }
        if let Subject::Gpu(trainer) = &trainer {
            let (engine, compiled) = (trainer.engine(), trainer.compiled());
            let step = trainer.timed_step();
            for (result, range) in results.iter_mut().zip([compiled.train.clone(), compiled.infer.clone()]) {
                result.plan_bytes = compiled.plan.bytes();
                (result.kernels, result.clock) = kernel_times(engine, range, &step)?;
            }
        }
        Ok(results)
    }

    /// Bytes that the device's allocator has handed out.
    fn allocated(&self) -> u64 {
        let report = self.gpu.as_ref().and_then(|gpu| gpu.device.generate_allocator_report());
        report.map_or(0, |report| report.total_allocated_bytes)
    }

    fn trainer<'a>(&self, setup: Setup<'a>, params: &[f32]) -> Result<Subject<'a>> {
        Ok(match &self.gpu {
            Some(gpu) => Subject::Gpu(Box::new(GpuTrainer::with_options(
                gpu,
                setup,
                params,
                GpuOptions {
                    kernels: self.kernels,
                    tuning: self.tuning,
                    activations: self.activations,
                    ..GpuOptions::default()
                },
            )?)),
            None if self.kernels == Kernels::Fused => {
                Subject::Cpu(Box::new(cpu::CpuTrainer::<f32>::new(setup, params)))
            }
            None => Subject::Cpu(Box::new(ReferenceTrainer::<f32>::new(setup, params))),
        })
    }

    /// Trains a few steps against the f64 oracle and gives the largest share of its tolerance that a result used.
    fn verify(&self, net: &Network, smoothing: Smoothing, batch_size: usize) -> Result<f64> {
        let mut worst = 0f64;
        let size = [batch_size.min(16), 2];
        let rounded = tensors_in_halves(net, self.kernels, self.activations);
        let oracle = Oracle::train(net, smoothing, size)?;
        for row in oracle.compare("bench", rounded, |setup, params| {
            Ok(match self.trainer(setup, params)? {
                Subject::Gpu(trainer) => trainer,
                Subject::Cpu(trainer) => trainer,
            })
        })? {
            if let Some(failure) = row.failure {
                return Err(Error::Check(format!("{} {}: {failure}", row.pass, row.case)));
            }
            worst = worst.max(row.tolerance_used);
        }
        Ok(worst)
    }
}

/// What is measured.
enum Subject<'a> {
    Gpu(Box<GpuTrainer<'a>>),
    Cpu(Box<dyn Trainer + 'a>),
}

impl<'a> Subject<'a> {
    fn backend(&mut self) -> &mut (dyn Trainer + 'a) {
        match self {
            Self::Gpu(trainer) => trainer.as_mut(),
            Self::Cpu(trainer) => trainer.as_mut(),
        }
    }
}

/// Median, worst and best of rates.
fn spread(mut rates: Vec<f64>) -> [f64; 3] {
    rates.sort_by(f64::total_cmp);
    [rates[rates.len() / 2], rates[0], rates[rates.len() - 1]]
}

/// So many labelled images to train on: up to 4,096 of the built-in digits, as large as asked, the same in all
/// channels.
///
/// Noise would not do. There is nothing to learn from it, a training on it lets most ReLUs die, and what skips their
/// zeros gets faster than it ever is on pictures (1.3 times, the default network in batches of 128 on the CPU path).
pub fn pictures(images: usize, [channels, h, w]: [usize; 3]) -> Dataset {
    let (digits, _) = Digits { train: images.min(4096), test: 0, ..Digits::default() }.generate();
    // Under each of the image's pixels, the digit's.
    let places: Vec<usize> = (0..h * w).map(|at| at / w * SIDE / h * SIDE + at % w * SIDE / w).collect();
    let mut all = Dataset { shape: [channels, h, w], classes: digits::CLASSES, ..Dataset::default() };
    for i in 0..images {
        let digit = digits.image(i % digits.len());
        (0..channels).for_each(|_| all.images.extend(places.iter().map(|&at| digit[at])));
        all.labels.push(digits.labels[i % digits.len()]);
    }
    all
}

/// Images a second of training. Results arrive in bursts, so a window runs from one arrival to another.
fn train_windows(backend: &mut dyn Trainer, order: &[u32], batch_size: usize, seconds: f64) -> Result<[f64; 3]> {
    let mut rates = vec![];
    let mut updates = 1;
    // The first window warms up, and is not counted.
    let mut window: Option<(Instant, usize)> = None;
    let began = Instant::now();
    while rates.len() < WINDOWS {
        let mut left = order.len();
        backend.train_epoch(order, updates, &mut |losses| {
            updates += losses.len() as u64;
            let images = (losses.len() * batch_size).min(left);
            left -= images;
            match &mut window {
                None if began.elapsed().as_secs_f64() > seconds / WINDOWS as f64 => window = Some((Instant::now(), 0)),
                None => {}
                Some((start, done)) => {
                    *done += images;
                    let elapsed = start.elapsed().as_secs_f64();
                    if elapsed > seconds / WINDOWS as f64 {
                        rates.push(*done as f64 / elapsed);
                        window = Some((Instant::now(), 0));
                    }
                }
            }
            // Ends the epoch where there is nothing more to measure.
            Ok(if rates.len() == WINDOWS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
    }
    Ok(spread(rates))
}

/// By how much longer the second one trains, as a share: the median over pairs of short runs, one of each, so that both
/// see the same machine.
fn extra_time(subjects: [&mut Subject; 2], order: &[u32], batch_size: usize, seconds: f64) -> Result<f64> {
    const PAIRS: usize = 15;
    let timed = |subject: &mut Subject, steps: usize| -> Result<f64> {
        let images = (steps * batch_size).min(order.len());
        let began = Instant::now();
        subject.backend().train_epoch(&order[..images], 1, &mut |_| Ok(ControlFlow::Continue(())))?;
        Ok(began.elapsed().as_secs_f64())
    };
    let [plain, other] = subjects;
    // Both are warm then.
    let of_step = timed(plain, 2)?.max(timed(other, 2)?) / 2.0;
    let steps = ((seconds / PAIRS as f64 / of_step) as usize).max(1);
    let mut ratios = vec![];
    for pair in 0..PAIRS {
        // Neither is always the first.
        let [plain, other] = if pair % 2 == 0 {
            [timed(plain, steps)?, timed(other, steps)?]
        } else {
            let other = timed(other, steps)?;
            [timed(plain, steps)?, other]
        };
        ratios.push(other / plain - 1.0);
    }
    Ok(spread(ratios)[0])
}

/// Images a second of inference over the test set, again and again.
fn infer_windows(backend: &mut dyn Trainer, images: usize, seconds: f64) -> Result<[f64; 3]> {
    backend.test_logits()?;
    let mut rates = vec![];
    for _ in 0..WINDOWS {
        let (start, mut done) = (Instant::now(), 0);
        while start.elapsed().as_secs_f64() < seconds / WINDOWS as f64 {
            backend.test_logits()?;
            done += images;
        }
        rates.push(done as f64 / start.elapsed().as_secs_f64());
    }
    Ok(spread(rates))
}

/// Each dispatch's median time over a few steps, and by whose clock.
fn kernel_times(engine: &Engine, range: std::ops::Range<usize>, step: &Step) -> Result<(Vec<KernelTime>, Clock)> {
    const STEPS: usize = 5;
    let profiles: Vec<Times> = (0..STEPS).map(|_| engine.profile(range.clone(), step)).collect::<Result<_>>()?;
    let clock = if profiles.iter().all(|times| times.clock == Clock::Device) { Clock::Device } else { Clock::Host };
    let profiles: Vec<_> = match clock {
        Clock::Device => profiles.into_iter().map(|times| times.seconds).collect(),
        // A clock that is wrong once is not asked again.
        Clock::Host => (0..STEPS).map(|_| engine.profile_on_host(range.clone(), step)).collect::<Result<_>>()?,
    };
    let times = (0..range.len()).map(|i| profiles.iter().map(|seconds| seconds[i]).collect());
    let kernel = |(dispatch, times): (&crate::plan::Dispatch, Vec<f64>)| KernelTime {
        label: dispatch.label.clone(),
        seconds: spread(times)[0],
        flops: dispatch.flops,
        bytes: dispatch.bytes,
    };
    Ok((engine.plan().dispatches[range].iter().zip(times).map(kernel).collect(), clock))
}

/// What the device can do at most, if it can be timed.
fn ceilings(gpu: &Arc<Gpu>) -> Result<Option<Ceilings>> {
    const VECTORS: usize = 2 << 20; // 32 MiB, beyond most caches
    let mut plan = Plan::default();
    let x = plan.buffer("x", VECTORS * 4)?;
    let y = plan.buffer("y", VECTORS * 4)?;
    ceiling::copy(&mut plan, VECTORS, x, y)?;
    ceiling::multiply_add(&mut plan, VECTORS / 16, y)?;
    // A single workgroup, to time launches.
    ceiling::copy(&mut plan, 1, x, y)?;
    let engine = Engine::new(gpu, plan)?;
    let (times, _) = kernel_times(&engine, 0..2, &Step::default())?;
    let [copy, multiply_add] = times.as_slice() else { unreachable!("a time for each of two dispatches") };
    let rate = |amount: u64, seconds: f64| (seconds > 0.0).then_some(amount as f64 / seconds);
    let (Some(bytes_per_second), Some(flops_per_second)) =
        (rate(copy.bytes, copy.seconds), rate(multiply_add.flops, multiply_add.seconds))
    else {
        return Ok(None);
    };

    let one = y.part(0, 1);
    let timed = |steps: usize| -> Result<f64> {
        let steps = vec![Step::default(); steps];
        let mut times = vec![];
        for _ in 0..9 {
            let start = Instant::now();
            engine.run(2..3, &steps, one).wait::<f32>()?;
            times.push(start.elapsed().as_secs_f64());
        }
        Ok(spread(times)[0])
    };
    let (few, many) = (timed(1)?, timed(201)?);
    Ok(Some(Ceilings {
        bytes_per_second,
        flops_per_second,
        submit_seconds: few,
        dispatch_seconds: (many - few).max(0.0) / 200.0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuTrainer;

    /// Catches pictures from which nothing can be learned: a network that only unlearns is faster than in use.
    #[test]
    fn a_network_learns_from_the_pictures() {
        let net = Network::seed([2, 14, 15], 10).unwrap();
        let (train, order) = (pictures(5_000, net.input), Vec::from_iter(0..960));
        assert_eq!((train.len(), train.pixels(), train.image(4097)), (5_000, 2 * 14 * 15, train.image(1)));
        assert!(train.image(0).starts_with(train.image(0).split_at(14 * 15).1), "both channels are the same");
        let setup = Setup {
            seed: 0,
            net: &net,
            batch_size: 32,
            loss: Smoothing::NONE.into(),
            optimizer: Optimizer::Adam(Adam::default()),
            recipe: Default::default(),
            normalisation: vec![digits::MEAN_AND_STD.into(); 2],
            augment: Augment::NONE,
            train: &train,
            test: &train,
        };
        let mut losses = vec![];
        let mut trainer = CpuTrainer::<f32>::new(setup, &net.initial_parameters(0));
        let mut keep = |of: &[crate::loss::BatchLoss]| {
            losses.extend(of.iter().map(|of| of.loss));
            Ok(ControlFlow::Continue(()))
        };
        trainer.train_epoch(&order, 0, &mut keep).unwrap();
        assert!(losses[0] > 2.2 && losses[25..].iter().all(|loss| *loss < 1.5), "{losses:?}");
    }
}
