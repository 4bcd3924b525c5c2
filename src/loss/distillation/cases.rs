//! What `check` and the tests run of distillation.

use super::DistillationLoss;
use crate::Result;
use crate::cases::{random, random_targets, sum_tolerance, wide};
use crate::loss::form::Named;
use crate::loss::smoothed::cases::softmax;
use crate::loss::smoothing::{Smoothing, Variant};
use crate::loss::{Loss, LossCase};
use crate::ops::IGNORED;
use crate::schedule::Schedule;

/// Temperatures, and the teacher's shares: none and all of it among them.
pub const STRENGTHS: [(f64, f64); 4] = [(4.0, 0.9), (1.0, 0.5), (2.5, 1.0), (0.5, 0.0)];

/// For both networks' logits up to `scale`. One row in four is ignored; its logits are NaN.
pub fn case(n: usize, scale: f32, loss: DistillationLoss) -> LossCase {
    let (classes, temperature, alpha) = (loss.classes(), loss.temperature(), loss.alpha());
    let smoothing = Smoothing { variant: Variant::Uniform, epsilon: 0.1 };
    let masses = smoothing.masses(classes);
    let mut targets = random_targets(n, classes, 2);
    let mut student: Vec<f32> = random(n * classes, 1).iter().map(|v| v * scale).collect();
    let teacher: Vec<f32> = random(n * classes, 4).iter().map(|v| v * scale).collect();
    for row in (3..n).step_by(4) {
        targets[row] = IGNORED;
        student[row * classes..][..classes].fill(f32::NAN);
    }

    // Of a logarithm of a softmax: absolute. Of a softmax: relative to itself. As for the simple loss, at both
    // temperatures.
    let of_log = |spread: f64| sum_tolerance(classes.div_ceil(64) + 16, spread) + 2e-6;
    let of_p = |spread: f64| spread.max(8.0) * 8.0 * 2f64.powi(-24);
    let spread = 2.0 * f64::from(scale) + (classes as f64).ln();
    let cooled = 2.0 * f64::from(scale) / temperature + (classes as f64).ln();
    // A term of the divergence is t times a difference of logarithms, none larger than their spread.
    let divergence = 2.0 * of_log(cooled) + of_p(cooled) * 2.0 * cooled;
    let of_loss = (1.0 - alpha) * of_log(spread) + alpha * temperature.powi(2) * divergence;
    let mut gradient_tolerance = vec![];
    let rows = wide(&student);
    for ((student, teacher), &target) in rows.chunks(classes).zip(wide(&teacher).chunks(classes)).zip(&targets) {
        if target == IGNORED {
            gradient_tolerance.resize(gradient_tolerance.len() + classes, 0.0);
            continue;
        }
        let (p, u, t) = (softmax(student, 1.0), softmax(student, temperature), softmax(teacher, temperature));
        gradient_tolerance.extend((0..classes).map(|class| {
            let mass = if class == target as usize { masses.on } else { masses.off };
            let hard = p[class] * of_p(spread) + 4.0 * mass * 2f64.powi(-24);
            let soft = (u[class] + t[class]) * of_p(cooled);
            (1.0 - alpha) * hard + alpha * temperature * soft + 1e-12
        }));
    }
    LossCase {
        name: format!("{n}x{classes}, logits to {scale}, T {temperature}, alpha {alpha}"),
        form: loss.smoothed(smoothing).into(),
        classes,
        logits: student,
        labels: targets,
        rows: teacher,
        share: 1.0,
        dloss: -0.37,
        loss_tolerance: vec![[of_loss, of_log(spread)]; n],
        gradient_tolerance,
    }
}

/// For whole training steps over `images` training images.
///
/// # Errors
/// None: the numbers are in range.
pub fn trainings(classes: usize, images: usize) -> Result<Named> {
    let smoothing = Smoothing { variant: Variant::Uniform, epsilon: 0.2 };
    let form = DistillationLoss::new(classes, 3.0, 0.6)?.smoothed(smoothing);
    let teacher = random(images * classes, 24).iter().map(|v| 4.0 * v).collect();
    let loss = Loss::new(form, smoothing.epsilon).with_teacher(teacher)?;
    Ok(vec![("distillation, warm-up", loss.scheduled(Schedule::rising(5)))])
}

/// For `check`.
///
/// # Errors
/// None: the numbers are in range.
pub fn cases(n: usize, classes: usize, scale: f32) -> Result<Vec<LossCase>> {
    let loss = |(temperature, alpha)| Ok(case(n, scale, DistillationLoss::new(classes, temperature, alpha)?));
    STRENGTHS.into_iter().map(loss).collect()
}
