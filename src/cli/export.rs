//! `smoothcnn export`.

use std::path::{Path, PathBuf};

use smoothcnn::Result;
use smoothcnn::export::{Exportable, onnx};
use smoothcnn::fs::{is_standard_output, write_output};
use smoothcnn::train::model::ModelFile;

use super::common;
use super::model::temperature;

/// Writes a saved model for other programs. It takes pixels from 0 to 255 there, and normalises them itself.
///
/// Of a run's folder the best weights are taken, and the temperature that `calibrate` left there.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// One ONNX file: weights, normalisation, temperature; any batch size, class names in its metadata.
    Onnx(OnnxArgs),
}

/// The model, and where it goes.
#[derive(Debug, clap::Args)]
struct From {
    /// A run's folder, or a file of weights that `train` wrote
    #[arg(value_name = "RUN|FILE")]
    model: PathBuf,
    /// Divide the logits by this: a number, or the temperature.toml that `smoothcnn calibrate` wrote; 1 for not at all
    #[arg(long, value_name = "FILE|T", allow_negative_numbers = true)]
    temperature: Option<String>,
}

/// Flags of `export onnx`.
#[derive(Debug, clap::Args)]
pub struct OnnxArgs {
    #[command(flatten)]
    from: From,
    /// The file to write [default: beside the weights, under their name with .onnx]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Give probabilities instead of logits
    #[arg(long)]
    softmax: bool,
}

/// Runs the command.
pub fn run(command: Command) -> Result<u8> {
    match command {
        Command::Onnx(args) => to_onnx(&args),
    }
    .map(|()| 0)
}

impl From {
    fn load(&self) -> Result<(ModelFile, Exportable)> {
        let temperature = temperature(&self.model, self.temperature.as_deref())?;
        let file = ModelFile::open(&self.model)?;
        let divided = temperature.map_or(String::new(), |t| format!("; temperature {t:.4}"));
        common::note(format_args!("model: {}{divided}", file.describe()));
        let model = Exportable::new(&file, temperature.unwrap_or(1.0))?;
        Ok((file, model))
    }
}

fn to_onnx(args: &OnnxArgs) -> Result<()> {
    let (file, model) = args.from.load()?;
    let bytes = onnx::encode(&model, args.softmax)?;
    let out = args.out.clone().unwrap_or_else(|| file.path.with_extension("onnx"));
    write_output(&out, &bytes)?;
    let [c, h, w] = model.net.input;
    let output = if args.softmax { onnx::PROBABILITIES } else { onnx::LOGITS };
    let classes = model.classes.len();
    said(&out, &format!("{} from [batch, {c}, {h}, {w}] (0 to 255), {output} to [batch, {classes}]", onnx::INPUT))
}

/// Says what was written, where the output has not its place.
fn said(out: &Path, what: &str) -> Result<()> {
    let line = format!("{}: {what}", out.display());
    match is_standard_output(out) {
        true => common::note(line),
        false => common::print(line)?,
    }
    Ok(())
}
