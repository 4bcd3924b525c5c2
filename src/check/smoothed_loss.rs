//! The smoothed loss against the oracle.

use std::sync::Arc;

use super::compare::sum_tolerance;
use super::ops::{from, shares, wide};
use super::probe::Probe;
use super::{Row, random, random_targets};
use crate::Result;
use crate::backend::gpu::Gpu;
use crate::loss::smoothing::Smoothing;
use crate::ops::IGNORED;
use crate::ops::smoothed_loss::{Buffers, SmoothedLoss};
use crate::oracle;

/// Loss and nll of each row, as the device has them.
pub(super) fn pairs(losses: &[f64], nlls: &[f64]) -> Vec<f64> {
    losses.iter().zip(nlls).flat_map(|(&loss, &nll)| [loss, nll]).collect()
}

/// The nll of each row whose target is an index.
pub(super) fn nlls(classes: usize, logits: &[f64], targets: &[u32]) -> Vec<f64> {
    let mut nlls = vec![0.0; targets.len()];
    oracle::smoothed_loss::forward(Smoothing::NONE.masses(classes), classes, logits, targets, &mut nlls);
    nlls
}

/// The loss's passes, for logits up to `scale`.
///
/// # Errors
/// What the device reports.
pub fn smoothed_loss(gpu: &Arc<Gpu>, n: usize, classes: usize, scale: f32, smoothing: Smoothing) -> Result<Vec<Row>> {
    let case = format!("{n}x{classes}, {:?} e {}, logits to {scale}", smoothing.variant, smoothing.epsilon);
    let masses = smoothing.masses(classes);
    let loss = SmoothedLoss { classes };
    let mut logits: Vec<f32> = random(n * classes, 1).iter().map(|v| v * scale).collect();
    let mut targets = random_targets(n, classes, 2);
    // One row in four is ignored: its logits are not even read.
    for row in (3..n).step_by(4) {
        targets[row] = IGNORED;
        logits[row * classes..][..classes].fill(f32::NAN);
    }
    let upstream = random(n, 3);
    let mean = vec![f64::from((1.0 / n as f64) as f32); n];

    let mut losses = vec![0.0; n];
    oracle::smoothed_loss::forward(masses, classes, &wide(&logits), &targets, &mut losses);
    let nlls = nlls(classes, &wide(&logits), &targets);
    // Both are a difference of numbers as large as the logits; `log` and `exp` are off by a few units in the last place.
    let spread = 2.0 * f64::from(scale) + (classes as f64).ln();
    let loss_tolerance = vec![sum_tolerance(classes.div_ceil(64) + 16, spread) + 2e-6; n];
    // p = exp(z - s) inherits the absolute error of its argument as a relative one, and WGSL grants exp 3 + 2 |x| units.
    let gradient = |dloss: &[f64]| {
        let mut want = vec![0.0; n * classes];
        oracle::smoothed_loss::backward(masses, classes, &wide(&logits), &targets, dloss, &mut want);
        let tolerance: Vec<f64> = want
            .iter()
            .enumerate()
            .map(|(i, _)| {
                let target = targets[i / classes] as usize == i % classes;
                let mass = if target { masses.on } else { masses.off };
                let p = want[i] / dloss[i / classes] + mass;
                dloss[i / classes].abs() * ((p * spread.max(8.0)) * 8.0 + 4.0 * mass) * 2f64.powi(-24) + 1e-12
            })
            .collect();
        [want, tolerance]
    };

    let mut rows = vec![];
    for pass in ["forward", "backward", "forward_backward"] {
        let mut probe = Probe::new(gpu);
        let at_logits = probe.floats("logits", &logits)?;
        let at_targets = probe.words("targets", &targets)?;
        let dloss = if pass == "backward" { wide(&upstream) } else { mean.clone() };
        let [dlogits, tolerance] = gradient(&dloss);
        let dloss = probe.floats("dloss", &upstream)?;
        let at = Buffers {
            logits: at_logits,
            targets: at_targets,
            losses: match pass {
                "backward" => at_logits,
                _ => probe.output("losses", pairs(&losses, &nlls), pairs(&loss_tolerance, &loss_tolerance))?,
            },
            dlogits: match pass {
                "forward" => at_logits,
                _ => probe.output("dlogits", dlogits, tolerance)?,
            },
        };
        match pass {
            "forward" => loss.forward(&mut probe.plan, n + 1, &at)?,
            "backward" => loss.backward(&mut probe.plan, n + 1, &at, dloss)?,
            _ => loss.forward_backward(&mut probe.plan, n + 1, &at)?,
        }
        rows.extend(probe.run("smoothed_loss", &case, from(0, n, masses.fill(shares(n))))?);
    }
    Ok(rows)
}
