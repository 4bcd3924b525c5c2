//! The register tiles of every convolution on the fast path: rows of pixels by vectors of channels.

use pulp::{NullaryFnOnce, Simd};

use super::fast_block::TILE_VECTORS;
use crate::real::Real;

/// `out[row][pixel][vector] = bias[vector] + sum over runs and their values of
/// x[row][pixel + run] * weights[row][value][vector]`.
pub(super) struct Rows<'a, T, V> {
    /// Rows and pixels of a row.
    pub plane: [usize; 2],
    /// From the first pixel's window on.
    pub x: &'a [T],
    /// From a row's first window, and from a pixel's window, to the next one's.
    pub x_steps: [usize; 2],
    /// Where in a window the values lie that meet `run_len` successive weights.
    pub runs: &'a [usize],
    pub run_len: usize,
    /// `[block of TILE_VECTORS vectors][run][value][vector of the block]`; the last block may be one vector wide.
    pub weights: &'a [V],
    /// From a row's weights to the next one's; 0 where all rows have the same.
    pub weights_step: usize,
    pub bias: &'a [V],
    pub out: &'a mut [V],
    /// Whether `out` is added to, and not written; then the bias counts for nothing.
    pub adds: bool,
    /// Whether what is negative is written as 0.
    pub relu: bool,
    /// From a row's, and from a pixel's, first vector to the next one's.
    pub out_steps: [usize; 2],
}

impl<T: Real, V: bytemuck::Pod> Rows<'_, T, V> {
    /// Computes so many vectors of each pixel. Every pass of every node calls this one, for its many forms take long to
    /// compile.
    #[inline(never)]
    pub fn compute<S: Simd>(self, simd: S, vectors: usize)
    where
        T: Real<Vector<S> = V>,
    {
        simd.vectorize(Tiles { rows: self, simd, vectors });
    }
}

/// Rows in tiles.
struct Tiles<'a, T, V, S> {
    rows: Rows<'a, T, V>,
    simd: S,
    vectors: usize,
}

impl<S: Simd, V: bytemuck::Pod, T: Real<Vector<S> = V>> NullaryFnOnce for Tiles<'_, T, V, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self {
            rows: Rows { plane, x, x_steps, runs, run_len, weights, weights_step, bias, out, adds, relu, out_steps },
            ..
        } = self;
        let Self { simd, vectors, .. } = self;
        let [rows, columns] = plane;
        // Accumulators, a step's weights and the input value must fit the registers.
        let widest = if S::REGISTER_COUNT >= 32 { 8 } else { 6 };
        let tiles = columns.div_ceil(widest);
        let blocks = vectors.div_ceil(TILE_VECTORS);
        let terms = runs.len() * run_len;
        for at in 0..rows * blocks {
            // Weights that all rows share stay in the first-level cache; else a row's inputs do.
            let (row, block) = if weights_step == 0 { (at % rows, at / rows) } else { (at / blocks, at % blocks) };
            let first = block * TILE_VECTORS;
            let weights = &weights[row * weights_step + first * terms..];
            let (x, out) = (&x[row * x_steps[0]..], &mut out[row * out_steps[0] + first..]);
            let mut column = 0;
            for tile in 0..tiles {
                // Tiles as even as possible: 14 columns are 7 and 7, which keeps more registers busy than 8 and 6.
                let width = (columns * (tile + 1)).div_ceil(tiles) - column;
                let tile = Tile {
                    x: &x[column * x_steps[1]..],
                    step: x_steps[1],
                    runs,
                    run_len,
                    weights,
                    bias: &bias[first..],
                    out: &mut out[column * out_steps[1]..],
                    out_step: out_steps[1],
                    adds,
                    relu,
                };
                macro_rules! by_width {
                    ($($width:literal)*) => {
                        match (width, vectors - first) {
                            $(($width, 1) => tile.compute::<S, $width, 1>(simd),
                            ($width, _) => tile.compute::<S, $width, TILE_VECTORS>(simd),)*
                            _ => unreachable!("tiles are 1 to 8 pixels wide"),
                        }
                    };
                }
                by_width!(1 2 3 4 5 6 7 8);
                column += width;
            }
        }
    }
}

/// Some pixels of a row, and the vectors of a block.
struct Tile<'a, T, V> {
    x: &'a [T],
    step: usize,
    runs: &'a [usize],
    run_len: usize,
    weights: &'a [V],
    bias: &'a [V],
    out: &'a mut [V],
    out_step: usize,
    adds: bool,
    relu: bool,
}

impl<T: Real, V: bytemuck::Pod> Tile<'_, T, V> {
    #[inline(always)]
    fn compute<S: Simd, const WIDTH: usize, const VECTORS: usize>(self, simd: S)
    where
        T: Real<Vector<S> = V>,
    {
        let (bias, _) = self.bias.as_chunks::<VECTORS>();
        let (weights, _) = self.weights.as_chunks::<VECTORS>();
        let mut sums = [bias[0]; WIDTH];
        if self.adds {
            for (j, sums) in sums.iter_mut().enumerate() {
                *sums = *self.out[j * self.out_step..].first_chunk().expect("a vector for each sum");
            }
        }
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
        if self.relu {
            let zero = T::splat(simd, T::zero());
            for (j, sums) in sums.iter().enumerate() {
                let mut positive = *sums;
                for k in 0..VECTORS {
                    positive[k] = T::select_le(simd, [sums[k], zero], zero, sums[k]);
                }
                self.out[j * self.out_step..][..VECTORS].copy_from_slice(&positive);
            }
            return;
        }
        for (j, sums) in sums.iter().enumerate() {
            self.out[j * self.out_step..][..VECTORS].copy_from_slice(sums);
        }
    }
}
