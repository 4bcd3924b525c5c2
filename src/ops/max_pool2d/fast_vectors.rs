//! A pooling of an image that lies pixel by pixel, in vectors of channels, where no two windows share an element.

use pulp::{Simd, WithSimd};

use super::MaxPool2d;
use crate::layer::ImageLayout;
use crate::real::{Real, lanes};

/// Whether this form computes the pooling between such images.
pub(super) fn takes(dims: &MaxPool2d, lanes: usize, layouts: [&ImageLayout; 2]) -> bool {
    let disjoint = dims.stride[0] >= dims.kernel[0] && dims.stride[1] >= dims.kernel[1];
    let padded = dims.input[0].next_multiple_of(lanes);
    disjoint
        && dims.padding == [0, 0]
        && layouts.iter().all(|layout| layout.channel_stride == 1 && layout.column_stride == padded)
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
}

impl<T: Real> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { dims, x, from, y, to, argmax } = self;
        let lanes = const { lanes::<T, S>() };
        let vectors = from.column_stride / lanes;
        let [rows, columns] = dims.output_plane();
        let argmax = T::vectors_mut::<S>(argmax);
        let one = T::splat(simd, T::one());
        for i in 0..rows {
            for j in 0..columns {
                let x = &x[from.at(0, i * dims.stride[0], j * dims.stride[1])..];
                let y = T::vectors_mut::<S>(&mut y[to.at(0, i, j)..][..to.column_stride]);
                let argmax = &mut argmax[(i * columns + j) * vectors..][..vectors];
                for k in 0..vectors {
                    let mut best = T::vectors::<S>(x)[k];
                    let mut index = T::splat(simd, T::zero());
                    let mut best_index = index;
                    for p in 0..dims.kernel[0] {
                        let row = T::vectors::<S>(&x[p * from.row_stride..]);
                        for q in 0..dims.kernel[1] {
                            let value = row[q * vectors + k];
                            // A value that is not above the best leaves it; so does any where the best is a NaN.
                            let new = T::select_le(simd, [best, best], value, best);
                            let new_index = T::select_le(simd, [best, best], index, best_index);
                            best_index = T::select_le(simd, [value, best], best_index, new_index);
                            best = T::select_le(simd, [value, best], best, new);
                            index = T::vadd(simd, index, one);
                        }
                    }
                    (y[k], argmax[k]) = (best, best_index);
                }
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
}

impl<T: Real> WithSimd for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { dims, dx, from, dy, to, argmax } = self;
        let lanes = const { lanes::<T, S>() };
        let vectors = from.column_stride / lanes;
        let [rows, columns] = dims.output_plane();
        let argmax = T::vectors::<S>(argmax);
        let (zero, one) = (T::splat(simd, T::zero()), T::splat(simd, T::one()));
        let covers = [0, 1].map(|axis| dims.kernel[axis] == dims.stride[axis]) == [true; 2]
            && [rows * dims.stride[0], columns * dims.stride[1]] == [from.dims[1], from.dims[2]];
        if !covers {
            dx.fill(T::zero());
        }
        for i in 0..rows {
            for j in 0..columns {
                let dx = &mut dx[from.at(0, i * dims.stride[0], j * dims.stride[1])..];
                let dy = T::vectors::<S>(&dy[to.at(0, i, j)..][..to.column_stride]);
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
