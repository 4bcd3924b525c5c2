//! An open device: what it runs, what went wrong on it, and how long it may take.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::cache;
use crate::plan::Storage;
use crate::plan::shaders::{self, Shader};
use crate::plan::tuning::{LANES, Tiles, Tuning};
use crate::plan::{Dispatch, Plan};
use crate::{Error, Result};

/// A pass, ready to run.
pub struct Kernel {
    /// Its pipeline.
    pub pipeline: wgpu::ComputePipeline,
    /// Its bind group's layout, group 0.
    pub layout: wgpu::BindGroupLayout,
    /// Where it is built to be cut ([`super::cut`]), the layout of group 1.
    pub cut_layout: Option<wgpu::BindGroupLayout>,
}

/// Every kernel built so far, by shader, pass and whether it is built to be cut. Shaders are static: where one lies is
/// what it is, and two of one name are two.
type Kernels = Mutex<HashMap<(usize, &'static str, bool), Arc<Kernel>>>;

/// How long a device may be silent beyond what its work may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to listen, after an error, for the news that the device is gone.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Operations a second that the slowest device does: a small GPU on plain kernels, and a busy processor core.
const SLOWEST: [f64; 2] = [1e9, 1e8];

/// `name (backend, kind, driver)`.
pub fn describe(info: &wgpu::AdapterInfo) -> String {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete GPU",
        wgpu::DeviceType::IntegratedGpu => "integrated GPU",
        wgpu::DeviceType::VirtualGpu => "virtual GPU",
        wgpu::DeviceType::Cpu => "software driver",
        wgpu::DeviceType::Other => "other",
    };
    let driver = format!("{} {}", info.driver, info.driver_info);
    format!("{} ({}, {kind}, {})", info.name, info.backend, driver.trim())
}

/// After so many turns of its loops together, Mesa's llvmpipe (and so lavapipe) ends what a thread does in loops,
/// without a word: `LP_MAX_TGSI_LOOP_ITERATIONS`.
const LLVMPIPE_TURNS: u64 = 65_535;

/// An open device.
pub struct Gpu {
    /// The device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    /// What it is.
    pub info: wgpu::AdapterInfo,
    /// Whether its kernels can store halves ([`Storage::F16`]).
    halves: bool,
    pub(super) kernels: Kernels,
    /// Compiled pipelines, if the driver keeps any.
    pub(super) pipelines: Option<wgpu::PipelineCache>,
    /// Whether a pipeline was built since [`Self::keep_pipelines`].
    pub(super) built: AtomicBool,
    /// Where the next start looks for what this one found out.
    cache_folder: Option<PathBuf>,
    /// The first error that no error scope caught, or the device's loss.
    failure: Arc<Mutex<Option<Failure>>>,
}

enum Failure {
    Error(String),
    Lost(String),
}

impl Gpu {
    /// Opens `adapter` with WebGPU's default limits, raised only where large networks and data sets need it: the size
    /// of a buffer and of a binding.
    ///
    /// # Errors
    /// [`Error::Gpu`] if the driver refuses.
    pub fn open(adapter: &wgpu::Adapter) -> Result<Self> {
        Self::open_with(adapter, None)
    }

    /// As [`Self::open`], with pipelines that an earlier start left in `cache_folder` (see [`cache`]), and to leave
    /// some there: [`Self::keep_pipelines`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(adapter: &wgpu::Adapter, cache_folder: Option<PathBuf>) -> Result<Self> {
        let offered = adapter.limits();
        let limits = wgpu::Limits {
            max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
            max_buffer_size: offered.max_buffer_size,
            ..wgpu::Limits::default()
        };
        Self::open_within(adapter, limits, cache_folder)
    }

    /// As [`Self::open_with`], as if the adapter had these limits where its own are larger: so a test has a small GPU.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_within(adapter: &wgpu::Adapter, limits: wgpu::Limits, cache_folder: Option<PathBuf>) -> Result<Self> {
        let required_limits = limits.or_worse_values_from(&adapter.limits());
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("smoothcnn"),
            required_limits,
            // Nothing depends on them: measurements use timestamps, one form of the kernels subgroups, a later start
            // the pipelines.
            required_features: adapter.features()
                & (wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SUBGROUP | wgpu::Features::PIPELINE_CACHE),
            ..Default::default()
        };
        let info = adapter.get_info();
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::Gpu { context: format!("opening {}", info.name), message: one_line(&e.to_string()) })?;

        let failure = Arc::new(Mutex::new(None));
        let slot = failure.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let mut slot = slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            slot.get_or_insert(Failure::Error(one_line(&error.to_string())));
        }));
        let slot = failure.clone();
        device.set_device_lost_callback(move |_, message| {
            let mut slot = slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            *slot = Some(Failure::Lost(one_line(&message)));
        });
        let mut gpu = Self {
            device,
            queue,
            info,
            halves: adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::SHADER_F16_IN_F32),
            kernels: Default::default(),
            pipelines: None,
            built: AtomicBool::new(false),
            cache_folder,
            failure,
        };
        if gpu.cache_folder.is_some() && gpu.device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            let earlier = gpu.pipelines_file().and_then(|path| cache::read(&path));
            // What a driver refuses (another version of it left it) is as good as nothing.
            gpu.pipelines =
                earlier.and_then(|data| gpu.pipeline_cache(Some(&data)).ok()).or_else(|| gpu.pipeline_cache(None).ok());
        }
        Ok(gpu)
    }

    fn pipeline_cache(&self, data: Option<&[u8]>) -> Result<wgpu::PipelineCache> {
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data, fallback: true };
        // SAFETY: the data must come from `PipelineCache::get_data`. It was read from a file of the user's own cache
        // folder by `cache::read`, which takes none but a whole one that `keep_pipelines` wrote; wgpu in turn compares
        // the adapter and the driver that its header names with this one.
        self.guarded("opening the pipeline cache", || unsafe { self.device.create_pipeline_cache(&descriptor) })
    }

    fn pipelines_file(&self) -> Option<PathBuf> {
        let key = wgpu::util::pipeline_cache_key(&self.info)?;
        Some(self.cache_folder.as_ref()?.join(key))
    }

    /// Where files for later starts go, if anywhere.
    pub fn cache_folder(&self) -> Option<&Path> {
        self.cache_folder.as_deref()
    }

    /// Leaves the pipelines that were built so far to the next start, if the driver hands them out and there are new
    /// ones.
    pub fn keep_pipelines(&self) {
        if !self.built.swap(false, Ordering::Relaxed) {
            return;
        }
        let data = self.pipelines.as_ref().and_then(wgpu::PipelineCache::get_data);
        if let (Some(path), Some(data)) = (self.pipelines_file(), data)
            && cache::read(&path).as_deref() != Some(&data)
        {
            cache::write(&path, &data);
        }
    }

    /// The first error since the device was opened that nobody has handled.
    ///
    /// # Errors
    /// [`Error::Gpu`] or [`Error::DeviceLost`].
    pub fn check(&self, context: &str) -> Result<()> {
        if matches!(*self.failure(), Some(Failure::Error(_))) {
            // What a device that is gone refuses may be heard of before its end is.
            let all = wgpu::PollType::Wait { submission_index: None, timeout: Some(LAST_WORDS) };
            let _ = self.device.poll(all);
        }
        match &*self.failure() {
            None => Ok(()),
            Some(Failure::Error(message)) => Err(Error::Gpu { context: context.to_owned(), message: message.clone() }),
            Some(Failure::Lost(message)) => Err(Error::DeviceLost(message.clone())),
        }
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Forgets an error that was dealt with: what failed is given up, and something else is tried. A device that is
    /// lost stays lost.
    pub(super) fn forgive(&self) {
        let mut failure = self.failure();
        if matches!(*failure, Some(Failure::Error(_))) {
            *failure = None;
        }
    }

    /// Runs `work` and turns any error inside it into a typed one, which is all that is left of it: another try may
    /// succeed.
    pub(super) fn guarded<T>(&self, context: &str, work: impl FnOnce() -> T) -> Result<T> {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        self.check(context)?;
        // The causes first: without memory or a compiled shader, what is made of them is invalid too.
        let scopes = [OutOfMemory, Internal, Validation].map(|filter| self.device.push_error_scope(filter));
        let result = work();
        // The scopes are a stack: the last is closed first.
        let errors = scopes.into_iter().rev().filter_map(|scope| pollster::block_on(scope.pop())).collect::<Vec<_>>();
        // A device that was lost refuses everything.
        self.check(context)?;
        errors.into_iter().next_back().map_or(Ok(result), |error| Err(typed(context, &error)))
    }

    /// Whether it is more than a driver that computes on the CPU.
    pub fn is_hardware(&self) -> bool {
        self.info.device_type != wgpu::DeviceType::Cpu
    }

    /// Whether the device runs kernels in this form.
    pub fn runs(&self, tiles: Tiles) -> bool {
        let subgroups = [self.info.subgroup_min_size, self.info.subgroup_max_size];
        match tiles {
            Tiles::Registers => true,
            Tiles::Workgroup | Tiles::WorkgroupFew | Tiles::WorkgroupMany => self.fits(tiles),
            // That every subgroup is full, software drivers keep, and nobody else promises.
            Tiles::Lanes => {
                !self.is_hardware()
                    && self.device.features().contains(wgpu::Features::SUBGROUP)
                    && subgroups == [LANES as u32; 2]
                    && self.fits(tiles)
            }
        }
    }

    /// Whether the device has what every shader of this form needs.
    fn fits(&self, tiles: Tiles) -> bool {
        let limits = self.device.limits();
        shaders::of_form(tiles).all(|shader| exceeded(shader, &limits).is_none())
    }

    /// Whether the device stores activations in this way.
    pub fn stores(&self, activations: Storage) -> bool {
        activations == Storage::F32 || self.halves
    }

    /// Refuses a form of kernels that the device does not run.
    ///
    /// # Errors
    /// [`Error::Usage`] with the form.
    pub fn offers(&self, tuning: Tuning) -> Result<()> {
        match tuning.tiles().into_iter().find(|&tiles| !self.runs(tiles)) {
            None => Ok(()),
            Some(tiles) => Err(Error::Usage(format!("{} does not run kernels in the form {tiles:?}", self.info.name))),
        }
    }

    /// Refuses a plan that the driver would not carry out to its end: the answer would be wrong.
    ///
    /// # Errors
    /// [`Error::OverLimit`] with the kernel.
    pub fn ends_loops(&self, plan: &Plan) -> Result<()> {
        let most = if self.info.driver == "llvmpipe" { LLVMPIPE_TURNS } else { u64::MAX };
        match plan.dispatches.iter().find(|dispatch| dispatch.turns >= most) {
            None => Ok(()),
            Some(Dispatch { label, turns, .. }) => Err(Error::OverLimit(format!(
                "{label} takes {turns} turns of a thread's loops, and the driver llvmpipe ends them, unasked, after {most}: \
                 take the fused kernels, the CPU path, or a smaller --batch-size"
            ))),
        }
    }

    /// The forms that are fast on devices of this kind.
    pub fn tuning(&self) -> Tuning {
        Tuning::all(match self.is_hardware() {
            true if self.runs(Tiles::Workgroup) => Tiles::Workgroup,
            false if self.runs(Tiles::Lanes) => Tiles::Lanes,
            _ => Tiles::Registers,
        })
    }

    /// Bytes that can still be allocated, where that is known: a software driver's memory is the machine's.
    pub fn memory_available(&self) -> Option<u64> {
        if self.is_hardware() {
            return None;
        }
        let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// How long `work` operations may take before the device counts as lost: a minute, and as long as the slowest
    /// device would need.
    pub fn patience(&self, work: u64) -> Duration {
        let [gpu, software] = SLOWEST;
        PATIENCE.saturating_add(Duration::from_secs_f64(work as f64 / if self.is_hardware() { gpu } else { software }))
    }

    /// Waits until `submission` is done, or all are; but no longer than `most`.
    ///
    /// # Errors
    /// As [`Self::check`]; [`Error::DeviceLost`] if the device does not answer in time.
    pub(super) fn wait(
        self: &Arc<Self>,
        context: &str,
        submission: Option<wgpu::SubmissionIndex>,
        most: Duration,
    ) -> Result<()> {
        let polled = self.device.poll(wgpu::PollType::Wait { submission_index: submission, timeout: Some(most) });
        self.check(context)?;
        match polled {
            Ok(_) => Ok(()),
            Err(wgpu::PollError::Timeout) => {
                let message = format!("no answer for {most:.0?} in {context}");
                *self.failure() = Some(Failure::Lost(message.clone()));
                // Closing a device waits for all it has to do, for ever where that does not end.
                std::mem::forget(self.clone());
                Err(Error::DeviceLost(message))
            }
            Err(error) => Err(Error::Gpu { context: context.to_owned(), message: error.to_string() }),
        }
    }
}

/// The limit that keeps a device from running the shader, if there is one: what it needs, and what there is.
pub fn exceeded(shader: &Shader, limits: &wgpu::Limits) -> Option<String> {
    let entry = |entry: &shaders::EntryPoint| {
        let [x, y, z] = entry.workgroup_size;
        let storage = entry.bindings.iter().filter(|b| matches!(b.kind, shaders::BindingKind::Storage { .. })).count();
        let needs = [
            ("bytes of memory a workgroup", entry.workgroup_memory, limits.max_compute_workgroup_storage_size),
            ("invocations a workgroup", x * y * z, limits.max_compute_invocations_per_workgroup),
            ("invocations along x", x, limits.max_compute_workgroup_size_x),
            ("invocations along y", y, limits.max_compute_workgroup_size_y),
            ("invocations along z", z, limits.max_compute_workgroup_size_z),
            ("storage buffers", storage as u32, limits.max_storage_buffers_per_shader_stage),
        ];
        let (what, needed, has) = needs.into_iter().find(|(_, needed, has)| needed > has)?;
        Some(format!("{}.wgsl, {} needs {needed} {what}, this device allows {has}", shader.name, entry.name))
    };
    shader.entries().iter().find_map(entry)
}

fn typed(context: &str, error: &wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OverLimit(format!("{context}: the device is out of memory")),
        other => Error::Gpu { context: context.to_owned(), message: one_line(&other.to_string()) },
    }
}

/// wgpu's messages span lines; ours do not.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches an error of the driver's own (a shader that it cannot compile) that is no typed error.
    #[test]
    fn every_kind_of_error_is_typed() {
        let source = || Box::<dyn std::error::Error + Send + Sync>::from("the cause");
        let memory = wgpu::Error::OutOfMemory { source: source() };
        assert!(matches!(typed("x", &memory), Error::OverLimit(text) if text.starts_with("x: ")));
        let description = "a line\nand another".to_owned();
        let validation = wgpu::Error::Validation { source: source(), description: description.clone() };
        let internal = wgpu::Error::Internal { source: source(), description };
        for error in [validation, internal] {
            let Error::Gpu { context, message } = typed("x", &error) else { panic!("{error}") };
            assert!(context == "x" && !message.contains('\n'), "{message}");
        }
    }

    /// Catches a form that is chosen on a device that cannot hold what its workgroups share.
    #[test]
    fn a_limit_that_a_shader_exceeds_is_named() {
        let least = wgpu::Limits::default();
        for tiles in Tiles::ALL {
            assert!(shaders::of_form(tiles).count() >= 2, "{tiles:?}");
        }
        assert!(crate::ops::shaders().all(|shader| exceeded(shader, &least).is_none()), "WebGPU's own limits suffice");
        let tiled = &shaders::CONV2D_POOL_TILED;
        assert!(tiled.entries().iter().any(|entry| entry.workgroup_memory > 1024), "{:?}", tiled.entries());
        for (limits, words) in [
            (wgpu::Limits { max_compute_workgroup_storage_size: 1024, ..least.clone() }, "memory a workgroup"),
            (wgpu::Limits { max_compute_invocations_per_workgroup: 16, ..least.clone() }, "invocations a workgroup"),
            (wgpu::Limits { max_compute_workgroup_size_x: 4, ..least.clone() }, "invocations along x"),
            (wgpu::Limits { max_storage_buffers_per_shader_stage: 2, ..least }, "storage buffers"),
        ] {
            let found = exceeded(tiled, &limits).unwrap();
            assert!(found.contains(words), "{found}");
        }
    }
}
