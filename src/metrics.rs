//! What a set of logits is worth: loss, accuracy, and how far the confidences can be trusted.
//!
//! With z the logits of an image, y its class, p = softmax(z), c = argmax z, and the mean over the images throughout:
//!
//! | metric     | definition                                              | source                                  |
//! |------------|---------------------------------------------------------|-----------------------------------------|
//! | loss       | -sum_k q_k ln p_k, q the smoothed target                | [`crate::smoothing`]                    |
//! | nll        | -ln p_y                                                 |                                         |
//! | accuracy   | c = y                                                   |                                         |
//! | ece        | sum over bins of \|bin\|/n * \|accuracy - confidence\|  | Guo et al. 2017, eq. 3, [`ECE_BINS`] bins |
//! | brier      | sum_k (p_k - \[k = y\])^2, from 0 to 2                  | Brier 1950                              |
//! | confidence | p_c                                                     |                                         |

use crate::smoothing::{Masses, Smoothing};

/// How many bins of equal width the expected calibration error sorts the confidences into (Guo et al. 2017 use 15).
pub const ECE_BINS: usize = 15;

/// The metrics of a set of images. Losses are in nats, everything else is a fraction (not per cent).
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Metrics {
    /// How many images.
    pub images: usize,
    /// Mean smoothed cross-entropy.
    pub loss: f64,
    /// Mean cross-entropy against the plain target.
    pub nll: f64,
    /// Share of images whose first largest logit is the label's.
    pub accuracy: f64,
    /// The other images' share: wrong / images.
    pub error: f64,
    /// Expected calibration error over [`ECE_BINS`] bins.
    pub ece: f64,
    /// Brier score, the sum over the classes (0 to 2).
    pub brier: f64,
    /// Mean of the largest probability.
    pub mean_confidence: f64,
}

/// The metrics of `logits` (`[labels.len(), classes]`, row-major) against `labels`.
///
/// An image whose softmax is not a number (a NaN or an infinite logit) counts as wrong and makes loss, nll, ece, brier
/// and mean_confidence NaN. With no images every mean is NaN: there is nothing to average. (serde_json writes NaN as
/// null.)
///
/// # Panics
///
/// If there are not `classes` logits for each label, or a label is not below `classes`: both are the caller's to see
/// to ([`crate::data::Dataset`] holds only such labels).
pub fn evaluate(logits: &[f64], labels: &[u32], classes: usize, smoothing: Smoothing) -> Metrics {
    assert_eq!(logits.len(), labels.len() * classes, "logits for {} images of {classes} classes", labels.len());
    let Masses { on, off } = smoothing.masses(classes);
    let (mut loss, mut nll, mut right, mut brier, mut confidence) = (0.0, 0.0, 0usize, 0.0, 0.0);
    // Per bin, sum of (right - confidence): |bin| * |accuracy - confidence| is its absolute value.
    let mut gaps = [0.0; ECE_BINS];

    for (i, &label) in labels.iter().enumerate() {
        let (row, label) = (&logits[i * classes..][..classes], label as usize);
        assert!(label < classes, "label {label} of image {i}, expected below {classes}");
        if row.iter().any(|z| !z.is_finite()) {
            (loss, nll, brier, confidence, gaps[0]) = (f64::NAN, f64::NAN, f64::NAN, f64::NAN, f64::NAN);
            continue;
        }
        let top = first_max(row);
        // ln p_k = (z_k - max) - ln sum exp(z - max): no exponent is above 0, and one is 0, so the sum is in [1, C].
        let sum: f64 = row.iter().map(|z| (z - row[top]).exp()).sum();
        let log_p = |k: usize| row[k] - row[top] - sum.ln();
        nll -= log_p(label);
        // off = 0 is plain cross-entropy; skipping the rest keeps 0 * -inf (logits near f64's ends) out of it.
        let rest = |k: usize| if off == 0.0 || k == label { 0.0 } else { off * log_p(k) };
        loss -= on * log_p(label) + (0..classes).map(rest).sum::<f64>();
        brier += (0..classes).map(|k| (log_p(k).exp() - f64::from(k == label)).powi(2)).sum::<f64>();
        let p_top = 1.0 / sum; // not exp(log_p(top)), which could round to above 1
        confidence += p_top;
        right += usize::from(top == label);
        gaps[bin(p_top)] += f64::from(top == label) - p_top;
    }

    let n = labels.len() as f64;
    Metrics {
        images: labels.len(),
        loss: loss / n,
        nll: nll / n,
        accuracy: right as f64 / n,
        error: (labels.len() - right) as f64 / n,
        ece: gaps.iter().map(|gap| gap.abs()).sum::<f64>() / n,
        brier: brier / n,
        mean_confidence: confidence / n,
    }
}

/// The place of the row's largest value, the first of equals. The row has no NaN.
fn first_max(row: &[f64]) -> usize {
    (1..row.len()).fold(0, |top, k| if row[k] > row[top] { k } else { top })
}

/// The bin of a confidence in (0, 1]: bin b holds (b/15, (b+1)/15], so an edge belongs to the bin below it and 1 to the
/// last. It compares with the edges themselves: confidence * 15 could round across one.
fn bin(confidence: f64) -> usize {
    (1..ECE_BINS).filter(|&b| confidence > b as f64 / ECE_BINS as f64).count()
}

#[cfg(test)]
#[path = "../tests/common/golden.rs"]
mod golden;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smoothing::Variant;

    fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
        let error = (found - expected).abs() / expected.abs().max(1.0);
        assert!(error <= tolerance, "{what}: found {found}, expected {expected}");
    }

    #[test]
    fn recorded_values() {
        let golden = golden::Golden::open("metrics");
        let cases = golden.cases();
        assert_eq!(cases.len(), 7);
        for case in cases {
            let variant = match case.text("variant") {
                "uniform" => Variant::Uniform,
                _ => Variant::OffTarget,
            };
            let smoothing = Smoothing { variant, epsilon: case.parse("epsilon") };
            let labels = case.labels("labels");
            let found = evaluate(&case.f64("logits"), &labels, case.parse("classes"), smoothing);
            let check = |found, key: &str, tolerance| {
                close(found, case.scalar(key), tolerance, &format!("{} {key}", case.name));
            };
            assert_eq!(found.images, case.parse::<usize>("n"));
            check(found.loss, "loss", 1e-13);
            check(found.nll, "nll", 1e-13);
            check(found.accuracy, "accuracy", 1e-15);
            check(1.0 - found.error, "accuracy", 1e-15);
            check(found.ece, "ece", 3e-7); // torchmetrics counts in float32
            check(found.brier, "brier", 1e-13);
            check(found.mean_confidence, "mean_confidence", 1e-13);
        }
    }

    #[test]
    fn edges_belong_to_the_bin_below() {
        for b in 1..=ECE_BINS {
            let edge = b as f64 / ECE_BINS as f64;
            assert_eq!(bin(edge), b - 1, "{edge}");
            assert_eq!(bin(edge.next_down()), b - 1);
            assert_eq!(bin(edge.next_up()), b.min(ECE_BINS - 1));
        }
        assert_eq!(bin(f64::MIN_POSITIVE), 0);
    }

    #[test]
    fn confidence_on_an_edge() {
        // Five equal logits: confidence 1/5 = 3/15, in (2/15, 3/15]. The second image's is just above: another bin.
        let logits = [0.0, 0.0, 0.0, 0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 0.0];
        let above = 0.01f64.exp() / (0.01f64.exp() + 4.0);
        let found = evaluate(&logits, &[0, 1], 5, Smoothing::NONE);
        close(found.ece, (0.8 + above) / 2.0, 1e-15, "ece");
        close(found.accuracy, 0.5, 0.0, "accuracy: the first of equals");
    }

    #[test]
    fn certain() {
        let smoothing = Smoothing::new(Variant::Uniform, 0.1, 2).unwrap();
        let found = evaluate(&[1e4, -1e4, 1e4, -1e4], &[0, 1], 2, smoothing);
        assert_eq!((found.mean_confidence, found.accuracy, found.error, found.ece), (1.0, 0.5, 0.5, 0.5));
        assert_eq!((found.nll, found.brier), (1e4, 1.0));
        close(found.loss, (0.05 * 2e4 + 0.95 * 2e4) / 2.0, 1e-15, "loss");

        let right = evaluate(&[1e4, -1e4], &[0], 2, Smoothing::NONE);
        assert_eq!((right.loss, right.nll, right.ece, right.brier, right.error), (0.0, 0.0, 0.0, 0.0, 0.0));
    }

    #[test]
    fn all_one_class() {
        // Every image says class 2 with p = 1/2, and class 2 it is: accuracy 1 at confidence 1/2.
        let logits = [0.0, 0.0, 2f64.ln()].repeat(8);
        let found = evaluate(&logits, &[2; 8], 3, Smoothing::NONE);
        assert_eq!((found.images, found.accuracy, found.error), (8, 1.0, 0.0));
        close(found.ece, 0.5, 1e-15, "ece");
        close(found.nll, 2f64.ln(), 1e-15, "nll");
        close(found.brier, 0.25 + 2.0 / 16.0, 1e-15, "brier");
        // A single class: nothing to get wrong.
        let one = evaluate(&[3.0, -4.0], &[0, 0], 1, Smoothing::NONE);
        assert_eq!((one.loss, one.accuracy, one.ece, one.brier, one.mean_confidence), (0.0, 1.0, 0.0, 0.0, 1.0));
    }

    #[test]
    fn not_a_number_is_wrong() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let found = evaluate(&[bad, 0.0, 1.0, 0.0], &[0, 0], 2, Smoothing::NONE);
            assert_eq!((found.images, found.accuracy, found.error), (2, 0.5, 0.5), "{bad}");
            for value in [found.loss, found.nll, found.ece, found.brier, found.mean_confidence] {
                assert!(value.is_nan(), "{bad}: {found:?}");
            }
        }
    }

    #[test]
    fn no_images() {
        let found = evaluate(&[], &[], 10, Smoothing::NONE);
        assert_eq!(found.images, 0);
        assert!(found.loss.is_nan() && found.accuracy.is_nan() && found.error.is_nan() && found.ece.is_nan());
    }

    #[test]
    fn the_ends_of_f64() {
        let found = evaluate(&[f64::MAX, f64::MIN], &[0], 2, Smoothing::NONE);
        assert_eq!((found.loss, found.nll, found.accuracy, found.brier), (0.0, 0.0, 1.0, 0.0));
    }
}
