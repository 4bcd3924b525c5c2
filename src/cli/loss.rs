//! The flags that describe the loss.

use std::path::PathBuf;

use clap::ValueEnum;
use smoothcnn::data::source::recorded;
use smoothcnn::loss::smoothing::Variant;
use smoothcnn::loss::weighted::Weighting;
use smoothcnn::train::config::loss::{LossKind, LossSettings, ScheduleKind};
use smoothcnn::{Error, Result};

/// Over which classes epsilon is spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Spread {
    /// All, e/C each (PyTorch's).
    #[default]
    Uniform,
    /// All but the true one, e/(C-1) each.
    OffTarget,
    /// By a distribution over the classes: --smoothing-prior.
    Prior,
}

/// Flags that describe the loss, but for epsilon and over which classes it is spread.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct LossArgs {
    /// Loss
    #[arg(long = "loss", value_enum, default_value = "cross-entropy")]
    pub kind: LossKind,
    /// The focal loss's exponent [default: 2]
    #[arg(long, value_name = "GAMMA", allow_negative_numbers = true)]
    pub focal_gamma: Option<f64>,
    /// The confidence penalty's factor [default: 0.1]
    #[arg(long, value_name = "BETA", allow_negative_numbers = true)]
    pub confidence_beta: Option<f64>,
    /// MbLS' factor [default: 0.1]
    #[arg(long, value_name = "LAMBDA", allow_negative_numbers = true)]
    pub mbls_lambda: Option<f64>,
    /// How far below the largest logit MbLS lets the others be [default: 10]
    #[arg(long, value_name = "MARGIN", allow_negative_numbers = true)]
    pub mbls_margin: Option<f64>,
    /// Let epsilon be below 0, which sharpens the targets instead (Wei et al. 2022, on noisy labels)
    #[arg(long)]
    pub allow_negative_smoothing: bool,
    /// With --smoothing-variant prior: unigram, the frequencies of the training labels, or a file with a number for
    /// each class
    #[arg(long, value_name = "unigram|FILE")]
    pub smoothing_prior: Option<String>,
    /// How epsilon changes, step by step
    #[arg(long, value_enum, default_value = "constant")]
    pub smoothing_schedule: ScheduleKind,
    /// Epochs that the schedule takes [default: the run's]
    #[arg(long, value_name = "N", value_parser = super::common::at_least_one)]
    pub smoothing_epochs: Option<usize>,
    /// A weight for each class: balanced (images / (classes * images of the class)), numbers with commas, or a file of
    /// numbers
    #[arg(long, value_name = "balanced|W,W,…|FILE")]
    pub class_weights: Option<String>,
    /// What a class weight multiplies: its class's term (pytorch, with smoothing it moves the optimum) or the whole
    /// sample [default: pytorch]
    #[arg(long, value_enum)]
    pub class_weighting: Option<Weighting>,
    /// Training images with this label count for nothing, whatever number it is; so do those of the other sets, which
    /// are left out
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub ignore_index: Option<i64>,
    /// Only these classes take part; images of the others count for nothing
    #[arg(long, visible_alias = "classes", value_name = "CLASS,CLASS,…", value_delimiter = ',')]
    pub class_mask: Vec<usize>,
    /// A distribution over the classes for each training image, in place of its label: counts as an IDX file of two
    /// dimensions (CIFAR-10H), or safetensors `[images, classes]`; the first ones where there are more
    #[arg(long, value_name = "FILE")]
    pub soft_labels: Option<PathBuf>,
    /// Distil this model of the same data: it is asked once, before the training (Hinton et al. 2015)
    #[arg(long, value_name = "MODEL.safetensors")]
    pub teacher: Option<PathBuf>,
    /// What both models' logits are divided by [default: 4]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub distill_temperature: Option<f64>,
    /// The teacher's share of the loss; the labels have the rest [default: 0.9]
    #[arg(long, value_name = "ALPHA", allow_negative_numbers = true)]
    pub distill_alpha: Option<f64>,
}

impl LossArgs {
    /// The flags as a configuration records them: with the length of the schedule, which --resume must not change.
    pub fn recorded(&self, spread: Spread, epochs: usize) -> Result<(LossSettings, Variant)> {
        let variant = match (spread, &self.smoothing_prior) {
            (Spread::Uniform, None) | (Spread::Prior, Some(_)) => Variant::Uniform,
            (Spread::OffTarget, None) => Variant::OffTarget,
            (Spread::Prior, None) => {
                let message = "--smoothing-variant: found prior alone, expected --smoothing-prior with it";
                return Err(Error::Usage(message.into()));
            }
            (_, Some(prior)) => {
                let message = format!("--smoothing-prior: found {prior}, expected --smoothing-variant prior with it");
                return Err(Error::Usage(message));
            }
        };
        let scheduled = self.smoothing_schedule != ScheduleKind::Constant;
        let smoothing_epochs = self.smoothing_epochs.or(scheduled.then_some(epochs));
        let path = |flag, path: &Option<PathBuf>| path.as_deref().map(|path| recorded(flag, path)).transpose();
        let soft_labels = path("--soft-labels", &self.soft_labels)?;
        let teacher = path("--teacher", &self.teacher)?;
        let Self { kind, focal_gamma, confidence_beta, mbls_lambda, mbls_margin, allow_negative_smoothing, .. } = *self;
        let Self { smoothing_schedule, class_weighting, ignore_index, distill_temperature, distill_alpha, .. } = *self;
        let settings = LossSettings {
            kind,
            focal_gamma,
            confidence_beta,
            mbls_lambda,
            mbls_margin,
            allow_negative_smoothing,
            smoothing_prior: self.smoothing_prior.clone(),
            smoothing_schedule,
            smoothing_epochs,
            class_weights: self.class_weights.clone(),
            class_weighting,
            ignore_index,
            class_mask: self.class_mask.clone(),
            soft_labels,
            teacher,
            distill_temperature,
            distill_alpha,
        };
        Ok((settings, variant))
    }
}
