//! A batch as a loss sees it: its targets, its means, and where its buffers are.

use crate::plan::{Slice, uniform};

/// A batch's targets, in the precision of a network on the CPU.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a, T> {
    /// Class indices, `[n]`; [`crate::ops::IGNORED`] is none.
    pub labels: &'a [u32],
    /// What the loss has for each image, `[n, classes]`, or nothing.
    pub rows: &'a [T],
    /// Of mixed images the labels of their partners, `[n]`; else nothing.
    pub others: &'a [u32],
    /// The share that an image's own label has in its loss: 1 where images are not mixed.
    pub share: f64,
    /// What the sum of the samples' losses is divided by: their weights, together.
    pub weight: f64,
    /// What the sum of their nlls is divided by: how many are not ignored.
    pub counted: f64,
}

/// The target of one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Its class; [`crate::ops::IGNORED`] is none.
    pub label: u32,
    /// Of a mixed image its partner's, else its own.
    pub other: u32,
    /// The share of its own.
    pub share: f64,
}

impl From<u32> for Target {
    fn from(label: u32) -> Self {
        Self { label, other: label, share: 1.0 }
    }
}

/// The means of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchLoss {
    /// Of the loss, each sample with its weight. 0 where every sample is ignored.
    pub loss: f64,
    /// Of the plain negative log-likelihood, unsmoothed and unweighted ([`super::Form::nll`]). 0 where every sample is
    /// ignored.
    pub nll: f64,
    /// Whether, after the step, a parameter or a number of the optimizer's memory is not finite.
    pub diverged: bool,
    /// The norm of the gradient before it was clipped, where it is.
    pub grad_norm: Option<f64>,
}

impl<'a, T> Batch<'a, T> {
    /// Class indices, each with the weight 1.
    pub fn new(labels: &'a [u32]) -> Self {
        let n = labels.len() as f64;
        Self { labels, rows: &[], others: &[], share: 1.0, weight: n, counted: n }
    }

    /// Sample `n`'s target.
    pub fn target(&self, n: usize) -> Target {
        let label = self.labels[n];
        Target { label, other: self.others.get(n).copied().unwrap_or(label), share: self.share }
    }

    /// The upstream gradient of each loss.
    pub fn dloss(&self) -> f64 {
        of_each(self.weight)
    }
}

/// What each element of a mean is multiplied by, `weight` being their weights, together. The mean of nothing is 0.
pub fn of_each(weight: f64) -> f64 {
    if weight > 0.0 { 1.0 / weight } else { 0.0 }
}

/// A mean from its sum. That of nothing is 0, also where the samples have a loss and weigh nothing; what is no number
/// becomes NaN. So it is on a device, which multiplies each loss with [`of_each`].
pub fn mean(sum: f64, weight: f64) -> f64 {
    if weight > 0.0 { sum / weight } else { sum * 0.0 + 0.0 }
}

uniform! {
    /// What the loss changes from step to step (`Loss` in `shaders/common/loss_block.wgsl`).
    pub struct LossBlock {
        /// The upstream gradient of each loss: `1 / count` for the mean.
        dloss: f32,
        /// What the nll is multiplied by: 1 / the images that are not ignored.
        dnll: f32,
        /// The smoothed target's mass on the true class ([`crate::loss::smoothing::Masses`]).
        on: f32,
        /// On each other class.
        off: f32,
        /// What the target keeps of its own: `on - off`, or `1 - e` where a prior has the rest.
        kept: f32,
        /// The mass that goes by the prior.
        epsilon: f32,
    }
}

impl LossBlock {
    /// The means of `count` samples of weight 1.
    pub fn mean(count: usize) -> Self {
        let each = of_each(count as f64) as f32;
        Self { dloss: each, dnll: each, ..Self::default() }
    }
}

/// The loss's buffers in a plan.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// `[n, classes]`.
    pub logits: Slice,
    /// Class indices, `[n]`.
    pub targets: Slice,
    /// What the loss has for each image of the data set, `[images, classes]`, if it has something.
    pub rows: Option<Slice>,
    /// The epoch's order, `[images]`.
    pub order: Slice,
    /// Loss and nll of each sample, `[n, 2]`.
    pub losses: Slice,
    /// Gradient of the logits, `[n, stride]`.
    pub dlogits: Slice,
    /// Elements from one row of `dlogits` to the next.
    pub stride: usize,
}

impl<'a, T> Batch<'a, T> {
    /// The rows of images `from..to`, over `classes` classes. The divisors are the whole batch's.
    pub fn part(&self, range: std::ops::Range<usize>, classes: usize) -> Self {
        let rows =
            if self.rows.is_empty() { self.rows } else { &self.rows[range.start * classes..range.end * classes] };
        let others = if self.others.is_empty() { self.others } else { &self.others[range.clone()] };
        Self { labels: &self.labels[range], rows, others, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_nothing_is_zero_and_what_is_no_number_stays_none() {
        assert_eq!((mean(6.0, 3.0), mean(0.0, 0.0), mean(5.0, 0.0)), (2.0, 0.0, 0.0));
        assert!(mean(-5.0, 0.0).is_sign_positive());
        assert!([f64::NAN, f64::INFINITY].iter().all(|&sum| mean(sum, 0.0).is_nan()));
    }
}
