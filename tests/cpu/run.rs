//! `train::run` over a backend that computes nothing: what it makes of the losses it is told, and where it ends.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use smoothcnn::backend::{Setup, State, Trainer};
use smoothcnn::data::Dataset;
use smoothcnn::loss::comparator::ComparatorLoss;
use smoothcnn::loss::distillation::DistillationLoss;
use smoothcnn::loss::smoothing::{Epsilon, Prior, Smoothing, Variant};
use smoothcnn::loss::weighted::{Spec, WeightedLoss, Weighting};
use smoothcnn::loss::{BatchLoss, Form, Loss};
use smoothcnn::network::{Layer, Network};
use smoothcnn::ops::IGNORED;
use smoothcnn::optimizer::{Optimizer, Sgd};
use smoothcnn::schedule::Schedule;
use smoothcnn::train::{self, Course, EpochReport, Observer, Progress, Sums};
use smoothcnn::{Error, Result};

/// Tells losses and logits that it was given.
struct Told {
    batch_size: usize,
    means: VecDeque<BatchLoss>,
    logits: Vec<f64>,
    /// The batches, and how many updates there were before.
    asked: Vec<(Vec<u32>, u64)>,
}

impl Trainer for Told {
    fn train_epoch(
        &mut self,
        order: &[u32],
        updates: u64,
        on_losses: &mut dyn FnMut(&[BatchLoss]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        self.asked.push((order.to_vec(), updates));
        let steps = order.len().div_ceil(self.batch_size);
        // Two at a time, as a device does.
        for first in (0..steps).step_by(2) {
            let some: Vec<BatchLoss> = self.means.drain(..2.min(steps - first)).collect();
            if on_losses(&some)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn test_logits(&mut self) -> Result<Vec<f64>> {
        Ok(self.logits.clone())
    }

    fn logits(&mut self, _: &Dataset) -> Result<Vec<f64>> {
        unreachable!("nobody asks for other images")
    }

    fn state(&mut self) -> Result<State> {
        unreachable!("nobody asks for the state")
    }

    fn set_state(&mut self, _: &State) {}
}

/// Writes down what it is told, and asks for an end after so many steps.
#[derive(Default)]
struct Seen {
    after: Option<usize>,
    steps: Vec<(usize, usize, f64)>,
    epochs: Vec<EpochReport>,
    left: Option<Progress>,
}

impl Observer for Seen {
    fn step(&mut self, epoch: usize, step: usize, means: BatchLoss) -> Result<()> {
        self.steps.push((epoch, step, means.loss));
        Ok(())
    }

    fn epoch(&mut self, report: &EpochReport, _: &mut dyn Trainer) -> Result<()> {
        self.epochs.push(report.clone());
        Ok(())
    }

    fn wants_stop(&self) -> bool {
        self.after.is_some_and(|after| self.steps.len() >= after)
    }

    fn stopped(&mut self, progress: &Progress, _: &mut dyn Trainer) -> Error {
        self.left = Some(*progress);
        Error::Interrupted(2)
    }
}

const BATCH: usize = 3;

/// Eight images of three classes, in batches of 3, 3 and 2; the third and the last are ignored.
fn data() -> Dataset {
    let labels = vec![0, 1, IGNORED, 2, 2, 1, 0, IGNORED];
    Dataset { shape: [1, 1, 1], classes: 3, images: vec![0; 8], labels, files: vec![] }
}

/// Class weights of 1, 2 and 4.
fn weighted(weighting: Weighting, epsilon: f64) -> Loss {
    let spec = Spec {
        epsilon: Epsilon::new(epsilon).unwrap(),
        prior: Prior::Uniform,
        weights: Some((weighting, vec![1.0, 2.0, 4.0])),
        ..Spec::new(3)
    };
    Loss::new(Form::Weighted(WeightedLoss::new(&spec).unwrap()), epsilon)
}

fn mean(loss: f64, nll: f64) -> BatchLoss {
    BatchLoss { loss, nll, diverged: false, grad_norm: None }
}

/// Runs `epochs` epochs of these means from `from`.
fn run(
    loss: &Loss,
    epochs: usize,
    means: &[BatchLoss],
    logits: &[f64],
    from: Progress,
    seen: &mut Seen,
) -> (Result<()>, Told) {
    let net = Network::new([1, 1, 1], &[Layer::flatten(), Layer::linear(3)]).unwrap();
    let test = Dataset { labels: vec![0, 2], images: vec![0; 2], ..data() };
    let optimizer = Optimizer::Sgd(Sgd { lr: 0.25, momentum: 0.0, nesterov: false, weight_decay: 0.0 });
    let normalisation = vec![[0.5, 0.25]];
    let setup = Setup {
        seed: 0,
        net: &net,
        batch_size: BATCH,
        loss: loss.clone(),
        optimizer,
        recipe: Default::default(),
        normalisation,
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &data(),
        test: &test,
    };
    let mut told = Told { batch_size: BATCH, means: means.to_vec().into(), logits: logits.to_vec(), asked: vec![] };
    let schedule = Course { epochs, seed: 1, shuffle: false };
    let outcome = train::run(&mut told, &setup, schedule, from, seen);
    (outcome, told)
}

const MEANS: [BatchLoss; 3] = [
    BatchLoss { loss: 2.0, nll: 1.5, diverged: false, grad_norm: None },
    BatchLoss { loss: 3.0, nll: 1.0, diverged: false, grad_norm: None },
    BatchLoss { loss: 5.0, nll: 4.0, diverged: false, grad_norm: None },
];
const LOGITS: [f64; 6] = [2.0, 0.0, 0.0, 0.0, 0.0, 0.0];

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-12, "found {found}, expected {expected}");
}

/// `-a ln a`.
fn term(a: f64) -> f64 {
    -a * a.ln()
}

/// The least of `-sum of a ln p`: at p = a / sum of a.
fn least(masses: [f64; 3]) -> f64 {
    masses.into_iter().map(term).sum::<f64>() - term(masses.iter().sum())
}

/// Catches a batch that counts for more or less than its images' weights, an ignored image that counts, an excess over
/// what is not the targets' entropy, and a step, an order or an epsilon that is off by one.
#[test]
fn an_epoch_is_the_mean_over_its_images() {
    // The batches' weights: classes 0 and 1; 2, 2 and 1; 0.
    let weights = [3.0, 10.0, 1.0];
    let sum = 2.0 * weights[0] + 3.0 * weights[1] + 5.0 * weights[2];
    let nll = (1.5 * 2.0 + 1.0 * 3.0 + 4.0) / 6.0;
    let epsilon = 0.3;
    let third = epsilon / 3.0;
    for weighting in [Weighting::PyTorch, Weighting::Sample] {
        let entropy = |class: usize| {
            let mut q = [third; 3];
            q[class] += 1.0 - epsilon;
            match weighting {
                Weighting::PyTorch => least([q[0], 2.0 * q[1], 4.0 * q[2]]),
                Weighting::Sample => [1.0, 2.0, 4.0][class] * least(q),
            }
        };
        let entropies = 2.0 * entropy(0) + 2.0 * entropy(1) + 2.0 * entropy(2);
        let means = [MEANS, MEANS].concat();
        let mut seen = Seen::default();
        let (outcome, told) = run(&weighted(weighting, epsilon), 2, &means, &LOGITS, Progress::default(), &mut seen);
        outcome.unwrap();
        let order: Vec<u32> = (0..8).collect();
        assert_eq!(told.asked, [(order.clone(), 0), (order, 3)]);
        assert_eq!(seen.steps, [(1, 1, 2.0), (1, 2, 3.0), (1, 3, 5.0), (2, 4, 2.0), (2, 5, 3.0), (2, 6, 5.0)]);
        for (i, report) in seen.epochs.iter().enumerate() {
            assert_eq!((report.epoch, report.step, report.label_smoothing), (i + 1, 3 * (i + 1), epsilon));
            close(report.train_loss, sum / 14.0);
            close(report.train_nll, nll);
            close(report.train_excess_loss, (sum - entropies) / 14.0);
            // The first is right; of the second nothing is known.
            close(report.test.loss, ((1.0 + 2.0 * (-2f64).exp()).ln() + 3f64.ln()) / 2.0);
        }
        assert_eq!(seen.epochs.len(), 2);
    }
}

/// Catches an ignored image whose target has an entropy, in every form of the loss.
#[test]
fn an_ignored_image_has_no_entropy_and_no_weight() {
    let smoothing = Smoothing { variant: Variant::Uniform, epsilon: 0.3 };
    let [on, off] = [0.8, 0.1];
    let smoothed = term(on) + 2.0 * term(off);
    let distillation = Form::from(DistillationLoss::new(3, 2.0, 0.25).unwrap().smoothed(smoothing));
    let masked = Spec { epsilon: Epsilon::new(0.3).unwrap(), allowed: Some(vec![true, false, true]), ..Spec::new(3) };
    let masked = Loss::new(Form::Weighted(WeightedLoss::new(&masked).unwrap()), 0.3);
    let of_two = term(0.85) + term(0.15);
    for (loss, entropies, weights) in [
        (Loss::from(smoothing), [smoothed, smoothed, 0.0, smoothed], [1.0, 1.0, 0.0, 1.0]),
        (Loss::new(distillation, 0.3), [0.75 * smoothed, 0.75 * smoothed, 0.0, 0.75 * smoothed], [1.0, 1.0, 0.0, 1.0]),
        (Loss::new(Form::Comparator(ComparatorLoss::focal(3, 2.0).unwrap()), 0.0), [0.0; 4], [1.0, 1.0, 0.0, 1.0]),
        // Class 1 takes no part.
        (masked, [of_two, 0.0, 0.0, of_two], [1.0, 0.0, 0.0, 1.0]),
        (weighted(Weighting::Sample, 0.3), [smoothed, 2.0 * smoothed, 0.0, 4.0 * smoothed], [1.0, 2.0, 0.0, 4.0]),
    ] {
        for i in 0..4 {
            close(loss.entropy(&data().labels, data().classes, &[i as u32], 1), entropies[i]);
            assert_eq!(
                loss.weights(&data().labels, data().classes, &[i as u32]),
                [weights[i], f64::from(u8::from(weights[i] > 0.0))]
            );
        }
    }
    // Schedules count updates, and so does the entropy.
    let loss = Loss::from(smoothing).scheduled(Schedule::falling(2));
    assert!(
        loss.entropy(&data().labels, data().classes, &[0], 1) > loss.entropy(&data().labels, data().classes, &[0], 2)
    );
    assert_eq!(loss.entropy(&data().labels, data().classes, &[0], 3), 0.0);
}

/// Catches a division by no weight.
#[test]
fn an_epoch_in_which_every_image_is_ignored_is_zero() {
    let masked = Spec { allowed: Some(vec![false, true, true]), ..Spec::new(3) };
    let loss = Loss::new(Form::Weighted(WeightedLoss::new(&masked).unwrap()), 0.0);
    let net = Network::new([1, 1, 1], &[Layer::flatten(), Layer::linear(3)]).unwrap();
    let train = Dataset { labels: vec![0, IGNORED], images: vec![0; 2], ..data() };
    let test = Dataset { labels: vec![1, 2], images: vec![0; 2], ..data() };
    let optimizer = Optimizer::Sgd(Sgd { lr: 0.25, momentum: 0.0, nesterov: false, weight_decay: 0.0 });
    let normalisation = vec![[0.5, 0.25]];
    let setup = Setup {
        seed: 0,
        net: &net,
        batch_size: 2,
        loss,
        optimizer,
        recipe: Default::default(),
        normalisation,
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &train,
        test: &test,
    };
    let mut told = Told { batch_size: 2, means: [mean(0.0, 0.0)].into(), logits: LOGITS.to_vec(), asked: vec![] };
    let mut seen = Seen::default();
    let schedule = Course { epochs: 1, seed: 1, shuffle: false };
    train::run(&mut told, &setup, schedule, Progress::default(), &mut seen).unwrap();
    let report = &seen.epochs[0];
    assert_eq!([report.train_loss, report.train_nll, report.train_excess_loss], [0.0; 3]);
}

/// Catches a run that goes on after its end, or names another step.
#[test]
fn what_is_not_finite_ends_the_run_at_its_step() {
    let loss = weighted(Weighting::Sample, 0.1);
    let broken = BatchLoss { diverged: true, ..mean(2.0, 1.0) };
    for (bad, is_diverged) in [(mean(f64::NAN, 1.0), false), (mean(f64::INFINITY, 1.0), false), (broken, true)] {
        // In the second epoch, as the second step.
        let means = [&MEANS[..], &[MEANS[0], bad, MEANS[2]]].concat();
        let mut seen = Seen::default();
        let (outcome, _) = run(&loss, 2, &means, &LOGITS, Progress::default(), &mut seen);
        match outcome {
            Err(Error::NonFinite { epoch: 2, step: 5, loss, lr: 0.25 }) if !is_diverged => assert!(!loss.is_finite()),
            Err(Error::Diverged { epoch: 2, step: 5, lr: 0.25 }) if is_diverged => {}
            other => panic!("{other:?}"),
        }
        assert_eq!((seen.steps.len(), seen.epochs.len()), (4, 1));
    }
    let mut seen = Seen::default();
    let (outcome, _) = run(&loss, 2, &MEANS, &[f64::NAN; 6], Progress::default(), &mut seen);
    assert!(matches!(outcome, Err(Error::NonFinite { epoch: 1, step: 3, loss, .. }) if loss.is_nan()));
    assert_eq!((seen.steps.len(), seen.epochs.len()), (3, 0));
}

/// Catches a run that loses a step's share when it is stopped within an epoch, or goes on at another image.
#[test]
fn a_run_that_is_stopped_goes_on_where_it_was() {
    let loss = weighted(Weighting::Sample, 0.1);
    let mut seen = Seen { after: Some(1), ..Seen::default() };
    let (outcome, told) = run(&loss, 2, &MEANS, &LOGITS, Progress::default(), &mut seen);
    assert!(matches!(outcome, Err(Error::Interrupted(2))));
    // Two come at a time.
    assert_eq!((seen.steps.len(), told.means.len()), (2, 1));
    let left = seen.left.unwrap();
    assert_eq!((left.epochs, left.steps), (0, 2));
    let Sums { loss: sum, nll, weight, counted, entropy, seconds } = left.sums;
    assert_eq!((sum, nll, weight, counted), (2.0 * 3.0 + 3.0 * 10.0, 1.5 * 2.0 + 1.0 * 3.0, 13.0, 5.0));
    close(entropy, loss.entropy(&data().labels, data().classes, &[0, 1, 2, 3, 4, 5], 1));
    assert!(seconds >= 0.0);

    let mut rest = Seen::default();
    let means = [&MEANS[2..], &MEANS].concat();
    let (outcome, told) = run(&loss, 2, &means, &LOGITS, left, &mut rest);
    outcome.unwrap();
    assert_eq!(told.asked, [(vec![6, 7], 2), ((0..8).collect(), 3)]);
    let mut whole = Seen::default();
    run(&loss, 2, &[MEANS, MEANS].concat(), &LOGITS, Progress::default(), &mut whole).0.unwrap();
    assert_eq!([seen.steps, rest.steps].concat(), whole.steps);
    for (rest, whole) in rest.epochs.iter().zip(&whole.epochs) {
        let numbers = |r: &EpochReport| (r.epoch, r.step, r.train_loss, r.train_nll, r.train_excess_loss);
        assert_eq!(numbers(rest), numbers(whole));
    }

    // Asked before the first step, it takes none; asked after the last, the epoch counts.
    let mut none = Seen { after: Some(0), ..Seen::default() };
    let (outcome, told) = run(&loss, 2, &MEANS, &LOGITS, left, &mut none);
    assert!(matches!(outcome, Err(Error::Interrupted(2))) && told.asked.is_empty());
    assert_eq!(none.left, Some(left));
    let mut last = Seen { after: Some(3), ..Seen::default() };
    assert!(run(&loss, 2, &MEANS, &LOGITS, Progress::default(), &mut last).0.is_err());
    assert_eq!((last.epochs.len(), last.left), (1, Some(Progress { epochs: 1, ..Progress::default() })));
}
