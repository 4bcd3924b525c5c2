//! The file that `smoothcnn calibrate` writes and `--temperature` reads.

use std::path::Path;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use smoothcnn::measure::temperature::{End, RANGE};
use smoothcnn::{Error, Result, input};

use super::dataset::DataKind;
use super::parse;

/// What is written to temperature.toml.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct File<'a> {
    pub temperature: f64,
    pub end: End,
    pub model: &'a str,
    pub data: DataKind,
    /// How many images were fitted on.
    pub val_images: usize,
    pub nll_before: f64,
    pub nll_after: f64,
    pub version: &'a str,
}

/// The temperature that `eval --temperature` names: a number, or a file that this command wrote.
pub fn read(text: &str) -> Result<f64> {
    // All that this command writes; a file of another hand needs the temperature only.
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
