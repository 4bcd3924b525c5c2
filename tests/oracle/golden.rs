//! The CPU path in f64 against PyTorch's float64 values (`tests/golden`).
//!
//! Two sums of the same k terms in different orders, with or without fused multiply-adds, each err by at most
//! k eps/2 times the terms' magnitudes together, so they differ by at most k eps times that. That is the bound of every
//! comparison here. The magnitudes come from the op itself, run on absolute values.

use smoothcnn::backend::reference::ReferenceNetwork;
use smoothcnn::check::batch::CaseBatch;
use smoothcnn::layer::{First, Inputs, Mode, Random, Role};
use smoothcnn::loss::comparator::ComparatorLoss;
use smoothcnn::loss::distillation::DistillationLoss;
use smoothcnn::loss::logit_penalty::LogitPenalty;
use smoothcnn::loss::smoothing::{Epsilon, Smoothing, Variant};
use smoothcnn::loss::weighted::reference::{Reduction, masses, reduce, upstream};
use smoothcnn::loss::weighted::{Spec, WeightedLoss, Weighting};
use smoothcnn::loss::{Batch, Form};
use smoothcnn::network::Network;
use smoothcnn::ops;
use smoothcnn::optimizer::{Adam, Optimizer, Sgd, Values, WeightMatrix};

use crate::op::{Op, Targets, largest};
use crate::recorded::{Case, Golden};

const EPSILON: f64 = f64::EPSILON;

/// No bound may be looser than this, relative to the magnitude of what is summed.
const LIMIT: f64 = 1e-12;

/// Checks each element against `tolerance` (of its index), NaN failing, and returns the worst error in units of it.
fn compare(what: &str, found: &[f64], expected: &[f64], tolerance: impl Fn(usize) -> f64) -> f64 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let mut worst = 0.0f64;
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let (error, tolerance) = ((found - expected).abs(), tolerance(i));
        assert!(error <= tolerance, "{what}[{i}]: {found}, PyTorch {expected}: {error:e} apart, {tolerance:e} allowed");
        if error > 0.0 {
            worst = worst.max(error / tolerance);
        }
    }
    worst
}

fn absolute(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| v.abs()).collect()
}

/// A case's integers.
fn numbers<const N: usize>(case: &Case, keys: [&str; N]) -> [usize; N] {
    keys.map(|key| case.parse(key))
}

/// Catches a misreading of PyTorch's conventions that finite differences cannot see: OIHW order, cross-correlation, the
/// floor rule, padding on both sides, the first of equal maxima, the gradient at 0 and at -0.
#[test]
fn layers_agree_with_pytorch() {
    for entry in ops::ALL {
        let Some(of_numbers) = entry.golden else { continue };
        let golden = Golden::open(entry.name);
        let mut worst = 0.0f64;
        for case in golden.cases() {
            let ops::Case { n, input, layer } = of_numbers(&|key| case.parse(key));
            let op = layer.fit(input).unwrap_or_else(|misfit| panic!("{}: {misfit:?}", case.name));
            let mut trained = ["w", "b"].into_iter();
            let mut running = ["mean", "var"].into_iter();
            let (mut params, mut buffers) = (vec![], vec![]);
            for parameter in op.parameters() {
                match parameter.role {
                    Role::Buffer => buffers.push(case.f64(running.next().unwrap())),
                    _ => params.push(case.f64(trained.next().unwrap())),
                }
            }
            let [x, dy] = ["x", "dy"].map(|name| case.f64(name));
            assert_eq!(dy.len(), n * op.output().len(), "{}", case.name);
            let batch = CaseBatch { op, n, x, skip: vec![], dy, params, buffers, random: Random::default() };
            let given = batch.forward(Mode::Training);
            if !given.kept.words.is_empty() {
                let words: Vec<i64> = given.kept.words.iter().copied().map(i64::from).collect();
                assert_eq!(words, case.i64("indices"), "{}", case.name);
            }
            // Pooling and ReLU choose by their input: there only dy is made absolute.
            let (size, of_gradients) = match batch.op.inputs() {
                Inputs::Any => (batch.forward_terms(Mode::Training), batch.backward_terms(&given)),
                Inputs::Zeros | Inputs::Ties => {
                    let absolute = CaseBatch { dy: absolute(&batch.dy), ..batch.clone() };
                    (given.clone(), absolute.backward(&given))
                }
            };
            let rounding = batch.op.rounding(n);
            let mut check = |name: &str, found: &[f64], size: &[f64], terms: usize| {
                let relative = terms as f64 * EPSILON;
                assert!(relative <= LIMIT);
                let what = format!("{} {}.{name}", entry.name, case.name);
                let expected = case.f64(name);
                let allowed = |i: usize| relative * size[i].abs() + rounding.ulps * EPSILON * expected[i].abs();
                worst = worst.max(compare(&what, found, &expected, allowed));
            };
            let [of_y, of_dx, of_params] = rounding.terms;
            check("y", &given.y, &size.y, of_y);
            let gradients = batch.backward(&given);
            check("dx", &gradients.dx, &of_gradients.dx, of_dx);
            for (i, (found, size)) in gradients.params.iter().zip(&of_gradients.params).enumerate() {
                check(["dw", "db"][i], found, size, of_params);
            }
            for (i, (found, size)) in given.buffers.iter().zip(&size.buffers).enumerate() {
                check(["mean_after", "var_after"][i], found, size, of_y);
            }
            if !given.buffers.is_empty() {
                let [found, size] = [batch.forward(Mode::Inference), batch.forward_terms(Mode::Inference)];
                check("inferred", &found.y, &size.y, of_y);
            }
        }
        println!("{}: worst error {worst:.3} of the bound", entry.name);
    }
}

/// Catches the wrong variant, reduction or class; a loss that loses its digits at logits of 1e4.
#[test]
fn losses_agree_with_pytorch() {
    let golden = Golden::open("smoothed_loss");
    let (mut worst, mut worst_relative) = (0.0f64, 0.0f64);
    for case in golden.cases() {
        let [n, classes] = numbers(&case, ["n", "classes"]);
        let variant = Variant::from_name(case.text("variant")).unwrap();
        let masses = Smoothing::new(variant, case.parse("epsilon"), classes).unwrap().masses(classes);
        let labels = case.labels("labels");
        let op = Op::SmoothedLoss { masses, classes, targets: labels.clone() };
        let inputs = [case.f64("logits")];
        let spread = 2.0 * largest(&inputs[0]);

        // The normaliser and the target's product sum `classes` terms each; 32 more for the logarithm, the masses and
        // the differences from the maximum. A loss's terms are the normaliser and q times the logits.
        let relative = (2 * classes + 32) as f64 * EPSILON;
        assert!(relative <= LIMIT);
        let size = spread + (classes as f64).ln();
        let losses = op.forward(&inputs);
        let what = |name: &str| format!("{}.{name}", case.name);
        let sum: f64 = losses.iter().sum();
        for (name, found, terms) in [("losses", &losses[..], 1), ("sum", &[sum], 2 * n), ("mean", &[sum / n as f64], 2)]
        {
            worst = worst.max(compare(&what(name), found, &case.f64(name), |_| relative * size * terms as f64));
        }

        // A gradient is p - q: exp's argument of up to 745, where it becomes 0, makes as many ulps of p.
        let relative = (2 * classes + 32) as f64 * EPSILON + 2.0 * spread.min(745.0) * EPSILON;
        assert!(relative <= LIMIT);
        worst_relative = worst_relative.max(relative);
        let [mean, ones] = [1.0 / n as f64, 1.0].map(|dloss| vec![dloss; n]);
        for (name, dloss) in [("mean", mean), ("sum", ones), ("none", case.f64("dloss"))] {
            let name = format!("dlogits_{name}");
            let expected = case.f64(&name);
            let tolerance = |i: usize| {
                let (row, class) = (i / classes, i % classes);
                let q = if class == labels[row] as usize { masses.on } else { masses.off };
                // p is at most |p - q| + q.
                relative * (expected[i].abs() + 2.0 * q * dloss[row].abs())
            };
            worst = worst.max(compare(&what(&name), &op.backward(&inputs, &dloss)[0], &expected, tolerance));
        }
    }
    println!("smoothed_loss: worst error {worst:.3} of the bound, which is at most {worst_relative:e}");
}

/// Catches class weights in the wrong one of the two terms or in the wrong divisor, an ignored label in the mean, and
/// another reading of distributions as targets.
#[test]
fn weighted_losses_agree_with_pytorch() {
    let golden = Golden::open("weighted_loss");
    let (mut worst, mut worst_relative, mut ignored) = (0.0f64, 0.0f64, 0);
    for case in golden.cases() {
        let [n, classes] = numbers(&case, ["n", "classes"]);
        let weights = case.parse::<bool>("weighted").then(|| (Weighting::PyTorch, case.f64("weight")));
        let epsilon = Epsilon::new(case.parse("epsilon")).unwrap();
        let loss = WeightedLoss::new(&Spec { epsilon, weights, ..Spec::new(classes) }).unwrap();
        let ignore_index = case.text("ignore_index").parse().ok();
        let targets = match case.text("target") {
            "index" => Targets::Index(loss.targets(&case.i64("labels"), ignore_index).unwrap()),
            _ => Targets::Soft(case.f64("soft")),
        };
        let op = Op::WeightedLoss { loss: loss.clone(), targets: targets.clone() };
        let inputs = [case.f64("logits")];
        let spread = 2.0 * largest(&inputs[0]);
        let size = spread + (classes as f64).ln();
        let masses: Vec<Vec<f64>> = (0..n)
            .map(|row| targets.with(|targets| masses(&loss, targets, row)).unwrap_or_else(|| vec![0.0; classes]))
            .collect();
        ignored += masses.iter().filter(|masses| largest(masses) == 0.0).count();
        let total = |row: usize| masses[row].iter().sum::<f64>();

        // As for the simple loss; the masses' sum is one more sum of `classes` terms.
        let relative = (3 * classes + 32) as f64 * EPSILON;
        assert!(relative <= LIMIT);
        let what = |name: &str| format!("{}.{name}", case.name);
        let losses = op.forward(&inputs);
        worst = worst.max(compare(&what("losses"), &losses, &case.f64("losses"), |row| relative * size * total(row)));
        for (name, reduction) in [("mean", Some(Reduction::Mean)), ("sum", Some(Reduction::Sum)), ("none", None)] {
            let dloss: Vec<f64> = match reduction {
                Some(reduction) => targets.with(|targets| upstream(&loss, targets, n, reduction)),
                None => case.f64("dloss"),
            };
            if reduction.is_some() {
                let found = reduce(&dloss, &losses);
                let sizes: f64 = (0..n).map(|row| dloss[row] * size * total(row)).sum();
                let relative = relative + 2.0 * n as f64 * EPSILON;
                worst = worst.max(compare(&what(name), &[found], &[case.scalar(name)], |_| relative * sizes));
            }
            let relative = relative + (2.0 * spread.min(745.0) + 2.0 * n as f64) * EPSILON;
            assert!(relative <= LIMIT);
            worst_relative = worst_relative.max(relative);
            let name = format!("dlogits_{name}");
            let expected = case.f64(&name);
            // p times the total is at most |gradient| and the mass.
            let tolerance = |i: usize| {
                let mass = masses[i / classes][i % classes];
                relative * (expected[i].abs() + 2.0 * mass * dloss[i / classes].abs())
            };
            worst = worst.max(compare(&what(&name), &op.backward(&inputs, &dloss)[0], &expected, tolerance));
        }
    }
    assert!(ignored > 10, "only {ignored} ignored rows");
    println!("weighted_loss: worst error {worst:.3} of the bound, which is at most {worst_relative:e}");
}

/// Catches a partner that is another's, a share that is, and smoothing of one label alone: timm's dense target.
#[test]
fn mixed_losses_agree_with_pytorch() {
    let golden = Golden::open("mixed_loss");
    let mut worst = 0.0f64;
    for case in golden.cases() {
        let classes = case.parse("classes");
        let variant = Variant::from_name(case.text("variant")).unwrap();
        let masses = Smoothing::new(variant, case.parse("epsilon"), classes).unwrap().masses(classes);
        let op = Op::MixedLoss { masses, classes, targets: case.labels("labels"), share: case.parse("share") };
        let inputs = [case.f64("logits")];
        // As of the smoothed loss, twice.
        let size = 2.0 * largest(&inputs[0]) + (classes as f64).ln();
        let allowed = 2.0 * (2 * classes + 32) as f64 * EPSILON * size;
        assert!(allowed <= LIMIT * size);
        let what = |name: &str| format!("{}.{name}", case.name);
        worst = worst.max(compare(&what("losses"), &op.forward(&inputs), &case.f64("losses"), |_| allowed));
        let found = op.backward(&inputs, &case.f64("dloss")).remove(0);
        worst = worst.max(compare(&what("dlogits"), &found, &case.f64("dlogits"), |_| allowed));
    }
    println!("mixed_loss: worst error {worst:.3} of the bound");
}

/// Catches another reading of the two formulas than autograd's over PyTorch's log-softmax and entropy.
#[test]
fn comparator_losses_agree_with_pytorch() {
    let golden = Golden::open("comparator_loss");
    let mut worst = 0.0f64;
    for case in golden.cases() {
        let classes = case.parse("classes");
        let (gamma, beta) = (case.parse("gamma"), case.parse("beta"));
        let loss = match beta {
            0.0 => ComparatorLoss::focal(classes, gamma),
            _ => ComparatorLoss::confidence_penalty(classes, beta),
        };
        let op = Op::ComparatorLoss { loss: loss.unwrap(), targets: case.labels("labels") };
        let inputs = [case.f64("logits")];
        let size = 2.0 * largest(&inputs[0]) + (classes as f64).ln();
        // Absolute: in PyTorch's 1 - p digits cancel. The sums, the power, and an entropy of terms of that size.
        let allowed = (classes as f64 + 32.0) * EPSILON * size * (1.0 + gamma);
        let what = |name: &str| format!("{}.{name}", case.name);
        assert!(allowed <= LIMIT * size);
        worst = worst.max(compare(&what("losses"), &op.forward(&inputs), &case.f64("losses"), |_| allowed));
        let found = op.backward(&inputs, &case.f64("dloss")).remove(0);
        worst = worst.max(compare(&what("dlogits"), &found, &case.f64("dlogits"), |_| allowed));
    }
    println!("comparator_loss: worst error {worst:.3} of the bound");
}

/// Catches a mean over other classes than all of them, and several largest logits of which one has the whole gradient.
#[test]
fn logit_penalties_agree_with_pytorch() {
    let golden = Golden::open("logit_penalty");
    let mut worst = 0.0f64;
    for case in golden.cases() {
        let classes = case.parse("classes");
        let (alpha, lambda, margin) = (case.parse("alpha"), case.parse("lambda"), case.parse("margin"));
        let loss = match lambda {
            0.0 => LogitPenalty::maxsup(classes, alpha),
            _ => LogitPenalty::mbls(classes, lambda, margin),
        };
        let op = Op::LogitPenalty { loss: loss.unwrap(), targets: case.labels("labels") };
        let inputs = [case.f64("logits")];
        let size = 2.0 * largest(&inputs[0]) + (classes as f64).ln();
        // Absolute: sums over the classes of terms of that size.
        let allowed = (classes as f64 + 32.0) * EPSILON * size;
        let what = |name: &str| format!("{}.{name}", case.name);
        assert!(allowed <= LIMIT * size);
        worst = worst.max(compare(&what("losses"), &op.forward(&inputs), &case.f64("losses"), |_| allowed));
        let found = op.backward(&inputs, &case.f64("dloss")).remove(0);
        worst = worst.max(compare(&what("dlogits"), &found, &case.f64("dlogits"), |_| allowed));
    }
    println!("logit_penalty: worst error {worst:.3} of the bound");
}

/// Catches the divergence turned round, a T of another power, and a smoothing that reaches into the teacher's share.
#[test]
fn distillation_agrees_with_pytorch() {
    let golden = Golden::open("distillation_loss");
    let mut worst = 0.0f64;
    for case in golden.cases() {
        let classes = case.parse("classes");
        let (temperature, alpha, epsilon): (f64, f64, f64) =
            (case.parse("temperature"), case.parse("alpha"), case.parse("epsilon"));
        let op = Op::DistillationLoss {
            loss: DistillationLoss::new(classes, temperature, alpha).unwrap(),
            masses: Smoothing { variant: Variant::Uniform, epsilon }.masses(classes),
            targets: case.labels("labels"),
            teacher: case.f64("teacher"),
        };
        let inputs = [case.f64("logits")];
        let size = 2.0 * largest(&inputs[0]).max(largest(&case.f64("teacher"))) + (classes as f64).ln();
        // Sums over the classes of terms of that size at most, and of softmaxes that are off by as much of themselves.
        let allowed = (classes as f64 + 32.0) * EPSILON * size * (1.0 + temperature * temperature);
        let what = |name: &str| format!("{}.{name}", case.name);
        worst = worst.max(compare(&what("losses"), &op.forward(&inputs), &case.f64("losses"), |_| allowed));
        let found = op.backward(&inputs, &case.f64("dloss")).remove(0);
        worst = worst.max(compare(&what("dlogits"), &found, &case.f64("dlogits"), |_| allowed));
    }
    println!("distillation_loss: worst error {worst:.3} of the bound");
}

/// Catches another order of momentum, weight decay and step than PyTorch's, a size by the wrong side, and coefficients
/// that differ.
#[test]
fn muon_agrees_with_pytorch() {
    let golden = Golden::open("muon");
    for case in golden.cases() {
        let number = |key| case.parse::<f64>(key);
        let betas = [number("momentum"), 0.999];
        let (lr, weight_decay) = (number("lr"), number("weight_decay"));
        let optimizer = Optimizer::Muon(Adam { lr, betas, weight_decay, ..Adam::default() });
        let [steps, rows, columns] = numbers(&case, ["steps", "rows", "columns"]);
        let (len, matrices) = (rows * columns, &[WeightMatrix { first: 0, rows, columns }]);
        let (mut params, grads, expected) = (case.f64("p0"), case.f64("grads"), case.f64("p"));
        assert!(steps > 0 && expected.len() == steps * len && grads.len() == steps * len);
        let mut slots = optimizer.empty(len);
        let mut worst = 0.0f64;
        for (t, (grads, expected)) in grads.chunks(len).zip(expected.chunks(len)).enumerate() {
            let values = Values { params: &mut params, grads, slots: &mut slots, decayed: len, matrices };
            optimizer.step(t as u64 + 1, values);
            // Steps of a few lr; what is rounded in one of Newton and Schulz's grows up to 3.4 times in the others.
            let allowed = 1024.0 * (t + 1) as f64 * EPSILON;
            worst = worst.max(compare(&format!("{} after step {}", case.name, t + 1), &params, expected, |_| allowed));
        }
        println!("{}: worst error {worst:.3} of the bound", case.name);
    }
}

/// Catches another order of weight decay, moments and bias correction than PyTorch's, and a step counted from 0.
#[test]
fn optimizers_agree_with_pytorch() {
    let golden = Golden::open("adam");
    for case in golden.cases() {
        let number = |key| case.parse::<f64>(key);
        let (lr, weight_decay) = (number("lr"), number("weight_decay"));
        let adam = || Adam { lr, betas: [number("beta1"), number("beta2")], eps: number("eps"), weight_decay };
        let optimizer = match case.text("optimizer") {
            "adam" => Optimizer::Adam(adam()),
            "adamw" => Optimizer::AdamW(adam()),
            "sgd" => {
                let (momentum, nesterov) = (number("momentum"), case.parse("nesterov"));
                Optimizer::Sgd(Sgd { lr, momentum, nesterov, weight_decay })
            }
            other => panic!("no optimizer {other}"),
        };
        let [steps, len] = numbers(&case, ["steps", "len"]);
        let (mut params, grads, expected) = (case.f64("p0"), case.f64("grads"), case.f64("p"));
        assert!(steps > 0 && expected.len() == steps * len && grads.len() == steps * len);
        let mut slots = optimizer.empty(len);
        let mut size = absolute(&params);
        let mut worst = 0.0f64;
        for (t, (grads, expected)) in grads.chunks(len).zip(expected.chunks(len)).enumerate() {
            optimizer.step(
                t as u64 + 1,
                Values { params: &mut params, grads, slots: &mut slots, decayed: len, matrices: &[] },
            );
            size.iter_mut().zip(expected).for_each(|(size, p)| *size = size.max(p.abs()));
            // About eight roundings a step, each relative to the largest that the parameter has been. (An update of
            // Adam, at most a few lr, errs by more, 1e-13 of itself, for 1 - 0.999^t loses three digits.)
            let relative = 8.0 * (t + 1) as f64 * EPSILON;
            let what = format!("{} after step {}", case.name, t + 1);
            worst = worst.max(compare(&what, &params, expected, |i| relative * size[i] + 1e-13 * lr));
        }
        println!("{}: worst error {worst:.3} of the bound", case.name);
    }
}

/// Element i of the hash that both sides fill the network with.
fn hash(i: usize, tensor: u64) -> f64 {
    let value = (i as u64).wrapping_mul(2_654_435_761).wrapping_add(tensor * 40503 + 12345) % (1 << 32);
    value as f64 / (1u64 << 32) as f64
}

/// Catches layers in another order, channels-last flattening, and gradients that are right layer by layer but not
/// together. Sums have up to 3136 terms, so a layer errs by 7e-13 at the very worst, and by 1e-14 as rounding goes: the
/// limit is held relative to the largest in each tensor.
#[test]
fn the_seed_network_agrees_with_pytorch() {
    let golden = Golden::open("seed_network");
    let (n, epsilon): (usize, f64) = (golden.parse("n"), golden.parse("epsilon"));
    let net = Network::seed([1, 28, 28], golden.parse("classes")).unwrap();
    let mut params = vec![0.0; net.flat_len()];
    for p in &net.parameters {
        let tensor = golden.parse(&format!("{}.index", p.name));
        assert_eq!(p.first, First::FanIn(golden.parse(&format!("{}.fan_in", p.name))));
        let First::FanIn(inputs) = p.first else { panic!("{p:?}") };
        let bound = 1.0 / (inputs as f64).sqrt();
        let values = &mut params[p.range()];
        values.iter_mut().enumerate().for_each(|(i, v)| *v = 2.0 * (hash(i, tensor) - 0.5) * bound);
        assert_eq!(values[..4], golden.f64(&format!("head.{}", p.name)), "{}: not the recorded weights", p.name);
    }
    let images_index = golden.parse("images_index");
    let images: Vec<f64> = (0..n * 784).map(|i| hash(i, images_index)).collect();
    assert_eq!(images[..4], golden.f64("head.images"));

    let mut cpu = ReferenceNetwork::new(&net, params);
    cpu.batch(n).copy_from_slice(&images);
    let report = |name: &str, worst: f64| println!("{name}: worst error {worst:.4} of the bound");
    let check = |name: &str, found: &[f64], size: f64| {
        report(name, compare(name, found, &golden.f64(name), |_| LIMIT * size));
    };
    let logits = cpu.forward(Mode::Inference).to_vec();
    check("logits", &logits, largest(&logits));
    let labels = golden.labels("labels");
    // Uniform last: its gradient is the recorded one.
    for (name, variant) in [("loss.off-target", Variant::OffTarget), ("loss.uniform", Variant::Uniform)] {
        let loss = cpu.loss_and_gradient(&Form::Smoothed(Smoothing { variant, epsilon }), Batch::new(&labels));
        check(name, &[loss], loss);
    }
    for p in &net.parameters {
        let gradient = &cpu.grads[p.range()];
        let name = format!("grad.{}", p.name);
        if golden.has(&name) {
            check(&name, gradient, largest(gradient));
        } else {
            let stride = golden.parse(&format!("{}.stride", p.name));
            let sample: Vec<f64> = gradient.iter().step_by(stride).copied().collect();
            check(&format!("{name}.sample"), &sample, largest(gradient));
        }
        let squares: f64 = gradient.iter().map(|g| g * g).sum();
        check(&format!("{name}.sum"), &[gradient.iter().sum()], absolute(gradient).iter().sum());
        check(&format!("{name}.sum_sq"), &[squares], squares);
    }
}
