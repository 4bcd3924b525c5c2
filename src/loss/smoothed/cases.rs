//! What `check` and the tests run of the smoothed loss.

use crate::Result;
use crate::cases::{random, random_targets, sum_tolerance, wide};
use crate::loss::LossBlock;
use crate::loss::form::Named;
use crate::loss::smoothing::{Smoothing, Variant};
use crate::loss::{Loss, LossCase};
use crate::ops::IGNORED;
use crate::schedule::Schedule;

/// Both variants.
///
/// # Errors
/// None: the numbers are in range.
pub fn cases(n: usize, classes: usize, scale: f32) -> Result<Vec<LossCase>> {
    let smoothing = |variant| Smoothing { variant, epsilon: 0.1 };
    Ok([Variant::Uniform, Variant::OffTarget].map(|variant| case(n, classes, scale, smoothing(variant))).into())
}

/// For logits up to `scale`. One row in four is ignored: its logits are not even read.
pub fn case(n: usize, classes: usize, scale: f32, smoothing: Smoothing) -> LossCase {
    let name = format!("{n}x{classes}, {:?} e {}, logits to {scale}", smoothing.variant, smoothing.epsilon);
    let masses = smoothing.masses(classes);
    let mut logits: Vec<f32> = random(n * classes, 1).iter().map(|v| v * scale).collect();
    let mut labels = random_targets(n, classes, 2);
    for row in (3..n).step_by(4) {
        labels[row] = IGNORED;
        logits[row * classes..][..classes].fill(f32::NAN);
    }
    // Both are a difference of numbers as large as the logits; `log` and `exp` are off by a few units in the last
    // place.
    let spread = 2.0 * f64::from(scale) + (classes as f64).ln();
    let of_loss = sum_tolerance(classes.div_ceil(64) + 16, spread) + 2e-6;
    let mut gradient_tolerance = vec![];
    for (row, &label) in wide(&logits).chunks(classes).zip(&labels) {
        let softmax = softmax(row, 1.0);
        gradient_tolerance.extend((0..classes).map(|class| {
            if label == IGNORED {
                return 0.0;
            }
            let mass = if class == label as usize { masses.on } else { masses.off };
            // p = exp(z - s) inherits the absolute error of its argument as a relative one, and WGSL grants exp 3 + 2
            // |x| units.
            (softmax[class] * spread.max(8.0) * 8.0 + 4.0 * mass) * 2f64.powi(-24) + 1e-12
        }));
    }
    LossCase {
        name,
        form: smoothing.into(),
        classes,
        logits,
        labels,
        rows: vec![],
        share: 1.0,
        dloss: LossBlock::mean(n).dloss,
        loss_tolerance: vec![[of_loss; 2]; n],
        gradient_tolerance,
    }
}

/// The softmax of a row at a temperature.
pub(in crate::loss) fn softmax(row: &[f64], temperature: f64) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::MIN, f64::max);
    let powers: Vec<f64> = row.iter().map(|x| ((x - largest) / temperature).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.iter().map(|power| power / total).collect()
}

/// For whole training steps.
///
/// # Errors
/// None: the numbers are in range.
pub fn trainings(_classes: usize, _images: usize) -> Result<Named> {
    let smoothed = |variant, epsilon| Loss::from(Smoothing { variant, epsilon });
    Ok(vec![
        ("uniform, warm-up", smoothed(Variant::Uniform, 0.2).scheduled(Schedule::rising(4))),
        ("off-target, decay", smoothed(Variant::OffTarget, 0.2).scheduled(Schedule::falling(2))),
        ("negative", smoothed(Variant::Uniform, -0.3)),
    ])
}
