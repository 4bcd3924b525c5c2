//! Whole networks against the f64 oracle.

use std::ops::ControlFlow;

use smoothcnn::backend::cpu::{CpuNetwork, CpuTrainer};
use smoothcnn::backend::host::HostNetwork;
use smoothcnn::backend::reference::{ReferenceNetwork, ReferenceTrainer};
use smoothcnn::backend::{Setup, State, Trainer};
use smoothcnn::check::losses::losses;
use smoothcnn::check::network::{against_oracle, images, random_data};
use smoothcnn::check::{random, random_targets};
use smoothcnn::layer::{Element, Mode};
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::loss::{Batch, Form, Loss};
use smoothcnn::network::{Layer, Network};
use smoothcnn::ops::{conv2d, max_pool2d};
use smoothcnn::optimizer::{Adam, Optimizer, Sgd, muon};

const SMOOTHING: Smoothing = Smoothing { variant: Variant::Uniform, epsilon: 0.1 };

/// The seed network, and stacks in which every kind of node follows every other.
fn networks() -> Vec<Network> {
    let (relu, flatten) = (Layer::relu, Layer::flatten);
    let conv = |out_channels, kernel_size, stride, padding| {
        Layer::new(conv2d::Settings { out_channels, kernel_size, stride, padding, ..conv2d::Settings::square(1, 1, 0) })
    };
    let pool = |kernel_size, stride| Layer::new(max_pool2d::Settings { kernel_size, stride, padding: [0; 2] });
    let stacks: [([usize; 3], Vec<Layer>); 8] = [
        // Odd sizes: both poolings drop a row and a column.
        (
            [2, 15, 13],
            vec![
                conv(5, [5, 3], [1, 1], [2, 1]),
                relu(),
                pool([2, 2], [2, 2]),
                conv(17, [3, 3], [1, 1], [1, 1]),
                relu(),
            ]
            .into_iter()
            .chain([pool([2, 2], [2, 2]), flatten(), Layer::linear(11), relu(), Layer::linear(5)])
            .collect(),
        ),
        // A pooling whose windows overlap stands alone between two stages.
        (
            [3, 12, 11],
            vec![
                conv(7, [3, 3], [1, 1], [1, 1]),
                relu(),
                pool([3, 3], [2, 2]),
                conv(19, [1, 1], [1, 1], [0, 0]),
                relu(),
            ]
            .into_iter()
            .chain([pool([2, 2], [2, 2]), flatten(), Layer::linear(3)])
            .collect(),
        ),
        // No pooling, no ReLU, a stride; the ReLU after the pooling.
        (
            [1, 17, 14],
            vec![conv(3, [3, 3], [2, 1], [0, 1]), conv(33, [2, 2], [1, 1], [0, 0]), pool([2, 3], [2, 3]), relu()]
                .into_iter()
                .chain([flatten(), Layer::linear(4)])
                .collect(),
        ),
        // Layers below the first parameters; a ReLU and a pooling that no convolution takes.
        ([2, 9, 8], vec![relu(), pool([2, 2], [1, 1]), conv(3, [3, 3], [1, 1], [1, 1]), flatten(), Layer::linear(2)]),
        ([1, 8, 8], vec![flatten(), Layer::linear(9), relu(), Layer::linear(3)]),
        // So many inputs that the sum over them is split: 9373, in parts of 1024.
        ([1, 91, 103], vec![flatten(), Layer::linear(6), relu(), Layer::linear(3)]),
        // Two ReLUs, two poolings in a row.
        (
            [1, 16, 16],
            vec![conv(4, [3, 3], [1, 1], [1, 1]), relu(), relu(), pool([2, 2], [2, 2]), pool([2, 2], [2, 2]), relu()]
                .into_iter()
                .chain([flatten(), Layer::linear(3)])
                .collect(),
        ),
        // A stage that ends in one pixel of one channel.
        ([1, 4, 4], vec![conv(1, [3, 3], [1, 1], [0, 0]), relu(), pool([2, 2], [2, 2]), flatten(), Layer::linear(2)]),
    ];
    let mut networks = vec![Network::seed([1, 28, 28], 10).unwrap()];
    networks.extend(stacks.iter().map(|(input, layers)| Network::new(*input, layers).unwrap()));
    networks
}

/// What a training run came to.
#[derive(Debug, PartialEq)]
struct Run {
    /// Loss and nll of each step.
    losses: Vec<f64>,
    state: State,
    logits: Vec<f64>,
}

/// Makes a trainer of one path and precision.
type Make = for<'s> fn(Setup<'s>, &[f32]) -> Box<dyn Trainer + 's>;

fn fast<'s, T: Element>(setup: Setup<'s>, params: &[f32]) -> Box<dyn Trainer + 's> {
    Box::new(CpuTrainer::<T>::new(setup, params))
}

fn plain<'s>(setup: Setup<'s>, params: &[f32]) -> Box<dyn Trainer + 's> {
    Box::new(ReferenceTrainer::<f64>::new(setup, params))
}

/// `steps` steps, the last with a smaller batch, and then a test, whose last batch is one image.
fn train(net: &Network, optimizer: Optimizer, batch_size: usize, steps: usize, make: Make) -> Run {
    train_with(SMOOTHING.into(), net, optimizer, [batch_size, steps], make)
}

fn train_with(loss: Loss, net: &Network, optimizer: Optimizer, [batch_size, steps]: [usize; 2], make: Make) -> Run {
    let images = images(batch_size, steps);
    let train = random_data(images, net.input, net.classes);
    let test = random_data(batch_size + 1, net.input, net.classes);
    let normalisation = vec![[0.4, 0.25]; net.input[0]];
    let setup = Setup {
        net,
        seed: 0,
        batch_size,
        loss,
        optimizer,
        recipe: Default::default(),
        normalisation,
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &train,
        test: &test,
    };
    let mut backend = make(setup, &net.initial_parameters(1));
    let order: Vec<u32> = (0..images as u32).rev().collect();
    let mut losses = vec![];
    backend
        .train_epoch(&order, 0, &mut |some| {
            losses.extend(some.iter().flat_map(|means| [means.loss, means.nll]));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    Run { losses, logits: backend.test_logits().unwrap(), state: backend.state().unwrap() }
}

fn optimizers() -> [Optimizer; 4] {
    [
        Optimizer::Adam(Adam { weight_decay: 1e-2, ..Adam::default() }),
        Optimizer::AdamW(Adam { weight_decay: 1e-2, ..Adam::default() }),
        Optimizer::Muon(Adam { weight_decay: 1e-2, ..muon::settings() }),
        Optimizer::Sgd(Sgd { lr: 0.05, momentum: 0.9, nesterov: true, weight_decay: 1e-3 }),
    ]
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

fn norm(a: &[f64]) -> f64 {
    a.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// In f64 both paths do the same arithmetic in another order: a gradient that is left out anywhere, a weight that is
/// packed before its update, or numbers left from a larger batch would show after a few steps.
#[test]
fn twenty_steps_in_f64_are_the_oracles() {
    for net in networks() {
        for optimizer in optimizers() {
            let large = net.parameter_count() > 100_000;
            let (batch_size, steps) = if large { (3, 5) } else { (5, 20) };
            let want = train(&net, optimizer, batch_size, steps, plain);
            let got = train(&net, optimizer, batch_size, steps, fast::<f64>);
            // Not element by element: Adam divides a gradient by its own size, whatever it is.
            for (what, got, want) in [
                ("losses", &got.losses, &want.losses),
                ("logits", &got.logits, &want.logits),
                ("params", &got.state.params, &want.state.params),
                ("slots", &got.state.slots.concat(), &want.state.slots.concat()),
            ] {
                assert_eq!(got.len(), want.len());
                let error = distance(got, want) / norm(want).max(f64::MIN_POSITIVE);
                assert!(error <= 1e-10, "{what} off by {error:e} with {optimizer:?}: {:?}", net.layers);
            }
        }
    }
}

/// In f32 the rounding of 20 steps must not carry the weights away from the oracle's, measured by how far those moved.
#[test]
fn twenty_steps_in_f32_stay_by_the_oracle() {
    for net in networks() {
        let steps = if net.parameter_count() > 100_000 { 5 } else { 20 };
        let want = train(&net, Optimizer::Adam(Adam::default()), 7, steps, plain);
        let got = train(&net, Optimizer::Adam(Adam::default()), 7, steps, fast::<f32>);
        for (got, want) in got.losses.iter().zip(&want.losses) {
            assert!((got - want).abs() <= 2e-4, "{got} against {want}: {:?}", net.layers);
        }
        let start: Vec<f64> = net.initial_parameters(1).iter().map(|&p| p.into()).collect();
        let drift = distance(&got.state.params, &want.state.params) / distance(&want.state.params, &start);
        assert!(drift <= 0.02, "{drift}: {:?}", net.layers);
    }
}

/// Every form of the loss, a third of the images and one whole batch ignored: in f32 by the oracle as the GPU is; in
/// f64, and with other numbers of threads, to the last digits.
#[test]
fn four_steps_of_every_loss() {
    let layers = [
        Layer::conv2d(8, 3, 1),
        Layer::relu(),
        Layer::max_pool2d(2),
        Layer::flatten(),
        Layer::linear(32),
        Layer::relu(),
        Layer::linear(10),
    ];
    let net = Network::new([1, 12, 12], &layers).unwrap();
    for (name, loss) in losses(net.classes, images(35, 4)).unwrap() {
        let rows = against_oracle("cpu", &net, loss.clone(), [35, 4], |setup, params| Ok(fast::<f32>(setup, params)));
        for row in rows.unwrap() {
            assert!(row.failure.is_none(), "{name}: {row:?}");
        }
        let adam = Optimizer::Adam(Adam::default());
        let run = |make: Make| train_with(loss.clone(), &net, adam, [35, 4], make);
        let (want, got) = (run(plain), run(fast::<f64>));
        for (got, want) in [(&got.losses, &want.losses), (&got.state.params, &want.state.params)] {
            assert!(distance(got, want) <= 1e-10 * norm(want), "{name}");
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert!(pool.install(|| run(fast::<f64>)) == got, "{name}: the number of threads matters");
    }
}

/// Catches a check that finds fault with rounding: a bias before a batch norm has no gradient but that. And one that
/// finds no fault with weights that went the wrong way, where a bias of that kind is among them.
#[test]
fn a_bias_before_a_batch_norm_is_no_fault() {
    let layers = [
        Layer::conv2d(32, 3, 1),
        Layer::batch_norm2d(),
        Layer::relu(),
        Layer::max_pool2d(2),
        Layer::flatten(),
        Layer::linear(10),
    ];
    let net = Network::new([3, 8, 8], &layers).unwrap();
    let check = |lr: f64| {
        let rows = against_oracle("cpu", &net, SMOOTHING, [16, 2], |setup, params| {
            let Optimizer::Adam(adam) = setup.optimizer else { unreachable!("the check's optimizer") };
            let optimizer = Optimizer::Adam(Adam { lr, ..adam });
            Ok(fast::<f32>(Setup { optimizer, ..setup }, params))
        });
        rows.unwrap().into_iter().filter(|row| row.failure.is_some()).map(|row| row.pass).collect::<Vec<_>>()
    };
    assert_eq!(check(1e-3), [""; 0]);
    assert!(check(1.03e-3).iter().any(|pass| pass.ends_with("drift")));
}

/// A batch of one, a batch that fills its chunks unevenly, and one with more chunks than images in each: the logits and
/// every parameter's gradient.
#[test]
fn gradients_are_the_oracles_for_every_batch_size() {
    for net in networks() {
        let params: Vec<f64> = net.initial_parameters(3).iter().map(|&p| p.into()).collect();
        let mut got = CpuNetwork::new(&net, params.clone());
        let mut want = ReferenceNetwork::new(&net, params);
        // One network for all sizes: what a larger batch left behind must not matter.
        for n in [9, 1, 4, 270, 2] {
            if n > 100 && net.parameter_count() > 100_000 {
                continue;
            }
            let images: Vec<f64> =
                random(n * net.input.iter().product::<usize>(), n as u64).iter().map(|&v| v.into()).collect();
            let targets = random_targets(n, net.classes, n as u64);
            let (form, batch) = (Form::Smoothed(SMOOTHING), Batch::new(&targets));
            got.set_batch(&images);
            want.batch(n).copy_from_slice(&images);
            let losses = [got.loss_and_gradient(&form, batch), want.loss_and_gradient(&form, batch)];
            assert!((losses[0] - losses[1]).abs() <= 1e-12, "{losses:?}");
            for parameter in &net.parameters {
                let (got, want) = (&got.grads()[parameter.range()], &want.grads[parameter.range()]);
                let error = distance(got, want) / norm(want).max(1e-9);
                assert!(error <= 1e-11, "{} off by {error:e} at batch {n}: {:?}", parameter.name, net.layers);
            }
        }
    }
}

/// How threads share the work must not decide the order of any sum.
#[test]
fn the_number_of_threads_changes_no_bit() {
    for net in networks() {
        let runs: Vec<Run> = [1, 2, 3]
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| train(&net, Optimizer::Adam(Adam::default()), 37, 3, fast::<f32>))
            })
            .into();
        assert!(runs[0].losses.iter().all(|loss| loss.is_finite()));
        assert!(runs.iter().all(|run| *run == runs[0]), "{:?}", net.layers);
    }
}

/// A maximum or a ReLU that drops a NaN would hide a run that has failed; so would a skipped zero gradient.
#[test]
fn a_nan_anywhere_reaches_the_loss() {
    for net in networks() {
        let n = 3;
        let images = random(n * net.input.iter().product::<usize>(), 1);
        let targets = random_targets(n, net.classes, 1);
        let form = Form::Smoothed(SMOOTHING);
        // A bias of each layer: it reaches every element of its channel.
        for parameter in net.parameters.iter().filter(|parameter| parameter.shape.len() == 1) {
            let mut params = net.initial_parameters(3);
            params[parameter.offset] = f32::NAN;
            let mut network = CpuNetwork::new(&net, params);
            network.set_batch(&images);
            let loss = network.loss_and_gradient(&form, Batch::new(&targets));
            assert!(loss.is_nan(), "{}: {loss} in {:?}", parameter.name, net.layers);
        }
        // A pixel that every window of the first layers sees or takes.
        let mut network = CpuNetwork::new(&net, net.initial_parameters(3));
        let mut images = images;
        images[0] = f32::NAN;
        network.set_batch(&images);
        assert!(network.loss_and_gradient(&form, Batch::new(&targets)).is_nan());
    }
}

/// A state that is set must be the one that is computed with, packed weights included.
#[test]
fn going_on_from_a_state_is_going_on() {
    let net = &networks()[1];
    let data = random_data(40, net.input, net.classes);
    let setup = Setup {
        seed: 0,
        net,
        batch_size: 8,
        loss: SMOOTHING.into(),
        optimizer: Optimizer::Adam(Adam::default()),
        recipe: Default::default(),
        normalisation: vec![[0.4, 0.25]; net.input[0]],
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &data,
        test: &data,
    };
    let order: Vec<u32> = (0..40).collect();
    let mut first = CpuTrainer::<f32>::new(setup.clone(), &net.initial_parameters(1));
    first.train_epoch(&order, 0, &mut |_| Ok(ControlFlow::Continue(()))).unwrap();
    let state = first.state().unwrap();
    let mut second = CpuTrainer::<f32>::new(setup, &net.initial_parameters(2));
    second.test_logits().unwrap();
    second.set_state(&state);
    assert_eq!(first.test_logits().unwrap(), second.test_logits().unwrap());
    for trainer in [&mut first, &mut second] {
        trainer.train_epoch(&order, 5, &mut |_| Ok(ControlFlow::Continue(()))).unwrap();
    }
    assert_eq!(first.state().unwrap(), second.state().unwrap());
}

/// Large batches are answered in parts: an image's answer must be the one that it has alone, to the bit, and a layer
/// that gets the whole batch must get all of it, the inputs that it adds included.
#[test]
fn an_answer_does_not_depend_on_the_batch() {
    let conv = |channels, stride| {
        let plain = conv2d::Settings::square(channels, 3, 1);
        [Layer::new(conv2d::Settings { stride: [stride; 2], bias: false, ..plain }), Layer::batch_norm2d()]
    };
    let of = |blocks: &[&[Layer]]| blocks.concat();
    let stem = of(&[&conv(16, 1), &[Layer::relu()]]);
    let block = Layer::residual(of(&[&conv(16, 1), &[Layer::relu()], &conv(16, 1)]));
    let narrower = Layer::residual_with(of(&[&conv(7, 2), &[Layer::silu()], &conv(7, 1)]), conv(7, 2).to_vec());
    let images = of(&[&stem, &[block, Layer::relu(), narrower, Layer::global_avg_pool2d(), Layer::flatten()]]);
    let added = Layer::residual(vec![Layer::linear(9), Layer::relu(), Layer::linear(7)]);
    for (layers, to_the_bit) in [(images.clone(), true), (of(&[&images, &[added, Layer::linear(5)]]), false)] {
        let net = Network::new([3, 32, 32], &layers).unwrap();
        let (n, len) = (21, net.input.iter().product::<usize>());
        let mut network = CpuNetwork::<f64>::new(&net, net.initial_parameters(3).iter().map(|&p| p.into()).collect());
        let x: Vec<f64> = random(n * len, 5).iter().map(|&v| v.into()).collect();
        // Running statistics that are not the first ones.
        network.set_batch(&x);
        network.forward(Mode::Training);
        let answers = network.forward(Mode::Inference).to_vec();
        let classes = net.classes;
        let mut plain = ReferenceNetwork::<f64>::new(&net, network.params().to_vec());
        plain.parts().2.copy_from_slice(network.parts().2);
        plain.take(&x);
        for (found, want) in answers.iter().zip(plain.logits()) {
            assert!((found - want).abs() <= 1e-10, "{found} {want}");
        }
        for (x, answer) in x.chunks(len).zip(answers.chunks(classes)).filter(|_| to_the_bit) {
            network.set_batch(x);
            assert_eq!(network.forward(Mode::Inference), answer);
        }
    }
}

/// Catches what an answer leaves behind: its packed weights and biases hold a batch norm, and a training's must not.
/// The norm takes a bias off the output again, and so the running mean alone shows one that stayed.
#[test]
fn an_answer_changes_no_training() {
    let plain = |channels| conv2d::Settings { bias: false, ..conv2d::Settings::square(channels, 3, 1) };
    let kinds = [
        ("stride 1", plain(8)),
        ("stride 2", conv2d::Settings { stride: [2, 2], ..plain(12) }),
        ("depthwise", conv2d::Settings { groups: 8, ..plain(8) }),
        ("in groups", conv2d::Settings { groups: 2, ..plain(8) }),
        ("with gaps", conv2d::Settings { dilation: [2, 2], ..plain(8) }),
        ("1x1", conv2d::Settings { bias: false, ..conv2d::Settings::square(8, 1, 0) }),
    ];
    for (kind, settings) in kinds {
        let layers = [Layer::new(plain(8)), Layer::batch_norm2d(), Layer::new(settings), Layer::batch_norm2d()];
        let ends = [Layer::relu(), Layer::global_avg_pool2d(), Layer::flatten(), Layer::linear(5)];
        let net = Network::new([3, 12, 12], &[&layers[..], &ends].concat()).unwrap();
        let x = random(6 * net.input.iter().product::<usize>(), 5);
        let trained = |answers: bool| {
            let mut network = CpuNetwork::<f32>::new(&net, net.initial_parameters(3));
            network.set_batch(&x);
            let mut logits = vec![];
            for _ in 0..3 {
                logits.extend_from_slice(network.forward(Mode::Training));
                if answers {
                    network.forward(Mode::Inference);
                }
            }
            (logits, network.parts_mut().2.clone())
        };
        assert!(trained(true) == trained(false), "{kind}");
    }
}
