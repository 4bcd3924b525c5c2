//! The one place that chooses an adapter and opens a device.
//!
//! Honours `WGPU_BACKEND`, `WGPU_ADAPTER_NAME` and `WGPU_POWER_PREF`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::cache;
use crate::activations::Activations;
use crate::tuning::{LANES, Tiles, Tuning};
use crate::{Error, Result};

/// What the user asked to compute on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A hardware GPU if there is one, else the CPU path.
    #[default]
    Auto,
    /// The best adapter there is, software drivers included.
    Gpu,
    /// The CPU path.
    Cpu,
}

/// What to compute on, and why.
pub struct Choice {
    /// The adapter, or `None` for the CPU path.
    pub adapter: Option<wgpu::Adapter>,
    /// One line for the user.
    pub reason: String,
}

/// Every adapter that `WGPU_BACKEND` lets through, the best first: hardware before software, discrete before integrated
/// (the other way round with `WGPU_POWER_PREF=low`).
pub fn adapters() -> Vec<wgpu::Adapter> {
    // One instance for the whole process: some drivers crash when a second one is made while the first is torn down.
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env;
    let backends = descriptor().backends;
    let instance = INSTANCE.get_or_init(|| wgpu::Instance::new(descriptor()));
    let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
    let low_power = wgpu::PowerPreference::from_env() == Some(wgpu::PowerPreference::LowPower);
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 1,
        wgpu::DeviceType::IntegratedGpu if low_power => 0,
        wgpu::DeviceType::IntegratedGpu => 2,
        wgpu::DeviceType::VirtualGpu => 3,
        wgpu::DeviceType::Other => 4,
        wgpu::DeviceType::Cpu => 5,
    });
    adapters
}

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

const REMEDY: &str = "install a Vulkan driver (Debian, Ubuntu: apt install mesa-vulkan-drivers libvulkan1) or use \
                      --device cpu";

/// Chooses what to compute on. `wanted` is `--adapter`: an index into [`adapters`] or a part of a name; without it,
/// `WGPU_ADAPTER_NAME` counts.
///
/// # Errors
/// [`Error::NoAdapter`] if the adapter that was asked for is not there.
pub fn choose(kind: DeviceKind, wanted: Option<&str>) -> Result<Choice> {
    if kind == DeviceKind::Cpu {
        return Ok(Choice { adapter: None, reason: "CPU path, as asked for with --device cpu".into() });
    }
    let mut adapters = adapters();
    let from_environment = std::env::var("WGPU_ADAPTER_NAME").ok().filter(|name| !name.is_empty());
    let named =
        wanted.map(|name| ("--adapter", name)).or(from_environment.as_deref().map(|n| ("WGPU_ADAPTER_NAME", n)));
    if let Some((origin, name)) = named {
        let index = match name.parse::<usize>() {
            Ok(index) if wanted.is_some() => Some(index).filter(|&index| index < adapters.len()),
            _ => adapters.iter().position(|a| a.get_info().name.to_lowercase().contains(&name.to_lowercase())),
        };
        let Some(index) = index else {
            let found: Vec<_> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
            let found = if found.is_empty() { "no adapter at all".into() } else { found.join(", ") };
            return Err(Error::NoAdapter(format!("{origin}: no adapter matches {name:?}; found {found}; {REMEDY}")));
        };
        let adapter = adapters.swap_remove(index);
        let reason = format!("{}, as asked for with {origin}", describe(&adapter.get_info()));
        return Ok(Choice { adapter: Some(adapter), reason });
    }
    let best = adapters.into_iter().next();
    match (kind, best) {
        (DeviceKind::Gpu, Some(adapter)) => {
            let reason = format!("{}, the best adapter here", describe(&adapter.get_info()));
            Ok(Choice { adapter: Some(adapter), reason })
        }
        (DeviceKind::Gpu, None) => Err(Error::NoAdapter(format!("--device gpu: found no adapter; {REMEDY}"))),
        (_, Some(adapter)) if adapter.get_info().device_type != wgpu::DeviceType::Cpu => {
            let reason = format!("{}, the best hardware GPU here", describe(&adapter.get_info()));
            Ok(Choice { adapter: Some(adapter), reason })
        }
        (_, Some(adapter)) => {
            let name = adapter.get_info().name;
            let reason = format!("CPU path: the only adapters are software drivers ({name}); --device gpu uses them");
            Ok(Choice { adapter: None, reason })
        }
        (_, None) => Ok(Choice { adapter: None, reason: "CPU path: no GPU adapter found".into() }),
    }
}

/// An open device.
pub struct Gpu {
    /// The device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    /// What it is.
    pub info: wgpu::AdapterInfo,
    /// Whether its kernels can store halves ([`Activations::F16`]).
    halves: bool,
    pub(super) kernels: super::kernel::Cache,
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
    /// Opens `adapter` with WebGPU's default limits, raised only where large networks and data sets need it: the size of
    /// a buffer and of a binding.
    ///
    /// # Errors
    /// [`Error::Gpu`] if the driver refuses.
    pub fn open(adapter: &wgpu::Adapter) -> Result<Self> {
        Self::open_with(adapter, None)
    }

    /// As [`Self::open`], with pipelines that an earlier start left in `cache_folder` (see [`cache`]), and to leave some
    /// there: [`Self::keep_pipelines`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(adapter: &wgpu::Adapter, cache_folder: Option<PathBuf>) -> Result<Self> {
        let offered = adapter.limits();
        let required_limits = wgpu::Limits {
            max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
            max_buffer_size: offered.max_buffer_size,
            ..wgpu::Limits::default().or_worse_values_from(&offered)
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("smoothcnn"),
            required_limits,
            // Nothing depends on them: measurements use timestamps, one form of the kernels subgroups, a later start the
            // pipelines.
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
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                let mut slot = slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                *slot = Some(Failure::Lost(one_line(&message)));
            }
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
        // SAFETY: the data must come from `PipelineCache::get_data`. It was read from a file of the user's own cache folder
        // by `cache::read`, which takes none but a whole one that `keep_pipelines` wrote; wgpu in turn compares the adapter
        // and the driver that its header names with this one.
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

    /// Leaves the pipelines that were built so far to the next start, if the driver hands them out and there are new ones.
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

    /// Opens the best adapter there is, software included: what tests and checks run on. `WGPU_ADAPTER_NAME` and its
    /// kin choose.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] with the remedy if there is none.
    pub fn open_best() -> Result<Self> {
        match choose(DeviceKind::Gpu, None)?.adapter {
            Some(adapter) => Self::open(&adapter),
            None => unreachable!("DeviceKind::Gpu gives an adapter or an error"),
        }
    }

    /// The first error since the device was opened that nobody has handled.
    ///
    /// # Errors
    /// [`Error::Gpu`] or [`Error::DeviceLost`].
    pub fn check(&self, context: &str) -> Result<()> {
        match &*self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            None => Ok(()),
            Some(Failure::Error(message)) => Err(Error::Gpu { context: context.to_owned(), message: message.clone() }),
            Some(Failure::Lost(message)) => Err(Error::DeviceLost(message.clone())),
        }
    }

    /// Runs `work` and turns a validation error or an out-of-memory error inside it into a typed one.
    pub(super) fn guarded<T>(&self, context: &str, work: impl FnOnce() -> T) -> Result<T> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let result = work();
        let validation = pollster::block_on(validation.pop());
        let memory = pollster::block_on(memory.pop());
        match (memory, validation) {
            (None, None) => self.check(context).map(|()| result),
            (Some(_), _) => Err(Error::OverLimit(format!("{context}: the device is out of memory"))),
            (None, Some(error)) => {
                Err(Error::Gpu { context: context.to_owned(), message: one_line(&error.to_string()) })
            }
        }
    }

    /// Whether it is more than a driver that computes on the CPU.
    pub fn is_hardware(&self) -> bool {
        self.info.device_type != wgpu::DeviceType::Cpu
    }

    /// Whether the device runs kernels in this form.
    pub fn runs(&self, tiles: Tiles) -> bool {
        let subgroups = [self.info.subgroup_min_size, self.info.subgroup_max_size];
        match tiles {
            Tiles::Registers | Tiles::Workgroup => true,
            // That every subgroup is full, software drivers keep, and nobody else promises.
            Tiles::Lanes => {
                !self.is_hardware()
                    && self.device.features().contains(wgpu::Features::SUBGROUP)
                    && subgroups == [LANES as u32; 2]
            }
        }
    }

    /// Whether the device stores activations in this way.
    pub fn stores(&self, activations: Activations) -> bool {
        activations == Activations::F32 || self.halves
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

    /// The forms that are fast on devices of this kind.
    pub fn tuning(&self) -> Tuning {
        Tuning::all(match self.is_hardware() {
            true => Tiles::Workgroup,
            false if self.runs(Tiles::Lanes) => Tiles::Lanes,
            false => Tiles::Registers,
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

    /// Waits until everything submitted so far is done.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn wait(&self, context: &str) -> Result<()> {
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check(context)?;
        match polled {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::Gpu { context: context.to_owned(), message: error.to_string() }),
        }
    }
}

/// wgpu's messages span lines; ours do not.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
