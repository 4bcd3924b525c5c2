//! The loss of a training: which form it has, how its smoothing changes from step to step, and what it knows of each
//! image.
//!
//! A batch's loss is the mean over its samples, each with its weight W: `sum of loss[n] / sum of W[n]`, where `loss[n]`
//! has its weight in it, and an ignored sample has neither. The mean of nothing is 0, and so is its gradient. Epochs
//! are averaged in the same way, so that an image counts the same in a small batch and in a large one.
//!
//! | form                   | what it is                                                                           |
//! |------------------------|--------------------------------------------------------------------------------------|
//! | [`Form::Smoothed`]     | [`smoothed`] cross-entropy; fused with the last layer where that has few classes      |
//! | [`Form::Weighted`]     | [`weighted`] cross-entropy: a prior, class weights, a class mask, soft targets        |
//! | [`Form::Mixed`]        | cross-entropy of [`mixed`] images, each with two labels                              |
//! | [`Form::Comparator`]   | [`comparator`]s of smoothing: focal loss, confidence penalty                          |
//! | [`Form::LogitPenalty`] | [`logit_penalty`] on the largest logit: MaxSup, MbLS                                  |
//! | [`Form::Distillation`] | [`distillation`] from a teacher, whose logits stand beside the labels                 |
//!
//! A form is a folder: formula, settings and recording in its `mod.rs`, its twin on the CPU in `reference.rs`, what
//! `check` runs in `cases.rs`; and a line of the list in [`form`].

mod batch;
pub mod comparator;
pub mod distillation;
pub mod form;
pub mod formula;
pub mod logit_penalty;
pub mod mixed;
pub mod smoothed;
pub mod smoothing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tolerances;
pub mod weighted;

pub use batch::{Batch, BatchLoss, Buffers, LossBlock, Target, mean, of_each};
pub use form::{FORMS, Form, Loss, LossCase};
pub use formula::{Formula, Pass};

/// The logits `[n, allowed.len()]` of the classes that are `allowed`, of the samples whose label is one of them; these
/// samples' labels, counted among those classes; how many classes they are.
pub fn restricted(allowed: &[bool], logits: &[f64], labels: &[u32]) -> (Vec<f64>, Vec<u32>, usize) {
    let kept: Vec<usize> = (0..allowed.len()).filter(|&class| allowed[class]).collect();
    let (mut part, mut renamed) = (vec![], vec![]);
    for (row, &label) in logits.chunks(allowed.len()).zip(labels) {
        if let Ok(place) = kept.binary_search(&(label as usize)) {
            part.extend(kept.iter().map(|&class| row[class]));
            renamed.push(place as u32);
        }
    }
    (part, renamed, kept.len())
}
