//! For whoever asks a saved model: what computes its logits, and how.

use crate::backend::device::{Device, Precision};

/// What a model is asked about each image beside the image itself (test-time augmentation).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Tta {
    /// Nothing.
    #[default]
    None,
    /// Its mirror image; the logits are the mean of both.
    Flip,
}

/// What computes a saved model's logits, and how.
#[derive(Clone, Debug)]
pub struct Inference {
    /// What to compute on.
    pub device: Device,
    /// In which precision.
    pub precision: Precision,
    /// Images in a batch.
    pub batch_size: usize,
    /// What else is asked about each image.
    pub tta: Tta,
    /// Mean of the pixels, scaled to 0..1: one value, one a channel, or none for that of training.
    pub mean: Vec<f64>,
    /// Their standard deviation.
    pub std: Vec<f64>,
}

impl Default for Inference {
    fn default() -> Self {
        Self {
            device: Device::default(),
            precision: Precision::F32,
            batch_size: 256,
            tta: Tta::None,
            mean: vec![],
            std: vec![],
        }
    }
}
