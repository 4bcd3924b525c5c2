//! The CPU twin of `shaders/smoothed_loss.wgsl`. Formulas: [`super`]. A target that is no class is
//! ignored.

use crate::loss::smoothing::{Masses, Smoothing};
use crate::real::Real;

/// `logits [n, classes]`, `targets [n]` to `losses [n]`.
pub fn forward<T: Real>(masses: Masses, classes: usize, logits: &[T], targets: &[u32], losses: &mut [T]) {
    for ((row, &target), loss) in logits.chunks(classes).zip(targets).zip(losses) {
        *loss = T::zero();
        if target as usize >= classes {
            continue;
        }
        let (max, log_sum) = log_normaliser(row);
        let sum: T = row.iter().map(|&x| x - max).sum();
        let own = row[target as usize] - max;
        *loss = log_sum - T::of(masses.on - masses.off) * own - T::of(masses.off) * sum;
    }
}

/// `logits [n, classes]`, `targets [n]` to `nlls [n]`: without smoothing.
pub fn nll<T: Real>(classes: usize, logits: &[T], targets: &[u32], nlls: &mut [T]) {
    forward(Smoothing::NONE.masses(classes), classes, logits, targets, nlls);
}

/// `logits`, `targets`, `dloss [n]` (the loss's upstream gradient: `1/n` each for the mean, 1 for the sum) to
/// `dlogits [n, classes]`.
pub fn backward<T: Real>(
    masses: Masses,
    classes: usize,
    logits: &[T],
    targets: &[u32],
    dloss: &[T],
    dlogits: &mut [T],
) {
    let rows = logits.chunks(classes).zip(targets).zip(dloss).zip(dlogits.chunks_mut(classes));
    for (((row, &target), &dloss), drow) in rows {
        if target as usize >= classes {
            drow.fill(T::zero());
            continue;
        }
        let (max, log_sum) = log_normaliser(row);
        for (class, (d, &x)) in drow.iter_mut().zip(row).enumerate() {
            let mass = if class == target as usize { masses.on } else { masses.off };
            *d = dloss * ((x - max - log_sum).exp() - T::of(mass));
        }
    }
}

/// The row's maximum, and the logarithm of the sum of `exp(x - maximum)`.
fn log_normaliser<T: Real>(row: &[T]) -> (T, T) {
    // A NaN among the logits is not the maximum, but it reaches the sum, and so the loss.
    let max = row.iter().copied().fold(T::neg_infinity(), T::max);
    let sum: T = row.iter().map(|&x| (x - max).exp()).sum();
    (max, sum.ln())
}
