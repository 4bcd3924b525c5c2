//! `smoothcnn predict`.

use std::path::PathBuf;

use smoothcnn::net::Network;
use smoothcnn::{Error, Result, checkpoint, metrics, temperature};

use super::calibrate;
use super::common::{self, DataArgs};
use super::eval::{self, InferenceArgs};

/// Writes a saved model's answers to the test images, a line an image, as CSV.
///
/// The columns: the image's index, its label, the answer, the answer's probability, and the probability of each class.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Weights, as safetensors under PyTorch's names
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    inference: InferenceArgs,
    /// Divide the logits by this: a number, or the temperature.toml that `smoothcnn calibrate` wrote
    #[arg(long, value_name = "FILE|T", allow_negative_numbers = true)]
    temperature: Option<String>,
    /// Where to write it [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    let temperature = args.temperature.as_deref().map_or(Ok(1.0), calibrate::temperature)?;
    let (_, test) = common::load_data(&args.data, None)?;
    let net = Network::seed(test.shape, test.classes)?;
    let (state, metadata) = common::load_params(&net, &args.model)?;
    let logits = args.inference.logits(&net, (&args.model, &state, &metadata), args.data.data, &test)?;
    // A class that took no part in training has no probability.
    let allowed = eval::class_mask(&args.model, &metadata, net.classes)?.unwrap_or_else(|| vec![true; net.classes]);
    let kept: Vec<usize> = (0..net.classes).filter(|&class| allowed[class]).collect();
    let part: Vec<f64> = logits.chunks(net.classes).flat_map(|row| kept.iter().map(|&class| row[class])).collect();
    let mut probabilities = vec![0.0; logits.len()];
    let of_part = metrics::probabilities(&temperature::apply(&part, temperature), kept.len());
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
        let first = [i.to_string(), label.to_string(), answer.to_string(), row[answer].to_string()];
        writer.write_record(first.into_iter().chain(row.iter().map(f64::to_string))).map_err(failed)?;
    }
    let text = writer.into_inner().expect("a vector takes what is written to it");
    match &args.out {
        Some(out) => checkpoint::write_atomic(out, &text)?,
        None => common::print(String::from_utf8(text).expect("numbers and commas").trim_end())?,
    }
    Ok(0)
}
