//! Images that are augmented and mixed, and gradients of several batches that are added up, on the device: against the
//! oracle, and in a run that is stopped.

use std::ops::ControlFlow;

use smoothcnn::backend::gpu::trainer::{GpuOptions, GpuTrainer};
use smoothcnn::backend::reference::ReferenceTrainer;
use smoothcnn::backend::{Setup, State, Trainer};
use smoothcnn::check::network::random_data;
use smoothcnn::compile::fuse::Kernels;
use smoothcnn::data::Dataset;
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::loss::{BatchLoss, Loss};
use smoothcnn::network::{Layer, Network};
use smoothcnn::ops::augment::Augment;
use smoothcnn::ops::mix::Mix;
use smoothcnn::optimizer::{Optimizer, Sgd, recipe::Recipe};

use super::{GPU, few_channels};

/// The layers that the fused kernels take, dropout, and what is left.
fn networks() -> [Network; 2] {
    let layers = [Layer::conv2d(4, 3, 1), Layer::relu(), Layer::flatten(), Layer::dropout(0.3), Layer::linear(3)];
    [few_channels([1, 8, 8], 3), Network::new([1, 8, 8], &layers).unwrap()]
}

fn setup<'a>(net: &'a Network, data: &'a Dataset, recipe: Recipe) -> Setup<'a> {
    let loss = Loss::from(Smoothing { variant: Variant::Uniform, epsilon: 0.1 });
    Setup {
        seed: 3,
        net,
        batch_size: 5,
        loss: if recipe.mix.is_none() { loss } else { loss.mixed().unwrap() },
        optimizer: Optimizer::Sgd(Sgd { lr: 0.05, momentum: 0.9, nesterov: false, weight_decay: 0.0 }),
        recipe,
        normalisation: vec![[0.5, 0.25]],
        augment: Augment { shift: 1, flip: true, rotate: 15.0, scale: 0.1, brightness: 0.2, ..Augment::NONE },
        train: data,
        test: data,
    }
}

/// The means of each update of `order`, up to where `most` are told, and the state after them.
fn trained(trainer: &mut dyn Trainer, order: &[u32], updates: u64, most: usize) -> (Vec<BatchLoss>, State) {
    let mut means = vec![];
    let mut tell = |more: &[BatchLoss]| {
        means.extend_from_slice(more);
        Ok(if means.len() >= most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    trainer.train_epoch(order, updates, &mut tell).unwrap();
    (means, trainer.state().unwrap())
}

/// Catches a mixing, an augmentation, a sum or a random number that is not the oracle's, with whole sets and in windows
/// that end within an update.
#[test]
fn every_part_of_an_update_is_the_oracles() {
    let data = random_data(73, [1, 8, 8], 3);
    let order: Vec<u32> = (0..73).rev().collect();
    let clip_grad_norm = Some(0.5);
    let mix = Mix { mixup: 0.8, cutmix: 1.0 };
    let recipes = [
        Recipe { mix, ..Recipe::default() },
        Recipe { accumulate: 4, ..Recipe::default() },
        Recipe { mix, accumulate: 3, clip_grad_norm, ema: Some(0.9), ..Recipe::default() },
    ];
    for net in &networks() {
        let params = net.initial_parameters(1);
        for recipe in recipes {
            let setup = setup(net, &data, recipe);
            let (expected, state) = trained(&mut ReferenceTrainer::<f64>::new(setup.clone(), &params), &order, 7, 99);
            assert_eq!(expected.len(), 73usize.div_ceil(5 * recipe.accumulate));
            for (kernels, max_data_bytes) in
                [(Kernels::Fused, u64::MAX), (Kernels::Fused, 20 * 64), (Kernels::Reference, u64::MAX)]
            {
                let options = GpuOptions { kernels, max_data_bytes, ..GpuOptions::default() };
                let mut trainer = GpuTrainer::with_options(&GPU, setup.clone(), &params, options).unwrap();
                let (means, found) = trained(&mut trainer, &order, 7, 99);
                assert_eq!(means.len(), expected.len());
                for (found, expected) in means.iter().zip(&expected) {
                    assert!((found.loss - expected.loss).abs() < 2e-4, "{recipe:?}: {found:?}, {expected:?}");
                    assert!((found.nll - expected.nll).abs() < 2e-4, "{recipe:?}: {found:?}, {expected:?}");
                    assert_eq!(found.grad_norm.is_some(), expected.grad_norm.is_some());
                    let norms = [found, expected].map(|means| means.grad_norm.unwrap_or(0.0));
                    assert!((norms[0] - norms[1]).abs() < 1e-3, "{recipe:?}: {norms:?}");
                }
                for (found, expected) in
                    [(&found.params, &state.params)].into_iter().chain(found.averages.iter().zip(&state.averages))
                {
                    let far = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                    assert!(far < 5e-4, "{recipe:?}, {kernels:?}, {max_data_bytes}: {far}");
                }
            }
        }
    }
}

/// Catches a stop within an update, and an epoch that goes on at another image or with other random numbers.
#[test]
fn a_stop_is_between_updates() {
    let data = random_data(1003, [1, 8, 8], 3);
    let order: Vec<u32> = (0..1003).collect();
    let recipe = Recipe { mix: Mix { mixup: 0.5, cutmix: 0.5 }, accumulate: 3, ..Recipe::default() };
    for net in &networks() {
        let params = net.initial_parameters(1);
        let setup = setup(net, &data, recipe);
        // Each window is a submission; updates go on from one to the next.
        for max_data_bytes in [20 * 64, 35 * 64] {
            let new = || {
                let options = GpuOptions { max_data_bytes, ..GpuOptions::default() };
                GpuTrainer::with_options(&GPU, setup.clone(), &params, options).unwrap()
            };
            let (whole, expected) = trained(&mut new(), &order, 0, 999);
            assert_eq!(whole.len(), 67);
            let (mut means, state) = trained(&mut new(), &order, 0, 1);
            assert!(means.len() < 67, "{}", means.len());
            let mut trainer = new();
            trainer.set_state(&state);
            let (rest, found) = trained(&mut trainer, &order[means.len() * 15..], means.len() as u64, 999);
            means.extend(rest);
            assert!(means == whole && found == expected, "{max_data_bytes}");
        }
    }
}
