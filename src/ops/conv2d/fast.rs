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
use rayon::prelude::*;

use super::fast_backward::{Image, Sums};
use super::{Conv2d, fast_pool};
use crate::layer::Mode;
use crate::ops::fast::{Batch, Bytes, Following, Layout, Node, chunk_len, grow};
use crate::ops::max_pool2d::MaxPool2d;
use crate::ops::relu::Relu;
use crate::real::{Real, lanes};

/// Vectors of output channels in a register tile.
const TILE_VECTORS: usize = 2;

/// A convolution and what is done to its output in the same pass.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The convolution.
    pub dims: Conv2d,
    /// Whether a ReLU follows, before or after the pooling (they commute, gradients included).
    pub relu: bool,
    /// The pooling over windows that do not overlap. Windows of one element where there is none.
    pub pool: MaxPool2d,
    /// The convolution's input.
    pub input: Layout,
    /// The pooling's output.
    pub output: Layout,
    /// Whether the backward pass goes on below the convolution.
    pub wants_input_gradient: bool,
    /// Values in a vector of this machine.
    pub lanes: usize,
    /// Where in the input the values lie that meet `run_len` successive weights of an output, from the window's corner.
    runs: Vec<usize>,
    run_len: usize,
}

/// A convolution's parameters as the kernels read them. Channels are filled up to whole vectors with zeros.
#[derive(Clone, Debug, Default)]
pub struct Packed<T> {
    /// `[block][kernel row][kernel column][c_in][TILE_VECTORS * lanes]`; the last block may be one vector wide.
    pub forward: Vec<T>,
    /// `[c_out]`.
    pub bias: Vec<T>,
    /// `[vector of c_in][c_out][kernel row][kernel column][lanes]`, if the backward pass needs it.
    pub backward: Vec<T>,
}

impl Stage {
    /// The layout in which a convolution takes its input.
    ///
    /// Whole vectors of channels, where its gradient is computed in vectors. Otherwise (the network's first layer, of
    /// often one channel) no channel is added, and vectors that run past a row of a window are read but not used.
    pub fn input_layout(dims: &Conv2d, wants_input_gradient: bool, lanes: usize) -> Layout {
        let stride = if wants_input_gradient { dims.input[0].next_multiple_of(lanes) } else { dims.input[0] };
        Layout::pixels(dims.input, dims.padding, stride, lanes)
    }

    /// The stage, with its output in planes until whoever reads it wants another layout.
    pub fn new(dims: Conv2d, relu: bool, pool: Option<MaxPool2d>, wants_input_gradient: bool, lanes: usize) -> Self {
        let [rows, columns] = dims.output_plane();
        let none = MaxPool2d { input: [dims.c_out, rows, columns], kernel: [1, 1], stride: [1, 1] };
        let pool = pool.unwrap_or(none);
        let [rows, columns] = pool.output_plane();
        let input = Self::input_layout(&dims, wants_input_gradient, lanes);
        let [kernel_rows, kernel_columns] = dims.kernel;
        let contiguous = input.column_stride == dims.input[0];
        let (per_row, run_len) =
            if contiguous { (1, kernel_columns * dims.input[0]) } else { (kernel_columns, dims.input[0]) };
        let run = |i: usize| i / per_row * input.row_stride + i % per_row * input.column_stride;
        Self {
            output: Layout::planes([dims.c_out, rows, columns]),
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

    /// Whether a pooling can be part of a stage: each element is in one window at most, and a byte holds an index in it.
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
    fn columns(&self) -> usize {
        (self.pool.output_plane()[1] - 1) * self.pool.stride[1] + self.pool.kernel[1]
    }

    /// Length of the convolution's output under one row of windows: `[row][column][padded c_out]`.
    pub fn band_len(&self) -> usize {
        self.pool.kernel[0] * self.columns() * self.padded_c_out()
    }

    /// Packs `w [c_out, c_in, kernel rows, kernel columns]` and `b [c_out]`.
    pub fn pack<T: Real>(&self, w: &[T], b: &[T], packed: &mut Packed<T>) {
        let d = &self.dims;
        let ([c_in, ..], c_out, lanes) = (d.input, d.c_out, self.lanes);
        let taps = d.kernel[0] * d.kernel[1];
        packed.bias.resize(self.padded_c_out(), T::zero());
        packed.bias[..c_out].copy_from_slice(b);
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

/// The node of a convolution, with the ReLU and the pooling that follow it, in either order; how many layers it takes along.
pub fn node<T: Real>(dims: &Conv2d, following: &Following) -> (Box<dyn Node<T>>, usize) {
    let (mut relu, mut pool, mut taken) = (false, None, 0);
    for op in following.ops {
        match (op.is::<Relu>(), op.is::<MaxPool2d>()) {
            (Some(_), _) => relu = true,
            (_, Some(dims)) if pool.is_none() && Stage::takes(dims) => pool = Some(*dims),
            _ => break,
        }
        taken += 1;
    }
    let stage = Stage::new(*dims, relu, pool, following.wants_dx, following.lanes::<T>());
    (Box::new(Convolution { stage, packed: Packed::default(), argmax: vec![] }), taken)
}

/// A stage with its packed parameters and where each window's maximum was.
struct Convolution<T> {
    stage: Stage,
    packed: Packed<T>,
    argmax: Vec<u8>,
}

/// What a chunk of images needs, and its sums.
#[derive(Clone, Debug, Default)]
struct Chunk<T> {
    band: Vec<T>,
    sums: Sums<T>,
}

impl<T: Real> Node<T> for Convolution<T> {
    fn reads(&self) -> Option<Layout> {
        Some(self.stage.input)
    }

    fn give(&mut self, layout: &Layout) -> bool {
        self.stage.output = *layout;
        true
    }

    fn pack(&mut self, params: &[&[T]]) {
        self.stage.pack(params[0], params[1], &mut self.packed);
    }

    fn forward(&mut self, batch: Batch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        let Batch { n, arch, from, to, x, scratch, .. } = batch;
        let Self { stage, packed, argmax } = self;
        let chunk_len = chunk_len(n);
        let chunks = scratch.of::<Vec<Chunk<T>>>();
        if chunks.len() < n.div_ceil(chunk_len) {
            chunks.resize_with(n.div_ceil(chunk_len), Chunk::default);
        }
        grow(argmax, n * stage.argmax_len());
        x.par_chunks(from.len * chunk_len)
            .zip(y.par_chunks_mut(to.len * chunk_len))
            .zip(argmax.par_chunks_mut(stage.argmax_len() * chunk_len))
            .zip(chunks)
            .with_max_len(1)
            .for_each(|(((x, y), argmax), chunk)| {
                chunk.band.resize(stage.band_len(), T::zero());
                let images = x.chunks(from.len).zip(y.chunks_mut(to.len));
                for ((x, y), argmax) in images.zip(argmax.chunks_mut(stage.argmax_len())) {
                    stage.forward(arch, packed, x, y, argmax, &mut chunk.band);
                }
            });
    }

    fn backward(&self, batch: Batch<T>, y: &[T], dy: &[T], dx: Option<&mut [T]>, grads: &mut [&mut [T]]) {
        let Batch { n, arch, from, to, x, scratch, .. } = batch;
        let Self { stage, packed, argmax } = self;
        let chunk_len = chunk_len(n);
        let chunks = &mut scratch.of::<Vec<Chunk<T>>>()[..n.div_ceil(chunk_len)];
        let argmax = &argmax[..n * stage.argmax_len()];
        let work = |at: usize, chunk: &mut Chunk<T>, dx: &mut [T]| {
            stage.clear(&mut chunk.sums);
            // Empty if it is not wanted.
            let mut dx = dx.chunks_mut(from.len);
            for k in at * chunk_len..n.min((at + 1) * chunk_len) {
                let [x, y, dy] =
                    [(x, from.len), (y, to.len), (dy, to.len)].map(|(values, len)| &values[k * len..][..len]);
                let argmax = &argmax[k * stage.argmax_len()..][..stage.argmax_len()];
                let dx = dx.next().unwrap_or_default();
                stage.backward(arch, packed, Image { x, y, argmax, dy, dx }, &mut chunk.sums);
            }
        };
        let tasks = chunks.par_iter_mut().with_max_len(1);
        match dx {
            Some(dx) => {
                let dx = dx.par_chunks_mut(from.len * chunk_len);
                tasks.zip(dx).enumerate().for_each(|(at, (chunk, dx))| work(at, chunk, dx));
            }
            None => tasks.enumerate().for_each(|(at, chunk)| work(at, chunk, &mut [])),
        }
        let (total, parts) = chunks.split_first_mut().expect("a batch has at least one image");
        for part in parts {
            add(arch, &mut total.sums.dw, &part.sums.dw);
            add(arch, &mut total.sums.db, &part.sums.db);
        }
        let [dw, db] = grads else { unreachable!("a weight and a bias") };
        stage.unpack(&total.sums.dw, dw);
        db.copy_from_slice(&total.sums.db[..db.len()]);
    }

    fn bytes(&self) -> Bytes {
        let size = size_of::<T>();
        Bytes {
            image: self.stage.argmax_len(),
            forward: self.stage.band_len() * size,
            backward: self.stage.sums_bytes::<T>(),
        }
    }
}

/// `sum[i] += part[i]`.
fn add<T: Real>(arch: Arch, sum: &mut [T], part: &[T]) {
    arch.dispatch(
        #[inline(always)]
        || sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += *part),
    );
}

struct Forward<'a, T> {
    stage: &'a Stage,
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
                        // Tiles as even as possible: 14 columns are 7 and 7, which keeps more registers busy than 8 and 6.
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
