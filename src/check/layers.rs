//! Each layer's passes against its plain form in f64, for one case. Inputs are rounded to f32 first, so that both sides
//! start from the same numbers; upstream gradients are random.

use std::sync::Arc;

use super::Row;
use super::batch::CaseBatch;
use super::probe::Probe;
use super::steps::step;
use crate::Result;
use crate::backend::gpu::Gpu;
use crate::layer::{At, Mode, Random, Role};
use crate::ops::Case;
use crate::plan::{self, Slice, Step};

/// Every case of a layer, by its name in the rows.
///
/// # Errors
/// What the device reports, and [`crate::Error::Layer`] for a case that does not fit. A wrong result is not an error:
/// it is in its row.
pub fn all(gpu: &Arc<Gpu>, name: &str, cases: &[Case], mut each: impl FnMut(Vec<Row>)) -> Result<()> {
    cases.iter().try_for_each(|case| layer(gpu, name, case).map(&mut each))
}

/// A layer's passes over one case.
///
/// # Errors
/// As [`all`].
pub fn layer(gpu: &Arc<Gpu>, name: &str, case: &Case) -> Result<Vec<Row>> {
    of_batch(gpu, name, &CaseBatch::new(case)?)
}

/// A layer's passes over numbers that are given.
///
/// # Errors
/// What the device reports.
pub fn of_batch(gpu: &Arc<Gpu>, name: &str, batch: &CaseBatch<f64>) -> Result<Vec<Row>> {
    let CaseBatch { op, n, .. } = batch;
    if op.is_view() {
        return Ok(vec![]);
    }
    let text = format!("{n}x{}, {op:?}", op.input());
    let step = drawing(step(*n), batch.random);
    let mut rows = vec![];
    let trained = batch.forward(Mode::Training);
    let answered = batch.forward(Mode::Inference);
    for (mode, want) in [(Mode::Training, &trained), (Mode::Inference, &answered)] {
        if mode == Mode::Inference && want.y == trained.y && want.buffers == trained.buffers {
            continue;
        }
        let magnitude = batch.forward_terms(mode);
        let mut probe = Probe::new(gpu);
        let x = probe.floats("x", &narrow(&batch.x))?;
        let skip = if op.adds() { Some(probe.floats("skip", &narrow(&batch.skip))?) } else { None };
        let y = probe.output("y", want.y.clone(), batch.tolerance(0, &want.y, &magnitude.y))?;
        let saved = match op.saved(*n) {
            // No backward pass will want it.
            Some(saved) if mode == Mode::Inference => Some(probe.words(saved.name, &vec![0; saved.len])?),
            Some(saved) if saved.numbers => {
                let tolerance = batch.tolerance(0, &want.kept.numbers, &magnitude.kept.numbers);
                Some(probe.output(saved.name, want.kept.numbers.clone(), tolerance)?)
            }
            Some(saved) => Some(probe.output_words(saved.name, want.kept.words.clone())?),
            None => None,
        };
        let buffers = batch.buffers.iter().zip(want.buffers.iter().zip(&magnitude.buffers));
        let mut buffers = buffers.map(|(before, (after, magnitude))| {
            probe.updated("buffer", &narrow(before), after.clone(), batch.tolerance(0, after, magnitude))
        });
        let buffers: Vec<Slice> = buffers.by_ref().collect::<Result<_>>()?;
        let params = places(batch, &mut probe, &buffers)?;
        let layer = batch.random.layer;
        let at = At { name, n: n + 1, mode, x, skip, y, params: &params, grads: &[], saved, layer };
        op.record_forward(&mut probe.plan, &at)?;
        rows.extend(probe.run(name, &text, step)?);
    }

    let want = batch.backward(&trained);
    let size = batch.backward_terms(&trained);
    for wanted in [true, false] {
        if !wanted && !op.is_trained() {
            continue;
        }
        let mut probe = Probe::new(gpu);
        let x = probe.floats("x", &narrow(&batch.x))?;
        let y = probe.floats("y", &narrow(&trained.y))?;
        let saved = match op.saved(*n) {
            Some(saved) if saved.numbers => Some(probe.floats(saved.name, &narrow(&trained.kept.numbers))?),
            Some(saved) => Some(probe.words(saved.name, &trained.kept.words)?),
            None => None,
        };
        let buffers: Vec<Slice> =
            batch.buffers.iter().map(|values| probe.floats("buffer", &narrow(values))).collect::<Result<_>>()?;
        let params = places(batch, &mut probe, &buffers)?;
        let dy = probe.floats("dy", &narrow(&batch.dy))?;
        let at_dx = match wanted {
            true => Some(probe.output("dx", want.dx.clone(), batch.tolerance(1, &want.dx, &size.dx))?),
            false => None,
        };
        let mut of_trained = want.params.iter().zip(&size.params);
        let mut at_grads = vec![];
        for parameter in op.parameters() {
            at_grads.push(match (parameter.role, of_trained.next()) {
                (Role::Buffer, _) | (_, None) => x,
                (_, Some((want, size))) => {
                    probe.output(&format!("d{}", parameter.name), want.clone(), batch.tolerance(2, want, size))?
                }
            });
        }
        let (mode, layer) = (Mode::Training, batch.random.layer);
        let at = At { name, n: n + 1, mode, x, skip: None, y, params: &params, grads: &at_grads, saved, layer };
        op.record_backward(&mut probe.plan, &at, dy, at_dx)?;
        rows.extend(probe.run(name, &text, step)?);
    }
    Ok(rows)
}

/// The step of these random numbers.
fn drawing(step: Step, random: Random) -> Step {
    let halves = |n: u64| [n as u32, (n >> 32) as u32];
    let ([seed_low, seed_high], [step_low, step_high]) = (halves(random.seed), halves(random.step));
    Step { batch: plan::BatchBlock { seed_low, seed_high, step_low, step_high, ..step.batch }, ..step }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// Trained parameters and buffers, in the layer's order.
fn places(batch: &CaseBatch<f64>, probe: &mut Probe, buffers: &[Slice]) -> Result<Vec<Slice>> {
    let (mut trained, mut buffers) = (batch.params.iter(), buffers.iter());
    let place = |parameter: crate::layer::Parameter| match parameter.role {
        Role::Buffer => Ok(*buffers.next().expect("a place for each buffer")),
        _ => probe.floats(parameter.name, &narrow(trained.next().expect("values for each parameter"))),
    };
    batch.op.parameters().into_iter().map(place).collect()
}
