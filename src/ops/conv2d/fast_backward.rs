//! The gradients of a [`ConvBlock`]. Formulas: [`crate::ops::conv2d`].
//!
//! Of the convolution's output only the element that won its window has a gradient, and under a ReLU only where it was
//! positive. Those are collected first, as terms (where, gradient), for a few rows of windows at a time; then
//!
//! ```text
//! dw[o][tap][c] += gradient * x[where + tap][c]     the terms of one o after another: dw[o] stays in registers
//! dx[where + tap][c] += gradient * w[o][tap][c]     the terms of one place after another: dx there stays in registers
//! ```
//!
//! For a network's first layer, with its one or three channels, collecting the terms would cost more than it saves:
//! there vectors run along the output's channels, and each element of a window takes the gradients of the channels that
//! it won, and zeros for the others (see [`ConvBlock::is_narrow`]).
//!
//! A collected gradient of exactly zero adds nothing, whatever it would be multiplied with: an infinite or NaN input
//! does not turn it into a NaN here. (The loss shows such an input anyway.)

use pulp::{Arch, Simd, WithSimd};

use super::fast_block::{ConvBlock, Packed};
use super::fast_terms::{Image, Term, Terms, collect, corner, places};
use crate::layer::Aligned;
use crate::real::{Real, lanes};

/// The sums of one chunk of images.
#[derive(Clone, Debug, Default)]
pub struct ConvSums<T> {
    /// The weight's gradient, `[c_out][kernel row][vectors]`: each row's pixels as they lie in the input. For a narrow
    /// stage `[vector of c_out][kernel row][kernel column * c_in][lanes]`.
    pub dw: Aligned<T>,
    /// The bias's gradient, `[c_out]`, filled up to whole vectors.
    pub db: Aligned<T>,
}

impl ConvBlock {
    /// Values in a row of a kernel as [`ConvSums::dw`] has it.
    fn dw_row(&self) -> usize {
        (self.dims.kernel[1] * self.input.column_stride).next_multiple_of(self.lanes)
    }

    /// Whether the weight's gradient takes every element of every window instead of collected terms: where that is at
    /// most about as much work as collecting is, and vectors of output channels lie side by side.
    pub fn is_narrow(&self) -> bool {
        let work = self.dims.fan_in() * self.window();
        let side_by_side = self.output.channel_stride == 1 && self.output.column_stride >= self.padded_c_out();
        !self.wants_input_gradient && side_by_side && work <= 16 * self.lanes
    }

    /// Makes room, and sets the sums to zero.
    pub fn clear<T: Real>(&self, sums: &mut ConvSums<T>, terms: &mut Terms<T>) {
        let c_out = self.dims.c_out;
        let narrow = self.is_narrow();
        sums.dw.clear();
        let dw_len =
            if narrow { self.padded_c_out() * self.dims.fan_in() } else { c_out * self.dims.kernel[0] * self.dw_row() };
        sums.dw.resize(dw_len, T::zero());
        sums.db.clear();
        sums.db.resize(self.padded_c_out(), T::zero());
        if !narrow {
            terms.fit(self);
        }
    }

    /// At most so many bytes do [`ConvSums`] take after [`Self::clear`].
    pub fn sums_bytes<T: Real>(&self) -> usize {
        let row = self.dw_row().max(self.dims.kernel[1] * self.dims.input[0]);
        self.padded_c_out() * (self.dims.kernel[0] * row + 1) * size_of::<T>()
    }

    /// Adds one image's part to the sums, and writes `dx`.
    pub fn backward<T: Real>(
        &self,
        arch: Arch,
        packed: &Packed<T>,
        image: Image<T>,
        sums: &mut ConvSums<T>,
        terms: &mut Terms<T>,
    ) {
        arch.dispatch(Backward { stage: self, packed, image, sums, terms });
    }

    /// Copies summed gradients, laid out as [`ConvSums::dw`], to `dw [c_out, c_in, kernel rows, kernel columns]`.
    pub fn unpack<T: Real>(&self, sums: &[T], dw: &mut [T]) {
        let [rows, columns] = self.dims.kernel;
        if self.is_narrow() {
            let (c_in, fan_in, lanes) = (self.dims.input[0], self.dims.fan_in(), self.lanes);
            for (o, dw) in dw.chunks_mut(fan_in).enumerate() {
                let sums = &sums[o / lanes * fan_in * lanes + o % lanes..];
                for (c, dw) in dw.chunks_mut(rows * columns).enumerate() {
                    for (tap, dw) in dw.iter_mut().enumerate() {
                        *dw = sums[(tap * c_in + c) * lanes];
                    }
                }
            }
            return;
        }
        let row = self.dw_row();
        for (sums, dw) in sums.chunks(rows * row).zip(dw.chunks_mut(self.dims.fan_in())) {
            for (c, dw) in dw.chunks_mut(rows * columns).enumerate() {
                for (tap, dw) in dw.iter_mut().enumerate() {
                    *dw = sums[tap / columns * row + tap % columns * self.input.column_stride + c];
                }
            }
        }
    }
}

struct Backward<'a, T> {
    stage: &'a ConvBlock,
    packed: &'a Packed<T>,
    image: Image<'a, T>,
    sums: &'a mut ConvSums<T>,
    terms: &'a mut Terms<T>,
}

impl<T: Real> WithSimd for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { stage, packed, image, sums, terms } = self;
        if stage.is_narrow() {
            return add_weight_narrow(simd, stage, &image, sums);
        }
        if stage.wants_input_gradient {
            image.dx.fill(T::zero());
        }
        let rows = stage.pool.output_plane()[0];
        for first in (0..rows).step_by(stage.rows_at_once()) {
            let band = first..rows.min(first + stage.rows_at_once());
            let windows = band.len() * stage.pool.output_plane()[1];
            collect(stage, &image, &mut sums.db, terms, band);
            add_weight(simd, stage, image.x, terms, &mut sums.dw);
            if stage.wants_input_gradient {
                add_input(simd, stage, packed, terms, windows, image.dx);
            }
        }
    }
}

/// `dw[o] += gradient * x` over the collected terms. Each tile of `dw[o]`, up to 3 kernel rows by some vectors, is held
/// in registers for all terms of the channel.
#[inline(always)]
fn add_weight<S: Simd, T: Real>(simd: S, stage: &ConvBlock, x: &[T], terms: &Terms<T>, dw: &mut [T]) {
    let lanes = const { lanes::<T, S>() };
    let kernel_rows = stage.dims.kernel[0];
    let row = stage.dw_row();
    let capacity = stage.rows_at_once() * stage.pool.output_plane()[1];
    let widest = if S::REGISTER_COUNT >= 32 { 6 } else { 4 };
    let tiles = (row / lanes).div_ceil(widest);
    for (o, dw) in dw.chunks_exact_mut(kernel_rows * row).enumerate() {
        let terms = &terms.by_channel[o * capacity..][..terms.channel_counts[o] as usize];
        let mut p = 0;
        while p < kernel_rows {
            let rows = if kernel_rows - p >= 3 { 3 } else { 1 };
            let mut vector = 0;
            for tile in 0..tiles {
                let width = (row / lanes * (tile + 1)).div_ceil(tiles) - vector;
                let dw = &mut dw[p * row + vector * lanes..];
                let x = &x[p * stage.input.row_stride + vector * lanes..];
                macro_rules! by_size {
                    ($($width:literal)*) => {
                        match (rows, width) {
                            $((1, $width) => weight_tile::<S, T, 1, $width>(simd, terms, x, stage.input.row_stride, dw, row),
                            (_, $width) => weight_tile::<S, T, 3, $width>(simd, terms, x, stage.input.row_stride, dw, row),)*
                            _ => unreachable!("tiles are 1 to 6 vectors wide"),
                        }
                    };
                }
                by_size!(1 2 3 4 5 6);
                vector += width;
            }
            p += rows;
        }
    }
}

#[inline(always)]
fn weight_tile<S: Simd, T: Real, const ROWS: usize, const WIDTH: usize>(
    simd: S,
    terms: &[Term<T>],
    x: &[T],
    x_row: usize,
    dw: &mut [T],
    dw_row: usize,
) {
    let width = WIDTH * const { lanes::<T, S>() };
    let mut acc = [[T::splat(simd, T::zero()); WIDTH]; ROWS];
    for (p, acc) in acc.iter_mut().enumerate() {
        acc.copy_from_slice(T::vectors::<S>(&dw[p * dw_row..][..width]));
    }
    for term in terms {
        let gradient = T::splat(simd, term.gradient);
        for (p, acc) in acc.iter_mut().enumerate() {
            let x = T::vectors::<S>(&x[term.at as usize + p * x_row..][..width]);
            for (acc, &x) in acc.iter_mut().zip(x) {
                *acc = T::vmul_add(simd, gradient, x, *acc);
            }
        }
    }
    for (p, acc) in acc.iter().enumerate() {
        T::vectors_mut::<S>(&mut dw[p * dw_row..][..width]).copy_from_slice(acc);
    }
}

/// `dw[tap][c][o] += (gradient of o, if this element of the window won) * x` for every element of every window, in
/// vectors of o. Each tile of `dw`, up to 3 kernel rows by 6 elements of a row, is held in registers for the whole
/// image.
#[inline(always)]
fn add_weight_narrow<S: Simd, T: Real>(simd: S, stage: &ConvBlock, image: &Image<T>, sums: &mut ConvSums<T>) {
    let lanes = const { lanes::<T, S>() };
    let d = &stage.dims;
    let (kernel_rows, row) = (d.kernel[0], d.kernel[1] * d.input[0]);
    let widest = if S::REGISTER_COUNT >= 32 { 6 } else { 3 };
    let tiles = row.div_ceil(widest);
    let db = T::vectors_mut::<S>(&mut sums.db);
    for (vector, dw) in sums.dw.chunks_exact_mut(d.fan_in() * lanes).enumerate() {
        let dw = T::vectors_mut::<S>(dw);
        let mut p = 0;
        while p < kernel_rows {
            let rows = if kernel_rows - p >= 3 { 3 } else { 1 };
            let mut from = 0;
            for tile in 0..tiles {
                let width = (row * (tile + 1)).div_ceil(tiles) - from;
                let x = &image.x[p * stage.input.row_stride + from..];
                let dw = &mut dw[p * row + from..];
                // The bias's gradient is summed along with the first tile.
                let db = if p == 0 && from == 0 { Some(&mut db[vector]) } else { None };
                let tile = NarrowTile { stage, image, vector, x, dw };
                macro_rules! by_size {
                    ($($width:literal)*) => {
                        match (rows, width) {
                            $((1, $width) => tile.add::<S, 1, $width>(simd, db),
                            (_, $width) => tile.add::<S, 3, $width>(simd, db),)*
                            _ => unreachable!("tiles are 1 to 6 elements wide"),
                        }
                    };
                }
                by_size!(1 2 3 4 5 6);
                from += width;
            }
            p += rows;
        }
    }
}

/// Some elements of the kernel's rows, for one vector of output channels.
struct NarrowTile<'a, T, V> {
    stage: &'a ConvBlock,
    image: &'a Image<'a, T>,
    vector: usize,
    /// From the tile's first element in the first window on.
    x: &'a [T],
    dw: &'a mut [V],
}

impl<T: Real, V: bytemuck::Pod> NarrowTile<'_, T, V> {
    #[inline(always)]
    fn add<S: Simd, const ROWS: usize, const WIDTH: usize>(self, simd: S, db: Option<&mut V>)
    where
        T: Real<Vector<S> = V>,
    {
        let lanes = const { lanes::<T, S>() };
        let stage = self.stage;
        let row = stage.dims.kernel[1] * stage.dims.input[0];
        let [rows, columns] = stage.pool.output_plane();
        let padded = stage.padded_c_out();
        let places = places(stage);
        let zero = T::splat(simd, T::zero());
        let mut bias = zero;
        let mut acc = [[zero; WIDTH]; ROWS];
        for (p, acc) in acc.iter_mut().enumerate() {
            acc.copy_from_slice(&self.dw[p * row..][..WIDTH]);
        }
        for i in 0..rows {
            for j in 0..columns {
                let at = stage.output.at(self.vector * lanes, i, j);
                let y = T::vectors::<S>(&self.image.y[at..][..lanes])[0];
                let mut gradient = T::vectors::<S>(&self.image.dy[at..][..lanes])[0];
                if stage.relu {
                    gradient = T::select_le(simd, [y, zero], zero, gradient);
                }
                bias = T::vadd(simd, bias, gradient);
                let argmax = &self.image.argmax[(i * columns + j) * padded + self.vector * lanes..][..lanes];
                let mut winner = [zero];
                for (winner, &byte) in bytemuck::cast_slice_mut::<_, T>(&mut winner).iter_mut().zip(argmax) {
                    *winner = T::from_byte(byte);
                }
                let corner = corner(stage, i, j);
                let mut place = zero;
                for offset in &places[..stage.window()] {
                    let won = T::select_eq(simd, [winner[0], place], gradient, zero);
                    for (p, acc) in acc.iter_mut().enumerate() {
                        let x = &self.x[(corner + offset) as usize + p * stage.input.row_stride..][..WIDTH];
                        for (acc, &x) in acc.iter_mut().zip(x) {
                            *acc = T::vmul_add(simd, won, T::splat(simd, x), *acc);
                        }
                    }
                    place = T::vadd(simd, place, T::splat(simd, T::one()));
                }
            }
        }
        for (p, acc) in acc.iter().enumerate() {
            self.dw[p * row..][..WIDTH].copy_from_slice(acc);
        }
        if let Some(db) = db {
            *db = T::vadd(simd, *db, bias);
        }
    }
}

/// `dx += gradient * w[o]` over the collected terms. For one element of one window, all its channels' weights are added
/// up in registers, 9 taps at once where the kernel has them; the sums are then added to the image once.
#[inline(always)]
fn add_input<S: Simd, T: Real>(
    simd: S,
    stage: &ConvBlock,
    packed: &Packed<T>,
    collected: &Terms<T>,
    windows: usize,
    dx: &mut [T],
) {
    let lanes = const { lanes::<T, S>() };
    let d = &stage.dims;
    let (c_out, window, taps) = (d.c_out, stage.window(), d.kernel[0] * d.kernel[1]);
    let places = places(stage);
    let whole_windows = S::REGISTER_COUNT >= 32 && [d.kernel, d.stride, stage.pool.kernel] == [[3, 3], [1, 1], [2, 2]];
    // One vector of input channels after the other: its weights stay in the first-level cache.
    for (vector, w) in packed.backward.chunks_exact(c_out * taps * lanes).enumerate() {
        let w = T::vectors::<S>(w);
        for (at, &corner) in collected.corners[..windows].iter().enumerate() {
            let terms = |place: usize| {
                let place = at * window + place;
                &collected.by_place[place * c_out..][..collected.place_counts[place] as usize]
            };
            let dx = &mut dx[corner as usize + vector * lanes..];
            if whole_windows {
                add_window(simd, stage, [0, 1, 2, 3].map(terms), w, dx);
                continue;
            }
            for (place, &offset) in places[..window].iter().enumerate() {
                let terms = terms(place);
                if terms.is_empty() {
                    continue;
                }
                let dx = &mut dx[offset as usize..];
                let mut tap = 0;
                while tap < taps {
                    let tile = InputTile { stage, terms, w, taps, tap };
                    tap += match taps - tap {
                        9.. => tile.add::<S, 9>(simd, dx),
                        3.. => tile.add::<S, 3>(simd, dx),
                        _ => tile.add::<S, 1>(simd, dx),
                    };
                }
            }
        }
    }
}

/// The same of all 2x2 elements of a window at once, for a kernel of 3x3: together they reach 4x4 pixels.
#[inline(always)]
fn add_window<S: Simd, T: Real>(simd: S, stage: &ConvBlock, terms: [&[Term<T>]; 4], w: &[T::Vector<S>], dx: &mut [T]) {
    let (w, _) = w.as_chunks::<9>();
    let mut acc = [[T::splat(simd, T::zero()); 4]; 4];
    macro_rules! add {
        ($place:literal, $i:literal, $j:literal) => {
            for term in terms[$place] {
                let gradient = T::splat(simd, term.gradient);
                let w = &w[term.at as usize];
                for p in 0..3 {
                    for q in 0..3 {
                        acc[$i + p][$j + q] = T::vmul_add(simd, gradient, w[p * 3 + q], acc[$i + p][$j + q]);
                    }
                }
            }
        };
    }
    add!(0, 0, 0);
    add!(1, 0, 1);
    add!(2, 1, 0);
    add!(3, 1, 1);
    for (i, acc) in acc.iter().enumerate() {
        for (j, &acc) in acc.iter().enumerate() {
            let at = i * stage.input.row_stride + j * stage.input.column_stride;
            let dx = &mut T::vectors_mut::<S>(&mut dx[at..][..const { lanes::<T, S>() }])[0];
            *dx = T::vadd(simd, *dx, acc);
        }
    }
}

/// Some taps of the weights of one vector of input channels.
struct InputTile<'a, T, V> {
    stage: &'a ConvBlock,
    terms: &'a [Term<T>],
    w: &'a [V],
    taps: usize,
    tap: usize,
}

impl<T: Real, V: bytemuck::Pod> InputTile<'_, T, V> {
    #[inline(always)]
    fn add<S: Simd, const TAPS: usize>(self, simd: S, dx: &mut [T]) -> usize
    where
        T: Real<Vector<S> = V>,
    {
        let mut acc = [T::splat(simd, T::zero()); TAPS];
        for term in self.terms {
            let gradient = T::splat(simd, term.gradient);
            let w = &self.w[term.at as usize * self.taps + self.tap..][..TAPS];
            for (acc, &w) in acc.iter_mut().zip(w) {
                *acc = T::vmul_add(simd, gradient, w, *acc);
            }
        }
        let columns = self.stage.dims.kernel[1];
        let [mut p, mut q] = [self.tap / columns, self.tap % columns];
        for acc in acc {
            let at = p * self.stage.input.row_stride + q * self.stage.input.column_stride;
            let dx = &mut T::vectors_mut::<S>(&mut dx[at..][..const { lanes::<T, S>() }])[0];
            *dx = T::vadd(simd, *dx, acc);
            q += 1;
            if q == columns {
                [p, q] = [p + 1, 0];
            }
        }
        TAPS
    }
}
