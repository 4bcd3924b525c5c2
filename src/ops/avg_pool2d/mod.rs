//! AvgPool2d without padding, as `torch.nn.AvgPool2d`: floor rule.
//!
//! ```text
//! y[n,c,i,j]  = 1/k * sum over p,q of x[n, c, i*s+p, j*s+q]                  k elements in a window
//! dx[n,c,h,w] = 1/k * sum over the windows (i,j) that cover (h,w) of dy[n,c,i,j]
//! ```

mod cases;
mod record;
mod reference;

use std::sync::Arc;

use serde::Deserialize;

use super::{Entry, Pooling, Stride, pooled};
use crate::layer::{Backward, Fit, Forward, Layer, Misfit, Op, Shape, Twin};
use crate::real::Real;

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "avg_pool2d",
    summary: "`torch.nn.AvgPool2d` without padding: any window and stride",
    shaders: &[&record::SHADER],
    read: |settings, _| {
        Pooling::deserialize(settings).map(|Pooling { kernel, stride }| {
            Layer::new(Settings { kernel_size: kernel, stride: stride.unwrap_or(Stride(kernel)).0 })
        })
    },
    cases: cases::all,
    draw: cases::draw,
    golden: Some(cases::golden),
};

/// A pooling as its author writes it: `torch.nn.AvgPool2d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Height and width of the window.
    pub kernel_size: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
}

/// The dimensions of a pooling over one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvgPool2d {
    /// Channels, height and width of the input.
    pub input: [usize; 3],
    /// Height and width of the output.
    pub output: [usize; 2],
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
}

impl Layer {
    /// An average over square windows that do not overlap.
    pub fn avg_pool2d(kernel_size: usize) -> Self {
        Self::new(Settings { kernel_size: [kernel_size; 2], stride: [kernel_size; 2] })
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "avgpool"
    }

    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        let Self { kernel_size: kernel, stride } = *self;
        let [channels, h, w] = input.image()?;
        let output = pooled([channels, h, w], kernel, stride, [0; 2])?;
        Ok(Arc::new(AvgPool2d { input: [channels, h, w], output, kernel, stride }))
    }
}

impl<T: Real> Twin<T> for AvgPool2d {
    fn forward(&self, pass: Forward<T>) {
        reference::forward(self, pass.x, pass.y);
    }

    fn backward(&self, pass: Backward<T>) {
        if let Some(dx) = pass.dx {
            reference::backward(self, pass.dy, dx);
        }
    }
}
