//! The weight as the products take it, and its gradient back from them.
//!
//! Both go by an array `[vector][tap][lanes]`: the nine weights of a pair of channels, the pairs in the order of
//! [`Pairs`].

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::transform::G;
use super::{PATCH, PLACES, TAPS};
use crate::layer::Aligned;
use crate::ops::conv2d::fast_block::TILE_VECTORS;
use crate::ops::conv2d::fast_images::padded;
use crate::real::{Real, lanes};

/// Vectors that one task transforms.
const VECTORS_AT_ONCE: usize = 64;

/// Pairs of channels as a place of the transformed weight has them: `[block of outer][inner][TILE_VECTORS * lanes]`;
/// the last block may be one vector wide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pairs {
    pub inner: usize,
    pub outer: usize,
    pub lanes: usize,
}

impl Pairs {
    /// Length of a place.
    pub fn len(&self) -> usize {
        self.inner * padded(self.outer, self.lanes)
    }

    /// Channels of a whole block.
    fn block(&self) -> usize {
        TILE_VECTORS * self.lanes
    }

    /// Where a pair is.
    fn at(&self, inner: usize, outer: usize) -> usize {
        let first = outer / self.block() * self.block();
        let width = self.block().min(padded(self.outer, self.lanes) - first);
        first * self.inner + inner * width + outer - first
    }

    /// Where a weight of a pair is in `[vector][tap][lanes]`.
    fn tap_at(&self, inner: usize, outer: usize, tap: usize) -> usize {
        let at = self.at(inner, outer);
        (at / self.lanes * TAPS + tap) * self.lanes + at % self.lanes
    }

    /// `G w G^T` of every pair to `packed`, `[place]` of them; `w(inner, outer, tap)` gives the weights.
    pub fn pack<T: Real>(
        &self,
        arch: Arch,
        taps: &mut Aligned<T>,
        packed: &mut Aligned<T>,
        w: impl Fn(usize, usize, usize) -> T + Sync,
    ) {
        let Self { inner: inners, outer: outers, .. } = *self;
        taps.resize(TAPS * self.len(), T::zero());
        packed.resize(PLACES * self.len(), T::zero());
        // A block's weights lie together.
        let blocks = taps.par_chunks_mut(TAPS * inners * self.block()).enumerate();
        blocks.for_each(|(block, taps)| {
            let first = block * self.block();
            let start = self.tap_at(0, first, 0);
            for outer in first..outers.min(first + self.block()) {
                for inner in 0..inners {
                    for tap in 0..TAPS {
                        taps[self.tap_at(inner, outer, tap) - start] = w(inner, outer, tap);
                    }
                }
            }
        });
        let rows = packed.par_chunks_mut(PATCH * self.len()).enumerate();
        rows.for_each(|(row, packed)| arch.dispatch(Pack { row, taps, packed }));
    }

    /// `G^T u G` of every pair, to `[outer][inner][tap]`; `sums` is as [`Self::pack`] packs.
    pub fn unpack<T: Real>(&self, arch: Arch, sums: &[T], taps: &mut Aligned<T>, dw: &mut [T]) {
        taps.resize(TAPS * self.len(), T::zero());
        let parts = taps.par_chunks_mut(TAPS * self.lanes * VECTORS_AT_ONCE).enumerate();
        parts.for_each(|(part, taps)| {
            let first = part * VECTORS_AT_ONCE;
            arch.dispatch(Unpack { sums, first, step: self.len() / self.lanes, taps });
        });
        dw.par_chunks_mut(self.inner * TAPS).enumerate().for_each(|(outer, dw)| {
            for (inner, dw) in dw.chunks_mut(TAPS).enumerate() {
                dw.iter_mut().enumerate().for_each(|(tap, dw)| *dw = taps[self.tap_at(inner, outer, tap)]);
            }
        });
    }
}

/// A row of six places.
struct Pack<'a, T> {
    row: usize,
    taps: &'a [T],
    packed: &'a mut [T],
}

impl<T: Real> WithSimd for Pack<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { row, taps, packed } = self;
        let packed = T::vectors_mut::<S>(packed);
        let step = packed.len() / PATCH;
        for (v, taps) in T::vectors::<S>(taps).chunks_exact(TAPS).enumerate() {
            let mut values = [T::splat(simd, T::zero()); 3];
            for (a, taps) in taps.chunks_exact(3).enumerate() {
                let g = T::splat(simd, T::of(G[row][a]));
                values.iter_mut().zip(taps).for_each(|(value, &tap)| *value = T::vmul_add(simd, g, tap, *value));
            }
            for (place, g) in G.iter().enumerate() {
                let mut sum = T::splat(simd, T::zero());
                for b in 0..3 {
                    sum = T::vmul_add(simd, T::splat(simd, T::of(g[b])), values[b], sum);
                }
                packed[place * step + v] = sum;
            }
        }
    }
}

/// Some vectors of pairs.
struct Unpack<'a, T> {
    sums: &'a [T],
    /// The first vector, and the vectors from a place to the next.
    first: usize,
    step: usize,
    taps: &'a mut [T],
}

impl<T: Real> WithSimd for Unpack<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sums, first, step, taps } = self;
        debug_assert!(taps.len().is_multiple_of(TAPS * const { lanes::<T, S>() }));
        let sums = T::vectors::<S>(sums);
        for (v, taps) in T::vectors_mut::<S>(taps).chunks_exact_mut(TAPS).enumerate() {
            let mut totals = [[T::splat(simd, T::zero()); 3]; 3];
            for p in 0..PATCH {
                let mut row = [T::splat(simd, T::zero()); 3];
                for q in 0..PATCH {
                    let value = sums[(p * PATCH + q) * step + first + v];
                    for b in 0..3 {
                        row[b] = T::vmul_add(simd, T::splat(simd, T::of(G[q][b])), value, row[b]);
                    }
                }
                for a in 0..3 {
                    let g = T::splat(simd, T::of(G[p][a]));
                    for b in 0..3 {
                        totals[a][b] = T::vmul_add(simd, g, row[b], totals[a][b]);
                    }
                }
            }
            for (tap, to) in taps.iter_mut().enumerate() {
                *to = totals[tap / 3][tap % 3];
            }
        }
    }
}
