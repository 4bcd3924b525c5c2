//! Conv2d: cross-correlation with zero padding, as `torch.nn.Conv2d`.
//!
//! ```text
//! y[n,o,i,j]  = b[o] + sum over c,p,q of  w[o,c,p,q] * x[n, c, i*s+p-pad, j*s+q-pad]
//! dx[n,c,h,w] = sum over o,p,q of          w[o,c,p,q] * dy[n, o, (h+pad-p)/s, (w+pad-q)/s]   where the divisions are exact
//! dw[o,c,p,q] = sum over n,i,j of          dy[n,o,i,j] * x[n, c, i*s+p-pad, j*s+q-pad]
//! db[o]       = sum over n,i,j of          dy[n,o,i,j]
//! ```

use super::{AffineBuffers, Misfit, windows};
use crate::Result;
use crate::plan::shaders::CONV2D;
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// The dimensions of a convolution over one image; the batch is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Channels, height and width of the input.
    pub input: [usize; 3],
    /// Output channels.
    pub c_out: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zero padding above and below, left and right.
    pub padding: [usize; 2],
}

impl Conv2d {
    /// The output's channels, height, width.
    pub fn output(&self) -> Result<[usize; 3], Misfit> {
        let [c_in, h, w] = self.input;
        let rows = windows(h, self.kernel[0], self.stride[0], self.padding[0]);
        let columns = windows(w, self.kernel[1], self.stride[1], self.padding[1]);
        match (rows, columns) {
            (Some(rows), Some(columns)) if c_in > 0 && self.c_out > 0 => Ok([self.c_out, rows, columns]),
            _ => Err(Misfit {
                got: format!(
                    "a {c_in}x{h}x{w} input for {} output channels, stride {:?}, padding {:?}",
                    self.c_out, self.stride, self.padding
                ),
                needs: format!(
                    "at least one channel each way, strides of at least 1, and a padded image of at least the kernel's \
                     {}x{}",
                    self.kernel[0], self.kernel[1]
                ),
            }),
        }
    }

    /// The output's `[height, width]`, for dimensions that [`Self::output`] accepts.
    pub fn output_plane(&self) -> [usize; 2] {
        let axis = |i: usize| (self.input[i + 1] + 2 * self.padding[i] - self.kernel[i]) / self.stride[i] + 1;
        [axis(0), axis(1)]
    }

    /// Elements of one input image.
    pub fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    /// Elements of one output image.
    pub fn output_len(&self) -> usize {
        self.c_out * self.output_plane().iter().product::<usize>()
    }

    /// Inputs to one output element: the weight's `c_in * kernel height * kernel width`.
    pub fn fan_in(&self) -> usize {
        self.input[0] * self.kernel[0] * self.kernel[1]
    }

    /// Elements of the weight, `[c_out, c_in, kernel height, kernel width]` (OIHW).
    pub fn weight_len(&self) -> usize {
        self.c_out * self.fan_in()
    }

    /// Floating-point operations (two for each multiply-add) of one pass over one image.
    pub fn flops(&self) -> u64 {
        2 * (self.output_len() * self.fan_in()) as u64
    }
}

uniform! {
    /// `Conv2d` in `shaders/conv2d.wgsl`.
    struct Dims {
        c_in: u32, h_in: u32, w_in: u32,
        c_out: u32, h_out: u32, w_out: u32,
        kernel_h: u32, kernel_w: u32,
        stride_h: u32, stride_w: u32,
        padding_h: u32, padding_w: u32,
    }
}

impl Conv2d {
    fn dims(&self) -> Dims {
        let [c_in, h_in, w_in] = self.input.map(word);
        let [h_out, w_out] = self.output_plane().map(word);
        let [kernel_h, kernel_w] = self.kernel.map(word);
        let [stride_h, stride_w] = self.stride.map(word);
        let [padding_h, padding_w] = self.padding.map(word);
        Dims {
            c_in,
            h_in,
            w_in,
            c_out: word(self.c_out),
            h_out,
            w_out,
            kernel_h,
            kernel_w,
            stride_h,
            stride_w,
            padding_h,
            padding_w,
        }
    }

    /// Records the forward pass over a batch of up to `n`.
    pub fn forward(&self, plan: &mut Plan, name: &str, n: usize, at: &AffineBuffers) -> Result<()> {
        plan.dispatch(
            format!("{name}.forward"),
            (&CONV2D, "forward"),
            self.dims(),
            Grid::Threads(n * self.output_len()),
            self.flops() * n as u64,
            &[("x", at.x), ("w", at.w), ("b", at.b), ("y", at.y)],
        )?;
        plan.loops(&[self.input[0], self.kernel[0], self.kernel[1]]);
        Ok(())
    }

    /// Records the gradient of the input.
    pub fn backward_input(
        &self,
        plan: &mut Plan,
        name: &str,
        n: usize,
        at: &AffineBuffers,
        dy: Slice,
        dx: Slice,
    ) -> Result<()> {
        plan.dispatch(
            format!("{name}.backward_input"),
            (&CONV2D, "backward_input"),
            self.dims(),
            Grid::Threads(n * self.input_len()),
            self.flops() * n as u64,
            &[("w", at.w), ("dy", dy), ("dx", dx)],
        )?;
        plan.loops(&[self.c_out, self.kernel[0], self.kernel[1]]);
        Ok(())
    }

    /// Records the gradients of the weight and of the bias.
    pub fn backward_weight(&self, plan: &mut Plan, name: &str, n: usize, at: &AffineBuffers, dy: Slice) -> Result<()> {
        plan.dispatch(
            format!("{name}.backward_weight"),
            (&CONV2D, "backward_weight"),
            self.dims(),
            Grid::Threads(self.weight_len()),
            self.flops() * n as u64,
            &[("x", at.x), ("dy", dy), ("dw", at.dw)],
        )?;
        let [h, w] = self.output_plane();
        plan.loops(&[n, h, w]);
        plan.dispatch(
            format!("{name}.backward_bias"),
            (&CONV2D, "backward_bias"),
            self.dims(),
            Grid::Threads(self.c_out),
            (self.output_len() * n) as u64,
            &[("dy", dy), ("db", at.db)],
        )?;
        plan.loops(&[n, h * w]);
        Ok(())
    }
}
