//! What `check` and the tests run of the loss of mixed images.

use super::MixedLoss;
use crate::Result;
use crate::loss::form::Named;
use crate::loss::smoothed::cases as smoothed;
use crate::loss::smoothing::{Smoothing, Variant};
use crate::loss::{Loss, LossCase};
use crate::ops::IGNORED;
use crate::schedule::Schedule;

/// Both variants, and shares at an end and in between.
///
/// # Errors
/// None: the numbers are in range.
pub fn cases(n: usize, classes: usize, scale: f32) -> Result<Vec<LossCase>> {
    let all = [(Variant::Uniform, 0.1, 0.7), (Variant::OffTarget, 0.1, 0.25), (Variant::Uniform, 0.0, 1.0)];
    Ok(all.map(|(variant, epsilon, share)| case(n, classes, scale, (Smoothing { variant, epsilon }, share))).into())
}

/// That of [`smoothed::case`] with two labels: the rows that are ignored there have no label here, and where their
/// partners have none either, nothing is read.
fn case(n: usize, classes: usize, scale: f32, (smoothing, share): (Smoothing, f64)) -> LossCase {
    let one = smoothed::case(n, classes, scale, smoothing);
    let others: Vec<u32> = one.labels.iter().rev().copied().collect();
    let mut logits = one.logits;
    for (row, (logits, (&label, &other))) in logits.chunks_mut(classes).zip(one.labels.iter().zip(&others)).enumerate()
    {
        if label == IGNORED && other != IGNORED {
            logits.iter_mut().enumerate().for_each(|(c, x)| *x = scale * ((row + 3 * c) as f32).sin());
        }
    }
    // Either side is off by as much as the smoothed loss of its label: the same sums of the same numbers, and products
    // of a share with them.
    let spread = 2.0 * f64::from(scale) + (classes as f64).ln();
    let mut gradient_tolerance = vec![];
    for (row, (&label, &other)) in crate::cases::wide(&logits).chunks(classes).zip(one.labels.iter().zip(&others)) {
        let softmax = smoothed::softmax(row, 1.0);
        gradient_tolerance.extend((0..classes).map(|class| {
            if label == IGNORED && other == IGNORED {
                return 0.0;
            }
            (softmax[class] * spread.max(8.0) * 8.0 + 8.0) * 2f64.powi(-24) + 1e-12
        }));
    }
    let of_loss = one.loss_tolerance.iter().map(|of| of.map(|tolerance| 2.0 * tolerance)).collect();
    LossCase {
        name: format!("{}, share {share}", one.name),
        form: MixedLoss(smoothing).into(),
        logits,
        share,
        loss_tolerance: of_loss,
        gradient_tolerance,
        ..one
    }
}

/// For whole training steps.
///
/// # Errors
/// None: the numbers are in range.
pub fn trainings(_classes: usize, _images: usize) -> Result<Named> {
    let mixed = |variant, epsilon| Loss::from(Smoothing { variant, epsilon }).mixed();
    Ok(vec![
        ("mixed, warm-up", mixed(Variant::Uniform, 0.2)?.scheduled(Schedule::rising(4))),
        ("mixed, off-target", mixed(Variant::OffTarget, 0.1)?),
    ])
}
