//! Clipping as its formula says, element by element.

use super::factor;
use crate::real::Real;

/// Clips in place, and gives the norm before it.
pub fn clip<T: Real>(grads: &mut [T], most: f64) -> f64 {
    let norm = grads.iter().map(|g| g.wide() * g.wide()).sum::<f64>().sqrt();
    let factor = T::of(factor(most, norm));
    grads.iter_mut().for_each(|g| *g *= factor);
    norm
}
