//! MaxPool2d, as `torch.nn.MaxPool2d`: floor rule, the first maximum of a window wins a tie, and the first NaN wins
//! all. What is in the padding is -infinity: it never wins, for every window has an element of the image.
//!
//! ```text
//! y[n,c,i,j]      = max over p,q of x[n, c, i*s+p-pad, j*s+q-pad]     as far as that is in the image
//! argmax[n,c,i,j] = h * width + w of the first element, row by row, that reaches it
//! dx[n,c,h,w]     = sum over the windows (i,j) whose argmax is (h,w) of dy[n,c,i,j]
//! ```

mod cases;
mod fast;
pub(crate) mod fast_vectors;
mod record;
pub mod reference;

use std::sync::Arc;

use serde::Deserialize;

use super::{Entry, Stride, pooled};
use crate::layer::{Backward, Fit, Following, Forward, Layer, Misfit, Node, Op, Shape, Twin};
use crate::real::Real;

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "max_pool2d",
    summary: "`torch.nn.MaxPool2d`: any window, stride and padding",
    shaders: &[&record::SHADER],
    read: |settings, _| {
        InFile::deserialize(settings).map(|InFile { kernel, stride, padding }| {
            Layer::new(Settings { kernel_size: kernel, stride: stride.unwrap_or(Stride(kernel)).0, padding })
        })
    },
    cases: cases::all,
    draw: cases::draw,
    golden: Some(cases::golden),
};

/// The settings in a file. The stride is the window's size where it is left out, as in PyTorch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InFile {
    #[serde(deserialize_with = "super::pair")]
    kernel: [usize; 2],
    stride: Option<Stride>,
    #[serde(default, deserialize_with = "super::pair")]
    padding: [usize; 2],
}

/// A pooling as its author writes it: `torch.nn.MaxPool2d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Height and width of the window.
    pub kernel_size: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Padding on each side of an axis, of at most half the window.
    pub padding: [usize; 2],
}

impl Layer {
    /// A pooling over square windows that do not overlap.
    pub fn max_pool2d(kernel_size: usize) -> Self {
        Self::new(Settings { kernel_size: [kernel_size; 2], stride: [kernel_size; 2], padding: [0; 2] })
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "pool"
    }

    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        let Self { kernel_size: kernel, stride, padding } = *self;
        let dims = MaxPool2d { input: input.image()?, kernel, stride, padding };
        dims.output()?;
        Ok(Arc::new(dims))
    }
}

/// The dimensions of a pooling over one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool2d {
    /// Channels, height and width of the input.
    pub input: [usize; 3],
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Padding above and below, left and right.
    pub padding: [usize; 2],
}

impl MaxPool2d {
    /// The output's channels, height, width.
    pub fn output(&self) -> Result<[usize; 3], Misfit> {
        let Self { input, kernel, stride, padding } = *self;
        if padding.iter().zip(kernel).any(|(&padding, kernel)| padding > kernel / 2) {
            return Err(Misfit {
                got: format!("padding {padding:?} of a window of {}x{}", kernel[0], kernel[1]),
                needs: "at most half the window".into(),
            });
        }
        let [rows, columns] = pooled(input, kernel, stride, padding)?;
        Ok([self.input[0], rows, columns])
    }

    /// The output's `[height, width]`, for dimensions that [`Self::output`] accepts.
    pub fn output_plane(&self) -> [usize; 2] {
        let axis = |i: usize| (self.input[i + 1] + 2 * self.padding[i] - self.kernel[i]) / self.stride[i] + 1;
        [axis(0), axis(1)]
    }

    /// The output's channels, height, width, likewise.
    pub fn output_dims(&self) -> [usize; 3] {
        let [rows, columns] = self.output_plane();
        [self.input[0], rows, columns]
    }

    /// Elements of one input image.
    pub fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    /// Elements of one output image.
    pub fn output_len(&self) -> usize {
        self.input[0] * self.output_plane().iter().product::<usize>()
    }
}

impl<T: Real> Twin<T> for MaxPool2d {
    fn forward(&self, pass: Forward<T>) {
        reference::forward(self, pass.x, pass.y, &mut pass.kept.words);
    }

    fn backward(&self, pass: Backward<T>) {
        if let Some(dx) = pass.dx {
            reference::backward(self, &pass.kept.words, pass.dy, dx);
        }
    }

    fn fast(&self, following: &Following) -> Option<(Box<dyn Node<T>>, usize)> {
        Some((Box::new(fast::Pool::new(self, following.lanes::<T>())), 0))
    }
}
