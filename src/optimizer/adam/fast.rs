//! Adam's update on the fast CPU path, vector by vector. Formulas: [`crate::optimizer`].

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::Adam;
use crate::optimizer::update::Update;
use crate::real::{Real, lanes};

/// Elements of the flat vector that one task updates. A multiple of every vector's length.
const CHUNK: usize = 16_384;

/// An update in place of parameters of which the first `decayed` decay, with both moments. Whether all are finite after
/// it.
pub fn step<T: Real>(
    arch: Arch,
    adam: &Adam,
    update: Update,
    params: &mut [T],
    grads: &[T],
    [first, second]: [&mut [T]; 2],
    decayed: usize,
) -> bool {
    let (betas, eps) = (adam.betas, adam.eps);
    params
        .par_chunks_mut(CHUNK)
        .zip(grads.par_chunks(CHUNK))
        .zip(first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK)))
        .enumerate()
        .map(|(i, ((params, grads), (first, second)))| {
            let cut = decayed.saturating_sub(i * CHUNK).min(params.len());
            let (params, rest_params) = params.split_at_mut(cut);
            let (grads, rest_grads) = grads.split_at(cut);
            let (first, rest_first) = first.split_at_mut(cut);
            let (second, rest_second) = second.split_at_mut(cut);
            let finite = arch.dispatch(Chunk { update, betas, eps, params, grads, first, second });
            let update = update.undecayed();
            let (params, grads, first, second) = (rest_params, rest_grads, rest_first, rest_second);
            finite & (params.is_empty() || arch.dispatch(Chunk { update, betas, eps, params, grads, first, second }))
        })
        .reduce(|| true, |all, part| all && part)
}

struct Chunk<'a, T> {
    update: Update,
    betas: [f64; 2],
    eps: f64,
    params: &'a mut [T],
    grads: &'a [T],
    first: &'a mut [T],
    second: &'a mut [T],
}

impl<T: Real> WithSimd for Chunk<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        // The flat vector is a multiple of 64 elements long, and so of whole vectors.
        assert!(self.params.len().is_multiple_of(const { lanes::<T, S>() }));
        let all = |value: f64| T::splat(simd, T::of(value));
        let [keep, l2] = [all(self.update.keep), all(self.update.l2)];
        let [step_size, denominator] = [all(self.update.step_size), all(self.update.denominator)];
        let [b1, b2] = [all(self.betas[0]), all(self.betas[1])];
        let [rest1, rest2] = [all(1.0 - self.betas[0]), all(1.0 - self.betas[1])];
        let eps = all(self.eps);
        let params = T::vectors_mut::<S>(self.params).iter_mut().zip(T::vectors::<S>(self.grads));
        let state = T::vectors_mut::<S>(self.first).iter_mut().zip(T::vectors_mut::<S>(self.second));
        // Stays 0 as long as all are finite: what is not, taken from itself, is a NaN.
        let mut rest = all(0.0);
        for ((p, &g), (m, v)) in params.zip(state) {
            let kept = T::vmul(simd, *p, keep);
            let g = T::vmul_add(simd, l2, kept, g);
            *m = T::vmul_add(simd, rest1, g, T::vmul(simd, b1, *m));
            *v = T::vmul_add(simd, T::vmul(simd, rest2, g), g, T::vmul(simd, b2, *v));
            let root = T::vadd(simd, T::vdiv(simd, T::vsqrt(simd, *v), denominator), eps);
            *p = T::vsub(simd, kept, T::vdiv(simd, T::vmul(simd, step_size, *m), root));
            let moments = T::vadd(simd, T::vsub(simd, *m, *m), T::vsub(simd, *v, *v));
            rest = T::vadd(simd, rest, T::vadd(simd, T::vsub(simd, *p, *p), moments));
        }
        bytemuck::cast_slice::<_, T>(&[rest]).iter().all(|&lane| lane == T::of(0.0))
    }
}
