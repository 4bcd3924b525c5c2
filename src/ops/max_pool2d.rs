//! MaxPool2d without padding, as `torch.nn.MaxPool2d`: floor rule, the first maximum of a window wins a tie, and the first
//! NaN wins all.
//!
//! ```text
//! y[n,c,i,j]      = max over p,q of x[n, c, i*s+p, j*s+q]
//! argmax[n,c,i,j] = h * width + w of the first element, row by row, that reaches it
//! dx[n,c,h,w]     = sum over the windows (i,j) whose argmax is (h,w) of dy[n,c,i,j]
//! ```

use super::{Misfit, windows};
use crate::Result;
use crate::plan::shaders::MAX_POOL2D;
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// The dimensions of a pooling over one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool2d {
    /// Channels, height and width of the input.
    pub input: [usize; 3],
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
}

impl MaxPool2d {
    /// The output's channels, height, width.
    pub fn output(&self) -> Result<[usize; 3], Misfit> {
        let [channels, h, w] = self.input;
        match (windows(h, self.kernel[0], self.stride[0], 0), windows(w, self.kernel[1], self.stride[1], 0)) {
            (Some(rows), Some(columns)) => Ok([channels, rows, columns]),
            _ => Err(Misfit {
                got: format!("a {channels}x{h}x{w} input, stride {:?}", self.stride),
                needs: format!(
                    "strides of at least 1 and an image of at least the window's {}x{}",
                    self.kernel[0], self.kernel[1]
                ),
            }),
        }
    }

    /// The output's `[height, width]`, for dimensions that [`Self::output`] accepts.
    pub fn output_plane(&self) -> [usize; 2] {
        let axis = |i: usize| (self.input[i + 1] - self.kernel[i]) / self.stride[i] + 1;
        [axis(0), axis(1)]
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

uniform! {
    /// `MaxPool2d` in `shaders/max_pool2d.wgsl`.
    struct Dims {
        channels: u32, h_in: u32, w_in: u32,
        h_out: u32, w_out: u32,
        kernel_h: u32, kernel_w: u32,
        stride_h: u32, stride_w: u32,
    }
}

impl MaxPool2d {
    fn dims(&self) -> Dims {
        let [channels, h_in, w_in] = self.input.map(word);
        let [h_out, w_out] = self.output_plane().map(word);
        let [kernel_h, kernel_w] = self.kernel.map(word);
        let [stride_h, stride_w] = self.stride.map(word);
        Dims { channels, h_in, w_in, h_out, w_out, kernel_h, kernel_w, stride_h, stride_w }
    }

    /// Records `x` to `y` and `argmax`.
    pub fn forward(&self, plan: &mut Plan, name: &str, n: usize, x: Slice, y: Slice, argmax: Slice) -> Result<()> {
        plan.dispatch(
            format!("{name}.forward"),
            (&MAX_POOL2D, "forward"),
            self.dims(),
            Grid::Threads(n * self.output_len()),
            0,
            &[("x", x), ("y", y), ("argmax", argmax)],
        )
    }

    /// Records `dy` to `dx`.
    pub fn backward(&self, plan: &mut Plan, name: &str, n: usize, argmax: Slice, dy: Slice, dx: Slice) -> Result<()> {
        plan.dispatch(
            format!("{name}.backward"),
            (&MAX_POOL2D, "backward"),
            self.dims(),
            Grid::Threads(n * self.input_len()),
            0,
            &[("argmax_in", argmax), ("dy", dy), ("dx", dx)],
        )
    }
}
