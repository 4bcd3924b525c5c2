//! The same seed on the same device gives the same bits; where the data lies and how steps are grouped changes nothing.

use std::ops::ControlFlow;

use smoothcnn::backend::gpu::trainer::{GpuOptions, GpuTrainer};
use smoothcnn::backend::{Setup, State, Trainer};
use smoothcnn::check::losses::losses;
use smoothcnn::check::network::random_data;
use smoothcnn::compile::fuse::Kernels;
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::loss::{BatchLoss, Loss};
use smoothcnn::network::Network;
use smoothcnn::optimizer::{Adam, Optimizer};
use smoothcnn::plan::Storage;
use smoothcnn::plan::tuning::{Tiles, Tuning};
use smoothcnn::train::Course;

use super::GPU;
use super::skip::skipped;

const SCHEDULE: Course = Course { epochs: 2, seed: 5, shuffle: true };

/// Two epochs over 23 images in batches of 5; what is left of the device after `interrupt` epochs goes to a new one.
fn train_with(
    loss: Loss,
    activations: Storage,
    max_data_bytes: u64,
    interrupt: Option<usize>,
) -> (State, Vec<BatchLoss>, Vec<f64>) {
    let net = Network::seed([1, 8, 8], 4).unwrap();
    let (train, test) = (random_data(23, net.input, 4), random_data(9, net.input, 4));
    let setup = Setup {
        seed: 0,
        net: &net,
        batch_size: 5,
        loss,
        optimizer: Optimizer::Adam(Adam::default()),
        recipe: Default::default(),
        normalisation: vec![[0.5, 0.25]],
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &train,
        test: &test,
    };
    let new = || {
        let params = net.initial_parameters(SCHEDULE.seed);
        let options = GpuOptions { max_data_bytes, activations, ..GpuOptions::default() };
        GpuTrainer::with_options(&GPU, setup.clone(), &params, options).unwrap()
    };
    let mut trainer = new();
    let mut losses = vec![];
    for epoch in 1..=SCHEDULE.epochs {
        let updates = (epoch as u64 - 1) * 5;
        trainer
            .train_epoch(&SCHEDULE.order(epoch, 23), updates, &mut |some| {
                losses.extend_from_slice(some);
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        if interrupt == Some(epoch) {
            let state = trainer.state().unwrap();
            trainer = new();
            trainer.set_state(&state);
        }
    }
    (trainer.state().unwrap(), losses, trainer.test_logits().unwrap())
}

fn train(max_data_bytes: u64, interrupt: Option<usize>) -> (State, Vec<BatchLoss>, Vec<f64>) {
    train_storing(Storage::F32, max_data_bytes, interrupt)
}

fn train_storing(
    activations: Storage,
    max_data_bytes: u64,
    interrupt: Option<usize>,
) -> (State, Vec<BatchLoss>, Vec<f64>) {
    let loss = Smoothing { variant: Variant::Uniform, epsilon: 0.1 }.into();
    train_with(loss, activations, max_data_bytes, interrupt)
}

#[test]
fn two_runs_give_the_same_bits() {
    assert_eq!(train(u64::MAX, None), train(u64::MAX, None));
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    assert_eq!(train(u64::MAX, None), train(u64::MAX, Some(1)));
}

/// A window of two batches moves over the training set, and of one over the test set.
#[test]
fn a_streamed_data_set_gives_the_same_bits_as_one_on_the_device() {
    assert_eq!(train(u64::MAX, None), train(10 * 64, None));
    assert_eq!(train(u64::MAX, None), train(1, None));
}

/// Every dispatch in as many pieces as it has workgroups, or in a few: a watchdog's limit must change nothing.
#[test]
fn a_dispatch_that_is_cut_gives_the_same_bits() {
    let net = Network::seed([1, 12, 12], 4).unwrap();
    let (train, test) = (random_data(23, net.input, 4), random_data(9, net.input, 4));
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
    let trained = |options: GpuOptions| {
        let params = net.initial_parameters(SCHEDULE.seed);
        let mut trainer = GpuTrainer::with_options(&GPU, setup.clone(), &params, options).unwrap();
        let mut losses = vec![];
        let mut keep = |some: &[BatchLoss]| {
            losses.extend_from_slice(some);
            Ok(ControlFlow::Continue(()))
        };
        trainer.train_epoch(&SCHEDULE.order(1, 23), 0, &mut keep).unwrap();
        let launches = trainer.engine().launches(trainer.compiled().train.clone());
        (trainer.state().unwrap(), losses, trainer.test_logits().unwrap(), launches)
    };
    let forms = Tiles::ALL.into_iter().filter(|&tiles| GPU.runs(tiles));
    let forms = forms.map(|tiles| (Kernels::Fused, Some(Tuning::all(tiles))));
    for (kernels, tuning) in forms.chain([(Kernels::Reference, None)]) {
        let options = |piece_work| GpuOptions { kernels, tuning, piece_work, ..GpuOptions::default() };
        let whole = trained(options(u64::MAX));
        for most in [1, 200_000] {
            let cut = trained(options(most));
            assert!(cut.3 > whole.3, "{kernels:?} {tuning:?}: nothing was cut: {} launches", cut.3);
            assert!((&cut.0, &cut.1, &cut.2) == (&whole.0, &whole.1, &whole.2), "{kernels:?} {tuning:?}, {most}");
        }
    }
}

/// The same of activations in halves, which are other bits.
#[test]
fn neither_repeating_nor_resuming_nor_streaming_changes_a_bit_of_halves() {
    if !GPU.stores(Storage::F16) {
        return skipped("this device packs no halves");
    }
    let whole = train_storing(Storage::F16, u64::MAX, None);
    assert_eq!(whole, train_storing(Storage::F16, u64::MAX, None));
    assert_eq!(whole, train_storing(Storage::F16, u64::MAX, Some(1)));
    assert_eq!(whole, train_storing(Storage::F16, 10 * 64, None));
    assert_ne!(whole, train(u64::MAX, None));
}

/// The same of every form of the loss: an epsilon that changes from step to step, and what the loss has for each image.
#[test]
fn neither_resuming_nor_streaming_changes_a_bit_of_any_loss() {
    for (name, loss) in losses(4, 23).unwrap() {
        let whole = train_with(loss.clone(), Storage::F32, u64::MAX, None);
        assert!(whole.1.iter().all(|means| means.loss.is_finite() && means.nll.is_finite()), "{name}: {:?}", whole.1);
        assert!(whole == train_with(loss.clone(), Storage::F32, u64::MAX, Some(1)), "{name}, resumed");
        assert!(whole == train_with(loss, Storage::F32, 10 * 64, None), "{name}, streamed");
    }
}
