//! LeakyReLU, as `torch.nn.LeakyReLU`: `y = x where x > 0, else slope * x`, `dx = dy where x > 0, else slope * dy`.

mod cases;
mod fast;
mod record;

use std::sync::Arc;

use serde::Deserialize;

use super::Entry;
use super::elementwise::Elementwise;
use crate::layer::{Backward, Fit, Following, Forward, Layer, Misfit, Node, Op, Shape, Twin};
use crate::real::Real;

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "leaky_relu",
    summary: "`torch.nn.LeakyReLU`",
    shaders: &[&record::SHADER],
    read: |settings, _| Settings::deserialize(settings).map(Layer::new),
    cases: cases::all,
    draw: cases::draw,
    golden: Some(cases::golden),
};

/// `torch.nn.LeakyReLU`, as its author writes it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Settings {
    /// What numbers below 0 are multiplied by; PyTorch's default is 0.01.
    pub negative_slope: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { negative_slope: 0.01 }
    }
}

/// LeakyReLU over images of a shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeakyRelu {
    shape: Shape,
    slope: f64,
}

impl Layer {
    /// `torch.nn.LeakyReLU(negative_slope)`.
    pub fn leaky_relu(negative_slope: f64) -> Self {
        Self::new(Settings { negative_slope })
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "leakyrelu"
    }

    fn fit(&self, shape: Shape) -> Result<Arc<dyn Op>, Misfit> {
        let slope = self.negative_slope;
        if !(slope as f32).is_finite() {
            return Err(Misfit {
                got: format!("a negative slope of {slope}"),
                needs: "a number that f32 holds".into(),
            });
        }
        Ok(Arc::new(LeakyRelu { shape, slope }))
    }
}

impl<T: Real> Twin<T> for LeakyRelu {
    fn forward(&self, pass: Forward<T>) {
        let slope = T::of(self.slope);
        for (y, &x) in pass.y.iter_mut().zip(pass.x) {
            *y = if x > T::zero() { x } else { slope * x };
        }
    }

    fn backward(&self, pass: Backward<T>) {
        let (slope, Some(dx)) = (T::of(self.slope), pass.dx) else { return };
        for ((dx, &x), &dy) in dx.iter_mut().zip(pass.x).zip(pass.dy) {
            *dx = if x > T::zero() { dy } else { slope * dy };
        }
    }

    fn fast(&self, following: &Following) -> Option<(Box<dyn Node<T>>, usize)> {
        Some((Box::new(Elementwise { function: *self, shape: self.shape, lanes: following.lanes::<T>() }), 0))
    }
}
