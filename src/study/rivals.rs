//! Other losses held against label smoothing. Each stands at the epsilon that the images held out rank first, where it
//! has one, as smoothing does; the runs are compared in pairs of the same seed.

use serde::Serialize;

use super::choice::{Criterion, HeldOut, ranked};
use super::stats::Estimate;
use super::{AURC, ECE, ECE_SCALED, Measure, NLL_SCALED, Study, TEST_ERROR};
use crate::train::config::loss::LossKind;

/// What they are held against each other by, all on the test set.
pub const MEASURES: [Measure; 5] = [TEST_ERROR, NLL_SCALED, ECE, ECE_SCALED, AURC];

/// Another loss at one rate of label noise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rival {
    /// Which.
    pub loss: LossKind,
    /// The rate of label noise.
    pub label_noise: f64,
    /// Its epsilon; 0 where it has none.
    pub epsilon: f64,
    /// The epsilon of the smoothing that it is held against; `None` without such runs.
    pub smoothing: Option<f64>,
    /// One for each of [`MEASURES`].
    pub measured: Vec<Compared>,
}

/// A measure of another loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// What was measured.
    pub measure: &'static str,
    /// The mean over its seeds.
    pub mean: f64,
    /// By how much it is above plain cross-entropy's.
    pub above_none: Estimate,
    /// By how much it is above that of label smoothing.
    pub above_smoothing: Estimate,
}

/// Every other loss at every rate of noise that `own`, the study of label smoothing, has.
pub fn rivals(own: &Study, others: &[Study], criterion: Criterion, labels: HeldOut) -> Vec<Rival> {
    let at = |noise: f64, other: &Study| {
        let epsilon = *ranked(other, noise, criterion, labels).first()?;
        let smoothing = ranked(own, noise, criterion, labels).into_iter().find(|&e| e > 0.0);
        let compared = |measure: Measure| {
            let above = |than: f64| other.difference_from(noise, epsilon, (own, than), measure);
            let mean = other.of_cell(noise, epsilon, measure).mean;
            Compared {
                measure: measure.name,
                mean,
                above_none: above(0.0),
                above_smoothing: above(smoothing.unwrap_or(f64::NAN)),
            }
        };
        let measured = MEASURES.map(compared).to_vec();
        Some(Rival { loss: other.outcomes()[0].loss, label_noise: noise, epsilon, smoothing, measured })
    };
    own.noises.iter().flat_map(|&noise| others.iter().filter_map(move |other| at(noise, other))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::super::tests::outcome;
    use super::*;

    /// Three seeds. Plain: 20, 21, 22 wrong; smoothed 10 fewer at 0.1, 5 fewer at 0.2; MaxSup 12 fewer at 0.2.
    #[test]
    fn a_rival_stands_at_its_own_best_against_the_best_of_smoothing() {
        let runs = |loss: LossKind, epsilon: f64, fewer: usize| {
            (0..3).map(move |seed| Outcome { loss, ..outcome([epsilon, 0.0], seed, 20 + seed as usize - fewer, 1.0) })
        };
        let of = |runs: Vec<Outcome>| Study::new(runs, 0.95).unwrap();
        let smoothed = |e, fewer| runs(LossKind::CrossEntropy, e, fewer);
        let own = of(smoothed(0.0, 0).chain(smoothed(0.1, 10)).chain(smoothed(0.2, 5)).collect());
        let maxsup = of(runs(LossKind::MaxSup, 0.1, 0).chain(runs(LossKind::MaxSup, 0.2, 12)).collect());
        let focal = of(runs(LossKind::Focal, 0.0, 20).collect());
        let found = rivals(&own, &[maxsup, focal], Criterion::Error, HeldOut::Clean);
        let at: Vec<_> = found.iter().map(|rival| (rival.loss, rival.epsilon, rival.smoothing)).collect();
        assert_eq!(at, [(LossKind::MaxSup, 0.2, Some(0.1)), (LossKind::Focal, 0.0, Some(0.1))]);
        for (rival, [mean, none, smoothing]) in found.iter().zip([[0.09, -0.12, -0.02], [0.01, -0.2, -0.1]]) {
            let error = rival.measured[0];
            assert!((error.mean - mean).abs() < 1e-12 && error.above_none.n == 3, "{rival:?}");
            assert!((error.above_none.mean - none).abs() < 1e-12, "{rival:?}");
            assert!((error.above_smoothing.mean - smoothing).abs() < 1e-12, "{rival:?}");
        }
        // Two kinds are no study.
        let mixed = runs(LossKind::MaxSup, 0.1, 0).chain(runs(LossKind::Mbls, 0.1, 0)).collect();
        assert!(Study::new(mixed, 0.95).is_err());
    }
}
