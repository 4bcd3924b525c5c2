//! A layer's gradients against finite differences of its forward pass, in f64. Needs no device.
//!
//! The derivative of f at 0 comes from five points: (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h, whose truncation error
//! is h^4 f^(5)/30. What is linear in each input, or is so between kinks, has none: there a large h leaves rounding no
//! room.
//!
//! The error is relative to the larger of the two derivatives, but to no less than a hundredth of the largest in their
//! tensor. Rounding in f is absolute: it does not shrink for an element whose terms happen to cancel.

use super::batch::CaseBatch;
use crate::layer::{Inputs, Mode};
use crate::ops::Case;
use crate::rng::Philox;
use crate::{Error, Result};

/// No derivative may be further off than this.
pub const LIMIT: f64 = 1e-9;

const FLOOR: f64 = 0.01;

/// What a case is in elements times operations: above some ten millions differences take long.
///
/// # Errors
/// [`Error::Layer`] for a case that does not fit.
pub fn work(case: &Case) -> Result<u64> {
    let batch = CaseBatch::<f64>::new(case)?;
    let elements: usize = batch.params.iter().map(Vec::len).sum::<usize>() + batch.x.len();
    let each = batch.op.flops() + (batch.op.input().len() + batch.op.output().len()) as u64;
    Ok(elements as u64 * each * batch.n as u64)
}

/// Differences of <layer(inputs), g> for a random g, in every element of every input and trained parameter; the worst
/// error.
///
/// # Errors
/// [`Error::Check`], naming the element, where it is above [`LIMIT`].
pub fn layer(name: &str, case: &Case) -> Result<f64> {
    let mut batch = CaseBatch::<f64>::new(case)?;
    clear_of_kinks(&mut batch);
    let smooth = batch.op.rounding(batch.n).ulps > 0.0;
    let h = if smooth { 2e-3 } else { 0.2 };
    let gradients = batch.backward(&batch.forward(Mode::Training));
    let mut worst = 0f64;
    let tensors = std::iter::once(&gradients.dx).chain(&gradients.params);
    for (tensor, gradient) in tensors.enumerate() {
        let largest = gradient.iter().fold(0f64, |most, v| most.max(v.abs()));
        for (i, &analytic) in gradient.iter().enumerate() {
            let mut at = |t: f64| {
                let value = match tensor {
                    0 => &mut batch.x[i],
                    parameter => &mut batch.params[parameter - 1][i],
                };
                let before = std::mem::replace(value, 0.0);
                *value = before + t;
                let y = batch.forward(Mode::Training).y;
                match tensor {
                    0 => batch.x[i] = before,
                    parameter => batch.params[parameter - 1][i] = before,
                }
                y
            };
            let points = [2.0 * h, -2.0 * h, h, -h].map(&mut at);
            let change =
                |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).zip(&batch.dy).map(|((a, b), g)| (a - b) * g).sum() };
            let numeric = (8.0 * change(&points[2], &points[3]) - change(&points[0], &points[1])) / (12.0 * h);
            let scale = analytic.abs().max(numeric.abs()).max(FLOOR * largest);
            let error = if scale == 0.0 { 0.0 } else { (analytic - numeric).abs() / scale };
            if error.is_nan() || error > LIMIT {
                return Err(Error::Check(format!(
                    "{name}, {:?}: gradient {tensor}, element {i}: found {analytic:e}, expected {numeric:e} by differences",
                    batch.op
                )));
            }
            worst = worst.max(error);
        }
    }
    Ok(worst)
}

/// Moves inputs to where no small step changes which piece of the operation they are on: 0.5 away from 0 where that is
/// a kink, and apart from each other where the largest wins.
fn clear_of_kinks(batch: &mut CaseBatch<f64>) {
    match batch.op.inputs() {
        Inputs::Any => {}
        Inputs::Zeros => batch.x.iter_mut().for_each(|v| *v += 0.5f64.copysign(*v)),
        Inputs::Ties => {
            batch.x.iter_mut().enumerate().for_each(|(i, v)| *v = i as f64 - 20.0);
            Philox::new(1, 1).shuffle(&mut batch.x);
        }
    }
}
