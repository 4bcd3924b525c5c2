//! The losses that smoothing is compared with, against the oracle.

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
use crate::ops::IGNORED;
use crate::ops::comparator_loss::{Buffers, ComparatorLoss};
use crate::oracle;

/// Both losses over `classes` classes, plain cross-entropy and an exponent below 1 among them.
///
/// # Errors
/// None: the numbers are in range.
pub fn losses(classes: usize) -> Result<Vec<ComparatorLoss>> {
    let focal = [0.0, 0.5, 2.0, 5.0].map(|gamma| ComparatorLoss::focal(classes, gamma));
    let penalty = [0.1, 1.0].map(|beta| ComparatorLoss::confidence_penalty(classes, beta));
    focal.into_iter().chain(penalty).collect()
}

/// Both losses over every shape.
///
/// # Errors
/// What the device reports. A wrong result is not an error: it is in its row.
pub fn all(gpu: &Arc<Gpu>, mut each: impl FnMut(Vec<Row>)) -> Result<()> {
    for &(n, classes, scale) in cases::SMOOTHED_LOSS {
        for loss in losses(classes)? {
            each(comparator_loss(gpu, n, scale, loss)?);
        }
    }
    Ok(())
}

/// The passes for logits up to `scale`. One row in four is ignored; its logits are NaN.
///
/// # Errors
/// What the device reports.
pub fn comparator_loss(gpu: &Arc<Gpu>, n: usize, scale: f32, loss: ComparatorLoss) -> Result<Vec<Row>> {
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
    let dloss = random(n, 3);
    let mut want = vec![0.0; n];
    oracle::comparator_loss::forward(&loss, &wide(&logits), &targets, &mut want);
    let nlls = nlls(classes, &wide(&logits), &targets);
    let mut gradient = vec![0.0; n * classes];
    oracle::comparator_loss::backward(&loss, &wide(&logits), &targets, &wide(&dloss), &mut gradient);

    // As for the simple loss: of a logarithm of p, and relative, of p itself. WGSL grants pow what exp2(gamma log2 m) has,
    // and log2 an absolute error of 2^-21 near 1.
    let (gamma, beta) = (loss.gamma(), loss.beta());
    let spread = 4.0 * f64::from(scale) + (classes as f64).ln();
    let of_log = sum_tolerance(classes.div_ceil(64) + 16, spread) + 2e-6;
    let of_p = spread.max(8.0) * 8.0 * 2f64.powi(-24) + of_log;
    let of_power = gamma * (of_p + 2e-6) + 16.0 * 2f64.powi(-24) * gamma * spread.min(128.0);
    // H = s - sum of p z is at most ln C, as the difference of numbers that are no larger.
    let of_entropy = of_log + of_p * (classes as f64).ln().max(1.0);
    let loss_tolerance: Vec<f64> =
        want.iter().map(|w| of_log + (w.abs() + beta) * of_power + beta * of_entropy).collect();
    let mut tolerance = vec![];
    for ((row, &target), &d) in wide(&logits).chunks(classes).zip(&targets).zip(&dloss) {
        let largest = row.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
        let p = |class: usize| (row[class] - largest).exp() / sum;
        let miss: f64 = (0..classes).filter(|&class| class != target as usize).map(p).sum();
        // |g| is at most 1 + gamma.
        let slope = 1.0 + gamma;
        tolerance.extend((0..classes).map(|class| {
            let step = if class == target as usize { miss } else { p(class) };
            let penalty =
                beta * p(class) * (of_entropy + of_p * (p(class).max(1e-38).ln().abs() + (classes as f64).ln()));
            f64::from(d).abs() * (slope * step * (of_p + of_power + gamma * 2e-5) + penalty) + 1e-12
        }));
    }
    // An ignored row's are exact; its p is NaN.
    for (row, _) in targets.iter().enumerate().filter(|(_, target)| **target == IGNORED) {
        tolerance[row * classes..][..classes].fill(0.0);
    }

    let name = format!("{n}x{classes}, logits to {scale}, gamma {gamma}, beta {beta}");
    // For a random upstream gradient of each row, and for one that all rows share.
    let shared = -0.37f32;
    let rescale = |values: &[f64]| -> Vec<f64> {
        let of = |(i, v): (usize, &f64)| v / f64::from(dloss[i / classes]) * f64::from(shared);
        values.iter().enumerate().map(of).collect()
    };
    let mut rows = vec![];
    for pass in ["forward", "backward", "forward_backward"] {
        let mut probe = Probe::new(gpu);
        let logits = probe.floats("logits", &logits)?;
        let targets = probe.words("targets", &targets)?;
        let losses = match pass {
            "backward" => logits,
            _ => probe.output("losses", pairs(&want, &nlls), pairs(&loss_tolerance, &vec![of_log; n]))?,
        };
        let stride = if pass == "backward" { classes } else { classes.next_multiple_of(4) };
        let dlogits = match pass {
            "forward" => logits,
            "backward" => probe.output("dlogits", gradient.clone(), tolerance.clone())?,
            _ => {
                let tolerance: Vec<f64> = rescale(&tolerance).iter().map(|t| t.abs() + 1e-12).collect();
                let padded = |values: &[f64]| padded(values, classes, stride);
                probe.output("dlogits", padded(&rescale(&gradient)), padded(&tolerance))?
            }
        };
        let at = Buffers { logits, targets, losses, dlogits, stride };
        match pass {
            "forward" => loss.forward(&mut probe.plan, n + 1, &at)?,
            "backward" => {
                let dloss = probe.floats("dloss", &dloss)?;
                loss.backward(&mut probe.plan, n + 1, &at, dloss)?;
            }
            _ => loss.forward_backward(&mut probe.plan, n + 1, &at)?,
        }
        rows.extend(probe.run("comparator_loss", &name, from(0, n, Block { dloss: shared, ..shares(n) }))?);
    }
    Ok(rows)
}
