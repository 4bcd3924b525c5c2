//! The general loss against the oracle: what the cases of the checks and of the tests are made of, and its passes.

use std::sync::Arc;

use super::compare::sum_tolerance;
use super::ops::{from, shares, wide};
use super::probe::Probe;
use super::smoothed_loss::pairs;
use super::{Row, cases, random, random_targets};
use crate::Result;
use crate::backend::gpu::Gpu;
use crate::loss::Block;
use crate::loss::smoothing::{Epsilon, Prior};
use crate::ops::IGNORED;
use crate::ops::weighted_loss::{Buffers, Spec, Targets, WeightedLoss, Weighting};
use crate::oracle;
use crate::oracle::weighted_loss::Reduction;

/// What a case of the general loss takes of all that it covers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Features {
    /// Targets are distributions.
    pub soft: bool,
    /// Every so-manieth index is ignored; 1: all of them. (Distributions have no index to ignore.)
    pub ignored: Option<usize>,
    /// One class in four takes no part.
    pub masked: bool,
    /// The smoothing mass goes by a random prior with zeros in it, not evenly.
    pub prior: bool,
    /// Class weights, a zero among them.
    pub weighting: Option<Weighting>,
    /// The mass that smoothing moves; it may be negative.
    pub epsilon: f64,
}

impl Features {
    /// Every combination, with three epsilons.
    pub fn all() -> Vec<Self> {
        let bits = |i: usize| [1, 2, 4, 8].map(|bit| i & bit != 0);
        let mut all = vec![];
        for weighting in [None, Some(Weighting::PyTorch), Some(Weighting::Sample)] {
            for (i, epsilon) in (0..16).flat_map(|i| [0.0, 0.1, -0.4].map(|epsilon| (i, epsilon))) {
                let [soft, ignored, masked, prior] = bits(i);
                let ignored = ignored.then_some(3);
                all.push(Self { soft, ignored, masked, prior, weighting, epsilon });
            }
        }
        all.retain(|features| {
            !(features.soft && features.ignored.is_some() || features.prior && features.epsilon == 0.0)
        });
        all
    }

    /// The loss over `classes` classes.
    ///
    /// # Panics
    /// If epsilon is not below 1, or there are fewer than 2 classes.
    pub fn loss(&self, classes: usize) -> WeightedLoss {
        let positive = |stream| -> Vec<f64> { random(classes, stream).iter().map(|&v| f64::from(v) + 1.0).collect() };
        let mut weights = positive(11);
        weights[classes / 2] = 0.0;
        let mut prior = positive(12);
        prior.iter_mut().skip(1).step_by(3).for_each(|v| *v = 0.0);
        WeightedLoss::new(&Spec {
            classes,
            epsilon: Epsilon::negative_allowed(self.epsilon).expect("an epsilon below 1"),
            prior: if self.prior { Prior::Given(prior) } else { Prior::Uniform },
            weights: self.weighting.map(|weighting| (weighting, weights)),
            allowed: self.masked.then(|| (0..classes).map(|class| class % 4 != 1).collect()),
        })
        .expect("weights and prior are numbers from 0 on, and class 0 takes part")
    }

    /// Class indices for `n` rows of `loss`. The ignored ones are every kind of index that is: [`IGNORED`], others beyond the
    /// classes, and a class that takes no part.
    pub fn targets(&self, loss: &WeightedLoss, n: usize) -> Vec<u32> {
        let drawn = random_targets(n, loss.classes(), 13).into_iter().enumerate();
        let mut no_class = vec![IGNORED, loss.classes() as u32];
        no_class.extend(loss.allowed().iter().position(|allowed| !allowed).map(|class| class as u32));
        let target = |(i, class): (usize, u32)| {
            if self.ignored.is_some_and(|every| i % every == every - 1) {
                return no_class[i % no_class.len()];
            }
            // The class before one that takes no part takes part.
            if loss.allowed()[class as usize] { class } else { class - 1 }
        };
        drawn.map(target).collect()
    }

    /// A distribution for each of `n` rows, as f32 holds it.
    pub fn distributions(&self, n: usize, classes: usize) -> Vec<f64> {
        let mut rows: Vec<f64> = random(n * classes, 14).iter().map(|v| f64::from(v.abs() + 0.01)).collect();
        for row in rows.chunks_mut(classes) {
            let total: f64 = row.iter().sum();
            row.iter_mut().for_each(|t| *t = f64::from((*t / total) as f32));
        }
        rows
    }
}

/// One case of each kind that [`all`] runs over every shape.
pub const FEATURES: [Features; 7] = {
    let plain = Features { soft: false, ignored: None, masked: false, prior: false, weighting: None, epsilon: 0.1 };
    let (pytorch, sample) = (Some(Weighting::PyTorch), Some(Weighting::Sample));
    [
        plain,
        Features { ignored: Some(3), prior: true, weighting: pytorch, ..plain },
        Features { ignored: Some(3), masked: true, weighting: sample, ..plain },
        Features { prior: true, epsilon: -0.4, ..plain },
        Features { soft: true, weighting: pytorch, ..plain },
        Features { soft: true, weighting: pytorch, epsilon: -0.8, ..plain },
        Features { soft: true, masked: true, prior: true, weighting: sample, ..plain },
    ]
};

/// [`FEATURES`] over every shape.
///
/// # Errors
/// What the device reports. A wrong result is not an error: it is in its row.
pub fn all(gpu: &Arc<Gpu>, mut each: impl FnMut(Vec<Row>)) -> Result<()> {
    for &(n, classes, scale) in cases::SMOOTHED_LOSS {
        for features in FEATURES {
            each(weighted_loss(gpu, n, classes, scale, features)?);
        }
    }
    Ok(())
}

/// A case with the oracle's results and their tolerances.
struct Case {
    name: String,
    loss: WeightedLoss,
    logits: Vec<f32>,
    targets: Vec<u32>,
    soft: Option<Vec<f32>>,
    /// Loss and nll of each row.
    losses: Vec<f64>,
    loss_tolerance: Vec<f64>,
    /// Of an element of `dlogits` for an upstream gradient of 1.
    gradient_tolerance: Vec<f64>,
}

impl Case {
    fn new(n: usize, classes: usize, scale: f32, features: Features) -> Self {
        let loss = features.loss(classes);
        let targets = features.targets(&loss, n);
        let soft = features.soft.then(|| features.distributions(n, classes));
        let mut logits: Vec<f32> = random(n * classes, 1).iter().map(|v| v * scale).collect();
        for (i, logit) in logits.iter_mut().enumerate() {
            // What takes no part is not even read: a NaN would spoil a sum, but a maximum may drop it.
            if !loss.allowed()[i % classes] || (soft.is_none() && !counts(&loss, targets[i / classes])) {
                *logit = if i / 4 % 2 == 0 { f32::NAN } else { f32::MAX };
            }
        }
        let wide_logits = wide(&logits);
        let at = oracle_targets(&targets, soft.as_deref());
        let mut losses = vec![0.0; n];
        oracle::weighted_loss::forward(&loss, &wide_logits, at, &mut losses);
        let mut nlls = vec![0.0; n];
        oracle::weighted_loss::nll(&loss, &wide_logits, at, &mut nlls);

        // As for the simple loss, for a row whose masses add up to another number than 1. `log` and `exp` are off by a few
        // units in the last place.
        let spread = 2.0 * f64::from(scale) + (classes as f64).ln();
        let terms = classes.div_ceil(64) + 16;
        let (mut loss_tolerance, mut gradient_tolerance) = (vec![], vec![]);
        let sample_weights = oracle::weighted_loss::weights(&loss, at, n);
        for (row, logits) in wide_logits.chunks(classes).enumerate() {
            let Some(masses) = oracle::weighted_loss::masses(&loss, at, row) else {
                loss_tolerance.extend([0.0; 2]);
                gradient_tolerance.resize(gradient_tolerance.len() + classes, 0.0);
                continue;
            };
            let total: f64 = masses.iter().map(|a| a.abs()).sum();
            // A mass is the sum of two parts, whose rounding it inherits. Where e is negative they have unlike signs.
            let size = |k: usize| {
                let weight = match loss.weighting() {
                    Weighting::PyTorch => loss.weights()[k],
                    Weighting::Sample => sample_weights[row],
                };
                masses[k].abs() + 2.0 * (-loss.epsilon()).max(0.0) * loss.prior()[k] * weight
            };
            let sizes: f64 = (0..classes).filter(|&k| loss.allowed()[k]).map(size).sum();
            let of_sum = sum_tolerance(terms, spread);
            // A plain target's masses add up to 1.
            loss_tolerance.extend([of_sum * sizes + 2e-6 * total, of_sum + 2e-6]);
            let largest = (0..classes).filter(|&k| loss.allowed()[k]).map(|k| logits[k]).fold(f64::MIN, f64::max);
            let exponential = |k: usize| if loss.allowed()[k] { (logits[k] - largest).exp() } else { 0.0 };
            let normaliser: f64 = (0..classes).map(exponential).sum();
            gradient_tolerance.extend((0..classes).map(|k| {
                if !loss.allowed()[k] {
                    return 0.0;
                }
                let p = exponential(k) / normaliser;
                // p's argument, and the sum of the masses; the masses themselves.
                let relative = spread.max(8.0) * 8.0 * 2f64.powi(-24);
                p * (total * relative + sizes * sum_tolerance(terms, 1.0))
                    + (8.0 * size(k) + 4.0 * (loss.epsilon() * loss.prior()[k]).abs()) * 2f64.powi(-24)
                    + 1e-12
            }));
        }
        let soft = soft.map(|rows| {
            let part = |(i, t): (usize, f64)| if loss.allowed()[i % classes] { t as f32 } else { f32::NAN };
            rows.into_iter().enumerate().map(part).collect()
        });
        let name = format!("{n}x{classes}, logits to {scale}, {features:?}");
        let losses = pairs(&losses, &nlls);
        Self { name, loss, logits, targets, soft, losses, loss_tolerance, gradient_tolerance }
    }
}

fn counts(loss: &WeightedLoss, target: u32) -> bool {
    loss.allowed().get(target as usize).is_some_and(|allowed| *allowed)
}

fn oracle_targets<'a>(targets: &'a [u32], soft: Option<&'a [f64]>) -> oracle::weighted_loss::Targets<'a, f64> {
    soft.map_or(oracle::weighted_loss::Targets::Index(targets), oracle::weighted_loss::Targets::Soft)
}

/// Images of the epoch before the batch.
const FIRST: usize = 2;

/// The general loss's passes for logits up to `scale`: losses alone; the gradient alone for a random upstream gradient; both
/// for that of the mean, with the gradient in rows of a multiple of four.
///
/// # Errors
/// What the device reports.
pub fn weighted_loss(gpu: &Arc<Gpu>, n: usize, classes: usize, scale: f32, features: Features) -> Result<Vec<Row>> {
    let case = Case::new(n, classes, scale, features);
    let loss = &case.loss;
    let soft = case.soft.as_ref().map(|rows| wide(rows));
    let at_oracle = oracle_targets(&case.targets, soft.as_deref());
    let upstream = random(n, 3);
    // The mean's as the device is given it.
    let mean = oracle::weighted_loss::upstream(loss, at_oracle, n, Reduction::Mean)[0] as f32;

    let mut found = vec![];
    for pass in ["forward", "backward", "forward_backward"] {
        let mut probe = Probe::new(gpu);
        let logits = probe.floats("logits", &case.logits)?;
        let targets = match &case.soft {
            Some(rows) => soft_targets(&mut probe, rows, classes)?,
            None => Targets::Index(probe.words("targets", &case.targets)?),
        };
        let class_table = probe.floats("class_table", &loss.class_table())?;
        let losses = match pass {
            "backward" => logits,
            _ => probe.output("losses", case.losses.clone(), case.loss_tolerance.clone())?,
        };
        let stride = if pass == "backward" { classes } else { classes.next_multiple_of(4) };
        let dlogits = match pass {
            "forward" => logits,
            _ => {
                let dloss = if pass == "backward" { wide(&upstream) } else { vec![f64::from(mean); n] };
                let mut want = vec![0.0; n * classes];
                oracle::weighted_loss::backward(loss, &wide(&case.logits), at_oracle, &dloss, &mut want);
                let of = |(i, t): (usize, &f64)| t * dloss[i / classes].abs();
                let tolerance: Vec<f64> = case.gradient_tolerance.iter().enumerate().map(of).collect();
                probe.output("dlogits", padded(&want, classes, stride), padded(&tolerance, classes, stride))?
            }
        };
        let at = Buffers { logits, targets, class_table, losses, dlogits, stride };
        match pass {
            "forward" => loss.forward(&mut probe.plan, n + 1, &at)?,
            "backward" => {
                let dloss = probe.floats("dloss", &upstream)?;
                loss.backward(&mut probe.plan, n + 1, &at, dloss)?;
            }
            _ => loss.forward_backward(&mut probe.plan, n + 1, &at)?,
        }
        let block = loss.fill(Block { dloss: mean, ..shares(n) });
        found.extend(probe.run("weighted_loss", &case.name, from(FIRST, n, block))?);
    }
    Ok(found)
}

/// The distributions as a data set has them: backwards, where the epoch's order finds them.
fn soft_targets(probe: &mut Probe, rows: &[f32], classes: usize) -> Result<Targets> {
    let n = rows.len() / classes;
    let backwards: Vec<f32> = rows.chunks(classes).rev().flatten().copied().collect();
    let order: Vec<u32> = (0..FIRST as u32).chain((0..n as u32).rev()).collect();
    Ok(Targets::Soft { rows: probe.floats("soft_targets", &backwards)?, order: probe.words("order", &order)? })
}

/// Rows of `classes` numbers, each filled up with zeros.
pub(super) fn padded(values: &[f64], classes: usize, stride: usize) -> Vec<f64> {
    let mut rows = vec![];
    for row in values.chunks(classes) {
        rows.extend_from_slice(row);
        rows.resize(rows.len() + stride - classes, 0.0);
    }
    rows
}
