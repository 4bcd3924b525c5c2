//! Carries out a plan: allocates its buffers, builds its bind groups once, and replays ranges of its dispatches, many
//! steps a submission, without waiting for the device between them.

use std::ops::Range;
use std::sync::Arc;

use super::Gpu;
use super::kernel::{Kernel, reads_step};
use crate::plan::{DIMS, Dispatch, Plan, STEP, Slice, Step};
use crate::shaders::BindingKind;
use crate::{Error, Result};

/// The most steps that one submission holds.
pub const MAX_STEPS: usize = 256;

/// A plan on a device.
pub struct Engine {
    gpu: Arc<Gpu>,
    plan: Plan,
    buffers: Vec<wgpu::Buffer>,
    dispatches: Vec<Prepared>,
    /// `MAX_STEPS` step blocks, one every `step_stride` bytes.
    steps: wgpu::Buffer,
    step_stride: u64,
}

struct Prepared {
    kernel: Arc<Kernel>,
    bind_group: wgpu::BindGroup,
    reads_step: bool,
    workgroups: [u32; 3],
}

impl Prepared {
    /// `offset` is that of the step's block.
    fn record(&self, pass: &mut wgpu::ComputePass, offset: u32) {
        let [x, y, z] = self.workgroups;
        pass.set_pipeline(&self.kernel.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[offset][..usize::from(self.reads_step)]);
        pass.dispatch_workgroups(x, y, z);
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
        let most = limits.max_compute_workgroups_per_dimension;
        let invocations = dispatch.entry.workgroup_size.iter().product::<u32>();
        let storage = dispatch.slices.len() as u32;
        for (what, needs, has) in [
            ("workgroups along an axis", *dispatch.workgroups.iter().max().unwrap_or(&0), most),
            ("invocations a workgroup", invocations, limits.max_compute_invocations_per_workgroup),
            ("storage buffers", storage, limits.max_storage_buffers_per_shader_stage),
        ] {
            if needs > has {
                return Err(Error::OverLimit(format!(
                    "{} needs {needs} {what}, this device allows {has}",
                    dispatch.label
                )));
            }
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
        let limits = gpu.device.limits();
        check_limits(&plan, &limits)?;
        let step_stride =
            (size_of::<Step>() as u64).next_multiple_of(limits.min_uniform_buffer_offset_alignment.into());
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
            (buffers, new_buffer("steps", step_stride * MAX_STEPS as u64, wgpu::BufferUsages::UNIFORM))
        })?;
        let mut engine = Self { gpu: gpu.clone(), plan, buffers, dispatches: vec![], steps, step_stride };
        for (buffer, planned) in engine.buffers.iter().zip(&engine.plan.buffers) {
            gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&planned.contents));
        }
        engine.dispatches =
            engine.plan.dispatches.iter().map(|dispatch| engine.prepare(dispatch)).collect::<Result<_>>()?;
        Ok(engine)
    }

    fn prepare(&self, dispatch: &Dispatch) -> Result<Prepared> {
        let kernel = self.gpu.kernel(dispatch)?;
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
                    let resource = match (&binding.kind, &dims) {
                        (BindingKind::Uniform { .. }, _) if binding.name == STEP => {
                            part(&self.steps, 0, size_of::<Step>() as u64)
                        }
                        (BindingKind::Uniform { size, .. }, Some(dims)) => part(dims, 0, u64::from(*size)),
                        (BindingKind::Storage { .. }, _) => {
                            let slice = slices.next().expect("Plan::dispatch gives each storage binding its slice");
                            part(&self.buffers[slice.buffer], slice.offset, slice.bytes)
                        }
                        (BindingKind::Uniform { .. }, None) => {
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
        Ok(Prepared { kernel, bind_group, reads_step: reads_step(dispatch.entry), workgroups: dispatch.workgroups })
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

    /// Submits, for each of `steps`, the dispatches `range`; then copies `result` for [`Pending::wait`]. Returns at once.
    ///
    /// # Panics
    /// If there are more than [`MAX_STEPS`] steps.
    pub fn run(&self, range: Range<usize>, steps: &[Step], result: Slice) -> Pending {
        assert!(steps.len() <= MAX_STEPS);
        let mut blocks = vec![0u8; steps.len() * self.step_stride as usize];
        for (block, step) in blocks.chunks_mut(self.step_stride as usize).zip(steps) {
            block[..size_of::<Step>()].copy_from_slice(bytemuck::bytes_of(step));
        }
        self.gpu.queue.write_buffer(&self.steps, 0, &blocks);
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for step in 0..steps.len() {
                let offset = (step as u64 * self.step_stride) as u32;
                self.dispatches[range.clone()].iter().for_each(|dispatch| dispatch.record(&mut pass, offset));
            }
        }
        self.submit_and_map(encoder, &self.buffers[result.buffer], result.offset, result.bytes)
    }

    /// Seconds that each of the dispatches `range` takes for `step`, by the device's own clock; `None` where the device has
    /// no timestamps.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn profile(&self, range: Range<usize>, step: &Step) -> Result<Option<Vec<f64>>> {
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
        self.gpu.queue.write_buffer(&self.steps, 0, bytemuck::bytes_of(step));
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        for (i, dispatch) in self.dispatches[range].iter().enumerate() {
            let first = 2 * i as u32;
            let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                query_set: &queries,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            });
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            dispatch.record(&mut pass, 0);
        }
        encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
        let ticks: Vec<u64> = self.submit_and_map(encoder, &resolved, 0, bytes).wait()?;
        let period = f64::from(self.gpu.queue.get_timestamp_period()) * 1e-9;
        Ok(Some(ticks.chunks(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64 * period).collect()))
    }

    /// The contents of a part of a buffer, after everything submitted so far.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn read<T: bytemuck::Pod>(&self, slice: Slice) -> Result<Vec<T>> {
        let encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.submit_and_map(encoder, &self.buffers[slice.buffer], slice.offset, slice.bytes).wait()
    }

    /// Submits what was recorded, and a copy of `bytes` of `source` to where the host can read them.
    fn submit_and_map(
        &self,
        mut encoder: wgpu::CommandEncoder,
        source: &wgpu::Buffer,
        offset: u64,
        bytes: u64,
    ) -> Pending {
        let staging = self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        encoder.copy_buffer_to_buffer(source, offset, &staging, 0, bytes);
        let submission = self.gpu.queue.submit([encoder.finish()]);
        let (sender, mapped) = futures_intrusive::channel::shared::oneshot_channel();
        staging.map_async(wgpu::MapMode::Read, .., move |outcome| {
            // The receiver is gone only where nobody waits for the result.
            let _ = sender.send(outcome);
        });
        Pending { gpu: self.gpu.clone(), staging, submission, mapped }
    }
}

/// A result that is on its way from the device.
pub struct Pending {
    gpu: Arc<Gpu>,
    staging: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    mapped: futures_intrusive::channel::shared::OneshotReceiver<Result<(), wgpu::BufferAsyncError>>,
}

impl Pending {
    /// Waits for the submission and gives the result.
    ///
    /// # Errors
    /// [`Error::Gpu`] for anything that went wrong on the way, [`Error::DeviceLost`] if the device is gone.
    pub fn wait<T: bytemuck::Pod>(self) -> Result<Vec<T>> {
        let context = "reading a result back";
        let fail = |message: String| Error::Gpu { context: context.into(), message };
        let polled =
            self.gpu.device.poll(wgpu::PollType::Wait { submission_index: Some(self.submission), timeout: None });
        self.gpu.check(context)?;
        polled.map_err(|e| fail(e.to_string()))?;
        match pollster::block_on(self.mapped.receive()) {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(fail(error.to_string())),
            None => return Err(fail("the mapping was given up".into())),
        }
        let view = self.staging.get_mapped_range(..).map_err(|e| fail(e.to_string()))?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }
}
