//! What a set of logits is worth: loss, accuracy, and how far the confidences can be trusted.
//!
//! With z the logits of an image, y its class, p = softmax(z), c = argmax z, and the mean over the images unless
//! another one is given:
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
//! [`perfect`] asks whether a network is calibrated at all, [`conformal`] makes sets that hold the right class as often
//! as they promise. [`agreement`] compares with people's doubt.

pub mod agreement;
pub mod bootstrap;
pub mod calibration;
pub mod classes;
pub mod conformal;
pub mod cross_fit;
pub mod detection;
pub mod interval;
pub mod loss;
pub mod perfect;
mod prediction;
pub mod scaling;
pub mod selective;
pub mod smooth;
pub mod temperature;
#[cfg(test)]
mod tests;

pub use prediction::{ECE_BINS, Prediction, predictions, probabilities};

use crate::loss::smoothing::{Smoothing, excess};

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
