//! A convolution with the ReLU and the pooling that follow it, forward, in the direct way. Formulas:
//! [`crate::ops::conv2d`], [`crate::ops::max_pool2d`].
//!
//! Direct convolution in register tiles: up to 8 neighbouring output pixels by 2 vectors of output channels. Each step
//! takes one input value of each pixel and multiplies it with 2 vectors of weights:
//!
//! ```text
//! acc[pixel][vector] += x[pixel * stride + tap][c] * w[tap][c][vector]        for every tap, for every c
//! ```
//!
//! The weights are packed so that they are read from front to back, and those of 2 vectors of channels are used for a
//! whole row of windows before the next ones are: they stay in the first-level cache.

use pulp::{Arch, Simd, WithSimd};

use super::fast_block::{ConvBlock, Packed};
use super::fast_pool;
use super::fast_rows::Rows;
use crate::layer::ImageLayout;
use crate::real::{Real, lanes};

impl ConvBlock {
    /// One image `x` to the pooled `y` and its `argmax`. `band` is scratch.
    pub fn forward<T: Real>(
        &self,
        arch: Arch,
        packed: &Packed<T>,
        x: &[T],
        y: &mut [T],
        argmax: &mut [u8],
        band: &mut [T],
    ) {
        arch.dispatch(Forward { stage: self, packed, x, y, argmax, band });
    }
}

impl ConvBlock {
    /// One image of the convolution's output, pixel by pixel without a border, to the pooled `y` and its `argmax`.
    /// Nothing of `z` is kept.
    pub fn pool<T: Real>(&self, arch: Arch, z: &mut [T], lies: &ImageLayout, y: &mut [T], argmax: &mut [u8]) {
        arch.dispatch(Pool { stage: self, z, lies, y, argmax });
    }
}

struct Pool<'a, T> {
    stage: &'a ConvBlock,
    z: &'a mut [T],
    lies: &'a ImageLayout,
    y: &'a mut [T],
    argmax: &'a mut [u8],
}

impl<T: Real> WithSimd for Pool<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { stage, z, lies, y, argmax } = self;
        let columns = lies.row_stride / lies.column_stride;
        for i in 0..stage.pool.output_plane()[0] {
            let band = T::vectors_mut::<S>(&mut z[i * stage.pool.stride[0] * lies.row_stride..]);
            fast_pool::forward_row(simd, stage, columns, band, i, y, argmax);
        }
    }
}

struct Forward<'a, T> {
    stage: &'a ConvBlock,
    packed: &'a Packed<T>,
    x: &'a [T],
    y: &'a mut [T],
    argmax: &'a mut [u8],
    band: &'a mut [T],
}

impl<T: Real> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let stage = self.stage;
        let d = &stage.dims;
        let columns = stage.columns();
        let vectors = stage.padded_c_out() / lanes::<T, S>();
        let weights = T::vectors::<S>(&self.packed.forward);
        let bias = T::vectors::<S>(&self.packed.bias);
        let band = T::vectors_mut::<S>(self.band);
        for i in 0..stage.pool.output_plane()[0] {
            let x_steps = [d.stride[0] * stage.input.row_stride, d.stride[1] * stage.input.column_stride];
            let rows = Rows {
                plane: [stage.pool.kernel[0], columns],
                x: &self.x[i * stage.pool.stride[0] * x_steps[0]..],
                x_steps,
                runs: &stage.runs,
                run_len: stage.run_len,
                weights,
                weights_step: 0,
                bias,
                out: &mut *band,
                adds: false,
                relu: false,
                out_steps: [columns * vectors, vectors],
            };
            rows.compute::<S>(simd, vectors);
            fast_pool::forward_row(simd, stage, columns, band, i, self.y, self.argmax);
        }
    }
}
