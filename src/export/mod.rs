//! A saved model for other programs. What is written takes pixels as floats from 0 to 255, `[batch, channels, height,
//! width]`, and normalises them itself. Weights are in f32, also those of a run in f64.

pub mod hugging_face;
pub mod onnx;
pub mod pytorch;

use crate::backend::State;
use crate::data::format::CropMode;
use crate::layer::{Exported, Role};
use crate::measure::scaling::Scaling;
use crate::network::{FittedLayer, NamedParameter, Network};
use crate::train::model::{Interface, Model, ModelFile};
use crate::{Error, Result};

/// A network with its weights, and all that other programs need to answer as it does.
#[derive(Clone, Debug)]
pub struct Exportable {
    /// Its layers.
    pub net: Network,
    /// Its parameters and buffers.
    pub state: State,
    /// What the classes are called, by their label.
    pub classes: Vec<String>,
    /// Each channel's mean and standard deviation, of pixels scaled to 0..1.
    pub normalisation: Vec<[f64; 2]>,
    /// How a picture of another shape becomes an image.
    pub crop_mode: CropMode,
    /// Which classes took part in training, if not all. The others have probability 0.
    pub allowed: Option<Vec<bool>>,
    /// What is done to the logits.
    pub scaling: Scaling,
}

impl Exportable {
    /// The model of `file`, its logits scaled.
    ///
    /// # Errors
    /// [`Error::Data`] for a model that does not say what its images and its classes are; as [`Model::load`] and
    /// [`Scaling::check`].
    pub fn new(file: &ModelFile, scaling: Scaling) -> Result<Self> {
        let Interface { shape, classes, crop_mode } = file.interface()?;
        let Model { net, state, .. } = Model::load(&file.path, shape, classes.len())?;
        // The model has its own; there are no others to fall back on.
        let normalisation = file.normalisation([&[], &[]], &vec![[f64::NAN; 2]; shape[0]])?;
        let allowed = file.class_mask(classes.len())?;
        scaling.check(classes.len())?;
        Ok(Self { net, state, classes, normalisation, crop_mode, allowed, scaling })
    }

    /// Each layer as other programs have it.
    ///
    /// # Errors
    /// [`Error::Layer`] for one that they do not have.
    pub fn layers(&self) -> Result<Vec<(&FittedLayer, Exported)>> {
        let exported = |layer: &FittedLayer| {
            layer.op.exported().ok_or_else(|| Error::Layer {
                layer: layer.name.clone(),
                got: "an operation of one's own, without a form in other programs".into(),
                needs: "`Op::exported` to be written for it".into(),
            })
        };
        self.net.layers.iter().map(|layer| Ok((layer, exported(layer)?))).collect()
    }

    /// A layer's parameters and buffers in the order of [`crate::layer::Op::parameters`], with their values.
    fn parameters<'a>(&'a self, layer: &FittedLayer) -> Vec<(&'a NamedParameter, &'a [f64])> {
        let Self { net, state, .. } = self;
        let mut trained = net.parameters[layer.parameters.clone()].iter().map(|p| (p, &state.params[p.range()]));
        let mut buffers = net.buffers[layer.buffers.clone()].iter().map(|p| (p, &state.buffers[p.range()]));
        let mut of = |role| if role == Role::Buffer { buffers.next() } else { trained.next() };
        layer.op.parameters().iter().filter_map(|parameter| of(parameter.role)).collect()
    }

    /// Mean (0) or standard deviation (1) of each channel.
    fn each_channel(&self, which: usize) -> Vec<f64> {
        self.normalisation.iter().map(|channel| channel[which]).collect()
    }
}
