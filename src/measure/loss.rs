//! Metrics of logits by a training's loss.

use super::{Metrics, evaluate};
use crate::loss::smoothing::Smoothing;
use crate::loss::{Batch, Form, Loss, mean, restricted};

/// The metrics of `logits` `[labels.len(), classes]` against `labels`, with plain cross-entropy as the loss: a
/// validation is unsmoothed. A class mask makes it a smaller problem, as in [`of_loss`].
pub fn of_validation(form: &Form, logits: &[f64], labels: &[u32], classes: usize) -> Metrics {
    let (part, renamed, kept) = taking_part(form, logits, labels, classes);
    evaluate(&part, &renamed, kept, Smoothing::NONE)
}

/// The metrics of `logits` `[labels.len(), classes]` against `labels`, with this loss, at the full epsilon, as the
/// loss. A class mask makes it a smaller problem: the images whose label is none of the classes that take part are left
/// out, and so are the other classes' logits. Soft targets and a teacher's logits are those of training images: here
/// labels count.
pub fn of_loss(loss: &Loss, logits: &[f64], labels: &[u32], classes: usize) -> Metrics {
    let of_labels = loss.form().of_labels();
    if let Some(smoothing) = of_labels
        && labels.iter().all(|&label| (label as usize) < classes)
    {
        return evaluate(logits, labels, classes, smoothing);
    }
    let form = &of_labels.map_or(loss.form().clone(), Form::from);
    let mut losses = vec![0.0; labels.len()];
    form.forward(classes, logits, Batch::new(labels), &mut losses);
    let weight: f64 = labels.iter().map(|&label| form.weight(label, classes, None)).sum();
    let shared = form.shared_entropy(classes);
    let least: f64 = labels.iter().map(|&label| form.entropy(shared, label.into(), classes, None)).sum();
    let sum: f64 = losses.iter().sum();
    let excess_loss = loss.excess(sum, least, weight);
    Metrics { loss: mean(sum, weight), excess_loss, ..of_validation(form, logits, labels, classes) }
}

/// The logits of the classes that take part, of the samples that count; these samples' labels among those classes; how
/// many classes they are.
pub fn taking_part(form: &Form, logits: &[f64], labels: &[u32], classes: usize) -> (Vec<f64>, Vec<u32>, usize) {
    let all = || vec![true; classes];
    restricted(&form.allowed().map_or_else(all, <[bool]>::to_vec), logits, labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::weighted::{Spec, WeightedLoss, Weighting};

    /// A class of weight 0 with smoothing has a loss, by the other classes' weights, and no weight.
    #[test]
    fn an_evaluation_in_which_nothing_weighs_is_zero() {
        let weights = Some((Weighting::PyTorch, vec![0.0, 1.0, 1.0]));
        let epsilon = crate::loss::smoothing::Epsilon::new(0.3).unwrap();
        let spec = Spec { epsilon, weights, ..Spec::new(3) };
        let loss = Loss::new(WeightedLoss::new(&spec).unwrap(), 0.3);
        let found = of_loss(&loss, &[1.0, 2.0, 3.0], &[0], 3);
        assert_eq!((found.loss, found.excess_loss), (0.0, 0.0));
        assert!(found.nll > 0.0);
    }

    /// Smoothing has a shorter way where no label is ignored. With one that is, whatever its number, the others count.
    #[test]
    fn ignored_labels_are_left_out_of_a_smoothed_loss() {
        let smoothing = Smoothing { epsilon: 0.2, ..Smoothing::NONE };
        let (loss, logits) = (Loss::from(smoothing), [1.0, 0.5, -1.0, 0.0, 2.0, 0.0]);
        let all = of_loss(&loss, &logits, &[0, 1], 3);
        let first = of_loss(&loss, &logits[..3], &[0], 3);
        // s = ln(e^0 + e^-0.5 + e^-2); q = (1 - 0.2 + 0.2/3, 0.2/3, 0.2/3).
        let s = (1.0 + (-0.5f64).exp() + (-2f64).exp()).ln();
        let expected = s + (0.5 + 2.0) * 0.2 / 3.0;
        assert!((first.loss - expected).abs() < 1e-15, "{} {expected}", first.loss);
        assert!(all.loss != first.loss && all.images == 2);
        for ignored in [3, 4, crate::ops::IGNORED] {
            let found = of_loss(&loss, &logits, &[0, ignored], 3);
            assert_eq!((found.images, found.nll), (1, first.nll));
            assert!((found.loss - first.loss).abs() < 1e-15 && (found.excess_loss - first.excess_loss).abs() < 1e-15);
            let none = of_loss(&loss, &logits[..3], &[ignored], 3);
            assert_eq!((none.images, none.loss, none.excess_loss), (0, 0.0, 0.0));
        }
    }
}
