//! The operations that are no layers against the plain form, for one case: the optimizers, clipping, the gather, the
//! seal. Inputs are rounded to f32 first, so that both sides start from the same numbers.

use std::sync::Arc;

use super::compare::sum_tolerance;
use super::probe::Probe;
use super::steps::{from, shares, step};
use super::{Row, random};
use crate::Result;
use crate::backend::gpu::Gpu;
use crate::cases::wide;
use crate::ops::augment::{Augment, Border};
use crate::ops::conv2d::Conv2d;
use crate::ops::conv2d_pool::Conv2dPool;
use crate::ops::gather;
use crate::ops::max_pool2d::MaxPool2d;
use crate::ops::seal::{self, Extent};
use crate::ops::stage::{Layout, Places, Segment};
use crate::optimizer::{
    self, Adam, Buffers as OptimizerBuffers, LOSS_PARTS, Optimizer, SLOT_WORDS, Sgd, Values, WeightMatrix, clip, ema,
    muon,
};
use crate::plan::{BatchBlock, Block, Step};

/// The optimizers that are checked.
pub fn optimizers() -> Vec<Optimizer> {
    let adam = Adam { weight_decay: 0.01, ..Default::default() };
    let sgd = Sgd { lr: 0.1, momentum: 0.0, nesterov: false, weight_decay: 0.0 };
    vec![
        Optimizer::Adam(Adam::default()),
        Optimizer::Adam(adam),
        Optimizer::AdamW(adam),
        // Where the constant is added matters only if it is large.
        Optimizer::Adam(Adam { lr: 0.1, betas: [0.8, 0.95], eps: 0.1, weight_decay: 0.0 }),
        Optimizer::Muon(Adam { weight_decay: 0.1, ..muon::settings() }),
        Optimizer::Sgd(sgd),
        Optimizer::Sgd(Sgd { momentum: 0.9, ..sgd }),
        Optimizer::Sgd(Sgd { momentum: 0.9, nesterov: true, weight_decay: 5e-4, ..sgd }),
    ]
}

/// One update, the third, from a random state, and the sum of the losses.
///
/// # Errors
/// What the device reports.
pub fn optimizer(gpu: &Arc<Gpu>, len: usize, optimizer: &Optimizer) -> Result<Vec<Row>> {
    OptimizerCase::whole(len).run(gpu, &format!("{len}, {optimizer:?}"), optimizer)
}

/// The same where the gradients of a convolution's weight and bias come in parts, and the weight has copies.
///
/// # Errors
/// What the device reports.
pub fn optimizer_segments(gpu: &Arc<Gpu>, optimizer: &Optimizer, wants_dx: bool) -> Result<Vec<Row>> {
    let case = OptimizerCase::in_segments(wants_dx);
    case.run(gpu, &format!("{} in segments, copy for backward: {wants_dx}, {optimizer:?}", case.len), optimizer)
}

/// The norm of a gradient of `len` elements, or of one in segments, and the gradient clipped: to a half, and not at
/// all.
///
/// # Errors
/// What the device reports.
pub fn clip(gpu: &Arc<Gpu>, len: Option<usize>) -> Result<Vec<Row>> {
    const SLOT: usize = 2;
    let case = len.map_or_else(|| OptimizerCase::in_segments(true), OptimizerCase::whole);
    let grads = random(case.len + case.partials, 2);
    let gradient = case.gradient(&grads);
    let norm = clip::reference::clip(&mut gradient[..case.len].to_vec(), 1.0);
    let ulp = 2f64.powi(-24);
    let splits = f64::from(case.segments.iter().map(|s| s.splits).max().unwrap_or(1));
    let mut rows = vec![];
    for share in [0.5, 2.0] {
        // The device has it in f32.
        let most = f64::from((norm * share) as f32);
        let mut want = gradient.clone();
        clip::reference::clip(&mut want[..case.len], most);
        // Squares of numbers that are a sum each, their sum, its root, the quotient.
        let relative = ulp * (8.0 + 2.0 * splits + (case.len as f64).sqrt());
        let tolerance = want.iter().map(|w| relative * w.abs() + ulp * splits * splits).collect();
        let mut norms = vec![0.0; 4];
        norms[SLOT] = norm;
        let mut probe = Probe::new(gpu);
        let at = clip::Buffers {
            grads: probe.updated("grads", &grads, want, tolerance)?,
            step_norms: probe.updated("step_norms", &[0.0; 4], norms, vec![relative * norm; 4])?,
        };
        let whole = clip::record(&mut probe.plan, most, case.len, &case.segments, &at)?;
        assert!(whole.iter().all(|s| (s.partials, s.splits) == (s.first, 1)), "added already: {whole:?}");
        let step = Step { batch: BatchBlock { slot: SLOT as u32, ..BatchBlock::default() }, ..Step::default() };
        rows.extend(probe.run(
            "clip",
            &format!("{} in {} segments, to {share}", case.len, case.segments.len()),
            step,
        )?);
    }
    Ok(rows)
}

/// The moving average of `len` numbers.
///
/// # Errors
/// What the device reports.
pub fn ema(gpu: &Arc<Gpu>, len: usize) -> Result<Vec<Row>> {
    let (values, before) = (random(len, 1), random(len, 2));
    let mut want = wide(&before);
    ema::update(0.9, &wide(&values), &mut want);
    let mut probe = Probe::new(gpu);
    let values = probe.floats("values", &values)?;
    // Both factors, both products and the sum are rounded, numbers of up to 1.
    let averages = probe.updated("averages", &before, want, vec![4.0 * 2f64.powi(-24); len])?;
    ema::record(&mut probe.plan, "check", 0.9, len, values, averages)?;
    probe.run("ema", &len.to_string(), Step::default())
}

struct OptimizerCase {
    len: usize,
    segments: Vec<Segment>,
    /// What Muon takes as matrices.
    matrices: Vec<WeightMatrix>,
    /// Elements of `grads` behind the gradient.
    partials: usize,
    packed: Vec<f32>,
    /// An element of `packed`, and the parameter that is copied there.
    copies: Vec<(usize, usize)>,
}

impl OptimizerCase {
    fn whole(len: usize) -> Self {
        // Wider, higher, of a tile and of several, of fewer elements than a thread owns; 64 others between them.
        let shapes = [[5, 13], [1, 3], [40, 9], [33, 70], [128, 150], [7, 1]];
        let mut first = 64;
        let mut matrices = vec![];
        for [rows, columns] in shapes {
            let end = first + rows * columns;
            if end <= len {
                matrices.push(WeightMatrix { first, rows, columns });
                first = end.next_multiple_of(64) + 64;
            }
        }
        Self { len, segments: vec![], matrices, partials: 0, packed: vec![0.0; 4], copies: vec![] }
    }

    /// `values` with zeros behind each matrix, to the next multiple of 64, as in a network.
    fn padded(&self, mut values: Vec<f32>) -> Vec<f32> {
        for end in self.matrices.iter().map(|matrix| matrix.range().end) {
            values[end..end.next_multiple_of(64).min(self.len)].fill(0.0);
        }
        values
    }

    /// The weight and the bias of a convolution.
    fn in_segments(wants_dx: bool) -> Self {
        const LEN: usize = 512;
        const N: usize = 3;
        let conv = Conv2d {
            input: [5, 4, 4],
            c_out: 4,
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            bias: true,
            ..Conv2d::PLAIN
        };
        let pool = MaxPool2d { input: [4, 4, 4], kernel: [2, 2], stride: [2, 2], padding: [0; 2] };
        let block = Conv2dPool::new(&conv, &pool, wants_dx, Layout::Planes, Layout::Planes).expect("a block");
        let params = [64, 256];
        let at = Places { partials: LEN + 64, packed: 64, packed_back: wants_dx.then_some(64 + block.packed_len()) };
        let mut copies = vec![];
        for i in 0..conv.weight_len() {
            let (o, c, tap) = (i / 45, i / 9 % 5, i % 9);
            copies.push((at.packed + (c * 9 + tap) * 8 + o, params[0] + i));
            copies.extend(at.packed_back.map(|start| (start + (o * 9 + 8 - tap) * 8 + c, params[0] + i)));
        }
        Self {
            len: LEN,
            segments: block.segments(N, params, at).to_vec(),
            matrices: vec![WeightMatrix { first: params[0], rows: 4, columns: 45 }],
            partials: 64 + block.partials_len(N),
            packed: vec![0.5; 64 + block.packed_len() + block.packed_back_len()],
            copies,
        }
    }

    /// `grads` with the sum of its parts wherever there are some.
    fn gradient(&self, grads: &[f32]) -> Vec<f64> {
        let mut gradient = wide(grads);
        for s in &self.segments {
            for i in 0..s.len {
                let part = |split| f64::from(grads[(s.partials + split * s.stride + i) as usize]);
                gradient[(s.first + i) as usize] = (0..s.splits).map(part).sum();
            }
        }
        gradient
    }

    fn run(&self, gpu: &Arc<Gpu>, case: &str, optimizer: &Optimizer) -> Result<Vec<Row>> {
        const T: u64 = 3;
        const LOSSES: usize = 131;
        const SLOT: usize = 2;
        const STAMP: u32 = 0x4048_f5c3;
        let len = self.len;
        let op = match optimizer {
            Optimizer::Adam(_) | Optimizer::AdamW(_) => "adam",
            Optimizer::Muon(_) => "muon",
            Optimizer::Sgd(_) => "sgd",
        };
        let [params, grads, first] =
            [(len, 1), (len + self.partials, 2), (len, 3)].map(|(len, seed)| self.padded(random(len, seed)));
        let second: Vec<f32> = random(len, 4).iter().map(|v| v * v).collect();
        let gradient = self.gradient(&grads);
        let mut want = wide(&params);
        let before = [&first, &second];
        let mut slots: Vec<_> = before.iter().take(optimizer.slots().len()).map(|slot| wide(slot)).collect();
        // Weight decay reaches a part of the parameters alone.
        let decayed = (len / 8 * 4).max(4);
        let split = self.matrices.iter().map(|matrix| matrix.range()).find(|range| range.contains(&decayed));
        let decayed = split.map_or(decayed, |range| range.end.next_multiple_of(64).min(len));
        optimizer.step(
            T,
            Values { params: &mut want, grads: &gradient[..len], slots: &mut slots, decayed, matrices: &self.matrices },
        );

        let update = optimizer.update(T);
        // A handful of roundings of numbers not above 1 (moments, parameters), and of the step itself. A gradient in
        // parts brings more of them, and is larger.
        let ulp = 2f64.powi(-24);
        let splits = self.segments.iter().map(|s| s.splits).max().unwrap_or(1);
        let parts = f64::from(splits);
        let mut tolerance: Vec<f64> = want
            .iter()
            .zip(&params)
            .map(|(w, &p)| ulp * 4.0 * parts + (w - f64::from(p)).abs() * 32.0 * parts * ulp)
            .collect();
        if let Optimizer::Muon(adam) = optimizer {
            // What is rounded in one of Newton and Schulz's steps grows up to 3.4 times in each of the others.
            for matrix in &self.matrices {
                let most = adam.lr * muon::size(matrix) * 1024.0 * parts * ulp;
                tolerance[matrix.range()].iter_mut().for_each(|t| *t += most);
            }
        }
        let moment = vec![6.0 * ulp * parts * parts; len];
        let mut packed = wide(&self.packed);
        let mut packed_tolerance = vec![0.0; packed.len()];
        for &(to, from) in &self.copies {
            (packed[to], packed_tolerance[to]) = (want[from], tolerance[from]);
        }
        let losses = random(2 * LOSSES, 5);
        let factors = [shares(LOSSES).dloss, shares(LOSSES).dnll].map(f64::from);
        let losses_before = [0.25; SLOT_WORDS * 4];
        let mut step_losses = wide(&losses_before);
        let slot = &mut step_losses[SLOT_WORDS * SLOT..][..SLOT_WORDS];
        // The second stamp stays what it was: every number is finite.
        slot[2 * LOSS_PARTS] = f32::from_bits(STAMP).into();
        for (i, sum) in slot[..2 * LOSS_PARTS].iter_mut().enumerate() {
            *sum = losses.iter().skip(i).step_by(2 * LOSS_PARTS).map(|&v| f64::from(v) * factors[i % 2]).sum();
        }
        let loss_tolerance = vec![sum_tolerance(LOSSES.div_ceil(LOSS_PARTS), factors[0] * 3.0); losses_before.len()];

        let mut probe = Probe::new(gpu);
        let at = OptimizerBuffers {
            params: probe.updated("params", &params, want, tolerance)?,
            grads: probe.updated("grads", &grads, gradient.clone(), vec![ulp * parts * parts; gradient.len()])?,
            slots: {
                let mut at = [None; 2];
                for (i, slot) in slots.into_iter().enumerate() {
                    at[i] = Some(probe.updated(optimizer.slots()[i], before[i], slot, moment.clone())?);
                }
                at
            },
            packed: probe.updated("packed", &self.packed, packed, packed_tolerance)?,
            losses: probe.floats("losses", &losses)?,
            step_losses: probe.updated("step_losses", &losses_before, step_losses, loss_tolerance)?,
        };
        optimizer.record(&mut probe.plan, [len, decayed], &self.matrices, &self.segments, &at)?;
        let step = Step {
            batch: BatchBlock { count: LOSSES as u32, slot: SLOT as u32, stamp: STAMP, ..BatchBlock::default() },
            optimizer: Block::new(&optimizer::OptimizerBlock::from(update)),
            ..step(LOSSES)
        };
        probe.run(op, case, step)
    }
}

/// The seals of a fixed number of words, and of some for each of a batch's images.
///
/// # Errors
/// What the device reports.
pub fn seal(gpu: &Arc<Gpu>) -> Result<Vec<Row>> {
    const STAMP: u32 = 0xdead_beef;
    let mut rows = vec![];
    for (extent, images) in [(Extent::Words(1), 1), (Extent::Words(70_001), 1), (Extent::Rows(10, 9), 7)] {
        let words: Vec<u32> = random(70_001, 6).iter().map(|v| v.to_bits()).collect();
        let (len, used) = match extent {
            Extent::Words(len) => (len, len),
            Extent::Rows(row, rows) => (row * rows, row * images),
        };
        let threads = extent.seal_len() / 2;
        let share = |thread: usize| {
            let own = (thread..used).step_by(threads);
            own.fold(0u32, |sum, w| sum.wrapping_add(words[w].wrapping_mul(2 * w as u32 + 1)))
        };
        let want: Vec<u32> = (0..threads).flat_map(|thread| [STAMP, share(thread)]).collect();
        assert!(seal::holds(&want, STAMP, &words[..used]), "the host's own sum");
        let mut probe = Probe::new(gpu);
        let from = probe.words("words", &words[..len])?;
        let at = probe.output_words("seal", want)?;
        seal::close(&mut probe.plan, "check", extent, from, at)?;
        rows.extend(probe.run(
            "seal",
            &format!("{extent:?}, {used} words"),
            BatchBlock { count: images as u32, stamp: STAMP, ..BatchBlock::default() }.into(),
        )?);
    }
    Ok(rows)
}

/// The seed and the update whose random numbers are drawn.
const DRAWN: BatchBlock = BatchBlock {
    count: 0,
    first: 0,
    slot: 0,
    stamp: 0,
    seed_low: 0x9abc_def0,
    seed_high: 7,
    step_low: 11,
    step_high: 3,
};

/// What is done to images, and shapes that it fits.
pub const GATHERS: &[([usize; 3], Augment)] = &[
    ([3, 8, 8], Augment::CIFAR),
    ([1, 5, 7], Augment { shift: 4, border: Border::Reflect, flip: true, cutout: 3, ..Augment::NONE }),
    ([2, 6, 3], Augment { shift: 2, cutout: 2, ..Augment::NONE }),
    ([1, 4, 4], Augment { flip: true, cutout: 1, ..Augment::NONE }),
    ([3, 9, 7], Augment { rotate: 30.0, scale: 0.3, ..Augment::NONE }),
    ([1, 6, 11], Augment { shift: 3, border: Border::Reflect, flip: true, rotate: 180.0, scale: 0.5, ..Augment::NONE }),
    ([1, 1, 5], Augment { border: Border::Reflect, rotate: 90.0, ..Augment::NONE }),
    ([3, 4, 5], Augment { brightness: 0.4, contrast: 0.7, cutout: 2, ..Augment::NONE }),
    ([2, 7, 7], Augment { shift: 1, scale: 0.2, brightness: 1.0, flip: true, ..Augment::NONE }),
];

/// The gather of a batch from the middle of an order, with its normalisation, of images augmented so.
///
/// # Errors
/// What the device reports.
pub fn gather(gpu: &Arc<Gpu>, n: usize, image: [usize; 3], augment: &Augment) -> Result<Vec<Row>> {
    const IMAGES: usize = 11;
    const FIRST: usize = 2;
    let pixels: usize = image.iter().product();
    let mut rng = crate::rng::Philox::new(9, 9);
    let mut bytes: Vec<u8> = (0..IMAGES * pixels).map(|_| rng.below(256) as u8).collect();
    let labels: Vec<u32> = (0..IMAGES as u32).map(|i| i * 3 % 7).collect();
    let mut order: Vec<u32> = (0..IMAGES as u32).collect();
    rng.shuffle(&mut order);
    let statistics: Vec<[f64; 2]> =
        (0..image[0]).map(|c| [0.1307 + c as f64 * 0.1, 0.3081 + c as f64 * 0.05]).collect();
    let normalisation: Vec<[f32; 2]> = statistics.iter().map(|&channel| gather::affine(channel)).collect();
    let batch = &order[FIRST..FIRST + n];
    let step = from(FIRST, n, shares(n));
    let BatchBlock { seed_low, seed_high, step_low, step_high, .. } = DRAWN;
    let step = Step { batch: BatchBlock { seed_low, seed_high, step_low, step_high, ..step.batch }, ..step };
    let [seed, update] =
        [[seed_low, seed_high], [step_low, step_high]].map(|[low, high]| u64::from(high) << 32 | u64::from(low));
    let changed = |(k, &i): (usize, &u32)| {
        let mut to = vec![0; pixels];
        let drawn = augment.draw(seed, update, k, image);
        augment.apply(&augment.table(), &drawn, image, &bytes[i as usize * pixels..][..pixels], &mut to);
        to
    };
    let want: Vec<f64> = batch
        .iter()
        .enumerate()
        .map(changed)
        .flat_map(|image| image.into_iter().enumerate())
        .map(|(pixel, byte)| {
            let channel = pixel / (image[1] * image[2]);
            let [mean, std] = statistics[channel];
            (f64::from(byte) / 255.0 - mean) / std
        })
        .collect();
    // Scale, offset, product and sum are rounded, numbers of up to 4.
    let tolerance: Vec<f64> = want.iter().map(|w| (w.abs() * 10.0 + 20.0) * 2f64.powi(-24)).collect();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let words: Vec<u32> = bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();

    let mut probe = Probe::new(gpu);
    let at = gather::Buffers {
        images: probe.words("images", &words)?,
        labels: probe.words("labels", &labels)?,
        order: probe.words("order", &order)?,
        normalisation: probe.floats("normalisation", normalisation.as_flattened())?,
        x: probe.output("x", want, tolerance)?,
        targets: probe.output_words("targets", batch.iter().map(|&i| labels[i as usize]).collect())?,
    };
    gather::gather(&mut probe.plan, "check", n + 1, image, augment, &at)?;
    let how = if augment.is_none() { String::new() } else { format!(", {augment:?}") };
    probe.run("gather", &format!("{n} of {IMAGES} images {image:?}{how}"), step)
}
