//! The passes over the tiles of several images.

use pulp::{Simd, WithSimd};

use super::transform::{four, gradient_side, input_side, output_side, six, transform};
use super::{PATCH, PLACES, TILE, place_len, takes_whole_tiles, tiles};
use crate::layer::{Aligned, ImageLayout};
use crate::ops::conv2d::fast_images::{After, Room, in_vectors, padded};
use crate::ops::conv2d::fast_products::Products;
use crate::ops::conv2d::fast_rows::Rows;
use crate::real::{Real, lanes};

/// Where patches of 6x6 pixels lie in an image, in vectors; those at the lower and right edge may be cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patches {
    /// From an image to the next, in values.
    image: usize,
    /// The first patch's corner, in values.
    corner: usize,
    row: usize,
    column: usize,
    /// Pixels from the corner on, with the border that belongs to the convolution.
    plane: [usize; 2],
}

impl Patches {
    pub fn new(layout: &ImageLayout, padding: [usize; 2]) -> Self {
        let ImageLayout { dims: [_, h, w], row_stride: row, column_stride: column, .. } = *layout;
        let corner = layout.origin - padding[0] * row - padding[1] * column;
        let plane = [h + 2 * padding[0], w + 2 * padding[1]];
        Self { image: layout.len, corner, row, column, plane }
    }

    /// How many rows and columns there are of the patch at tile `[i, j]`.
    fn size(&self, side: usize, [i, j]: [usize; 2]) -> [usize; 2] {
        [side.min(self.plane[0] - i * TILE), side.min(self.plane[1] - j * TILE)]
    }
}

/// A tile among those of several images.
#[derive(Clone, Copy)]
struct Tile {
    image: usize,
    at: [usize; 2],
}

impl Tile {
    #[inline(always)]
    fn number(index: usize, [rows, columns]: [usize; 2]) -> Self {
        let (image, in_image) = (index / (rows * columns), index % (rows * columns));
        Self { image, at: [in_image / columns, in_image % columns] }
    }
}

/// `SIDE x SIDE` pixels as they lie, or those at an edge copied to `edge` with zeros behind them: where they begin, and
/// the steps from a row and from a column to the next, all in vectors.
#[inline(always)]
fn patch<'a, S: Simd, T: Real, const SIDE: usize>(
    x: &'a [T],
    from: &Patches,
    tile: Tile,
    edge: &'a mut Aligned<T>,
    padded: usize,
) -> (&'a [T::Vector<S>], [usize; 2]) {
    let lanes = const { lanes::<T, S>() };
    let start = tile.image * from.image + from.corner + TILE * (tile.at[0] * from.row + tile.at[1] * from.column);
    let [rows, columns] = from.size(SIDE, tile.at);
    if [rows, columns] == [SIDE; 2] {
        return (T::vectors::<S>(&x[start..]), [from.row / lanes, from.column / lanes]);
    }
    edge.grow(SIDE * SIDE * padded);
    for (i, to) in edge.chunks_exact_mut(SIDE * padded).enumerate().take(SIDE) {
        let row = if i < rows { &x[start + i * from.row..][..(columns - 1) * from.column + padded] } else { &[] };
        let (inside, outside) = to.split_at_mut(if i < rows { columns * padded } else { 0 });
        if from.column == padded {
            inside.copy_from_slice(row);
        } else {
            let pixels = inside.chunks_exact_mut(padded).zip(row.chunks(from.column));
            pixels.for_each(|(to, pixel)| to.copy_from_slice(&pixel[..padded]));
        }
        outside.fill(T::zero());
    }
    (T::vectors::<S>(edge), [SIDE * padded / lanes, padded / lanes])
}

/// `B^T d B` of the tiles `first..first + count`.
#[inline(always)]
fn spread<S: Simd, T: Real>(
    simd: S,
    x: &[T],
    from: &Patches,
    (first, count, per_image): (usize, usize, [usize; 2]),
    padded: usize,
    [edge, to]: [&mut Aligned<T>; 2],
) {
    let lanes = const { lanes::<T, S>() };
    let vectors = padded / lanes;
    let step = place_len(count, padded, lanes) / lanes;
    to.grow(PLACES * step * lanes);
    let to = T::vectors_mut::<S>(to);
    let mut lines = [[T::splat(simd, T::zero()); PATCH]; PATCH];
    for tile in 0..count {
        let number = Tile::number(first + tile, per_image);
        let (x, [row, column]) = patch::<S, T, PATCH>(x, from, number, edge, padded);
        let rows = six!(i, &x[i * row..][..(PATCH - 1) * column + vectors]);
        for k in 0..vectors {
            let at = tile * vectors + k;
            transform(
                &mut lines,
                #[inline(always)]
                |d| input_side::<S, T>(simd, d),
                #[inline(always)]
                |j| six!(i, rows[i][j * column + k]),
                #[inline(always)]
                |p, values| {
                    let places = &mut to[p * PATCH * step..][..PATCH * step];
                    for q in 0..PATCH {
                        places[q * step + at] = values[q];
                    }
                },
            );
        }
    }
}

/// A convolution of several images.
pub(super) struct Filter<'a, T> {
    pub x: &'a [T],
    pub from: Patches,
    pub y: &'a mut [T],
    pub to: &'a ImageLayout,
    /// Of `x` and of `y`.
    pub channels: [usize; 2],
    pub weight: &'a [T],
    pub bias: &'a [T],
    /// Whether `y` is added to.
    pub adds: bool,
    pub after: After<'a, T>,
    /// Tiles at once.
    pub group: usize,
    pub room: &'a mut Room<T>,
}

impl<T: Real> WithSimd for Filter<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, from, y, to, channels, weight, bias, adds, after, group, room: Room { a, b, edge } } = self;
        let lanes = const { lanes::<T, S>() };
        let [inner, outer] = [padded(channels[0], lanes), padded(channels[1], lanes)];
        let out_vectors = outer / lanes;
        let per_image = tiles([to.dims[1], to.dims[2]]);
        let total = x.len() / from.image * per_image.iter().product::<usize>();
        let weight = T::vectors::<S>(weight);
        let (bias, zeros) = T::vectors::<S>(bias).split_at(out_vectors);
        let direct = in_vectors(to, channels[1], lanes)
            && after.added.is_none_or(|(_, lies)| in_vectors(lies, channels[1], lanes));
        let all_whole = after.added.is_none() && takes_whole_tiles(to, per_image);
        let zero = T::splat(simd, T::zero());
        let mut lines = [[zero; TILE]; PATCH];
        for first in (0..total).step_by(group) {
            let count = group.min(total - first);
            spread(simd, x, &from, (first, count, per_image), inner, [edge, a]);
            let step = place_len(count, outer, lanes) / lanes;
            b.grow(PLACES * step * lanes);
            let products = T::vectors_mut::<S>(b);
            // A row a place.
            let rows = Rows {
                plane: [PLACES, count],
                x: a,
                x_steps: [place_len(count, inner, lanes), inner],
                runs: &[0],
                run_len: channels[0],
                weights: weight,
                weights_step: channels[0] * out_vectors,
                bias: zeros,
                out: &mut *products,
                adds: false,
                relu: false,
                out_steps: [step, out_vectors],
            };
            rows.compute::<S>(simd, out_vectors);
            for tile in 0..count {
                let Tile { image, at } = Tile::number(first + tile, per_image);
                let [i, j] = [at[0] * TILE, at[1] * TILE];
                let [rows, columns] = [TILE.min(to.dims[1] - i), TILE.min(to.dims[2] - j)];
                let y = &mut y[image * to.len..][..to.len];
                let whole = direct && (all_whole || [rows, columns] == [TILE; 2]);
                let (out, [row, column]) = if whole {
                    (&mut y[to.at(0, i, j)..], [to.row_stride / lanes, to.column_stride / lanes])
                } else {
                    edge.grow(TILE * TILE * outer);
                    (&mut edge[..], [TILE * out_vectors, out_vectors])
                };
                let out = T::vectors_mut::<S>(out);
                let lies = after.added.map_or(to, |(_, lies)| lies);
                let [added_row, added_column] = [lies.row_stride / lanes, lies.column_stride / lanes];
                let added = after.added.filter(|_| whole);
                let added = added.map(|(added, _)| T::vectors::<S>(&added[image * lies.len + lies.at(0, i, j)..]));
                let [adds_here, relu] = [adds && whole, after.relu && whole];
                for k in 0..out_vectors {
                    let at = tile * out_vectors + k;
                    transform(
                        &mut lines,
                        #[inline(always)]
                        |m| output_side::<S, T>(simd, m),
                        #[inline(always)]
                        |p| {
                            let places = &products[p * PATCH * step..][..PATCH * step];
                            six!(q, places[q * step + at])
                        },
                        #[inline(always)]
                        |q, values| {
                            for p in 0..TILE {
                                let out = &mut out[p * row + q * column + k];
                                let mut value = T::vadd(simd, values[p], if adds_here { *out } else { bias[k] });
                                if let Some(added) = added {
                                    value = T::vadd(simd, value, added[p * added_row + q * added_column + k]);
                                }
                                if relu {
                                    value = T::select_le(simd, [value, zero], zero, value);
                                }
                                *out = value;
                            }
                        },
                    );
                }
                if whole {
                    continue;
                }
                for p in 0..rows {
                    for q in 0..columns {
                        let pixel = &edge[(p * TILE + q) * outer..][..channels[1]];
                        for (c, &value) in pixel.iter().enumerate() {
                            let added = after
                                .added
                                .map_or(T::zero(), |(added, lies)| added[image * lies.len + lies.at(c, i + p, j + q)]);
                            let y = &mut y[to.at(c, i + p, j + q)];
                            *y = if adds { *y + value } else { after.rectified(value + added) };
                        }
                    }
                }
            }
        }
    }
}

/// The weight's gradient, of several images.
pub(super) struct Weight<'a, T> {
    pub x: &'a [T],
    pub from: Patches,
    pub dy: &'a [T],
    pub to: &'a ImageLayout,
    pub channels: [usize; 2],
    pub sums: &'a mut [T],
    pub group: usize,
    pub room: &'a mut Room<T>,
}

impl<T: Real> WithSimd for Weight<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, from, dy, to, channels, sums, group, room: Room { a, b, edge } } = self;
        let lanes = const { lanes::<T, S>() };
        let [inner, outer] = [padded(channels[0], lanes), padded(channels[1], lanes)];
        let vectors = outer / lanes;
        let per_image = tiles([to.dims[1], to.dims[2]]);
        let total = x.len() / from.image * per_image.iter().product::<usize>();
        let gradients = Patches::new(to, [0; 2]);
        let sums = T::vectors_mut::<S>(sums);
        let mut lines = [[T::splat(simd, T::zero()); PATCH]; TILE];
        for first in (0..total).step_by(group) {
            let count = group.min(total - first);
            spread(simd, x, &from, (first, count, per_image), inner, [edge, a]);
            let step = place_len(count, outer, lanes) / lanes;
            b.grow(PLACES * step * lanes);
            let spread_out = T::vectors_mut::<S>(b);
            for tile in 0..count {
                let number = Tile::number(first + tile, per_image);
                let (dy, [row, column]) = patch::<S, T, TILE>(dy, &gradients, number, edge, outer);
                let rows = four!(i, &dy[i * row..][..(TILE - 1) * column + vectors]);
                for k in 0..vectors {
                    let at = tile * vectors + k;
                    transform(
                        &mut lines,
                        #[inline(always)]
                        |y| gradient_side::<S, T>(simd, y),
                        #[inline(always)]
                        |j| four!(i, rows[i][j * column + k]),
                        #[inline(always)]
                        |p, values| {
                            let places = &mut spread_out[p * PATCH * step..][..PATCH * step];
                            for q in 0..PATCH {
                                places[q * step + at] = values[q];
                            }
                        },
                    );
                }
            }
            let mut places = [0; PLACES];
            for (at, place) in places.iter_mut().enumerate() {
                *place = at * place_len(count, inner, lanes);
            }
            let products = Products {
                x: a,
                places: &places,
                values: channels[0],
                x_steps: [0, inner],
                dy: &*spread_out,
                dy_steps: [step, 0, vectors],
                plane: [1, count],
                sums: &mut *sums,
            };
            products.add::<S>(simd, vectors);
        }
    }
}
