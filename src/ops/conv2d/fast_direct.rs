//! Direct convolution of any shape for the fast path. Formulas: [`crate::ops::conv2d`].
//!
//! Both tensors lie pixel by pixel. All three passes are register tiles over vectors of channels:
//!
//! ```text
//! forward   acc[pixel][vector of c_out] += x[pixel * stride + tap][c]   * w[tap][c][vector]     for every tap and c
//! input     acc[pixel][vector of c_in]  += dy[(pixel + pad - tap) / stride][o] * w[tap][o][vector]   for every tap and o
//! weight    acc[c][vector of c_out]     += x[pixel * stride + tap][c]   * dy[pixel][vector]     for every pixel
//! ```
//!
//! A tap is `dilation` rows or columns from the next. For the input's gradient the pixels of one remainder by the
//! stride use the same taps: each remainder is a convolution of its own over `dy`.

use pulp::{Arch, Simd, WithSimd};

use super::Conv2d;
use super::fast_block::TILE_VECTORS;
use super::fast_images::{After, Convolve, Room, in_vectors, pack_bias, padded};
use super::fast_products::Products;
use super::fast_rows::Rows;
use crate::layer::{Aligned, ImageLayout, Mode};
use crate::real::{Real, lanes};

/// The method.
#[derive(Clone, Debug)]
pub struct Direct<T> {
    shapes: Shapes,
    packed: Packed<T>,
}

/// The convolution's shapes, and how its tensors lie.
#[derive(Clone, Debug)]
pub(super) struct Shapes {
    dims: Conv2d,
    input: ImageLayout,
    lanes: usize,
    /// Where in the input the values lie that meet `run_len` successive weights, from a window's corner.
    runs: Vec<usize>,
    run_len: usize,
    /// Where the first window's corner is.
    corner: usize,
    /// The output's gradient with a border of zeros.
    bordered: ImageLayout,
    /// For the input's gradient; none where it is not wanted.
    remainders: Vec<Remainder>,
}

/// Pixels of the input with the same remainder by the stride.
#[derive(Clone, Debug)]
pub(super) struct Remainder {
    /// The first row and column of them.
    pub first: [usize; 2],
    /// How many rows and columns there are.
    pub count: [usize; 2],
    /// Where in the bordered gradient the taps lie, from the first pixel's place on.
    pub runs: Vec<usize>,
    /// Which taps these are, `kernel row * kernel columns + kernel column`.
    pub taps: Vec<usize>,
}

/// The weight as the kernels read it. Channels are filled up to whole vectors with zeros.
#[derive(Clone, Debug, Default)]
struct Packed<T> {
    /// `[block of c_out][run][value of the run][TILE_VECTORS * lanes]`; the last block may be one vector wide.
    forward: Aligned<T>,
    bias: Aligned<T>,
    /// For each remainder `[block of c_in][tap][c_out][TILE_VECTORS * lanes]`.
    backward: Vec<Aligned<T>>,
    zeros: Aligned<T>,
}

impl Remainder {
    /// All there are, whose taps lie in a gradient of this layout.
    pub fn all(dims: &Conv2d, bordered: &ImageLayout) -> Vec<Self> {
        let ([_, h, w], extent, border) = (dims.input, dims.extent(), bordered.border());
        let taps_of = |axis: usize, first: usize| -> Vec<(usize, isize)> {
            let Conv2d { stride, padding, dilation, .. } = dims;
            let whole = |&p: &usize| {
                (first + padding[axis] + extent[axis] * stride[axis] - p * dilation[axis]).is_multiple_of(stride[axis])
            };
            let at = |p: usize| (first + padding[axis]) as isize - (p * dilation[axis]) as isize;
            let place = |p: usize| (p, at(p).div_euclid(stride[axis] as isize));
            (0..dims.kernel[axis]).filter(whole).map(place).collect()
        };
        // Of channels of a larger image, where the first one is.
        let first = bordered.origin - border[0] * bordered.row_stride - border[1] * bordered.column_stride;
        let mut remainders = vec![];
        for i in 0..dims.stride[0].min(h) {
            for j in 0..dims.stride[1].min(w) {
                let (mut runs, mut taps) = (vec![], vec![]);
                for (p, row) in taps_of(0, i) {
                    for (q, column) in taps_of(1, j) {
                        let [row, column] = [row + border[0] as isize, column + border[1] as isize];
                        runs.push(
                            first + row as usize * bordered.row_stride + column as usize * bordered.column_stride,
                        );
                        taps.push(p * dims.kernel[1] + q);
                    }
                }
                let count = [(h - i).div_ceil(dims.stride[0]), (w - j).div_ceil(dims.stride[1])];
                remainders.push(Self { first: [i, j], count, runs, taps });
            }
        }
        remainders
    }
}

impl Shapes {
    /// The output's gradient with as wide a border of zeros as the input's gradient reads.
    ///
    /// Row h of the input has the rows (h + padding - dilation p) / stride of the output, as far as they are whole:
    /// from so many rows before the first to as many behind the last.
    pub fn bordered(dims: &Conv2d, lanes: usize) -> ImageLayout {
        let [rows, columns] = dims.output_plane();
        let extent = dims.extent();
        let border = [0, 1].map(|axis| extent[axis].div_ceil(dims.stride[axis]) + dims.padding[axis]);
        ImageLayout::pixels([dims.c_out, rows, columns], border, padded(dims.c_out, lanes), 0)
    }

    fn new(dims: Conv2d, wants_dx: bool, lanes: usize) -> Self {
        let c_in = dims.input[0];
        let bordered = Self::bordered(&dims, lanes);
        let remainders = Remainder::all(&dims, &bordered);
        // Without a gradient to compute in vectors no channel is added: a window's row is then one run.
        let stride = if wants_dx { padded(c_in, lanes) } else { c_in };
        let input = ImageLayout::pixels(dims.input, dims.padding, stride, lanes);
        let remainders = if wants_dx { remainders } else { vec![] };
        let mut shapes = Self { dims, input, lanes, runs: vec![], run_len: 0, corner: 0, bordered, remainders };
        shapes.read(input);
        shapes
    }

    /// From now on the input lies so.
    fn read(&mut self, input: ImageLayout) {
        let Conv2d { input: [c_in, ..], kernel: [rows, columns], padding, dilation, .. } = self.dims;
        let whole = input.column_stride == c_in && dilation[1] == 1;
        let (per_row, run_len) = if whole { (1, columns * c_in) } else { (columns, c_in) };
        let [down, right] = [dilation[0] * input.row_stride, dilation[1] * input.column_stride];
        let run = |i: usize| i / per_row * down + i % per_row * right;
        self.runs = (0..rows * per_row).map(run).collect();
        self.run_len = run_len;
        self.corner = input.origin - padding[0] * input.row_stride - padding[1] * input.column_stride;
        self.input = input;
    }

    /// Calls `each(place in the packed weight, place in `[c_out, c_in, kernel rows, kernel columns]`)`, of a weight
    /// that is packed as `[part][block of c_out][value of the part][TILE_VECTORS * lanes]`.
    fn for_each_weight(&self, values: usize, mut each: impl FnMut(usize, usize)) {
        let Self { dims: Conv2d { input: [c_in, ..], c_out, .. }, lanes, .. } = *self;
        let taps = self.dims.kernel[0] * self.dims.kernel[1];
        let (block, channels) = (TILE_VECTORS * lanes, padded(c_out, lanes));
        for o in 0..c_out {
            let first = o / block * block;
            let width = block.min(channels - first);
            for c in 0..c_in {
                for tap in 0..taps {
                    let (part, value) = ((tap * c_in + c) / values, (tap * c_in + c) % values);
                    let at = (part * channels + first) * values + value * width + o - first;
                    each(at, (o * c_in + c) * taps + tap);
                }
            }
        }
    }
}

impl<T: Real> Direct<T> {
    /// The method for this convolution.
    pub fn new(dims: Conv2d, wants_dx: bool, lanes: usize) -> Self {
        Self { shapes: Shapes::new(dims, wants_dx, lanes), packed: Packed::default() }
    }

    /// The method for some channels of larger images, whose output's gradient lies so.
    pub fn part(dims: Conv2d, lanes: usize, gradient: &ImageLayout) -> Self {
        let mut direct = Self::new(dims, true, lanes);
        direct.shapes.remainders = Remainder::all(&dims, gradient);
        direct.shapes.bordered = *gradient;
        direct
    }

    /// From now on it reads these channels of larger images.
    pub fn read_some(&mut self, input: ImageLayout) {
        self.shapes.read(input);
    }
}

impl<T: Real> Convolve<T> for Direct<T> {
    fn input(&self) -> ImageLayout {
        self.shapes.input
    }

    fn read(&mut self, layout: &ImageLayout) -> bool {
        let Shapes { dims, lanes, .. } = self.shapes;
        let wide = layout.border().iter().zip(dims.padding).all(|(&border, padding)| border >= padding);
        // A window's last vector may run past the image.
        let takes = wide && in_vectors(layout, dims.input[0], lanes);
        if takes {
            self.shapes.read(*layout);
        }
        takes
    }

    fn gradient(&self) -> ImageLayout {
        self.shapes.bordered
    }

    fn together(&self) -> usize {
        1
    }

    fn pack(&mut self, w: &[T], b: &[T], mode: Mode) {
        let Self { shapes, packed } = self;
        let Shapes { dims, lanes, remainders, .. } = &*shapes;
        let ([c_in, ..], c_out) = (dims.input, dims.c_out);
        let taps = dims.kernel[0] * dims.kernel[1];
        pack_bias(b, padded(c_out, *lanes), &mut packed.bias);
        packed.zeros.resize(padded(c_in, *lanes), T::zero());
        packed.forward.resize(padded(c_out, *lanes) * dims.fan_in(), T::zero());
        shapes.for_each_weight(dims.fan_in(), |at, from| packed.forward[at] = w[from]);
        if mode == Mode::Inference {
            return;
        }
        packed.backward.resize_with(remainders.len(), Aligned::default);
        let block = TILE_VECTORS * *lanes;
        for (remainder, packed) in remainders.iter().zip(&mut packed.backward) {
            let terms = remainder.taps.len() * c_out;
            packed.resize(padded(c_in, *lanes) * terms, T::zero());
            for c in 0..c_in {
                let first = c / block * block;
                let width = block.min(padded(c_in, *lanes) - first);
                for (i, &tap) in remainder.taps.iter().enumerate() {
                    for o in 0..c_out {
                        packed[first * terms + (i * c_out + o) * width + c - first] = w[(o * c_in + c) * taps + tap];
                    }
                }
            }
        }
    }

    fn forward(&self, arch: Arch, x: &[T], y: &mut [T], to: &ImageLayout, after: After<T>, room: &mut Room<T>) {
        let Self { shapes, packed } = self;
        let relu = after.relu && after.added.is_none();
        for (image, (x, y)) in x.chunks(shapes.input.len).zip(y.chunks_mut(to.len)).enumerate() {
            arch.dispatch(Forward { shapes, packed, x, y, to, relu, row: &mut room.a });
            if after.added.is_some() {
                after.finish(arch, image, y, to);
            }
        }
    }

    fn sums_len(&self) -> usize {
        padded(self.shapes.dims.c_out, self.shapes.lanes) * self.shapes.dims.fan_in()
    }

    fn add_weight(&self, arch: Arch, x: &[T], dy: &[T], sums: &mut [T], _room: &mut Room<T>) {
        let shapes = &self.shapes;
        for (x, dy) in x.chunks(shapes.input.len).zip(dy.chunks(shapes.bordered.len)) {
            arch.dispatch(Weight { shapes, x, dy, sums });
        }
    }

    fn unpack(&self, _arch: Arch, sums: &[T], dw: &mut [T], _room: &mut Room<T>) {
        // Here a run's sums lie together, there a block's weights.
        self.shapes.for_each_weight(self.shapes.run_len, |at, to| dw[to] = sums[at]);
    }

    fn input_gradient(&self, arch: Arch, dy: &[T], dx: &mut [T], adds: bool, _room: &mut Room<T>) {
        let Self { shapes, packed } = self;
        for (dy, dx) in dy.chunks(shapes.bordered.len).zip(dx.chunks_mut(shapes.input.len)) {
            arch.dispatch(Input { shapes, packed, dy, dx, adds });
        }
    }

    fn room_bytes(&self) -> usize {
        let Shapes { dims, lanes, .. } = &self.shapes;
        dims.output_plane().iter().product::<usize>() * padded(dims.c_out, *lanes) * size_of::<T>()
    }

    fn packed_bytes(&self) -> usize {
        let Shapes { dims, lanes, remainders, .. } = &self.shapes;
        let backward = if remainders.is_empty() { 0 } else { padded(dims.input[0], *lanes) * dims.c_out };
        let taps = dims.kernel[0] * dims.kernel[1];
        (padded(dims.c_out, *lanes) * dims.fan_in() + backward * taps) * size_of::<T>()
    }
}

struct Forward<'a, T> {
    shapes: &'a Shapes,
    packed: &'a Packed<T>,
    x: &'a [T],
    y: &'a mut [T],
    to: &'a ImageLayout,
    relu: bool,
    row: &'a mut Aligned<T>,
}

impl<T: Real> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shapes: Shapes { dims, input, runs, run_len, lanes, corner, .. }, packed, x, y, to, relu, row } =
            self;
        let lanes = *lanes;
        let vectors = padded(dims.c_out, lanes) / lanes;
        let weights = T::vectors::<S>(&packed.forward);
        let bias = T::vectors::<S>(&packed.bias);
        let [rows, columns] = dims.output_plane();
        let direct = in_vectors(to, dims.c_out, lanes);
        if !direct {
            row.resize(rows * columns * vectors * lanes, T::zero());
        }
        let (sums, out_steps) = match direct {
            true => (&mut y[to.origin..], [to.row_stride / lanes, to.column_stride / lanes]),
            false => (&mut row[..], [columns * vectors, vectors]),
        };
        let x_steps = [dims.stride[0] * input.row_stride, dims.stride[1] * input.column_stride];
        let out = T::vectors_mut::<S>(sums);
        let x = &x[*corner..];
        let (run_len, plane) = (*run_len, dims.output_plane());
        Rows { plane, x, x_steps, runs, run_len, weights, weights_step: 0, bias, out, adds: false, relu, out_steps }
            .compute::<S>(simd, vectors);
        if !direct {
            for (at, pixel) in row.chunks(vectors * lanes).enumerate() {
                for (c, &value) in pixel[..dims.c_out].iter().enumerate() {
                    y[to.at(c, at / columns, at % columns)] = value;
                }
            }
        }
    }
}

/// The input's gradient of one image.
struct Input<'a, T> {
    shapes: &'a Shapes,
    packed: &'a Packed<T>,
    dy: &'a [T],
    dx: &'a mut [T],
    adds: bool,
}

impl<T: Real> WithSimd for Input<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shapes: Shapes { dims, input, bordered: layout, remainders, .. }, packed, dy, dx, adds } = self;
        let lanes = const { lanes::<T, S>() };
        let vectors = padded(dims.input[0], lanes) / lanes;
        let zeros = T::vectors::<S>(&packed.zeros);
        for (remainder, weights) in remainders.iter().zip(&packed.backward) {
            let weights = T::vectors::<S>(weights);
            // From a pixel of this remainder to the next one, where they are written.
            let out_steps = [dims.stride[0] * input.row_stride, dims.stride[1] * input.column_stride];
            let out = T::vectors_mut::<S>(&mut dx[input.at(0, remainder.first[0], remainder.first[1])..]);
            let rows = Rows {
                plane: remainder.count,
                x: dy,
                x_steps: [layout.row_stride, layout.column_stride],
                runs: &remainder.runs,
                run_len: dims.c_out,
                weights,
                weights_step: 0,
                bias: zeros,
                out,
                adds,
                relu: false,
                out_steps: out_steps.map(|step| step / lanes),
            };
            rows.compute::<S>(simd, vectors);
        }
    }
}

/// One image's part of the weight's gradient.
struct Weight<'a, T> {
    shapes: &'a Shapes,
    x: &'a [T],
    dy: &'a [T],
    sums: &'a mut [T],
}

impl<T: Real> WithSimd for Weight<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shapes: Shapes { dims, input, runs, run_len, corner, bordered: layout, .. }, x, dy, sums } = self;
        let lanes = const { lanes::<T, S>() };
        let vectors = padded(dims.c_out, lanes) / lanes;
        let products = Products {
            x: &x[*corner..],
            places: runs,
            values: *run_len,
            x_steps: [dims.stride[0] * input.row_stride, dims.stride[1] * input.column_stride],
            dy: T::vectors::<S>(&dy[layout.origin..]),
            dy_steps: [0, layout.row_stride / lanes, layout.column_stride / lanes],
            plane: dims.output_plane(),
            sums: T::vectors_mut::<S>(sums),
        };
        products.add::<S>(simd, vectors);
    }
}
