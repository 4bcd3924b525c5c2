//! Selective prediction: what is gained by answering only where the confidence is high.
//!
//! Source: Geifman and El-Yaniv 2017, "Selective classification for deep neural networks".

use super::Prediction;
use super::prediction::Softmax;

/// Area under the risk-coverage curve: the mean over i = 1..n of the selective risk at coverage i/n, which is the share
/// of wrong answers among the i images of highest confidence. NaN without images or with a NaN confidence.
///
/// Images of equal confidence are taken in a random order, and the mean over all of those orders is the value: of m
/// such images with w wrong answers, the first j hold w j/m wrong ones on average. So the order of the images does not
/// matter, and with equal confidences throughout the value is the error.
pub fn aurc(predictions: &[Prediction]) -> f64 {
    area(predictions.iter().map(|p| (p.confidence, p.right)).collect())
}

/// The area by other scores than the probability of the answer, which smoothing makes worse at telling right answers
/// from wrong ones. No score changes an answer.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Rankings {
    /// By the largest logit.
    pub aurc_max_logit: f64,
    /// By the largest logit of normalised logits: max (z - mean) / |z - mean|, with the norm of p = 2. With two classes
    /// it is the same for every image: `None`. Source: Cattelan and Silva 2024, "How to fix a broken confidence
    /// estimator", which Xia et al. 2025, "Towards understanding why label smoothing degrades selective classification
    /// and how to fix it", take for smoothed networks; they choose p on images held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aurc_normalised: Option<f64>,
}

impl Rankings {
    /// Of `logits` (`[labels.len(), classes]`, row-major): NaN without images, or where a logit is NaN or infinite.
    pub fn of(logits: &[f64], labels: &[u32], classes: usize) -> Self {
        let by = |score: fn(&[f64], usize) -> f64| {
            let image = |(row, &label): (&[f64], &u32)| match Softmax::of(row) {
                Some(Softmax { top, .. }) => (score(row, top), top == label as usize),
                None => (f64::NAN, false),
            };
            area(logits.chunks(classes.max(1)).zip(labels).map(image).collect())
        };
        let normalised = |row: &[f64], top: usize| {
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            let norm = row.iter().map(|z| (z - mean).powi(2)).sum::<f64>().sqrt();
            // Equal logits say nothing.
            if norm == 0.0 { 0.0 } else { (row[top] - mean) / norm }
        };
        Self { aurc_max_logit: by(|row, top| row[top]), aurc_normalised: (classes > 2).then(|| by(normalised)) }
    }
}

/// The area of images with a score and whether they are answered right.
fn area(mut surest_first: Vec<(f64, bool)>) -> f64 {
    if surest_first.iter().any(|(score, _)| score.is_nan()) {
        return f64::NAN;
    }
    surest_first.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let (mut taken, mut wrong, mut sum) = (0usize, 0usize, 0.0);
    for equals in surest_first.chunk_by(|a, b| a.0 == b.0) {
        let wrong_here = equals.iter().filter(|(_, right)| !right).count();
        let share = wrong_here as f64 / equals.len() as f64;
        for j in 1..=equals.len() {
            sum += (wrong as f64 + share * j as f64) / (taken + j) as f64;
        }
        taken += equals.len();
        wrong += wrong_here;
    }
    sum / taken as f64
}
