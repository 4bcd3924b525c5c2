//! The fused kernels against the composition of the oracle's passes, for one case.

use std::sync::Arc;

use super::blocks::{DataSet, channels_last, code_words, laid_out, stored_as};
use super::compare::sum_tolerance;
use super::probe::{POISON, Probe};
use super::row_sums::of_rows;
use super::steps::{from, pairs, shares, sum_of_products};
use super::{Row, halves, nan, random, random_targets};
use crate::Result;
use crate::backend::gpu::Gpu;
use crate::cases::wide;
use crate::loss::smoothed;
use crate::loss::smoothing::Smoothing;
use crate::ops::conv2d::{self, Conv2d};
use crate::ops::conv2d_pool::{self, Buffers, Conv2dPool, Input};
use crate::ops::conv2d_tiled;
use crate::ops::head::Head;
use crate::ops::linear::{self, Linear};
use crate::ops::linear_tiled;
use crate::ops::max_pool2d::{self, MaxPool2d};
use crate::ops::relu;
use crate::ops::stage::Layout;
use crate::ops::{AffineBuffers, IGNORED};
use crate::plan::Storage;
use crate::plan::tuning::{Tiles, Tuning};

/// Every fused kernel over every case.
///
/// # Errors
/// What the device reports. A wrong result is not an error: it is in its row.
pub fn all(gpu: &Arc<Gpu>, mut each: impl FnMut(Vec<Row>)) -> Result<()> {
    for &(n, dims) in conv2d_pool::CASES {
        each(conv2d_pool(gpu, n, dims)?);
    }
    each(nan::conv2d_pool(gpu)?);
    for (n, conv) in conv2d_tiled::CASES {
        each(super::conv2d_tiled::conv2d_tiled(gpu, *n, conv)?);
    }
    for (n, image) in conv2d_tiled::AVERAGES {
        each(super::conv2d_tiled::global_avg_pool2d(gpu, *n, *image)?);
    }
    for (n, dims) in linear::DIMS.iter().chain(linear_tiled::CASES).filter(|(_, dims)| dims.inputs.is_multiple_of(4)) {
        each(super::linear_tiled::linear_tiled(gpu, *n, dims)?);
        if Head::supports(dims) {
            each(head(gpu, *n, dims, Smoothing { variant: Default::default(), epsilon: 0.1 })?);
        }
    }
    Ok(())
}

/// Conv2d + ReLU + MaxPool2d, in every layout that fits the case. Over small integers, whose sums are exact, many
/// windows hold a tie and the codes must be the oracle's; over random numbers the values are compared. Every form of
/// the kernels that the device runs, and every storage that it has.
///
/// # Errors
/// What the device reports.
pub fn conv2d_pool(gpu: &Arc<Gpu>, n: usize, d: Conv2d) -> Result<Vec<Row>> {
    let [rows, columns] = d.output_plane();
    let pool = MaxPool2d { input: [d.c_out, rows, columns], kernel: [2, 2], stride: [2, 2], padding: [0; 2] };
    let mut found = vec![];
    let mut compositions: Vec<Composition> = vec![];
    for x in [Layout::Planes, Layout::ChannelsLast, Layout::Bytes] {
        for y in [Layout::Planes, Layout::ChannelsLast] {
            let wants_dx = d.padding == [1, 1] && x != Layout::Bytes;
            let Some(block) = Conv2dPool::new(&d, &pool, wants_dx, x, y) else { continue };
            // Few workgroups are large parts, and more are small ones; yet more are no other kernels.
            let others = |&tiles: &Tiles| tiles != Tiles::WorkgroupMany && gpu.runs(tiles);
            let forms = Tiles::DIVISIONS.into_iter().filter(others);
            let stored = || halves::ALL.into_iter().filter(|&stored| gpu.stores(stored));
            for (tiles, stored) in forms.flat_map(|tiles| stored().map(move |stored| (tiles, stored))) {
                let mut block = block.tuned(Tuning::all(tiles));
                block.stored = stored;
                for whole in [true, false] {
                    let kind = if whole { "integers" } else { "random" };
                    let name = format!(
                        "{n}x{:?} -> {}, p {:?}, {kind}, {x:?} to {y:?}, {tiles:?}, {stored:?}",
                        d.input, d.c_out, d.padding
                    );
                    let values = Values::of(&block, whole);
                    let known = compositions.iter().position(|known| known.values == values).unwrap_or_else(|| {
                        compositions.push(Composition::new(n, d, pool, values));
                        compositions.len() - 1
                    });
                    found.extend(compositions[known].check(gpu, name, &block)?);
                }
            }
        }
    }
    Ok(found)
}

/// What decides about the numbers of a case.
#[derive(Clone, Copy, PartialEq)]
struct Values {
    /// Small integers.
    whole: bool,
    /// The input is the bytes of a data set.
    bytes: bool,
    /// The storage that holds the input exactly.
    x: Storage,
}

impl Values {
    fn of(block: &Conv2dPool, whole: bool) -> Self {
        // Only what a block gives comes in halves.
        let x = if block.x == Layout::ChannelsLast { block.stored } else { Storage::F32 };
        Self { whole, bytes: block.x == Layout::Bytes, x }
    }
}

/// The composition of the oracle's passes, in PyTorch's layout: one for every layout and form of the kernels.
struct Composition {
    n: usize,
    d: Conv2d,
    values: Values,
    set: DataSet,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// Values and tolerance.
    y: [Vec<f64>; 2],
    code_words: Vec<u32>,
    dy: Vec<f32>,
    /// The gradient of the convolution's output.
    dv: Vec<f64>,
    /// Values and tolerance, where a block gives it.
    dx: Option<[Vec<f64>; 2]>,
    partials: Vec<Partials>,
}

/// The parts of the gradients of weight and bias of so many splits.
struct Partials {
    splits: (usize, usize),
    /// Values and tolerance.
    sums: [Vec<f64>; 2],
}

impl Composition {
    fn new(n: usize, d: Conv2d, pool: MaxPool2d, values: Values) -> Self {
        let whole = values.whole;
        let data = |len: usize, stream: u64| -> Vec<f32> {
            let values = random(len, stream);
            if whole { values.iter().map(|v| (v * 2.5).round()).collect() } else { values }
        };
        let [_, rows, columns] = pool.input.map(|len| len / 2);
        let windows = rows * columns;
        let pooled = n * d.c_out * windows;
        let (x, weight, bias) = (data(n * d.input_len(), 1), data(d.weight_len(), 2), data(d.c_out, 3));
        let set = DataSet::new(n, d.input, whole);
        let x = if values.bytes { set.batch(n) } else { halves::exact(values.x, x) };
        let [xs, ws, bs] = [&x, &weight, &bias].map(|values| wide(values));
        let [v, v_tolerance] = sum_of_products(n * d.output_len(), d.fan_in() + 1, &[&xs, &ws, &bs], |i, v| {
            conv2d::reference::forward(&d, i[0], i[1], i[2], v);
        });
        let mut active = vec![0.0; v.len()];
        relu::reference::forward(&v, &mut active);
        let (mut y, mut argmax) = (vec![0.0; pooled], vec![0u32; pooled]);
        max_pool2d::reference::forward(&pool, &active, &mut y, &mut argmax);
        // A maximum is off by no more than the worst of its window.
        let [plane, width] = [d.output_plane().iter().product::<usize>(), d.output_plane()[1]];
        let y_tolerance: Vec<f64> = (0..pooled)
            .map(|i| {
                let (start, window) = (i / windows * plane, i % windows);
                let corner = start + window / columns * 2 * width + window % columns * 2;
                let worst = [0, 1, width, width + 1].iter().map(|&o| v_tolerance[corner + o]).fold(0.0, f64::max);
                if whole { 0.0 } else { worst }
            })
            .collect();
        let code_words = code_words(&pool, &y, &argmax);

        // Backward starts from the oracle's codes. The gradient above a maximum that is not positive goes nowhere.
        let dy = random(pooled, 4);
        let masked: Vec<f64> = dy.iter().zip(&y).map(|(&g, &y)| if y > 0.0 { g.into() } else { 0.0 }).collect();
        let mut dv = vec![0.0; n * d.output_len()];
        max_pool2d::reference::backward(&pool, &argmax, &masked, &mut dv);
        let dx = (d.padding == [1, 1] && !values.bytes).then(|| {
            sum_of_products(x.len(), d.c_out * 9, &[&dv, &ws], |i, dx| {
                conv2d::reference::backward_input(&d, i[0], i[1], dx);
            })
        });
        let y = [y, y_tolerance];
        Self { n, d, values, set, x, weight, bias, y, code_words, dy, dv, dx, partials: vec![] }
    }

    /// The parts of the gradients of weight and bias: those of each split's rows of windows, image after image.
    fn partials(&mut self, block: &Conv2dPool) -> [Vec<f64>; 2] {
        let (splits, split_rows) = block.splits(self.n + 1);
        if let Some(known) = self.partials.iter().find(|known| known.splits == (splits, split_rows)) {
            return known.sums.clone();
        }
        let [_, rows, columns] = block.output();
        let height = self.d.output_plane()[0];
        // A row of windows is two rows of the convolution; below the last window there is no gradient.
        let row = |of_windows: usize| of_windows / rows * height + of_windows % rows * 2;
        let xs = wide(&self.x);
        let mut all = [vec![], vec![]];
        for split in 0..splits {
            let own = [split, split + 1].map(|split| row((split * split_rows).min(self.n * rows)));
            let part = of_rows(&self.d, &xs, &self.dv, own[0]..own[1], split_rows * columns);
            all.iter_mut().zip(part).for_each(|(all, part)| all.extend(part));
        }
        self.partials.push(Partials { splits: (splits, split_rows), sums: all.clone() });
        all
    }

    fn check(&mut self, gpu: &Arc<Gpu>, name: String, block: &Conv2dPool) -> Result<Vec<Row>> {
        let partials = self.partials(block);
        let Self { n, d, values, set, x, weight, bias, y: [y, y_tolerance], code_words, dy, dx, .. } = &*self;
        let (n, [c_in, h, w]) = (*n, d.input);
        let [_, rows, columns] = block.output();
        let windows = rows * columns;
        let at_x = |p: &mut Probe| -> Result<Input> {
            Ok(match block.x {
                Layout::Bytes => set.input(p)?,
                Layout::Planes | Layout::ChannelsLast => {
                    Input::Tensor(p.words("x", &halves::words(values.x, &laid_out(block.x, x, c_in, h * w)))?)
                }
            })
        };
        let step = from(DataSet::FIRST, n, shares(n));
        let mut probe = Probe::new(gpu);
        let at = Buffers {
            x: at_x(&mut probe)?,
            w: probe.floats("w", weight)?,
            b: probe.floats("b", bias)?,
            packed: probe.words("packed", &vec![POISON; block.packed_len()])?,
            packed_back: None,
            y: probe.stored(
                block.stored,
                "y",
                stored_as(block.stored, block.y, y, d.c_out, windows),
                stored_as(block.stored, block.y, y_tolerance, d.c_out, windows),
            )?,
            codes: match values.whole {
                true => probe.output_words("codes", code_words.clone())?,
                false => probe.words("codes", code_words)?,
            },
            partials: probe.words("partials", &[])?,
        };
        block.pack(&mut probe.plan, "block", n + 1, &at)?;
        block.forward(&mut probe.plan, "block", n + 1, &at)?;
        let mut found = probe.run("conv2d_pool", &name, step)?;

        let mut probe = Probe::new(gpu);
        let (x_buffer, codes) = (at_x(&mut probe)?, probe.words("codes", code_words)?);
        let w_buffer = probe.floats("w", weight)?;
        let wants_dx = dx.is_some();
        let [partials, tolerances] = partials;
        let at = Buffers {
            x: x_buffer,
            w: w_buffer,
            // Backward reads neither the bias nor the output.
            b: w_buffer,
            y: w_buffer,
            packed: probe.words("packed", &vec![POISON; block.packed_len()])?,
            packed_back: match wants_dx {
                true => Some(probe.words("packed_back", &vec![POISON; block.packed_back_len()])?),
                false => None,
            },
            codes,
            partials: probe.output("partials", partials, tolerances)?,
        };
        let dy_last = channels_last(dy, d.c_out, windows);
        let at_dy = probe.floats("dy", dy)?;
        let at_last = probe.output("dy", wide(&dy_last), vec![0.0; dy.len()])?;
        block.pack(&mut probe.plan, "block", n + 1, &at)?;
        block.channels_last(&mut probe.plan, "block", n + 1, at_dy, at_last)?;
        let mut at_dx = None;
        if let Some([dx, tolerance]) = dx {
            let lay = |values: &[f64]| laid_out(block.x, values, c_in, h * w);
            at_dx = Some(probe.output("dx", lay(dx), lay(tolerance))?);
        }
        block.backward(&mut probe.plan, "block", n + 1, &at, at_last, at_dx)?;
        if wants_dx && block.x == Layout::Planes {
            // As the first layer. The same parts again.
            block.backward(&mut probe.plan, "block", n + 1, &at, at_last, None)?;
        }
        found.extend(probe.run("conv2d_pool", &name, step)?);
        Ok(found)
    }
}

/// The last layer with its loss, in every storage that the device has.
///
/// # Errors
/// What the device reports.
pub fn head(gpu: &Arc<Gpu>, n: usize, dims: &Linear, smoothing: Smoothing) -> Result<Vec<Row>> {
    let mut rows = vec![];
    for stored in halves::ALL.into_iter().filter(|&stored| gpu.stores(stored)) {
        rows.extend(head_case(gpu, n, *dims, smoothing, stored)?);
    }
    Ok(rows)
}

fn head_case(gpu: &Arc<Gpu>, n: usize, d: Linear, smoothing: Smoothing, stored: Storage) -> Result<Vec<Row>> {
    let masses = smoothing.masses(d.outputs);
    let Some(mut head) = Head::new(&d) else { return Ok(vec![]) };
    head.x = stored;
    let (x, w, b) = (halves::exact(stored, random(n * d.inputs, 1)), random(d.weight_len(), 2), random(d.outputs, 3));
    let mut targets = random_targets(n, d.outputs, 4);
    targets.iter_mut().skip(3).step_by(4).for_each(|target| *target = IGNORED);
    let inputs = [wide(&x), wide(&w), wide(&b)];
    let [logits, tolerance] =
        sum_of_products(n * d.outputs, d.inputs + 1, &inputs.each_ref().map(Vec::as_slice), |i, y| {
            linear::reference::forward(&d, i[0], i[1], i[2], y);
        });
    let worst = tolerance.iter().copied().fold(0.0, f64::max);
    let largest = logits.iter().fold(0f64, |m, v| m.max(v.abs()));
    let mut losses = vec![0.0; n];
    smoothed::reference::forward(masses, d.outputs, &logits, &targets, &mut losses);
    let mut nlls = vec![0.0; n];
    smoothed::reference::forward(Smoothing::NONE.masses(d.outputs), d.outputs, &logits, &targets, &mut nlls);
    let dloss = f64::from(shares(n).dloss);
    let mut dlogits = vec![0.0; n * d.outputs];
    smoothed::reference::backward(masses, d.outputs, &logits, &targets, &vec![dloss; n], &mut dlogits);
    // A loss changes by at most twice the worst change of its logits; a probability by twice that times itself.
    let loss_tolerance = 2.0 * worst + sum_tolerance(d.outputs, 2.0 * largest) + 2e-6;
    let gradient_tolerance = dloss * (2.0 * worst + (8.0 * largest.max(8.0) + 4.0) * 2f64.powi(-24));
    let padded = |values: &[f64]| {
        let mut rows = vec![];
        for row in values.chunks(d.outputs) {
            rows.extend_from_slice(row);
            rows.resize(rows.len() + head.stride() - d.outputs, 0.0);
        }
        rows
    };

    let mut probe = Probe::new(gpu);
    let at_logits = probe.output("logits", logits, tolerance)?;
    let at = AffineBuffers {
        x: probe.words("x", &halves::words(stored, &x))?,
        w: probe.floats("w", &w)?,
        b: probe.floats("b", &b)?,
        y: at_logits,
        dw: at_logits,
        db: at_logits,
    };
    let dlogits = padded(&dlogits);
    let tolerances = vec![gradient_tolerance; dlogits.len()];
    let losses = probe.output("losses", pairs(&losses, &nlls), vec![loss_tolerance; 2 * n])?;
    let dlogits = probe.output("dlogits", dlogits, tolerances)?;
    // The batch's labels among others', back to front.
    let first = 3;
    let order: Vec<u32> = (0..(n + first) as u32).rev().collect();
    let mut labels: Vec<u32> = targets.iter().rev().copied().collect();
    labels.extend([0; 3]);
    let looked_up = [probe.words("labels", &labels)?, probe.words("order", &order)?];
    head.forward_backward(&mut probe.plan, "head", n + 1, &at, [at_logits, losses, dlogits], looked_up)?;
    let step = from(first, n, masses.fill(shares(n)));
    probe.run("head", &format!("{n}x{} -> {}, {:?}, {stored:?}", d.inputs, d.outputs, smoothing.variant), step)
}
