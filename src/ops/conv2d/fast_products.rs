//! Products of input values with vectors of gradients, summed over pixels or tiles: the weight's gradient.

use pulp::{NullaryFnOnce, Simd};

use super::fast_block::TILE_VECTORS;
use crate::real::Real;

/// What some rows of both tensors may take: half a first-level cache.
const BAND_BYTES: usize = 1 << 14;
/// Pixels that a band has at least: its sums are loaded and stored once.
const BAND_PIXELS: usize = 32;

/// `sums[place][value][vector] += x[place][pixel][value] * dy[place][pixel][vector]`, over a plane of pixels.
pub(super) struct Products<'a, T, V> {
    /// The input.
    pub x: &'a [T],
    /// Where in it a place's values lie that meet the first pixel.
    pub places: &'a [usize],
    /// How many values these are.
    pub values: usize,
    /// From a row of pixels, and from a pixel, to the next, in the input.
    pub x_steps: [usize; 2],
    /// From the first pixel's first vector on.
    pub dy: &'a [V],
    /// From a place, a row and a pixel to the next.
    pub dy_steps: [usize; 3],
    /// Rows and columns of pixels.
    pub plane: [usize; 2],
    /// `[place][block of TILE_VECTORS vectors][value][vector of the block]`; the last block may be one vector wide.
    pub sums: &'a mut [V],
}

impl<T: Real, V: bytemuck::Pod> Products<'_, T, V> {
    /// For so many vectors. Compiled once for all nodes, for its many forms take long to compile.
    #[inline(never)]
    pub fn add<S: Simd>(self, simd: S, vectors: usize)
    where
        T: Real<Vector<S> = V>,
    {
        simd.vectorize(Tiles { products: self, simd, vectors });
    }
}

/// The values in parts that fit the registers.
struct Tiles<'a, T, V, S> {
    products: Products<'a, T, V>,
    simd: S,
    vectors: usize,
}

impl<S: Simd, V: bytemuck::Pod, T: Real<Vector<S> = V>> NullaryFnOnce for Tiles<'_, T, V, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { products: Products { x, places, values, x_steps, dy, dy_steps, plane, sums }, simd, vectors } = self;
        // Accumulators, a pixel's gradients and the input value must fit the registers.
        let widest = if S::REGISTER_COUNT >= 32 { 8 } else { 6 };
        let parts = values.div_ceil(widest);
        let [dy_place, dy_steps @ ..] = dy_steps;
        let [rows, columns] = plane;
        // All sums go over a band of rows before the next band, for they read its values many times. Each sum still
        // adds its pixels in their order.
        let row_bytes = x_steps[0] * size_of::<T>() + dy_steps[0] * size_of::<V>();
        let band = (BAND_BYTES / row_bytes.max(1)).max(BAND_PIXELS.div_ceil(columns));
        for row in (0..rows).step_by(band) {
            let plane = [band.min(rows - row), columns];
            let (x, dy) = (&x[row * x_steps[0]..], &dy[row * dy_steps[0]..]);
            for (at, (&place, sums)) in places.iter().zip(sums.chunks_exact_mut(values * vectors)).enumerate() {
                let blocks = sums.chunks_mut(values * TILE_VECTORS);
                for (block, sums) in blocks.enumerate() {
                    let first = block * TILE_VECTORS;
                    let width = TILE_VECTORS.min(vectors - first);
                    let dy = &dy[at * dy_place + first..];
                    let mut c = 0;
                    for part in 0..parts {
                        // As even as possible: 9 values are 5 and 4, which keeps more registers busy than 8 and 1.
                        let count = (values * (part + 1)).div_ceil(parts) - c;
                        let tile =
                            Tile { x: &x[place + c..], x_steps, dy, dy_steps, plane, sums: &mut sums[c * width..] };
                        macro_rules! by_size {
                            ($($values:literal)*) => {
                                match (count, width) {
                                    $(($values, 1) => tile.add::<S, $values, 1>(simd),
                                    ($values, _) => tile.add::<S, $values, TILE_VECTORS>(simd),)*
                                    _ => unreachable!("1 to 8 values"),
                                }
                            };
                        }
                        by_size!(1 2 3 4 5 6 7 8);
                        c += count;
                    }
                }
            }
        }
    }
}

/// Some values of a place, and the vectors of a block.
struct Tile<'a, T, V> {
    x: &'a [T],
    x_steps: [usize; 2],
    dy: &'a [V],
    dy_steps: [usize; 2],
    plane: [usize; 2],
    sums: &'a mut [V],
}

impl<T: Real, V: bytemuck::Pod> Tile<'_, T, V> {
    #[inline(always)]
    fn add<S: Simd, const VALUES: usize, const VECTORS: usize>(self, simd: S)
    where
        T: Real<Vector<S> = V>,
    {
        let Self { x, x_steps, dy, dy_steps, plane: [rows, columns], sums } = self;
        let (totals, _) = sums.as_chunks_mut::<VECTORS>();
        let totals = totals.first_chunk_mut::<VALUES>().expect("a sum for each value");
        let mut sums = *totals;
        for i in 0..rows {
            let (x, dy) = (&x[i * x_steps[0]..], &dy[i * dy_steps[0]..]);
            for j in 0..columns {
                let (x, dy) = (&x[j * x_steps[1]..][..VALUES], &dy[j * dy_steps[1]..][..VECTORS]);
                for c in 0..VALUES {
                    let x = T::splat(simd, x[c]);
                    for k in 0..VECTORS {
                        sums[c][k] = T::vmul_add(simd, x, dy[k], sums[c][k]);
                    }
                }
            }
        }
        *totals = sums;
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, WithSimd};

    use super::*;
    use crate::real::lanes;

    const ROWS: usize = 20;
    const COLUMNS: usize = 5;
    const VALUES: usize = 7;

    /// A plane of several bands, the last one a part: from a row to the next it is so far that a band is as short as it
    /// can be.
    struct Plane;

    impl WithSimd for Plane {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let lanes = const { lanes::<f32, S>() };
            let x_row = BAND_BYTES;
            let small = |i: usize| (i * 7 % 11) as f32 - 5.0;
            let x: Vec<f32> = (0..ROWS * x_row).map(small).collect();
            let dy: Vec<f32> = (0..ROWS * COLUMNS * lanes).map(|i| small(i * 3 + 1)).collect();
            let mut sums = vec![2.0; VALUES * lanes];
            let products = Products {
                x: &x,
                places: &[0],
                values: VALUES,
                x_steps: [x_row, VALUES],
                dy: f32::vectors::<S>(&dy),
                dy_steps: [0, COLUMNS, 1],
                plane: [ROWS, COLUMNS],
                sums: f32::vectors_mut::<S>(&mut sums),
            };
            products.add::<S>(simd, 1);
            for (i, &sum) in sums.iter().enumerate() {
                let (value, lane) = (i / lanes, i % lanes);
                let pixels = (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (row, column)));
                let term = |(row, column)| {
                    x[row * x_row + column * VALUES + value] * dy[(row * COLUMNS + column) * lanes + lane]
                };
                assert_eq!(sum, 2.0 + pixels.map(term).sum::<f32>(), "value {value}, lane {lane}");
            }
        }
    }

    /// Catches a row that is in two bands, or in none.
    #[test]
    fn bands_of_rows_add_up() {
        assert!(BAND_PIXELS.div_ceil(COLUMNS) < ROWS);
        Arch::new().dispatch(Plane);
    }
}
