//! Distillation against the oracle.

use std::sync::Arc;

use super::compare::sum_tolerance;
use super::ops::{from, shares, wide};
use super::probe::Probe;
use super::smoothed_loss::{nlls, pairs};
use super::weighted_loss::padded;
use super::{Row, cases, random, random_targets};
use crate::Result;
use crate::backend::gpu::Gpu;
use crate::loss::Block;
use crate::loss::smoothing::{Smoothing, Variant};
use crate::ops::IGNORED;
use crate::ops::distillation_loss::{Buffers, DistillationLoss};
use crate::oracle::distillation_loss::{Logits, backward, forward};

/// Temperatures, and the teacher's shares: none and all of it among them.
pub const STRENGTHS: [(f64, f64); 4] = [(4.0, 0.9), (1.0, 0.5), (2.5, 1.0), (0.5, 0.0)];

/// Every strength over every shape.
///
/// # Errors
/// What the device reports. A wrong result is not an error: it is in its row.
pub fn all(gpu: &Arc<Gpu>, mut each: impl FnMut(Vec<Row>)) -> Result<()> {
    for &(n, classes, scale) in cases::SMOOTHED_LOSS {
        for (temperature, alpha) in STRENGTHS {
            each(distillation_loss(gpu, n, scale, DistillationLoss::new(classes, temperature, alpha)?)?);
        }
    }
    Ok(())
}

/// The passes for both networks' logits up to `scale`. One row in four is ignored; its logits are NaN. The teacher's logits
/// lie in another order than the batch.
///
/// # Errors
/// What the device reports.
pub fn distillation_loss(gpu: &Arc<Gpu>, n: usize, scale: f32, loss: DistillationLoss) -> Result<Vec<Row>> {
    let (classes, temperature, alpha) = (loss.classes(), loss.temperature(), loss.alpha());
    let masses = Smoothing { variant: Variant::Uniform, epsilon: 0.1 }.masses(classes);
    let mut targets = random_targets(n, classes, 2);
    let mut student: Vec<f32> = random(n * classes, 1).iter().map(|v| v * scale).collect();
    let teacher: Vec<f32> = random(n * classes, 4).iter().map(|v| v * scale).collect();
    for row in (3..n).step_by(4) {
        targets[row] = IGNORED;
        student[row * classes..][..classes].fill(f32::NAN);
    }
    let (wide_student, wide_teacher) = (wide(&student), wide(&teacher));
    let logits = Logits { student: &wide_student, teacher: &wide_teacher };
    let mut losses = vec![0.0; n];
    forward(&loss, masses, logits, &targets, &mut losses);
    let nlls = nlls(classes, &wide_student, &targets);

    // Of a logarithm of a softmax: absolute. Of a softmax: relative to itself. As for the simple loss, at both temperatures.
    let of_log = |spread: f64| sum_tolerance(classes.div_ceil(64) + 16, spread) + 2e-6;
    let of_p = |spread: f64| spread.max(8.0) * 8.0 * 2f64.powi(-24);
    let spread = 2.0 * f64::from(scale) + (classes as f64).ln();
    let cooled = 2.0 * f64::from(scale) / temperature + (classes as f64).ln();
    // A term of the divergence is t times a difference of logarithms, none larger than their spread.
    let divergence = 2.0 * of_log(cooled) + of_p(cooled) * 2.0 * cooled;
    let loss_tolerance = vec![(1.0 - alpha) * of_log(spread) + alpha * temperature.powi(2) * divergence; n];
    let gradient = |dloss: &[f64]| {
        let (mut want, mut sum) = (vec![0.0; n * classes], vec![0.0; n * classes]);
        backward(&loss, masses, logits, &targets, dloss, &mut want);
        for (row, out) in sum.chunks_mut(classes).enumerate().filter(|(row, _)| targets[*row] != IGNORED) {
            let softmax = |logits: &[f64], temperature: f64| -> Vec<f64> {
                let largest = logits.iter().copied().fold(f64::MIN, f64::max);
                let powers: Vec<f64> = logits.iter().map(|x| ((x - largest) / temperature).exp()).collect();
                let total: f64 = powers.iter().sum();
                powers.iter().map(|power| power / total).collect()
            };
            let part = |values: &'_ [f64]| values[row * classes..][..classes].to_vec();
            let p = softmax(&part(&wide_student), 1.0);
            let u = softmax(&part(&wide_student), temperature);
            let t = softmax(&part(&wide_teacher), temperature);
            for (class, out) in out.iter_mut().enumerate() {
                let mass = if class == targets[row] as usize { masses.on } else { masses.off };
                let hard = p[class] * of_p(spread) + 4.0 * mass * 2f64.powi(-24);
                let soft = (u[class] + t[class]) * of_p(cooled);
                *out = dloss[row].abs() * ((1.0 - alpha) * hard + alpha * temperature * soft) + 1e-12;
            }
        }
        [want, sum]
    };

    let name = format!("{n}x{classes}, logits to {scale}, T {temperature}, alpha {alpha}");
    let (upstream, shared) = (random(n, 3), -0.37f32);
    // Backwards, after two images of other batches.
    let backwards: Vec<f32> = teacher.chunks(classes).rev().flatten().copied().collect();
    let order: Vec<u32> = [0, 0].into_iter().chain((0..n as u32).rev()).collect();
    let mut rows = vec![];
    for pass in ["forward", "backward", "forward_backward"] {
        let mut probe = Probe::new(gpu);
        let logits = probe.floats("logits", &student)?;
        let losses = match pass {
            "backward" => logits,
            _ => probe.output("losses", pairs(&losses, &nlls), pairs(&loss_tolerance, &vec![of_log(spread); n]))?,
        };
        let stride = if pass == "backward" { classes } else { classes.next_multiple_of(4) };
        let dlogits = match pass {
            "forward" => logits,
            _ => {
                let dloss = if pass == "backward" { wide(&upstream) } else { vec![f64::from(shared); n] };
                let [want, tolerance] = gradient(&dloss).map(|values| padded(&values, classes, stride));
                probe.output("dlogits", want, tolerance)?
            }
        };
        let at = Buffers {
            logits,
            targets: probe.words("targets", &targets)?,
            teacher: probe.floats("teacher", &backwards)?,
            order: probe.words("order", &order)?,
            losses,
            dlogits,
            stride,
        };
        match pass {
            "forward" => loss.forward(&mut probe.plan, n + 1, &at)?,
            "backward" => {
                let dloss = probe.floats("dloss", &upstream)?;
                loss.backward(&mut probe.plan, n + 1, &at, dloss)?;
            }
            _ => loss.forward_backward(&mut probe.plan, n + 1, &at)?,
        }
        let block = masses.fill(Block { dloss: shared, ..shares(n) });
        rows.extend(probe.run("distillation_loss", &name, from(2, n, block))?);
    }
    Ok(rows)
}
