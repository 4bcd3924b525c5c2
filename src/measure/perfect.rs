//! Is a network calibrated at all? The expected calibration error of a perfectly calibrated network is not 0: in each
//! bin the share of right answers misses the confidence by chance. At 10,000 images that makes 0.003 to 0.006.
//!
//! Sources: Kumar, Liang, Ma 2019, "Verified uncertainty calibration" (the debiased error, `normal_debiased_ce` of
//! their program; here with the mean itself where they draw it); Bröcker and Smith 2007, "Increasing the reliability of
//! reliability diagrams", and Vaicenavicius et al. 2019, "Evaluating model calibration in classification" (the test).

use rayon::prelude::*;
use statrs::function::erf::erf;

use super::calibration::{ece, equal_width};
use super::smooth::smece;
use super::{ECE_BINS, Prediction};
use crate::rng::{Philox, Stream};

/// So many sets of answers are drawn for the test.
pub const DRAWS: usize = 1000;

/// Below this p the network is said not to be calibrated.
pub const LEAST_P: f64 = 0.05;

/// How far from perfect calibration a set of answers is.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Perfection {
    /// The expected calibration error less what chance alone adds to it; see [`ece_debiased`].
    pub ece_debiased: f64,
    /// The smooth calibration error ([`smece`]).
    pub smece: f64,
    /// How likely a perfectly calibrated network has an ECE as large as this one, or larger; see [`p_value`].
    pub calibrated_p: f64,
}

impl Perfection {
    /// Of these predictions; NaN without images or with a NaN confidence.
    pub fn of(predictions: &[Prediction]) -> Self {
        let calibrated_p = p_value(predictions, DRAWS);
        Self { ece_debiased: ece_debiased(predictions), smece: smece(predictions), calibrated_p }
    }

    /// Whether the answers could be those of a perfectly calibrated network.
    pub fn could_be(&self) -> bool {
        self.calibrated_p >= LEAST_P
    }
}

/// Expected calibration error over bins of equal width, less its bias: with N a normal variable around a bin's accuracy
/// a, of variance a (1 - a) / |bin|, the bias is the mean of sum |bin|/n |N - confidence| less the error itself. It is
/// not cut off at 0: below, there is less error than chance would make. A bin of one image has no known variance, and a
/// bias of 0. NaN without images or with a NaN confidence.
pub fn ece_debiased(predictions: &[Prediction]) -> f64 {
    let mut bins = [(0.0, 0.0, 0.0); ECE_BINS];
    for p in predictions {
        let (images, right, confidence) = &mut bins[equal_width(p.confidence)];
        *images += 1.0;
        *right += f64::from(p.right);
        *confidence += p.confidence;
    }
    let n = predictions.len() as f64;
    let of = |(images, right, confidence): &(f64, f64, f64)| {
        let accuracy = right / images;
        let gap = accuracy - confidence / images;
        let deviation = (accuracy * (1.0 - accuracy) / images).sqrt();
        images / n * (2.0 * gap.abs() - mean_size(gap, deviation))
    };
    let filled = bins.iter().filter(|bin| bin.0 > 0.0);
    if predictions.is_empty() { f64::NAN } else { filled.map(of).sum() }
}

/// The mean of |N|, N normal.
fn mean_size(mean: f64, deviation: f64) -> f64 {
    if deviation == 0.0 {
        return mean.abs();
    }
    let z = mean / deviation;
    deviation * (2.0 / std::f64::consts::PI).sqrt() * (-z * z / 2.0).exp() + mean * erf(z / std::f64::consts::SQRT_2)
}

/// The p of the test against perfect calibration: of `draws` sets in which each answer is right with the probability
/// that its confidence says, and of this set, the share whose ECE is at least this one's. Always the same draws. NaN
/// without images or with a NaN confidence.
pub fn p_value(predictions: &[Prediction], draws: usize) -> f64 {
    let found = ece(predictions);
    if found.is_nan() {
        return found;
    }
    let images: Vec<(f64, usize)> = predictions.iter().map(|p| (p.confidence, equal_width(p.confidence))).collect();
    // Equal up to rounding is as large.
    let least = found * predictions.len() as f64 - 1e-9;
    let as_large = |&draw: &usize| {
        let mut rng = Philox::of(0, Stream::Perfect(draw));
        let mut gaps = [0.0f64; ECE_BINS];
        for &(confidence, bin) in &images {
            gaps[bin] += f64::from(rng.uniform() < confidence) - confidence;
        }
        gaps.iter().map(|gap| gap.abs()).sum::<f64>() >= least
    };
    let count = (0..draws).into_par_iter().filter(as_large).count();
    (count + 1) as f64 / (draws + 1) as f64
}

#[cfg(test)]
mod tests {
    use super::super::interval::wilson;
    use super::*;

    /// Images whose confidence is true, or off by `off`.
    fn made_up(images: usize, off: f64, seed: u64) -> Vec<Prediction> {
        let mut rng = Philox::new(seed, 7);
        let image = |_| {
            let confidence = rng.range(0.3, 1.0);
            let right = rng.uniform() < confidence - off;
            Prediction { right, confidence, loss: 0.0, nll: 0.0, brier: 0.0 }
        };
        (0..images).map(image).collect()
    }

    /// Catches a test that calls calibrated networks uncalibrated more often than it says, or that never says no.
    #[test]
    fn the_test_keeps_its_level_and_sees_what_is_there() {
        let refused =
            |off: f64, sets: u64| (0..sets).filter(|&seed| p_value(&made_up(300, off, seed), 200) < LEAST_P).count();
        let [low, high] = wilson(refused(0.0, 300), 300);
        assert!(low < LEAST_P && LEAST_P < high, "{low} {high}");
        assert!(refused(0.15, 40) >= 38);
    }

    /// Catches a bias that is left in, which is most of the error of a calibrated network, or taken away twice.
    #[test]
    fn the_bias_is_taken_away() {
        let mean = |off: f64, of: fn(&[Prediction]) -> f64| {
            (0..200).map(|seed| of(&made_up(1000, off, seed))).sum::<f64>() / 200.0
        };
        let (plain, debiased) = (mean(0.0, ece), mean(0.0, ece_debiased));
        assert!(plain > 0.03 && debiased < 0.6 * plain, "{plain} {debiased}");
        // Off by 0.1 everywhere: the error is 0.1.
        assert!((mean(0.1, ece_debiased) - 0.1).abs() < 0.003, "{}", mean(0.1, ece_debiased));
    }

    #[test]
    fn next_to_nothing() {
        let one = [Prediction { right: true, confidence: 0.8, loss: 0.0, nll: 0.0, brier: 0.0 }];
        assert!((ece_debiased(&one) - 0.2).abs() < 1e-15);
        let [of_one, none] = [&one[..], &[]].map(Perfection::of);
        assert!(of_one.could_be() && of_one.smece > 0.1, "{of_one:?}");
        assert!(none.ece_debiased.is_nan() && none.smece.is_nan() && none.calibrated_p.is_nan() && !none.could_be());
        let bad = Perfection::of(&[Prediction { confidence: f64::NAN, ..one[0] }]);
        assert!(bad.ece_debiased.is_nan() && bad.smece.is_nan() && bad.calibrated_p.is_nan());
    }
}
