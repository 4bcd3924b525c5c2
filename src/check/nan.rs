//! Pooling's kernels over images with a NaN, which a comparison that means well passes over unless it is the first of
//! its window. Image by image it is at each place of a plane, and so at each place of a window; every other one has
//! a sign.

use std::sync::Arc;

use super::blocks::{DataSet, code_words, laid_out, stored_as};
use super::probe::{POISON, Probe};
use super::steps::{from, shares, step};
use super::{Row, halves, random};
use crate::Result;
use crate::backend::gpu::Gpu;
use crate::cases::wide;
use crate::layer::{At, Mode, Op};
use crate::ops::conv2d::{self, Conv2d};
use crate::ops::conv2d_pool::{Buffers, Conv2dPool, Input};
use crate::ops::max_pool2d::{self, MaxPool2d};
use crate::ops::relu;
use crate::ops::stage::Layout;
use crate::plan::Storage;
use crate::plan::tuning::{Tiles, Tuning};

/// An image's rows and columns, and how many images have a NaN somewhere.
const PLANE: [usize; 2] = [6, 7];
const N: usize = PLANE[0] * PLANE[1];

/// Small integers, and in image `n` a NaN at place `n` of one channel.
fn images(channels: usize) -> Vec<f32> {
    let mut x: Vec<f32> = random(N * channels * N, 1).iter().map(|v| (v * 2.5).round()).collect();
    for n in 0..N {
        x[(n * channels + n % channels) * N + n] = if n % 2 == 0 { f32::NAN } else { -f32::NAN };
    }
    x
}

/// MaxPool2d's forward pass, with infinities as well: exact, argmax included.
///
/// # Errors
/// What the device reports.
pub fn max_pool2d(gpu: &Arc<Gpu>) -> Result<Vec<Row>> {
    let mut rows = vec![];
    for (kernel, stride, padding) in
        [([2, 2], [2, 2], [0, 0]), ([3, 2], [1, 3], [0, 0]), ([6, 7], [1, 1], [0, 0]), ([3, 4], [2, 1], [1, 2])]
    {
        let d = MaxPool2d { input: [2, PLANE[0], PLANE[1]], kernel, stride, padding };
        let mut x = images(2);
        (0..N)
            .for_each(|n| x[n * 2 * N + (n * 5 + 1) % N] = if n % 3 == 0 { f32::INFINITY } else { f32::NEG_INFINITY });
        let mut y = vec![0.0; N * d.output_len()];
        let mut argmax = vec![0; y.len()];
        max_pool2d::reference::forward(&d, &wide(&x), &mut y, &mut argmax);

        let mut probe = Probe::new(gpu);
        let x = probe.floats("x", &x)?;
        let y = probe.output_exact(Storage::F32, "y", y)?;
        let argmax = probe.output_words("argmax", argmax)?;
        let (n, saved) = (N + 1, Some(argmax));
        let at = At {
            name: "max_pool2d",
            n,
            mode: Mode::Training,
            x,
            skip: None,
            y,
            params: &[],
            grads: &[],
            saved,
            layer: 0,
        };
        d.record_forward(&mut probe.plan, &at)?;
        rows.extend(probe.run(
            "max_pool2d",
            &format!("a NaN in {N}x{:?}, k {kernel:?} s {stride:?} p {padding:?}", d.input),
            step(N),
        )?);
    }
    Ok(rows)
}

/// Conv2d + ReLU + MaxPool2d, in every layout, form and storage: exact, codes included.
///
/// # Errors
/// What the device reports.
pub fn conv2d_pool(gpu: &Arc<Gpu>) -> Result<Vec<Row>> {
    let d = Conv2d {
        input: [4, PLANE[0], PLANE[1]],
        c_out: 12,
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        bias: true,
        ..Conv2d::PLAIN
    };
    let pool = MaxPool2d { input: [d.c_out, PLANE[0], PLANE[1]], kernel: [2, 2], stride: [2, 2], padding: [0; 2] };
    let mut rows = vec![];
    for x in [Layout::Planes, Layout::ChannelsLast, Layout::Bytes] {
        for y in [Layout::Planes, Layout::ChannelsLast] {
            let block = Conv2dPool::new(&d, &pool, x != Layout::Bytes, x, y).expect("a block");
            for tiles in Tiles::ALL.into_iter().filter(|&tiles| gpu.runs(tiles)) {
                for stored in halves::ALL.into_iter().filter(|&stored| gpu.stores(stored)) {
                    let mut block = block.tuned(Tuning::all(tiles));
                    block.stored = stored;
                    rows.extend(block_case(gpu, &d, &pool, &block, tiles)?);
                }
            }
        }
    }
    Ok(rows)
}

/// Bytes have no NaN, but their normalisation may give one: 0 times an infinity. The other pixels are the infinity,
/// and with weights above 0 so are the sums.
fn bytes(image: [usize; 3]) -> DataSet {
    let [channels, ..] = image;
    let mut bytes = vec![1; (DataSet::FIRST + N) * channels * N];
    (0..N).for_each(|n| bytes[((DataSet::FIRST + n) * channels + n % channels) * N + n] = 0);
    let order = (0..(DataSet::FIRST + N) as u32).collect();
    DataSet { bytes, order, normalisation: vec![[f32::NEG_INFINITY, 0.0]; channels], image }
}

fn block_case(gpu: &Arc<Gpu>, d: &Conv2d, pool: &MaxPool2d, block: &Conv2dPool, tiles: Tiles) -> Result<Vec<Row>> {
    let [c_in, ..] = d.input;
    let set = bytes(d.input);
    let x_stored = if block.x == Layout::ChannelsLast { block.stored } else { Storage::F32 };
    let whole = |len, stream| random(len, stream).iter().map(|v| (v * 2.5).round()).collect::<Vec<f32>>();
    let (mut weight, bias) = (whole(d.weight_len(), 2), whole(d.c_out, 3));
    let mut x = images(c_in);
    if block.x == Layout::Bytes {
        x = set.batch(N);
        weight.iter_mut().for_each(|w| *w = w.abs() + 1.0);
    }
    let mut v = vec![0.0; N * d.output_len()];
    conv2d::reference::forward(d, &wide(&x), &wide(&weight), &wide(&bias), &mut v);
    let mut active = vec![0.0; v.len()];
    relu::reference::forward(&v, &mut active);
    let windows = pool.output_plane().iter().product::<usize>();
    let (mut y, mut argmax) = (vec![0.0; N * d.c_out * windows], vec![0; N * d.c_out * windows]);
    max_pool2d::reference::forward(pool, &active, &mut y, &mut argmax);

    let mut probe = Probe::new(gpu);
    let at = Buffers {
        x: match block.x {
            Layout::Bytes => set.input(&mut probe)?,
            layout => Input::Tensor(probe.words("x", &halves::words(x_stored, &laid_out(layout, &x, c_in, N)))?),
        },
        w: probe.floats("w", &weight)?,
        b: probe.floats("b", &bias)?,
        packed: probe.words("packed", &vec![POISON; block.packed_len()])?,
        packed_back: None,
        codes: probe.output_words("codes", code_words(pool, &y, &argmax))?,
        y: probe.output_exact(block.stored, "y", stored_as(block.stored, block.y, &y, d.c_out, windows))?,
        partials: probe.words("partials", &[])?,
    };
    block.pack(&mut probe.plan, "block", N + 1, &at)?;
    block.forward(&mut probe.plan, "block", N + 1, &at)?;
    let name = format!("a NaN in {N}x{:?}, {:?} to {:?}, {tiles:?}, {:?}", d.input, block.x, block.y, block.stored);
    probe.run("conv2d_pool", &name, from(DataSet::FIRST, N, shares(N)))
}
