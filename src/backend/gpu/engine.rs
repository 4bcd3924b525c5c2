//! Carries out a plan: allocates its buffers, builds its bind groups once, and replays ranges of its dispatches, many
//! steps a submission, without waiting for the device between them. Work that would take too long for one submission is
//! cut between dispatches, and a dispatch that is too long by itself by its workgroups ([`super::cut`]): many systems
//! end what takes longer than a second or two, some without a word.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Gpu;
use super::clock::{self, Clock, Times};
use super::cut::{self, Piece};
use super::device::{Kernel, exceeded};
use super::kernel::step_blocks;
use crate::plan::shaders::BindingKind;
use crate::plan::{DIMS, Dispatch, Plan, Slice, Step};
use crate::{Error, Result};

/// The most steps that one submission holds.
pub const MAX_STEPS: usize = 256;

/// How long a submission may take, once it is known how fast the device is: long enough that submitting costs nothing,
/// short enough that Ctrl-C is felt at once.
pub const SUBMISSION: Duration = Duration::from_millis(100);

/// How much work ([`Dispatch::work`]) a submission may hold as long as that is not known: a tenth of a second on a
/// device of 40 GFLOP/s. Only a single dispatch, or a piece of it ([`cut`]), may hold more.
pub const FIRST_WORK: u64 = 4_000_000_000;

/// A plan on a device.
pub struct Engine {
    gpu: Arc<Gpu>,
    plan: Plan,
    buffers: Vec<wgpu::Buffer>,
    dispatches: Vec<Prepared>,
    /// The blocks of `MAX_STEPS` steps, one behind the other, each on `block_stride` bytes.
    steps: wgpu::Buffer,
    block_stride: u64,
    /// How much work a submission may hold.
    most_work: AtomicU64,
}

struct Prepared {
    kernel: Arc<Kernel>,
    bind_group: wgpu::BindGroup,
    step_blocks: usize,
    /// The whole, or what it is cut into.
    pieces: Vec<Piece>,
    /// Where it is cut: what each piece is a part of, so many bytes apart.
    places: Option<(wgpu::BindGroup, u32)>,
}

impl Prepared {
    /// The pieces `range`. `offset` is that of the step's first block.
    fn record(&self, pass: &mut wgpu::ComputePass, offset: u32, range: Range<usize>) {
        pass.set_pipeline(&self.kernel.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[offset; Step::BLOCKS.len()][..self.step_blocks]);
        for i in range {
            if let Some((places, stride)) = &self.places {
                pass.set_bind_group(1, places, &[i as u32 * stride]);
            }
            let [x, y, z] = self.pieces[i].workgroups;
            pass.dispatch_workgroups(x, y, z);
        }
    }

    fn record_whole(&self, pass: &mut wgpu::ComputePass, offset: u32) {
        self.record(pass, offset, 0..self.pieces.len());
    }
}

/// Refuses a plan that exceeds the device's limits, before anything is allocated.
///
/// # Errors
/// [`Error::OverLimit`], naming the buffer or the dispatch, what it needs and what there is.
pub fn check_limits(plan: &Plan, limits: &wgpu::Limits) -> Result<()> {
    let largest = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
    for buffer in &plan.buffers {
        if buffer.bytes > largest {
            return Err(Error::OverLimit(format!(
                "buffer {} needs {} bytes, this device allows {largest}",
                buffer.name, buffer.bytes
            )));
        }
    }
    for dispatch in &plan.dispatches {
        if let Some(reason) = exceeded(dispatch.shader, limits) {
            return Err(Error::OverLimit(format!("{}: {reason}", dispatch.label)));
        }
        let (needs, has) =
            (*dispatch.workgroups.iter().max().unwrap_or(&0), limits.max_compute_workgroups_per_dimension);
        if needs > has {
            let label = &dispatch.label;
            return Err(Error::OverLimit(format!(
                "{label} needs {needs} workgroups along an axis, this device allows {has}"
            )));
        }
    }
    Ok(())
}

impl Engine {
    /// Allocates a plan's buffers (zeroed, but for what the plan has them hold) and builds its kernels.
    ///
    /// # Errors
    /// [`Error::OverLimit`] if it does not fit the device, [`Error::Gpu`] if the driver refuses something.
    pub fn new(gpu: &Arc<Gpu>, plan: Plan) -> Result<Self> {
        Self::with_pieces(gpu, plan, cut::PIECE_WORK)
    }

    /// As [`Self::new`], with dispatches cut where they hold more work than this.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_pieces(gpu: &Arc<Gpu>, plan: Plan, most: u64) -> Result<Self> {
        let limits = gpu.device.limits();
        check_limits(&plan, &limits)?;
        gpu.ends_loops(&plan)?;
        let block_stride =
            (Step::BLOCK_BYTES as u64).next_multiple_of(limits.min_uniform_buffer_offset_alignment.into());
        let steps_bytes = (MAX_STEPS * Step::BLOCKS.len()) as u64 * block_stride;
        let new_buffer = |label: &str, size: u64, usage: wgpu::BufferUsages| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage: usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        };
        let (buffers, steps) = gpu.guarded(&format!("allocating {} bytes", plan.bytes()), || {
            let buffers: Vec<_> =
                plan.buffers.iter().map(|b| new_buffer(&b.name, b.bytes, wgpu::BufferUsages::STORAGE)).collect();
            (buffers, new_buffer("steps", steps_bytes, wgpu::BufferUsages::UNIFORM))
        })?;
        let most_work = AtomicU64::new(FIRST_WORK);
        let mut engine = Self { gpu: gpu.clone(), plan, buffers, dispatches: vec![], steps, block_stride, most_work };
        for (buffer, planned) in engine.buffers.iter().zip(&engine.plan.buffers) {
            gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&planned.contents));
        }
        engine.dispatches =
            engine.plan.dispatches.iter().map(|dispatch| engine.prepare(dispatch, most)).collect::<Result<_>>()?;
        Ok(engine)
    }

    fn prepare(&self, dispatch: &Dispatch, most: u64) -> Result<Prepared> {
        let mut pieces = cut::pieces(dispatch.workgroups, dispatch.work(), most);
        let source = if pieces.len() > 1 { cut::source(dispatch.shader) } else { None };
        if source.is_none() {
            pieces = vec![Piece { first: [0; 2], workgroups: dispatch.workgroups }];
        }
        let kernel = self.gpu.kernel(dispatch, source.as_deref())?;
        let places = match &kernel.cut_layout {
            Some(layout) => Some(self.gpu.guarded(&dispatch.label, || self.places(dispatch, &pieces, layout))?),
            None => None,
        };
        let bind_group = self.gpu.guarded(&dispatch.label, || {
            use wgpu::util::DeviceExt;
            let dims = (!dispatch.dims.is_empty()).then(|| {
                self.gpu.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                    label: Some(DIMS),
                    contents: &dispatch.dims,
                    usage: wgpu::BufferUsages::UNIFORM,
                })
            });
            let mut slices = dispatch.slices.iter();
            let part =
                |buffer, offset, bytes| wgpu::BufferBinding { buffer, offset, size: std::num::NonZeroU64::new(bytes) };
            let entries: Vec<_> = dispatch
                .entry
                .bindings
                .iter()
                .map(|binding| {
                    let resource = match (&binding.kind, &dims, Step::block(&binding.name)) {
                        (BindingKind::Uniform { .. }, _, Some(block)) => {
                            part(&self.steps, block as u64 * self.block_stride, Step::BLOCK_BYTES as u64)
                        }
                        (BindingKind::Uniform { size, .. }, Some(dims), None) => part(dims, 0, u64::from(*size)),
                        (BindingKind::Storage { .. }, ..) => {
                            let slice = slices.next().expect("Plan::dispatch gives each storage binding its slice");
                            part(&self.buffers[slice.buffer], slice.offset, slice.bytes)
                        }
                        (BindingKind::Uniform { .. }, None, None) => {
                            unreachable!("Plan::dispatch keeps the dims of every pass that has them")
                        }
                    };
                    wgpu::BindGroupEntry { binding: binding.number, resource: wgpu::BindingResource::Buffer(resource) }
                })
                .collect();
            self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&dispatch.label),
                layout: &kernel.layout,
                entries: &entries,
            })
        })?;
        Ok(Prepared { kernel, bind_group, step_blocks: step_blocks(dispatch.entry), pieces, places })
    }

    /// What tells each of the pieces where it is in the whole, and how many bytes apart that is.
    fn places(&self, dispatch: &Dispatch, pieces: &[Piece], layout: &wgpu::BindGroupLayout) -> (wgpu::BindGroup, u32) {
        use wgpu::util::DeviceExt;
        let stride = cut::BLOCK_BYTES.next_multiple_of(self.block_stride as usize);
        let mut contents = vec![0u8; pieces.len() * stride];
        for (place, piece) in contents.chunks_mut(stride).zip(pieces) {
            let ([x, y], [groups_x, groups_y, _]) = (piece.first, dispatch.workgroups);
            place[..cut::BLOCK_BYTES].copy_from_slice(bytemuck::bytes_of(&[x, y, groups_x, groups_y]));
        }
        let buffer = self.gpu.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("pieces"),
            contents: &contents,
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let size = std::num::NonZeroU64::new(cut::BLOCK_BYTES as u64);
        let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &buffer, offset: 0, size });
        let group = self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&dispatch.label),
            layout,
            entries: &[wgpu::BindGroupEntry { binding: 0, resource }],
        });
        (group, stride as u32)
    }

    /// How many launches the dispatches `range` are, with those that are cut.
    pub fn launches(&self, range: Range<usize>) -> usize {
        self.dispatches[range].iter().map(|dispatch| dispatch.pieces.len()).sum()
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Writes to a part of a buffer, ahead of everything that is submitted later.
    ///
    /// # Panics
    /// If there is more data than the part holds.
    pub fn write<T: bytemuck::NoUninit>(&self, slice: Slice, data: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        assert!(bytes.len() as u64 <= slice.bytes, "{} bytes into a part of {}", bytes.len(), slice.bytes);
        if bytes.len().is_multiple_of(4) {
            self.gpu.queue.write_buffer(&self.buffers[slice.buffer], slice.offset, bytes);
        } else {
            // Copies are made of whole words.
            let mut padded = bytes.to_vec();
            padded.resize(bytes.len().next_multiple_of(4), 0);
            self.gpu.queue.write_buffer(&self.buffers[slice.buffer], slice.offset, &padded);
        }
    }

    /// How much work a submission may hold.
    pub fn most_work(&self) -> u64 {
        self.most_work.load(Ordering::Relaxed)
    }

    /// The work of the dispatches `range`.
    pub fn work(&self, range: Range<usize>) -> u64 {
        self.plan.dispatches[range].iter().fold(0, |sum, dispatch| sum.saturating_add(dispatch.work()))
    }

    /// So much work was seen to take so long: what comes is cut by it. At most twice as much as before, because one
    /// measurement is no proof.
    pub fn measured(&self, work: u64, took: Duration) {
        let rate = work as f64 / took.as_secs_f64().max(1e-6);
        let fits = (rate * SUBMISSION.as_secs_f64()) as u64;
        self.most_work.store(fits.min(self.most_work().saturating_mul(2)).max(1), Ordering::Relaxed);
    }

    /// Submits, for each of `steps`, the dispatches `range`; then copies `result` for [`Pending::wait`]. Returns at
    /// once.
    ///
    /// # Panics
    /// If there are more than [`MAX_STEPS`] steps.
    pub fn run(&self, range: Range<usize>, steps: &[Step], result: Slice) -> Pending {
        self.run_for(range, steps, &[result])
    }

    /// As [`Self::run`], with several results: they come one behind the other.
    ///
    /// # Panics
    /// As [`Self::run`].
    pub fn run_for(&self, range: Range<usize>, steps: &[Step], results: &[Slice]) -> Pending {
        self.run_each(steps, |_| range.clone(), results)
    }

    /// As [`Self::run_for`], where the step at each place of `steps` has the dispatches that `range` names for it.
    ///
    /// # Panics
    /// As [`Self::run`].
    pub fn run_each(&self, steps: &[Step], range: impl Fn(usize) -> Range<usize>, results: &[Slice]) -> Pending {
        self.write_steps(steps);
        let pieces_of = |i: usize| self.dispatches[i].pieces.len();
        // Of each launch its step, its dispatch, and which piece of that it is.
        let of_step = |step: usize| range(step).flat_map(move |i| (0..pieces_of(i)).map(move |piece| (step, i, piece)));
        let launches: Vec<(usize, usize, usize)> = (0..steps.len()).flat_map(of_step).collect();
        let share = |&(_, i, _): &(usize, usize, usize)| self.plan.dispatches[i].work().div_ceil(pieces_of(i) as u64);
        let work = launches.iter().map(share);
        let pieces = pieces(work.clone(), self.most_work());
        // The last piece is submitted with what is to be read.
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for (i, piece) in pieces.iter().enumerate() {
            if i > 0 {
                let next = self.gpu.device.create_command_encoder(&Default::default());
                self.gpu.queue.submit([std::mem::replace(&mut encoder, next).finish()]);
            }
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for i in piece.clone() {
                let (step, dispatch, piece) = launches[i];
                self.dispatches[dispatch].record(&mut pass, self.offset(step), piece..piece + 1);
            }
        }
        let work = work.fold(0u64, u64::saturating_add);
        let sources: Vec<_> = results.iter().map(|s| (&self.buffers[s.buffer], s.offset, s.bytes)).collect();
        self.submit_and_map(encoder, &sources, work)
    }

    /// Makes these the steps that the next submissions are for.
    fn write_steps(&self, steps: &[Step]) {
        assert!(steps.len() <= MAX_STEPS);
        let mut bytes = vec![0u8; self.offset(steps.len()) as usize];
        let places = bytes.chunks_mut(self.block_stride as usize);
        for (place, block) in places.zip(steps.iter().flat_map(Step::bytes)) {
            place[..Step::BLOCK_BYTES].copy_from_slice(&block);
        }
        self.gpu.queue.write_buffer(&self.steps, 0, &bytes);
    }

    /// Where the blocks of a step begin.
    fn offset(&self, step: usize) -> u32 {
        (step * Step::BLOCKS.len()) as u32 * self.block_stride as u32
    }

    /// Seconds that each of the dispatches `range` takes for `step`: by the device's own clock, if it has one that can
    /// be believed, else by the host's.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn profile(&self, range: Range<usize>, step: &Step) -> Result<Times> {
        if let Some(seconds) = self.profile_on_device(range.clone(), step)? {
            return Ok(Times { seconds, clock: Clock::Device });
        }
        Ok(Times { seconds: self.profile_on_host(range, step)?, clock: Clock::Host })
    }

    /// By the device's clock; `None` where it has none, or one that cannot be right.
    fn profile_on_device(&self, range: Range<usize>, step: &Step) -> Result<Option<Vec<f64>>> {
        if !self.gpu.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Ok(None);
        }
        let count = 2 * range.len() as u32;
        let bytes = u64::from(count) * 8;
        let descriptor = wgpu::QuerySetDescriptor { label: Some("timestamps"), ty: wgpu::QueryType::Timestamp, count };
        let queries = self.gpu.device.create_query_set(&descriptor);
        let resolved = self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("timestamps"),
            size: bytes,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        self.write_steps(std::slice::from_ref(step));
        let began = Instant::now();
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let work = self.plan.dispatches[range.clone()].iter().map(Dispatch::work);
        for (i, piece) in pieces(work, self.most_work()).into_iter().enumerate() {
            if i > 0 {
                let next = self.gpu.device.create_command_encoder(&Default::default());
                self.gpu.queue.submit([std::mem::replace(&mut encoder, next).finish()]);
            }
            for i in piece {
                let first = 2 * i as u32;
                let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(first),
                    end_of_pass_write_index: Some(first + 1),
                });
                let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
                self.dispatches[range.start + i].record_whole(&mut encoder.begin_compute_pass(&descriptor), 0);
            }
        }
        encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
        let pending = self.submit_and_map(encoder, &[(&resolved, 0, bytes)], self.work(range.clone()));
        let ticks: Vec<u64> = pending.wait()?;
        let flops = self.plan.dispatches[range].iter().map(|dispatch| dispatch.flops).sum();
        Ok(clock::seconds(&ticks, self.gpu.queue.get_timestamp_period().into(), began.elapsed(), flops))
    }

    /// By the host's clock: each dispatch in a submission of its own, the shortest of a few.
    pub fn profile_on_host(&self, range: Range<usize>, step: &Step) -> Result<Vec<f64>> {
        const TRIES: usize = 3;
        self.write_steps(std::slice::from_ref(step));
        let timed = |i: usize| -> Result<f64> {
            let mut least = f64::INFINITY;
            for _ in 0..TRIES {
                let began = Instant::now();
                let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
                self.dispatches[i].record_whole(&mut encoder.begin_compute_pass(&Default::default()), 0);
                let submission = self.gpu.queue.submit([encoder.finish()]);
                let patience = self.gpu.patience(self.work(i..i + 1));
                self.gpu.wait("timing a kernel", Some(submission), patience)?;
                least = least.min(began.elapsed().as_secs_f64());
            }
            Ok(least)
        };
        range.map(timed).collect()
    }

    /// The contents of a part of a buffer, after everything submitted so far.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn read<T: bytemuck::Pod>(&self, slice: Slice) -> Result<Vec<T>> {
        let encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.submit_and_map(encoder, &[(&self.buffers[slice.buffer], slice.offset, slice.bytes)], slice.bytes).wait()
    }

    /// Submits what was recorded, and copies of parts of buffers, one behind the other, to where the host can read
    /// them. `work` is what was submitted for it.
    fn submit_and_map(
        &self,
        mut encoder: wgpu::CommandEncoder,
        sources: &[(&wgpu::Buffer, u64, u64)],
        work: u64,
    ) -> Pending {
        let staging = self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size: sources.iter().map(|(.., bytes)| bytes).sum(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut at = 0;
        for &(source, offset, bytes) in sources {
            encoder.copy_buffer_to_buffer(source, offset, &staging, at, bytes);
            at += bytes;
        }
        let submission = self.gpu.queue.submit([encoder.finish()]);
        let (sender, mapped) = futures_intrusive::channel::shared::oneshot_channel();
        staging.map_async(wgpu::MapMode::Read, .., move |outcome| {
            // The receiver is gone only where nobody waits for the result.
            let _ = sender.send(outcome);
        });
        Pending { gpu: self.gpu.clone(), staging, submission, mapped, patience: self.gpu.patience(work) }
    }
}

/// Cuts a row of dispatches into pieces of at most `most` work, as few as that takes from the left. A dispatch with
/// more is a piece of its own. There is always a piece.
fn pieces(work: impl IntoIterator<Item = u64>, most: u64) -> Vec<Range<usize>> {
    let (mut pieces, mut piece, mut sum) = (vec![], 0..0, 0u64);
    for (i, work) in work.into_iter().enumerate() {
        sum = sum.saturating_add(work);
        if sum > most && !piece.is_empty() {
            pieces.push(piece);
            piece = i..i;
            sum = work;
        }
        piece.end = i + 1;
    }
    pieces.push(piece);
    pieces
}

/// A result that is on its way from the device.
pub struct Pending {
    gpu: Arc<Gpu>,
    staging: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    mapped: futures_intrusive::channel::shared::OneshotReceiver<Result<(), wgpu::BufferAsyncError>>,
    patience: Duration,
}

impl Pending {
    /// Waits for the submission and gives the result.
    ///
    /// # Errors
    /// [`Error::Gpu`] for anything that went wrong on the way, [`Error::DeviceLost`] if the device is gone or takes
    /// longer than the slowest would ([`Gpu::patience`]).
    pub fn wait<T: bytemuck::Pod>(self) -> Result<Vec<T>> {
        let patience = self.patience;
        self.wait_at_most(patience)
    }

    /// As [`Self::wait`], but no longer than this.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_at_most<T: bytemuck::Pod>(self, most: Duration) -> Result<Vec<T>> {
        let context = "reading a result back";
        let fail = |message: String| Error::Gpu { context: context.into(), message };
        self.gpu.wait(context, Some(self.submission), most)?;
        match pollster::block_on(self.mapped.receive()) {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(fail(error.to_string())),
            None => return Err(fail("the mapping was given up".into())),
        }
        let view = self.staging.get_mapped_range(..).map_err(|e| fail(e.to_string()))?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step of 410 GFLOP: no submission holds more than it may before anything was measured, but for single kernels.
    #[test]
    fn a_long_step_is_cut_before_anything_was_measured() {
        use crate::compile::{Job, compile};
        use crate::optimizer::{Adam, Optimizer};
        let net = crate::network::Network::seed([1, 112, 112], 10).unwrap();
        let compiled = compile(&Job {
            recipe: Default::default(),
            net: &net,
            batch_size: 1024,
            augment: crate::ops::augment::Augment::NONE,
            loss: &crate::loss::smoothing::Smoothing::NONE.into(),
            optimizer: Optimizer::Adam(Adam::default()),
            train_images: 1024,
            test_images: 1024,
            loss_slots: MAX_STEPS,
            kernels: Default::default(),
            tuning: Default::default(),
            activations: Default::default(),
        });
        let compiled = compiled.unwrap();
        let work: Vec<u64> = compiled.plan.dispatches[compiled.train].iter().map(Dispatch::work).collect();
        assert!(work.iter().sum::<u64>() > 400_000_000_000, "{work:?}");
        let pieces = pieces(work.iter().copied(), FIRST_WORK);
        assert!(pieces.len() >= 5, "{pieces:?}");
        for piece in pieces {
            assert!(piece.len() == 1 || work[piece.clone()].iter().sum::<u64>() <= FIRST_WORK, "{piece:?} of {work:?}");
        }
    }

    /// Catches a submission that is too long, a dispatch that is left out or done twice, and a cut where none is
    /// needed.
    #[test]
    fn work_is_cut_where_it_is_too_much_and_nowhere_else() {
        assert_eq!(pieces([], 5), [Range { start: 0, end: 0 }]);
        assert_eq!(pieces([3, 2, 4, 1, 9, 1, 1], 5), [0..2, 2..4, 4..5, 5..7]);
        assert_eq!(pieces([7, 7], 5), [0..1, 1..2]);
        assert_eq!(pieces([0, 0, 7], 5), [0..2, 2..3]);
        assert_eq!(pieces([1; 6], u64::MAX), [Range { start: 0, end: 6 }]);
        assert_eq!(pieces([u64::MAX, u64::MAX], u64::MAX - 1), [0..1, 1..2]);
    }
}
