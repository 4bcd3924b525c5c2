//! Laws of the general loss: what it is equal to where it is nothing new, and what smoothing with a prior leads to.

use proptest::prelude::*;
use smoothcnn::layer::Element;
use smoothcnn::loss::smoothing::{Epsilon, Prior, Smoothing, Variant};
use smoothcnn::loss::weighted::cases::Features;
use smoothcnn::loss::weighted::reference::{Reduction, reduce, upstream, weights};
use smoothcnn::loss::weighted::{Spec, WeightedLoss, Weighting};
use smoothcnn::loss::{Form, Loss};
use smoothcnn::ops::IGNORED;
use smoothcnn::schedule::Schedule;

use super::config;
use crate::op::{Op, Targets, largest, targets, uniform};

/// Losses, and gradients of the logits for the upstream gradient `dloss`.
fn run<T: Element>(loss: &WeightedLoss, targets: &Targets, logits: &[T], dloss: &[T]) -> (Vec<T>, Vec<T>) {
    let op = Op::WeightedLoss { loss: loss.clone(), targets: targets.clone() };
    let inputs = [logits.to_vec()];
    (op.forward(&inputs), op.backward(&inputs, dloss).remove(0))
}

/// Checks that all of `found` is `expected`, each to within `tolerance`, NaN never being so.
fn near(found: &[f64], expected: &[f64], tolerance: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        prop_assert!((f - e).abs() <= tolerance, "element {i}: {f} is not {e}, {tolerance:e} allowed");
    }
    Ok(())
}

/// Rounding of sums of `classes` terms that are at most `size` together.
fn rounding(classes: usize, size: f64) -> f64 {
    (classes as f64 + 32.0) * f64::EPSILON * size
}

fn smoothed(classes: usize, epsilon: f64, prior: Prior) -> WeightedLoss {
    WeightedLoss::new(&Spec { epsilon: Epsilon::new(epsilon).unwrap(), prior, ..Spec::new(classes) }).unwrap()
}

fn weighted(classes: usize, epsilon: f64, weighting: Weighting, weights: Vec<f64>) -> WeightedLoss {
    let epsilon = Epsilon::new(epsilon).unwrap();
    WeightedLoss::new(&Spec { epsilon, weights: Some((weighting, weights)), ..Spec::new(classes) }).unwrap()
}

fn one_hot(targets: &[u32], classes: usize) -> Vec<f64> {
    (0..targets.len() * classes).map(|i| f64::from(u8::from(targets[i / classes] as usize == i % classes))).collect()
}

fn shapes() -> impl Strategy<Value = (usize, usize, u64)> {
    let classes = prop_oneof![4 => 2..=40usize, 1 => 41..=2000usize, 1 => Just(32_000usize)];
    (1..=4usize, classes, 0..1000u64)
}

proptest! {
    #![proptest_config(config())]

    /// Catches any difference from the loss that training uses, where both are defined: off-target is a prior.
    #[test]
    fn an_even_prior_is_the_simple_loss((n, classes, stream) in shapes(), part in 0.0..0.999f64, off in any::<bool>()) {
        let (variant, prior) = if off { (Variant::OffTarget, Prior::OffTarget) } else { (Variant::Uniform, Prior::Uniform) };
        let epsilon = if off { part * (classes - 1) as f64 / classes as f64 } else { part };
        let masses = Smoothing::new(variant, epsilon, classes).unwrap().masses(classes);
        let targets = targets(n, classes, stream);
        let (logits, dloss) = (uniform(n * classes, -10.0, 10.0, stream), uniform(n, -2.0, 2.0, stream + 1));
        let simple = Op::SmoothedLoss { masses, classes, targets: targets.clone() };
        let inputs = [logits.clone()];
        let (losses, dlogits) = run(&smoothed(classes, epsilon, prior), &Targets::Index(targets), &logits, &dloss);
        near(&losses, &simple.forward(&inputs), rounding(classes, 60.0))?;
        near(&dlogits, &simple.backward(&inputs, &dloss)[0], rounding(classes, 2.0))?;
    }

    /// Catches a distribution that is read another way than an index, smoothed or weighted.
    #[test]
    fn one_hot_distributions_are_indices((n, classes, stream) in shapes(), i in 0..200usize) {
        let features = Features { soft: false, ignored: None, ..Features::all()[i % Features::all().len()] };
        let loss = features.loss(classes);
        let indices = features.targets(&loss, n);
        let soft = Targets::Soft(one_hot(&indices, classes));
        let indices = Targets::Index(indices);
        let (logits, dloss) = (uniform(n * classes, -10.0, 10.0, stream), uniform(n, -2.0, 2.0, stream + 1));
        prop_assert_eq!(run(&loss, &indices, &logits, &dloss), run(&loss, &soft, &logits, &dloss));
        // The divisor of the mean is PyTorch's for distributions, or follows from the distribution.
        let expected = match loss.weighting() {
            Weighting::PyTorch => vec![1.0; n],
            Weighting::Sample => indices.with::<f64, _>(|targets| weights(&loss, targets, n)),
        };
        prop_assert_eq!(soft.with::<f64, _>(|targets| weights(&loss, targets, n)), expected);
    }

    /// Catches masses and softmax over different classes: whatever is weighted, ignored or left out, each row of the
    /// gradient sums to zero, and is zero where a class takes no part.
    #[test]
    fn gradient_rows_sum_to_zero((n, classes, stream) in shapes(), i in 0..200usize) {
        let features = Features::all()[i % Features::all().len()];
        let loss = features.loss(classes);
        let targets = match features.soft {
            true => Targets::Soft(features.distributions(n, classes)),
            false => Targets::Index(features.targets(&loss, n)),
        };
        let (logits, dloss) = (uniform(n * classes, -10.0, 10.0, stream), uniform(n, -2.0, 2.0, stream + 1));
        let (losses, dlogits) = run(&loss, &targets, &logits, &dloss);
        for (row, d) in dlogits.chunks(classes).enumerate() {
            near(&[d.iter().sum()], &[0.0], rounding(2 * classes, 16.0))?;
            prop_assert!(d.iter().zip(loss.allowed()).all(|(d, allowed)| *allowed || *d == 0.0));
            if features.ignored.is_some() && row % 3 == 2 {
                prop_assert!(losses[row] == 0.0 && d.iter().all(|d| *d == 0.0));
            }
        }
    }

    /// Catches a sample's weight that does not scale its whole loss, and equal weights that change the mean.
    #[test]
    fn a_samples_weight_scales_its_loss((n, classes, stream) in shapes(), epsilon in 0.0..0.99f64) {
        let class_weights = uniform(classes, 0.0, 3.0, stream);
        let plain = smoothed(classes, epsilon, Prior::Uniform);
        let by_sample = weighted(classes, epsilon, Weighting::Sample, class_weights.clone());
        let targets = targets(n, classes, stream);
        let logits = uniform(n * classes, -10.0, 10.0, stream + 1);
        let of_target: Vec<f64> = targets.iter().map(|&t| class_weights[t as usize]).collect();
        let targets = Targets::Index(targets);
        let (losses, dlogits) = run(&by_sample, &targets, &logits, &vec![1.0; n]);
        let (expected, d_expected) = run(&plain, &targets, &logits, &of_target);
        let expected: Vec<f64> = expected.iter().zip(&of_target).map(|(loss, w)| loss * w).collect();
        near(&losses, &expected, rounding(classes, 100.0))?;
        near(&dlogits, &d_expected, rounding(classes, 6.0))?;

        for weighting in [Weighting::PyTorch, Weighting::Sample] {
            let even = weighted(classes, epsilon, weighting, vec![2.5; classes]);
            let mean = |loss: &WeightedLoss| {
                let dloss = targets.with(|targets| upstream(loss, targets, n, Reduction::Mean));
                let (losses, dlogits) = run(loss, &targets, &logits, &dloss);
                (reduce(&dloss, &losses), dlogits)
            };
            let ((found, d), (expected, d_expected)) = (mean(&even), mean(&plain));
            near(&[found], &[expected], rounding(classes + n, 60.0))?;
            near(&d, &d_expected, rounding(classes + n, 4.0))?;
        }
    }

    /// Catches a class that takes no part and still counts: the loss over the others alone is the same.
    #[test]
    fn a_mask_is_a_smaller_problem(n in 1..=4usize, classes in 2..=60usize, stream in 0..1000u64, soft in any::<bool>()) {
        for weighting in [None, Some(Weighting::PyTorch), Some(Weighting::Sample)] {
            let features = Features { soft, ignored: None, masked: true, prior: true, weighting, epsilon: 0.3 };
            let loss = features.loss(classes);
            let kept: Vec<usize> = (0..classes).filter(|&k| loss.allowed()[k]).collect();
            let part = |values: &[f64]| -> Vec<f64> {
                values.chunks(classes).flat_map(|row| kept.iter().map(|&k| row[k])).collect()
            };
            let smaller = WeightedLoss::new(&Spec {
                epsilon: Epsilon::new(0.3).unwrap(),
                prior: Prior::Given(part(loss.prior())),
                weights: weighting.map(|weighting| (weighting, part(loss.weights()))),
                ..Spec::new(kept.len())
            })
            .unwrap();
            let (targets, small_targets) = if soft {
                let rows = features.distributions(n, classes);
                (Targets::Soft(rows.clone()), Targets::Soft(part(&rows)))
            } else {
                let indices = features.targets(&loss, n);
                let renamed = indices.iter().map(|&t| kept.iter().position(|&k| k == t as usize).unwrap() as u32).collect();
                (Targets::Index(indices), Targets::Index(renamed))
            };
            let mut logits = uniform(n * classes, -10.0, 10.0, stream);
            let small_logits = part(&logits);
            logits.iter_mut().enumerate().filter(|(i, _)| !loss.allowed()[i % classes]).for_each(|(_, x)| *x = f64::NAN);
            let dloss = uniform(n, -2.0, 2.0, stream + 1);
            let (losses, dlogits) = run(&loss, &targets, &logits, &dloss);
            let (expected, d_expected) = run(&smaller, &small_targets, &small_logits, &dloss);
            near(&losses, &expected, rounding(classes, 60.0))?;
            near(&part(&dlogits), &d_expected, rounding(classes, 8.0))?;
        }
    }
}

/// Catches 0/0 where nothing is left: every sample ignored (even with logits that are not finite), or weighing nothing.
#[test]
fn the_mean_of_nothing_is_zero() {
    for weighting in [Weighting::PyTorch, Weighting::Sample] {
        let loss = weighted(3, 0.1, weighting, vec![0.0, 1.0, 2.0]);
        for (indices, logit) in [(vec![IGNORED; 4], f64::NAN), (vec![0; 4], 0.5)] {
            let targets = Targets::Index(indices);
            let dloss = targets.with(|targets| upstream(&loss, targets, 4, Reduction::Mean));
            let (losses, dlogits) = run(&loss, &targets, &[logit; 12], &dloss);
            assert_eq!(reduce(&dloss, &losses), 0.0);
            assert!(dlogits.iter().all(|d| *d == 0.0), "{dlogits:?}");
        }
    }
}

/// Catches an index that ignores by position, a negative one taken for a large class, and a label that slips through.
#[test]
fn labels_are_classes_or_the_ignored_index() {
    let loss = WeightedLoss::new(&Spec { allowed: Some(vec![true, false, true]), ..Spec::new(3) }).unwrap();
    for ignored in [-100, -1, 1, 2, 255, i64::MIN, i64::MAX, i64::from(u32::MAX)] {
        assert_eq!(loss.targets(&[0, ignored, 0], Some(ignored)).unwrap(), [0, IGNORED, 0]);
    }
    for wrong in [-1, 3, -100, i64::MAX, i64::from(u32::MAX), 1 << 32] {
        assert!(loss.targets(&[0, wrong], None).is_err() && loss.targets(&[wrong], Some(2)).is_err(), "{wrong}");
    }
    let message = loss.targets(&[0, 1], None).unwrap_err().to_string();
    assert_eq!(message, "label 1: found class 1, which the class mask leaves out; expected one that takes part");
    // Where such a label comes all the same, the sample is ignored.
    let (losses, dlogits) = run(&loss, &Targets::Index(vec![1]), &[1.0f64, 2.0, 3.0], &[1.0]);
    assert_eq!((losses, dlogits), (vec![0.0], vec![0.0; 3]));
}

/// Catches parts that do not fit together, before any kernel runs.
#[test]
fn what_does_not_fit_is_refused() {
    let refused = |spec: Spec| WeightedLoss::new(&spec).is_err();
    let weights = |weights: Vec<f64>| Some((Weighting::PyTorch, weights));
    for values in [vec![1.0; 2], vec![1.0, -1.0, 1.0], vec![1.0, f64::NAN, 1.0], vec![1.0, f64::INFINITY, 1.0]] {
        assert!(refused(Spec { weights: weights(values), ..Spec::new(3) }));
    }
    assert!(refused(Spec { allowed: Some(vec![true; 2]), ..Spec::new(3) }));
    assert!(refused(Spec { allowed: Some(vec![false; 3]), ..Spec::new(3) }) && refused(Spec::new(0)));
    let off_target = |e: f64| Spec { epsilon: Epsilon::new(e).unwrap(), prior: Prior::OffTarget, ..Spec::new(3) };
    assert!(refused(off_target(0.67)) && !refused(off_target(0.66)) && !refused(off_target(0.0)));
    // Of two classes one takes part: there is nothing beside the target.
    let alone = Some(vec![true, false]);
    let off_target = Spec { epsilon: Epsilon::new(0.1).unwrap(), prior: Prior::OffTarget, ..Spec::new(2) };
    assert!(refused(Spec { allowed: alone.clone(), ..off_target.clone() }));
    assert!(!refused(Spec { allowed: alone, prior: Prior::Uniform, ..off_target }));
}

/// Catches an exponential of an unshifted logit, in f32 too: with one logit at 1e4 and the rest at -1e4 the softmax is
/// exact.
#[test]
fn extreme_logits_are_stable() {
    fn check<T: Element>(epsilon_of_t: f64) {
        for features in Features::all().into_iter().filter(|features| !features.soft) {
            let loss = features.loss(9);
            let mut logits = vec![T::of(-1e4); 9];
            logits[8] = T::of(1e4);
            let masses =
                Targets::Index(vec![0]).with(|t| smoothcnn::loss::weighted::reference::masses::<f64>(&loss, t, 0));
            let masses = masses.unwrap();
            let (losses, dlogits) = run(&loss, &Targets::Index(vec![0]), &logits, &[T::one()]);
            let total: f64 = masses.iter().sum();
            let tolerance = 64.0 * epsilon_of_t;
            let expected = 2e4 * (total - masses[8]);
            assert!((losses[0].wide() - expected).abs() <= 2e4 * tolerance, "{features:?}: {:?}", losses[0]);
            for (k, d) in dlogits.iter().enumerate() {
                let p = f64::from(u8::from(k == 8));
                assert!((d.wide() - (total * p - masses[k])).abs() <= tolerance, "{features:?}: {d:?}");
            }
        }
    }
    check::<f64>(f64::EPSILON);
    check::<f32>(f64::from(f32::EPSILON));
}

/// Catches a NaN that the maximum drops: a broken network must not show a loss.
#[test]
fn a_nan_reaches_the_loss() {
    let loss = smoothed(3, 0.1, Prior::Uniform);
    for at in 0..3 {
        let mut logits = [5.0, 1.0, -2.0];
        logits[at] = f64::NAN;
        let (losses, dlogits) = run(&loss, &Targets::Index(vec![0]), &logits, &[1.0]);
        assert!(losses[0].is_nan() && dlogits.iter().all(|d| d.is_nan()), "{losses:?} {dlogits:?}");
    }
}

/// A network of biases only (logits = bias) after gradient descent to convergence on one class.
fn optimum(loss: &WeightedLoss, class: u32) -> Vec<f64> {
    let mut bias = vec![0.0; loss.classes()];
    for _ in 0..200_000 {
        let (_, gradient) = run(loss, &Targets::Index(vec![class]), &bias, &[1.0]);
        if largest(&gradient) <= 1e-15 {
            break;
        }
        // The curvature of the loss is at most 1/2.
        bias.iter_mut().zip(gradient).for_each(|(b, g)| *b -= 2.0 * g);
    }
    bias
}

/// Catches a target whose least loss lies elsewhere than theory says: the gap between the true class's logit and
/// another one's is finite, ln(q[y] / q[k]) (Müller, Kornblith, Hinton 2019, "When does label smoothing help?").
#[test]
fn the_optimum_has_the_logit_gap_of_theory() {
    for (classes, e) in [(2, 0.1), (3, 0.3), (10, 0.1), (10, 0.5), (37, 0.05)] {
        let c = classes as f64;
        let gaps = [
            (Prior::Uniform, ((1.0 - e + e / c) / (e / c)).ln()),
            (Prior::OffTarget, ((1.0 - e) * (c - 1.0) / e).ln()),
        ];
        for (prior, gap) in gaps {
            let bias = optimum(&smoothed(classes, e, prior.clone()), 1);
            for k in (0..classes).filter(|&k| k != 1) {
                let found = bias[1] - bias[k];
                assert!((found - gap).abs() <= 1e-9, "{prior:?} over {classes}, e {e}: gap {found}, expected {gap}");
            }
        }
    }
    // With a prior, the gap to each class is its own.
    let (e, prior) = (0.2, [0.1, 0.2, 0.3, 0.4]);
    let bias = optimum(&smoothed(4, e, Prior::Given(prior.to_vec())), 0);
    for k in 1..4 {
        let gap = ((1.0 - e + e * prior[0]) / (e * prior[k])).ln();
        assert!((bias[0] - bias[k] - gap).abs() <= 1e-9, "class {k}");
    }
}

/// Catches an entropy that is not the least the loss can be: it is reached where p goes as the masses do. A class
/// without mass has a logit so low that its p is 0.
#[test]
fn the_entropy_of_the_targets_is_the_least_loss() {
    let (n, classes) = (7, 9);
    for features in Features::all().into_iter().filter(|features| features.epsilon >= 0.0) {
        let loss = features.loss(classes);
        let labels = features.targets(&loss, n);
        let mut whole = Loss::new(Form::Weighted(loss.clone()), features.epsilon);
        let targets = if features.soft {
            let rows: Vec<f64> = features.distributions(n, classes);
            // Distributions over the classes that take part.
            let part =
                |row: &[f64]| row.iter().zip(loss.allowed()).map(|(t, &a)| if a { *t } else { 0.0 }).sum::<f64>();
            let rows: Vec<f32> =
                rows.chunks(classes).flat_map(|row| row.iter().map(move |t| (t / part(row)) as f32)).collect();
            whole = whole.with_soft_targets(rows.clone().into()).unwrap();
            Targets::Soft(rows.into_iter().map(f64::from).collect())
        } else {
            Targets::Index(labels.clone())
        };
        let logits: Vec<f64> = (0..n)
            .flat_map(|row| {
                let masses =
                    targets.with(|targets| smoothcnn::loss::weighted::reference::masses::<f64>(&loss, targets, row));
                masses.unwrap_or(vec![1.0; classes]).into_iter().map(|a| a.ln().max(-1e4)).collect::<Vec<_>>()
            })
            .collect();
        let entropy = whole.entropy(&labels, classes, &(0..n as u32).collect::<Vec<_>>(), 1);
        let least: f64 = run(&loss, &targets, &logits, &vec![1.0; n]).0.iter().sum();
        assert!((entropy - least).abs() <= 1e-10 * n as f64, "{features:?}: {entropy}, but the loss can be {least}");
    }
    // There is no least loss, and no number for it.
    let negative = Loss::from(Smoothing { variant: Variant::Uniform, epsilon: -0.1 });
    assert!(negative.entropy(&[1], 9, &[0], 1).is_nan());
}

/// Catches an epoch's epsilon that is off by one update, at both ends of a schedule; and one of the other kind of mass.
#[test]
fn an_update_has_the_epsilon_of_the_updates_before_it() {
    for variant in [Variant::Uniform, Variant::OffTarget] {
        let loss = Loss::from(Smoothing { variant, epsilon: 0.4 }).scheduled(Schedule::rising(4));
        for (t, expected) in [(1, 0.0), (3, 0.2), (5, 0.4), (9, 0.4)] {
            assert!((loss.epsilon(t) - expected).abs() < 1e-15);
            assert_eq!(loss.at(t), Form::Smoothed(Smoothing { variant, epsilon: loss.epsilon(t) }));
        }
    }
    // Off-target over the 3 classes that take part: 0.4 is 0.6 of the form with a prior.
    let spec = Spec { prior: Prior::OffTarget, allowed: Some(vec![true, true, false, true]), ..Spec::new(4) };
    let full = WeightedLoss::new(&Spec { epsilon: Epsilon::new(0.4).unwrap(), ..spec }).unwrap();
    let loss = Loss::new(Form::Weighted(full.clone()), 0.4).scheduled(Schedule::falling(4));
    let Form::Weighted(half) = loss.at(3) else { panic!("another form") };
    assert!((half.epsilon() - 0.3).abs() < 1e-15 && (full.epsilon() - 0.6).abs() < 1e-15);
    assert_eq!(loss.at(1), Form::Weighted(full));
}
