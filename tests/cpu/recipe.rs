//! What a recipe does beside the plain update, on the fast CPU path and in the plain form.

use smoothcnn::backend::cpu::CpuTrainer;
use smoothcnn::backend::reference::ReferenceTrainer;
use smoothcnn::backend::{Setup, State, Trainer};
use smoothcnn::check::network::random_data;
use smoothcnn::data::Dataset;
use smoothcnn::loss::BatchLoss;
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::network::Network;
use smoothcnn::ops::augment::Augment;
use smoothcnn::optimizer::{Adam, Optimizer, Sgd, recipe::Recipe};

const BATCH: usize = 4;

fn network() -> Network {
    Network::seed([1, 8, 8], 3).unwrap()
}

fn data(images: usize) -> Dataset {
    random_data(images, [1, 8, 8], 3)
}

fn setup<'a>(net: &'a Network, data: &'a Dataset, optimizer: Optimizer, recipe: Recipe) -> Setup<'a> {
    let (loss, normalisation, augment) = (Smoothing::NONE.into(), vec![[0.5, 0.25]], Augment::NONE);
    Setup { seed: 0, net, batch_size: BATCH, loss, optimizer, recipe, normalisation, augment, train: data, test: data }
}

/// The means of each step of an epoch in the data's order, and the state after it, on the plain form and on the fast
/// path.
fn trained(setup: &Setup) -> [(Vec<BatchLoss>, State); 2] {
    let params = setup.net.initial_parameters(1);
    let plain: Box<dyn Trainer> = Box::new(ReferenceTrainer::<f64>::new(setup.clone(), &params));
    let fast: Box<dyn Trainer> = Box::new(CpuTrainer::<f64>::new(setup.clone(), &params));
    [plain, fast].map(|mut trainer| {
        let order: Vec<u32> = (0..setup.train.len() as u32).collect();
        let mut means = vec![];
        let mut tell = |more: &[BatchLoss]| {
            means.extend_from_slice(more);
            Ok(std::ops::ControlFlow::Continue(()))
        };
        trainer.train_epoch(&order, 0, &mut tell).unwrap();
        (means, trainer.state().unwrap())
    })
}

/// A parameter's values.
fn values<'a>(net: &Network, state: &'a State, name: &str) -> &'a [f64] {
    let parameter = net.parameters.iter().find(|p| p.name == name).unwrap();
    &state.params[parameter.range()]
}

/// Catches a norm that is not the gradient's, a factor that is not PyTorch's, and what is too short and changes.
#[test]
fn a_gradient_is_made_no_longer_than_asked() {
    let (net, data) = (network(), data(2 * BATCH + 1));
    let optimizer = Optimizer::Sgd(Sgd { lr: 0.5, momentum: 0.0, nesterov: false, weight_decay: 0.0 });
    let clipped = |most: f64| Recipe { clip_grad_norm: Some(most), ..Recipe::default() };
    let (first, all) = (data.subset(&[0, 1, 2, 3]), &data);
    let start: Vec<f64> = net.initial_parameters(1).into_iter().map(f64::from).collect();
    let moved = |state: &State| state.params.iter().zip(&start).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let plain = trained(&setup(&net, &first, optimizer, Recipe::default()));
    let short = trained(&setup(&net, &first, optimizer, clipped(0.1)));
    for ((plain_means, plain), (means, short)) in plain.iter().zip(&short) {
        let norm = moved(plain) / 0.5;
        assert_eq!(plain_means[0].grad_norm, None);
        assert!((means[0].grad_norm.unwrap() - norm).abs() < 1e-12 * norm, "{means:?}, {norm}");
        let expected = 0.5 * norm * (0.1 / (norm + 1e-6));
        assert!(norm > 0.1 && (moved(short) - expected).abs() < 1e-12, "{}, {expected}", moved(short));
    }
    // With momentum, over several steps, both paths.
    let optimizer = Optimizer::Sgd(Sgd { lr: 0.5, momentum: 0.9, nesterov: false, weight_decay: 0.01 });
    let [plain, fast] = trained(&setup(&net, all, optimizer, clipped(0.3)));
    let furthest = plain.1.params.iter().zip(&fast.1.params).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(furthest < 1e-12, "{furthest}");
    let long = trained(&setup(&net, all, optimizer, clipped(1e9)));
    let without = trained(&setup(&net, all, optimizer, Recipe::default()));
    assert!(long.iter().zip(&without).all(|(long, without)| long.1 == without.1));
}

/// Catches weight decay of what is spared, none of what is not, and parameters that lose their values with their place:
/// after a step weights are as with decay of everything, and biases as without any.
#[test]
fn weight_decay_reaches_what_is_not_spared() {
    let data = data(BATCH);
    let adam = |weight_decay| Adam { lr: 0.01, weight_decay, ..Adam::default() };
    let optimizer = |which: usize, weight_decay: f64| match which {
        0 => Optimizer::Adam(adam(weight_decay)),
        1 => Optimizer::AdamW(adam(weight_decay)),
        _ => Optimizer::Sgd(Sgd { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay }),
    };
    for which in 0..3 {
        let all = network();
        let spared = network().sparing(|p| p.name.ends_with(".bias"));
        let of = |net, weight_decay| trained(&setup(net, &data, optimizer(which, weight_decay), Recipe::default()));
        let (with, without, found) = (of(&all, 0.3), of(&all, 0.0), of(&spared, 0.3));
        for ((with, without), found) in with.iter().zip(&without).zip(&found) {
            for p in &all.parameters {
                let expected = if p.name.ends_with(".bias") { &without.1 } else { &with.1 };
                assert_eq!(values(&spared, &found.1, &p.name), values(&all, expected, &p.name), "{}", p.name);
                assert_ne!(values(&all, &with.1, &p.name), values(&all, &without.1, &p.name), "{}", p.name);
            }
        }
    }
}
