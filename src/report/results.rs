//! A sweep's table, results.csv: a line for each run. What it holds is enough for the choice of epsilon and for the
//! claims, so that a table that was kept can be asked again, without its runs.

use std::collections::HashMap;
use std::path::Path;

use crate::loss::smoothing::Variant;
use crate::measure::Metrics;
use crate::measure::perfect::Perfection;
use crate::measure::selective::Rankings;
use crate::study::sweep::RESULTS;
use crate::study::{Judged, Measured, Outcome};
use crate::train::config::Config;
use crate::train::config::loss::LossKind;
use crate::{Error, Result, input};

/// The sets that are measured, as columns begin with them.
const SETS: [&str; 4] = ["val", "val_scaled", "test", "test_scaled"];

/// A column of each set: its name and its value.
type Column = (&'static str, fn(&mut Metrics) -> &mut f64);

const MEASURES: [Column; 10] = [
    ("error", |m| &mut m.error),
    ("nll", |m| &mut m.nll),
    ("ece", |m| &mut m.ece),
    ("ece_equal_mass", |m| &mut m.ece_equal_mass),
    ("ece_classwise", |m| &mut m.ece_classwise),
    ("mce", |m| &mut m.mce),
    ("brier", |m| &mut m.brier),
    ("mean_confidence", |m| &mut m.mean_confidence),
    ("above_99", |m| &mut m.above_99),
    ("aurc", |m| &mut m.aurc),
];

/// A line for each run, with its configuration.
///
/// # Errors
/// [`Error::Io`].
pub fn written(outcomes: &[Outcome], configs: &HashMap<&str, &Config>) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(vec![]);
    let failed = |e: csv::Error| Error::Io { path: RESULTS.into(), source: e.into() };
    let of_run = [
        "id",
        "label_smoothing",
        "smoothing_variant",
        "loss_kind",
        "loss",
        "label_noise",
        "seed",
        "classes",
        "val_images",
        "test_images",
        "test_aurc_max_logit",
        "test_aurc_normalised",
        "test_ece_debiased",
        "test_smece",
        "test_calibrated_p",
        "test_scaled_ece_debiased",
        "test_scaled_smece",
        "test_scaled_calibrated_p",
        "temperature",
        "val_refined_nll",
        "val_noisy_error",
        "val_noisy_nll",
        "val_noisy_ece",
        "val_noisy_refined_nll",
        "seconds",
        "train_error",
        "train_nll",
        "memorised",
    ];
    let mut header: Vec<String> = of_run.map(String::from).to_vec();
    for set in SETS {
        header.extend(MEASURES.iter().map(|(measure, _)| format!("{set}_{measure}")));
        header.extend(["confidence_right", "confidence_wrong"].map(|measure| format!("{set}_{measure}")));
    }
    writer.write_record(&header).map_err(failed)?;
    for o in outcomes {
        // Nothing is written for what there is none of.
        let some = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
        let loss = configs[&o.id[..]].loss_config();
        let noisy = o.noisy_validation;
        let mut row = vec![
            o.id.clone(),
            o.label_smoothing.to_string(),
            // As the flag has it.
            if loss.settings.smoothing_prior.is_some() { "prior".into() } else { loss.spread() },
            o.loss.name().into(),
            loss.describe(o.classes),
            o.label_noise.to_string(),
            o.seed.to_string(),
            o.classes.to_string(),
            o.validation.plain.images.to_string(),
            o.test.plain.images.to_string(),
            some(o.rankings.map(|r| r.aurc_max_logit)),
            some(o.rankings.and_then(|r| r.aurc_normalised)),
        ];
        for which in 0..2 {
            let of = |value: fn(&Perfection) -> f64| some(o.perfection.map(|both| value(&both[which])));
            row.extend([of(|p| p.ece_debiased), of(|p| p.smece), of(|p| p.calibrated_p)]);
        }
        row.extend([
            o.temperature.to_string(),
            some(o.refined_nll),
            some(noisy.map(|j| j.error)),
            some(noisy.map(|j| j.nll)),
            some(noisy.map(|j| j.ece)),
            some(noisy.map(|j| j.refined_nll)),
            o.seconds.to_string(),
            o.train.error.to_string(),
            o.train.nll.to_string(),
            some(o.memorised),
        ]);
        for metrics in [&o.validation.plain, &o.validation.scaled, &o.test.plain, &o.test.scaled] {
            let mut m = metrics.clone();
            row.extend(MEASURES.iter().map(|(_, value)| value(&mut m).to_string()));
            row.extend([some(m.confidence_right), some(m.confidence_wrong)]);
        }
        writer.write_record(&row).map_err(failed)?;
    }
    Ok(writer.into_inner().expect("a vector takes what is written to it"))
}

/// The outcomes that a table holds, of this version or an earlier one. What has no column is NaN, or 0 where it is a
/// number of classes or images.
///
/// # Errors
/// [`Error::Data`] with the line and the column.
pub fn read(path: &Path) -> Result<Vec<Outcome>> {
    let text = input::read_text(path, "the results.csv of a sweep")?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let wrong = |error: csv::Error| Error::data(path, format!("found {error}, expected the results.csv of a sweep"));
    let header = reader.headers().map_err(wrong)?.clone();
    let mut outcomes = vec![];
    for (record, line) in reader.records().zip(2..) {
        let record = record.map_err(wrong)?;
        outcomes.push(Line { path, line, header: &header, record: &record }.outcome()?);
    }
    if outcomes.is_empty() {
        return Err(Error::data(path, "found no line of a run, expected at least one"));
    }
    Ok(outcomes)
}

/// A line of a table that is read.
struct Line<'a> {
    path: &'a Path,
    line: usize,
    header: &'a csv::StringRecord,
    record: &'a csv::StringRecord,
}

impl Line<'_> {
    /// What stands under a name; `None` without such a column, or where nothing is written.
    fn text(&self, name: &str) -> Option<&str> {
        let column = self.header.iter().position(|known| known == name)?;
        self.record.get(column).filter(|text| !text.is_empty())
    }

    fn optional<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let wrong = || self.wrong(name, &format!("found {text:?}, expected a number"));
        text.parse().map(Some).map_err(|_| wrong())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T> {
        self.optional(name)?.ok_or_else(|| self.wrong(name, "found nothing, expected a number"))
    }

    fn wrong(&self, name: &str, message: &str) -> Error {
        Error::data(self.path, format!("line {}, {name}: {message}", self.line))
    }

    fn outcome(&self) -> Result<Outcome> {
        let smoothing_variant = match self.text("smoothing_variant") {
            Some("off-target") => Variant::OffTarget,
            _ => Variant::Uniform,
        };
        let measured = |set: &str| -> Result<Measured> {
            let plain = self.metrics(set)?;
            Ok(Measured {
                plain,
                scaled: self.metrics(&format!("{set}_scaled"))?,
                reliability: vec![],
                reliability_scaled: vec![],
            })
        };
        Ok(Outcome {
            id: self.text("id").unwrap_or_default().to_owned(),
            label_smoothing: self.number("label_smoothing")?,
            smoothing_variant,
            loss: self.loss_kind()?,
            label_noise: self.number("label_noise")?,
            seed: self.number("seed")?,
            classes: self.optional("classes")?.unwrap_or(0),
            train: Metrics { error: self.number("train_error")?, nll: self.number("train_nll")?, ..nothing() },
            memorised: self.optional("memorised")?,
            validation: measured("val")?,
            test: measured("test")?,
            temperature: self.number("temperature")?,
            refined_nll: self.optional("val_refined_nll")?,
            noisy_validation: self.judged()?,
            rankings: self.rankings()?,
            perfection: self.perfection()?,
            seconds: self.optional("seconds")?.unwrap_or(f64::NAN),
        })
    }

    /// What noisy labels make of the images held out; `None` where nothing is written.
    fn judged(&self) -> Result<Option<Judged>> {
        if self.text("val_noisy_error").is_none() {
            return Ok(None);
        }
        let of = |name: &str| self.number(&format!("val_noisy_{name}"));
        let [error, nll, ece, refined_nll] = [of("error")?, of("nll")?, of("ece")?, of("refined_nll")?];
        Ok(Some(Judged { error, nll, ece, refined_nll }))
    }

    /// Tables of earlier versions have no such column, and no other losses.
    fn loss_kind(&self) -> Result<LossKind> {
        let Some(name) = self.text("loss_kind") else { return Ok(LossKind::CrossEntropy) };
        let found = LossKind::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| self.wrong("loss_kind", &format!("found {name:?}, expected the name of a loss")))
    }

    fn rankings(&self) -> Result<Option<Rankings>> {
        let Some(aurc_max_logit) = self.optional("test_aurc_max_logit")? else { return Ok(None) };
        Ok(Some(Rankings { aurc_max_logit, aurc_normalised: self.optional("test_aurc_normalised")? }))
    }

    fn perfection(&self) -> Result<Option<[Perfection; 2]>> {
        if self.text("test_smece").is_none() {
            return Ok(None);
        }
        let of = |set: &str| -> Result<Perfection> {
            let number = |name: &str| self.number(&format!("{set}_{name}"));
            let [ece_debiased, smece, calibrated_p] =
                [number("ece_debiased")?, number("smece")?, number("calibrated_p")?];
            Ok(Perfection { ece_debiased, smece, calibrated_p })
        };
        Ok(Some([of("test")?, of("test_scaled")?]))
    }

    fn metrics(&self, set: &str) -> Result<Metrics> {
        let mut found = nothing();
        for (measure, value) in MEASURES {
            *value(&mut found) = self.number(&format!("{set}_{measure}"))?;
        }
        found.accuracy = 1.0 - found.error;
        found.confidence_right = self.optional(&format!("{set}_confidence_right"))?;
        found.confidence_wrong = self.optional(&format!("{set}_confidence_wrong"))?;
        found.images = self.optional(&format!("{}_images", set.trim_end_matches("_scaled")))?.unwrap_or(0);
        Ok(found)
    }
}

/// Metrics of which nothing is known.
fn nothing() -> Metrics {
    let nan = f64::NAN;
    Metrics {
        images: 0,
        loss: nan,
        nll: nan,
        accuracy: nan,
        error: nan,
        ece: nan,
        brier: nan,
        mean_confidence: nan,
        ece_equal_mass: nan,
        ece_classwise: nan,
        mce: nan,
        confidence_right: None,
        confidence_wrong: None,
        above_99: nan,
        aurc: nan,
        excess_loss: nan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Study;
    use crate::study::tests::outcome;

    /// Catches a column that is read back as another one, or not at all.
    #[test]
    fn a_table_reads_back_to_the_same_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.csv");
        let test = outcome([0.1, 0.2], 3, 40, 0.5).test;
        let one = Outcome { memorised: Some(0.25), test, temperature: 1.5, ..outcome([0.1, 0.2], 3, 7, 2.0) };
        let noisy = Judged { error: 0.5, nll: 0.75, ece: 0.125, refined_nll: 0.625 };
        let of = |p| Perfection { ece_debiased: -0.25, smece: p / 2.0, calibrated_p: p };
        let rankings = Some(Rankings { aurc_max_logit: 0.375, aurc_normalised: Some(0.25) });
        let perfection = Some([of(0.125), of(0.5)]);
        let one = Outcome { noisy_validation: Some(noisy), rankings, perfection, ..one };
        let config = Config::default();
        std::fs::write(&path, written(std::slice::from_ref(&one), &HashMap::from([(&one.id[..], &config)])).unwrap())
            .unwrap();
        let found = read(&path).unwrap().remove(0);
        assert_eq!((&found.id, found.seed, found.classes, found.memorised), (&one.id, 3, 2, Some(0.25)));
        assert_eq!(found.noisy_validation, Some(noisy));
        assert_eq!((found.rankings, found.perfection), (rankings, perfection));
        assert_eq!((found.refined_nll, found.temperature, found.label_noise), (Some(0.5), 1.5, 0.2));
        assert_eq!((found.train.error, found.train.nll), (one.train.error, one.train.nll));
        for (found, one) in [(&found.validation.plain, &one.validation.plain), (&found.test.scaled, &one.test.scaled)] {
            // What has no column.
            let known =
                Metrics { loss: one.loss, excess_loss: one.excess_loss, accuracy: one.accuracy, ..found.clone() };
            assert_eq!(&known, one);
            assert!((found.accuracy - one.accuracy).abs() < 1e-12);
        }
    }

    /// The table of the study of 2026-11-24, which has no cross-fitted nll, is read as it is; a damaged one is not.
    #[test]
    fn an_old_table_is_read_and_a_damaged_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.csv");
        let sets = SETS.map(|set| MEASURES.map(|(measure, _)| format!("{set}_{measure}")).join(",")).join(",");
        let header =
            format!("id,label_smoothing,smoothing_variant,label_noise,seed,temperature,train_error,train_nll,{sets}");
        let line = |first: &str| format!("{first},{}", ["0.25"; 40].join(","));
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write(&format!("{header}\n{}\n", line("a,0.1,uniform,0,2,1.5,0.1,0.2")));
        let found = read(&path).unwrap();
        assert_eq!((found.len(), found[0].refined_nll, found[0].classes), (1, None, 0));
        assert_eq!(found[0].validation.scaled.nll, 0.25);
        assert!(!Study::new(found, 0.95).unwrap().is_cross_fitted());
        for (text, says) in [
            (header.clone(), "found no line of a run"),
            (format!("{header}\n{}\n", line("a,x,uniform,0,2,1.5,0.1,0.2")), "line 2, label_smoothing: found \"x\""),
            ("id,label_smoothing\na,0.1\n".into(), "line 2, label_noise: found nothing"),
            (format!("{header}\na,0\n"), "expected the results.csv of a sweep"),
        ] {
            write(&text);
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("old.csv") && error.contains(says), "{error}");
        }
    }
}
