//! What `check` and the tests run of the general loss.

use std::sync::Arc;

use super::reference::{self, Reduction, Targets};
use super::{Spec, WeightedLoss, Weighting};
use crate::Result;
use crate::cases::{random, random_targets, sum_tolerance, wide};
use crate::loss::form::Named;
use crate::loss::smoothing::{Epsilon, Prior};
use crate::loss::{Formula, Loss, LossCase};
use crate::ops::IGNORED;
use crate::schedule::Schedule;

/// What a case of the general loss takes of all that it covers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Features {
    /// Targets are distributions.
    pub soft: bool,
    /// Every so-manieth index is ignored; 1: all of them. (Distributions have no index to ignore.)
    pub ignored: Option<usize>,
    /// One class in four takes no part, class 0 where classes are even in number and more than two.
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
            allowed: self
                .masked
                .then(|| (0..classes).map(|class| class % 4 != usize::from(classes % 2 == 1 || classes < 4)).collect()),
        })
        .expect("weights and prior are numbers from 0 on, and a class takes part")
    }

    /// Class indices for `n` rows of `loss`. The ignored ones are every kind of index that is: [`IGNORED`], others
    /// beyond the classes, and a class that takes no part.
    pub fn targets(&self, loss: &WeightedLoss, n: usize) -> Vec<u32> {
        let drawn = random_targets(n, loss.classes(), 13).into_iter().enumerate();
        let mut no_class = vec![IGNORED, loss.classes() as u32];
        no_class.extend(loss.allowed().iter().position(|allowed| !allowed).map(|class| class as u32));
        let target = |(i, class): (usize, u32)| {
            if let Some(every) = self.ignored
                && i % every == every - 1
            {
                return no_class[i / every % no_class.len()];
            }
            // A neighbour of one that takes no part takes part.
            let neighbour = if class == 0 { 1 } else { class - 1 };
            if loss.allowed()[class as usize] { class } else { neighbour }
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

/// One case of each kind, for every shape.
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

/// For logits up to `scale`. Logits that are not read are NaN, or larger than any other.
pub fn case(n: usize, classes: usize, scale: f32, features: Features) -> LossCase {
    let loss = features.loss(classes);
    let targets = features.targets(&loss, n);
    let soft = features.soft.then(|| features.distributions(n, classes));
    let mut logits: Vec<f32> = random(n * classes, 1).iter().map(|v| v * scale).collect();
    for (i, logit) in logits.iter_mut().enumerate() {
        // What takes no part is not even read: a NaN would spoil a sum, but a maximum may drop it.
        if !loss.allowed()[i % classes]
            || (soft.is_none() && !Formula::counts(&loss, targets[i / classes], classes, None))
        {
            *logit = if i / 4 % 2 == 0 { f32::NAN } else { f32::MAX };
        }
    }
    let wide_logits = wide(&logits);
    let at = soft.as_deref().map_or(Targets::Index(&targets), Targets::Soft);

    // As for the simple loss, for a row whose masses add up to another number than 1. `log` and `exp` are off by a few
    // units in the last place.
    let spread = 2.0 * f64::from(scale) + (classes as f64).ln();
    let terms = classes.div_ceil(64) + 16;
    let (mut loss_tolerance, mut gradient_tolerance) = (vec![], vec![]);
    let sample_weights = reference::weights(&loss, at, n);
    for (row, logits) in wide_logits.chunks(classes).enumerate() {
        let Some(masses) = reference::masses(&loss, at, row) else {
            loss_tolerance.push([0.0; 2]);
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
        loss_tolerance.push([of_sum * sizes + 2e-6 * total, of_sum + 2e-6]);
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
    // The mean's, as the device is given it.
    let dloss = reference::upstream(&loss, at, n, Reduction::Mean)[0] as f32;
    let rows = soft.unwrap_or_default().into_iter().enumerate();
    let rows = rows.map(|(i, t)| if loss.allowed()[i % classes] { t as f32 } else { f32::NAN }).collect();
    LossCase {
        name: format!("{n}x{classes}, logits to {scale}, {features:?}"),
        dloss,
        form: loss.into(),
        classes,
        logits,
        labels: targets,
        rows,
        share: 1.0,
        loss_tolerance,
        gradient_tolerance,
    }
}

/// For whole training steps over `images` training images.
///
/// # Errors
/// None: the numbers are in range.
pub fn trainings(classes: usize, images: usize) -> Result<Named> {
    let positive = |stream| -> Vec<f64> { random(classes, stream).iter().map(|&v| f64::from(v) + 1.1).collect() };
    let weighted = |epsilon: f64, spec: Spec| -> Result<Loss> {
        let epsilon = Epsilon::negative_allowed(epsilon)?;
        Ok(Loss::new(WeightedLoss::new(&Spec { epsilon, ..spec })?, epsilon.value()))
    };
    let plain = Spec::new(classes);
    let prior = Spec { prior: Prior::Given(positive(21)), ..plain.clone() };
    let by = |weighting| Spec { weights: Some((weighting, positive(22))), ..plain.clone() };
    let masked = Spec { allowed: Some((0..classes).map(|class| class != 1).collect()), ..plain.clone() };
    let rows: Arc<[f32]> = random(images * classes, 23)
        .chunks(classes)
        .flat_map(|row| {
            let total: f32 = row.iter().map(|v| v + 1.0).sum();
            row.iter().map(move |v| (v + 1.0) / total)
        })
        .collect();
    Ok(vec![
        ("prior, decay", weighted(0.2, prior.clone())?.scheduled(Schedule::falling(3))),
        ("class weights, pytorch", weighted(0.1, by(Weighting::PyTorch))?),
        ("class weights, sample", weighted(0.1, by(Weighting::Sample))?),
        ("class mask, off-target", weighted(0.1, Spec { prior: Prior::OffTarget, ..masked })?),
        ("soft targets", weighted(0.1, prior)?.with_soft_targets(rows.clone())?),
        ("soft targets, class weights", weighted(0.0, by(Weighting::Sample))?.with_soft_targets(rows)?),
    ])
}

/// For `check`.
///
/// # Errors
/// None: the numbers are in range.
pub fn cases(n: usize, classes: usize, scale: f32) -> Result<Vec<LossCase>> {
    Ok(FEATURES.iter().map(|&features| case(n, classes, scale, features)).collect())
}
