//! What `check` and the tests run of the losses that smoothing is compared with.

use super::ComparatorLoss;
use super::reference;
use crate::Result;
use crate::cases::{random, random_targets, sum_tolerance, wide};
use crate::loss::form::Named;
use crate::loss::smoothed::cases::softmax;
use crate::loss::{Loss, LossCase};
use crate::ops::IGNORED;

/// Both losses over `classes` classes, plain cross-entropy and an exponent below 1 among them.
///
/// # Errors
/// None: the numbers are in range.
pub fn losses(classes: usize) -> Result<Vec<ComparatorLoss>> {
    let focal = [0.0, 0.5, 2.0, 5.0].map(|gamma| ComparatorLoss::focal(classes, gamma));
    let penalty = [0.1, 1.0].map(|beta| ComparatorLoss::confidence_penalty(classes, beta));
    focal.into_iter().chain(penalty).collect()
}

/// For logits up to `scale`. One row in four is ignored; its logits are NaN.
pub fn case(n: usize, scale: f32, loss: ComparatorLoss) -> LossCase {
    let classes = loss.classes();
    let mut targets = random_targets(n, classes, 2);
    targets.iter_mut().skip(3).step_by(4).for_each(|target| *target = IGNORED);
    let mut logits: Vec<f32> = random(n * classes, 1).iter().map(|v| v * scale).collect();
    for (row, &target) in logits.chunks_mut(classes).zip(&targets) {
        match row.get(target as usize) {
            None => row.fill(f32::NAN),
            // Half of the rows are easy: there 1 - p[y] is small, and must not cancel.
            Some(_) if target % 2 == 0 => row[target as usize] += 2.0 * scale.min(8.0),
            Some(_) => {}
        }
    }
    let mut want = vec![0.0; n];
    reference::forward(&loss, &wide(&logits), &targets, &mut want);

    // As for the simple loss: of a logarithm of p, and relative, of p itself. WGSL grants pow what exp2(gamma log2 m)
    // has, and log2 an absolute error of 2^-21 near 1.
    let (gamma, beta) = (loss.gamma(), loss.beta());
    let spread = 4.0 * f64::from(scale) + (classes as f64).ln();
    let of_log = sum_tolerance(classes.div_ceil(64) + 16, spread) + 2e-6;
    let of_p = spread.max(8.0) * 8.0 * 2f64.powi(-24) + of_log;
    let of_power = gamma * (of_p + 2e-6) + 16.0 * 2f64.powi(-24) * gamma * spread.min(128.0);
    // H = s - sum of p z is at most ln C, as the difference of numbers that are no larger.
    let of_entropy = of_log + of_p * (classes as f64).ln().max(1.0);
    let of_loss = |w: &f64| of_log + (w.abs() + beta) * of_power + beta * of_entropy;
    let loss_tolerance = want.iter().map(|w| [of_loss(w), of_log]).collect();
    let mut tolerance = vec![];
    for (row, &target) in wide(&logits).chunks(classes).zip(&targets) {
        let softmax = softmax(row, 1.0);
        let p = |class: usize| softmax[class];
        let miss: f64 = (0..classes).filter(|&class| class != target as usize).map(p).sum();
        // |g| is at most 1 + gamma.
        let slope = 1.0 + gamma;
        tolerance.extend((0..classes).map(|class| {
            let step = if class == target as usize { miss } else { p(class) };
            let penalty =
                beta * p(class) * (of_entropy + of_p * (p(class).max(1e-38).ln().abs() + (classes as f64).ln()));
            slope * step * (of_p + of_power + gamma * 2e-5) + penalty + 1e-12
        }));
    }
    // An ignored row's are exact; its p is NaN.
    for (row, _) in targets.iter().enumerate().filter(|(_, target)| **target == IGNORED) {
        tolerance[row * classes..][..classes].fill(0.0);
    }

    LossCase {
        name: format!("{n}x{classes}, logits to {scale}, gamma {gamma}, beta {beta}"),
        form: loss.into(),
        classes,
        logits,
        labels: targets,
        rows: vec![],
        share: 1.0,
        dloss: -0.37,
        loss_tolerance,
        gradient_tolerance: tolerance,
    }
}

/// For whole training steps.
///
/// # Errors
/// None: the numbers are in range.
pub fn trainings(classes: usize, _images: usize) -> Result<Named> {
    Ok(vec![
        ("focal", Loss::new(ComparatorLoss::focal(classes, 2.0)?, 0.0)),
        ("confidence penalty", Loss::new(ComparatorLoss::confidence_penalty(classes, 0.1)?, 0.0)),
    ])
}

/// For `check`.
///
/// # Errors
/// None: the numbers are in range.
pub fn cases(n: usize, classes: usize, scale: f32) -> Result<Vec<LossCase>> {
    Ok(losses(classes)?.into_iter().map(|loss| case(n, scale, loss)).collect())
}
