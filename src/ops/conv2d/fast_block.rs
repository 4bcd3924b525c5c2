//! A convolution with the ReLU and the pooling that follow it: how its input, its output and its parameters lie.

use super::Conv2d;
use super::fast_images::pack_bias;
use crate::layer::{Aligned, ImageLayout};
use crate::ops::max_pool2d::MaxPool2d;
use crate::real::Real;

/// Vectors of output channels in a register tile.
pub(super) const TILE_VECTORS: usize = 2;

/// A convolution and what is done to its output in the same pass.
#[derive(Clone, Debug)]
pub struct ConvBlock {
    /// The convolution.
    pub dims: Conv2d,
    /// Whether a ReLU follows, before or after the pooling (they commute, gradients included).
    pub relu: bool,
    /// The pooling over windows that do not overlap. Windows of one element where there is none.
    pub pool: MaxPool2d,
    /// The convolution's input.
    pub input: ImageLayout,
    /// The pooling's output.
    pub output: ImageLayout,
    /// Whether the backward pass goes on below the convolution.
    pub wants_input_gradient: bool,
    /// Values in a vector of this machine.
    pub lanes: usize,
    /// Where in the input the values lie that meet `run_len` successive weights of an output, from the window's corner.
    pub(super) runs: Vec<usize>,
    pub(super) run_len: usize,
}

/// A convolution's parameters as the kernels read them. Channels are filled up to whole vectors with zeros.
#[derive(Clone, Debug, Default)]
pub struct Packed<T> {
    /// `[block][kernel row][kernel column][c_in][TILE_VECTORS * lanes]`; the last block may be one vector wide.
    pub forward: Aligned<T>,
    /// `[c_out]`.
    pub bias: Aligned<T>,
    /// `[vector of c_in][c_out][kernel row][kernel column][lanes]`, if the backward pass needs it.
    pub backward: Aligned<T>,
}

impl ConvBlock {
    /// The layout in which a convolution takes its input.
    ///
    /// Whole vectors of channels, where its gradient is computed in vectors. Otherwise (the network's first layer, of
    /// often one channel) no channel is added, and vectors that run past a row of a window are read but not used.
    pub fn input_layout(dims: &Conv2d, wants_input_gradient: bool, lanes: usize) -> ImageLayout {
        let stride = if wants_input_gradient { dims.input[0].next_multiple_of(lanes) } else { dims.input[0] };
        ImageLayout::pixels(dims.input, dims.padding, stride, lanes)
    }

    /// The stage, with its output in planes until whoever reads it wants another layout.
    pub fn new(dims: Conv2d, relu: bool, pool: Option<MaxPool2d>, wants_input_gradient: bool, lanes: usize) -> Self {
        let [rows, columns] = dims.output_plane();
        let none = MaxPool2d { input: [dims.c_out, rows, columns], kernel: [1, 1], stride: [1, 1], padding: [0; 2] };
        let pool = pool.unwrap_or(none);
        let [rows, columns] = pool.output_plane();
        let input = Self::input_layout(&dims, wants_input_gradient, lanes);
        let [kernel_rows, kernel_columns] = dims.kernel;
        let contiguous = input.column_stride == dims.input[0];
        let (per_row, run_len) =
            if contiguous { (1, kernel_columns * dims.input[0]) } else { (kernel_columns, dims.input[0]) };
        let run = |i: usize| i / per_row * input.row_stride + i % per_row * input.column_stride;
        Self {
            output: ImageLayout::planes([dims.c_out, rows, columns]),
            runs: (0..kernel_rows * per_row).map(run).collect(),
            run_len,
            dims,
            relu,
            pool,
            input,
            wants_input_gradient,
            lanes,
        }
    }

    /// Whether a pooling can be part of a stage: each element is in one window at most, and a byte holds an index in
    /// it.
    pub fn takes(pool: &MaxPool2d) -> bool {
        let disjoint = pool.stride[0] >= pool.kernel[0] && pool.stride[1] >= pool.kernel[1];
        disjoint && pool.kernel[0] * pool.kernel[1] <= 256
    }

    /// Elements of a window of the pooling.
    pub fn window(&self) -> usize {
        self.pool.kernel[0] * self.pool.kernel[1]
    }

    /// Output channels, up to whole vectors.
    pub fn padded_c_out(&self) -> usize {
        self.dims.c_out.next_multiple_of(self.lanes)
    }

    /// Length of an image's argmax: `[row][column][padded c_out]`, each an index in its window.
    pub fn argmax_len(&self) -> usize {
        self.pool.output_plane().iter().product::<usize>() * self.padded_c_out()
    }

    /// Columns of the convolution's output that are in windows.
    pub(super) fn columns(&self) -> usize {
        (self.pool.output_plane()[1] - 1) * self.pool.stride[1] + self.pool.kernel[1]
    }

    /// Length of the convolution's output under one row of windows: `[row][column][padded c_out]`.
    pub fn band_len(&self) -> usize {
        self.pool.kernel[0] * self.columns() * self.padded_c_out()
    }

    /// Packs `w [c_out, c_in, kernel rows, kernel columns]` and `b [c_out]`, which is empty where there is no bias, for
    /// the forward pass.
    pub fn pack_forward<T: Real>(&self, w: &[T], b: &[T], packed: &mut Packed<T>) {
        let d = &self.dims;
        let ([c_in, ..], lanes) = (d.input, self.lanes);
        let taps = d.kernel[0] * d.kernel[1];
        pack_bias(b, self.padded_c_out(), &mut packed.bias);
        packed.forward.resize(self.padded_c_out() * d.fan_in(), T::zero());
        let block = TILE_VECTORS * lanes;
        for (o, w) in w.chunks(d.fan_in()).enumerate() {
            let first = o / block * block;
            let width = block.min(self.padded_c_out() - first);
            let packed = &mut packed.forward[first * d.fan_in() + o - first..];
            for (c, w) in w.chunks(taps).enumerate() {
                for (tap, &w) in w.iter().enumerate() {
                    packed[(tap * c_in + c) * width] = w;
                }
            }
        }
    }

    /// Packs `w` for the backward pass, if that goes on below the convolution.
    pub fn pack_backward<T: Real>(&self, w: &[T], packed: &mut Packed<T>) {
        let d = &self.dims;
        let ([c_in, ..], c_out, lanes) = (d.input, d.c_out, self.lanes);
        let taps = d.kernel[0] * d.kernel[1];
        if self.wants_input_gradient {
            packed.backward.resize(c_in.next_multiple_of(lanes) * c_out * taps, T::zero());
            for (o, w) in w.chunks(d.fan_in()).enumerate() {
                for (c, w) in w.chunks(taps).enumerate() {
                    let packed = &mut packed.backward[(c / lanes * c_out + o) * taps * lanes + c % lanes..];
                    for (tap, &w) in w.iter().enumerate() {
                        packed[tap * lanes] = w;
                    }
                }
            }
        }
    }
}
