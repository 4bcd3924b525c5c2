//! `smoothcnn eval`.

use std::path::PathBuf;

use serde::Serialize;
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::measure::agreement::Agreement;
use smoothcnn::measure::bootstrap::{self, Interval, Intervals};
use smoothcnn::measure::loss::{of_loss, taking_part};
use smoothcnn::measure::perfect::Perfection;
use smoothcnn::measure::scaling::{Scaling, Vector};
use smoothcnn::measure::selective::Rankings;
use smoothcnn::measure::{self, Metrics};
use smoothcnn::train::checkpoint::{self, Metadata, Tensor};
use smoothcnn::train::marked::Marked;
use smoothcnn::train::model::Tta;
use smoothcnn::train::temperature_file;
use smoothcnn::{Error, Result};

use super::beyond::{self, BeyondArgs, Outside, Worse};
use super::common;
use super::details::{self, ClassLine, Details, MistakeLine};
use super::folder;
use super::model::{Asked, ModelArgs};

/// Measures a saved model on a test set.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Epsilon of the smoothed loss [default: as in training, else 0.1]
    #[arg(long, value_name = "E", allow_negative_numbers = true)]
    label_smoothing: Option<f64>,
    /// How epsilon is spread [default: as in training, else uniform]
    #[arg(long, value_enum)]
    smoothing_variant: Option<Variant>,
    /// 95 % intervals of accuracy, nll and ece from N resamples of the test set, always the same ones (1000 is usual)
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = resamples)]
    bootstrap: usize,
    /// Write the logits, `[images, classes]`, as safetensors, as they are without --temperature
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
    /// Write classes.csv, confusion.csv and mistakes.csv to this folder, a new or empty one
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    beyond: BeyondArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What --json prints: the metrics, and what the flags add.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    metrics: &'a Metrics,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector_scaling: Option<&'a Vector>,
    /// What was asked beside each image, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    tta: Option<Tta>,
    #[serde(flatten)]
    perfection: Perfection,
    #[serde(flatten)]
    rankings: Rankings,
    #[serde(flatten)]
    bootstrap: Option<Bootstrap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soft_labels: Option<Agreement>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ood: Option<Outside>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    corruptions: Vec<Worse>,
    classes: Vec<ClassLine<'a>>,
    /// `[label][answer]`: how many images.
    confusion: Vec<&'a [usize]>,
    mistakes: Vec<MistakeLine<'a>>,
}

#[derive(Serialize)]
struct Bootstrap {
    #[serde(rename = "bootstrap")]
    resamples: usize,
    accuracy_interval: Interval,
    nll_interval: Interval,
    ece_interval: Interval,
}

/// More resamples than anyone needs: their statistics are kept until the last is drawn.
const MOST_RESAMPLES: usize = 1_000_000;

fn resamples(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n <= MOST_RESAMPLES => Ok(n),
        _ => Err(format!("found {text:?}, expected a whole number of at most {MOST_RESAMPLES}")),
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    // Before anything is computed.
    let folder = args.out.as_deref().map(|out| folder::taken(out, &details::FILES)).transpose()?;
    let scaling = args.model.temperature.as_deref().map(temperature_file::read).transpose()?;
    let asked = args.model.load()?;
    let counted = asked.test.labelled_indices();
    let test = asked.test.subset(&counted);
    let Asked { model, .. } = &asked;
    let net = &model.net;
    let loss = model.file.loss(args.label_smoothing, args.smoothing_variant, net.classes)?;
    let logits = args.model.logits(&asked, &test)?;
    let scaled = scaling.as_ref().map(|scaling| model.scaled(&logits, scaling)).transpose()?;
    let scaling = scaling.unwrap_or(Scaling::NONE);
    let divided = scaled.as_deref().unwrap_or(&logits);
    let metrics = of_loss(&loss, divided, &test.labels, net.classes);
    if metrics.images == 0 {
        let found =
            "none of the test images counts: each label is ignored, or of a class that took no part in training";
        return Err(Error::Usage(format!("--ignore-index: found that {found}; expected at least one")));
    }
    let (part, labels, kept) = taking_part(loss.form(), divided, &test.labels, net.classes);
    let predictions = measure::predictions(&part, &labels, kept, Smoothing::NONE);
    let (perfection, rankings) = (Perfection::of(&predictions), Rankings::of(&part, &labels, kept));
    let bootstrap = (args.bootstrap > 0).then(|| {
        let Intervals { accuracy, nll, ece } = bootstrap::of_predictions(&predictions, args.bootstrap, 0.95, 0);
        Bootstrap { resamples: args.bootstrap, accuracy_interval: accuracy, nll_interval: nll, ece_interval: ece }
    });
    let soft_labels = args.beyond.people(&loss, divided, &test, &counted)?;
    let ood = args.beyond.outside(&args.model, &asked, &loss, &logits)?;
    let corruptions = args.beyond.worse(&args.model, &asked, (&loss, &scaling), &test)?;
    let marked = Marked::new(model, &test, &counted, &logits, &scaling)?;
    if let Some(path) = &args.logits {
        let tensor = Tensor { name: "logits".into(), shape: vec![test.len(), net.classes], data: logits.into() };
        checkpoint::save(path, &[tensor], args.model.inference.dtype.into(), &Metadata::new())?;
    }
    let details = Details { names: &asked.classes, marked: &marked };
    if let Some(folder) = &folder {
        details.write(folder)?;
    }
    let tta = (args.model.tta != Tta::None).then_some(args.model.tta);
    if args.json {
        let confusion = marked.confusion.counts.chunks(net.classes).collect();
        let (classes, mistakes) = (details.lines(), details.mistakes());
        let metrics = &metrics;
        let temperature = args.model.temperature.as_ref().and_then(|_| scaling.temperature());
        let vector_scaling = scaling.vector();
        common::print_json(&Report {
            metrics,
            temperature,
            vector_scaling,
            tta,
            perfection,
            rankings,
            bootstrap,
            soft_labels,
            ood,
            corruptions,
            classes,
            confusion,
            mistakes,
        })?;
    } else {
        show(&metrics, bootstrap.as_ref(), &perfection, &rankings)?;
        if tta.is_some() {
            common::print(format_args!("{:<16} flip (mean of the logits)", "tta"))?;
        }
        beyond::show(ood.as_ref(), soft_labels.as_ref(), &corruptions)?;
        details.print()?;
    }
    Ok(0)
}

fn show(metrics: &Metrics, bootstrap: Option<&Bootstrap>, perfection: &Perfection, rankings: &Rankings) -> Result<()> {
    for (name, value, interval) in [
        ("loss", Some(metrics.loss), None),
        ("nll", Some(metrics.nll), bootstrap.map(|b| b.nll_interval)),
        ("accuracy", Some(metrics.accuracy), bootstrap.map(|b| b.accuracy_interval)),
        ("error", Some(metrics.error), None),
        ("ece", Some(metrics.ece), bootstrap.map(|b| b.ece_interval)),
        ("brier", Some(metrics.brier), None),
        ("mean confidence", Some(metrics.mean_confidence), None),
        ("ece, debiased", Some(perfection.ece_debiased), None),
        ("smece", Some(perfection.smece), None),
        ("ece, equal mass", Some(metrics.ece_equal_mass), None),
        ("ece, classwise", Some(metrics.ece_classwise), None),
        ("mce", Some(metrics.mce), None),
        // Where there are no such answers there is no mean.
        ("conf. if right", metrics.confidence_right, None),
        ("conf. if wrong", metrics.confidence_wrong, None),
        ("above 0.99", Some(metrics.above_99), None),
        ("aurc", Some(metrics.aurc), None),
        ("aurc, max logit", Some(rankings.aurc_max_logit), None),
        ("aurc, normalised", rankings.aurc_normalised, None),
        ("excess loss", Some(metrics.excess_loss), None),
    ] {
        let interval = interval.map_or(String::new(), |i| format!("  (95 %: {:.6} to {:.6})", i.low, i.high));
        // The debiased ECE may be a little below 0; what is shown as 0 has no sign.
        let unsigned = |value: f64| if value.abs() < 5e-7 { 0.0 } else { value };
        let value = value.map_or("none".into(), |value| format!("{:.6}", unsigned(value)));
        common::print(format_args!("{name:<16} {value}{interval}"))?;
    }
    let verdict = if perfection.could_be() { "yes" } else { "no" };
    let p = perfection.calibrated_p;
    common::print(format_args!(
        "{:<16} {verdict}  (p = {p:.3}: how often a calibrated one has an ece as large)",
        "calibrated"
    ))?;
    common::print(format_args!("{:<16} {}", "images", metrics.images))
}
