//! Convolutions of 3x3 and stride 1 with fewer products: Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2016,
//! arXiv 1509.09308). A tile of 4x4 outputs reads a patch d of 6x6 inputs:
//!
//! ```text
//! y   = A^T [ sum over c of (G w G^T) * (B^T d B) ] A           * element by element: 36 products instead of 144
//! dw  = G^T [ sum over tiles of (B^T d B) * (A dy A^T) ] G
//! dx  = the convolution of dy with w turned by 180 degrees
//! ```
//!
//! Each of the 36 places is a matrix product of its own, over channels (y, dx) or over tiles (dw).

mod passes;
#[cfg(test)]
mod tests;
mod transform;
mod weight;

use pulp::Arch;

use self::passes::{Filter, Patches, Weight};
use self::weight::Pairs;
use super::Conv2d;
use super::fast_images::{After, Convolve, Room, in_vectors, pack_bias, padded};
use crate::layer::{Aligned, ImageLayout, Mode};
use crate::real::Real;

/// Outputs of a tile, a side.
const TILE: usize = 4;
/// Inputs of a tile, a side.
const PATCH: usize = 6;
/// Places of a transformed tile.
const PLACES: usize = PATCH * PATCH;
/// Weights of a kernel.
const TAPS: usize = 9;
/// What a group of tiles, transformed, may take: a quarter of a second-level cache.
const GROUP_BYTES: usize = 1 << 18;
/// Tiles that images given at once should have: each weight is then used often enough for its loading.
const TILES_AT_ONCE: usize = 64;

/// The method.
#[derive(Clone, Debug)]
pub struct Winograd<T> {
    dims: Conv2d,
    lanes: usize,
    input: ImageLayout,
    gradient: ImageLayout,
    /// `G w G^T`, `[place][block of c_out][c_in][TILE_VECTORS * lanes]`; the last block may be one vector wide.
    weight: Aligned<T>,
    bias: Aligned<T>,
    /// Of the weight turned by 180 degrees, `[place][block of c_in][c_out][TILE_VECTORS * lanes]`.
    turned: Aligned<T>,
    /// While a weight is packed.
    taps: Aligned<T>,
}

impl<T: Real> Winograd<T> {
    /// Whether there is less to do than in the direct way: enough channels to fill vectors, and tiles mostly full.
    pub fn takes(dims: &Conv2d, lanes: usize) -> bool {
        let fits = dims.kernel == [3, 3] && dims.stride == [1, 1] && dims.padding.iter().all(|&padding| padding <= 2);
        let wide = lanes >= 4 && dims.input[0] >= lanes / 2 && dims.c_out >= lanes / 2;
        let outputs: usize = dims.output_plane().iter().product();
        dims.is_dense()
            && fits
            && wide
            && PLACES * tiles(dims.output_plane()).iter().product::<usize>() * 2 <= 9 * outputs
    }

    /// The method for this convolution.
    pub fn new(dims: &Conv2d, lanes: usize) -> Self {
        let [rows, columns] = dims.output_plane();
        let input = ImageLayout::pixels(dims.input, dims.padding, padded(dims.input[0], lanes), 0);
        let border = dims.padding.map(|padding| 2 - padding);
        let gradient = ImageLayout::pixels([dims.c_out, rows, columns], border, padded(dims.c_out, lanes), 0);
        let [weight, bias, turned, taps] = [(); 4].map(|()| Aligned::default());
        Self { dims: *dims, lanes, input, gradient, weight, bias, turned, taps }
    }

    /// A layout of the output in which every tile is written whole: what lies outside the image means nothing.
    pub fn in_whole_tiles(&self) -> ImageLayout {
        let Conv2d { c_out, .. } = self.dims;
        let plane = self.dims.output_plane();
        let [rows, columns] = tiles(plane).map(|tiles| tiles * TILE);
        let column_stride = padded(c_out, self.lanes);
        let of_tiles = ImageLayout::pixels([c_out, rows, columns], [0, 0], column_stride, 0);
        ImageLayout { dims: [c_out, plane[0], plane[1]], ..of_tiles }
    }

    /// Tiles that are transformed at once.
    fn group(&self) -> usize {
        let channels = padded(self.dims.input[0], self.lanes) + padded(self.dims.c_out, self.lanes);
        (GROUP_BYTES / (PLACES * channels * size_of::<T>())).next_multiple_of(8)
    }

    /// The pairs of channels of the weight, and of the one that is turned.
    fn pairs(&self) -> [Pairs; 2] {
        let Self { dims: Conv2d { input: [c_in, ..], c_out, .. }, lanes, .. } = *self;
        [Pairs { inner: c_in, outer: c_out, lanes }, Pairs { inner: c_out, outer: c_in, lanes }]
    }
}

/// How many tiles cover so many rows and columns.
fn tiles(plane: [usize; 2]) -> [usize; 2] {
    plane.map(|side| side.div_ceil(TILE))
}

/// Whether so many tiles can be written whole: there is room for them, and no border that they would overwrite.
fn takes_whole_tiles(layout: &ImageLayout, [rows, columns]: [usize; 2]) -> bool {
    let ImageLayout { origin, row_stride, column_stride, len, .. } = *layout;
    origin == 0 && columns * TILE * column_stride <= row_stride && rows * TILE * row_stride <= len
}

/// From a place of a group's transformed tiles to the next, in values: a vector more than they fill, so that the 36
/// places of a tile are in different sets of the cache.
fn place_len(group: usize, padded: usize, lanes: usize) -> usize {
    group * padded + lanes
}

impl<T: Real> Convolve<T> for Winograd<T> {
    fn input(&self) -> ImageLayout {
        self.input
    }

    fn read(&mut self, layout: &ImageLayout) -> bool {
        let wide = layout.border().iter().zip(self.dims.padding).all(|(&border, padding)| border >= padding);
        let takes = wide && in_vectors(layout, self.dims.input[0], self.lanes);
        if takes {
            self.input = *layout;
        }
        takes
    }

    fn gradient(&self) -> ImageLayout {
        self.gradient
    }

    fn together(&self) -> usize {
        TILES_AT_ONCE.div_ceil(tiles(self.dims.output_plane()).iter().product())
    }

    fn pack(&mut self, w: &[T], b: &[T], mode: Mode) {
        let arch = Arch::new();
        let Conv2d { input: [c_in, ..], c_out, .. } = self.dims;
        let [pairs, turned] = self.pairs();
        let Self { taps, weight, .. } = self;
        pairs.pack(arch, taps, weight, |c, o, tap| w[(o * c_in + c) * TAPS + tap]);
        if mode == Mode::Training {
            turned.pack(arch, taps, &mut self.turned, |o, c, tap| w[(o * c_in + c) * TAPS + TAPS - 1 - tap]);
        }
        // Zeros behind it: what the products begin with, and the bias of the gradient's convolution.
        let most = padded(c_out, self.lanes).max(padded(c_in, self.lanes));
        pack_bias(b, padded(c_out, self.lanes) + 2 * most, &mut self.bias);
    }

    fn forward(&self, arch: Arch, x: &[T], y: &mut [T], to: &ImageLayout, after: After<T>, room: &mut Room<T>) {
        let Conv2d { input: [c_in, ..], c_out, padding, .. } = self.dims;
        let (from, group) = (Patches::new(&self.input, padding), self.group());
        let (weight, bias) = (&self.weight, &self.bias);
        arch.dispatch(Filter {
            x,
            from,
            y,
            to,
            channels: [c_in, c_out],
            weight,
            bias,
            adds: false,
            after,
            group,
            room,
        });
    }

    fn sums_len(&self) -> usize {
        self.weight.len()
    }

    fn add_weight(&self, arch: Arch, x: &[T], dy: &[T], sums: &mut [T], room: &mut Room<T>) {
        let Conv2d { input: [c_in, ..], c_out, padding, .. } = self.dims;
        let (from, group) = (Patches::new(&self.input, padding), self.group());
        arch.dispatch(Weight { x, from, dy, to: &self.gradient, channels: [c_in, c_out], sums, group, room });
    }

    fn unpack(&self, arch: Arch, sums: &[T], dw: &mut [T], room: &mut Room<T>) {
        self.pairs()[0].unpack(arch, sums, &mut room.a, dw);
    }

    fn input_gradient(&self, arch: Arch, dy: &[T], dx: &mut [T], adds: bool, room: &mut Room<T>) {
        let Conv2d { input: [c_in, ..], c_out, padding, .. } = self.dims;
        let (from, group) = (Patches::new(&self.gradient, padding.map(|padding| 2 - padding)), self.group());
        let (weight, bias) = (&self.turned, &self.bias[padded(c_out, self.lanes)..]);
        let (y, to) = (dx, &self.input);
        let (channels, after) = ([c_out, c_in], After::default());
        arch.dispatch(Filter { x: dy, from, y, to, channels, weight, bias, adds, after, group, room });
    }

    fn room_bytes(&self) -> usize {
        let [c_in, c_out] = [self.dims.input[0], self.dims.c_out].map(|channels| padded(channels, self.lanes));
        let numbers = PLACES * (self.group() * (c_in + c_out) + 2 * self.lanes + c_in.max(c_out)) + TAPS * c_in * c_out;
        numbers * size_of::<T>()
    }

    fn packed_bytes(&self) -> usize {
        self.pairs().iter().map(|pairs| PLACES * pairs.len() + TAPS * pairs.len()).sum::<usize>() * size_of::<T>()
    }
}
