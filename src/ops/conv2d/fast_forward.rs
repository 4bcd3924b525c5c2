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

use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};

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
        for i in 0..stage.pool.output_plane()[0] {
            for first in (0..vectors).step_by(TILE_VECTORS) {
                for p in 0..stage.pool.kernel[0] {
                    let row = (i * stage.pool.stride[0] + p) * d.stride[0] * stage.input.row_stride;
                    let row = Row {
                        x: &self.x[row..],
                        step: d.stride[1] * stage.input.column_stride,
                        runs: &stage.runs,
                        run_len: stage.run_len,
                        weights: &weights[first * d.fan_in()..],
                        bias: &bias[first..],
                        out: &mut band[p * columns * vectors + first..],
                        out_step: vectors,
                    };
                    row.compute::<S>(simd, columns, vectors - first);
                }
            }
            fast_pool::forward_row(simd, stage, columns, band, i, self.y, self.argmax);
        }
    }
}

/// A row of output pixels, and the vectors of output channels that a tile takes.
pub(super) struct Row<'a, T, V> {
    /// From the first pixel's window on.
    pub x: &'a [T],
    /// From a pixel's window to the next one's.
    pub step: usize,
    /// Where in a window the values lie that meet `run_len` successive weights.
    pub runs: &'a [usize],
    pub run_len: usize,
    /// From the row's first vector on.
    pub weights: &'a [V],
    pub bias: &'a [V],
    pub out: &'a mut [V],
    /// From a pixel's vectors to the next one's.
    pub out_step: usize,
}

impl<T: Real, V: bytemuck::Pod> Row<'_, T, V> {
    /// Computes `columns` pixels and up to [`TILE_VECTORS`] of the `vectors` that are left. Every pass of every node
    /// calls this one, for its many forms take long to compile.
    #[inline(never)]
    pub fn compute<S: Simd>(self, simd: S, columns: usize, vectors: usize)
    where
        T: Real<Vector<S> = V>,
    {
        simd.vectorize(Tiles { row: self, simd, columns, vectors });
    }
}

/// A row in tiles.
struct Tiles<'a, T, V, S> {
    row: Row<'a, T, V>,
    simd: S,
    columns: usize,
    vectors: usize,
}

impl<S: Simd, V: bytemuck::Pod, T: Real<Vector<S> = V>> NullaryFnOnce for Tiles<'_, T, V, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { row: Row { x, step, runs, run_len, weights, bias, out, out_step }, simd, columns, vectors } = self;
        // Accumulators, a step's weights and the input value must fit the registers.
        let widest = if S::REGISTER_COUNT >= 32 { 8 } else { 6 };
        let tiles = columns.div_ceil(widest);
        let mut column = 0;
        for tile in 0..tiles {
            // Tiles as even as possible: 14 columns are 7 and 7, which keeps more registers busy than 8 and 6.
            let width = (columns * (tile + 1)).div_ceil(tiles) - column;
            let (x, out) = (&x[column * step..], &mut out[column * out_step..]);
            let tile = Row { x, step, runs, run_len, weights, bias, out, out_step };
            macro_rules! by_width {
                ($($width:literal)*) => {
                    match (width, vectors) {
                        $(($width, 1) => tile.tile::<S, $width, 1>(simd),
                        ($width, _) => tile.tile::<S, $width, TILE_VECTORS>(simd),)*
                        _ => unreachable!("tiles are 1 to 8 pixels wide"),
                    }
                };
            }
            by_width!(1 2 3 4 5 6 7 8);
            column += width;
        }
    }
}

impl<T: Real, V: bytemuck::Pod> Row<'_, T, V> {
    #[inline(always)]
    fn tile<S: Simd, const WIDTH: usize, const VECTORS: usize>(self, simd: S)
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
