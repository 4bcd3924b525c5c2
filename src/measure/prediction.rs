//! What the logits of one image say: its probabilities, and what they come to against its label.

use crate::loss::smoothing::{Masses, Smoothing};

/// How many bins the calibration errors sort the probabilities into (Guo et al. 2017 use 15).
pub const ECE_BINS: usize = 15;

/// What an image's logits say of it. All but `right` are NaN where a logit is NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Whether the first largest logit is the label's; `false` where a logit is NaN or infinite.
    pub right: bool,
    /// The largest probability.
    pub confidence: f64,
    /// Cross-entropy against the smoothed target.
    pub loss: f64,
    /// Cross-entropy against the plain target.
    pub nll: f64,
    /// Squared distance of the probabilities from the plain target.
    pub brier: f64,
}

/// The softmax of each row of `logits` (`[images, classes]`, row-major), laid out as they are. NaN throughout a row
/// that holds a NaN or an infinite logit.
pub fn probabilities(logits: &[f64], classes: usize) -> Vec<f64> {
    let of_row = |row: &[f64]| match Softmax::of(row) {
        Some(Softmax { top, sum }) => row.iter().map(|z| (z - row[top]).exp() / sum).collect::<Vec<_>>(),
        None => vec![f64::NAN; row.len()],
    };
    logits.chunks(classes.max(1)).flat_map(of_row).collect()
}

/// What `logits` (`[labels.len(), classes]`, row-major) say of each image.
///
/// # Panics
///
/// If there are not `classes` logits for each label, or a label is not below `classes`.
pub fn predictions(logits: &[f64], labels: &[u32], classes: usize, smoothing: Smoothing) -> Vec<Prediction> {
    assert_eq!(logits.len(), labels.len() * classes, "logits for {} images of {classes} classes", labels.len());
    let masses = smoothing.masses(classes);
    let of = |(i, &label): (usize, &u32)| {
        assert!((label as usize) < classes, "label {label} of image {i}, expected below {classes}");
        prediction(&logits[i * classes..][..classes], label as usize, masses)
    };
    labels.iter().enumerate().map(of).collect()
}

fn prediction(row: &[f64], label: usize, Masses { on, off }: Masses) -> Prediction {
    let Some(Softmax { top, sum }) = Softmax::of(row) else {
        let nan = f64::NAN;
        return Prediction { right: false, confidence: nan, loss: nan, nll: nan, brier: nan };
    };
    let log_p = |k: usize| row[k] - row[top] - sum.ln();
    // off = 0 is plain cross-entropy; skipping the rest keeps 0 * -inf (logits near f64's ends) out of it.
    let rest = |k: usize| if off == 0.0 || k == label { 0.0 } else { off * log_p(k) };
    // Not -log_p: the loss of a sure and right answer is 0, and not -0, which is shown with its sign.
    let nll = sum.ln() + (row[top] - row[label]);
    Prediction {
        right: top == label,
        confidence: 1.0 / sum, // not exp(log_p(top)), which could round to above 1
        loss: on * nll - (0..row.len()).map(rest).sum::<f64>(),
        nll,
        brier: (0..row.len()).map(|k| (log_p(k).exp() - f64::from(k == label)).powi(2)).sum(),
    }
}

/// The softmax of a row: p_k = exp(z_k - z_top) / sum. No exponent is above 0, and one is 0, so the sum is in [1, C].
pub(super) struct Softmax {
    /// The place of the row's largest logit, the first of equals.
    pub top: usize,
    /// What the exponentials sum up to.
    pub sum: f64,
}

impl Softmax {
    /// `None` where a logit is NaN or infinite.
    pub fn of(row: &[f64]) -> Option<Self> {
        if row.iter().any(|z| !z.is_finite()) {
            return None;
        }
        let top = (1..row.len()).fold(0, |top, k| if row[k] > row[top] { k } else { top });
        Some(Self { top, sum: row.iter().map(|z| (z - row[top]).exp()).sum() })
    }
}
