//! One loss of each form that training takes, for whole training steps.

use std::sync::Arc;

use super::random;
use crate::Result;
use crate::loss::smoothing::{Epsilon, Prior, Schedule, Smoothing, Variant};
use crate::loss::{Form, Loss};
use crate::ops::comparator_loss::ComparatorLoss;
use crate::ops::distillation_loss::DistillationLoss;
use crate::ops::weighted_loss::{Spec, WeightedLoss, Weighting};

/// The losses by name, for `images` training images of `classes` classes.
///
/// # Errors
/// None: the numbers are in range.
pub fn losses(classes: usize, images: usize) -> Result<Vec<(&'static str, Loss)>> {
    let smoothed = |variant, epsilon| Loss::from(Smoothing { variant, epsilon });
    let positive = |stream| -> Vec<f64> { random(classes, stream).iter().map(|&v| f64::from(v) + 1.1).collect() };
    let weighted = |epsilon: f64, spec: Spec| -> Result<Loss> {
        let epsilon = Epsilon::negative_allowed(epsilon)?;
        let loss = WeightedLoss::new(&Spec { epsilon, ..spec })?;
        Ok(Loss::new(Form::Weighted(loss), epsilon.value()))
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
        ("uniform, warm-up", smoothed(Variant::Uniform, 0.2).scheduled(Schedule::WarmUp { over: 4 })),
        ("off-target, decay", smoothed(Variant::OffTarget, 0.2).scheduled(Schedule::Decay { over: 2 })),
        ("negative", smoothed(Variant::Uniform, -0.3)),
        ("prior, decay", weighted(0.2, prior.clone())?.scheduled(Schedule::Decay { over: 3 })),
        ("class weights, pytorch", weighted(0.1, by(Weighting::PyTorch))?),
        ("class weights, sample", weighted(0.1, by(Weighting::Sample))?),
        ("class mask, off-target", weighted(0.1, Spec { prior: Prior::OffTarget, ..masked })?),
        ("soft targets", weighted(0.1, prior)?.with_soft_targets(rows.clone())?),
        ("soft targets, class weights", weighted(0.0, by(Weighting::Sample))?.with_soft_targets(rows)?),
        ("distillation, warm-up", {
            let form = Form::Distillation(
                DistillationLoss::new(classes, 3.0, 0.6)?,
                Smoothing { variant: Variant::Uniform, epsilon: 0.2 },
            );
            let teacher = random(images * classes, 24).iter().map(|v| 4.0 * v).collect();
            Loss::new(form, 0.2).with_teacher(teacher)?.scheduled(Schedule::WarmUp { over: 5 })
        }),
        ("focal", Loss::new(Form::Comparator(ComparatorLoss::focal(classes, 2.0)?), 0.0)),
        ("confidence penalty", Loss::new(Form::Comparator(ComparatorLoss::confidence_penalty(classes, 0.1)?), 0.0)),
    ])
}
