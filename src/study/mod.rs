//! What label smoothing does on the user's own data: a grid of runs over epsilon, label noise and seeds, and what
//! follows from it. Runs with the same seed and noise start from the same weights, see the images in the same order and
//! hold out the same ones, so that they are compared in pairs.
//!
//! [`sweep`] plans the grid, [`entry`] trains one run of it. [`rivals`] holds other losses against smoothing,
//! [`ensemble`] asks the seeds together. [`Outcome`] is what one run leaves; [`Study`] holds them; [`claims`] gives a
//! verdict on what is said of smoothing, [`choice`] the epsilon to use and why, [`projection`] the picture of Müller et
//! al. 2019, [`stats`] the intervals, [`sureness`] how sure a choice is.

pub mod choice;
pub mod claims;
pub mod ensemble;
pub mod entry;
pub mod projection;
pub mod rivals;
pub mod stats;
pub mod sureness;
pub mod sweep;

use serde::{Deserialize, Serialize};

use crate::loss::smoothing::Variant;
use crate::measure::Metrics;
use crate::measure::calibration::Bin;
use crate::measure::perfect::Perfection;
use crate::measure::selective::Rankings;
use crate::train::config::loss::LossKind;
use crate::{Error, Result};
use stats::{Estimate, estimate};

/// What one run of a study leaves. No measure is of the smoothed loss: every target is the plain one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The run's name in its plan.
    pub id: String,
    /// Epsilon, as asked for.
    pub label_smoothing: f64,
    /// How it is spread.
    pub smoothing_variant: Variant,
    /// What is computed for each sample.
    #[serde(default)]
    pub loss: LossKind,
    /// The share of training labels that were flipped.
    pub label_noise: f64,
    /// What the runs of a pair share.
    pub seed: u64,
    /// Classes of the data.
    pub classes: usize,
    /// On the images trained on, against the labels trained on.
    pub train: Metrics,
    /// The share of the flipped training images that get the wrong label they were given; `None` where none was
    /// flipped.
    pub memorised: Option<f64>,
    /// On the images held out, whose labels are as the files have them.
    pub validation: Measured,
    /// The same images against labels with as much noise as those trained on: [`Images::noisy_validation`]. `None`
    /// where the labels are the data set's own, and in results of earlier versions.
    ///
    /// [`Images::noisy_validation`]: crate::train::config::images::Images::noisy_validation
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noisy_validation: Option<Judged>,
    /// On the test set.
    pub test: Measured,
    /// Other rankings of the test images than by confidence. `None` in results of earlier versions, as what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rankings: Option<Rankings>,
    /// How far from perfect calibration the test set's answers are: as they are, and with the temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perfection: Option<[Perfection; 2]>,
    /// Fitted on the images held out.
    pub temperature: f64,
    /// Their nll after temperatures that were fitted on other ones of them ([`crate::measure::cross_fit`]). `None` in
    /// results of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refined_nll: Option<f64>,
    /// Seconds of the whole run, measuring included; of its last part where it was interrupted.
    pub seconds: f64,
}

/// What a choice goes by, of the images held out against noisy labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The share of answers that are not the label.
    pub error: f64,
    /// Plain cross-entropy.
    pub nll: f64,
    /// Calibration error.
    pub ece: f64,
    /// Plain cross-entropy after temperatures that were fitted to noisy labels of other images held out.
    pub refined_nll: f64,
}

/// A set of images, with the logits as they are and divided by the run's temperature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// As they are.
    pub plain: Metrics,
    /// Divided by the temperature.
    pub scaled: Metrics,
    /// The bins of the reliability diagram that hold images.
    pub reliability: Vec<Bin>,
    /// The same of the scaled logits.
    pub reliability_scaled: Vec<Bin>,
}

/// Something measured of each run.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// For people: `test error`.
    pub name: &'static str,
    /// Its value.
    pub of: fn(&Outcome) -> f64,
}

/// The share of test images with a wrong answer.
pub const TEST_ERROR: Measure = Measure { name: "test error", of: |o| o.test.plain.error };
/// The share of training images whose answer is not the label they were trained with.
pub const TRAIN_ERROR: Measure = Measure { name: "training error", of: |o| o.train.error };
/// Overfitting: test error less training error.
pub const GAP: Measure = Measure { name: "test error - training error", of: |o| o.test.plain.error - o.train.error };
/// Overfitting with noisy labels: the error on images held out, by labels as noisy as those trained on, less training
/// error. The test set has clean labels, so that its error cannot be compared with that of training. NaN where the
/// images held out were not judged so.
pub const NOISY_GAP: Measure = Measure {
    name: "noisy held-out - training error",
    of: |o| o.noisy_validation.map_or(f64::NAN, |judged| judged.error - o.train.error),
};
/// Overconfidence: mean confidence less accuracy; below 0 the network is right more often than it says.
pub const OVERCONFIDENCE: Measure =
    Measure { name: "confidence - accuracy", of: |o| o.test.plain.mean_confidence - o.test.plain.accuracy };
/// Calibration error of the logits as they are.
pub const ECE: Measure = Measure { name: "ECE", of: |o| o.test.plain.ece };
/// Calibration error with each run's own temperature.
pub const ECE_SCALED: Measure = Measure { name: "ECE with temperature", of: |o| o.test.scaled.ece };
/// Plain cross-entropy.
pub const NLL: Measure = Measure { name: "nll", of: |o| o.test.plain.nll };
/// Plain cross-entropy with each run's own temperature.
pub const NLL_SCALED: Measure = Measure { name: "nll with temperature", of: |o| o.test.scaled.nll };
/// On the images held out: plain cross-entropy after temperatures that were fitted on other ones of them.
pub const REFINED_NLL: Measure =
    Measure { name: "validation refined nll", of: |o| o.refined_nll.unwrap_or(o.validation.scaled.nll) };
/// How confident the network is on average.
pub const CONFIDENCE: Measure = Measure { name: "mean confidence", of: |o| o.test.plain.mean_confidence };
/// Cost for selective prediction: the area under the risk-coverage curve.
pub const AURC: Measure = Measure { name: "AURC", of: |o| o.test.plain.aurc };
/// The same by the largest of normalised logits; NaN where it was not measured, or with two classes.
pub const AURC_NORMALISED: Measure = Measure {
    name: "AURC, normalised",
    of: |o| o.rankings.and_then(|rankings| rankings.aurc_normalised).unwrap_or(f64::NAN),
};
/// What normalised logits change of the cost, after training.
pub const AURC_MENDED: Measure =
    Measure { name: "AURC, normalised - AURC", of: |o| (AURC_NORMALISED.of)(o) - (AURC.of)(o) };
/// Whether the test set's answers could be those of a perfectly calibrated network: 1 or 0, NaN where it was not asked.
pub const CALIBRATED: Measure = Measure { name: "calibrated (p >= 0.05)", of: |o| could_be_calibrated(o, 0) };
/// The same with each run's own temperature.
pub const CALIBRATED_SCALED: Measure =
    Measure { name: "calibrated with temperature", of: |o| could_be_calibrated(o, 1) };

fn could_be_calibrated(outcome: &Outcome, which: usize) -> f64 {
    outcome.perfection.map_or(f64::NAN, |of| f64::from(u8::from(of[which].could_be())))
}

/// Flipped labels that were learnt by heart; NaN where none was flipped.
pub const MEMORISED: Measure = Measure { name: "flipped labels memorised", of: |o| o.memorised.unwrap_or(f64::NAN) };

/// A study's outcomes.
#[derive(Clone, Debug)]
pub struct Study {
    outcomes: Vec<Outcome>,
    /// The values of epsilon, ascending.
    pub epsilons: Vec<f64>,
    /// The rates of label noise, ascending.
    pub noises: Vec<f64>,
    /// The confidence level of every interval.
    pub level: f64,
    cross_fitted: bool,
}

impl Study {
    /// A study of these outcomes; its intervals have the confidence `level`, 0.95 as a rule.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are none, or if they are of data with different numbers of classes, of different
    /// variants of smoothing, or of different losses.
    pub fn new(mut outcomes: Vec<Outcome>, level: f64) -> Result<Self> {
        let Some(first) = outcomes.first() else {
            return Err(Error::Usage("sweep: found no run that is done, expected at least one".into()));
        };
        let of = |o: &Outcome| (o.classes, o.smoothing_variant, o.loss);
        if let Some(other) = outcomes.iter().find(|o| of(o) != of(first)) {
            let found = format!("{:?} beside {:?}", of(other), of(first));
            return Err(Error::Usage(format!(
                "sweep: found runs of {found} (classes, variant, loss), expected one kind"
            )));
        }
        outcomes.sort_by(|a, b| {
            let by = |of: fn(&Outcome) -> f64| of(a).total_cmp(&of(b));
            by(|o| o.label_noise).then(by(|o| o.label_smoothing)).then(a.seed.cmp(&b.seed))
        });
        let ascending = |of: fn(&Outcome) -> f64| {
            let mut values: Vec<f64> = outcomes.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.dedup();
            values
        };
        let (epsilons, noises) = (ascending(|o| o.label_smoothing), ascending(|o| o.label_noise));
        // Runs are compared by one measure or by the other, never by both.
        let cross_fitted = outcomes.iter().all(|o| o.refined_nll.is_some());
        if !cross_fitted {
            outcomes.iter_mut().for_each(|o| o.refined_nll = None);
        }
        Ok(Self { outcomes, epsilons, noises, level, cross_fitted })
    }

    /// Whether every run has the nll after temperatures that were fitted on other images than those that it is of.
    /// Results of earlier versions have not: [`REFINED_NLL`] is then that with the run's own temperature, which is a
    /// little too low.
    pub fn is_cross_fitted(&self) -> bool {
        self.cross_fitted
    }

    /// Whether every run at a rate of label noise was judged by labels as noisy as those trained on. Results of earlier
    /// versions were not, and runs whose labels are the data set's own have no others.
    pub fn is_noisily_judged(&self, noise: f64) -> bool {
        self.outcomes.iter().filter(|o| o.label_noise == noise).all(|o| o.noisy_validation.is_some())
    }

    /// What overfitting is at a rate of label noise: [`NOISY_GAP`] where the runs were judged so, [`GAP`] where their
    /// labels have no noise. `None` for results of earlier versions with label noise.
    pub fn gap(&self, noise: f64) -> Option<Measure> {
        if self.is_noisily_judged(noise) { Some(NOISY_GAP) } else { (noise == 0.0).then_some(GAP) }
    }

    /// All outcomes, by noise, epsilon, seed.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// How many classes the data has.
    pub fn classes(&self) -> usize {
        self.outcomes[0].classes
    }

    /// The outcomes of a rate of noise and an epsilon, by seed.
    pub fn cell(&self, noise: f64, epsilon: f64) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(move |o| o.label_noise == noise && o.label_smoothing == epsilon)
    }

    /// A measure of a cell: the mean over the seeds, with its interval.
    pub fn of_cell(&self, noise: f64, epsilon: f64, measure: Measure) -> Estimate {
        estimate(&self.cell(noise, epsilon).map(measure.of).collect::<Vec<_>>(), self.level)
    }

    /// By how much a measure is larger with `epsilon` than with `than`, over the seeds that both have.
    pub fn difference(&self, noise: f64, epsilon: f64, than: f64, measure: Measure) -> Estimate {
        self.difference_from(noise, epsilon, (self, than), measure)
    }

    /// The same, `than` being of another study.
    pub fn difference_from(&self, noise: f64, epsilon: f64, (other, than): (&Self, f64), measure: Measure) -> Estimate {
        let pairs = self.cell(noise, epsilon).filter_map(|a| {
            let b = other.cell(noise, than).find(|b| b.seed == a.seed)?;
            Some((measure.of)(a) - (measure.of)(b))
        });
        estimate(&pairs.collect::<Vec<_>>(), self.level)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::loss::smoothing::Smoothing;
    use crate::measure;

    /// An outcome whose test set holds `wrong` wrong answers of 100, each with the confidence of a margin of `margin`.
    pub(crate) fn outcome([epsilon, noise]: [f64; 2], seed: u64, wrong: usize, margin: f64) -> Outcome {
        let logits: Vec<f64> = (0..100).flat_map(|_| [margin, 0.0]).collect();
        let labels: Vec<u32> = (0..100).map(|i| u32::from(i < wrong)).collect();
        let metrics = measure::evaluate(&logits, &labels, 2, Smoothing::NONE);
        let measured = Measured {
            plain: metrics.clone(),
            scaled: metrics.clone(),
            reliability: vec![],
            reliability_scaled: vec![],
        };
        Outcome {
            id: format!("{epsilon}-{noise}-{seed}"),
            label_smoothing: epsilon,
            smoothing_variant: Variant::Uniform,
            loss: LossKind::CrossEntropy,
            label_noise: noise,
            seed,
            classes: 2,
            train: metrics,
            memorised: None,
            validation: measured.clone(),
            noisy_validation: None,
            rankings: None,
            perfection: None,
            test: measured,
            temperature: 1.0,
            refined_nll: Some(0.5),
            seconds: 1.0,
        }
    }

    #[test]
    fn differences_are_paired_by_seed() {
        // Seed 2 has no partner, and the order of arrival does not matter.
        let outcomes = vec![
            outcome([0.1, 0.0], 1, 12, 1.0),
            outcome([0.0, 0.0], 0, 20, 1.0),
            outcome([0.0, 0.0], 1, 10, 1.0),
            outcome([0.1, 0.0], 0, 24, 1.0),
            outcome([0.1, 0.0], 2, 99, 1.0),
        ];
        let study = Study::new(outcomes, 0.95).unwrap();
        assert_eq!((&study.epsilons[..], &study.noises[..]), (&[0.0, 0.1][..], &[0.0][..]));
        let found = study.difference(0.0, 0.1, 0.0, TEST_ERROR);
        assert_eq!(found.n, 2);
        assert!((found.mean - 0.03).abs() < 1e-12, "{found:?}");
        assert!((study.of_cell(0.0, 0.0, TEST_ERROR).mean - 0.15).abs() < 1e-12);
        assert_eq!(study.difference(0.4, 0.1, 0.0, TEST_ERROR).n, 0);
    }

    #[test]
    fn gaps_are_differences() {
        // 20 of 100 test answers are wrong, each 3/4 sure; 5 of 100 training answers.
        let of_test = outcome([0.1, 0.0], 0, 20, 3f64.ln());
        let found = Outcome { train: outcome([0.1, 0.0], 0, 5, 1.0).train, ..of_test };
        assert!(((GAP.of)(&found) - 0.15).abs() < 1e-15 && ((OVERCONFIDENCE.of)(&found) + 0.05).abs() < 1e-12);
        assert!((NOISY_GAP.of)(&found).is_nan());
        let noisy = Judged { error: 0.45, nll: 1.0, ece: 0.1, refined_nll: 1.0 };
        let found = Outcome { noisy_validation: Some(noisy), ..found };
        assert!(((NOISY_GAP.of)(&found) - 0.4).abs() < 1e-15);
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        assert!(Study::new(vec![], 0.95).is_err());
        let other = Outcome { smoothing_variant: Variant::OffTarget, ..outcome([0.1, 0.0], 0, 1, 1.0) };
        assert!(Study::new(vec![outcome([0.0, 0.0], 0, 1, 1.0), other], 0.95).is_err());
    }

    #[test]
    fn an_outcome_survives_its_file() {
        let found = outcome([0.1, 0.2], 3, 7, 2.0);
        assert_eq!(serde_json::from_str::<Outcome>(&serde_json::to_string(&found).unwrap()).unwrap(), found);
    }
}
