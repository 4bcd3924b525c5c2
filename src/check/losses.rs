//! Every form of loss against its twin.

use std::sync::Arc;

use super::cases::SMOOTHED_LOSS;
use super::probe::Probe;
use super::steps::{from, pairs, shares};
use super::{Row, random};
use crate::Result;
use crate::backend::gpu::Gpu;
use crate::cases::wide;
use crate::loss::{Batch, Buffers, FORMS, Loss, LossBlock, LossCase, Pass};
use crate::ops::mix::Mixed;
use crate::plan::{Block, Slice, Step};

/// Images of the epoch before the batch.
const FIRST: usize = 2;

/// One loss of each kind that training takes, by name, for `images` training images of `classes` classes.
///
/// # Errors
/// None: the numbers are in range.
pub fn losses(classes: usize, images: usize) -> Result<Vec<(&'static str, Loss)>> {
    let all: Result<Vec<_>> = FORMS.iter().map(|form| (form.trainings)(classes, images)).collect();
    Ok(all?.concat())
}

/// Every form over every shape.
///
/// # Errors
/// What the device reports. A wrong result is not an error: it is in its row.
pub fn all(gpu: &Arc<Gpu>, mut each: impl FnMut(Vec<Row>)) -> Result<()> {
    for form in FORMS {
        for &(n, classes, scale) in SMOOTHED_LOSS {
            for case in (form.cases)(n, classes, scale)? {
                each(loss(gpu, form.name, &case)?);
            }
        }
    }
    Ok(())
}

/// A case's passes: losses alone; the gradient alone for a random upstream gradient; both for one that all rows share,
/// with the gradient in rows of a multiple of four. `op` is the form's stem.
///
/// # Errors
/// What the device reports.
pub fn loss(gpu: &Arc<Gpu>, op: &str, case: &LossCase) -> Result<Vec<Row>> {
    let (n, classes, form) = (case.labels.len(), case.classes, &case.form);
    let logits = wide(&case.logits);
    let rows = wide(&case.rows);
    let others: Vec<u32> = case.labels.iter().rev().copied().collect();
    let batch = Batch { rows: &rows, others: &others, share: case.share, ..Batch::new(&case.labels) };
    let (mut losses, mut nlls) = (vec![0.0; n], vec![0.0; n]);
    form.forward(classes, &logits, batch, &mut losses);
    form.nll(classes, &logits, batch, &mut nlls);
    let upstream = random(n, 3);
    let block = form.fill(classes, LossBlock { dloss: case.dloss, ..shares(n) });

    let mut found = vec![];
    for pass in ["forward", "backward", "forward_backward"] {
        let mut probe = Probe::new(gpu);
        let at_logits = probe.floats("logits", &case.logits)?;
        let (rows, order) = self::rows(&mut probe, &case.rows, classes)?;
        let stride = if pass == "backward" { classes } else { classes.next_multiple_of(4) };
        let at = Buffers {
            logits: at_logits,
            targets: probe.words("targets", &case.labels)?,
            rows,
            order,
            losses: match pass {
                "backward" => at_logits,
                _ => probe.output("losses", pairs(&losses, &nlls), case.loss_tolerance.concat())?,
            },
            dlogits: match pass {
                "forward" => at_logits,
                _ => {
                    let dloss = if pass == "backward" { wide(&upstream) } else { vec![f64::from(case.dloss); n] };
                    let mut want = vec![0.0; n * classes];
                    form.backward(classes, &logits, batch, &dloss, &mut want);
                    let of = |(i, t): (usize, &f64)| t * dloss[i / classes].abs();
                    let tolerance: Vec<f64> = case.gradient_tolerance.iter().enumerate().map(of).collect();
                    let [want, tolerance] = [want, tolerance].map(|values| padded(&values, classes, stride));
                    probe.output("dlogits", want, tolerance)?
                }
            },
            stride,
        };
        let pass = match pass {
            "forward" => Pass::Forward,
            "backward" => Pass::Backward(probe.floats("dloss", &upstream)?),
            _ => Pass::ForwardBackward,
        };
        form.record(&mut probe.plan, pass, n + 1, classes, &at)?;
        let part = Mixed { share: case.share, ..Mixed::NONE }.block(0);
        let step = Step { part: Block::new(&part), ..from(FIRST, n, block) };
        found.extend(probe.run(op, &case.name, step)?);
    }
    Ok(found)
}

/// The rows as a data set has them: backwards, where the epoch's order finds them.
fn rows(probe: &mut Probe, rows: &[f32], classes: usize) -> Result<(Option<Slice>, Slice)> {
    let n = rows.len() / classes;
    let backwards: Vec<f32> = rows.chunks(classes).rev().flatten().copied().collect();
    let order: Vec<u32> = (0..FIRST as u32).chain((0..n as u32).rev()).collect();
    let at = (n > 0).then(|| probe.floats("rows", &backwards)).transpose()?;
    Ok((at, probe.words("order", &order)?))
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
