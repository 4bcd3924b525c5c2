//! The CPU twin of `shaders/comparator_loss.wgsl`. Formulas: [`super`].

use crate::loss::comparator::ComparatorLoss;
use crate::real::Real;

/// What a row's sums come to; no list over the classes is made.
struct Row<'a, T> {
    logits: &'a [T],
    max: T,
    log_sum: T,
    /// 1 - p of the target, without cancellation.
    miss: T,
    /// H(p).
    entropy: T,
}

impl<'a, T: Real> Row<'a, T> {
    fn new(logits: &'a [T], target: usize) -> Self {
        // A NaN among the logits is not the maximum, but it reaches the sum, and so the loss.
        let max = logits.iter().copied().fold(T::neg_infinity(), T::max);
        let sum: T = logits.iter().map(|&x| (x - max).exp()).sum();
        let others = logits.iter().enumerate().filter(|(class, _)| *class != target);
        let miss = others.map(|(_, &x)| (x - max).exp()).sum::<T>() / sum;
        let mut row = Self { logits, max, log_sum: sum.ln(), miss, entropy: T::zero() };
        row.entropy = -(0..logits.len()).map(|class| row.log_p(class).exp() * row.log_p(class)).sum::<T>();
        row
    }

    fn log_p(&self, class: usize) -> T {
        self.logits[class] - self.max - self.log_sum
    }
}

/// `logits [n, classes]`, `targets [n]` to `losses [n]`.
pub fn forward<T: Real>(loss: &ComparatorLoss, logits: &[T], targets: &[u32], losses: &mut [T]) {
    for ((row, &target), out) in logits.chunks(loss.classes()).zip(targets).zip(losses) {
        *out = T::zero();
        let target = target as usize;
        if target >= row.len() {
            continue;
        }
        let row = Row::new(row, target);
        *out = -row.miss.powf(T::of(loss.gamma())) * row.log_p(target) - T::of(loss.beta()) * row.entropy;
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
        let row = Row::new(row, target);
        let (miss, log_p, one) = (row.miss, row.log_p(target), T::one());
        // As miss goes to 0, ln p[y] / miss goes to -1, so that miss^(gamma-1) ln p[y] goes to 0 for every gamma above
        // 0. (As it goes to 1, ln(1 - miss) is lost where ln p[y] is not.)
        let ratio = if miss == T::zero() {
            -one
        } else if miss < T::of(0.5) {
            (-miss).ln_1p() / miss
        } else {
            log_p / miss
        };
        let slope = miss.powf(gamma) * (gamma * log_p.exp() * ratio - one);
        for (class, d) in drow.iter_mut().enumerate() {
            let l = row.log_p(class);
            let p = l.exp();
            let step = if class == target { miss } else { -p };
            *d = dloss * (slope * step + beta * p * (l + row.entropy));
        }
    }
}
