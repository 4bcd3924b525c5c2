//! The runs of a cell that differ in their seed, asked together: the mean of their probabilities answers. A sweep has
//! them anyway (Lakshminarayanan, Pritzel, Blundell 2017, "Simple and scalable predictive uncertainty estimation using
//! deep ensembles").

use std::path::Path;

use serde::Serialize;

use super::{Outcome, Study};
use crate::Result;
use crate::loss::smoothing::Smoothing;
use crate::measure::{self, Metrics};
use crate::train::checkpoint::{self, Dtype, Metadata, Tensor};
use crate::train::run_folder::ANSWERS;

/// What a run answers to the test images: logits `[images, classes]` and labels, of the classes that take part.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// Row-major.
    pub logits: Vec<f64>,
    /// One an image.
    pub labels: Vec<u32>,
}

impl Answers {
    /// Writes them into a run's folder, as 32-bit numbers.
    ///
    /// # Errors
    /// As [`checkpoint::save`].
    pub fn write(&self, out: &Path) -> Result<()> {
        let (n, classes) = (self.labels.len(), self.logits.len() / self.labels.len().max(1));
        let labels: Vec<f64> = self.labels.iter().map(|&label| label.into()).collect();
        let tensors = [
            Tensor { name: LOGITS.into(), shape: vec![n, classes], data: self.logits.clone().into() },
            Tensor { name: LABELS.into(), shape: vec![n], data: labels.into() },
        ];
        checkpoint::save(&out.join(ANSWERS), &tensors, Dtype::F32, &Metadata::new())
    }

    /// Those that the run with this outcome left in `out`; `None` where it left none, as runs of earlier versions.
    ///
    /// # Errors
    /// As [`checkpoint::load`].
    pub fn read(out: &Path, outcome: &Outcome) -> Result<Option<Self>> {
        let path = out.join(ANSWERS);
        if !path.exists() {
            return Ok(None);
        }
        let (n, classes) = (outcome.test.plain.images, outcome.classes);
        let expected = [(LOGITS.into(), vec![n, classes]), (LABELS.into(), vec![n])];
        let (mut tensors, _) = checkpoint::load(&path, &expected)?;
        let labels = tensors.pop().unwrap_or_default().into_iter().map(|label| label as u32).collect();
        Ok(Some(Self { logits: tensors.pop().unwrap_or_default(), labels }))
    }
}

const LOGITS: &str = "logits";
const LABELS: &str = "labels";

/// What the runs of a cell come to together, on the test set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ensemble {
    /// The rate of label noise.
    pub label_noise: f64,
    /// The epsilon.
    pub epsilon: f64,
    /// How many runs.
    pub runs: usize,
    /// The mean of their errors, each on its own.
    pub single_error: f64,
    /// The mean of their nlls, each on its own.
    pub single_nll: f64,
    /// Together.
    pub error: f64,
    /// Together.
    pub nll: f64,
    /// Together.
    pub ece: f64,
}

/// Of the cells of a study that have the answers of two runs or more. `answers` gives those of a run by its id.
///
/// # Errors
/// Those of `answers`.
pub fn ensembles(study: &Study, answers: &dyn Fn(&Outcome) -> Result<Option<Answers>>) -> Result<Vec<Ensemble>> {
    let mut found = vec![];
    for &label_noise in &study.noises {
        for &epsilon in &study.epsilons {
            let mut members: Vec<(&Outcome, Answers)> = vec![];
            for outcome in study.cell(label_noise, epsilon) {
                members.extend(answers(outcome)?.map(|answers| (outcome, answers)));
            }
            let Some((_, first)) = members.first() else { continue };
            // Other images cannot be answered together.
            let labels = first.labels.clone();
            members.retain(|(_, answers)| answers.labels == labels);
            if members.len() < 2 {
                continue;
            }
            let together = together(members.iter().map(|(_, answers)| &answers.logits[..]), &labels, study.classes());
            let mean = |of: fn(&Outcome) -> f64| members.iter().map(|(o, _)| of(o)).sum::<f64>() / members.len() as f64;
            found.push(Ensemble {
                label_noise,
                epsilon,
                runs: members.len(),
                single_error: mean(|o| o.test.plain.error),
                single_nll: mean(|o| o.test.plain.nll),
                error: together.error,
                nll: together.nll,
                ece: together.ece,
            });
        }
    }
    Ok(found)
}

/// The measures of the mean of the probabilities that belong to several sets of logits.
fn together<'a>(members: impl ExactSizeIterator<Item = &'a [f64]>, labels: &[u32], classes: usize) -> Metrics {
    let count = members.len() as f64;
    let mut mean = vec![0.0; labels.len() * classes];
    for logits in members {
        mean.iter_mut().zip(measure::probabilities(logits, classes)).for_each(|(mean, p)| *mean += p / count);
    }
    // The logarithm is a logit again. A probability of 0 becomes the least number's, whose logarithm is finite.
    let logits: Vec<f64> = mean.iter().map(|p| p.max(f64::MIN_POSITIVE).ln()).collect();
    measure::evaluate(&logits, labels, classes, Smoothing::NONE)
}

#[cfg(test)]
mod tests {
    use super::super::tests::outcome;
    use super::*;

    /// Two runs of three images: one sure of class 0 (9 to 1), the other of class 1 (3 to 1) but for the last image.
    #[test]
    fn the_mean_of_the_probabilities_answers() {
        let [a, b] = [9f64.ln(), 3f64.ln()];
        let labels = vec![0, 1, 1];
        let one = Answers { logits: [a, 0.0].repeat(3), labels: labels.clone() };
        let other = Answers { logits: vec![0.0, b, 0.0, b, b, 0.0], labels };
        let outcomes = vec![outcome([0.1, 0.0], 0, 30, 1.0), outcome([0.1, 0.0], 1, 10, 1.0)];
        let study = Study::new(outcomes, 0.95).unwrap();
        let of = |outcome: &Outcome| Ok(Some(if outcome.seed == 0 { one.clone() } else { other.clone() }));
        let found = ensembles(&study, &of).unwrap().remove(0);
        // 0.9 and 0.25 for class 0 are 0.575; 0.9 and 0.75 are 0.825.
        let nll = -(0.575f64.ln() + 0.425f64.ln() + 0.175f64.ln()) / 3.0;
        assert!((found.nll - nll).abs() < 1e-12 && (found.error - 2.0 / 3.0).abs() < 1e-12, "{found:?}");
        assert!((found.single_error - 0.2).abs() < 1e-12 && found.runs == 2, "{found:?}");
        // One run, or answers to other images, are none.
        let only = |outcome: &Outcome| Ok((outcome.seed == 0).then(|| one.clone()));
        assert_eq!(ensembles(&study, &only).unwrap(), []);
        let differ = |outcome: &Outcome| Ok(Some(Answers { labels: vec![outcome.seed as u32; 3], ..one.clone() }));
        assert_eq!(ensembles(&study, &differ).unwrap(), []);
    }

    #[test]
    fn answers_survive_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let answers = Answers { logits: (0..200).map(|i| f64::from(i) / 8.0).collect(), labels: vec![1; 100] };
        let one = outcome([0.1, 0.0], 0, 30, 1.0);
        assert_eq!(Answers::read(folder.path(), &one).unwrap(), None);
        answers.write(folder.path()).unwrap();
        assert_eq!(Answers::read(folder.path(), &one).unwrap(), Some(answers));
        let other = Outcome { classes: 3, ..one };
        assert!(Answers::read(folder.path(), &other).is_err());
    }
}
