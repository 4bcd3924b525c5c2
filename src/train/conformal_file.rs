//! For whoever asks a model for sets that hold the right class as often as promised: the file of the scores that its
//! held-out images had, which `calibrate` leaves beside the weights.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::checkpoint::tensors_sha256;
use super::run_folder::CONFORMAL;
use crate::fs::write_output;
use crate::measure::conformal::{Calibration, Score};
use crate::parse::to_json;
use crate::{Error, Result, input, parse};

/// What is written to conformal.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConformalFile {
    /// The version of the program that wrote it.
    pub version: String,
    /// [`tensors_sha256`] of the weights' file.
    pub weights_sha256: String,
    /// How many images were held out.
    pub images: usize,
    /// Of each score, those of the images' own classes, ascending; the logits as they are, without a temperature.
    pub scores: Vec<Scores>,
}

/// The images' scores of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// Which.
    pub score: Score,
    /// Ascending.
    pub values: Vec<f64>,
}

impl ConformalFile {
    /// The file for the weights in the file `weights`, whose held-out images have these probabilities
    /// (`[labels.len(), classes]`, row-major).
    ///
    /// # Errors
    /// As [`tensors_sha256`].
    pub fn new(weights: &Path, probabilities: &[f64], labels: &[u32], classes: usize) -> Result<Self> {
        let scores = Score::ALL.map(|score| Scores {
            score,
            values: Calibration::new(score, probabilities, labels, classes).scores().to_vec(),
        });
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").into(),
            weights_sha256: tensors_sha256(weights)?,
            images: labels.len(),
            scores: scores.into(),
        })
    }

    /// Refuses to replace a file beside the weights that is not of this program.
    ///
    /// # Errors
    /// [`Error::Data`] with the file.
    pub fn check_place(weights: &Path) -> Result<()> {
        let path = weights.with_file_name(CONFORMAL);
        let of_this_program = |text: String| parse::json::<Self>(&path, &text, "").is_ok();
        if path.exists() && !input::read_text(&path, "").is_ok_and(of_this_program) {
            let message = "found a file that is not of `smoothcnn calibrate`, expected none";
            return Err(Error::data(&path, message));
        }
        Ok(())
    }

    /// Writes it beside the weights.
    ///
    /// # Errors
    /// As [`write_output`].
    pub fn write(&self, weights: &Path) -> Result<()> {
        write_output(&weights.with_file_name(CONFORMAL), to_json(self).as_bytes())
    }

    /// Of the file beside the weights in the file `weights`, the scores of one kind.
    ///
    /// # Errors
    /// [`Error::Data`] where there is no such file, where it is damaged, and where it is of other weights.
    pub fn read(weights: &Path, score: Score) -> Result<Calibration> {
        let path = weights.with_file_name(CONFORMAL);
        let wrong = |message: String| {
            let advice = "`smoothcnn calibrate` on the run or the model writes it";
            Err(Error::data(&path, format!("{message}: {advice}")))
        };
        if !path.is_file() {
            return wrong("found no such file, expected the scores of held-out images".into());
        }
        let text = input::read_text(&path, "the scores of `smoothcnn calibrate`")?;
        let file: Self = parse::json(&path, &text, "the scores of `smoothcnn calibrate`")?;
        if file.weights_sha256 != tensors_sha256(weights)? {
            let weights = weights.display();
            return wrong(format!("found scores of other weights than those in {weights}, expected these weights'"));
        }
        match file.scores.into_iter().find(|scores| scores.score == score) {
            Some(Scores { values, .. }) if values.len() == file.images && values.iter().all(|v| v.is_finite()) => {
                Ok(Calibration::of_scores(score, values))
            }
            _ => wrong(format!("found no {} numbers for {}, expected one for each image", file.images, score.name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::{Dtype, Metadata, Tensor, save};
    use super::*;

    #[test]
    fn scores_belong_to_their_weights() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.safetensors");
        let write = |value: f64| {
            let tensor = Tensor { name: "w".into(), shape: vec![1], data: vec![value].into() };
            save(&weights, &[tensor], Dtype::F32, &Metadata::new()).unwrap();
        };
        write(1.0);
        let refused = || ConformalFile::read(&weights, Score::Aps).unwrap_err().to_string();
        assert!(refused().contains("conformal.json: found no such file"), "{}", refused());
        let probabilities = [0.2, 0.5, 0.3, 0.7, 0.1, 0.2];
        let file = ConformalFile::new(&weights, &probabilities, &[2, 0], 3).unwrap();
        file.write(&weights).unwrap();
        for score in Score::ALL {
            let expected = Calibration::new(score, &probabilities, &[2, 0], 3);
            assert_eq!(ConformalFile::read(&weights, score).unwrap(), expected);
        }
        let damaged = ConformalFile { images: 3, ..file };
        damaged.write(&weights).unwrap();
        assert!(refused().contains("found no 3 numbers for aps"), "{}", refused());
        write(2.0);
        assert!(refused().contains("found scores of other weights than those in"), "{}", refused());
        assert!(ConformalFile::check_place(&weights).is_ok());
        std::fs::write(folder.path().join(CONFORMAL), "{").unwrap();
        assert!(ConformalFile::check_place(&weights).unwrap_err().to_string().contains("not of `smoothcnn calibrate`"));
        assert!(refused().contains("conformal.json"), "{}", refused());
    }
}
