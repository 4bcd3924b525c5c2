//! Conv2d: cross-correlation with zero padding, as `torch.nn.Conv2d`.
//!
//! ```text
//! y[n,o,i,j]  = b[o] + sum over c,p,q of  w[o,c,p,q] * x[n, c, i*s+d*p-pad, j*s+d*q-pad]
//! dx[n,c,h,w] = sum over o,p,q of          w[o,c,p,q] * dy[n, o, (h+pad-d*p)/s, (w+pad-d*q)/s]   where these are whole
//! dw[o,c,p,q] = sum over n,i,j of          dy[n,o,i,j] * x[n, c, i*s+d*p-pad, j*s+d*q-pad]
//! db[o]       = sum over n,i,j of          dy[n,o,i,j]
//! ```
//!
//! `s` is the stride, `d` the dilation. In groups, the channels of input and output are taken into as many parts, one
//! after the other, and each part of the output sees its own part of the input alone: in the sums `c` and `o` are of
//! one group, and `c` counts from its first. As many groups as input channels are a depthwise convolution.

mod cases;
pub mod fast;
pub mod fast_backward;
pub mod fast_block;
mod fast_dense;
mod fast_depthwise;
mod fast_direct;
pub mod fast_forward;
mod fast_grouped;
mod fast_images;
mod fast_pool;
mod fast_products;
mod fast_rows;
pub mod fast_terms;
mod record;
pub mod reference;
mod winograd;

pub use cases::DIMS;

use std::sync::Arc;

use serde::Deserialize;

use super::max_pool2d::MaxPool2d;
use super::{Entry, MOST_STEP, windows};
use crate::Result;
use crate::layer::{Backward, Fit, Following, Forward, Init, Layer, Misfit, Node, Op, Shape, Twin};
use crate::real::Real;

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "conv2d",
    summary: "`torch.nn.Conv2d`: any kernel, stride, zero padding, dilation and groups",
    shaders: &[&record::SHADER],
    read: |settings, _| Settings::deserialize(settings).map(Layer::new),
    cases: cases::all,
    draw: cases::draw,
    golden: Some(cases::golden),
};

/// A convolution as its author writes it: `torch.nn.Conv2d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Input channels, checked where given.
    #[serde(rename = "in")]
    pub in_channels: Option<usize>,
    /// Output channels.
    #[serde(rename = "out")]
    pub out_channels: usize,
    /// Height and width of the kernel.
    #[serde(rename = "kernel", default = "one", deserialize_with = "super::pair")]
    pub kernel_size: [usize; 2],
    /// Vertical and horizontal stride.
    #[serde(default = "one", deserialize_with = "super::pair")]
    pub stride: [usize; 2],
    /// Zero padding on each side of an axis.
    #[serde(default, deserialize_with = "super::pair")]
    pub padding: [usize; 2],
    /// From one element of the kernel to the next.
    #[serde(default = "one", deserialize_with = "super::pair")]
    pub dilation: [usize; 2],
    /// Parts of the channels that do not see each other.
    #[serde(default = "one_group")]
    pub groups: usize,
    /// Whether each output channel has a bias.
    #[serde(default = "yes")]
    pub bias: bool,
    /// The first values of weight and bias.
    #[serde(default)]
    pub init: Init,
}

fn one() -> [usize; 2] {
    [1; 2]
}

fn one_group() -> usize {
    1
}

fn yes() -> bool {
    true
}

impl Settings {
    /// A square kernel, stride 1, with bias.
    pub fn square(out_channels: usize, kernel_size: usize, padding: usize) -> Self {
        Self {
            in_channels: None,
            out_channels,
            kernel_size: [kernel_size; 2],
            stride: [1; 2],
            padding: [padding; 2],
            dilation: [1; 2],
            groups: 1,
            bias: true,
            init: Init::Default,
        }
    }
}

impl Layer {
    /// A convolution with a square kernel, stride 1.
    pub fn conv2d(out_channels: usize, kernel_size: usize, padding: usize) -> Self {
        Self::new(Settings::square(out_channels, kernel_size, padding))
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "conv"
    }

    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        let Self { in_channels, out_channels: c_out, kernel_size: kernel, stride, padding, .. } = *self;
        let Self { dilation, groups, bias, init, .. } = *self;
        let image = input.image()?;
        Misfit::check("input channels", in_channels, image[0], input)?;
        // A kernel of one element has no gaps, and so stays with the fast forms.
        let dilation = [0, 1].map(|axis| if kernel[axis] == 1 { dilation[axis].min(1) } else { dilation[axis] });
        let dims = Conv2d { input: image, c_out, kernel, stride, padding, dilation, groups, bias, init };
        dims.output()?;
        Ok(Arc::new(dims))
    }
}

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
    /// From one element of the kernel to the next.
    pub dilation: [usize; 2],
    /// Parts of the channels, of input and output, that do not see each other.
    pub groups: usize,
    /// Whether each output channel has a bias; without one it is 0.
    pub bias: bool,
    /// The first values of weight and bias.
    pub init: Init,
}

impl Conv2d {
    /// A single product: what others are written from.
    pub const PLAIN: Self = Self {
        input: [1; 3],
        c_out: 1,
        kernel: [1; 2],
        stride: [1; 2],
        padding: [0; 2],
        dilation: [1; 2],
        groups: 1,
        bias: true,
        init: Init::Default,
    };

    /// The output's channels, height, width.
    pub fn output(&self) -> Result<[usize; 3], Misfit> {
        let ([c_in, h, w], extent) = (self.input, self.extent());
        if self.groups == 0 || !c_in.is_multiple_of(self.groups) || !self.c_out.is_multiple_of(self.groups) {
            return Err(Misfit {
                got: format!("{} groups of {c_in} input and {} output channels", self.groups, self.c_out),
                needs: "a number of groups that divides both".into(),
            });
        }
        let rows = windows(h, extent[0], self.stride[0], self.padding[0]);
        let columns = windows(w, extent[1], self.stride[1], self.padding[1]);
        match (rows, columns) {
            (Some(rows), Some(columns)) if c_in > 0 && self.c_out > 0 => Ok([self.c_out, rows, columns]),
            _ => Err(Misfit {
                got: format!(
                    "a {c_in}x{h}x{w} input for {} output channels, stride {:?}, padding {:?}, dilation {:?}",
                    self.c_out, self.stride, self.padding, self.dilation
                ),
                needs: format!(
                    "at least one channel each way, strides and dilations from 1 to 2^31, and a padded image of at least \
                     the kernel's {}x{}",
                    extent[0], extent[1]
                ),
            }),
        }
    }

    /// Height and width of what a window covers; 0 where kernel or dilation are, or where the dilation is too large.
    fn extent(&self) -> [usize; 2] {
        [0, 1].map(|axis| match (self.kernel[axis], self.dilation[axis]) {
            (0, _) | (_, 0) => 0,
            (_, dilation) if dilation > MOST_STEP => 0,
            (kernel, dilation) => (kernel - 1).saturating_mul(dilation).saturating_add(1),
        })
    }

    /// Whether it is one group, and its kernel has no gaps: what the fused forms take, and Winograd's on the CPU.
    pub fn is_dense(&self) -> bool {
        self.groups == 1 && self.dilation == [1; 2]
    }

    /// Input and output channels of a group.
    pub fn channels_of_group(&self) -> [usize; 2] {
        [self.input[0] / self.groups, self.c_out / self.groups]
    }

    /// The output's `[height, width]`, for dimensions that [`Self::output`] accepts.
    pub fn output_plane(&self) -> [usize; 2] {
        let extent = self.extent();
        let axis = |i: usize| (self.input[i + 1] + 2 * self.padding[i] - extent[i]) / self.stride[i] + 1;
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

    /// Inputs to one output element: the weight's `c_in / groups * kernel height * kernel width`.
    pub fn fan_in(&self) -> usize {
        self.channels_of_group()[0] * self.kernel[0] * self.kernel[1]
    }

    /// Elements of the weight, `[c_out, c_in / groups, kernel height, kernel width]` (OIHW).
    pub fn weight_len(&self) -> usize {
        self.c_out * self.fan_in()
    }

    /// Floating-point operations (two for each multiply-add) of one pass over one image.
    pub fn flops(&self) -> u64 {
        2 * (self.output_len() * self.fan_in()) as u64
    }
}

impl<T: Real> Twin<T> for Conv2d {
    fn forward(&self, pass: Forward<T>) {
        let none = vec![T::zero(); self.c_out];
        let bias = pass.params.get(1).copied().unwrap_or(&none);
        reference::forward(self, pass.x, pass.params[0], bias, pass.y);
    }

    fn backward(&self, pass: Backward<T>) {
        let mut none = vec![T::zero(); self.c_out];
        let (dw, db) = match pass.grads {
            [dw, db] => (dw, &mut **db),
            [dw] => (dw, &mut none[..]),
            _ => unreachable!("a weight, and perhaps a bias"),
        };
        reference::backward_weight(self, pass.x, pass.dy, dw, db);
        if let Some(dx) = pass.dx {
            reference::backward_input(self, pass.dy, pass.params[0], dx);
        }
    }

    fn fast(&self, following: &Following) -> Option<(Box<dyn Node<T>>, usize)> {
        if !self.is_dense() {
            return Some(fast_dense::node(self, following));
        }
        // A pooling with padding is no part of these forms.
        let padded = |op: &Arc<dyn Op>| op.is::<MaxPool2d>().is_some_and(|pool| pool.padding != [0, 0]);
        let end = following.ops.iter().position(padded).unwrap_or(following.ops.len());
        Some(fast::node(self, &Following { ops: &following.ops[..end], ..*following }))
    }
}
