//! What the comparisons have in common: the step that a case runs in, and what follows from its inputs.

use super::compare::sum_tolerance;
use crate::loss;
use crate::plan::{BatchBlock, Block, Step};

/// The first step of an epoch, over `count` images.
pub(crate) fn step(count: usize) -> Step {
    from(0, count, shares(count))
}

/// A step over the images from `first` of the epoch on.
pub(super) fn from(first: usize, count: usize, loss: loss::LossBlock) -> Step {
    let batch = BatchBlock { count: count as u32, first: first as u32, ..BatchBlock::default() };
    Step { batch, loss: Block::new(&loss), ..Step::default() }
}

/// What the losses and the nlls of `count` images are multiplied by: not the same.
pub(super) fn shares(count: usize) -> loss::LossBlock {
    let n = count as f64;
    loss::LossBlock { dloss: (1.0 / n) as f32, dnll: (0.7 / n) as f32, ..loss::LossBlock::default() }
}

fn absolute(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| v.abs()).collect()
}

/// A pass that sums products: its result, and the tolerance that follows from the same pass over absolute values.
pub(super) fn sum_of_products(
    len: usize,
    terms: usize,
    inputs: &[&[f64]],
    pass: impl Fn(&[&[f64]], &mut [f64]),
) -> [Vec<f64>; 2] {
    let mut want = vec![0.0; len];
    pass(inputs, &mut want);
    let magnitudes: Vec<Vec<f64>> = inputs.iter().map(|input| absolute(input)).collect();
    let mut magnitude = vec![0.0; len];
    pass(&magnitudes.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut magnitude);
    [want, magnitude.iter().map(|&m| sum_tolerance(terms, m)).collect()]
}

/// Loss and nll of each row, as the device has them.
pub(super) fn pairs(losses: &[f64], nlls: &[f64]) -> Vec<f64> {
    losses.iter().zip(nlls).flat_map(|(&loss, &nll)| [loss, nll]).collect()
}
