//! The CPU twin of `shaders/distillation_loss.wgsl`. Formulas: [`super`]. The cross-entropy is
//! [`crate::loss::smoothed`]'s.

use crate::loss::distillation::DistillationLoss;
use crate::loss::smoothed::reference as smoothed_loss;
use crate::loss::smoothing::Masses;
use crate::real::Real;

/// What the networks say of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a, T> {
    /// The student's, `[n, classes]`.
    pub student: &'a [T],
    /// The teacher's, `[n, classes]`.
    pub teacher: &'a [T],
}

/// ln softmax of a row at a temperature, class by class; no list over the classes is made.
struct LogSoftmax<'a, T> {
    row: &'a [T],
    temperature: T,
    max: T,
    log_sum: T,
}

impl<'a, T: Real> LogSoftmax<'a, T> {
    fn new(row: &'a [T], temperature: f64) -> Self {
        let temperature = T::of(temperature);
        // A NaN among the logits is not the maximum, but it reaches the sum, and so the loss.
        let max = row.iter().copied().fold(T::neg_infinity(), T::max);
        let sum: T = row.iter().map(|&x| ((x - max) / temperature).exp()).sum();
        Self { row, temperature, max, log_sum: sum.ln() }
    }

    fn of(&self, class: usize) -> T {
        (self.row[class] - self.max) / self.temperature - self.log_sum
    }
}

/// `logits`, `targets [n]` to `losses [n]`.
pub fn forward<T: Real>(loss: &DistillationLoss, masses: Masses, logits: Logits<T>, targets: &[u32], losses: &mut [T]) {
    let (classes, temperature) = (loss.classes(), loss.temperature());
    smoothed_loss::forward(masses, classes, logits.student, targets, losses);
    let rows = logits.student.chunks(classes).zip(logits.teacher.chunks(classes));
    for (((student, teacher), &target), out) in rows.zip(targets).zip(losses) {
        if target as usize >= classes {
            continue;
        }
        let (u, t) = (LogSoftmax::new(student, temperature), LogSoftmax::new(teacher, temperature));
        let divergence: T = (0..classes).map(|class| t.of(class).exp() * (t.of(class) - u.of(class))).sum();
        *out = T::of(1.0 - loss.alpha()) * *out + T::of(loss.alpha() * temperature * temperature) * divergence;
    }
}

/// `logits`, `targets`, `dloss [n]` (the losses' upstream gradient) to `dlogits [n, classes]`.
pub fn backward<T: Real>(
    loss: &DistillationLoss,
    masses: Masses,
    logits: Logits<T>,
    targets: &[u32],
    dloss: &[T],
    dlogits: &mut [T],
) {
    let (classes, temperature) = (loss.classes(), loss.temperature());
    smoothed_loss::backward(masses, classes, logits.student, targets, dloss, dlogits);
    let rows = logits.student.chunks(classes).zip(logits.teacher.chunks(classes)).zip(dlogits.chunks_mut(classes));
    for ((((student, teacher), drow), &target), &dloss) in rows.zip(targets).zip(dloss) {
        if target as usize >= classes {
            continue;
        }
        let (u, t) = (LogSoftmax::new(student, temperature), LogSoftmax::new(teacher, temperature));
        for (class, d) in drow.iter_mut().enumerate() {
            let pull = u.of(class).exp() - t.of(class).exp();
            *d = T::of(1.0 - loss.alpha()) * *d + T::of(loss.alpha() * temperature) * dloss * pull;
        }
    }
}
