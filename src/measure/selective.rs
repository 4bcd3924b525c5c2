//! Selective prediction: what is gained by answering only where the confidence is high.
//!
//! Source: Geifman and El-Yaniv 2017, "Selective classification for deep neural networks".

use super::Prediction;

/// Area under the risk-coverage curve: the mean over i = 1..n of the selective risk at coverage i/n, which is the share
/// of wrong answers among the i images of highest confidence. NaN without images or with a NaN confidence.
///
/// Images of equal confidence are taken in a random order, and the mean over all of those orders is the value: of m
/// such images with w wrong answers, the first j hold w j/m wrong ones on average. So the order of the images does not
/// matter, and with equal confidences throughout the value is the error.
pub fn aurc(predictions: &[Prediction]) -> f64 {
    if predictions.iter().any(|p| p.confidence.is_nan()) {
        return f64::NAN;
    }
    let mut surest_first: Vec<_> = predictions.iter().map(|p| (p.confidence, p.right)).collect();
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
