//! A convolution alone, as a node of the fast path: where nothing that is left out of the gradient follows it (a ReLU,
//! a pooling: [`super::fast`]), as before a batch norm. Formulas: [`crate::ops::conv2d`].
//!
//! Both tensors lie pixel by pixel. All three passes are register tiles over vectors of channels:
//!
//! ```text
//! forward   acc[pixel][vector of c_out] += x[pixel * stride + tap][c]   * w[tap][c][vector]     for every tap and c
//! input     acc[pixel][vector of c_in]  += dy[(pixel + pad - tap) / stride][o] * w[tap][o][vector]   for every tap and o
//! weight    acc[c][vector of c_out]     += x[pixel * stride + tap][c]   * dy[pixel][vector]     for every pixel
//! ```
//!
//! For the input's gradient the pixels of one remainder by the stride use the same taps: each remainder is a convolution
//! of its own over `dy`, which is copied with a border of zeros around it.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::Conv2d;
use super::fast_block::TILE_VECTORS;
use super::fast_forward::Row;
use crate::layer::{ImageLayout, Mode, Node, NodeBatch, NodeBytes, NodeGradients, chunk_len};
use crate::real::{Real, lanes};

/// The convolution's shapes, and how its tensors lie.
#[derive(Clone, Debug)]
struct Shapes {
    dims: Conv2d,
    input: ImageLayout,
    /// Of the output; in planes until whoever reads it wants another layout.
    output: ImageLayout,
    wants_dx: bool,
    lanes: usize,
    /// Where in the input the values lie that meet `run_len` successive weights, from a window's corner.
    runs: Vec<usize>,
    run_len: usize,
    /// The output's gradient with a border of zeros.
    bordered: ImageLayout,
    /// For the input's gradient.
    remainders: Vec<Remainder>,
}

/// Pixels of the input with the same remainder by the stride.
#[derive(Clone, Debug)]
struct Remainder {
    /// The first row and column of them.
    first: [usize; 2],
    /// How many rows and columns there are.
    count: [usize; 2],
    /// Where in the bordered gradient the taps lie, from the first pixel's place on.
    runs: Vec<usize>,
    /// Which taps these are, `kernel row * kernel columns + kernel column`.
    taps: Vec<usize>,
}

/// The weight as the kernels read it. Channels are filled up to whole vectors with zeros.
#[derive(Clone, Debug, Default)]
struct Packed<T> {
    /// `[block of c_out][run][value of the run][TILE_VECTORS * lanes]`; the last block may be one vector wide.
    forward: Vec<T>,
    bias: Vec<T>,
    /// For each remainder `[block of c_in][tap][c_out][TILE_VECTORS * lanes]`.
    backward: Vec<Vec<T>>,
    zeros: Vec<T>,
}

/// What a chunk of images needs, and its sums.
#[derive(Clone, Debug, Default)]
struct Chunk<T> {
    bordered: Vec<T>,
    row: Vec<T>,
    /// As [`Packed::forward`].
    dw: Vec<T>,
    /// `[c_out]`, filled up.
    db: Vec<T>,
}

/// The node.
pub struct DenseConvolution<T> {
    shapes: Shapes,
    packed: Packed<T>,
}

fn padded(channels: usize, lanes: usize) -> usize {
    channels.next_multiple_of(lanes)
}

impl Shapes {
    fn new(dims: Conv2d, wants_dx: bool, lanes: usize) -> Self {
        let [c_in, h, w] = dims.input;
        let [rows, columns] = dims.output_plane();
        // Without a gradient to compute in vectors no channel is added: a window's row is then one run.
        let stride = if wants_dx { padded(c_in, lanes) } else { c_in };
        let input = ImageLayout::pixels(dims.input, dims.padding, stride, lanes);
        let [kernel_rows, kernel_columns] = dims.kernel;
        let (per_row, run_len) = if stride == c_in { (1, kernel_columns * c_in) } else { (kernel_columns, c_in) };
        let run = |i: usize| i / per_row * input.row_stride + i % per_row * input.column_stride;
        // Row h of the input has the rows (h + padding - p) / stride of the output, as far as they are whole: from
        // `border` rows before the first to as many behind the last.
        let border = [0, 1].map(|axis| dims.kernel[axis].div_ceil(dims.stride[axis]) + dims.padding[axis]);
        let bordered = ImageLayout::pixels([dims.c_out, rows, columns], border, padded(dims.c_out, lanes), 0);
        let mut remainders = vec![];
        for i in 0..dims.stride[0].min(h) {
            for j in 0..dims.stride[1].min(w) {
                let taps_of = |axis: usize, first: usize| -> Vec<(usize, isize)> {
                    let whole = |&p: &usize| {
                        (first + dims.padding[axis] + dims.kernel[axis] * dims.stride[axis] - p)
                            .is_multiple_of(dims.stride[axis])
                    };
                    let at = |p: usize| (first + dims.padding[axis]) as isize - p as isize;
                    let place = |p: usize| (p, at(p).div_euclid(dims.stride[axis] as isize));
                    (0..dims.kernel[axis]).filter(whole).map(place).collect()
                };
                let (mut runs, mut taps) = (vec![], vec![]);
                for (p, row) in taps_of(0, i) {
                    for (q, column) in taps_of(1, j) {
                        let [row, column] = [row + border[0] as isize, column + border[1] as isize];
                        runs.push(row as usize * bordered.row_stride + column as usize * bordered.column_stride);
                        taps.push(p * kernel_columns + q);
                    }
                }
                let count = [(h - i).div_ceil(dims.stride[0]), (w - j).div_ceil(dims.stride[1])];
                remainders.push(Remainder { first: [i, j], count, runs, taps });
            }
        }
        Self {
            input,
            output: ImageLayout::planes([dims.c_out, rows, columns]),
            wants_dx,
            lanes,
            runs: (0..kernel_rows * per_row).map(run).collect(),
            run_len,
            bordered,
            remainders: if wants_dx { remainders } else { vec![] },
            dims,
        }
    }

    /// Whether the kernels write whole vectors to pixels that lie so.
    fn in_vectors(layout: &ImageLayout, channels: usize, lanes: usize) -> bool {
        let stride = layout.column_stride;
        layout.channel_stride == 1 && stride.is_multiple_of(lanes) && stride >= padded(channels, lanes)
    }

    /// Where the weight `[o][c][tap]` goes in a packed one of `block` channels of `outer`, with `inner` channels a tap.
    fn pack<T: Real>(&self, w: &[T], b: &[T], packed: &mut Packed<T>) {
        let Self { dims: Conv2d { input: [c_in, ..], c_out, .. }, lanes, .. } = *self;
        let taps = self.dims.kernel[0] * self.dims.kernel[1];
        packed.bias.resize(padded(c_out, lanes), T::zero());
        packed.bias[..b.len()].copy_from_slice(b);
        packed.zeros.resize(padded(c_in, lanes), T::zero());
        packed.forward.resize(padded(c_out, lanes) * self.dims.fan_in(), T::zero());
        self.for_each_weight(|at, from| packed.forward[at] = w[from]);
        packed.backward.resize_with(self.remainders.len(), Vec::new);
        let block = TILE_VECTORS * lanes;
        for (remainder, packed) in self.remainders.iter().zip(&mut packed.backward) {
            let terms = remainder.taps.len() * c_out;
            packed.resize(padded(c_in, lanes) * terms, T::zero());
            for c in 0..c_in {
                let first = c / block * block;
                let width = block.min(padded(c_in, lanes) - first);
                for (i, &tap) in remainder.taps.iter().enumerate() {
                    for o in 0..c_out {
                        packed[first * terms + (i * c_out + o) * width + c - first] = w[(o * c_in + c) * taps + tap];
                    }
                }
            }
        }
    }

    /// Calls `each(place in the packed weight, place in `[c_out, c_in, kernel rows, kernel columns]`)`.
    fn for_each_weight(&self, mut each: impl FnMut(usize, usize)) {
        let Self { dims: Conv2d { input: [c_in, ..], c_out, .. }, lanes, .. } = *self;
        let taps = self.dims.kernel[0] * self.dims.kernel[1];
        let block = TILE_VECTORS * lanes;
        for o in 0..c_out {
            let first = o / block * block;
            let width = block.min(padded(c_out, lanes) - first);
            for c in 0..c_in {
                for tap in 0..taps {
                    let at = first * self.dims.fan_in() + (tap * c_in + c) * width + o - first;
                    each(at, (o * c_in + c) * taps + tap);
                }
            }
        }
    }
}

impl<T: Real> DenseConvolution<T> {
    /// The node.
    pub fn new(dims: &Conv2d, wants_dx: bool, lanes: usize) -> Self {
        Self { shapes: Shapes::new(*dims, wants_dx, lanes), packed: Packed::default() }
    }
}

impl<T: Real> Node<T> for DenseConvolution<T> {
    fn reads(&self) -> Option<ImageLayout> {
        Some(self.shapes.input)
    }

    fn give(&mut self, layout: &ImageLayout) -> bool {
        self.shapes.output = *layout;
        true
    }

    fn pack(&mut self, params: &[&[T]]) {
        self.shapes.pack(params[0], params.get(1).copied().unwrap_or_default(), &mut self.packed);
    }

    fn forward(&mut self, batch: NodeBatch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { n, arch, from, to, x, scratch, .. } = batch;
        let Self { shapes, packed } = self;
        let chunk_len = chunk_len(n);
        let chunks = chunks(scratch.of::<Vec<Chunk<T>>>(), n.div_ceil(chunk_len));
        let tasks = x.par_chunks(from.len * chunk_len).zip(y.par_chunks_mut(to.len * chunk_len));
        tasks.zip(chunks).with_max_len(1).for_each(|((x, y), chunk)| {
            for (x, y) in x.chunks(from.len).zip(y.chunks_mut(to.len)) {
                arch.dispatch(Forward { shapes, packed, x, y, row: &mut chunk.row });
            }
        });
    }

    fn backward(&self, batch: NodeBatch<T>, _y: &[T], dy: &[T], grads: NodeGradients<T>) {
        let NodeBatch { n, arch, from, to, x, scratch, .. } = batch;
        let Self { shapes, packed } = self;
        let chunk_len = chunk_len(n);
        let chunks = chunks(scratch.of::<Vec<Chunk<T>>>(), n.div_ceil(chunk_len));
        let work = |at: usize, chunk: &mut Chunk<T>, dx: &mut [T]| {
            chunk.dw.clear();
            chunk.dw.resize(packed.forward.len(), T::zero());
            chunk.db.clear();
            chunk.db.resize(packed.bias.len(), T::zero());
            // Its border stays zero.
            chunk.bordered.clear();
            chunk.bordered.resize(shapes.bordered.len, T::zero());
            // Empty if it is not wanted.
            let mut dx = dx.chunks_mut(from.len);
            for k in at * chunk_len..n.min((at + 1) * chunk_len) {
                let [x, dy] = [(x, from.len), (dy, to.len)].map(|(values, len)| &values[k * len..][..len]);
                let dx = dx.next().unwrap_or_default();
                arch.dispatch(Backward { shapes, packed, x, dy, dx, chunk });
            }
        };
        let tasks = chunks.par_iter_mut().with_max_len(1);
        match grads.dx {
            Some(dx) => {
                let dx = dx.par_chunks_mut(from.len * chunk_len);
                tasks.zip(dx).enumerate().for_each(|(at, (chunk, dx))| work(at, chunk, dx));
            }
            None => tasks.enumerate().for_each(|(at, chunk)| work(at, chunk, &mut [])),
        }
        let (total, parts) = chunks.split_first_mut().expect("a batch has at least one image");
        for part in parts {
            add(arch, &mut total.dw, &part.dw);
            add(arch, &mut total.db, &part.db);
        }
        let [dw, rest @ ..] = grads.params else { unreachable!("a weight") };
        shapes.for_each_weight(|at, to| dw[to] = total.dw[at]);
        if let [db] = rest {
            db.copy_from_slice(&total.db[..db.len()]);
        }
    }

    fn bytes(&self) -> NodeBytes {
        let Shapes { dims, bordered, lanes, .. } = &self.shapes;
        let out = padded(dims.c_out, *lanes);
        let row = dims.output_plane()[1].max(dims.input[2]) * out.max(padded(dims.input[0], *lanes));
        NodeBytes {
            image: 0,
            forward: row * size_of::<T>(),
            backward: (bordered.len + out * (dims.fan_in() + 1)) * size_of::<T>(),
        }
    }
}

/// At least `count` of them.
fn chunks<T: Real>(chunks: &mut Vec<Chunk<T>>, count: usize) -> &mut [Chunk<T>] {
    if chunks.len() < count {
        chunks.resize_with(count, Chunk::default);
    }
    &mut chunks[..count]
}

/// `sum[i] += part[i]`.
fn add<T: Real>(arch: Arch, sum: &mut [T], part: &[T]) {
    arch.dispatch(
        #[inline(always)]
        || sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += *part),
    );
}

struct Forward<'a, T> {
    shapes: &'a Shapes,
    packed: &'a Packed<T>,
    x: &'a [T],
    y: &'a mut [T],
    row: &'a mut Vec<T>,
}

impl<T: Real> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shapes: Shapes { dims, input, output, runs, run_len, lanes, .. }, packed, x, y, row } = self;
        let lanes = *lanes;
        let vectors = padded(dims.c_out, lanes) / lanes;
        let weights = T::vectors::<S>(&packed.forward);
        let bias = T::vectors::<S>(&packed.bias);
        let [rows, columns] = dims.output_plane();
        let direct = Shapes::in_vectors(output, dims.c_out, lanes);
        row.resize(columns * vectors * lanes, T::zero());
        for i in 0..rows {
            let (to, out_step) = match direct {
                true => (&mut y[output.at(0, i, 0)..], output.column_stride / lanes),
                false => (&mut row[..], vectors),
            };
            let to = T::vectors_mut::<S>(to);
            let step = dims.stride[1] * input.column_stride;
            for first in (0..vectors).step_by(TILE_VECTORS) {
                let row = Row {
                    x: &x[i * dims.stride[0] * input.row_stride..],
                    step,
                    runs,
                    run_len: *run_len,
                    weights: &weights[first * dims.fan_in()..],
                    bias: &bias[first..],
                    out: &mut to[first..],
                    out_step,
                };
                row.compute::<S>(simd, columns, vectors - first);
            }
            if !direct {
                for (j, pixel) in row.chunks(vectors * lanes).enumerate() {
                    for (c, &value) in pixel[..dims.c_out].iter().enumerate() {
                        y[output.at(c, i, j)] = value;
                    }
                }
            }
        }
    }
}

struct Backward<'a, T> {
    shapes: &'a Shapes,
    packed: &'a Packed<T>,
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
    chunk: &'a mut Chunk<T>,
}

impl<T: Real> WithSimd for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shapes, packed, x, dy, dx, chunk } = self;
        let Chunk { bordered, row, dw, db } = chunk;
        let Shapes { dims, output, bordered: layout, .. } = shapes;
        let [rows, columns] = dims.output_plane();
        for i in 0..rows {
            for j in 0..columns {
                let (from, to) = (output.at(0, i, j), &mut bordered[layout.at(0, i, j)..][..dims.c_out]);
                match output.channel_stride {
                    1 => to.copy_from_slice(&dy[from..][..dims.c_out]),
                    stride => to.iter_mut().zip(dy[from..].iter().step_by(stride)).for_each(|(to, &dy)| *to = dy),
                }
                db.iter_mut().zip(&*to).for_each(|(db, &dy)| *db += dy);
            }
        }
        add_weight(simd, shapes, x, bordered, dw);
        if shapes.wants_dx {
            input_gradient(simd, shapes, packed, bordered, row, dx);
        }
    }
}

/// The input's gradient of one image, from the bordered gradient of the output.
#[inline(always)]
fn input_gradient<S: Simd, T: Real>(
    simd: S,
    shapes: &Shapes,
    packed: &Packed<T>,
    bordered: &[T],
    row: &mut Vec<T>,
    dx: &mut [T],
) {
    let Shapes { dims, input, bordered: layout, remainders, lanes, .. } = shapes;
    let vectors = padded(dims.input[0], *lanes) / lanes;
    let zeros = T::vectors::<S>(&packed.zeros);
    for (remainder, weights) in remainders.iter().zip(&packed.backward) {
        let weights = T::vectors::<S>(weights);
        let [rows, columns] = remainder.count;
        row.resize(columns * vectors * lanes, T::zero());
        let terms = remainder.taps.len() * dims.c_out;
        for i in 0..rows {
            let sums = T::vectors_mut::<S>(row);
            for first in (0..vectors).step_by(TILE_VECTORS) {
                let row = Row {
                    x: &bordered[i * layout.row_stride..],
                    step: layout.column_stride,
                    runs: &remainder.runs,
                    run_len: dims.c_out,
                    weights: &weights[first * terms..],
                    bias: &zeros[first..],
                    out: &mut sums[first..],
                    out_step: vectors,
                };
                row.compute::<S>(simd, columns, vectors - first);
            }
            for (j, pixel) in row.chunks(vectors * lanes).enumerate() {
                let [row, column] = [0, 1].map(|axis| remainder.first[axis] + [i, j][axis] * dims.stride[axis]);
                dx[input.at(0, row, column)..][..pixel.len()].copy_from_slice(pixel);
            }
        }
    }
}

/// Adds one image's part to the weight's gradient.
#[inline(always)]
fn add_weight<S: Simd, T: Real>(simd: S, shapes: &Shapes, x: &[T], bordered: &[T], dw: &mut [T]) {
    let Shapes { dims, runs, run_len, lanes, .. } = shapes;
    let vectors = padded(dims.c_out, *lanes) / lanes;
    // Accumulators, a pixel's gradients and the input value must fit the registers.
    let widest = if S::REGISTER_COUNT >= 32 { 8 } else { 4 };
    for first in (0..vectors).step_by(TILE_VECTORS) {
        let width = TILE_VECTORS.min(vectors - first);
        let dw = &mut T::vectors_mut::<S>(dw)[first * dims.fan_in()..][..width * dims.fan_in()];
        for (&run, dw) in runs.iter().zip(dw.chunks_mut(run_len * width)) {
            let mut c = 0;
            while c < *run_len {
                let values = widest.min(run_len - c);
                let sums = WeightSums { shapes, x: &x[run + c..], bordered, first, sums: &mut dw[c * width..] };
                macro_rules! by_size {
                    ($($values:literal)*) => {
                        match (values, width) {
                            $(($values, 1) => sums.add::<S, $values, 1>(simd),
                            ($values, _) => sums.add::<S, $values, TILE_VECTORS>(simd),)*
                            _ => unreachable!("1 to 8 values"),
                        }
                    };
                }
                by_size!(1 2 3 4 5 6 7 8);
                c += values;
            }
        }
    }
}

/// Some values of a run and vectors of output channels, over all pixels.
struct WeightSums<'a, T, V> {
    shapes: &'a Shapes,
    /// From the value that meets the first pixel on.
    x: &'a [T],
    bordered: &'a [T],
    /// The first vector of output channels.
    first: usize,
    sums: &'a mut [V],
}

impl<T: Real, V: bytemuck::Pod> WeightSums<'_, T, V> {
    #[inline(always)]
    fn add<S: Simd, const VALUES: usize, const VECTORS: usize>(self, simd: S)
    where
        T: Real<Vector<S> = V>,
    {
        let lanes = const { lanes::<T, S>() };
        let Shapes { dims, input, bordered: layout, .. } = self.shapes;
        let [rows, columns] = dims.output_plane();
        let (totals, _) = self.sums.as_chunks_mut::<VECTORS>();
        let mut sums = [[T::splat(simd, T::zero()); VECTORS]; VALUES];
        sums.copy_from_slice(&totals[..VALUES]);
        let step = dims.stride[1] * input.column_stride;
        let pixel = layout.column_stride / lanes;
        for i in 0..rows {
            let x = &self.x[i * dims.stride[0] * input.row_stride..];
            let dy = &T::vectors::<S>(&self.bordered[layout.at(0, i, 0)..])[self.first..];
            for (j, dy) in dy.chunks(pixel).take(columns).enumerate() {
                let x = &x[j * step..][..VALUES];
                for c in 0..VALUES {
                    let x = T::splat(simd, x[c]);
                    for k in 0..VECTORS {
                        sums[c][k] = T::vmul_add(simd, x, dy[k], sums[c][k]);
                    }
                }
            }
        }
        totals[..VALUES].copy_from_slice(&sums);
    }
}
