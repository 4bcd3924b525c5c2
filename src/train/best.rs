//! Which epoch of a run is its best, by a measure of images that were held out of the training.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::loss::Form;
use crate::measure::loss::taking_part;
use crate::measure::temperature;

/// The measure that chooses, of the validation images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum BestBy {
    /// The least nll.
    #[default]
    Nll,
    /// The highest accuracy.
    Accuracy,
    /// The least ECE.
    Ece,
    /// The least nll after a temperature of its own, which is fitted on the same images.
    RefinedNll,
    /// With --ema: the least nll of the weights' moving average, which is then what is taken.
    EmaNll,
    /// Its highest accuracy.
    EmaAccuracy,
    /// Its least ECE.
    EmaEce,
    /// Nothing is measured to choose: the last epoch answers for the run.
    Last,
}

impl BestBy {
    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nll => "nll",
            Self::Accuracy => "accuracy",
            Self::Ece => "ece",
            Self::RefinedNll => "refined-nll",
            Self::EmaNll => "ema-nll",
            Self::EmaAccuracy => "ema-accuracy",
            Self::EmaEce => "ema-ece",
            Self::Last => "last",
        }
    }

    /// Its key in an epoch's line of the record, where it is a measure.
    fn key(self) -> Option<&'static str> {
        Some(match self {
            Self::Nll => "val_nll",
            Self::Accuracy => "val_accuracy",
            Self::Ece => "val_ece",
            Self::RefinedNll => "val_refined_nll",
            Self::EmaNll => "val_ema_nll",
            Self::EmaAccuracy => "val_ema_accuracy",
            Self::EmaEce => "val_ema_ece",
            Self::Last => return None,
        })
    }

    /// Whether it is of the weights' moving average.
    pub fn is_of_average(self) -> bool {
        matches!(self, Self::EmaNll | Self::EmaAccuracy | Self::EmaEce)
    }

    fn is_better(self, value: f64, than: f64) -> bool {
        if matches!(self, Self::Accuracy | Self::EmaAccuracy) { value > than } else { value < than }
    }
}

/// The best epoch of a run so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// From 1.
    pub epoch: usize,
    /// Its measure.
    pub value: f64,
}

impl Best {
    /// Of the record's `lines` of all epochs so far, in order, from the first one on: the earliest of equals. A measure
    /// that is no number is never the best. None by [`BestBy::Last`].
    pub fn of(lines: &[Value], by: BestBy) -> Option<Self> {
        let key = by.key()?;
        let measured = lines.iter().zip(1..).filter_map(|(line, epoch)| {
            let value = line.get(key)?.as_f64().filter(|value| value.is_finite())?;
            Some(Self { epoch, value })
        });
        measured.reduce(|best, next| if by.is_better(next.value, best.value) { next } else { best })
    }
}

/// How many of the epochs of `lines`, the last ones, are no better than the best one.
pub fn waited(lines: &[Value], best: Option<Best>) -> usize {
    lines.len() - best.map_or(0, |best| best.epoch)
}

/// The nll of `logits` `[labels.len(), classes]` after the temperature that is the best for these very images: what is
/// left of the nll once the confidence is right on average. NaN where nothing can be fitted.
pub fn refined_nll(form: &Form, logits: &[f64], labels: &[u32], classes: usize) -> f64 {
    let (part, labels, kept) = taking_part(form, logits, labels, classes);
    temperature::fit(&part, &labels, kept).map_or(f64::NAN, |fitted| fitted.nll_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn criteria_have_names() {
        let all = [BestBy::Nll, BestBy::Accuracy, BestBy::Ece, BestBy::RefinedNll, BestBy::Last];
        assert_eq!(all.map(BestBy::name), ["nll", "accuracy", "ece", "refined-nll", "last"]);
        let averages = [BestBy::EmaNll, BestBy::EmaAccuracy, BestBy::EmaEce];
        assert_eq!(averages.map(BestBy::name), ["ema-nll", "ema-accuracy", "ema-ece"]);
        assert!(averages.iter().all(|by| by.is_of_average()) && !all.iter().any(|by| by.is_of_average()));
    }
    use crate::loss::smoothing::Smoothing;
    use crate::measure::evaluate;
    use serde_json::json;

    /// Catches a tie that goes to the later epoch, the wrong direction of a measure, and one that is no number and
    /// wins.
    #[test]
    fn the_best_is_the_earliest_of_equals_in_the_right_direction() {
        let lines: Vec<Value> = [(f64::NAN, 0.5), (0.4, 0.7), (0.3, 0.8), (0.3, 0.8), (0.5, 0.6)]
            .iter()
            .map(|(nll, accuracy)| json!({ "val_nll": nll, "val_accuracy": accuracy, "val_ema_accuracy": -accuracy }))
            .collect();
        assert_eq!(Best::of(&lines, BestBy::Nll), Some(Best { epoch: 3, value: 0.3 }));
        assert_eq!(Best::of(&lines, BestBy::Accuracy), Some(Best { epoch: 3, value: 0.8 }));
        assert_eq!(Best::of(&lines[..2], BestBy::Nll), Some(Best { epoch: 2, value: 0.4 }));
        assert_eq!(Best::of(&lines[..1], BestBy::Nll), None);
        assert_eq!(Best::of(&lines, BestBy::Ece), None);
        assert_eq!(Best::of(&lines, BestBy::Last), None);
        assert_eq!(Best::of(&lines, BestBy::EmaAccuracy), Some(Best { epoch: 1, value: -0.5 }));
        assert_eq!(waited(&lines, Best::of(&lines, BestBy::Nll)), 2);
        assert_eq!(waited(&lines, None), 5);
    }

    /// Catches a refined nll that is not the least over temperatures, and one that the size of the logits changes.
    #[test]
    fn the_refined_nll_is_the_least_over_temperatures() {
        let (logits, labels) = ([2.0, 0.0, 0.0, 1.0, 3.0, 0.0, 0.0, 0.5], [0, 1, 1, 1]);
        let form = Form::from(Smoothing::NONE);
        let refined = refined_nll(&form, &logits, &labels, 2);
        for t in [0.5, 0.9, 1.0, 1.1, 2.0, 10.0] {
            let scaled = temperature::apply(&logits, t);
            assert!(refined <= evaluate(&scaled, &labels, 2, Smoothing::NONE).nll + 1e-12, "{t}");
            assert!((refined - refined_nll(&form, &scaled, &labels, 2)).abs() < 1e-9, "{t}");
        }
        assert!(refined_nll(&form, &[f64::INFINITY, 0.0], &[0], 2).is_nan());
    }
}
