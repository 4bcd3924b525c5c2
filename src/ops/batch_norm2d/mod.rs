//! BatchNorm2d, as `torch.nn.BatchNorm2d`: each channel over the batch and its plane, m elements in all.
//!
//! ```text
//! mean = 1/m sum x        var = 1/m sum (x - mean)^2        inv = 1 / sqrt(var + eps)        xhat = (x - mean) inv
//! y = weight xhat + bias
//! dbias = sum dy          dweight = sum dy xhat             dx = weight inv (dy - dbias/m - xhat dweight/m)
//! running_mean = (1 - momentum) running_mean + momentum mean        running_var likewise, of var m/(m-1)
//! ```
//!
//! In inference `mean` and `var` are the running ones.

mod cases;
pub mod fast;
pub mod fast_image;
mod record;
mod reference;

use std::sync::Arc;

use serde::Deserialize;

use super::Entry;
use crate::layer::{Backward, Fit, Following, Forward, Layer, Misfit, Node, Op, Shape, Twin};
use crate::real::Real;

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "batch_norm2d",
    summary: "`torch.nn.BatchNorm2d`: affine, with running statistics",
    shaders: &[&record::SHADER],
    read: |settings, _| Settings::deserialize(settings).map(Layer::new),
    cases: cases::all,
    draw: cases::draw,
    golden: Some(cases::golden),
};

/// A batch norm as its author writes it: `torch.nn.BatchNorm2d`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Settings {
    /// Added to the variance.
    pub eps: f64,
    /// What a batch's statistics weigh in the running ones.
    pub momentum: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { eps: 1e-5, momentum: 0.1 }
    }
}

/// A batch norm over images of this shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm2d {
    /// Channels, height, width.
    pub image: [usize; 3],
    /// Added to the variance.
    pub eps: f64,
    /// What a batch's statistics weigh in the running ones.
    pub momentum: f64,
}

impl Layer {
    /// `torch.nn.BatchNorm2d` with PyTorch's eps and momentum.
    pub fn batch_norm2d() -> Self {
        Self::new(Settings::default())
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "bn"
    }

    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        let Self { eps, momentum } = *self;
        if !(eps > 0.0 && eps.is_finite() && (0.0..=1.0).contains(&momentum)) {
            return Err(Misfit {
                got: format!("eps {eps} and momentum {momentum}"),
                needs: "an eps above 0 and a momentum from 0 to 1".into(),
            });
        }
        Ok(Arc::new(BatchNorm2d { image: input.image()?, eps, momentum }))
    }
}

impl<T: Real> Twin<T> for BatchNorm2d {
    fn forward(&self, pass: Forward<T>) {
        reference::forward(self, pass);
    }

    fn backward(&self, pass: Backward<T>) {
        reference::backward(self, pass);
    }
    fn fast(&self, following: &Following) -> Option<(Box<dyn Node<T>>, usize)> {
        Some(fast::node(self, following))
    }
}
