//! Every gradient against finite differences of its forward pass, in f64.
//!
//! The derivative of f at 0 comes from five points: (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h, whose truncation error
//! is h^4 f^(5)/30. Convolution and Linear are linear in each input, and ReLU and pooling are so between their kinks:
//! there the formula is exact for any h, and a large h leaves rounding no room.
//!
//! The error is relative to the larger of the two derivatives, but to no less than a hundredth of the largest in their
//! tensor. Rounding in f is absolute: it does not shrink for an element whose terms happen to cancel.

use rayon::prelude::*;
use smoothcnn::backend::reference::ReferenceNetwork;
use smoothcnn::check::differences;
use smoothcnn::layer::{Inputs, Mode};
use smoothcnn::loss::comparator::cases as comparator_loss;
use smoothcnn::loss::distillation::DistillationLoss;
use smoothcnn::loss::distillation::cases::STRENGTHS;
use smoothcnn::loss::logit_penalty::cases as logit_penalty;
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::loss::weighted::cases::Features;
use smoothcnn::loss::{Batch, Form};
use smoothcnn::network::{Layer, Network};
use smoothcnn::ops::{self, conv2d, linear::Linear, max_pool2d};
use smoothcnn::rng::Philox;

use crate::op::{Op, Targets, dot, largest, targets, uniform};

const FLOOR: f64 = 0.01;

/// The error of `analytic` against `numeric` as described above; NaN if either is.
fn relative_error(analytic: f64, numeric: f64, tensor_largest: f64) -> f64 {
    let scale = analytic.abs().max(numeric.abs()).max(FLOOR * tensor_largest);
    if scale == 0.0 { 0.0 } else { (analytic - numeric).abs() / scale }
}

/// The derivative at 0 along what `change(at(t) - at(-t))` measures, or `None` where `at` is not smooth.
fn five_points<Y>(h: f64, mut at: impl FnMut(f64) -> Option<Y>, change: impl Fn(&Y, &Y) -> f64) -> Option<f64> {
    // The outer points first: they are the ones that a kink spoils.
    let (far, far_back) = (at(2.0 * h)?, at(-2.0 * h)?);
    let (near, near_back) = (at(h)?, at(-h)?);
    Some((8.0 * change(&near, &near_back) - change(&far, &far_back)) / (12.0 * h))
}

/// Differences of <op(inputs), g> for a random g, in every element of every input; checks and returns the worst error.
fn check(op: &Op, mut inputs: Vec<Vec<f64>>, h: f64) -> f64 {
    // Upstream gradients of all sizes and signs: with ones, a transposed or shifted gradient could hide.
    let g = uniform(op.forward(&inputs).len(), -2.0, 2.0, 99);
    let gradients = op.backward(&inputs, &g);
    let mut worst = 0.0f64;
    for (tensor, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.len(), inputs[tensor].len());
        for (i, &analytic) in gradient.iter().enumerate() {
            let at_0 = inputs[tensor][i];
            let at = |t: f64| {
                inputs[tensor][i] = at_0 + t;
                Some(op.forward(&inputs))
            };
            let change = |a: &Vec<f64>, b: &Vec<f64>| dot(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>(), &g);
            let numeric = five_points(h, at, change).expect("every point is taken");
            inputs[tensor][i] = at_0;
            let error = relative_error(analytic, numeric, largest(gradient));
            assert!(error <= 1e-9, "{op:?}: input {tensor}[{i}]: {analytic} against {numeric}, error {error:e}");
            worst = worst.max(error);
        }
    }
    worst
}

/// Inputs of the right lengths, in [-1, 1).
fn random_inputs(op: &Op, n: usize) -> Vec<Vec<f64>> {
    let lens = op.input_lens(n).into_iter().enumerate();
    lens.map(|(i, len)| uniform(len, -1.0, 1.0, i as u64)).collect()
}

/// Catches a flipped or transposed kernel in dx, a wrong stride or padding in any gradient, height taken for width, and
/// partial sums over the batch (groups of 8) that lose or repeat an image.
#[test]
fn conv2d_gradients() {
    // n, then c_in, h, w, c_out, kernel, stride, padding.
    let cases = [
        (1, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]),
        (3, [1, 5, 4, 2, 3, 3, 1, 1, 1, 1]),
        (2, [2, 1, 17, 3, 1, 5, 1, 2, 0, 2]),
        (1, [2, 17, 1, 2, 4, 1, 3, 1, 1, 0]),
        (2, [3, 7, 5, 2, 3, 2, 2, 3, 1, 0]),
        (1, [2, 5, 7, 3, 2, 3, 3, 2, 0, 2]),
        (2, [1, 2, 3, 2, 6, 7, 1, 1, 2, 2]),  // a kernel as large as the padded image
        (1, [2, 11, 7, 1, 2, 1, 3, 4, 0, 0]), // strides that leave inputs out
        (1, [1, 2, 2, 1, 1, 1, 1, 2, 3, 2]),  // windows wholly in the padding
        (9, [2, 3, 3, 2, 2, 2, 1, 1, 0, 1]),
        (17, [1, 2, 3, 1, 2, 2, 1, 1, 0, 0]),
    ];
    let worst = cases.map(|(n, dims)| {
        let op = Op::from(crate::op::conv2d(dims));
        check(&op, random_inputs(&op, n), 0.5)
    });
    println!("worst error {:e}", largest(&worst));
}

/// Catches a weight read `[in, out]`, a bias gradient not summed over the batch, and results that depend on what the
/// memory held.
#[test]
fn linear_gradients() {
    let cases = [(1, 1, 1), (3, 7, 5), (1, 17, 2), (11, 2, 13), (4, 19, 1), (2, 1, 6)];
    let worst = cases.map(|(n, inputs, outputs)| {
        let op = Op::from(Linear::new(inputs, outputs));
        check(&op, random_inputs(&op, n), 0.5)
    });
    println!("worst error {:e}", largest(&worst));
}

/// Catches an argmax of the wrong plane, overlapping windows that overwrite each other's gradient, and gradient given
/// to rows and columns that the floor rule leaves out. Inputs are distinct integers, so no window changes its maximum.
#[test]
fn max_pool2d_gradients() {
    // n, then channels, h, w, kernel, stride.
    let cases = [
        (1, [1, 1, 1, 1, 1, 1, 1]),
        (2, [3, 4, 6, 2, 2, 2, 2]),
        (1, [2, 7, 5, 2, 2, 2, 2]),
        (3, [1, 1, 17, 1, 3, 1, 2]),
        (1, [2, 7, 11, 3, 3, 2, 2]),
        (2, [1, 5, 5, 3, 2, 1, 1]),
        (1, [2, 7, 8, 1, 2, 3, 3]),
    ];
    let worst = cases.map(|(n, dims)| {
        let op = Op::from(crate::op::max_pool2d(dims));
        let mut x: Vec<f64> = (0..op.input_lens(n)[0]).map(|i| i as f64 - 20.0).collect();
        Philox::new(1, 1).shuffle(&mut x);
        check(&op, vec![x], 0.2)
    });
    println!("worst error {:e}", largest(&worst));
}

/// Every layer of the registry, on those of its cases that are small. Catches a mask of the wrong sign, and whatever
/// else a new layer gets wrong.
#[test]
fn every_layers_gradients() {
    for entry in ops::ALL {
        let cases = (entry.cases)();
        let small = cases.iter().filter(|case| differences::work(case).unwrap() < 10_000_000);
        let checked = small.map(|case| differences::layer(entry.name, case).unwrap_or_else(|error| panic!("{error}")));
        let worst: Vec<f64> = checked.collect();
        assert!(!worst.is_empty(), "{}: no case is small enough", entry.name);
        println!("{}: {} cases, worst error {:e}", entry.name, worst.len(), largest(&worst));
    }
}

/// Catches a gradient that forgets dloss, takes the target's mass for the others', or belongs to the other variant.
#[test]
fn smoothed_loss_gradients() {
    let mut worst = vec![];
    for (variant, epsilons) in [(Variant::Uniform, [0.0, 0.1, 0.3, 0.9]), (Variant::OffTarget, [0.0, 0.1, 0.3, 0.49])] {
        for epsilon in epsilons {
            for (n, classes, scale) in [(1, 2, 1.0), (5, 3, 4.0), (3, 10, 2.0), (1, 37, 8.0)] {
                let masses = Smoothing::new(variant, epsilon, classes).unwrap().masses(classes);
                let op = Op::SmoothedLoss { masses, classes, targets: targets(n, classes, 1) };
                worst.push(check(&op, vec![uniform(n * classes, -scale, scale, 7)], 2e-3));
            }
        }
    }
    println!("worst error {:e}", largest(&worst));
}

/// Catches a label's share that is the other's in one of loss and gradient, also where one of the labels is ignored.
#[test]
fn mixed_loss_gradients() {
    let mut worst = vec![];
    for (variant, epsilon) in [(Variant::Uniform, 0.0), (Variant::Uniform, 0.3), (Variant::OffTarget, 0.2)] {
        for (n, classes, scale) in [(1, 2, 1.0), (5, 3, 4.0), (4, 10, 2.0), (2, 37, 8.0)] {
            for (share, ignored) in [(0.3, n), (0.9, n - 1), (1.0, n)] {
                let masses = Smoothing::new(variant, epsilon, classes).unwrap().masses(classes);
                let mut targets = targets(n, classes, 1);
                targets.iter_mut().skip(ignored).for_each(|label| *label = u32::MAX);
                let op = Op::MixedLoss { masses, classes, targets, share };
                worst.push(check(&op, vec![uniform(n * classes, -scale, scale, 7)], 2e-3));
            }
        }
    }
    println!("worst error {:e}", largest(&worst));
}

/// Catches a gradient that forgets the weights in one of its two terms, normalises over classes that take no part, or
/// counts an ignored sample: every combination of what the general loss covers.
#[test]
fn weighted_loss_gradients() {
    let mut worst = vec![];
    for features in Features::all() {
        for (n, classes, scale) in [(1, 3, 1.0), (4, 5, 4.0), (3, 17, 2.0)] {
            let loss = features.loss(classes);
            let targets = if features.soft {
                Targets::Soft(features.distributions(n, classes))
            } else {
                Targets::Index(features.targets(&loss, n))
            };
            let op = Op::WeightedLoss { loss, targets };
            worst.push(check(&op, vec![uniform(n * classes, -scale, scale, 7)], 2e-3));
        }
    }
    println!("worst error {:e}", largest(&worst));
}

/// Catches a factor that is not differentiated, and an entropy's gradient without the mean of ln p.
#[test]
fn comparator_loss_gradients() {
    let mut worst = vec![];
    for (n, classes, scale) in [(1, 2, 1.0), (5, 3, 3.0), (3, 10, 2.0), (1, 37, 4.0)] {
        for loss in comparator_loss::losses(classes).unwrap() {
            let op = Op::ComparatorLoss { loss, targets: targets(n, classes, 1) };
            worst.push(check(&op, vec![uniform(n * classes, -scale, scale, 7)], 2e-3));
        }
    }
    println!("worst error {:e}", largest(&worst));
}

/// Catches a largest logit whose gradient is forgotten, and classes within the margin that are pulled.
#[test]
fn logit_penalty_gradients() {
    let mut worst = vec![];
    for (n, classes, scale) in [(1, 2, 1.0), (5, 3, 3.0), (3, 10, 2.0), (1, 37, 4.0)] {
        for loss in logit_penalty::losses(classes).unwrap() {
            let op = Op::LogitPenalty { loss, targets: targets(n, classes, 1) };
            worst.push(check(&op, vec![uniform(n * classes, -scale, scale, 7)], 2e-3));
        }
    }
    println!("worst error {:e}", largest(&worst));
}

/// Catches a T too many or too few in front of the gradient, and softmaxes of one temperature taken for the other's.
#[test]
fn distillation_loss_gradients() {
    let mut worst = vec![];
    for (n, classes, scale) in [(1, 2, 1.0), (5, 3, 3.0), (3, 10, 2.0), (1, 37, 4.0)] {
        for (temperature, alpha) in STRENGTHS {
            for (variant, epsilon) in [(Variant::Uniform, 0.0), (Variant::OffTarget, 0.2)] {
                let op = Op::DistillationLoss {
                    loss: DistillationLoss::new(classes, temperature, alpha).unwrap(),
                    masses: Smoothing { variant, epsilon }.masses(classes),
                    targets: targets(n, classes, 1),
                    teacher: uniform(n * classes, -scale, scale, 8),
                };
                worst.push(check(&op, vec![uniform(n * classes, -scale, scale, 7)], 2e-3));
            }
        }
    }
    println!("worst error {:e}", largest(&worst));
}

/// What a pass gives from some layer on: the input of each layer, then the logits; and which way every kink is turned
/// (the sign of each ReLU, the argmax of each pooling window).
struct Pass {
    activations: Vec<Vec<f64>>,
    kinks: Vec<u32>,
}

/// The layers from `first` on, op by op: a second way through the network beside [`ReferenceNetwork::forward`].
fn pass(net: &Network, params: &[f64], first: usize, input: &[f64]) -> Pass {
    let mut pass = Pass { activations: vec![input.to_vec()], kinks: vec![] };
    for layer in &net.layers[first..] {
        let x = pass.activations.last().unwrap().clone();
        let params = net.parameters[layer.parameters.clone()].iter().map(|p| params[p.range()].to_vec());
        let inputs: Vec<Vec<f64>> = std::iter::once(x).chain(params).collect();
        let (y, kept) = crate::op::pass(&*layer.op, &inputs);
        pass.kinks.extend(kept.words);
        if layer.op.inputs() == Inputs::Zeros {
            pass.kinks.extend(y.iter().map(|&v| u32::from(v > 0.0)));
        }
        pass.activations.push(y);
    }
    pass
}

/// Checks the gradient of the mean loss at up to 40 places of every parameter.
///
/// While no ReLU and no maximum changes, each layer's output is affine in any one parameter. So if every kink is turned
/// the same way at -2h and 2h, it is so in between: layer by layer, affine functions that keep their sign at both ends
/// keep it on the way. Where a kink is in the way a smaller h is tried; a place is given up only below 3e-6, and nine
/// tenths of the places of every parameter must have been checked.
fn check_network(net: &Network, n: usize, smoothing: Smoothing) -> f64 {
    // Twice the usual values: gradients grow with the product of the layers, and stand further above rounding.
    let params = net.initial_parameters(5).into_iter().map(|v| 2.0 * f64::from(v)).collect();
    let mut cpu = ReferenceNetwork::<f64>::new(net, params);
    let images = uniform(n * net.input.iter().product::<usize>(), -1.0, 1.0, 50);
    let targets = targets(n, net.classes, 51);
    cpu.batch(n).copy_from_slice(&images);
    cpu.loss_and_gradient(&Form::Smoothed(smoothing), Batch::new(&targets));
    let whole = pass(net, &cpu.params, 0, &images);
    assert_eq!(cpu.forward(Mode::Inference), whole.activations.last().unwrap(), "the network is not its ops in order");

    let masses = smoothing.masses(net.classes);
    let loss = Op::SmoothedLoss { masses, classes: net.classes, targets };
    let mut worst = 0.0f64;
    for (index, parameter) in net.parameters.iter().enumerate() {
        let first = net.layers.iter().position(|layer| layer.parameters.contains(&index)).unwrap();
        let input = &whole.activations[first];
        let kinks = pass(net, &cpu.params, first, input).kinks;
        let mut places: Vec<usize> = parameter.range().collect();
        Philox::new(6, index as u64).shuffle(&mut places);
        places.truncate(40);
        let gradient = &cpu.grads[parameter.range()];
        let derivative = |&place: &usize| {
            let mut params = cpu.params.clone();
            let mut at = |t: f64| {
                params[place] = cpu.params[place] + t;
                let moved = pass(net, &params, first, input);
                (moved.kinks == kinks).then(|| loss.forward(&moved.activations[moved.activations.len() - 1..]))
            };
            let change = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(a, b)| a - b).sum::<f64>() / n as f64;
            let steps = [2e-3, 5e-4, 1.2e-4, 3e-5, 1e-5, 3e-6];
            Some((place, steps.iter().find_map(|&h| five_points(h, &mut at, change))?))
        };
        let derivatives: Vec<_> = places.par_iter().filter_map(derivative).collect();
        let checked = derivatives.len();
        let enough = checked * 10 >= places.len() * 9;
        assert!(enough, "{}: only {checked} of {} places are clear of kinks", parameter.name, places.len());
        let mut tensor_worst = 0.0f64;
        for (place, numeric) in derivatives {
            let analytic = cpu.grads[place];
            let error = relative_error(analytic, numeric, largest(gradient));
            let name = &parameter.name;
            assert!(error <= 1e-7, "{name}, element {place}: {analytic} against {numeric}, error {error:e}");
            tensor_worst = tensor_worst.max(error);
        }
        println!("{}: {checked} of {} places, worst error {tensor_worst:e}", parameter.name, places.len());
        worst = worst.max(tensor_worst);
    }
    worst
}

/// Catches a layer wired to its neighbour's buffer, parameters' offsets mixed up, and a mean that forgets 1/n, on
/// layers whose windows overlap, whose strides differ along the axes and whose pools leave edges out.
#[test]
fn gradients_of_a_small_network_with_overlapping_windows() {
    let layers = [
        Layer::new(conv2d::Settings {
            in_channels: Some(2),
            out_channels: 5,
            kernel_size: [3, 2],
            stride: [2, 1],
            padding: [1, 0],
            ..conv2d::Settings::square(1, 1, 0)
        }),
        Layer::relu(),
        Layer::new(max_pool2d::Settings { kernel_size: [3, 2], stride: [2, 1], padding: [0; 2] }),
        Layer::new(conv2d::Settings {
            out_channels: 7,
            kernel_size: [2, 3],
            stride: [1, 2],
            padding: [1, 2],
            ..conv2d::Settings::square(1, 1, 0)
        }),
        Layer::relu(),
        Layer::new(max_pool2d::Settings { kernel_size: [2, 3], stride: [1, 2], padding: [0; 2] }),
        Layer::flatten(),
        Layer::linear(11),
        Layer::relu(),
        Layer::linear(3),
    ];
    let net = Network::new([2, 13, 11], &layers).unwrap();
    for (n, variant) in [(1, Variant::Uniform), (10, Variant::OffTarget)] {
        println!("worst error {:e}", check_network(&net, n, Smoothing { variant, epsilon: 0.2 }));
    }
}

/// The same for the seed network as it is trained.
#[test]
fn gradients_of_the_seed_network() {
    let net = Network::seed([1, 28, 28], 10).unwrap();
    let smoothing = Smoothing { variant: Variant::Uniform, epsilon: 0.1 };
    println!("worst error {:e}", check_network(&net, 3, smoothing));
}
