//! The CPU twin of `shaders/adam.wgsl` and `shaders/sgd.wgsl`. Formulas: [`crate::optimizer`].

use rayon::prelude::*;

use super::Optimizer;
use crate::real::Real;

/// What an optimizer remembers for each parameter, in the order of the flat vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments<T> {
    /// Adam's first moment, or SGD's momentum.
    pub first: Vec<T>,
    /// Adam's second moment; unused by SGD.
    pub second: Vec<T>,
}

impl<T: Real> Moments<T> {
    /// All zeros, for `len` parameters.
    pub fn new(len: usize) -> Self {
        Self { first: vec![T::zero(); len], second: vec![T::zero(); len] }
    }
}

/// Elements of the flat vector that one task updates: 3 arrays of 32 KiB at f64 stay in a core's cache.
const CHUNK: usize = 4096;

/// Update `t` (counted from 1) of every parameter, in place. Whether parameters and moments are finite after it.
pub fn step<T: Real>(optimizer: &Optimizer, t: u64, params: &mut [T], grads: &[T], state: &mut Moments<T>) -> bool {
    let update = optimizer.update(t);
    let [keep, l2, step_size, denominator] =
        [update.keep, update.l2, update.step_size, update.denominator].map(|v| T::of(v));
    let chunks = params
        .par_chunks_mut(CHUNK)
        .zip(grads.par_chunks(CHUNK))
        .zip(state.first.par_chunks_mut(CHUNK).zip(state.second.par_chunks_mut(CHUNK)));
    match optimizer {
        Optimizer::Adam(adam) | Optimizer::AdamW(adam) => {
            let [b1, b2] = adam.betas.map(T::of);
            let [one_minus_b1, one_minus_b2] = adam.betas.map(|b| T::of(1.0 - b));
            let eps = T::of(adam.eps);
            let parts = chunks.map(|((params, grads), (first, second))| {
                let mut finite = true;
                for (((p, &g), m), v) in params.iter_mut().zip(grads).zip(first).zip(second) {
                    *p *= keep;
                    let g = g + l2 * *p;
                    *m = b1 * *m + one_minus_b1 * g;
                    *v = b2 * *v + one_minus_b2 * g * g;
                    *p -= step_size * *m / (v.sqrt() / denominator + eps);
                    finite &= p.is_finite() & m.is_finite() & v.is_finite();
                }
                finite
            });
            parts.reduce(|| true, |all, part| all && part)
        }
        Optimizer::Sgd(sgd) => {
            let momentum = T::of(sgd.momentum);
            let parts = chunks.map(|((params, grads), (first, _))| {
                let mut finite = true;
                for ((p, &g), m) in params.iter_mut().zip(grads).zip(first) {
                    let g = g + l2 * *p;
                    *m = momentum * *m + g;
                    *p -= step_size * if sgd.nesterov { g + momentum * *m } else { *m };
                    finite &= p.is_finite() & m.is_finite();
                }
                finite
            });
            parts.reduce(|| true, |all, part| all && part)
        }
    }
}
