//! Clipping on the fast CPU path, in chunks. Formula: [`super`].

use rayon::prelude::*;

use super::factor;
use crate::real::Real;

/// Elements that one task takes, whatever the number of threads: so the bits do not depend on it.
const CHUNK: usize = 16_384;
/// Sums that are added side by side.
const LANES: usize = 16;

/// Clips in place, and gives the norm before it. The squares are added in f64.
pub fn clip<T: Real>(grads: &mut [T], most: f64) -> f64 {
    let squares: Vec<f64> = grads.par_chunks(CHUNK).map(squares).collect();
    let norm = squares.iter().sum::<f64>().sqrt();
    let factor = factor(most, norm);
    if factor != 1.0 {
        let factor = T::of(factor);
        grads.par_chunks_mut(CHUNK).for_each(|grads| grads.iter_mut().for_each(|g| *g *= factor));
    }
    norm
}

fn squares<T: Real>(grads: &[T]) -> f64 {
    let (whole, rest) = grads.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for grads in whole {
        sums.iter_mut().zip(grads).for_each(|(sum, g)| *sum += g.wide() * g.wide());
    }
    sums.iter().sum::<f64>() + rest.iter().map(|g| g.wide() * g.wide()).sum::<f64>()
}
