//! Bootstrap confidence intervals: how much a number depends on which images happen to be in the set.
//!
//! Source: Efron 1979; Efron and Tibshirani 1993, chapter 13 (the percentile interval). It says nothing of what another
//! training run would give. A calibration error of a resample is on average above that of the set, because noise in the
//! bins only ever adds to it: its interval lies high, the more so the smaller the error and the set.

use rayon::prelude::*;

use super::{ECE_BINS, Prediction, calibration};
use crate::rng::{Philox, Stream};

/// A confidence interval; both ends are NaN where there is nothing to resample or a statistic is NaN.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Interval {
    const NAN: Self = Self { low: f64::NAN, high: f64::NAN };
}

/// Percentile intervals of K statistics of a set of `images` images, all from the same `resamples` resamples: each
/// draws `images` images with replacement, `statistics` gets their numbers, and the interval goes from the (1 -
/// level)/2 quantile of a statistic's values to the (1 + level)/2 quantile ([`quantile`]).
///
/// Resample r comes from its own stream of `seed`: the intervals do not depend on how many threads there are.
///
/// # Panics
///
/// If `level` is not between 0 and 1, or there are 2^32 images or more.
pub fn intervals<const K: usize>(
    images: usize,
    resamples: usize,
    level: f64,
    seed: u64,
    statistics: impl Fn(&[u32]) -> [f64; K] + Sync,
) -> [Interval; K] {
    assert!(level > 0.0 && level < 1.0, "level {level}, expected between 0 and 1");
    let n = u32::try_from(images).expect("fewer than 2^32 images");
    if images == 0 || resamples == 0 {
        return [Interval::NAN; K];
    }
    let resample = |drawn: &mut Vec<u32>, r: usize| {
        let mut rng = Philox::of(seed, Stream::Bootstrap(r));
        drawn.clear();
        drawn.extend((0..n).map(|_| rng.below(n)));
        statistics(drawn)
    };
    let found: Vec<[f64; K]> = (0..resamples).into_par_iter().map_init(Vec::new, resample).collect();
    std::array::from_fn(|k| {
        let mut values: Vec<_> = found.iter().map(|values| values[k]).collect();
        if values.iter().any(|value| value.is_nan()) {
            return Interval::NAN;
        }
        values.sort_unstable_by(f64::total_cmp);
        Interval { low: quantile(&values, (1.0 - level) / 2.0), high: quantile(&values, (1.0 + level) / 2.0) }
    })
}

/// The quantile `q` of ascending values: at place q (n - 1), straight lines between the values (numpy's `linear`).
///
/// # Panics
///
/// If there are no values.
pub fn quantile(ascending: &[f64], q: f64) -> f64 {
    let place = q * (ascending.len() - 1) as f64;
    let (below, above) = (ascending[place.floor() as usize], ascending[place.ceil() as usize]);
    // Not below + t * 0 where both are the same: they may be infinite.
    if below == above { below } else { below + (above - below) * place.fract() }
}

/// Intervals of what a report is about first.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Intervals {
    /// Of the accuracy.
    pub accuracy: Interval,
    /// Of the mean nll.
    pub nll: Interval,
    /// Of the expected calibration error over bins of equal width; see the module on why it lies high.
    pub ece: Interval,
}

/// The `level` intervals of accuracy, nll and ece from `resamples` resamples of `predictions`.
///
/// # Panics
///
/// As [`intervals`].
pub fn of_predictions(predictions: &[Prediction], resamples: usize, level: f64, seed: u64) -> Intervals {
    struct Image {
        nll: f64,
        /// right - confidence.
        gap: f64,
        right: bool,
        bin: u8,
    }
    let image = |p: &Prediction| Image {
        nll: p.nll,
        gap: f64::from(p.right) - p.confidence,
        right: p.right,
        bin: calibration::equal_width(p.confidence) as u8,
    };
    let images: Vec<_> = predictions.iter().map(image).collect();
    let [accuracy, nll, ece] = intervals(images.len(), resamples, level, seed, |drawn| {
        let (mut right, mut nll, mut gaps) = (0usize, 0.0, [0.0f64; ECE_BINS]);
        for &i in drawn {
            let image = &images[i as usize];
            right += usize::from(image.right);
            nll += image.nll;
            gaps[usize::from(image.bin)] += image.gap;
        }
        let n = drawn.len() as f64;
        [right as f64 / n, nll / n, gaps.iter().map(|gap| gap.abs()).sum::<f64>() / n]
    });
    Intervals { accuracy, nll, ece }
}
