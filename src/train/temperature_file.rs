//! For whoever fits a temperature to a model, or divides logits by one: the file that it is kept in.

use std::path::Path;

use crate::data::source::DataKind;
use crate::measure::temperature::{End, RANGE};
use crate::{Error, Result, input, parse};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// What is written to temperature.toml.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TemperatureFile<'a> {
    /// What logits are divided by.
    pub temperature: f64,
    /// What kind of end the fit came to.
    pub end: End,
    /// The model's path.
    pub model: &'a str,
    /// The data set that it was fitted on.
    pub data: DataKind,
    /// How many images were fitted on.
    pub val_images: usize,
    /// Their nll as they are.
    pub nll_before: f64,
    /// Their nll with the temperature.
    pub nll_after: f64,
    /// The version of the program that wrote it.
    pub version: &'a str,
}

/// The temperature that `eval --temperature` names: a number, or a file that `smoothcnn calibrate` wrote.
///
/// # Errors
/// [`Error::Usage`] for a number out of range, [`Error::Data`] for a file that is not what it should be.
pub fn read(text: &str) -> Result<f64> {
    // All that is written; a file of another hand needs the temperature only.
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    #[expect(dead_code, reason = "the others are named so that a misspelt one is found")]
    struct Given {
        temperature: f64,
        end: Option<IgnoredAny>,
        model: Option<IgnoredAny>,
        data: Option<IgnoredAny>,
        val_images: Option<IgnoredAny>,
        nll_before: Option<IgnoredAny>,
        nll_after: Option<IgnoredAny>,
        version: Option<IgnoredAny>,
    }
    let [least, most] = RANGE;
    let expected = format!("expected a temperature from {least} to {most}");
    if let Ok(number) = text.parse() {
        return if (least..=most).contains(&number) {
            Ok(number)
        } else {
            Err(Error::Usage(format!("--temperature: found {text}, {expected}")))
        };
    }
    let read = input::read_text(Path::new(text), "a number, or a file of `smoothcnn calibrate`")?;
    let Given { temperature, .. } = parse::toml(Path::new(text), &read)?;
    if !(least..=most).contains(&temperature) {
        return Err(Error::data(text, format!("temperature: found {temperature}, {expected}")));
    }
    Ok(temperature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_a_file() {
        assert_eq!((read("2").unwrap(), read("1e-3").unwrap()), (2.0, 1e-3));
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
            ("PK\x03", None),
        ] {
            std::fs::write(path, text).unwrap();
            match read(path) {
                Ok(found) => assert_eq!(Some(found), expected, "{text}"),
                Err(error) => assert!(
                    expected.is_none() && matches!(error, Error::Data { .. }) && !error.to_string().contains('\n'),
                    "{text}: {error}"
                ),
            }
        }
    }
}
