//! SGD's update on the fast CPU path, vector by vector. Formulas: [`crate::optimizer`].

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::Sgd;
use crate::optimizer::update::{Update, Values};
use crate::real::{Real, lanes};

/// Elements of the flat vector that one task updates. A multiple of every vector's length.
const CHUNK: usize = 16_384;

/// An update in place. Whether parameters and momentum are finite after it.
pub fn step<T: Real>(arch: Arch, sgd: &Sgd, update: Update, values: Values<T>) -> bool {
    let Values { params, grads, slots, decayed, .. } = values;
    let sgd = *sgd;
    let chunk = |i: usize, params: &mut [T], grads: &[T], memory: &mut [T]| {
        let cut = decayed.saturating_sub(i * CHUNK).min(params.len());
        let (params, rest_params) = params.split_at_mut(cut);
        let (grads, rest_grads) = grads.split_at(cut);
        // Empty without momentum.
        let (memory, rest_memory) = memory.split_at_mut(cut.min(memory.len()));
        let finite = arch.dispatch(Chunk { sgd, update, params, grads, memory });
        let update = update.undecayed();
        let (params, grads, memory) = (rest_params, rest_grads, rest_memory);
        finite & (params.is_empty() || arch.dispatch(Chunk { sgd, update, params, grads, memory }))
    };
    let chunks = params.par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK));
    let parts = |all: bool, part: bool| all && part;
    match slots.first_mut() {
        Some(memory) => {
            let chunks = chunks.zip(memory.par_chunks_mut(CHUNK)).enumerate();
            chunks.map(|(i, ((params, grads), memory))| chunk(i, params, grads, memory)).reduce(|| true, parts)
        }
        None => chunks.enumerate().map(|(i, (params, grads))| chunk(i, params, grads, &mut [])).reduce(|| true, parts),
    }
}

struct Chunk<'a, T> {
    sgd: Sgd,
    update: Update,
    params: &'a mut [T],
    grads: &'a [T],
    memory: &'a mut [T],
}

impl<T: Real> WithSimd for Chunk<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        // The flat vector is a multiple of 64 elements long, and so of whole vectors.
        assert!(self.params.len().is_multiple_of(const { lanes::<T, S>() }));
        let all = |value: f64| T::splat(simd, T::of(value));
        let [l2, step_size] = [all(self.update.l2), all(self.update.step_size)];
        let momentum = all(self.sgd.momentum);
        let mut memory = T::vectors_mut::<S>(self.memory).iter_mut();
        // Stays 0 as long as all are finite: what is not, taken from itself, is a NaN.
        let mut rest = all(0.0);
        for (p, &g) in T::vectors_mut::<S>(self.params).iter_mut().zip(T::vectors::<S>(self.grads)) {
            let g = T::vmul_add(simd, l2, *p, g);
            let mut way = g;
            if let Some(m) = memory.next() {
                *m = T::vmul_add(simd, momentum, *m, g);
                way = if self.sgd.nesterov { T::vmul_add(simd, momentum, *m, g) } else { *m };
                rest = T::vadd(simd, rest, T::vsub(simd, *m, *m));
            }
            *p = T::vsub(simd, *p, T::vmul(simd, step_size, way));
            rest = T::vadd(simd, rest, T::vsub(simd, *p, *p));
        }
        bytemuck::cast_slice::<_, T>(&[rest]).iter().all(|&lane| lane == T::of(0.0))
    }
}
