//! Calibration errors: how far confidences are from the share of right answers among them.
//!
//! Bins of equal width: bin b of B = [`ECE_BINS`] holds the probabilities in (b/B, (b+1)/B], so an edge belongs to the
//! bin below it and 1 to the last; 0 belongs to the first. Empty bins count for nothing.
//!
//! Bins of equal mass: of n confidences in ascending order, inner edge b = 1..B-1 is the one of rank ceil(b n / B)
//! (numpy's quantile b/B by `inverted_cdf`), and bin b holds the confidences above inner edge b and up to inner edge
//! b+1. Where no two are equal, the bins' sizes differ by at most one; equal confidences always share a bin, so that
//! the order of the images does not matter, and then bins may be larger, and others empty.
//!
//! Sources: Naeini, Cooper, Hauskrecht 2015 and Guo, Pleiss, Sun, Weinberger 2017 (equal width); Nguyen and O'Connor
//! 2015, "Posterior calibration and exploratory analysis", and Nixon et al. 2019, "Measuring calibration in deep
//! learning" (equal mass; here of the top confidence, where Nixon et al.'s ACE averages over the classes); Kull et al.
//! 2019, "Beyond temperature scaling", eq. 3 (classwise).

use statrs::distribution::{Binomial, DiscreteCDF};

use super::prediction::Softmax;
use super::{ECE_BINS, Prediction};

/// A bar of a reliability diagram.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Bin {
    /// How many images.
    pub images: usize,
    /// Their mean confidence; NaN where there are none, or where one of them has none.
    pub confidence: f64,
    /// The share of right answers among them; NaN where there are none.
    pub accuracy: f64,
}

impl Bin {
    /// Where the accuracy would lie in 95 of 100 test sets if the confidence were exactly true: the quantiles of a
    /// binomial distribution (consistency bars: Bröcker and Smith 2007). Each image of the bin counts with the mean
    /// confidence, which makes it a little wide. `None` without images or without a confidence.
    pub fn consistent(&self) -> Option<[f64; 2]> {
        // A mean may be rounded above 1; NaN stays what it is, and has no distribution.
        let confidence = if self.confidence > 1.0 { 1.0 } else { self.confidence };
        let true_one = Binomial::new(confidence, self.images as u64).ok().filter(|_| self.images > 0)?;
        Some([0.025, 0.975].map(|share| true_one.inverse_cdf(share) as f64 / self.images as f64))
    }
}

/// What a bin holds. The sum of (right - confidence) is |bin| * (accuracy - confidence).
#[derive(Clone, Copy, Default)]
struct Sums {
    images: usize,
    right: usize,
    gap: f64,
}

impl Sums {
    fn add(&mut self, right: bool, probability: f64) {
        self.images += 1;
        self.right += usize::from(right);
        self.gap += f64::from(right) - probability;
    }
}

/// The error of filled bins: sum over bins of |bin|/n * |accuracy - confidence|, NaN where n is 0.
fn expected(bins: &[Sums], n: usize) -> f64 {
    bins.iter().map(|bin| bin.gap.abs()).sum::<f64>() / n as f64
}

fn fill(predictions: &[Prediction], bin: impl Fn(f64) -> usize) -> [Sums; ECE_BINS] {
    let mut bins = [Sums::default(); ECE_BINS];
    for p in predictions {
        bins[bin(p.confidence)].add(p.right, p.confidence);
    }
    bins
}

/// The bin of equal width of a probability in [0, 1]; NaN is put into the first, whose sums it makes NaN. It compares
/// with the edges themselves: probability * 15 could round across one.
pub fn equal_width(probability: f64) -> usize {
    (1..ECE_BINS).filter(|&b| probability > b as f64 / ECE_BINS as f64).count()
}

/// The reliability diagram: the [`ECE_BINS`] bins of equal width, from the lowest.
pub fn reliability(predictions: &[Prediction]) -> Vec<Bin> {
    let mut confidence = [0.0; ECE_BINS];
    for p in predictions {
        confidence[equal_width(p.confidence)] += p.confidence;
    }
    let bars = fill(predictions, equal_width).into_iter().zip(confidence);
    bars.map(|(Sums { images, right, .. }, confidence)| Bin {
        images,
        confidence: confidence / images as f64,
        accuracy: right as f64 / images as f64,
    })
    .collect()
}

/// Expected calibration error over bins of equal width; NaN without images or with a NaN confidence.
pub fn ece(predictions: &[Prediction]) -> f64 {
    expected(&fill(predictions, equal_width), predictions.len())
}

/// Maximum calibration error: the largest |accuracy - confidence| of a bin of equal width that is not empty; NaN
/// without images or with a NaN confidence.
pub fn mce(predictions: &[Prediction]) -> f64 {
    if predictions.is_empty() || predictions.iter().any(|p| p.confidence.is_nan()) {
        return f64::NAN;
    }
    let bins = fill(predictions, equal_width);
    bins.iter().filter(|bin| bin.images > 0).map(|bin| bin.gap.abs() / bin.images as f64).fold(0.0, f64::max)
}

/// Expected calibration error over bins of equal mass; NaN without images or with a NaN confidence.
pub fn ece_equal_mass(predictions: &[Prediction]) -> f64 {
    let n = predictions.len();
    if n == 0 || predictions.iter().any(|p| p.confidence.is_nan()) {
        return f64::NAN;
    }
    let mut sorted: Vec<_> = predictions.iter().map(|p| p.confidence).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let edges: Vec<_> = (1..ECE_BINS).map(|b| sorted[(b * n).div_ceil(ECE_BINS) - 1]).collect();
    expected(&fill(predictions, |confidence| edges.partition_point(|&edge| confidence > edge)), n)
}

/// Classwise expected calibration error of `logits` (`[labels.len(), classes]`): for each class k the expected
/// calibration error, over bins of equal width of p_k, of p_k as the probability that the label is k; the mean over the
/// classes. NaN without images or where a logit is NaN or infinite.
pub fn ece_classwise(logits: &[f64], labels: &[u32], classes: usize) -> f64 {
    let mut bins = vec![[Sums::default(); ECE_BINS]; classes];
    for (row, &label) in logits.chunks(classes.max(1)).zip(labels) {
        let Some(Softmax { top, sum }) = Softmax::of(row) else { return f64::NAN };
        for (k, z) in row.iter().enumerate() {
            let p = (z - row[top]).exp() / sum;
            bins[k][equal_width(p)].add(label as usize == k, p);
        }
    }
    bins.iter().map(|bins| expected(bins, labels.len())).sum::<f64>() / classes as f64
}
