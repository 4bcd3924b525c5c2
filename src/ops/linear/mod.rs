//! Linear (fully connected), as `torch.nn.Linear`.
//!
//! ```text
//! y[n,o]  = b[o] + sum over i of w[o,i] * x[n,i]
//! dx[n,i] = sum over o of w[o,i] * dy[n,o]
//! dw[o,i] = sum over n of dy[n,o] * x[n,i]
//! db[o]   = sum over n of dy[n,o]
//! ```

mod cases;
pub mod fast;
pub(crate) mod product;
mod record;
pub mod reference;

pub use cases::DIMS;

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{Around, Entry};
use crate::layer::{Backward, Fit, Following, Forward, Init, Layer, Misfit, Node, Op, Shape, Twin};
use crate::real::Real;

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "linear",
    summary: "`torch.nn.Linear`",
    shaders: &[&record::SHADER],
    read,
    cases: cases::all,
    draw: cases::draw,
    golden: Some(cases::golden),
};

/// Without `out` it has an output for each class.
fn read(settings: Value, around: Around) -> serde_json::Result<Layer> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        out: Option<usize>,
        #[serde(default)]
        init: Init,
    }
    File::deserialize(settings)
        .map(|File { out, init }| Layer::new(Settings { init, ..Settings::new(out.unwrap_or(around.classes)) }))
}

/// A fully connected layer as its author writes it: `torch.nn.Linear`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Features in, checked where given.
    pub in_features: Option<usize>,
    /// Features out.
    pub out_features: usize,
    /// The first values of weight and bias.
    pub init: Init,
}

impl Settings {
    /// As PyTorch has it by default.
    pub fn new(out_features: usize) -> Self {
        Self { in_features: None, out_features, init: Init::Default }
    }
}

impl Layer {
    /// A fully connected layer.
    pub fn linear(out_features: usize) -> Self {
        Self::new(Settings::new(out_features))
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "fc"
    }

    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        let Shape::Features(inputs) = input else {
            return Err(Misfit { got: format!("an image {input}"), needs: "a flat vector: add Flatten".into() });
        };
        Misfit::check("input features", self.in_features, inputs, input)?;
        if self.out_features == 0 {
            return Err(Misfit { got: "0 output features".into(), needs: "at least 1".into() });
        }
        Ok(Arc::new(Linear { inputs, outputs: self.out_features, init: self.init }))
    }
}

/// The dimensions of a fully connected layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Features in.
    pub inputs: usize,
    /// Features out.
    pub outputs: usize,
    /// The first values of weight and bias.
    pub init: Init,
}

impl Linear {
    /// With PyTorch's own first values.
    pub const fn new(inputs: usize, outputs: usize) -> Self {
        Self { inputs, outputs, init: Init::Default }
    }

    /// Elements of the weight, `[outputs, inputs]`.
    pub fn weight_len(&self) -> usize {
        self.inputs * self.outputs
    }

    /// Floating-point operations (two for each multiply-add) of one pass over one image.
    pub fn flops(&self) -> u64 {
        2 * self.weight_len() as u64
    }
}

impl<T: Real> Twin<T> for Linear {
    fn forward(&self, pass: Forward<T>) {
        reference::forward(self, pass.x, pass.params[0], pass.params[1], pass.y);
    }

    fn backward(&self, pass: Backward<T>) {
        let [dw, db] = pass.grads else { unreachable!("a weight and a bias") };
        reference::backward_weight(self, pass.x, pass.dy, dw, db);
        if let Some(dx) = pass.dx {
            reference::backward_input(self, pass.dy, pass.params[0], dx);
        }
    }

    fn fast(&self, _following: &Following) -> Option<(Box<dyn Node<T>>, usize)> {
        Some((Box::new(fast::Dense(*self)), 0))
    }
}
