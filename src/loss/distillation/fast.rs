//! The loss on the fast CPU path: a row's loss, nll and gradient at once. Formulas: [`super`].

use super::DistillationLoss;
use crate::loss::smoothed;
use crate::real::Real;

/// Loss and nll of a row of logits whose class is `label`, `teacher` being the teacher's; and the gradient for an
/// upstream gradient of 1 into `d`.
pub fn row<T: Real>(loss: &DistillationLoss, x: &[T], label: u32, teacher: &[T], d: &mut [T]) -> [T; 2] {
    let classes = x.len();
    let [hard, nll] = smoothed::fast::row(loss.smoothing().masses(classes), x, label, d);
    if label as usize >= classes {
        return [T::zero(); 2];
    }
    let (temperature, alpha) = (T::of(loss.temperature()), T::of(loss.alpha()));
    let normaliser = |row: &[T]| {
        let max = row.iter().copied().fold(T::neg_infinity(), T::max);
        let sum: T = row.iter().map(|&x| ((x - max) / temperature).exp()).sum();
        (max, sum.ln())
    };
    let ((of_x, sum_x), (of_v, sum_v)) = (normaliser(x), normaliser(teacher));
    let rest = T::one() - alpha;
    let mut divergence = T::zero();
    for ((&x, &v), d) in x.iter().zip(teacher).zip(d) {
        let (log_u, log_t) = ((x - of_x) / temperature - sum_x, (v - of_v) / temperature - sum_v);
        let t = log_t.exp();
        divergence += t * (log_t - log_u);
        *d = rest * *d + alpha * temperature * (log_u.exp() - t);
    }
    [rest * hard + alpha * temperature * temperature * divergence, nll]
}
