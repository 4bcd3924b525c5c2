//! Laws of the losses that smoothing is compared with.

use proptest::prelude::*;
use smoothcnn::layer::Element;
use smoothcnn::loss::comparator::ComparatorLoss;
use smoothcnn::loss::smoothing::Masses;
use smoothcnn::ops::IGNORED;

use super::config;
use crate::op::{Op, targets, uniform};

/// Losses, and gradients of the logits for an upstream gradient of 1.
fn run<T: Element>(loss: ComparatorLoss, targets: &[u32], logits: &[T]) -> (Vec<T>, Vec<T>) {
    let op = Op::ComparatorLoss { loss, targets: targets.to_vec() };
    let inputs = [logits.to_vec()];
    (op.forward(&inputs), op.backward(&inputs, &vec![T::one(); targets.len()]).remove(0))
}

fn focal(classes: usize, gamma: f64) -> ComparatorLoss {
    ComparatorLoss::focal(classes, gamma).unwrap()
}

fn penalty(classes: usize, beta: f64) -> ComparatorLoss {
    ComparatorLoss::confidence_penalty(classes, beta).unwrap()
}

proptest! {
    #![proptest_config(config())]

    /// Catches a factor that does not vanish at 0: with no strength each is plain cross-entropy.
    #[test]
    fn with_no_strength_both_are_cross_entropy(n in 1..4usize, classes in 2..300usize, stream in 0..1000u64) {
        let (targets, logits) = (targets(n, classes, stream), uniform(n * classes, -10.0, 10.0, stream));
        let plain = Op::SmoothedLoss { masses: Masses { on: 1.0, off: 0.0 }, classes, targets: targets.clone() };
        let inputs = [logits.clone()];
        let (expected, d_expected) = (plain.forward(&inputs), plain.backward(&inputs, &vec![1.0; n]).remove(0));
        for loss in [focal(classes, 0.0), penalty(classes, 0.0)] {
            let (losses, dlogits) = run(loss, &targets, &logits);
            for (found, expected) in losses.iter().zip(&expected).chain(dlogits.iter().zip(&d_expected)) {
                prop_assert!((found - expected).abs() <= 1e-14 * classes as f64, "{found}, expected {expected}");
            }
        }
    }

    /// Catches a term that sees the logits' level: each row of the gradient sums to zero.
    #[test]
    fn gradient_rows_sum_to_zero(classes in 2..300usize, strength in 0.0..4.0f64, stream in 0..1000u64) {
        let (targets, logits) = (targets(2, classes, stream), uniform(2 * classes, -10.0, 10.0, stream));
        for loss in [focal(classes, strength), penalty(classes, strength)] {
            for row in run(loss, &targets, &logits).1.chunks(classes) {
                let sum: f64 = row.iter().sum();
                prop_assert!(sum.abs() <= 1e-14 * classes as f64 * (1.0 + strength), "{loss:?}: {sum:e}");
            }
        }
    }
}

/// Catches another base of the logarithm, or a sign: for equal logits p is 1/C and H is ln C.
#[test]
fn equal_logits_cost_what_the_formulas_say() {
    for classes in [2, 10, 1000] {
        let (c, logits) = (classes as f64, vec![3.0; classes]);
        let expected = (1.0 - 1.0 / c).powi(2) * c.ln();
        assert!((run(focal(classes, 2.0), &[1], &logits).0[0] - expected).abs() <= 1e-13);
        assert!((run(penalty(classes, 0.25), &[1], &logits).0[0] - 0.75 * c.ln()).abs() <= 1e-13);
    }
}

/// Catches 0/0 and 0 times infinity where the prediction is certain, and an ignored sample that is read.
#[test]
fn certainty_is_finite_and_the_ignored_is_not_read() {
    for gamma in [0.25, 1.0, 2.0] {
        let (losses, dlogits) = run(focal(3, gamma), &[0, IGNORED], &[1e4, -1e4, -1e4, f64::NAN, 0.0, 0.0]);
        assert!(losses.iter().chain(&dlogits).all(|v| *v == 0.0), "{gamma}: {losses:?} {dlogits:?}");
        let (losses, dlogits) = run(focal(3, gamma), &[1], &[1e4, -1e4, -1e4]);
        assert_eq!((losses, dlogits), (vec![2e4], vec![1.0, -1.0, 0.0]));
    }
    let (losses, dlogits) = run(penalty(3, 0.5), &[0, IGNORED], &[1e4, -1e4, -1e4, f64::NAN, 0.0, 0.0]);
    assert!(losses.iter().chain(&dlogits).all(|v| *v == 0.0), "{losses:?} {dlogits:?}");
}

#[test]
fn strengths_are_numbers_from_zero_on() {
    for bad in [-0.1, f64::NAN, f64::INFINITY] {
        assert!(ComparatorLoss::focal(3, bad).is_err() && ComparatorLoss::confidence_penalty(3, bad).is_err());
    }
}
