//! A convolution with the ReLU and the pooling that follow it, forward. Formulas: [`crate::ops::conv2d`],
//! [`crate::ops::max_pool2d`].
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

use super::fast_block::{ConvBlock, Packed, TILE_VECTORS};
use super::fast_pool;
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
        // Accumulators, a step's weights and the input value must fit the registers.
        let widest = if S::REGISTER_COUNT >= 32 { 8 } else { 6 };
        let tiles = columns.div_ceil(widest);
        for i in 0..stage.pool.output_plane()[0] {
            for first in (0..vectors).step_by(TILE_VECTORS) {
                let weights = &weights[first * d.fan_in()..];
                for p in 0..stage.pool.kernel[0] {
                    let row = (i * stage.pool.stride[0] + p) * d.stride[0] * stage.input.row_stride;
                    let mut column = 0;
                    for tile in 0..tiles {
                        // Tiles as even as possible: 14 columns are 7 and 7, which keeps more registers busy than 8 and
                        // 6.
                        let width = (columns * (tile + 1)).div_ceil(tiles) - column;
                        let step = d.stride[1] * stage.input.column_stride;
                        let tile = Tile {
                            x: &self.x[row + column * step..],
                            step,
                            runs: &stage.runs,
                            run_len: stage.run_len,
                            weights,
                            bias: &bias[first..],
                            out: &mut band[(p * columns + column) * vectors + first..],
                            out_step: vectors,
                        };
                        tile.compute_any::<S>(simd, width, vectors - first);
                        column += width;
                    }
                }
            }
            fast_pool::forward_row(simd, stage, columns, band, i, self.y, self.argmax);
        }
    }
}

/// Some neighbouring output pixels and vectors of output channels.
struct Tile<'a, T, V> {
    /// From the first pixel's window on.
    x: &'a [T],
    /// From a pixel's window to the next one's.
    step: usize,
    runs: &'a [usize],
    run_len: usize,
    /// From the tile's first vector on.
    weights: &'a [V],
    bias: &'a [V],
    out: &'a mut [V],
    out_step: usize,
}

impl<T: Real, V: bytemuck::Pod> Tile<'_, T, V> {
    /// Computes `width` pixels and up to [`TILE_VECTORS`] of the `vectors` that are left.
    #[inline(always)]
    fn compute_any<S: Simd>(self, simd: S, width: usize, vectors: usize)
    where
        T: Real<Vector<S> = V>,
    {
        macro_rules! by_width {
            ($($width:literal)*) => {
                match (width, vectors) {
                    $(($width, 1) => self.compute::<S, $width, 1>(simd),
                    ($width, _) => self.compute::<S, $width, TILE_VECTORS>(simd),)*
                    _ => unreachable!("tiles are 1 to 8 pixels wide"),
                }
            };
        }
        by_width!(1 2 3 4 5 6 7 8)
    }

    #[inline(always)]
    fn compute<S: Simd, const WIDTH: usize, const VECTORS: usize>(self, simd: S)
    where
        T: Real<Vector<S> = V>,
    {
        let (bias, _) = self.bias.as_chunks::<VECTORS>();
        let (weights, _) = self.weights.as_chunks::<VECTORS>();
        let mut sums = [bias[0]; WIDTH];
        for (&run, weights) in self.runs.iter().zip(weights.chunks_exact(self.run_len)) {
            // One slice a pixel, each exactly as long as the loop: no bounds to check inside it.
            let mut xs = [&self.x[..0]; WIDTH];
            for (j, x) in xs.iter_mut().enumerate() {
                *x = &self.x[run + j * self.step..][..self.run_len];
            }
            for i in 0..self.run_len {
                let w = weights[i];
                for j in 0..WIDTH {
                    let x = T::splat(simd, xs[j][i]);
                    for k in 0..VECTORS {
                        sums[j][k] = T::vmul_add(simd, x, w[k], sums[j][k]);
                    }
                }
            }
        }
        for (j, sums) in sums.iter().enumerate() {
            self.out[j * self.out_step..][..VECTORS].copy_from_slice(sums);
        }
    }
}
