//! Tiled convolutions, and what runs with them, against the composition of the oracle's passes.

use std::sync::Arc;

use super::Row;
use super::blocks::channels_last;
use super::probe::{POISON, Probe};
use super::random;
use super::row_sums::{add_rows, of_rows};
use super::steps::{step, sum_of_products};
use crate::Result;
use crate::backend::gpu::Gpu;
use crate::cases::{sum_tolerance, wide};
use crate::layer::{Backward, Forward, Kept, Mode, Random, Twin};
use crate::ops::batch_norm2d::BatchNorm2d;
use crate::ops::conv2d::{self, Conv2d};
use crate::ops::conv2d_tiled::{Conv2dTiled, Tail, Tiled};
use crate::ops::global_avg_pool2d::GlobalAvgPool2d;
use crate::ops::max_pool2d::{self, MaxPool2d};
use crate::ops::stage::{Bytes, ChannelsLast, Places, Stage, StageAt};
use crate::plan::Slice;
use crate::plan::tuning::{Tiles, Tuning};

/// One rounding of f32.
const ULP: f64 = 1.0 / (1u64 << 24) as f64;

/// What follows the convolution in a case.
#[derive(Clone, Copy, Debug)]
struct What {
    norm: bool,
    adds: bool,
    relu: bool,
    pools: bool,
}

/// Nothing; and each way that a stage has.
const ALL: [What; 7] = [
    What { norm: false, adds: false, relu: false, pools: false },
    What { norm: false, adds: false, relu: true, pools: false },
    What { norm: true, adds: false, relu: false, pools: false },
    What { norm: true, adds: false, relu: true, pools: false },
    What { norm: true, adds: true, relu: false, pools: false },
    What { norm: true, adds: true, relu: true, pools: false },
    What { norm: true, adds: false, relu: true, pools: true },
];

/// Ways in which a convolution may go on.
pub const WAYS: usize = ALL.len();

/// A convolution with everything that may follow it.
///
/// # Errors
/// What the device reports.
pub fn conv2d_tiled(gpu: &Arc<Gpu>, n: usize, conv: &Conv2d) -> Result<Vec<Row>> {
    let mut rows = vec![];
    for way in 0..WAYS {
        rows.extend(one_way(gpu, n, conv, way, 0.0)?);
    }
    Ok(rows)
}

/// A convolution with what follows it in one of the [ways](WAYS), in every form of the kernels that the device runs: in
/// one of two the tensors are in planes, in the other they have their channels last. `offset` is added to the input: a
/// mean far from 0.
///
/// # Errors
/// What the device reports.
pub fn one_way(gpu: &Arc<Gpu>, n: usize, conv: &Conv2d, way: usize, offset: f32) -> Result<Vec<Row>> {
    let (Some(tiled), what) = (Conv2dTiled::new(conv), ALL[way]) else { return Ok(vec![]) };
    let image = tiled.output();
    let mut rows = vec![];
    if what.norm && n * image[1] * image[2] < 2 || what.pools && image[1..].iter().any(|&len| len < 2) {
        return Ok(rows);
    }
    for (i, tiles) in [Tiles::Registers, Tiles::Lanes].into_iter().enumerate().filter(|(_, tiles)| gpu.runs(*tiles)) {
        let last = (i + way + n).is_multiple_of(2);
        // Nobody gives channels last that are not fours.
        let last = ChannelsLast { x: last && conv.input[0].is_multiple_of(4), skip: last, y: last };
        let norm = what.norm.then_some(BatchNorm2d { image, eps: 0.1, momentum: 0.3 });
        let What { adds, relu, pools, .. } = what;
        let following = Tail { image, norm, adds, relu, pools };
        let mut stage = Tiled::new(tiled.tuned(Tuning::all(tiles)), following, true);
        stage.settle(last);
        rows.extend(Case { n, conv, following, offset }.run(gpu, &stage, last, tiles)?);
    }
    Ok(rows)
}

struct Case<'a> {
    n: usize,
    conv: &'a Conv2d,
    following: Tail,
    offset: f32,
}

/// Values, and how far each of them may be off.
#[derive(Clone)]
struct Near {
    values: Vec<f64>,
    tolerance: Vec<f64>,
}

impl Case<'_> {
    fn run(&self, gpu: &Arc<Gpu>, stage: &Tiled, last: ChannelsLast, tiles: Tiles) -> Result<Vec<Row>> {
        let Self { n, conv, following, offset } = *self;
        let name = format!("{n}x{:?} + {offset}, {conv:?}, {:?}, {last:?}, {tiles:?}", conv.input, self.what());
        let channels = conv.c_out;
        let lay = |is_last: bool, values: &[f64], [channels, h, w]: [usize; 3]| match is_last {
            true => channels_last(values, channels, h * w),
            false => values.to_vec(),
        };
        let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();

        let x: Vec<f64> = wide(&random(n * conv.input_len(), 1).iter().map(|v| v + offset).collect::<Vec<f32>>());
        let weight = wide(&random(conv.weight_len(), 2));
        let bias = if conv.bias { wide(&random(channels, 3)) } else { vec![0.0; channels] };
        let skip = wide(&random(n * following.image.iter().product::<usize>(), 4));
        let affine = [wide(&random(channels, 5)), wide(&random(channels, 6))];
        let kept = [random(channels, 7), random(channels, 8).iter().map(|v| 1.0 + v.abs()).collect()].map(|v| wide(&v));

        let [z, z_tolerance] =
            sum_of_products(n * conv.output_len(), conv.fan_in() + 1, &[&x, &weight, &bias], |i, z| {
                conv2d::reference::forward(conv, i[0], i[1], i[2], z);
            });
        let z = Near { values: z, tolerance: z_tolerance };
        let mut rows = vec![];
        for mode in [Mode::Training, Mode::Inference] {
            let (y, running, saved) = self.forward(mode, &z, &skip, &affine, &kept);
            let mut probe = Probe::new(gpu);
            let output = following.output();
            let at_y = probe.output("y", lay(last.y, &y.values, output), lay(last.y, &y.tolerance, output))?;
            let at_x = probe.floats("x", &narrow(&lay(last.x, &x, conv.input)))?;
            let at_skip = probe.floats("skip", &narrow(&lay(last.skip, &skip, following.image)))?;
            let mut params = vec![probe.floats("w", &narrow(&weight))?];
            if conv.bias {
                params.push(probe.floats("b", &narrow(&bias))?);
            }
            let mut buffers = vec![];
            if following.norm.is_some() {
                for values in &affine {
                    params.push(probe.floats("affine", &narrow(values))?);
                }
                for (before, after) in kept.iter().zip(&running) {
                    let (values, tolerance) = (after.values.clone(), after.tolerance.clone());
                    buffers.push(probe.updated("running", &narrow(before), values, tolerance)?);
                }
            }
            let shares = stage.shares(n + 1);
            let poisoned = |probe: &mut Probe, name: &str, len: usize| probe.words(name, &vec![POISON; len]);
            let packed = poisoned(&mut probe, "packed", shares.packed)?;
            let packed_back = poisoned(&mut probe, "packed_back", shares.packed_back)?;
            let kept_at = stage.saved(n + 1);
            let kept_at: Vec<Slice> =
                kept_at.iter().map(|saved| poisoned(&mut probe, saved.name, saved.len)).collect::<Result<_>>()?;
            let mut at = StageAt {
                name: "conv",
                n: n + 1,
                mode,
                x: at_x,
                skip: following.adds.then_some(at_skip),
                dskip: None,
                before: None,
                bytes: Bytes { images: at_x, order: at_x, normalisation: at_x },
                y: at_y,
                params: &params,
                buffers: &buffers,
                grads: &[],
                saved: &kept_at,
                partials: at_x,
                packed,
                packed_back: Some(packed_back),
                layer: 0,
            };
            stage.pack(&mut probe.plan, &at)?;
            stage.forward(&mut probe.plan, &at)?;
            if mode == Mode::Inference {
                rows.extend(probe.run("conv2d_tiled", &name, step(n))?);
                continue;
            }

            let mut dy = wide(&random(y.values.len(), 9));
            let before = wide(&random(x.len(), 10));
            let of_norm = self.backward(&z, &y, &saved, &affine, &skip, &mut dy);
            let dz = &of_norm.dz;
            let at_dy = probe.floats("dy", &narrow(&lay(last.y, &dy, output)))?;
            let mut grads = vec![at_x; params.len()];
            if following.norm.is_some() {
                let first = params.len() - 2;
                for (i, of) in of_norm.affine.iter().enumerate() {
                    grads[first + i] = probe.output("daffine", of.values.clone(), of.tolerance.clone())?;
                }
            }
            at.grads = &grads;
            if following.adds {
                let Near { values, tolerance } = &of_norm.dskip;
                let [values, tolerance] = [values, tolerance].map(|v| lay(last.skip, v, following.image));
                at.dskip = Some(probe.output("dskip", values, tolerance)?);
            }
            let partials = self.partials(stage, &x, dz);
            at.partials = probe.output("partials", partials.values, partials.tolerance)?;
            let mut dx = self.input_gradient(dz, &weight);
            if stage.adds_gradient() {
                at.before = Some(probe.floats("before", &narrow(&lay(last.x, &before, conv.input)))?);
                dx.values.iter_mut().zip(&before).for_each(|(dx, before)| *dx += before);
                dx.tolerance.iter_mut().zip(&dx.values).for_each(|(t, v)| *t += 2.0 * ULP * (v.abs() + 1.0));
            }
            let [values, tolerance] = [&dx.values, &dx.tolerance].map(|v| lay(last.x, v, conv.input));
            let at_dx = probe.output("dx", values, tolerance)?;
            stage.backward(&mut probe.plan, &at, at_dy, Some(at_dx))?;
            rows.extend(probe.run("conv2d_tiled", &name, step(n))?);
        }
        Ok(rows)
    }

    fn what(&self) -> What {
        let Tail { norm, adds, relu, pools, .. } = self.following;
        What { norm: norm.is_some(), adds, relu, pools }
    }

    fn pool(&self) -> MaxPool2d {
        MaxPool2d { input: self.following.image, kernel: [2, 2], stride: [2, 2], padding: [0; 2] }
    }

    fn channel(&self, i: usize) -> usize {
        let [channels, h, w] = self.following.image;
        i / (h * w) % channels
    }

    /// The largest error of z in each channel: statistics have a part in it.
    fn worst(&self, z: &Near) -> Vec<f64> {
        let mut worst = vec![0f64; self.conv.c_out];
        for (i, (&t, v)) in z.tolerance.iter().zip(&z.values).enumerate() {
            let worst = &mut worst[self.channel(i)];
            *worst = worst.max(t + 4.0 * ULP * v.abs());
        }
        worst
    }

    /// y, the running statistics, and what the batch norm keeps: mean and inv of each channel. Without one these are 0
    /// and 1.
    fn forward(
        &self,
        mode: Mode,
        z: &Near,
        skip: &[f64],
        affine: &[Vec<f64>; 2],
        before: &[Vec<f64>; 2],
    ) -> (Near, Vec<Near>, [Vec<f64>; 2]) {
        let channels = self.conv.c_out;
        let worst = self.worst(z);
        let mut v = z.clone();
        let mut running = vec![];
        let mut statistics = [vec![0.0; channels], vec![1.0; channels]];
        if let Some(norm) = self.following.norm {
            let mut kept = Kept { words: vec![], numbers: vec![0.0; 2 * channels] };
            let mut after = before.clone();
            let pass = Forward {
                n: self.n,
                mode,
                x: &z.values,
                skip: &[],
                params: &[&affine[0], &affine[1]],
                buffers: &mut after.each_mut().map(Vec::as_mut_slice),
                y: &mut v.values,
                kept: &mut kept,
                random: Random::default(),
            };
            Twin::<f64>::forward(&norm, pass);
            statistics = match mode {
                Mode::Training => [kept.numbers[..channels].to_vec(), kept.numbers[channels..].to_vec()],
                Mode::Inference => {
                    [before[0].clone(), before[1].iter().map(|var| 1.0 / (var + norm.eps).sqrt()).collect()]
                }
            };
            for (i, t) in v.tolerance.iter_mut().enumerate() {
                let c = self.channel(i);
                let xhat = (z.values[i] - statistics[0][c]) * statistics[1][c];
                *t = affine[0][c].abs() * self.of_xhat(xhat, worst[c], statistics[1][c])
                    + 4.0 * ULP * (v.values[i].abs() + 1.0);
            }
            for (which, values) in after.into_iter().enumerate() {
                let tolerance = (0..channels).map(|c| {
                    // A distance is off by what its element is, and squares are off by twice that times themselves.
                    let size = if which == 0 { 1.0 } else { 4.0 / statistics[1][c] + 4.0 * worst[c] };
                    let rounded = 8.0 * ULP * (values[c].abs() + 1.0);
                    if mode == Mode::Training { worst[c] * size + rounded } else { 0.0 }
                });
                running.push(Near { tolerance: tolerance.collect(), values });
            }
        }
        for (i, v) in v.values.iter_mut().enumerate() {
            *v += if self.following.adds { skip[i] } else { 0.0 };
            *v = if self.following.relu { v.max(0.0) } else { *v };
        }
        if self.following.pools {
            v = self.pooled(&v);
        }
        (v, running, statistics)
    }

    /// How far xhat is off, where z and its mean are off by at most `worst`.
    fn of_xhat(&self, xhat: f64, worst: f64, inv: f64) -> f64 {
        2.0 * inv * worst * (1.0 + xhat.abs()) + 8.0 * ULP * (xhat.abs() + 1.0)
    }

    fn pooled(&self, v: &Near) -> Near {
        let len = self.n * self.following.output().iter().product::<usize>();
        let (mut values, mut tolerance, mut at) = (vec![0.0; len], vec![0.0; len], vec![0u32; len]);
        max_pool2d::reference::forward(&self.pool(), &v.tolerance, &mut tolerance, &mut at);
        max_pool2d::reference::forward(&self.pool(), &v.values, &mut values, &mut at);
        Near { values, tolerance }
    }

    /// What goes through ReLU and pooling, and the batch norm's gradients. Where rounding could send it another way,
    /// nothing comes from above.
    fn backward(
        &self,
        z: &Near,
        y: &Near,
        [mean, inv]: &[Vec<f64>; 2],
        affine: &[Vec<f64>; 2],
        skip: &[f64],
        dy: &mut [f64],
    ) -> Gradients {
        let worst = self.worst(z);
        let channels = self.conv.c_out;
        let xhat: Vec<f64> =
            z.values.iter().enumerate().map(|(i, z)| (z - mean[self.channel(i)]) * inv[self.channel(i)]).collect();
        let active: Vec<f64> = (0..xhat.len())
            .map(|i| {
                let c = self.channel(i);
                let normed = match self.following.norm {
                    Some(_) => affine[0][c] * xhat[i] + affine[1][c],
                    None => z.values[i],
                };
                normed + if self.following.adds { skip[i] } else { 0.0 }
            })
            .collect();
        let mut g = vec![0.0; active.len()];
        if self.following.pools {
            let rectified: Vec<f64> = active.iter().map(|v| v.max(0.0)).collect();
            let (mut largest, mut at) = (vec![0.0; dy.len()], vec![0u32; dy.len()]);
            max_pool2d::reference::forward(&self.pool(), &rectified, &mut largest, &mut at);
            let [_, h, w] = self.following.image;
            let [rows, columns] = [h / 2, w / 2];
            for (i, dy) in dy.iter_mut().enumerate() {
                let near = 4.0 * y.tolerance[i];
                let start = i / (rows * columns) * h * w;
                let corner = start + i % (rows * columns) / columns * 2 * w + i % columns * 2;
                let others = [0, 1, w, w + 1].map(|o| corner + o).into_iter().filter(|&o| o != start + at[i] as usize);
                if largest[i] <= near || others.into_iter().any(|o| largest[i] - active[o] <= near) {
                    *dy = 0.0;
                }
            }
            max_pool2d::reference::backward(&self.pool(), &at, dy, &mut g);
        } else {
            for (i, dy) in dy.iter_mut().enumerate() {
                if self.following.relu && active[i].abs() <= 4.0 * y.tolerance[i] {
                    *dy = 0.0;
                }
                g[i] = if self.following.relu && active[i] <= 0.0 { 0.0 } else { *dy };
            }
        }
        let exact = Near { tolerance: vec![0.0; g.len()], values: g.clone() };
        let Some(norm) = self.following.norm else {
            return Gradients { dz: exact.clone(), dskip: exact, affine: vec![] };
        };
        let mut dz = vec![0.0; g.len()];
        let (mut dweight, mut dbias) = (vec![0.0; channels], vec![0.0; channels]);
        let kept = Kept { words: vec![], numbers: [mean.clone(), inv.clone()].concat() };
        let pass = Backward {
            n: self.n,
            x: &z.values,
            y: &z.values,
            params: &[&affine[0], &affine[1]],
            kept: &kept,
            dy: &g,
            dx: Some(&mut dz),
            grads: &mut [&mut dweight, &mut dbias],
            random: Random::default(),
        };
        Twin::<f64>::backward(&norm, pass);
        // The sizes of the sums, and how far they are off.
        let m = g.len() / channels;
        let (mut size, mut products, mut off) = (vec![0.0; channels], vec![0.0; channels], vec![0.0; channels]);
        for (i, g) in g.iter().enumerate() {
            let c = self.channel(i);
            size[c] += g.abs();
            products[c] += (g * xhat[i]).abs();
            off[c] += g.abs() * self.of_xhat(xhat[i], worst[c], inv[c]);
        }
        let of_weight: Vec<f64> = (0..channels).map(|c| off[c] + sum_tolerance(m, products[c])).collect();
        let of_bias: Vec<f64> = size.iter().map(|&size| sum_tolerance(m, size)).collect();
        let of = |i: usize| {
            let (c, m) = (self.channel(i), m as f64);
            let terms = g[i].abs() + (dbias[c] / m).abs() + (xhat[i] * dweight[c] / m).abs();
            let of_xhat = self.of_xhat(xhat[i], worst[c], inv[c]);
            let relative = 2.0 * inv[c] * worst[c] + 16.0 * ULP;
            let sums = of_bias[c] / m + xhat[i].abs() * of_weight[c] / m + of_xhat * (dweight[c] / m).abs();
            (affine[0][c] * inv[c]).abs() * (terms * relative + sums)
        };
        let tolerance = (0..dz.len()).map(of).collect();
        let affine = vec![Near { values: dweight, tolerance: of_weight }, Near { values: dbias, tolerance: of_bias }];
        Gradients { dz: Near { values: dz, tolerance }, dskip: exact, affine }
    }

    /// The parts of the gradients of weight and bias: those of each split's rows, image after image.
    fn partials(&self, stage: &Tiled, x: &[f64], dz: &Near) -> Near {
        let conv = self.conv;
        let [rows, columns] = conv.output_plane();
        let segments = stage.segments(self.n + 1, &[0, 0], Places::default());
        let (splits, split) = stage.splits(self.n + 1);
        assert_eq!(segments[0].splits as usize, splits);
        let biases = if conv.bias { conv.c_out } else { 0 };
        let mut all = Near { values: vec![], tolerance: vec![] };
        let magnitudes: Vec<f64> = x.iter().map(|x| x.abs()).collect();
        for first in (0..splits).map(|i| i * split) {
            let own = first.min(self.n * rows)..(first + split).min(self.n * rows);
            let [values, tolerance] = of_rows(conv, x, &dz.values, own.clone(), split * columns);
            let mut off = vec![0.0; values.len()];
            add_rows(conv, &magnitudes, &dz.tolerance, own, &mut off);
            let used = conv.weight_len() + biases;
            all.values.extend(&values[..used]);
            all.tolerance.extend(tolerance.iter().zip(&off).map(|(t, off)| t + off).take(used));
        }
        all
    }

    fn input_gradient(&self, dz: &Near, weight: &[f64]) -> Near {
        let conv = self.conv;
        let pass = |i: &[&[f64]], dx: &mut [f64]| conv2d::reference::backward_input(conv, i[0], i[1], dx);
        let len = self.n * conv.input_len();
        let terms = conv.c_out * conv.kernel.iter().product::<usize>();
        let [values, mut tolerance] = sum_of_products(len, terms, &[&dz.values, weight], pass);
        let mut off = vec![0.0; len];
        pass(&[&dz.tolerance, &weight.iter().map(|w| w.abs()).collect::<Vec<_>>()], &mut off);
        tolerance.iter_mut().zip(off).for_each(|(t, off)| *t += off);
        Near { values, tolerance }
    }
}

struct Gradients {
    dz: Near,
    dskip: Near,
    /// Of the batch norm's weight and bias.
    affine: Vec<Near>,
}

/// The average of each channel where channels are last.
///
/// # Errors
/// What the device reports.
pub fn global_avg_pool2d(gpu: &Arc<Gpu>, n: usize, image: [usize; 3]) -> Result<Vec<Row>> {
    let dims = GlobalAvgPool2d(image);
    let (plane, features) = (dims.plane(), n * image[0]);
    let (x, dy) = (random(features * plane, 1), random(features, 2));
    let means = |of: fn(f64) -> f64| -> Vec<f64> {
        let mean = |x: &[f32]| x.iter().map(|&x| of(x.into())).sum::<f64>() / plane as f64;
        x.chunks(plane).map(mean).collect()
    };
    let tolerance = means(f64::abs).iter().map(|&size| sum_tolerance(plane, size)).collect();
    let dx: Vec<f64> = dy.iter().flat_map(|&dy| vec![f64::from(dy) / plane as f64; plane]).collect();
    let mut probe = Probe::new(gpu);
    let x = probe.floats("x", &channels_last(&x, image[0], plane))?;
    let y = probe.output("y", means(|x| x), tolerance)?;
    dims.forward_last(&mut probe.plan, "average", n + 1, [x, y])?;
    let dy = probe.floats("dy", &dy)?;
    let dx = channels_last(&dx, image[0], plane);
    let tolerance = dx.iter().map(|dx| 4.0 * ULP * dx.abs()).collect();
    let dx = probe.output("dx", dx, tolerance)?;
    dims.backward_last(&mut probe.plan, "average", n + 1, [dy, dx])?;
    probe.run("global_avg_pool2d", &format!("{n}x{image:?}, channels last"), step(n))
}
