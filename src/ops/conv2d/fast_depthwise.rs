//! Depthwise convolution for the fast path: each channel sees itself alone, so that vectors run along channels and no
//! sum leaves its lane. Formulas: [`crate::ops::conv2d`].
//!
//! ```text
//! forward   acc[pixel][vector] += x[pixel * stride + tap][vector]             * w[tap][vector]    for every tap
//! input     acc[pixel][vector] += dy[(pixel + pad - tap) / stride][vector]    * w[tap][vector]    for every tap
//! weight    acc[tap][vector]   += x[pixel * stride + tap][vector]             * dy[pixel][vector] for every pixel
//! ```

use pulp::{Arch, Simd, WithSimd};

use super::Conv2d;
use super::fast_direct::{Remainder, Shapes};
use super::fast_images::{After, Convolve, Room, in_vectors, pack_bias, padded};
use crate::layer::{Aligned, ImageLayout, Mode};
use crate::real::{Real, lanes};

/// The method.
#[derive(Clone, Debug)]
pub struct Depthwise<T> {
    dims: Conv2d,
    lanes: usize,
    input: ImageLayout,
    gradient: ImageLayout,
    remainders: Vec<Remainder>,
    /// `[tap][channels]`, filled up; for each remainder the weights of its taps.
    weight: Aligned<T>,
    turned: Vec<Aligned<T>>,
    bias: Aligned<T>,
    zeros: Aligned<T>,
}

/// Pixels, and taps of a weight's gradient, whose sums are in registers at once.
const AT_ONCE: usize = 8;

impl<T: Real> Depthwise<T> {
    /// Whether the convolution is one.
    pub fn takes(dims: &Conv2d) -> bool {
        dims.channels_of_group() == [1, 1]
    }

    /// The method for this convolution.
    pub fn new(dims: Conv2d, lanes: usize) -> Self {
        let input = ImageLayout::pixels(dims.input, dims.padding, padded(dims.c_out, lanes), 0);
        let gradient = Shapes::bordered(&dims, lanes);
        let remainders = Remainder::all(&dims, &gradient);
        let [weight, bias, zeros] = [(); 3].map(|()| Aligned::default());
        Self { dims, lanes, input, gradient, remainders, weight, turned: vec![], bias, zeros }
    }

    fn channels(&self) -> usize {
        padded(self.dims.c_out, self.lanes)
    }

    fn taps(&self) -> usize {
        self.dims.kernel[0] * self.dims.kernel[1]
    }

    /// Where the first window's corner is, and from it the taps.
    fn windows(&self) -> (usize, Vec<usize>) {
        let Conv2d { kernel, padding, dilation, .. } = self.dims;
        let ImageLayout { row_stride, column_stride, origin, .. } = self.input;
        let at =
            |tap: usize| tap / kernel[1] * dilation[0] * row_stride + tap % kernel[1] * dilation[1] * column_stride;
        (origin - padding[0] * row_stride - padding[1] * column_stride, (0..self.taps()).map(at).collect())
    }

    /// From a row's, and from a pixel's, first window to the next one's.
    fn steps(&self) -> [usize; 2] {
        [self.dims.stride[0] * self.input.row_stride, self.dims.stride[1] * self.input.column_stride]
    }
}

impl<T: Real> Convolve<T> for Depthwise<T> {
    fn input(&self) -> ImageLayout {
        self.input
    }

    fn read(&mut self, layout: &ImageLayout) -> bool {
        let wide = layout.border().iter().zip(self.dims.padding).all(|(&border, padding)| border >= padding);
        let takes = wide && in_vectors(layout, self.dims.c_out, self.lanes);
        if takes {
            self.input = *layout;
        }
        takes
    }

    fn gradient(&self) -> ImageLayout {
        self.gradient
    }

    fn together(&self) -> usize {
        1
    }

    fn pack(&mut self, w: &[T], b: &[T], mode: Mode) {
        let (channels, taps) = (self.channels(), self.taps());
        let all = |taps_of: &mut dyn Iterator<Item = usize>| -> Aligned<T> {
            let row = |tap: usize| (0..channels).map(move |c| w.get(c * taps + tap).copied().unwrap_or(T::zero()));
            taps_of.flat_map(row).collect()
        };
        self.weight = all(&mut (0..taps));
        if mode == Mode::Training {
            let of = |remainder: &Remainder| all(&mut remainder.taps.iter().copied());
            self.turned = self.remainders.iter().map(of).collect();
        }
        self.zeros.resize(channels, T::zero());
        pack_bias(b, channels, &mut self.bias);
    }

    fn forward(&self, arch: Arch, x: &[T], y: &mut [T], to: &ImageLayout, after: After<T>, room: &mut Room<T>) {
        let plain = ImageLayout::pixels(to.dims, [0, 0], self.channels(), 0);
        let (corner, taps) = self.windows();
        let direct = in_vectors(to, self.dims.c_out, self.lanes);
        for (image, (x, y)) in x.chunks(self.input.len).zip(y.chunks_mut(to.len)).enumerate() {
            room.a.resize(if direct { 0 } else { plain.len }, T::zero());
            let (out, lies) = if direct { (&mut *y, to) } else { (&mut room.a[..], &plain) };
            let (out, out_steps) = (&mut out[lies.origin..], [lies.row_stride, lies.column_stride]);
            let relu = after.relu && after.added.is_none();
            let (x, weight, bias) = (&x[corner..], &self.weight, &self.bias);
            let (plane, x_steps, taps) = (self.dims.output_plane(), self.steps(), &taps[..]);
            arch.dispatch(Taps { plane, x, x_steps, taps, weight, bias, out, out_steps, adds: false, relu });
            if !direct {
                to.for_each(|[c, i, j], at| y[at] = room.a[plain.at(c, i, j)]);
            }
            if after.added.is_some() {
                after.finish(arch, image, y, to);
            }
        }
    }

    fn sums_len(&self) -> usize {
        self.taps() * self.channels()
    }

    fn add_weight(&self, arch: Arch, x: &[T], dy: &[T], sums: &mut [T], _room: &mut Room<T>) {
        let (corner, taps) = self.windows();
        for (x, dy) in x.chunks(self.input.len).zip(dy.chunks(self.gradient.len)) {
            let (x, x_steps, taps) = (&x[corner..], self.steps(), &taps[..]);
            let dy_steps = [self.gradient.row_stride, self.gradient.column_stride];
            let (plane, dy) = (self.dims.output_plane(), &dy[self.gradient.origin..]);
            arch.dispatch(Weight { plane, x, x_steps, taps, dy, dy_steps, channels: self.channels(), sums });
        }
    }

    fn unpack(&self, _arch: Arch, sums: &[T], dw: &mut [T], _room: &mut Room<T>) {
        let (channels, taps) = (self.channels(), self.taps());
        dw.iter_mut().enumerate().for_each(|(at, dw)| *dw = sums[at % taps * channels + at / taps]);
    }

    fn input_gradient(&self, arch: Arch, dy: &[T], dx: &mut [T], adds: bool, _room: &mut Room<T>) {
        let x_steps = [self.gradient.row_stride, self.gradient.column_stride];
        for (dy, dx) in dy.chunks(self.gradient.len).zip(dx.chunks_mut(self.input.len)) {
            for (Remainder { first, count, runs, .. }, weight) in self.remainders.iter().zip(&self.turned) {
                let out = &mut dx[self.input.at(0, first[0], first[1])..];
                let (plane, taps, bias, out_steps) = (*count, &runs[..], &self.zeros, self.steps());
                arch.dispatch(Taps { plane, x: dy, x_steps, taps, weight, bias, out, out_steps, adds, relu: false });
            }
        }
    }

    fn room_bytes(&self) -> usize {
        self.dims.output_plane().iter().product::<usize>() * self.channels() * size_of::<T>()
    }

    fn packed_bytes(&self) -> usize {
        2 * self.taps() * self.channels() * size_of::<T>()
    }
}

/// `out[row][pixel][vector] = bias[vector] + sum over taps of x[row][pixel + tap][vector] * weight[tap][vector]`.
struct Taps<'a, T> {
    plane: [usize; 2],
    x: &'a [T],
    /// From a row's, and from a pixel's, first window to the next one's, in values.
    x_steps: [usize; 2],
    taps: &'a [usize],
    weight: &'a [T],
    bias: &'a [T],
    out: &'a mut [T],
    out_steps: [usize; 2],
    /// Whether `out` is added to, and not written; then the bias counts for nothing.
    adds: bool,
    relu: bool,
}

impl<T: Real> WithSimd for Taps<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let [rows, columns] = self.plane;
        let mut pass = self;
        for i in 0..rows {
            for first in (0..columns).step_by(AT_ONCE) {
                macro_rules! by_width {
                    ($($width:literal)*) => {
                        match columns - first {
                            $($width => pass.tile::<S, $width>(simd, i, first),)*
                            _ => pass.tile::<S, AT_ONCE>(simd, i, first),
                        }
                    };
                }
                by_width!(1 2 3 4 5 6 7);
            }
        }
    }
}

impl<T: Real> Taps<'_, T> {
    /// Some pixels of a row.
    #[inline(always)]
    fn tile<S: Simd, const WIDTH: usize>(&mut self, simd: S, i: usize, first: usize) {
        let lanes = const { lanes::<T, S>() };
        let bias = T::vectors::<S>(self.bias);
        let weight = T::vectors::<S>(self.weight);
        let zero = T::splat(simd, T::zero());
        let x = &self.x[i * self.x_steps[0] + first * self.x_steps[1]..];
        let out = &mut self.out[i * self.out_steps[0] + first * self.out_steps[1]..];
        let (step, out_step) = (self.x_steps[1] / lanes, self.out_steps[1] / lanes);
        let out = T::vectors_mut::<S>(out);
        for (k, &bias) in bias.iter().enumerate() {
            let mut sums = [bias; WIDTH];
            if self.adds {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = out[j * out_step + k];
                }
            }
            for (at, &tap) in self.taps.iter().enumerate() {
                let weight = weight[at * self.bias.len() / lanes + k];
                let x = &T::vectors::<S>(&x[tap..])[k..];
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = T::vmul_add(simd, x[j * step], weight, *sum);
                }
            }
            for (j, &sum) in sums.iter().enumerate() {
                let cut = if self.relu { T::select_le(simd, [sum, zero], zero, sum) } else { sum };
                out[j * out_step + k] = cut;
            }
        }
    }
}

/// `sums[tap][vector] += x[pixel + tap][vector] * dy[pixel][vector]`, over a plane of pixels.
struct Weight<'a, T> {
    plane: [usize; 2],
    x: &'a [T],
    x_steps: [usize; 2],
    taps: &'a [usize],
    dy: &'a [T],
    dy_steps: [usize; 2],
    channels: usize,
    sums: &'a mut [T],
}

impl<T: Real> WithSimd for Weight<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut pass = self;
        let taps = pass.taps.len();
        let parts = taps.div_ceil(AT_ONCE);
        for k in 0..pass.channels / const { lanes::<T, S>() } {
            for part in 0..parts {
                // As even as possible: 9 taps are 4 and 5, which keeps more registers busy than 8 and 1.
                let (first, end) = (taps * part / parts, taps * (part + 1) / parts);
                macro_rules! by_count {
                    ($($count:literal)*) => {
                        match end - first {
                            $($count => pass.add::<S, $count>(simd, k, first),)*
                            _ => unreachable!("1 to 8 taps"),
                        }
                    };
                }
                by_count!(1 2 3 4 5 6 7 8);
            }
        }
    }
}

impl<T: Real> Weight<'_, T> {
    /// Some taps of a vector of channels.
    #[inline(always)]
    fn add<S: Simd, const TAPS: usize>(&mut self, simd: S, k: usize, first: usize) {
        let lanes = const { lanes::<T, S>() };
        let taps: &[usize; TAPS] = self.taps[first..].first_chunk().expect("so many taps");
        let vectors = self.channels / lanes;
        let sums = T::vectors_mut::<S>(self.sums);
        let mut totals = [T::splat(simd, T::zero()); TAPS];
        for (tap, total) in totals.iter_mut().enumerate() {
            *total = sums[(first + tap) * vectors + k];
        }
        for i in 0..self.plane[0] {
            let dy = T::vectors::<S>(&self.dy[i * self.dy_steps[0]..]);
            let xs = taps.map(|tap| T::vectors::<S>(&self.x[i * self.x_steps[0] + tap..]));
            for j in 0..self.plane[1] {
                let dy = dy[j * self.dy_steps[1] / lanes + k];
                let at = j * self.x_steps[1] / lanes + k;
                for (x, total) in xs.iter().zip(&mut totals) {
                    *total = T::vmul_add(simd, x[at], dy, *total);
                }
            }
        }
        for (tap, total) in totals.into_iter().enumerate() {
            sums[(first + tap) * vectors + k] = total;
        }
    }
}
