//! Drivers that lie, stop, or are slow: what a submission that was given up leaves is no answer, numbers that are none
//! are seen on the device, long work is cut without another bit, and a device that went away is opened once more.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use smoothcnn::Error;
use smoothcnn::backend::gpu::engine::FIRST_WORK;
use smoothcnn::backend::gpu::trainer::{GpuOptions, GpuTrainer, losses, sealed};
use smoothcnn::backend::gpu::{Engine, Gpu};
use smoothcnn::backend::reference::ReferenceTrainer;
use smoothcnn::backend::{Setup, State, Trainer, cpu};
use smoothcnn::check::network::random_data;
use smoothcnn::compile::fuse::Kernels;
use smoothcnn::data::Dataset;
use smoothcnn::loss::BatchLoss;
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::network::{Layer, Network};
use smoothcnn::ops::ceiling;
use smoothcnn::optimizer::{Adam, Optimizer, SLOT_WORDS, Sgd};
use smoothcnn::plan::Storage;
use smoothcnn::plan::tuning::{Tiles, Tuning};
use smoothcnn::plan::{BatchBlock, Plan, Step};
use smoothcnn::train::{self, Course, Observer, Progress};

use super::{GPU, few_channels, opened};

fn setup<'a>(net: &'a Network, data: &'a Dataset, optimizer: Optimizer) -> Setup<'a> {
    Setup {
        seed: 0,
        net,
        batch_size: 5,
        loss: Smoothing::NONE.into(),
        optimizer,
        recipe: Default::default(),
        normalisation: vec![[0.5, 0.25]],
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: data,
        test: data,
    }
}

fn adam(lr: f64) -> Optimizer {
    Optimizer::Adam(Adam { lr, ..Adam::default() })
}

fn small() -> (Network, Dataset) {
    let net = few_channels([1, 8, 8], 4);
    let data = random_data(23, net.input, 4);
    (net, data)
}

/// Catches a step or an inference that a driver gave up, whose result is what an earlier one left: the driver is played
/// by leaving out the last kernel.
#[test]
fn a_submission_that_was_given_up_is_no_answer() {
    let (net, data) = small();
    let mut trainer = GpuTrainer::new(&GPU, setup(&net, &data, adam(1e-3)), &net.initial_parameters(1)).unwrap();
    trainer.train_epoch(&[0, 1, 2, 3, 4], 0, &mut |_| Ok(ControlFlow::Continue(()))).unwrap();
    let (engine, compiled) = (trainer.engine(), trainer.compiled().clone());
    let stamped =
        |stamp| Step { batch: BatchBlock { count: 5, stamp, ..BatchBlock::default() }, ..trainer.timed_step() };
    let step = stamped(1000);
    let train = |cut: usize| {
        let range = compiled.train.start..compiled.train.end - cut;
        let words = engine.run(range, &[step], compiled.step_losses.part(0, SLOT_WORDS)).wait::<u32>().unwrap();
        losses(&words, &[step.batch.stamp])
    };
    let error = train(1).unwrap_err();
    assert!(matches!(&error, Error::DeviceLost(text) if text.starts_with("a step was not carried out")), "{error}");
    let whole = train(0).unwrap();
    assert!(whole[0].loss > 0.0 && !whole[0].diverged, "{whole:?}");

    let infer = |cut: usize| {
        let (range, len) = (compiled.infer.start..compiled.infer.end - cut, 5 * net.classes);
        let results = [compiled.logits.part(0, len), compiled.logits_seal];
        let step = stamped(1001);
        sealed("inference", &engine.run_for(range, &[step], &results).wait::<u32>().unwrap(), len, 1001)
    };
    assert!(matches!(infer(1), Err(Error::DeviceLost(_))));
    assert_eq!(infer(0).unwrap().len(), 20);

    // A copy that was cut short: words that are not what the device sealed.
    let results = [compiled.flat.params, compiled.state[0][1]];
    let step = stamped(1002);
    let mut words: Vec<u32> = engine.run_for(compiled.seal_state, &[step], &results).wait().unwrap();
    let len = compiled.flat.params.bytes as usize / 4;
    assert_eq!(sealed("the state", &words, len, 1002).unwrap().len(), len);
    words[len / 2..len].fill(0);
    assert!(matches!(sealed("the state", &words, len, 1002), Err(Error::DeviceLost(_))));
}

struct Nobody;
impl Observer for Nobody {}

/// Catches a parameter or a moment that is not finite and goes unnoticed until the loss is, or a file is written: on
/// every form, on both paths. At a rate beyond f32 it is the parameters, with images beyond the square root of f32's
/// range the second moment alone; the loss before such an update is a number.
#[test]
fn a_number_that_is_not_finite_ends_the_run_within_its_step() {
    let (net, data) = small();
    let params = net.initial_parameters(1);
    let schedule = Course { epochs: 1, seed: 0, shuffle: false };
    let sgd = |lr| Optimizer::Sgd(Sgd { lr, momentum: 0.9, nesterov: false, weight_decay: 0.0 });
    let images = |std: f64, optimizer| Setup { normalisation: vec![[0.0, std]], ..setup(&net, &data, optimizer) };
    let ends = |what: &str, setup: &Setup, backend: &mut dyn Trainer| match train::run(
        backend,
        setup,
        schedule,
        Progress::default(),
        &mut Nobody,
    ) {
        Err(error @ Error::Diverged { epoch: 1, step: 1, .. }) => {
            assert!(error.exit_code() == 1 && error.to_string().contains("lower --lr"), "{error}");
        }
        other => panic!("{what}: {other:?}"),
    };
    for setup in [images(1.0, adam(1e39)), images(1.0, sgd(1e39)), images(1e-27, adam(1e-3))] {
        let fused = Tiles::ALL.into_iter().filter(|&tiles| GPU.runs(tiles)).map(|tiles| (Kernels::Fused, tiles));
        for (kernels, tiles) in fused.chain([(Kernels::Reference, Tiles::Registers)]) {
            let what = format!("{kernels:?}, {tiles:?}, {:?}", setup.optimizer);
            let halves = GPU.stores(Storage::F16) && kernels == Kernels::Fused && setup.normalisation[0][1] == 1.0;
            for activations in [Storage::F32, Storage::F16].into_iter().take(1 + usize::from(halves)) {
                let options =
                    GpuOptions { kernels, tuning: Some(Tuning::all(tiles)), activations, ..GpuOptions::default() };
                let mut trainer = GpuTrainer::with_options(&GPU, setup.clone(), &params, options).unwrap();
                ends(&format!("{what}, {activations:?}"), &setup, &mut trainer);
            }
        }
        ends("CPU path", &setup, &mut cpu::CpuTrainer::<f32>::new(setup.clone(), &params));
        ends("oracle", &setup, &mut ReferenceTrainer::<f32>::new(setup.clone(), &params));
    }
    // Nothing of it in a training that is well.
    let setup = images(1.0, adam(1e-3));
    let mut trainer = GpuTrainer::new(&GPU, setup.clone(), &params).unwrap();
    train::run(&mut trainer, &setup, schedule, Progress::default(), &mut Nobody).unwrap();
}

/// Catches a place in the flat vector that nobody watches: one momentum of all is so large that its parameter, and
/// nothing else, leaves f32 with the first update. At the optimizer's vectors of four, its workgroups and its tasks
/// begin and end such places.
#[test]
fn one_number_among_all_is_seen() {
    let net = Network::seed([1, 12, 12], 4).unwrap();
    let data = random_data(5, net.input, 4);
    let params: Vec<f64> = net.initial_parameters(1).into_iter().map(f64::from).collect();
    let optimizer = Optimizer::Sgd(Sgd { lr: 2.0, momentum: 0.9, nesterov: false, weight_decay: 0.0 });
    let setup = setup(&net, &data, optimizer);
    let start = net.initial_parameters(1);
    let mut backends: Vec<Box<dyn Trainer>> = vec![
        Box::new(GpuTrainer::new(&GPU, setup.clone(), &start).unwrap()),
        Box::new(cpu::CpuTrainer::<f32>::new(setup.clone(), &start)),
        Box::new(ReferenceTrainer::<f32>::new(setup.clone(), &start)),
    ];
    let last = params.len() - 1;
    let places = [0, 1, 2, 3, 255, 256, 4095, 4096, 16_383, 16_384, last / 2, last - 3, last - 1, last];
    for place in places.into_iter().map(Some).chain([None]) {
        let zeros = vec![0.0; params.len()];
        let mut state = State { params: params.clone(), slots: vec![zeros.clone(), zeros], ..State::default() };
        if let Some(place) = place {
            (state.params[place], state.slots[0][place]) = (0.0, 3e38);
        }
        for (i, backend) in backends.iter_mut().enumerate() {
            backend.set_state(&state);
            let mut seen = vec![];
            let mut add = |some: &[BatchLoss]| {
                seen.extend_from_slice(some);
                Ok(ControlFlow::Continue(()))
            };
            backend.train_epoch(&[0, 1, 2, 3, 4], 0, &mut add).unwrap();
            let [BatchLoss { loss, diverged, .. }] = seen[..] else { panic!("{seen:?}") };
            assert!(loss.is_finite(), "backend {i}, {place:?}: {loss}");
            assert_eq!(diverged, place.is_some(), "backend {i}, {place:?}");
        }
    }
}

/// Two epochs, on a device that is `slow` or not: the state, the losses, and the logits.
fn two_epochs(gpu: &Arc<Gpu>, slow: bool) -> (State, Vec<BatchLoss>, Vec<f64>) {
    let (net, data) = small();
    let mut trainer = GpuTrainer::new(gpu, setup(&net, &data, adam(1e-3)), &net.initial_parameters(1)).unwrap();
    let mut all = vec![];
    for epoch in 0..2 {
        if slow {
            // As if an operation took a second.
            trainer.engine().measured(1, Duration::from_secs(1));
            assert_eq!(trainer.engine().most_work(), 1);
        }
        let order: Vec<u32> = (0..23).rev().collect();
        let mut add = |some: &[BatchLoss]| {
            all.extend_from_slice(some);
            Ok(ControlFlow::Continue(()))
        };
        trainer.train_epoch(&order, epoch * 5, &mut add).unwrap();
    }
    if slow {
        trainer.engine().measured(1, Duration::from_secs(1));
    }
    let logits = trainer.test_logits().unwrap();
    (trainer.state().unwrap(), all, logits)
}

/// Catches a step that is cut between its dispatches and then gives other bits.
#[test]
fn work_that_is_cut_gives_the_same_bits() {
    assert_eq!(two_epochs(&GPU, false), two_epochs(&GPU, true));
}

/// Catches a submission that is not cut as long as nothing was measured, and one that grows by more than one
/// measurement is worth.
#[test]
fn how_much_a_submission_holds_follows_what_was_measured() {
    let mut plan = Plan::default();
    plan.buffer("one", 1).unwrap();
    let engine = Engine::new(&GPU, plan).unwrap();
    assert_eq!(engine.most_work(), FIRST_WORK);
    engine.measured(1_000_000_000, Duration::from_millis(1));
    assert_eq!(engine.most_work(), 2 * FIRST_WORK, "at most twice as much");
    engine.measured(1_000_000_000, Duration::from_secs(1));
    assert_eq!(engine.most_work(), 100_000_000, "a tenth of a second");
    engine.measured(u64::MAX, Duration::ZERO);
    assert_eq!(engine.most_work(), 200_000_000);
}

/// Catches a wait without an end. A device that does not answer is a device that is lost.
#[test]
fn a_device_that_does_not_answer_is_lost() {
    let gpu = opened(None);
    let mut plan = Plan::default();
    let y = plan.buffer("y", 4 << 16).unwrap();
    ceiling::multiply_add(&mut plan, 1 << 16, y).unwrap();
    let engine = Engine::new(&gpu, plan).unwrap();
    // Now and then the device is through before anyone asks.
    let ask = |_| engine.run(0..1, &[Step::default(); 64], y.part(0, 1)).wait_at_most::<u32>(Duration::ZERO).err();
    let error = (0..50).find_map(ask).expect("half a second of work takes some time");
    assert!(matches!(&error, Error::DeviceLost(text) if text.contains("no answer for 0")), "{error}");
    assert!(matches!(gpu.check("later"), Err(Error::DeviceLost(_))));
    assert!(gpu.patience(0) >= Duration::from_secs(60));
    assert!(gpu.patience(500_000_000_000) > gpu.patience(0));
}

/// Destroys the device in the middle of an epoch.
struct Destroys<'a> {
    gpu: &'a Gpu,
    at: usize,
    /// After the last whole epoch.
    kept: Option<(usize, State)>,
}

impl Observer for Destroys<'_> {
    fn step(&mut self, _epoch: usize, step: usize, _means: BatchLoss) -> smoothcnn::Result<()> {
        if step == self.at {
            self.gpu.device.destroy();
        }
        Ok(())
    }

    fn epoch(&mut self, report: &train::EpochReport, backend: &mut dyn Trainer) -> smoothcnn::Result<()> {
        self.kept = Some((report.epoch, backend.state()?));
        Ok(())
    }
}

/// Catches a lost device that is reported as something else, one that is not opened again, and a run that goes on with
/// other bits than it would have had.
#[test]
fn a_run_goes_on_from_the_last_epoch_on_a_device_that_was_lost_and_reopened() {
    let (net, data) = small();
    let setup = setup(&net, &data, adam(1e-3));
    let schedule = Course { epochs: 3, seed: 4, shuffle: true };
    let params = net.initial_parameters(1);
    let run = |gpu: &Arc<Gpu>, from: Option<(usize, State)>, at: usize| {
        let mut trainer = GpuTrainer::new(gpu, setup.clone(), &params).unwrap();
        if let Some((_, state)) = &from {
            trainer.set_state(state);
        }
        let mut observer = Destroys { gpu, at, kept: None };
        let progress = Progress { epochs: from.map_or(0, |(epoch, _)| epoch), ..Progress::default() };
        let outcome = train::run(&mut trainer, &setup, schedule, progress, &mut observer);
        (outcome, observer.kept)
    };
    let (outcome, whole) = run(&GPU, None, usize::MAX);
    outcome.unwrap();

    // Five steps an epoch: the device goes away in the second.
    let gpu = opened(None);
    let (outcome, kept) = run(&gpu, None, 7);
    let error = outcome.unwrap_err();
    assert!(matches!(error, Error::DeviceLost(_)), "{error:?}");
    assert!(matches!(gpu.check("later"), Err(Error::DeviceLost(_))));
    assert_eq!(kept.as_ref().map(|(epoch, _)| *epoch), Some(1));

    let again = Arc::new(gpu.reopen().unwrap());
    assert_eq!(again.info, gpu.info);
    drop(gpu);
    let (outcome, resumed) = run(&again, kept, usize::MAX);
    outcome.unwrap();
    assert!(resumed == whole, "other bits");
}

/// Catches a time of the host's that is none, or far from the device's.
#[test]
fn the_hosts_clock_times_kernels_too() {
    let mut plan = Plan::default();
    let y = plan.buffer("y", 4 << 18).unwrap();
    ceiling::multiply_add(&mut plan, 1 << 18, y).unwrap();
    ceiling::multiply_add(&mut plan, 64, y).unwrap();
    let engine = Engine::new(&GPU, plan).unwrap();
    engine.profile(0..2, &Step::default()).unwrap();
    // Other tests share the device: a dispatch waits for theirs, but hardly ever eight times.
    let times: Vec<_> = (0..8).map(|_| engine.profile_on_host(0..2, &Step::default()).unwrap()).collect();
    let host = [0, 1].map(|i| times.iter().map(|of| of[i]).fold(f64::INFINITY, f64::min));
    let device = engine.profile(0..2, &Step::default()).unwrap();
    assert!(host.iter().all(|&seconds| seconds > 0.0 && seconds < 60.0), "{host:?}");
    assert!(host[0] > host[1], "4096 times the work: {host:?}");
    println!("host {host:?}, device {device:?}");
}

/// Catches a batch beyond its set that needs room beyond its set.
#[test]
fn a_batch_above_the_set_is_the_set() {
    let (net, data) = small();
    let new = |batch_size: usize| {
        let setup = Setup { batch_size, ..setup(&net, &data, adam(1e-3)) };
        let mut trainer = GpuTrainer::new(&GPU, setup, &net.initial_parameters(1)).unwrap();
        trainer.train_epoch(&(0..23).collect::<Vec<_>>(), 0, &mut |_| Ok(ControlFlow::Continue(()))).unwrap();
        (trainer.batch_size(), trainer.compiled().plan.bytes(), trainer.state().unwrap())
    };
    assert!(new(23) == new(1 << 40));
}

/// Catches a driver that ends a long loop before its time, and says nothing (Mesa's llvmpipe after 65,535 turns; 16
/// images of 64x64 take the plain kernels 67,617): what it would do wrong is refused, and what is not refused is right.
#[test]
fn a_loop_that_the_driver_would_end_is_refused() {
    let layers = [Layer::conv2d(4, 3, 1), Layer::relu(), Layer::max_pool2d(2), Layer::flatten(), Layer::linear(4)];
    let net = Network::new([1, 64, 64], &layers).unwrap();
    let data = random_data(16, net.input, 4);
    let gradient = |kernels, images: u32| -> smoothcnn::Result<Vec<f32>> {
        let setup = Setup { batch_size: images as usize, ..setup(&net, &data, adam(1e-3)) };
        let options = GpuOptions { kernels, ..GpuOptions::default() };
        let mut trainer = GpuTrainer::with_options(&GPU, setup, &net.initial_parameters(1), options)?;
        trainer.train_epoch(&(0..images).collect::<Vec<_>>(), 0, &mut |_| Ok(ControlFlow::Continue(())))?;
        trainer.engine().read(trainer.compiled().gradient)
    };
    for images in [15, 16] {
        let fused = gradient(Kernels::Fused, images).unwrap();
        match gradient(Kernels::Reference, images) {
            Ok(plain) => {
                let largest = plain.iter().fold(0f32, |most, g| most.max(g.abs()));
                let worst = plain.iter().zip(&fused).map(|(p, f)| (p - f).abs()).fold(0f32, f32::max);
                assert!(worst < 1e-5 * largest, "{images} images: off by {worst} of {largest}");
            }
            Err(Error::OverLimit(text)) => {
                assert!(GPU.info.driver == "llvmpipe" && images > 15, "{images}: {text}");
                assert!(text.contains("conv1.backward_weight takes "), "{text}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
