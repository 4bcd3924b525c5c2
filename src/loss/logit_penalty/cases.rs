//! What `check` and the tests run of the losses with a penalty on the largest logit.

use super::{LogitPenalty, reference};
use crate::Result;
use crate::cases::{random, random_targets, sum_tolerance, wide};
use crate::loss::form::Named;
use crate::loss::smoothed::cases::softmax;
use crate::loss::{Loss, LossCase};
use crate::ops::IGNORED;
use crate::schedule::Schedule;

/// Both losses over `classes` classes: with no strength, usual ones and large ones; a margin that some logits are
/// within.
///
/// # Errors
/// None: the numbers are in range.
pub fn losses(classes: usize) -> Result<Vec<LogitPenalty>> {
    let maxsup = [0.0, 0.1, 1.0].map(|alpha| LogitPenalty::maxsup(classes, alpha));
    let mbls =
        [(0.1, 10.0), (0.1, 1.0), (2.0, 0.0)].map(|(lambda, margin)| LogitPenalty::mbls(classes, lambda, margin));
    maxsup.into_iter().chain(mbls).collect()
}

/// For logits up to `scale`. One row in four is ignored, its logits are NaN; in one in four several logits are
/// the largest.
pub fn case(n: usize, scale: f32, loss: LogitPenalty) -> LossCase {
    let classes = loss.classes();
    let mut targets = random_targets(n, classes, 2);
    targets.iter_mut().skip(3).step_by(4).for_each(|target| *target = IGNORED);
    let mut logits: Vec<f32> = random(n * classes, 1).iter().map(|v| v * scale).collect();
    for (i, (row, &target)) in logits.chunks_mut(classes).zip(&targets).enumerate() {
        if target == IGNORED {
            row.fill(f32::NAN);
            continue;
        }
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        if i % 4 == 1 {
            row[target as usize] = largest;
            row[(target as usize + 1) % classes] = largest;
        }
        // At the margin itself 32 bits and 64 may fall on two sides of it.
        let off = |x: f32| (f64::from(largest) - f64::from(x) - loss.margin()).abs();
        row.iter_mut().filter(|x| **x < largest && off(**x) < 1e-3).for_each(|x| *x -= 0.01);
    }
    // As for the simple loss; a penalty is a sum of differences of logits, or a mean of them.
    let spread = 2.0 * f64::from(scale) + (classes as f64).ln();
    let of_log = sum_tolerance(classes.div_ceil(64) + 16, spread) + 2e-6;
    let strength = loss.alpha() + loss.lambda();
    let of_loss = of_log + strength * sum_tolerance(classes.div_ceil(64) + 16, spread + loss.margin());
    let mut penalties = vec![0.0; n * classes];
    reference::backward(&loss, &wide(&logits), &targets, &vec![1.0; n], &mut penalties);
    let mut gradient_tolerance = vec![];
    for ((row, &target), gradient) in wide(&logits).chunks(classes).zip(&targets).zip(penalties.chunks(classes)) {
        let softmax = softmax(row, 1.0);
        gradient_tolerance.extend((0..classes).map(|class| {
            if target == IGNORED {
                return 0.0;
            }
            let (p, own) = (softmax[class], f64::from(u8::from(class == target as usize)));
            // What is added to p - [c = y], and what of it is the same for every class.
            let penalty = (gradient[class] - (p - own)).abs() + strength / classes as f64;
            (p * spread.max(8.0) * 8.0 + 4.0 * own + 8.0 * penalty) * 2f64.powi(-24) + 1e-12
        }));
    }
    let (alpha, lambda, margin) = (loss.alpha(), loss.lambda(), loss.margin());
    LossCase {
        name: format!("{n}x{classes}, logits to {scale}, alpha {alpha}, lambda {lambda}, margin {margin}"),
        form: loss.into(),
        classes,
        logits,
        labels: targets,
        rows: vec![],
        share: 1.0,
        dloss: -0.37,
        loss_tolerance: vec![[of_loss, of_log]; n],
        gradient_tolerance,
    }
}

/// For whole training steps.
///
/// # Errors
/// None: the numbers are in range.
pub fn trainings(classes: usize, _images: usize) -> Result<Named> {
    Ok(vec![
        ("maxsup, warm-up", Loss::new(LogitPenalty::maxsup(classes, 0.2)?, 0.2).scheduled(Schedule::rising(4))),
        ("mbls", Loss::new(LogitPenalty::mbls(classes, 0.5, 0.05)?, 0.0)),
    ])
}

/// For `check`.
///
/// # Errors
/// None: the numbers are in range.
pub fn cases(n: usize, classes: usize, scale: f32) -> Result<Vec<LossCase>> {
    Ok(losses(classes)?.into_iter().map(|loss| case(n, scale, loss)).collect())
}
