//! A run that is stopped within an epoch, with steps still under way on the device, and what is asked of a trainer in
//! between.

use smoothcnn::Error;
use smoothcnn::backend::gpu::trainer::{GpuOptions, GpuTrainer};
use smoothcnn::backend::{Setup, State, Trainer};
use smoothcnn::check::network::random_data;
use smoothcnn::loss::BatchLoss;
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::optimizer::{Adam, Optimizer, recipe::Recipe};
use smoothcnn::schedule::{Curve, Schedule};
use smoothcnn::train::{self, Course, EpochReport, Observer, Progress};

use super::{GPU, few_channels};

const SCHEDULE: Course = Course { epochs: 3, seed: 5, shuffle: true };

/// Stops after so many steps, once.
#[derive(Default)]
struct Stopping {
    after: Option<usize>,
    steps: Vec<(usize, BatchLoss)>,
    epochs: Vec<[f64; 4]>,
    left: Option<(Progress, State)>,
}

impl Observer for Stopping {
    fn step(&mut self, _: usize, step: usize, means: BatchLoss) -> smoothcnn::Result<()> {
        self.steps.push((step, means));
        Ok(())
    }

    fn epoch(&mut self, report: &EpochReport, _: &mut dyn Trainer) -> smoothcnn::Result<()> {
        let EpochReport { train_loss, train_nll, train_excess_loss, test, .. } = report;
        self.epochs.push([*train_loss, *train_nll, *train_excess_loss, test.nll]);
        Ok(())
    }

    fn wants_stop(&self) -> bool {
        self.after.is_some_and(|after| self.steps.len() >= after)
    }

    fn stopped(&mut self, progress: &Progress, backend: &mut dyn Trainer) -> Error {
        self.after = None;
        self.left = Some((*progress, backend.state().unwrap()));
        Error::Interrupted(15)
    }
}

/// Catches a state that is not that after the last step that was reported, and an epoch that goes on at another image.
#[test]
fn a_run_stopped_within_an_epoch_goes_on_to_the_same_bits() {
    let net = few_channels([1, 8, 8], 4);
    let (train, test) = (random_data(203, net.input, 4), random_data(9, net.input, 4));
    let setup = Setup {
        seed: 0,
        net: &net,
        batch_size: 5,
        loss: Smoothing { variant: Variant::Uniform, epsilon: 0.1 }.into(),
        optimizer: Optimizer::Adam(Adam::default()),
        recipe: Default::default(),
        normalisation: vec![[0.5, 0.25]],
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &train,
        test: &test,
    };
    let params = net.initial_parameters(1);
    // Stopped where the rate rises, and where it falls.
    let curve = Curve::OneCycle { total: 3 * 41, rise: 0.3 };
    let cycled = |first, end| Schedule { first, curve, end, ..Schedule::CONSTANT };
    let (lr, momentum) = (cycled(1e-4, 1e-6), Some(cycled(0.95, 0.95)));
    let scheduled = Recipe { lr, momentum, clip_grad_norm: Some(0.5), ema: Some(0.9), ..Recipe::default() };
    // All of the set on the device, and a window of it.
    for (max_data_bytes, recipe) in [(u64::MAX, Recipe::default()), (u64::MAX, scheduled), (20 * 64, scheduled)] {
        let setup = Setup { recipe, ..setup.clone() };
        let new = || {
            let options = GpuOptions { max_data_bytes, ..GpuOptions::default() };
            GpuTrainer::with_options(&GPU, setup.clone(), &params, options).unwrap()
        };
        let mut whole = Stopping::default();
        let mut trainer = new();
        train::run(&mut trainer, &setup, SCHEDULE, Progress::default(), &mut whole).unwrap();
        let expected = trainer.state().unwrap();
        assert_eq!(whole.epochs.len(), 3);

        for after in [1, 7, 50] {
            let mut stopping = Stopping { after: Some(after), ..Stopping::default() };
            let outcome = train::run(&mut new(), &setup, SCHEDULE, Progress::default(), &mut stopping);
            assert!(matches!(outcome, Err(Error::Interrupted(15))), "{outcome:?}");
            let (progress, state) = stopping.left.take().unwrap();
            let steps = 41 * progress.epochs + progress.steps;
            assert!(steps >= after && progress.steps < 41 && steps == stopping.steps.len(), "{progress:?}");

            let mut trainer = new();
            trainer.set_state(&state);
            train::run(&mut trainer, &setup, SCHEDULE, progress, &mut stopping).unwrap();
            assert!(trainer.state().unwrap() == expected, "stopped after {steps} steps");
            assert_eq!(stopping.steps, whole.steps);
            assert_eq!(stopping.epochs, whole.epochs);
        }
    }
}

/// Catches logits of other images that are those of the test set, or a test set that they stay in the place of.
#[test]
fn logits_of_other_images_leave_the_test_set_alone() {
    let net = few_channels([1, 8, 8], 4);
    let (train, other) = (random_data(20, net.input, 4), random_data(33, net.input, 4));
    let few = other.subset(&[4, 2, 9]);
    let params = net.initial_parameters(1);
    let setup = |test| Setup {
        seed: 0,
        net: &net,
        batch_size: 5,
        loss: Smoothing::NONE.into(),
        optimizer: Optimizer::Adam(Adam::default()),
        recipe: Default::default(),
        normalisation: vec![[0.5, 0.25]],
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &train,
        test,
    };
    for max_data_bytes in [u64::MAX, 10 * 64] {
        let options = GpuOptions { max_data_bytes, ..GpuOptions::default() };
        let new = |test| GpuTrainer::with_options(&GPU, setup(test), &params, options).unwrap();
        // A test set that is smaller than a batch, than the others, and one that is larger.
        for (test, asked) in [(&few, &other), (&train, &other), (&other, &few)] {
            let mut trainer = new(test);
            let before = trainer.test_logits().unwrap();
            assert_eq!(trainer.logits(asked).unwrap(), new(asked).test_logits().unwrap());
            assert_eq!(trainer.test_logits().unwrap(), before);
        }
    }
}
