//! The CPU twin of `shaders/mixed_loss.wgsl`, as the formula says it: the smoothed loss with either label, each with
//! its share. Formulas: [`super`].

use crate::loss::Batch;
use crate::loss::smoothed::reference as smoothed;
use crate::loss::smoothing::Masses;
use crate::real::Real;

/// The labels of either side, with their share.
fn sides<'a, T: Real>(batch: &Batch<'a, T>) -> [(&'a [u32], T); 2] {
    [(batch.labels, T::of(batch.share)), (batch.others, T::of(1.0 - batch.share))]
}

/// `logits [n, classes]` to `losses [n]`.
pub fn forward<T: Real>(masses: Masses, classes: usize, logits: &[T], batch: Batch<T>, losses: &mut [T]) {
    losses.fill(T::zero());
    let mut of_side = vec![T::zero(); losses.len()];
    for (labels, share) in sides(&batch) {
        smoothed::forward(masses, classes, logits, labels, &mut of_side);
        losses.iter_mut().zip(&of_side).for_each(|(sum, &loss)| *sum += share * loss);
    }
}

/// `logits`, `dloss [n]` to `dlogits [n, classes]`.
pub fn backward<T: Real>(
    masses: Masses,
    classes: usize,
    logits: &[T],
    batch: Batch<T>,
    dloss: &[T],
    dlogits: &mut [T],
) {
    dlogits.fill(T::zero());
    let mut of_side = vec![T::zero(); dlogits.len()];
    for (labels, share) in sides(&batch) {
        smoothed::backward(masses, classes, logits, labels, dloss, &mut of_side);
        dlogits.iter_mut().zip(&of_side).for_each(|(sum, &gradient)| *sum += share * gradient);
    }
}
