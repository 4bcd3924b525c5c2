//! Training on a GPU: the plan of a step, replayed many times a submission, with the data set on the device.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Instant;

use super::cut;
use super::engine::{MAX_STEPS, Pending, check_limits};
use super::{Engine, Gpu};
use crate::backend::{Setup, State, Trainer, UpdatePart};
use crate::compile::fuse::Kernels;
use crate::compile::{Compiled, Data, Job, compile, largest_batch};
use crate::data::Dataset;
use crate::loss::{self, BatchLoss, of_each};
use crate::ops::gather::affine;
use crate::ops::mix::Mixed;
use crate::ops::seal;
use crate::optimizer::{self, SLOT_WORDS, Slot};
use crate::plan::Storage;
use crate::plan::tuning::Tuning;
use crate::plan::{self, BatchBlock, Plan, Slice, Step};
use crate::{Error, Result};

/// Submissions that may be under way at once: while the device works on one, the host prepares the next.
const IN_FLIGHT: usize = 2;

/// A data set larger than the device's largest binding is streamed through a window of about this many bytes.
const WINDOW_BYTES: usize = 64 << 20;

/// Trains in f32 on a GPU.
pub struct GpuTrainer<'a> {
    setup: Setup<'a>,
    engine: Engine,
    compiled: Compiled,
    train: Residence,
    test: Residence,
    /// Of the last step or answer that was asked for.
    stamp: u32,
}

/// Steps that the device is working on.
struct UnderWay {
    pending: Pending,
    stamps: Vec<u32>,
    /// Which of them end an update.
    ends: Vec<bool>,
    work: u64,
}

/// How much of a data set is on the device at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    /// All of it.
    Whole,
    /// A window of this many images (a multiple of the batch), filled in the order of the steps.
    Window(usize),
}

impl Residence {
    /// For a data set whose loss has `row` numbers for each image, when at most `max_bytes` of either may be on the
    /// device.
    pub fn new(data: &Dataset, row: usize, batch_size: usize, max_bytes: u64) -> Self {
        let image = data.pixels().max(row.saturating_mul(size_of::<f32>())).max(1);
        if data.len().saturating_mul(image) as u64 <= max_bytes {
            return Self::Whole;
        }
        let images = WINDOW_BYTES.min(usize::try_from(max_bytes).unwrap_or(usize::MAX)) / image;
        Self::Window((images / batch_size).max(1).saturating_mul(batch_size))
    }

    /// Images that are on the device at once.
    pub(super) fn images(self, data: &Dataset) -> usize {
        match self {
            Self::Whole => data.len(),
            Self::Window(images) => images,
        }
    }
}

/// What does not change a run's results, up to rounding: f32's, or the halves' where they are asked for.
#[derive(Clone, Copy, Debug)]
pub struct GpuOptions {
    /// At most so many bytes of each data set's images are on the device at once (and no more than the device allows).
    pub max_data_bytes: u64,
    /// Which kernels.
    pub kernels: Kernels,
    /// In which form; without one, as the device likes best.
    pub tuning: Option<Tuning>,
    /// In what activations are stored, where fused kernels hand them to each other.
    pub activations: Storage,
    /// Dispatches of more work than this are cut by ranges of their workgroups ([`cut`]); the bits are the same.
    pub piece_work: u64,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self {
            max_data_bytes: u64::MAX,
            kernels: Kernels::default(),
            tuning: None,
            activations: Storage::F32,
            piece_work: cut::PIECE_WORK,
        }
    }
}

/// The job of a setup on a device, and where its data sets are.
pub fn job<'a>(setup: &'a Setup<'a>, batch_size: usize, options: GpuOptions) -> (Job<'a>, [Residence; 2]) {
    let GpuOptions { max_data_bytes, kernels, tuning, activations, .. } = options;
    let row = setup.loss.rows().map_or(0, |_| setup.net.classes);
    let residences =
        [(setup.train, row), (setup.test, 0)].map(|(data, row)| Residence::new(data, row, batch_size, max_data_bytes));
    let job = Job {
        net: setup.net,
        batch_size,
        augment: setup.augment,
        loss: &setup.loss,
        optimizer: setup.optimizer,
        recipe: setup.recipe,
        train_images: residences[0].images(setup.train),
        test_images: residences[1].images(setup.test),
        loss_slots: MAX_STEPS,
        kernels,
        tuning: tuning.unwrap_or_default(),
        activations,
    };
    (job, residences)
}

/// Compiles the setup for a device with `limits` and at most `memory` bytes.
///
/// # Errors
/// [`Error::OverLimit`], with the batch size that would fit, if the plan does not fit. Nothing has been allocated then.
pub fn compile_for(
    setup: &Setup,
    limits: &wgpu::Limits,
    memory: Option<u64>,
    options: GpuOptions,
) -> Result<(Compiled, [Residence; 2])> {
    fitting(setup.batch_size, limits, memory, |batch_size| {
        let (job, residences) = job(setup, batch_size, options);
        compile(&job).map(|compiled| (compiled.plan.clone(), (compiled, residences)))
    })
}

/// What `compiled` makes for a batch of `batch_size`, with its plan, if that fits a device with `limits` and at most
/// `memory` bytes.
///
/// # Errors
/// As [`compile_for`].
pub(super) fn fitting<T>(
    batch_size: usize,
    limits: &wgpu::Limits,
    memory: Option<u64>,
    compiled: impl Fn(usize) -> Result<(Plan, T)>,
) -> Result<T> {
    let attempt = |batch_size: usize| {
        let (plan, compiled) = compiled(batch_size)?;
        check_limits(&plan, limits)?;
        match memory {
            Some(memory) if plan.bytes() > memory => Err(Error::OverLimit(format!(
                "the plan needs {} bytes, the device has {memory} available",
                plan.bytes()
            ))),
            _ => Ok(compiled),
        }
    };
    attempt(batch_size).map_err(|error| match error {
        Error::OverLimit(message) => {
            let advice = match largest_batch(batch_size, |batch_size| attempt(batch_size).is_ok()) {
                Some(batch_size) => format!("--batch-size {batch_size} would fit"),
                None => "no batch size would fit".into(),
            };
            Error::OverLimit(format!("batch size {batch_size}: {message}; {advice}"))
        }
        other => other,
    })
}

/// The same options, as this device can have them: its usual form where none is chosen, no more bytes than it binds.
///
/// # Errors
/// [`Error::Usage`] for a form of kernel or of activations that it does not have.
pub(super) fn settled(gpu: &Gpu, options: GpuOptions) -> Result<GpuOptions> {
    let limits = gpu.device.limits();
    let largest = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
    let tuning = options.tuning.unwrap_or_else(|| gpu.tuning());
    gpu.offers(tuning)?;
    if !gpu.stores(options.activations) {
        let name = &gpu.info.name;
        return Err(Error::Usage(format!("--activations f16: found {name}, which packs no halves, expected f32")));
    }
    Ok(GpuOptions { max_data_bytes: options.max_data_bytes.min(largest), tuning: Some(tuning), ..options })
}

/// Makes `order` the order of the steps to come. A window takes the images themselves, a whole set their indices.
fn upload(engine: &Engine, data: &Dataset, residence: Residence, at: &Data, order: &[u32]) {
    if residence == Residence::Whole {
        return engine.write(at.order, order);
    }
    let mut images = Vec::with_capacity(order.len() * data.pixels());
    order.iter().for_each(|&i| images.extend_from_slice(data.image(i as usize)));
    let labels: Vec<u32> = order.iter().map(|&i| data.labels[i as usize]).collect();
    let identity: Vec<u32> = (0..order.len() as u32).collect();
    engine.write(at.images, &images);
    engine.write(at.labels, &labels);
    engine.write(at.order, &identity);
}

/// Steps that answer, batch after batch, and their logits in order.
pub(super) struct Answers<'a> {
    pub engine: &'a Engine,
    /// The dispatches of a batch.
    pub infer: Range<usize>,
    /// The logits of a batch, and their seal.
    pub results: [Slice; 2],
    pub batch_size: usize,
    pub classes: usize,
    /// Of the last step or answer that was asked for.
    pub stamp: &'a mut u32,
    pub logits: Vec<f64>,
    pub under_way: VecDeque<(Pending, usize, u32)>,
}

impl Answers<'_> {
    /// Asks about the images `first..first + count` of those that are on the device.
    pub fn batch(&mut self, [first, count]: [usize; 2]) -> Result<()> {
        let len = count * self.classes;
        *self.stamp = next(*self.stamp);
        let stamp = *self.stamp;
        let step = BatchBlock { count: count as u32, first: first as u32, stamp, ..BatchBlock::default() }.into();
        let [logits, seal] = self.results;
        let pending = self.engine.run_for(self.infer.clone(), &[step], &[logits.part(0, len), seal]);
        self.under_way.push_back((pending, len, stamp));
        if self.under_way.len() > IN_FLIGHT { self.finish() } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<()> {
        if let Some((pending, len, stamp)) = self.under_way.pop_front() {
            self.logits.extend(sealed("inference", &pending.wait::<u32>()?, len, stamp)?);
        }
        Ok(())
    }

    /// Asks about a data set, of which so much is on the device at once.
    pub fn set(&mut self, images: &Dataset, residence: Residence, at: &Data) -> Result<()> {
        let order: Vec<u32> = (0..images.len() as u32).collect();
        for window in order.chunks(residence.images(images).max(1)) {
            upload(self.engine, images, residence, at, window);
            for first in (0..window.len()).step_by(self.batch_size) {
                self.batch([first, self.batch_size.min(window.len() - first)])?;
            }
        }
        Ok(())
    }

    /// All logits that were asked for, `[images, classes]`.
    pub fn all(mut self) -> Result<Vec<f64>> {
        while !self.under_way.is_empty() {
            self.finish()?;
        }
        Ok(self.logits)
    }
}

/// The stamp after this one (after four billion, none that is near).
fn next(stamp: u32) -> u32 {
    stamp.checked_add(1).unwrap_or(1)
}

impl<'a> GpuTrainer<'a> {
    /// A trainer that starts from `params`, `[net.flat_len()]`.
    ///
    /// # Errors
    /// [`Error::OverLimit`] if the plan does not fit the device, [`Error::Gpu`] if the driver refuses something,
    /// [`Error::Usage`] for a form of kernel or of activations that the device does not have.
    pub fn new(gpu: &Arc<Gpu>, setup: Setup<'a>, params: &[f32]) -> Result<Self> {
        Self::with_options(gpu, setup, params, GpuOptions::default())
    }

    /// As [`Self::new`], with `options`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_options(gpu: &Arc<Gpu>, mut setup: Setup<'a>, params: &[f32], options: GpuOptions) -> Result<Self> {
        // No batch is larger than its set, and none needs more room.
        setup.batch_size = setup.batch_size.min(setup.train.len().max(setup.test.len()).max(1));
        setup.check()?;
        let options = settled(gpu, options)?;
        let limits = gpu.device.limits();
        let (compiled, [train, test]) = compile_for(&setup, &limits, gpu.memory_available(), options)?;
        let engine = Engine::with_pieces(gpu, compiled.plan.clone(), options.piece_work)?;
        gpu.keep_pipelines();
        let normalisation: Vec<[f32; 2]> = setup.normalisation.iter().map(|&channel| affine(channel)).collect();
        engine.write(compiled.normalisation, &normalisation);
        for (data, residence, at) in [(setup.train, train, compiled.train_data), (setup.test, test, compiled.test_data)]
        {
            if residence == Residence::Whole {
                engine.write(at.images, &data.images);
                engine.write(at.labels, &data.labels);
            }
        }
        if let (Residence::Whole, Some(at), Some(rows)) = (train, compiled.loss_rows, setup.loss.rows()) {
            engine.write(at, rows);
        }
        if let Some(buffers) = compiled.buffers {
            engine.write(buffers, &setup.net.initial_buffers(setup.seed));
        }
        let trainer = Self { setup, engine, compiled, train, test, stamp: 0 };
        trainer.load(params);
        trainer.begin_averages(params, &trainer.setup.net.initial_buffers(trainer.setup.seed));
        Ok(trainer)
    }

    /// The compiled network.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Images in a batch: as many as asked for, or all there are.
    pub fn batch_size(&self) -> usize {
        self.setup.batch_size
    }

    /// The engine that carries it out.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Makes these the parameters, for every kernel.
    fn load(&self, params: &[f32]) {
        let at = self.compiled.flat.params;
        self.engine.write(at, params);
        // What the copies need has been submitted, and nobody waits for it: a failure shows at the next result.
        drop(self.engine.run(self.compiled.load.clone(), &[Step::default()], at.part(0, 1)));
    }

    /// Makes these the averages, where there are some.
    fn begin_averages(&self, params: &[f32], buffers: &[f32]) {
        self.compiled.averages.iter().zip([params, buffers]).for_each(|(&at, values)| self.engine.write(at, values));
    }

    /// A number that no step of this plan had yet.
    fn next_stamp(&mut self) -> u32 {
        self.stamp = next(self.stamp);
        self.stamp
    }

    /// The batch `batch` of update `t`, from 1, over the images from `first` of the window on, `weights` being those of
    /// the update's images together ([`Loss::weights`](crate::loss::Loss::weights)).
    fn step(&mut self, t: u64, slot: usize, first: usize, batch: &UpdatePart, weights: [f64; 2]) -> Step {
        let [seed_low, seed_high] = halves(self.setup.seed);
        let [step_low, step_high] = halves(t);
        let [first, count, slot] = [first, batch.images.len(), slot].map(|n| n as u32);
        let stamp = self.next_stamp();
        let [dloss, dnll] = weights.map(|weight| of_each(weight) as f32);
        let block = loss::LossBlock { dloss, dnll, ..Default::default() };
        let mixed = self.setup.recipe.mix.draw(self.setup.seed, t, batch.which, self.setup.train.shape);
        Step {
            batch: BatchBlock { count, first, slot, stamp, seed_low, seed_high, step_low, step_high },
            loss: plan::Block::new(&self.setup.loss.at(t).fill(self.setup.net.classes, block)),
            optimizer: plan::Block::new(&optimizer::OptimizerBlock::from(self.setup.optimizer_at(t).update(t))),
            part: plan::Block::new(&mixed.block(batch.before())),
        }
    }

    /// A step over a whole batch, to time: it leaves the parameters as they are.
    pub fn timed_step(&self) -> Step {
        let count = self.setup.batch_size;
        Step {
            batch: BatchBlock { count: count as u32, ..BatchBlock::default() },
            loss: plan::Block::new(&loss::LossBlock::mean(count)),
            optimizer: plan::Block::new(&optimizer::OptimizerBlock::NONE),
            part: plan::Block::new(&Mixed::NONE.block(0)),
        }
    }

    /// Where the training set is streamed, what the loss has for its images goes with them.
    fn upload_rows(&self, order: &[u32]) {
        if let (Residence::Window(_), Some(at), Some(rows)) =
            (self.train, self.compiled.loss_rows, self.setup.loss.rows())
        {
            let classes = self.setup.net.classes;
            let row = |&i: &u32| &rows[i as usize * classes..][..classes];
            self.engine.write(at, &order.iter().flat_map(row).copied().collect::<Vec<f32>>());
        }
    }

    /// The logits of `images`, of which so many are on the device at once.
    fn infer(&mut self, images: &Dataset, residence: Residence) -> Result<Vec<f64>> {
        let mut answers = Answers {
            engine: &self.engine,
            infer: self.compiled.infer.clone(),
            results: [self.compiled.logits, self.compiled.logits_seal],
            batch_size: self.setup.batch_size,
            classes: self.setup.net.classes,
            stamp: &mut self.stamp,
            logits: vec![],
            under_way: VecDeque::new(),
        };
        answers.set(images, residence, &self.compiled.test_data)?;
        answers.all()
    }
}

/// The low and the high half.
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// What each step left in its slot.
///
/// # Errors
/// [`Error::DeviceLost`] if a slot is not the step's: a driver gave up the submission, and says nothing of it.
pub fn losses(words: &[u32], stamps: &[u32]) -> Result<Vec<BatchLoss>> {
    let (slots, _) = words.as_chunks::<SLOT_WORDS>();
    assert_eq!(slots.len(), stamps.len(), "a slot for each step");
    let means = |(slot, &stamp): (_, &u32)| {
        let Slot { loss, nll, stamp: found, broken } = Slot::read(slot);
        let means = BatchLoss { loss, nll, diverged: broken == stamp, grad_norm: None };
        if found == stamp { Ok(means) } else { Err(given_up("a step")) }
    };
    slots.iter().zip(stamps).map(means).collect()
}

/// A result of `len` words and the seal behind it, as numbers.
///
/// # Errors
/// [`Error::DeviceLost`] if the seal is not that of the result, or has another stamp.
pub fn sealed(what: &str, words: &[u32], len: usize, stamp: u32) -> Result<Vec<f64>> {
    let (words, seal) = words.split_at(len);
    if !seal::holds(seal, stamp, words) {
        return Err(given_up(what));
    }
    Ok(words.iter().map(|&word| f32::from_bits(word).into()).collect())
}

fn given_up(what: &str) -> Error {
    Error::DeviceLost(format!("{what} was not carried out to its end, of which the driver said nothing"))
}

impl Trainer for GpuTrainer<'_> {
    fn train_epoch(
        &mut self,
        order: &[u32],
        updates: u64,
        on_losses: &mut dyn FnMut(&[BatchLoss]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        self.setup.net.check_batches(order.len(), self.setup.batch_size)?;
        let step_work = self.engine.work(self.compiled.train.clone());
        let mut t = updates;
        let mut under_way = VecDeque::<UnderWay>::new();
        let mut last_result = Instant::now();
        let mut so_far = [0.0; 2];
        let mut finish = |UnderWay { pending, stamps, ends, work }: UnderWay| -> Result<(u64, ControlFlow<()>)> {
            let words = pending.wait::<u32>()?;
            let (slots, norms) = words.split_at(stamps.len() * SLOT_WORDS);
            let mut means = vec![];
            for (i, (batch, ends)) in losses(slots, &stamps)?.into_iter().zip(ends).enumerate() {
                so_far = [so_far[0] + batch.loss, so_far[1] + batch.nll];
                if ends {
                    let [loss, nll] = std::mem::take(&mut so_far);
                    // There are none unless the gradient is clipped.
                    let grad_norm = norms.get(i).map(|&norm| f64::from(f32::from_bits(norm)));
                    means.push(BatchLoss { loss, nll, grad_norm, ..batch });
                }
            }
            let next = if means.is_empty() { ControlFlow::Continue(()) } else { on_losses(&means)? };
            Ok((work, next))
        };
        let mut parts = self.setup.parts(order.len()).collect::<Vec<_>>().into_iter().peekable();
        let mut weights = [0.0; 2];
        let mut ending = false;
        let room = self.train.images(self.setup.train);
        'epoch: for (i, window) in order.chunks(room).enumerate() {
            upload(&self.engine, self.setup.train, self.train, &self.compiled.train_data, window);
            self.upload_rows(window);
            let began = i * room;
            let in_window = |part: &UpdatePart| part.images.start < began + window.len();
            while parts.peek().is_some_and(in_window) {
                let fit = self.engine.most_work() / step_work.max(1);
                let fit = usize::try_from(fit).unwrap_or(MAX_STEPS).clamp(1, MAX_STEPS);
                let (mut steps, mut stamps, mut ends) = (vec![], vec![], vec![]);
                // An update that has begun is brought to its end.
                while steps.len() < fit
                    && let Some(part) = parts.next_if(|part| in_window(part) && !(ending && part.before() == 0))
                {
                    if part.before() == 0 {
                        t += 1;
                        let Setup { loss, train, .. } = &self.setup;
                        weights = loss.weights(&train.labels, train.classes, &order[part.update.clone()]);
                    }
                    let step = self.step(t, steps.len(), part.images.start - began, &part, weights);
                    stamps.push(step.batch.stamp);
                    ends.push(part.is_last());
                    steps.push(step);
                }
                if steps.is_empty() {
                    break 'epoch;
                }
                let norms = self.compiled.step_norms.map(|norms| norms.part(0, steps.len()));
                let slots = self.compiled.step_losses.part(0, steps.len() * SLOT_WORDS);
                let results: Vec<Slice> = [slots].into_iter().chain(norms).collect();
                let Compiled { train, part, .. } = &self.compiled;
                let range = |i: usize| if ends[i] { train.clone() } else { part.clone() };
                let pending = self.engine.run_each(&steps, range, &results);
                let work = step_work.saturating_mul(steps.len() as u64);
                under_way.push_back(UnderWay { pending, stamps, ends, work });
                if under_way.len() > IN_FLIGHT {
                    let (work, next) = finish(under_way.pop_front().expect("the queue was just seen to hold some"))?;
                    if next.is_break() {
                        ending = true;
                        continue;
                    }
                    self.engine.measured(work, last_result.elapsed());
                    last_result = Instant::now();
                }
            }
        }
        // Asked to stop or not: what is under way belongs to the state.
        under_way.into_iter().try_for_each(|steps| finish(steps).map(|_| ()))
    }

    fn test_logits(&mut self) -> Result<Vec<f64>> {
        self.infer(self.setup.test, self.test)
    }

    fn logits(&mut self, images: &Dataset) -> Result<Vec<f64>> {
        // They pass through where the test set is, which is then brought back.
        let room = self.test.images(self.setup.test);
        let batch_size = self.setup.batch_size;
        let window = if room < batch_size { room } else { room / batch_size * batch_size };
        let logits = self.infer(images, Residence::Window(window))?;
        if self.test == Residence::Whole {
            let at = self.compiled.test_data;
            self.engine.write(at.images, &self.setup.test.images);
            self.engine.write(at.labels, &self.setup.test.labels);
        }
        Ok(logits)
    }

    fn state(&mut self) -> Result<State> {
        let stamp = self.next_stamp();
        let step = BatchBlock { stamp, ..BatchBlock::default() }.into();
        let all: Vec<Slice> = self.compiled.state.iter().flatten().copied().collect();
        let read = self.engine.run_for(self.compiled.seal_state.clone(), &[step], &all).wait::<u32>()?;
        let mut rest = &read[..];
        let mut parts = self.compiled.state.iter().map(|[words, seal]| {
            let [len, all] = [words.bytes, words.bytes + seal.bytes].map(|bytes| bytes as usize / 4);
            let (part, behind) = rest.split_at(all);
            rest = behind;
            sealed("reading the parameters", part, len, stamp)
        });
        let mut next = || parts.next().expect("a part for each of the state's");
        let params = next()?;
        let slots = self.setup.optimizer.slots().iter().map(|_| next()).collect::<Result<_>>()?;
        let buffers = if self.compiled.buffers.is_some() { next()? } else { vec![] };
        let mut averages = self.compiled.averages.iter().map(|_| next()).collect::<Result<Vec<_>>>()?;
        if averages.len() == 1 {
            // Where there are no buffers, there is nothing of them.
            averages.push(vec![]);
        }
        Ok(State { params, slots, buffers, averages })
    }

    fn set_state(&mut self, state: &State) {
        let narrow = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
        self.load(&narrow(&state.params));
        let len = self.setup.net.flat_len();
        for (i, slot) in self.compiled.flat.slots.into_iter().flatten().enumerate() {
            // Where it has none, the memory is empty.
            let values = state.slots.get(i).map_or_else(|| vec![0.0; len], |slot| narrow(slot));
            self.engine.write(slot, &values);
        }
        if let Some(buffers) = self.compiled.buffers {
            self.engine.write(buffers, &narrow(&state.buffers));
        }
        let State { params, buffers, .. } = if state.averages.is_empty() { state.clone() } else { state.averaged() };
        self.begin_averages(&narrow(&params), &narrow(&buffers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a product that wraps, and then a set that is thought to fit.
    #[test]
    fn a_window_of_a_huge_batch_does_not_wrap() {
        let data = Dataset { shape: [1, 2, 2], classes: 2, images: vec![0; 12], labels: vec![0; 3], files: vec![] };
        assert_eq!(Residence::new(&data, 0, usize::MAX, 12), Residence::Whole);
        assert_eq!(Residence::new(&data, 0, usize::MAX, 11), Residence::Window(usize::MAX));
        assert_eq!(Residence::new(&data, usize::MAX / 2, 2, u64::MAX / 2), Residence::Window(2));
        assert_eq!(Residence::new(&data, 0, 1, 9), Residence::Window(2));
    }
}
