//! What a set of logits is worth: loss, accuracy, and how far the confidences can be trusted.
//!
//! With z the logits of an image, y its class, p = softmax(z), c = argmax z, and the mean over the images unless another
//! one is given:
//!
//! | metric           | definition                                                | source                               |
//! |------------------|-----------------------------------------------------------|--------------------------------------|
//! | loss             | -sum_k q_k ln p_k, q the smoothed target                  | [`crate::loss::smoothing`]                 |
//! | nll              | -ln p_y                                                   |                                      |
//! | accuracy         | c = y                                                     |                                      |
//! | ece              | sum over bins of \|bin\|/n * \|accuracy - confidence\|    | Guo et al. 2017, eq. 3, [`ECE_BINS`] bins |
//! | brier            | sum_k (p_k - \[k = y\])^2, from 0 to 2                    | Brier 1950                           |
//! | confidence       | p_c                                                       |                                      |
//! | ece_equal_mass   | ece over bins that hold as many images each               | Nguyen and O'Connor 2015             |
//! | ece_classwise    | mean over k of the ece of p_k as a forecast of y = k      | Kull et al. 2019                     |
//! | mce              | max over bins of \|accuracy - confidence\|                | Guo et al. 2017, eq. 5               |
//! | confidence_right | p_c over the images with c = y (confidence_wrong: c != y) |                                      |
//! | above_99         | p_c > 0.99                                                |                                      |
//! | aurc             | mean over i = 1..n of the error among the i surest images | Geifman and El-Yaniv 2017            |
//! | excess_loss      | loss - entropy of q = KL(q, p)                            | [`Smoothing::target_entropy`]        |
//!
//! [`calibration`] and [`selective`] say where bins begin and what equal confidences do; [`bootstrap`] gives intervals.

pub mod bootstrap;
pub mod calibration;
pub mod loss;
pub mod selective;
pub mod temperature;
#[cfg(test)]
mod tests;

use crate::loss::smoothing::{Masses, Smoothing, excess};

/// How many bins the calibration errors sort the probabilities into (Guo et al. 2017 use 15).
pub const ECE_BINS: usize = 15;

/// The metrics of a set of images. Losses are in nats, everything else is a fraction (not per cent).
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
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
    /// Expected calibration error over [`ECE_BINS`] bins of equal width.
    pub ece: f64,
    /// Brier score, the sum over the classes (0 to 2).
    pub brier: f64,
    /// Mean of the largest probability.
    pub mean_confidence: f64,
    /// Expected calibration error over [`ECE_BINS`] bins of equally many images.
    pub ece_equal_mass: f64,
    /// Mean over the classes of the expected calibration error of that class's probability.
    pub ece_classwise: f64,
    /// Largest calibration error of a bin of equal width.
    pub mce: f64,
    /// Mean confidence where the answer is right; `None` where none is.
    pub confidence_right: Option<f64>,
    /// Mean confidence where the answer is wrong; `None` where none is.
    pub confidence_wrong: Option<f64>,
    /// Share of images with a confidence above 0.99.
    pub above_99: f64,
    /// Area under the risk-coverage curve.
    pub aurc: f64,
    /// By how much the smoothed loss exceeds the least it can be: at least 0, NaN for a negative epsilon.
    pub excess_loss: f64,
}

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

/// The metrics of `logits` (`[labels.len(), classes]`, row-major) against `labels`.
///
/// An image whose softmax is not a number (a NaN or an infinite logit) counts as wrong and makes everything else that
/// it enters NaN: all but accuracy, error and confidence_right. With no images every mean is NaN: there is nothing to
/// average. (serde_json writes NaN as null.)
///
/// # Panics
///
/// If there are not `classes` logits for each label, or a label is not below `classes`: both are the caller's to see
/// to ([`crate::data::Dataset`] holds only such labels).
pub fn evaluate(logits: &[f64], labels: &[u32], classes: usize, smoothing: Smoothing) -> Metrics {
    let predictions = predictions(logits, labels, classes, smoothing);
    let n = predictions.len() as f64;
    let sum = |of: fn(&Prediction) -> f64| predictions.iter().map(of).sum::<f64>();
    let right = predictions.iter().filter(|p| p.right).count();
    let confidence = |right: bool| {
        let (count, sum) = predictions
            .iter()
            .filter(|p| p.right == right)
            .fold((0usize, 0.0), |(count, sum), p| (count + 1, sum + p.confidence));
        (count > 0).then(|| sum / count as f64)
    };
    let above = |p: &Prediction| if p.confidence.is_nan() { f64::NAN } else { f64::from(p.confidence > 0.99) };
    let loss = sum(|p| p.loss) / n;
    Metrics {
        images: predictions.len(),
        loss,
        nll: sum(|p| p.nll) / n,
        accuracy: right as f64 / n,
        error: (predictions.len() - right) as f64 / n,
        ece: calibration::ece(&predictions),
        brier: sum(|p| p.brier) / n,
        mean_confidence: sum(|p| p.confidence) / n,
        ece_equal_mass: calibration::ece_equal_mass(&predictions),
        ece_classwise: calibration::ece_classwise(logits, labels, classes),
        mce: calibration::mce(&predictions),
        confidence_right: confidence(true),
        confidence_wrong: confidence(false),
        above_99: sum(above) / n,
        aurc: selective::aurc(&predictions),
        excess_loss: excess(loss - smoothing.target_entropy(classes)),
    }
}

/// The softmax of each row of `logits` (`[images, classes]`, row-major), laid out as they are. NaN throughout a row that
/// holds a NaN or an infinite logit.
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
/// As [`evaluate`].
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
    Prediction {
        right: top == label,
        confidence: 1.0 / sum, // not exp(log_p(top)), which could round to above 1
        loss: -on * log_p(label) - (0..row.len()).map(rest).sum::<f64>(),
        nll: -log_p(label),
        brier: (0..row.len()).map(|k| (log_p(k).exp() - f64::from(k == label)).powi(2)).sum(),
    }
}

/// The softmax of a row: p_k = exp(z_k - z_top) / sum. No exponent is above 0, and one is 0, so the sum is in [1, C].
struct Softmax {
    /// The place of the row's largest logit, the first of equals.
    top: usize,
    sum: f64,
}

impl Softmax {
    /// `None` where a logit is NaN or infinite.
    fn of(row: &[f64]) -> Option<Self> {
        if row.iter().any(|z| !z.is_finite()) {
            return None;
        }
        let top = (1..row.len()).fold(0, |top, k| if row[k] > row[top] { k } else { top });
        Some(Self { top, sum: row.iter().map(|z| (z - row[top]).exp()).sum() })
    }
}
