//! Laws of the losses with a penalty on the largest logit.

use proptest::prelude::*;
use smoothcnn::layer::Element;
use smoothcnn::loss::logit_penalty::LogitPenalty;
use smoothcnn::loss::smoothing::{Masses, Smoothing, Variant};
use smoothcnn::ops::IGNORED;

use super::config;
use crate::op::{Op, targets, uniform};

/// Losses, and gradients of the logits for an upstream gradient of 1.
fn run<T: Element>(op: Op, logits: &[T], n: usize) -> (Vec<T>, Vec<T>) {
    let inputs = [logits.to_vec()];
    (op.forward(&inputs), op.backward(&inputs, &vec![T::one(); n]).remove(0))
}

fn penalty(loss: LogitPenalty, targets: &[u32]) -> Op {
    Op::LogitPenalty { loss, targets: targets.to_vec() }
}

fn smoothed(masses: Masses, classes: usize, targets: &[u32]) -> Op {
    Op::SmoothedLoss { masses, classes, targets: targets.to_vec() }
}

fn same(found: (Vec<f64>, Vec<f64>), expected: (Vec<f64>, Vec<f64>), tolerance: f64) -> Result<(), TestCaseError> {
    for (found, expected) in found.0.iter().zip(&expected.0).chain(found.1.iter().zip(&expected.1)) {
        prop_assert!((found - expected).abs() <= tolerance, "{found}, expected {expected}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    /// Catches a factor that does not vanish at 0, and a margin that nothing is within.
    #[test]
    fn with_no_strength_both_are_cross_entropy(n in 1..4usize, classes in 2..300usize, stream in 0..1000u64) {
        let (targets, logits) = (targets(n, classes, stream), uniform(n * classes, -10.0, 10.0, stream));
        let plain = || run(smoothed(Masses { on: 1.0, off: 0.0 }, classes, &targets), &logits, n);
        for loss in [
            LogitPenalty::maxsup(classes, 0.0), LogitPenalty::mbls(classes, 0.0, 1.0), LogitPenalty::mbls(classes, 1.0, 20.0),
        ] {
            same(run(penalty(loss.unwrap(), &targets), &logits, n), plain(), 1e-14 * classes as f64)?;
        }
    }

    /// Where the answer is right MaxSup is uniform label smoothing, to the last digit but for rounding.
    #[test]
    fn of_right_answers_maxsup_is_label_smoothing(classes in 2..100usize, alpha in 0.0..0.9f64, stream in 0..1000u64) {
        let logits = uniform(classes, -10.0, 10.0, stream);
        let answer = (0..classes).max_by(|&a, &b| f64::total_cmp(&logits[a], &logits[b])).unwrap() as u32;
        let loss = LogitPenalty::maxsup(classes, alpha).unwrap();
        let masses = Smoothing { variant: Variant::Uniform, epsilon: alpha }.masses(classes);
        let expected = run(smoothed(masses, classes, &[answer]), &logits, 1);
        same(run(penalty(loss, &[answer]), &logits, 1), expected, 1e-13 * classes as f64)?;
    }

    /// Catches a term that sees the logits' level: each row of the gradient sums to zero.
    #[test]
    fn gradient_rows_sum_to_zero(classes in 2..300usize, strength in 0.0..4.0f64, margin in 0.0..10.0f64, stream in 0..1000u64) {
        let (targets, logits) = (targets(2, classes, stream), uniform(2 * classes, -10.0, 10.0, stream));
        for loss in [LogitPenalty::maxsup(classes, strength), LogitPenalty::mbls(classes, strength, margin)] {
            for row in run(penalty(loss.unwrap(), &targets), &logits, 2).1.chunks(classes) {
                let sum: f64 = row.iter().sum();
                prop_assert!(sum.abs() <= 1e-14 * classes as f64 * (1.0 + strength), "{sum:e}");
            }
        }
    }
}

/// By hand: logits 5, 3, 0 of class 1. The mean is 8/3; with a margin of 1, 1 and 4 are beyond it.
#[test]
fn three_logits_by_hand() {
    let logits = [5.0, 3.0, 0.0];
    let plain = run(smoothed(Masses { on: 1.0, off: 0.0 }, 3, &[1]), &logits, 1);
    let near = |found: &[f64], more: &[f64], plain: &[f64]| {
        for ((found, more), plain) in found.iter().zip(more).zip(plain) {
            assert!((found - plain - more).abs() < 1e-14, "{found}, expected {plain} and {more}");
        }
    };
    let (losses, dlogits) = run(penalty(LogitPenalty::maxsup(3, 0.3).unwrap(), &[1]), &logits, 1);
    near(&losses, &[0.3 * (5.0 - 8.0 / 3.0)], &plain.0);
    near(&dlogits, &[0.2, -0.1, -0.1], &plain.1);
    let (losses, dlogits) = run(penalty(LogitPenalty::mbls(3, 0.6, 1.0).unwrap(), &[1]), &logits, 1);
    near(&losses, &[0.6 / 3.0 * 5.0], &plain.0);
    near(&dlogits, &[0.4, -0.2, -0.2], &plain.1);
}

#[test]
fn the_ignored_is_not_read_and_strengths_are_numbers_from_zero_on() {
    for loss in [LogitPenalty::maxsup(3, 0.5), LogitPenalty::mbls(3, 0.5, 1.0)] {
        let (losses, dlogits) = run(penalty(loss.unwrap(), &[IGNORED]), &[f64::NAN, 0.0, 0.0], 1);
        assert!(losses.iter().chain(&dlogits).all(|v| *v == 0.0), "{losses:?} {dlogits:?}");
    }
    for bad in [-0.1, f64::NAN, f64::INFINITY] {
        assert!(LogitPenalty::maxsup(3, bad).is_err());
        assert!(LogitPenalty::mbls(3, bad, 1.0).is_err() && LogitPenalty::mbls(3, 1.0, bad).is_err());
    }
}
