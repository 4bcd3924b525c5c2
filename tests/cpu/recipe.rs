//! What a recipe does beside the plain update, on the fast CPU path and in the plain form.

use smoothcnn::backend::cpu::CpuTrainer;
use smoothcnn::backend::reference::ReferenceTrainer;
use smoothcnn::backend::{Setup, State, Trainer};
use smoothcnn::check::network::random_data;
use smoothcnn::data::Dataset;
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::loss::{BatchLoss, Loss};
use smoothcnn::network::{Layer, Network};
use smoothcnn::ops::augment::Augment;
use smoothcnn::ops::mix::{Mix, Mixed};
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
        2 => Optimizer::Muon(adam(weight_decay)),
        _ => Optimizer::Sgd(Sgd { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay }),
    };
    for which in 0..4 {
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

/// Catches a mixing that only one path has, a share that is not the batch's, and an image in the middle that is mixed:
/// every step is that of the same images, mixed by hand, with both losses.
#[test]
fn images_and_losses_are_mixed() {
    let (net, data) = (network(), data(2 * BATCH + 3));
    let optimizer = Optimizer::Sgd(Sgd { lr: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0 });
    let smoothing = Smoothing { epsilon: 0.2, ..Smoothing::NONE };
    for mix in [Mix { mixup: 0.4, cutmix: 0.0 }, Mix { mixup: 0.0, cutmix: 1.0 }, Mix { mixup: 1.0, cutmix: 1.0 }] {
        let recipe = Recipe { mix, ..Recipe::default() };
        let loss = Loss::from(smoothing).mixed().unwrap();
        let of = Setup { loss, ..setup(&net, &data, optimizer, recipe) };
        let [plain, fast] = trained(&of);
        assert_eq!(plain.0.len(), 3);
        for (plain, fast) in plain.0.iter().zip(&fast.0) {
            assert!((plain.loss - fast.loss).abs() < 1e-12 && (plain.nll - fast.nll).abs() < 1e-12);
        }
        let furthest = plain.1.params.iter().zip(&fast.1.params).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(furthest < 1e-12, "{furthest}");
        let without = trained(&setup(&net, &data, optimizer, Recipe::default()));
        assert!(plain.1.params != without[0].1.params);
        // The first batch by hand, with weights that nothing changed yet.
        let mixed = mix.draw(0, 1, 0, data.shape);
        assert_ne!(mixed, Mixed::NONE);
        let pixel = |i: usize, p: usize| (f64::from(data.images[i * 64 + p]) / 255.0 - 0.5) / 0.25;
        let of_image = |i: usize| {
            let inside = |p: usize| {
                (mixed.rows[0]..mixed.rows[1]).contains(&(p / 8))
                    && (mixed.columns[0]..mixed.columns[1]).contains(&(p % 8))
            };
            let own = |p: usize| if inside(p) { 0.0 } else { mixed.pixels };
            (0..64).map(move |p| own(p) * pixel(i, p) + (1.0 - own(p)) * pixel(3 - i, p)).collect::<Vec<f64>>()
        };
        let params = net.initial_parameters(1).into_iter().map(f64::from).collect();
        let mut network = smoothcnn::backend::reference::ReferenceNetwork::<f64>::new(&net, params);
        network.batch(BATCH).copy_from_slice(&(0..BATCH).flat_map(of_image).collect::<Vec<f64>>());
        let logits = network.forward(smoothcnn::layer::Mode::Training).to_vec();
        let expected: f64 = logits
            .chunks(3)
            .enumerate()
            .map(|(i, row)| {
                let total = row.iter().map(|x| x.exp()).sum::<f64>().ln();
                let mass = |c: usize, i: usize| if data.labels[i] as usize == c { 0.8 + 0.2 / 3.0 } else { 0.2 / 3.0 };
                let q = |c: usize| mixed.share * mass(c, i) + (1.0 - mixed.share) * mass(c, 3 - i);
                (0..3).map(|c| q(c) * (total - row[c])).sum::<f64>()
            })
            .sum::<f64>()
            / BATCH as f64;
        assert!((plain.0[0].loss - expected).abs() < 1e-12, "{}, {expected}", plain.0[0].loss);
        // A loss of one label is refused.
        let wrong = Setup { loss: smoothing.into(), ..of };
        let mut trainer = CpuTrainer::<f64>::new(wrong, &net.initial_parameters(1));
        let error = trainer.train_epoch(&[0, 1], 0, &mut |_| Ok(std::ops::ControlFlow::Continue(()))).unwrap_err();
        assert!(error.to_string().contains("Loss::mixed"), "{error}");
    }
}

/// The furthest that two states' parameters are from each other.
fn furthest(one: &State, other: &State) -> f64 {
    one.params.iter().zip(&other.params).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Catches a divisor that is a batch's, a sum that is not begun anew, an update that is counted with each batch, a last
/// one that is left out or divided by what is not there, and random numbers that repeat in each batch: with dropout and
/// augmented images, on both paths, an update over batches is that over the larger batch.
#[test]
fn batches_that_are_added_up_are_a_larger_batch() {
    let layers = [Layer::conv2d(4, 3, 1), Layer::relu(), Layer::flatten(), Layer::dropout(0.3), Layer::linear(3)];
    let net = Network::new([1, 8, 8], &layers).unwrap();
    let optimizer = Optimizer::Adam(Adam { lr: 0.01, ..Adam::default() });
    let augment = Augment { shift: 1, flip: true, rotate: 20.0, contrast: 0.3, ..Augment::NONE };
    // The last update has three batches and a half, or one and a quarter.
    for (images, accumulate) in [(3 * BATCH * 4 - 2, 4), (2 * BATCH * 3 + 5, 3)] {
        let mut data = data(images);
        // Those that are ignored are in some batches only.
        data.labels[1..4].fill(u32::MAX);
        let clipped = Recipe { clip_grad_norm: Some(0.3), ema: Some(0.5), ..Recipe::default() };
        let of = |batch_size, accumulate| {
            let recipe = Recipe { accumulate, ..clipped };
            trained(&Setup { batch_size, augment, ..setup(&net, &data, optimizer, recipe) })
        };
        let (parts, whole) = (of(BATCH, accumulate), of(BATCH * accumulate, 1));
        for ((parts, whole), path) in parts.iter().zip(&whole).zip(["plain", "fast"]) {
            assert_eq!(parts.0.len(), images.div_ceil(BATCH * accumulate), "{path}");
            for (parts, whole) in parts.0.iter().zip(&whole.0) {
                assert!((parts.loss - whole.loss).abs() < 1e-12, "{path}: {parts:?}, {whole:?}");
                assert!((parts.nll - whole.nll).abs() < 1e-12, "{path}: {parts:?}, {whole:?}");
                let norms = [parts, whole].map(|means| means.grad_norm.unwrap());
                assert!((norms[0] - norms[1]).abs() < 1e-10, "{path}: {norms:?}");
            }
            let far = furthest(&parts.1, &whole.1);
            assert!(far < 1e-9, "{path}: {far}");
        }
        let small = of(BATCH, 1);
        assert!(furthest(&small[0].1, &whole[0].1) > 1e-4);
    }
}

/// Where images are mixed as well, each batch has its own share and its own pairs, and both paths the same.
#[test]
fn mixed_batches_that_are_added_up() {
    let (net, data) = (network(), data(5 * BATCH - 1));
    let optimizer = Optimizer::Sgd(Sgd { lr: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0 });
    let mix = Mix { mixup: 0.8, cutmix: 1.0 };
    let recipe = Recipe { mix, accumulate: 2, ..Recipe::default() };
    let loss = || Loss::from(Smoothing { epsilon: 0.1, ..Smoothing::NONE }).mixed().unwrap();
    let both = Setup { loss: loss(), ..setup(&net, &data, optimizer, recipe) };
    let parts: Vec<_> = both.parts(data.len()).collect();
    let told: Vec<_> = parts.iter().map(|part| (part.images.clone(), part.update.clone(), part.which)).collect();
    let expected = [(0..4, 0..8, 0), (4..8, 0..8, 1), (8..12, 8..16, 0), (12..16, 8..16, 1), (16..19, 16..19, 0)];
    assert_eq!(told, expected);
    let [plain, fast] = trained(&both);
    assert_eq!(plain.0.len(), 3);
    assert!(furthest(&plain.1, &fast.1) < 1e-12);
    // The first update's loss is that of its two batches, each mixed as it is.
    let params = net.initial_parameters(1);
    let mut sum = 0.0;
    for which in 0..2 {
        let part = data.subset(&[0, 1, 2, 3].map(|i| i + 4 * which));
        let mixed = mix.draw(0, 1, which as usize, data.shape);
        let mut network = smoothcnn::backend::reference::ReferenceNetwork::<f64>::new(
            &net,
            params.iter().map(|&p| p.into()).collect(),
        );
        let mut images: Vec<f64> = part.images.iter().map(|&v| (f64::from(v) / 255.0 - 0.5) / 0.25).collect();
        mixed.apply(smoothcnn::layer::ImageLayout::planes(data.shape), &mut images);
        network.batch(BATCH).copy_from_slice(&images);
        let others: Vec<u32> = part.labels.iter().rev().copied().collect();
        let batch =
            smoothcnn::loss::Batch { others: &others, share: mixed.share, ..smoothcnn::loss::Batch::new(&part.labels) };
        sum += 0.5 * network.loss_and_gradient(loss().form(), batch);
    }
    assert!((plain.0[0].loss - sum).abs() < 1e-12, "{}, {sum}", plain.0[0].loss);
}
