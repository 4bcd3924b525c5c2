//! ReLU: `y = max(x, 0)`, `dx = dy where y > 0, else 0` (PyTorch's gradient at 0 is 0).

mod cases;
mod fast;
mod record;
pub mod reference;

use std::sync::Arc;

pub use record::backward;

use super::Entry;
use super::elementwise::Elementwise;
use crate::layer::{Backward, Fit, Following, Forward, Layer, Misfit, Node, Op, Shape, Twin};
use crate::real::Real;

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "relu",
    summary: "`torch.nn.ReLU`",
    shaders: &[&record::SHADER],
    read: |settings, _| super::plain(settings, Layer::relu()),
    cases: cases::all,
    draw: cases::draw,
    golden: Some(cases::golden),
};

/// `torch.nn.ReLU`, as its author writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings;

/// ReLU over images of this shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relu(pub Shape);

impl Layer {
    /// `torch.nn.ReLU`.
    pub fn relu() -> Self {
        Self::new(Settings)
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "relu"
    }

    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        Ok(Arc::new(Relu(input)))
    }
}

impl<T: Real> Twin<T> for Relu {
    fn forward(&self, pass: Forward<T>) {
        reference::forward(pass.x, pass.y);
    }

    fn backward(&self, pass: Backward<T>) {
        if let Some(dx) = pass.dx {
            reference::backward(pass.y, pass.dy, dx);
        }
    }

    fn fast(&self, following: &Following) -> Option<(Box<dyn Node<T>>, usize)> {
        Some((Box::new(Elementwise { function: *self, shape: self.0, lanes: following.lanes::<T>() }), 0))
    }
}
