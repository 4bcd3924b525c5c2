//! `smoothcnn export`.

use std::path::{Path, PathBuf};

use smoothcnn::Result;
use smoothcnn::export::{Exportable, hugging_face, onnx, pytorch};
use smoothcnn::fs::{is_standard_output, write_output};
use smoothcnn::measure::scaling::Scaling;
use smoothcnn::train::model::ModelFile;

use super::model::scaling;
use super::{common, folder};

/// Writes a saved model for other programs. It takes pixels from 0 to 255 there, and normalises them itself.
///
/// Of a run's folder the best weights are taken, and the temperature that `calibrate` left there.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// One ONNX file: weights, normalisation, temperature; any batch size, class names in its metadata.
    Onnx(OnnxArgs),
    /// A folder with the source of a PyTorch module, and its weights.
    Pytorch(FolderArgs),
    /// A folder for the Hugging Face hub: a model card with the run's own figures, the PyTorch module, its weights.
    #[command(visible_alias = "hf")]
    HuggingFace(FolderArgs),
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

/// Flags of the forms that are folders.
#[derive(Debug, clap::Args)]
pub struct FolderArgs {
    #[command(flatten)]
    from: From,
    /// The folder to write, a new or empty one [default: beside the weights, under their name with the form's]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(command: Command) -> Result<u8> {
    match command {
        Command::Onnx(args) => to_onnx(&args),
        Command::Pytorch(args) => to_folder(&args, "pytorch", &[pytorch::SOURCE, pytorch::WEIGHTS], pytorch::write),
        Command::HuggingFace(args) => to_folder(&args, "hf", &hugging_face::FILES, hugging_face::write),
    }
    .map(|()| 0)
}

impl From {
    fn load(&self) -> Result<(ModelFile, Exportable)> {
        let file = ModelFile::open(&self.model)?;
        let scaling = scaling(&self.model, &file, self.temperature.as_deref())?;
        let scaled = scaling.as_ref().map_or(String::new(), |scaling| format!("; {}", scaling.describe()));
        common::note(format_args!("model: {}{scaled}", file.describe()));
        let model = Exportable::new(&file, scaling.unwrap_or(Scaling::NONE))?;
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

type Write = fn(&Exportable, &ModelFile, &Path) -> Result<()>;

fn to_folder(args: &FolderArgs, form: &str, files: &[&str], write: Write) -> Result<()> {
    let (file, model) = args.from.load()?;
    let stem = file.path.file_stem().unwrap_or_default().to_string_lossy();
    let beside = || file.path.with_file_name(format!("{stem}-{form}"));
    let folder = folder::taken(&args.out.clone().unwrap_or_else(beside), files)?;
    write(&model, &file, folder.path())?;
    common::print(format_args!("{}: {}", folder.path().display(), files.join(", ")))
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
