//! `smoothcnn predict`.

use std::path::PathBuf;

use smoothcnn::backend::device::finite;
use smoothcnn::fs::write_output;
use smoothcnn::measure::{self, temperature};
use smoothcnn::ops::IGNORED;
use smoothcnn::{Error, Result};

use super::common;
use super::model::{Asked, ModelArgs};

/// Writes a saved model's answers to the test images, a line an image, as CSV.
///
/// The columns: the image's index, its label (nothing where that is ignored), the answer, the answer's probability, and the probability of each class.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Where to write it [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    let asked = args.model.load()?;
    let Asked { model, test, temperature, .. } = &asked;
    let (net, temperature) = (&model.net, temperature.unwrap_or(1.0));
    let logits = finite(temperature::apply(&args.model.logits(&asked, test)?, temperature), net.classes)?;
    // A class that took no part in training has no probability.
    let allowed = model.file.class_mask(net.classes)?.unwrap_or_else(|| vec![true; net.classes]);
    let kept: Vec<usize> = (0..net.classes).filter(|&class| allowed[class]).collect();
    let part: Vec<f64> = logits.chunks(net.classes).flat_map(|row| kept.iter().map(|&class| row[class])).collect();
    let mut probabilities = vec![0.0; logits.len()];
    let of_part = measure::probabilities(&part, kept.len());
    for (all, part) in probabilities.chunks_mut(net.classes).zip(of_part.chunks(kept.len())) {
        kept.iter().zip(part).for_each(|(&class, &p)| all[class] = p);
    }

    let path = args.out.clone().unwrap_or_else(|| "standard output".into());
    let failed = |e: csv::Error| Error::Io { path: path.clone(), source: e.into() };
    let mut writer = csv::Writer::from_writer(vec![]);
    let header = ["image", "label", "answer", "confidence"].map(String::from);
    writer.write_record(header.into_iter().chain((0..net.classes).map(|k| format!("p{k}")))).map_err(failed)?;
    for (i, (row, label)) in probabilities.chunks(net.classes).zip(&test.labels).enumerate() {
        // The first of equals, as everywhere.
        let answer = (1..row.len()).fold(0, |top, k| if row[k] > row[top] { k } else { top });
        let label = if *label == IGNORED { String::new() } else { label.to_string() };
        let first = [i.to_string(), label, answer.to_string(), row[answer].to_string()];
        writer.write_record(first.into_iter().chain(row.iter().map(f64::to_string))).map_err(failed)?;
    }
    let text = writer.into_inner().expect("a vector takes what is written to it");
    match &args.out {
        Some(out) => write_output(out, &text)?,
        None => common::print(String::from_utf8(text).expect("numbers and commas").trim_end())?,
    }
    Ok(0)
}
