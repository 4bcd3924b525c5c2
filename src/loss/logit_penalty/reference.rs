//! The CPU twin of `shaders/logit_penalty.wgsl`, term by term as [`super`] has them.

use super::LogitPenalty;
use crate::loss::smoothed;
use crate::real::Real;

fn largest<T: Real>(row: &[T]) -> T {
    row.iter().copied().fold(T::neg_infinity(), T::max)
}

/// `logits [n, classes]`, `targets [n]` to `losses [n]`.
pub fn forward<T: Real>(loss: &LogitPenalty, logits: &[T], targets: &[u32], losses: &mut [T]) {
    let classes = loss.classes();
    smoothed::reference::nll(classes, logits, targets, losses);
    let (alpha, lambda, margin) = (T::of(loss.alpha()), T::of(loss.lambda()), T::of(loss.margin()));
    for ((row, &target), out) in logits.chunks(classes).zip(targets).zip(losses) {
        if target as usize >= classes {
            continue;
        }
        let (max, c) = (largest(row), T::of(classes as f64));
        let above_mean = row.iter().map(|&x| max - x).sum::<T>() / c;
        let beyond = row.iter().map(|&x| (max - x - margin).max(T::zero())).sum::<T>() / c;
        *out += alpha * above_mean + lambda * beyond;
    }
}

/// `logits`, `targets`, `dloss [n]` (the losses' upstream gradient) to `dlogits [n, classes]`.
pub fn backward<T: Real>(loss: &LogitPenalty, logits: &[T], targets: &[u32], dloss: &[T], dlogits: &mut [T]) {
    let classes = loss.classes();
    let plain = crate::loss::smoothing::Smoothing::NONE.masses(classes);
    smoothed::reference::backward(plain, classes, logits, targets, dloss, dlogits);
    let (alpha, lambda, margin) = (T::of(loss.alpha()), T::of(loss.lambda()), T::of(loss.margin()));
    let rows = logits.chunks(classes).zip(targets).zip(dloss).zip(dlogits.chunks_mut(classes));
    for (((row, &target), &dloss), drow) in rows {
        if target as usize >= classes {
            continue;
        }
        let (max, c) = (largest(row), T::of(classes as f64));
        // Each class pulls at itself and, the other way, at the largest.
        let pull = |x: T| (alpha + if max - x > margin { lambda } else { T::zero() }) / c;
        let total: T = row.iter().map(|&x| pull(x)).sum();
        let ties = T::of(row.iter().filter(|&&x| x == max).count() as f64);
        for (d, &x) in drow.iter_mut().zip(row) {
            let of_largest = if x == max { total / ties } else { T::zero() };
            *d += dloss * (of_largest - pull(x));
        }
    }
}
