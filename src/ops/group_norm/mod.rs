//! GroupNorm, as `torch.nn.GroupNorm`: each group of channels of each image, m elements in all. Training and inference
//! are the same.
//!
//! ```text
//! mean = 1/m sum x        var = 1/m sum (x - mean)^2        inv = 1 / sqrt(var + eps)        xhat = (x - mean) inv
//! y = weight xhat + bias                                    weight and bias by channel
//! dx = inv (g - 1/m sum g - xhat 1/m sum g xhat)            g = weight dy
//! dweight = sum dy xhat   dbias = sum dy                    of a channel, over the batch and its plane
//! ```

mod cases;
mod fast;
mod record;
mod reference;

use std::sync::Arc;

use serde::Deserialize;

use super::Entry;
use crate::layer::{Backward, Fit, Following, Forward, Layer, Misfit, Node, Op, Shape, Twin};
use crate::real::Real;

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "group_norm",
    summary: "`torch.nn.GroupNorm`: affine",
    shaders: &[&record::SHADER],
    read: |settings, _| Settings::deserialize(settings).map(Layer::new),
    cases: cases::all,
    draw: cases::draw,
    golden: Some(cases::golden),
};

/// A group norm as its author writes it: `torch.nn.GroupNorm`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Into how many groups the channels are taken, one after the other.
    pub num_groups: usize,
    /// Added to the variance.
    #[serde(default = "eps")]
    pub eps: f64,
}

fn eps() -> f64 {
    1e-5
}

/// A group norm over images of this shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Channels, height, width.
    pub image: [usize; 3],
    /// Groups, which divide the channels.
    pub num_groups: usize,
    /// Added to the variance.
    pub eps: f64,
}

impl Layer {
    /// `torch.nn.GroupNorm` with PyTorch's eps.
    pub fn group_norm(num_groups: usize) -> Self {
        Self::new(Settings { num_groups, eps: eps() })
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "gn"
    }

    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        let Self { num_groups, eps } = *self;
        let image = input.image()?;
        if num_groups == 0 || !image[0].is_multiple_of(num_groups) {
            return Err(Misfit {
                got: format!("{num_groups} groups of {} channels (from {input})", image[0]),
                needs: "a number of groups that divides the channels".into(),
            });
        }
        // What f32 takes for 0 would be a division by it.
        if !(eps.is_finite() && eps as f32 > 0.0) {
            return Err(Misfit { got: format!("eps {eps}"), needs: "a number above 0 that f32 holds".into() });
        }
        Ok(Arc::new(GroupNorm { image, num_groups, eps }))
    }
}

impl GroupNorm {
    fn plane(&self) -> usize {
        self.image[1] * self.image[2]
    }

    fn channels_of_group(&self) -> usize {
        self.image[0] / self.num_groups
    }

    /// Elements of a group.
    fn group_len(&self) -> usize {
        self.channels_of_group() * self.plane()
    }
}

impl<T: Real> Twin<T> for GroupNorm {
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
