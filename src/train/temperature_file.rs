//! For whoever fits a scaling to a model, or scales logits by one: the file, and the metadata, that it is kept in.

use std::path::Path;

use super::checkpoint::{Metadata, tensors_sha256};
use super::run_folder::TEMPERATURE;
use crate::data::source::DataKind;
use crate::measure::scaling::{Scaling, Vector};
use crate::measure::temperature::{End, RANGE};
use crate::parse::to_json;
use crate::{Error, Result, input, parse};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// The keys of a model's metadata that have its [`Scaling`]: what its logits are divided by, or a JSON object of what
/// they are multiplied by and what is added.
pub(super) const IN_METADATA: &str = "temperature";
pub(super) const VECTOR_IN_METADATA: &str = "vector_scaling";

/// Puts a scaling into metadata, in place of what was there.
pub(crate) fn keep_scaling_in(metadata: &mut Metadata, scaling: &Scaling) {
    metadata.remove(IN_METADATA);
    metadata.remove(VECTOR_IN_METADATA);
    match scaling {
        scaling if scaling.is_none() => None,
        Scaling::Temperature(t) => metadata.insert(IN_METADATA.into(), t.to_string()),
        Scaling::Vector(vector) => metadata.insert(VECTOR_IN_METADATA.into(), to_json(vector)),
    };
}

/// What is written to temperature.toml.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TemperatureFile<'a> {
    /// What logits are divided by, where there is no vector.
    pub temperature: f64,
    /// Weights and biases of the classes, in place of the temperature.
    #[serde(flatten)]
    pub vector: Option<Vector>,
    /// Where the temperature would be for other images of the same kind: the lower end of a 95 % interval.
    pub temperature_low: f64,
    /// The upper end.
    pub temperature_high: f64,
    /// What kind of end the fit came to.
    pub end: End,
    /// The model's path.
    pub model: &'a str,
    /// [`tensors_sha256`] of its file.
    pub weights_sha256: String,
    /// The data set that it was fitted on.
    pub data: DataKind,
    /// How many images were fitted on.
    pub val_images: usize,
    /// Their nll as they are.
    pub nll_before: f64,
    /// Their nll, scaled.
    pub nll_after: f64,
    /// Their nll, each scaled by a fit to other ones ([`crate::measure::cross_fit`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nll_cross_fitted: Option<f64>,
    /// The version of the program that wrote it.
    pub version: &'a str,
}

/// The scaling that `eval --temperature` names: a number, or a file that `smoothcnn calibrate` wrote.
///
/// # Errors
/// [`Error::Usage`] for a number out of range, [`Error::Data`] for a file that is not what it should be.
pub fn read(text: &str) -> Result<Scaling> {
    let [least, most] = RANGE;
    let expected = format!("expected a temperature from {least} to {most}");
    if let Ok(number) = text.parse() {
        return if (least..=most).contains(&number) {
            Ok(Scaling::Temperature(number))
        } else {
            Err(Error::Usage(format!("--temperature: found {text}, {expected}")))
        };
    }
    Ok(read_file(Path::new(text))?.scaling())
}

/// The scaling that `calibrate` left in the folder `run`, if it did, for the weights in the file `weights`.
///
/// # Errors
/// [`Error::Data`] for a file that is not what it should be, and for one that was fitted to other weights.
pub fn of_run(run: &Path, weights: &Path) -> Result<Option<Scaling>> {
    let path = run.join(TEMPERATURE);
    if !path.is_file() {
        return Ok(None);
    }
    let found = read_file(&path)?;
    // A file of another hand does not say what it was fitted to.
    if let Some(fitted_to) = &found.weights_sha256
        && *fitted_to != tensors_sha256(weights)?
    {
        let weights = weights.display();
        let message = format!("found a temperature of other weights than those in {weights}, expected one of these");
        return Err(Error::data(
            path,
            format!("{message}: `smoothcnn calibrate` fits it anew, --temperature 1 does without"),
        ));
    }
    Ok(Some(found.scaling()))
}

/// All that is written; a file of another hand needs the temperature only.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(dead_code, reason = "the others are named so that a misspelt one is found")]
struct Given {
    temperature: f64,
    weights: Option<Vec<f64>>,
    biases: Option<Vec<f64>>,
    temperature_low: Option<IgnoredAny>,
    temperature_high: Option<IgnoredAny>,
    nll_cross_fitted: Option<IgnoredAny>,
    end: Option<IgnoredAny>,
    model: Option<IgnoredAny>,
    weights_sha256: Option<String>,
    data: Option<IgnoredAny>,
    val_images: Option<IgnoredAny>,
    nll_before: Option<IgnoredAny>,
    nll_after: Option<IgnoredAny>,
    version: Option<IgnoredAny>,
}

impl Given {
    fn scaling(&self) -> Scaling {
        match (&self.weights, &self.biases) {
            (Some(weights), Some(biases)) => {
                Scaling::Vector(Vector { weights: weights.clone(), biases: biases.clone() })
            }
            _ => Scaling::Temperature(self.temperature),
        }
    }
}

fn read_file(path: &Path) -> Result<Given> {
    let read = input::read_text(path, "a number, or a file of `smoothcnn calibrate`")?;
    let given: Given = parse::toml(path, &read)?;
    let [least, most] = RANGE;
    if !(least..=most).contains(&given.temperature) {
        let found = given.temperature;
        let message = format!("temperature: found {found}, expected a temperature from {least} to {most}");
        return Err(Error::data(path, message));
    }
    let vector = [("weights", &given.weights), ("biases", &given.biases)];
    for (name, values) in vector {
        let message = match values {
            Some(values) => {
                values.iter().find(|v| !v.is_finite()).map(|v| format!("{name}: found {v}, expected finite numbers"))
            }
            None if given.weights.is_some() || given.biases.is_some() => {
                Some(format!("{name}: found none, expected one for each class, as weights and biases stand together"))
            }
            None => None,
        };
        if let Some(message) = message {
            return Err(Error::data(path, message));
        }
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::{self, Dtype, Metadata, Tensor};
    use super::*;

    /// Catches a temperature of weights that are others by now.
    #[test]
    fn a_runs_temperature_is_of_its_weights() {
        let folder = tempfile::tempdir().unwrap();
        let (run, weights) = (folder.path(), folder.path().join("best.safetensors"));
        let save = |value: f64, metadata: &Metadata| {
            let tensor = Tensor { name: "w".into(), shape: vec![1], data: vec![value].into() };
            checkpoint::save(&weights, &[tensor], Dtype::F32, metadata).unwrap();
        };
        save(1.0, &Metadata::new());
        assert_eq!(of_run(run, &weights).unwrap(), None);
        let sum = tensors_sha256(&weights).unwrap();
        std::fs::write(run.join(TEMPERATURE), format!("temperature = 1.5\nweights-sha256 = \"{sum}\"")).unwrap();
        assert_eq!(of_run(run, &weights).unwrap(), Some(Scaling::Temperature(1.5)));
        save(1.0, &Metadata::from([("temperature".into(), "1.5".into())]));
        assert_eq!(
            of_run(run, &weights).unwrap(),
            Some(Scaling::Temperature(1.5)),
            "what is beside the weights makes no difference"
        );
        save(2.0, &Metadata::new());
        let error = of_run(run, &weights).unwrap_err().to_string();
        assert!(error.contains("found a temperature of other weights") && error.contains("--temperature 1"), "{error}");
        std::fs::write(run.join(TEMPERATURE), "temperature = 1.5").unwrap();
        assert_eq!(of_run(run, &weights).unwrap(), Some(Scaling::Temperature(1.5)), "of another hand");
    }

    #[test]
    fn a_number_or_a_file() {
        assert_eq!([read("2").unwrap(), read("1e-3").unwrap()], [2.0, 1e-3].map(Scaling::Temperature));
        for bad in ["0", "-1", "nan", "inf", "1e-4", "1001"] {
            assert!(matches!(read(bad), Err(Error::Usage(_))), "{bad}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        let path = path.to_str().unwrap();
        assert!(matches!(read(path), Err(Error::Data { .. })), "no such file");
        for (text, expected) in [
            ("temperature = 1.5\nend = \"minimum\"", Some(1.5)),
            ("temperature = 0.0", None),
            ("temperature = nan", None),
            ("temperature = \"warm\"", None),
            ("epochs = 3", None),
            ("temperature = 1.5\nweights = [1.0]", None),
            ("temperature = 1.5\nweights = [1.0]\nbiases = [inf]", None),
            ("PK\x03", None),
        ] {
            std::fs::write(path, text).unwrap();
            match read(path) {
                Ok(found) => assert_eq!(found.temperature(), expected, "{text}"),
                Err(error) => assert!(
                    expected.is_none() && matches!(error, Error::Data { .. }) && !error.to_string().contains('\n'),
                    "{text}: {error}"
                ),
            }
        }
        let vector = "temperature = 1.5\nweights = [1.0, 2.0]\nbiases = [0.0, -0.5]";
        std::fs::write(path, vector).unwrap();
        let expected = Vector { weights: vec![1.0, 2.0], biases: vec![0.0, -0.5] };
        assert_eq!(read(path).unwrap(), Scaling::Vector(expected), "a vector counts before the temperature");
    }
}
