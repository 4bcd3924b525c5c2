//! The CPU twin of `shaders/comparator_loss.wgsl`. Formulas: [`crate::ops::comparator_loss`].

use super::Real;
use crate::ops::comparator_loss::ComparatorLoss;

/// A row's ln p, and 1 - p of the target without cancellation.
fn log_softmax<T: Real>(row: &[T], target: usize) -> (Vec<T>, T) {
    // A NaN among the logits is not the maximum, but it reaches the sum, and so the loss.
    let max = row.iter().copied().fold(T::neg_infinity(), T::max);
    let sum: T = row.iter().map(|&x| (x - max).exp()).sum();
    let others = row.iter().enumerate().filter(|(class, _)| *class != target);
    let miss: T = others.map(|(_, &x)| (x - max).exp()).sum::<T>() / sum;
    (row.iter().map(|&x| x - max - sum.ln()).collect(), miss)
}

/// H(p), from ln p.
fn entropy<T: Real>(log_p: &[T]) -> T {
    -log_p.iter().map(|&l| l.exp() * l).sum::<T>()
}

/// `logits [n, classes]`, `targets [n]` to `losses [n]`.
pub fn forward<T: Real>(loss: &ComparatorLoss, logits: &[T], targets: &[u32], losses: &mut [T]) {
    for ((row, &target), out) in logits.chunks(loss.classes()).zip(targets).zip(losses) {
        *out = T::zero();
        let target = target as usize;
        if target >= row.len() {
            continue;
        }
        let (log_p, miss) = log_softmax(row, target);
        *out = -miss.powf(T::of(loss.gamma())) * log_p[target] - T::of(loss.beta()) * entropy(&log_p);
    }
}

/// `logits`, `targets`, `dloss [n]` (the losses' upstream gradient) to `dlogits [n, classes]`.
pub fn backward<T: Real>(loss: &ComparatorLoss, logits: &[T], targets: &[u32], dloss: &[T], dlogits: &mut [T]) {
    let (gamma, beta) = (T::of(loss.gamma()), T::of(loss.beta()));
    let rows = logits.chunks(loss.classes()).zip(targets).zip(dloss).zip(dlogits.chunks_mut(loss.classes()));
    for (((row, &target), &dloss), drow) in rows {
        drow.fill(T::zero());
        let target = target as usize;
        if target >= row.len() {
            continue;
        }
        let (log_p, miss) = log_softmax(row, target);
        let entropy = entropy(&log_p);
        let one = T::one();
        // As miss goes to 0, ln p[y] / miss goes to -1, so that miss^(gamma-1) ln p[y] goes to 0 for every gamma above 0.
        // (As it goes to 1, ln(1 - miss) is lost where ln p[y] is not.)
        let ratio = if miss == T::zero() {
            -one
        } else if miss < T::of(0.5) {
            (-miss).ln_1p() / miss
        } else {
            log_p[target] / miss
        };
        let slope = miss.powf(gamma) * (gamma * log_p[target].exp() * ratio - one);
        for (class, (d, &l)) in drow.iter_mut().zip(&log_p).enumerate() {
            let p = l.exp();
            let step = if class == target { miss } else { -p };
            *d = dloss * (slope * step + beta * p * (l + entropy));
        }
    }
}
