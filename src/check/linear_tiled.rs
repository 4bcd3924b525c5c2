//! The tiled passes of Linear, with what is fused into them, against the plain form.

use std::sync::Arc;

use super::blocks::channels_last;
use super::probe::Probe;
use super::steps::{step, sum_of_products};
use super::{Row, halves, random};
use crate::Result;
use crate::backend::gpu::Gpu;
use crate::cases::wide;
use crate::ops::AffineBuffers;
use crate::ops::linear::{Linear, reference};
use crate::ops::linear_tiled::LinearTiled;
use crate::plan::tuning::Tiles;
use crate::plan::{Slice, Storage};

/// The tiled passes of Linear, plain; with ReLU above, ReLU below and the input's channels moved last; in
/// every form that the device runs, and every storage that it has.
///
/// # Errors
/// What the device reports.
pub fn linear_tiled(gpu: &Arc<Gpu>, n: usize, dims: &Linear) -> Result<Vec<Row>> {
    let Some(plain) = LinearTiled::new(dims) else { return Ok(vec![]) };
    let mut rows = vec![];
    for tiles in [Tiles::Registers, Tiles::Lanes].into_iter().filter(|&tiles| gpu.runs(tiles)) {
        for plane in [1, dims.inputs / 4] {
            let fused = plane > 1;
            let layer = LinearTiled { relu: fused, mask: fused, plane, tiles, ..plain };
            for (x, y) in [(Storage::F32, Storage::F32), (Storage::F16, Storage::F32), (Storage::F16, Storage::F16)] {
                if gpu.stores(x) && (y == Storage::F32 || dims.outputs.is_multiple_of(4)) {
                    rows.extend(affine_linear(gpu, n, dims, &LinearTiled { x, y, ..layer })?);
                }
            }
        }
    }
    Ok(rows)
}

/// The tiled passes of Linear, with what is fused into them.
fn affine_linear(gpu: &Arc<Gpu>, n: usize, d: &Linear, tiled: &LinearTiled) -> Result<Vec<Row>> {
    let affine = AffineCase {
        op: "linear_tiled",
        case: format!(
            "{n}x{} -> {}, relu {}, plane {}, {:?} to {:?}",
            d.inputs, d.outputs, tiled.relu, tiled.plane, tiled.x, tiled.y
        ),
        n,
        lens: AffineLens { x: n * d.inputs, w: d.weight_len(), b: d.outputs, y: n * d.outputs },
        terms: [d.inputs + 1, d.outputs, n, n],
        dy_rows: [d.outputs, tiled.dy_stride()],
        stored: [tiled.x, tiled.y],
        plane: tiled.plane,
    };
    // As the inputs of the case itself.
    let x = halves::exact(tiled.x, random(n * d.inputs, 1));
    let forward = |i: &[&[f64]], y: &mut [f64]| {
        reference::forward(d, i[0], i[1], i[2], y);
        if tiled.relu {
            y.iter_mut().for_each(|y| *y = y.max(0.0));
        }
    };
    let backward_input = |i: &[&[f64]], dx: &mut [f64]| {
        let mut plain = vec![0.0; dx.len()];
        reference::backward_input(d, i[0], i[1], &mut plain);
        for (at, &v) in plain.iter().enumerate() {
            let (image, feature) = (at / d.inputs * d.inputs, at % d.inputs);
            let stored = feature % tiled.plane * (d.inputs / tiled.plane) + feature / tiled.plane;
            dx[image + stored] = if tiled.mask && x[at] <= 0.0 { 0.0 } else { v };
        }
    };
    affine.run(
        gpu,
        (forward, &|p, at, _, _| tiled.forward(&mut p.plan, "linear", n + 1, at)),
        backward_input,
        |i, dw, db| reference::backward_weight(d, i[0], i[1], dw, db),
        &|p, at, dy, dx| tiled.backward(&mut p.plan, "linear", n + 1, at, dy, Some(dx)),
        Some(&|p, at, dy, _| tiled.backward(&mut p.plan, "linear", n + 1, at, dy, None)),
    )
}

/// Three passes that sum products of `x`, `w`, `b` and `dy`.
struct AffineCase<'a> {
    op: &'a str,
    case: String,
    n: usize,
    lens: AffineLens,
    /// Terms in an element of `y`, `dx`, `dw`, `db`.
    terms: [usize; 4],
    /// Elements in a row of `dy`, and from one row to the next; zeros between.
    dy_rows: [usize; 2],
    /// In what `x` and `y` are stored; in halves, positions in a channel of `x`.
    stored: [Storage; 2],
    plane: usize,
}

struct AffineLens {
    x: usize,
    w: usize,
    b: usize,
    y: usize,
}

type Record<'a> = &'a dyn Fn(&mut Probe, &AffineBuffers, Slice, Slice) -> Result<()>;

impl AffineCase<'_> {
    fn run(
        &self,
        gpu: &Arc<Gpu>,
        forward: (impl Fn(&[&[f64]], &mut [f64]), Record),
        input_gradient: impl Fn(&[&[f64]], &mut [f64]),
        weight_gradient: impl Fn(&[&[f64]], &mut [f64], &mut [f64]),
        backward: Record,
        without_dx: Option<Record>,
    ) -> Result<Vec<Row>> {
        let AffineLens { x, w, b, y } = self.lens;
        let data = [halves::exact(self.stored[0], random(x, 1)), random(w, 2), random(b, 3), random(y, 4)];
        let [xs, ws, bs, dys] = data.each_ref().map(|values| wide(values));
        let mut rows = vec![];

        let probe = |outputs: &mut dyn FnMut(&mut Probe) -> Result<[Slice; 4]>, record: Record| -> Result<Vec<Row>> {
            let mut probe = Probe::new(gpu);
            let [out_y, out_dx, out_dw, out_db] = outputs(&mut probe)?;
            let x = match self.stored[0] {
                Storage::F32 => data[0].clone(),
                Storage::F16 => channels_last(&data[0], 2, self.plane),
            };
            let at = AffineBuffers {
                x: probe.words("x", &halves::words(self.stored[0], &x))?,
                w: probe.floats("w", &data[1])?,
                b: probe.floats("b", &data[2])?,
                y: out_y,
                dw: out_dw,
                db: out_db,
            };
            let mut dy = vec![];
            for row in data[3].chunks(self.dy_rows[0]) {
                dy.extend_from_slice(row);
                dy.resize(dy.len() + self.dy_rows[1] - self.dy_rows[0], 0.0);
            }
            let dy = probe.floats("dy", &dy)?;
            record(&mut probe, &at, dy, out_dx)?;
            probe.run(self.op, &self.case, step(self.n))
        };

        let [want, tolerance] = sum_of_products(y, self.terms[0], &[&xs, &ws, &bs], forward.0);
        rows.extend(probe(
            &mut |p| Ok([p.stored(self.stored[1], "y", want.clone(), tolerance.clone())?; 4]),
            forward.1,
        )?);
        let dx = sum_of_products(x, self.terms[1], &[&dys, &ws], input_gradient);
        let weight = |i: &[&[f64]], out: &mut [f64]| weight_gradient(i, out, &mut vec![0.0; b]);
        let bias = |i: &[&[f64]], out: &mut [f64]| weight_gradient(i, &mut vec![0.0; w], out);
        let dw = sum_of_products(w, self.terms[2], &[&xs, &dys], weight);
        let db = sum_of_products(b, self.terms[3], &[&xs, &dys], bias);
        for (record, wants_dx) in [(Some(backward), true), (without_dx, false)] {
            let Some(record) = record else { continue };
            let mut outputs = |p: &mut Probe| {
                let dw = p.output("dw", dw[0].clone(), dw[1].clone())?;
                let db = p.output("db", db[0].clone(), db[1].clone())?;
                let dx = if wants_dx { p.output("dx", dx[0].clone(), dx[1].clone())? } else { dw };
                Ok([dw, dx, dw, db])
            };
            rows.extend(probe(&mut outputs, record)?);
        }
        Ok(rows)
    }
}
