//! A pooling of an image that lies pixel by pixel, in vectors of channels, where no two windows share an element.

use pulp::{Simd, WithSimd};

use super::MaxPool2d;
use crate::layer::{Aligned, ImageLayout};
use crate::real::{Real, lanes};

/// Whether this form computes the pooling between such images: the output lies pixel by pixel too, or in planes.
pub(super) fn takes(dims: &MaxPool2d, lanes: usize, [from, to]: [&ImageLayout; 2]) -> bool {
    let disjoint = dims.stride[0] >= dims.kernel[0] && dims.stride[1] >= dims.kernel[1];
    let padded = dims.input[0].next_multiple_of(lanes);
    let in_vectors = |layout: &ImageLayout| layout.channel_stride == 1 && layout.column_stride == padded;
    disjoint && dims.padding == [0, 0] && in_vectors(from) && (in_vectors(to) || to.is_planes())
}

/// The maximum of a window whose elements are `value(p, q)`, and its index there, as a number. The first maximum wins,
/// and so does a NaN, as in PyTorch.
#[inline(always)]
pub(crate) fn best<S: Simd, T: Real>(
    simd: S,
    [rows, columns]: [usize; 2],
    value: impl Fn(usize, usize) -> T::Vector<S>,
) -> [T::Vector<S>; 2] {
    let mut best = value(0, 0);
    let [mut best_index, mut index] = [T::splat(simd, T::zero()); 2];
    for p in 0..rows {
        for q in 0..columns {
            if [p, q] == [0, 0] {
                continue;
            }
            index = T::vadd(simd, index, T::splat(simd, T::one()));
            let value = value(p, q);
            // A value that is not above the best leaves it; so does any where the best is a NaN (it is not <= itself).
            let new = T::select_le(simd, [best, best], value, best);
            let new_index = T::select_le(simd, [best, best], index, best_index);
            best_index = T::select_le(simd, [value, best], best_index, new_index);
            best = T::select_le(simd, [value, best], best, new);
        }
    }
    [best, best_index]
}

/// Writes row `i` of an image in planes from pixels that lie `step` values apart. Pixel by pixel, the channels of each
/// would be written far apart, which takes several times as long.
#[inline(always)]
pub(crate) fn write_row<T: Real>(pixels: &[T], step: usize, i: usize, y: &mut [T], to: &ImageLayout) {
    let [channels, _, columns] = to.dims;
    for c in 0..channels {
        let y = &mut y[to.at(c, i, 0)..][..(columns - 1) * to.column_stride + 1];
        for j in 0..columns {
            y[j * to.column_stride] = pixels[j * step + c];
        }
    }
}

/// The reverse of [`write_row`].
#[inline(always)]
fn read_row<T: Real>(dy: &[T], to: &ImageLayout, i: usize, pixels: &mut [T], step: usize) {
    let [channels, _, columns] = to.dims;
    for c in 0..channels {
        let dy = &dy[to.at(c, i, 0)..][..(columns - 1) * to.column_stride + 1];
        for j in 0..columns {
            pixels[j * step + c] = dy[j * to.column_stride];
        }
    }
}

/// One image. `argmax` is `[row][column][channel, filled up]`, each the index in its window: a number, so that it is
/// compared as the values are.
pub(super) struct Forward<'a, T> {
    pub dims: &'a MaxPool2d,
    pub x: &'a [T],
    pub from: &'a ImageLayout,
    pub y: &'a mut [T],
    pub to: &'a ImageLayout,
    pub argmax: &'a mut [T],
    /// A row of the output, pixel by pixel, where that lies in planes.
    pub row: &'a mut Aligned<T>,
}

impl<T: Real> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Compiled for the size that nearly all networks have, without loops over the window.
        match self.dims.kernel {
            [2, 2] => self.rows(simd, [2, 2]),
            kernel => self.rows(simd, kernel),
        }
    }
}

impl<T: Real> Forward<'_, T> {
    #[inline(always)]
    fn rows<S: Simd>(self, simd: S, kernel: [usize; 2]) {
        let Self { dims, x, from, y, to, argmax, row } = self;
        let lanes = const { lanes::<T, S>() };
        let (padded, vectors) = (from.column_stride, from.column_stride / lanes);
        let [rows, columns] = dims.output_plane();
        let argmax = T::vectors_mut::<S>(argmax);
        let row_vectors = from.row_stride / lanes;
        let in_planes = to.is_planes();
        row.grow(if in_planes { columns * padded } else { 0 });
        for i in 0..rows {
            for j in 0..columns {
                let x = T::vectors::<S>(&x[from.at(0, i * dims.stride[0], j * dims.stride[1])..]);
                let y = if in_planes { &mut row[j * padded..] } else { &mut y[to.at(0, i, j)..] };
                let y = T::vectors_mut::<S>(&mut y[..padded]);
                let argmax = &mut argmax[(i * columns + j) * vectors..][..vectors];
                for k in 0..vectors {
                    [y[k], argmax[k]] = best::<S, T>(
                        simd,
                        kernel,
                        #[inline(always)]
                        |p, q| x[p * row_vectors + q * vectors + k],
                    );
                }
            }
            if in_planes {
                write_row(row, padded, i, y, to);
            }
        }
    }
}

/// The same backward.
pub(super) struct Backward<'a, T> {
    pub dims: &'a MaxPool2d,
    pub dx: &'a mut [T],
    pub from: &'a ImageLayout,
    pub dy: &'a [T],
    pub to: &'a ImageLayout,
    pub argmax: &'a [T],
    /// As [`Forward::row`].
    pub row: &'a mut Aligned<T>,
}

impl<T: Real> WithSimd for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { dims, dx, from, dy, to, argmax, row } = self;
        let lanes = const { lanes::<T, S>() };
        let (padded, vectors) = (from.column_stride, from.column_stride / lanes);
        let [rows, columns] = dims.output_plane();
        let argmax = T::vectors::<S>(argmax);
        let (zero, one) = (T::splat(simd, T::zero()), T::splat(simd, T::one()));
        let covers = [0, 1].map(|axis| dims.kernel[axis] == dims.stride[axis]) == [true; 2]
            && [rows * dims.stride[0], columns * dims.stride[1]] == [from.dims[1], from.dims[2]];
        if !covers {
            dx.fill(T::zero());
        }
        let in_planes = to.is_planes();
        row.grow(if in_planes { columns * padded } else { 0 });
        for i in 0..rows {
            if in_planes {
                read_row(dy, to, i, row, padded);
            }
            for j in 0..columns {
                let dx = &mut dx[from.at(0, i * dims.stride[0], j * dims.stride[1])..];
                let dy = if in_planes { &row[j * padded..] } else { &dy[to.at(0, i, j)..] };
                let dy = T::vectors::<S>(&dy[..padded]);
                let argmax = &argmax[(i * columns + j) * vectors..][..vectors];
                let mut index = zero;
                for p in 0..dims.kernel[0] {
                    let row = T::vectors_mut::<S>(&mut dx[p * from.row_stride..]);
                    for q in 0..dims.kernel[1] {
                        for k in 0..vectors {
                            row[q * vectors + k] = T::select_eq(simd, [argmax[k], index], dy[k], zero);
                        }
                        index = T::vadd(simd, index, one);
                    }
                }
            }
        }
    }
}
