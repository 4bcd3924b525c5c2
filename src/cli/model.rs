//! A saved model: the flags that name it and the images it is asked about.

use std::path::{Path, PathBuf};

use smoothcnn::Result;
use smoothcnn::backend::device::Precision;
use smoothcnn::data::Dataset;
use smoothcnn::data::record::Part;
use smoothcnn::measure::scaling::Scaling;
use smoothcnn::train::model::{Found, Inference, Model, ModelFile, OpenModel, Tta, find};
use smoothcnn::train::temperature_file;

use super::common::{self, DeviceArgs};
use super::dataset::DataArgs;

/// Flags that `eval` and `predict` share.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// Weights, as safetensors under PyTorch's names, or a run's folder: those of its best epoch, else of its last
    #[arg(long, value_name = "FILE|RUN")]
    pub model: PathBuf,
    #[command(flatten)]
    pub data: DataArgs,
    /// Keep only the first N test images [default: as in training, where it is the model's own data]
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    pub limit_test: Option<usize>,
    /// Take the model's own data set though its images are not those that the model was trained with
    #[arg(long)]
    pub allow_changed_data: bool,
    /// This label, whatever number it is, is none: `eval` leaves such images out, `predict` answers them and writes no
    /// label [default: as in training]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub ignore_index: Option<i64>,
    #[command(flatten)]
    pub inference: InferenceArgs,
    /// Divide the logits by this: a number, or the temperature.toml that `smoothcnn calibrate` wrote
    #[arg(long, value_name = "FILE|T", allow_negative_numbers = true)]
    pub temperature: Option<String>,
    /// What else to ask about each image: flip is its mirror image, and the logits are the mean of both (not the
    /// probabilities; before --temperature)
    #[arg(long, value_enum, default_value = "none")]
    pub tta: Tta,
}

/// What is done to a model's logits: what is `given`, else what `calibrate` left in the run's folder that `model` is,
/// else what the model's `file` has in it.
pub fn scaling(model: &Path, file: &ModelFile, given: Option<&str>) -> Result<Option<Scaling>> {
    match given {
        Some(given) => temperature_file::read(given).map(Some),
        None if model.is_dir() => temperature_file::of_run(model, &file.path),
        None => file.scaling(),
    }
}

/// A saved model and what it is asked about.
pub struct Asked {
    pub model: Model,
    /// Each channel's mean and standard deviation where the model has none.
    pub normalisation: Vec<[f64; 2]>,
    /// The test images; those whose label is ignored have [`smoothcnn::ops::IGNORED`].
    pub test: Dataset,
    /// What the classes are called, by their label.
    pub classes: Vec<String>,
}

impl ModelArgs {
    /// Reads the files that the flags name, and says which images they are.
    pub fn load(&self) -> Result<Asked> {
        let file = ModelFile::open(&self.model)?;
        if file.path != self.model {
            common::note(format_args!("model: {}", file.describe()));
        }
        let ignored = match self.ignore_index {
            Some(ignored) => Some(ignored),
            None => file.ignore_index()?,
        };
        let known = file.trained_on()?;
        let bar = common::ReadingBar::default();
        let (limits, parts) = ([Some(0), self.limit_test], (known.as_ref(), &[Part::Test][..]));
        let Found { source, own, test, classes, normalisation, notes, .. } =
            find(&self.data.wanted(), limits, parts, self.allow_changed_data, ignored, &|done, all| {
                bar.show(done, all)
            })?;
        let model = Model::load(&file.path, test.shape, test.classes)?;
        notes.iter().for_each(common::note);
        let others = known.filter(|_| !own);
        let others = others.map_or(String::new(), |known| format!(" (the model is of {})", known.data.name()));
        common::note(format_args!("data: {}, {} test images{others}", source.describe(), test.len()));
        Ok(Asked { model, normalisation, test, classes })
    }

    /// The logits `[images, classes]` of the model for these images.
    pub fn logits(&self, asked: &Asked, images: &Dataset) -> Result<Vec<f64>> {
        self.opened(asked)?.logits(images)
    }

    /// The model on its device, to be asked more than once.
    pub fn opened<'a>(&self, Asked { model, normalisation, .. }: &'a Asked) -> Result<OpenModel<'a>> {
        model.opened(normalisation, &self.how(), &|line| common::note(line))
    }

    /// How the model is asked.
    pub fn how(&self) -> Inference {
        Inference { tta: self.tta, ..self.inference.inference() }
    }
}

/// Flags of what computes a saved model's logits, and how.
#[derive(Debug, clap::Args)]
pub struct InferenceArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// Precision; f64 on the CPU path
    #[arg(long, value_enum, default_value = "f32")]
    pub dtype: Precision,
    /// Images in a batch
    #[arg(short, long, default_value_t = 256, value_parser = common::at_least_one)]
    batch_size: usize,
    /// Mean of the pixels, scaled to 0..1: one value, or one a channel [default: as in training]
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    mean: Vec<f64>,
    /// Their standard deviation [default: as in training]
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    std: Vec<f64>,
}

impl InferenceArgs {
    /// What the flags ask for.
    pub fn inference(&self) -> Inference {
        Inference {
            device: self.device.device(),
            precision: self.dtype,
            batch_size: self.batch_size,
            tta: Tta::None,
            mean: self.mean.clone(),
            std: self.std.clone(),
        }
    }
}
