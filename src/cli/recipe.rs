//! The flags that describe what is done beside the plain update.

use smoothcnn::train::config::recipe::{LrSchedule, RecipeSettings, Spared};

use super::common;

/// Flags of the learning rate's schedule, and of what is done beside the plain update.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct RecipeArgs {
    /// How the learning rate changes, step by step
    #[arg(long, value_enum, default_value = "constant")]
    pub lr_schedule: LrSchedule,
    /// With cosine and one-cycle: epochs that the schedule takes, its warm-up included; a run that goes on with more
    /// epochs keeps it [default: the run's]
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    pub lr_epochs: Option<usize>,
    /// Epochs in which the rate rises to --lr, before the rest of the schedule. With one-cycle: how long its rise lasts
    /// [default: none; 0.3 of one-cycle]
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    pub warmup_epochs: Option<usize>,
    /// The same, in steps
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    pub warmup_steps: Option<usize>,
    /// What the rate rises from [default: 0; a 25th of --lr with one-cycle]
    #[arg(long, value_name = "LR", allow_negative_numbers = true)]
    pub warmup_lr: Option<f64>,
    /// The least that the schedule comes down to [default: 0; with one-cycle a 10,000th of what it rises from]
    #[arg(long, value_name = "LR", allow_negative_numbers = true)]
    pub min_lr: Option<f64>,
    /// With step: epochs from one change to the next. With exponential: epochs in which the rate falls by --decay-rate
    /// [default: 1 with exponential]
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    pub decay_epochs: Option<usize>,
    /// With step and exponential: the factor [default: 0.1 with step]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub decay_rate: Option<f64>,
    /// What weight decay spares: parameters of normalisations, biases. norm,bias is timm's default [default: nothing]
    #[arg(long, value_enum, value_name = "norm,bias", value_delimiter = ',')]
    pub no_decay: Vec<Spared>,
    /// Make the gradient of a step shorter where its norm is more than this (as PyTorch's clip_grad_norm_)
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    pub clip_grad_norm: Option<f64>,
    /// Keep a moving average of the weights with this decay, as timm's ModelEmaV2; it is measured beside them after
    /// each epoch, and saved as model-ema.safetensors
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true)]
    pub ema: Option<f64>,
    /// Mix each image with another of its batch, and its loss with that label's: shares from Beta(ALPHA, ALPHA), as
    /// timm. With --cutmix too, each batch has one of the two [default: 0, not at all]
    #[arg(long, value_name = "ALPHA", allow_negative_numbers = true)]
    pub mixup: Option<f64>,
    /// Put a rectangle of another image of its batch into each image, and mix the losses by how large it is, as timm
    /// [default: 0, not at all]
    #[arg(long, value_name = "ALPHA", allow_negative_numbers = true)]
    pub cutmix: Option<f64>,
    /// Add the gradients of N batches up for each step: as a batch N times as large, in the memory of one [default: 1]
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    pub accumulate: Option<usize>,
}

impl RecipeArgs {
    /// The flags as a configuration records them.
    pub fn recorded(&self) -> RecipeSettings {
        let Self { lr_schedule, lr_epochs, warmup_epochs, warmup_steps, .. } = *self;
        let Self { warmup_lr, min_lr, decay_epochs, decay_rate, .. } = *self;
        RecipeSettings {
            lr_schedule,
            lr_epochs,
            warmup_epochs,
            warmup_steps,
            warmup_lr,
            min_lr,
            decay_epochs,
            decay_rate,
            no_decay: self.no_decay.clone(),
            clip_grad_norm: self.clip_grad_norm,
            ema: self.ema,
            mixup: self.mixup,
            cutmix: self.cutmix,
            accumulate: self.accumulate,
        }
    }
}
