//! The compiler: plain Vulkan, because wgpu opens no device that cannot run.

use std::ffi::{CStr, CString};
use std::path::Path;

use ash::vk;
use naga::back::spv;
use smoothcnn::ops;
use smoothcnn::plan::Step;
use smoothcnn::plan::shaders::{BindingKind, EntryPoint, Shader, capabilities};

use super::{Code, Compiled, machine_code};

/// SPIR-V as wgpu makes it for a driver with `robustBufferAccess2`, with the checks that `backend::gpu::kernel` asks
/// for.
fn spirv(shader: &Shader, entry: &str) -> Result<Vec<u32>, String> {
    let module = naga::front::wgsl::parse_str(shader.source()).map_err(|error| error.to_string())?;
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities(shader.name));
    let info = validator.validate(&module).map_err(|error| error.to_string())?;
    let mut options = spv::Options { lang_version: (1, 6), force_loop_bounding: !shader.own, ..Default::default() };
    options.bounds_check_policies.index = naga::proc::BoundsCheckPolicy::Restrict;
    options.bounds_check_policies.buffer = naga::proc::BoundsCheckPolicy::Unchecked;
    if shader.own {
        options.zero_initialize_workgroup_memory = spv::ZeroInitializeWorkgroupMemoryMode::None;
    }
    let pipeline = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: entry.to_owned() };
    spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|error| error.to_string())
}

/// A device that compiles and runs nothing. What is made on it is left to the end of the process.
struct Compiler {
    device: ash::Device,
    executables: ash::khr::pipeline_executable_properties::Device,
    // What the device's functions are in: it stays loaded as long as they may be called.
    _instance: (ash::Entry, ash::Instance),
}

/// Compiles every pass of every shader, but those for software drivers, for the family that the environment names.
pub fn compile(dump: Option<&Path>) -> Result<Compiled, String> {
    let (compiler, driver) = Compiler::open()?;
    let mut passes = vec![];
    for shader in ops::shaders().filter(|shader| !shader.name.contains("_lanes")) {
        for entry in shader.entries() {
            let context = |what: String| format!("{}.{}: {what}", shader.name, entry.name);
            passes.push(compiler.pass(shader, entry, dump).map_err(context)?);
        }
    }
    // One shader may serve several layers.
    passes.sort_by(|a: &Code, b| a.pass.cmp(&b.pass));
    passes.dedup_by(|a, b| a.pass == b.pass);
    Ok(Compiled { family: std::env::var("RADV_FORCE_FAMILY").unwrap_or_default(), driver, passes })
}

impl Compiler {
    fn open() -> Result<(Self, String), String> {
        let refused = |error: vk::Result| format!("Vulkan: {error}");
        // SAFETY: loading Vulkan's loader runs its initialisers, which are made for any process.
        let entry = unsafe { ash::Entry::load() }.map_err(|error| error.to_string())?;
        let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let info = vk::InstanceCreateInfo::default().application_info(&app);
        // SAFETY: `info` and what it points to live until the call returns; there is no allocator. `Self` keeps the
        // library.
        let instance = unsafe { entry.create_instance(&info, None) }.map_err(refused)?;
        // SAFETY: the instance is alive.
        let devices = unsafe { instance.enumerate_physical_devices() }.map_err(refused)?;
        let physical = *devices.first().ok_or("the driver makes no device without a card")?;
        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
        // SAFETY: `physical` is of this instance, and the chain is of structs that Vulkan 1.3 has.
        unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
        let text = |name: Result<&CStr, _>| name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let named = format!("{} {}", text(driver.driver_name_as_c_str()), text(driver.driver_info_as_c_str()));

        let priority = [1.0];
        let queue = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&priority)];
        let extensions =
            [ash::khr::pipeline_executable_properties::NAME, ash::ext::robustness2::NAME].map(CStr::as_ptr);
        // As wgpu opens a device: reads past a buffer's end are the driver's to catch.
        let features = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
        let mut executable =
            vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
        let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
        let mut subgroups = vk::PhysicalDeviceVulkan13Features::default().subgroup_size_control(true);
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queue)
            .enabled_extension_names(&extensions)
            .enabled_features(&features)
            .push_next(&mut executable)
            .push_next(&mut robust)
            .push_next(&mut subgroups);
        // SAFETY: as above; names of extensions are C strings of the crate's. What the driver lacks, it refuses.
        let device = unsafe { instance.create_device(physical, &info, None) }.map_err(refused)?;
        let executables = ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
        Ok((Self { device, executables, _instance: (entry, instance) }, named.trim().to_owned()))
    }

    fn pass(&self, shader: &Shader, entry: &EntryPoint, dump: Option<&Path>) -> Result<Code, String> {
        let pipeline = self.pipeline(&spirv(shader, &entry.name)?, entry).map_err(|error| error.to_string())?;
        let found = self.executable(pipeline).map_err(|error| error.to_string())?;
        let assembly = self.texts(pipeline).map_err(|error| error.to_string())?;
        if let Some(folder) = dump {
            for (name, text) in &assembly {
                let file = format!("{}.{}.{}.txt", shader.name, entry.name, name.replace(' ', "-"));
                std::fs::write(folder.join(file), text).map_err(|error| format!("{}: {error}", folder.display()))?;
            }
        }
        let machine = assembly.iter().find(|(name, _)| name == "Assembly").ok_or("the driver shows no machine code")?;
        let of = |name: &str| found.iter().find(|(found, _)| found == name).map(|&(_, value)| value);
        let number = |name: &str| of(name).ok_or_else(|| format!("the driver does not say: {name}"));
        let wave = number("Subgroup size")?;
        Ok(Code {
            pass: (shader.name.to_owned(), entry.name.clone()),
            registers: number("VGPRs")?,
            spilled: number("Spilled VGPRs")?,
            workgroup_memory: number("LDS size")?,
            bytes: number("Code size")?,
            // RADV counts waves of 32 threads, whatever the size.
            waves: number("Subgroups per SIMD")? * 32 / wave.max(32),
            wave,
            loops: machine_code::loops(&machine.1),
        })
    }

    fn pipeline(&self, code: &[u32], entry: &EntryPoint) -> Result<vk::Pipeline, vk::Result> {
        let binding = |binding: &smoothcnn::plan::shaders::Binding| {
            let kind = match binding.kind {
                BindingKind::Storage { .. } => vk::DescriptorType::STORAGE_BUFFER,
                BindingKind::Uniform { .. } if Step::block(&binding.name).is_some() => {
                    vk::DescriptorType::UNIFORM_BUFFER_DYNAMIC
                }
                BindingKind::Uniform { .. } => vk::DescriptorType::UNIFORM_BUFFER,
            };
            let number = vk::DescriptorSetLayoutBinding::default().binding(binding.number);
            number.descriptor_count(1).descriptor_type(kind).stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let bindings: Vec<_> = entry.bindings.iter().map(binding).collect();
        let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        let module = vk::ShaderModuleCreateInfo::default().code(code);
        let name = CString::new(entry.name.as_str()).expect("a name of WGSL holds no zero");
        // SAFETY: every handle is of this device, which lives as long as the process; what the structs point to lives
        // until the calls return. naga validated the module and wrote its SPIR-V; the layout has each of its bindings,
        // from reflection.
        unsafe {
            let sets = [self.device.create_descriptor_set_layout(&set, None)?];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = self.device.create_pipeline_layout(&layout, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE)
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(self.device.create_shader_module(&module, None)?)
                .name(&name);
            let flags = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let info = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(flags)];
            let made = self.device.create_compute_pipelines(vk::PipelineCache::null(), &info, None);
            made.map(|pipelines| pipelines[0]).map_err(|(_, error)| error)
        }
    }

    /// What the compiler counted, by name.
    fn executable(&self, pipeline: vk::Pipeline) -> Result<Vec<(String, u64)>, vk::Result> {
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(0);
        let whole = vk::PipelineInfoKHR::default().pipeline(pipeline);
        // SAFETY: the pipeline is of this device, was made with the flag that keeps statistics, and is one executable.
        let (counted, known) = unsafe {
            (
                self.executables.get_pipeline_executable_statistics(&info)?,
                self.executables.get_pipeline_executable_properties(&whole)?,
            )
        };
        let name = |name: Result<&CStr, _>| name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let number = |statistic: &vk::PipelineExecutableStatisticKHR| {
            let unsigned = statistic.format == vk::PipelineExecutableStatisticFormatKHR::UINT64;
            // SAFETY: `format` says that this field of the union was written.
            let value = if unsigned { unsafe { statistic.value.u64 } } else { 0 };
            (name(statistic.name_as_c_str()), value)
        };
        let wave = known.first().map(|executable| ("Subgroup size".to_owned(), executable.subgroup_size.into()));
        Ok(counted.iter().map(number).chain(wave).collect())
    }

    /// The program in each of the compiler's languages, by name.
    fn texts(&self, pipeline: vk::Pipeline) -> Result<Vec<(String, String)>, vk::Result> {
        let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(0);
        // SAFETY: the pipeline is of this device and was made with the flag that keeps them. The first call writes
        // sizes.
        let mut found = unsafe { self.executables.get_pipeline_executable_internal_representations(&info)? };
        let mut texts: Vec<_> = found.iter().map(|text| vec![0u8; text.data_size]).collect();
        for (text, bytes) in found.iter_mut().zip(&mut texts) {
            text.p_data = bytes.as_mut_ptr().cast();
        }
        let mut count = found.len() as u32;
        let get = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        // SAFETY: `found` holds `count` structs; each points to as many bytes as it says in `data_size`, all alive.
        unsafe { get(self.device.handle(), &info, &mut count, found.as_mut_ptr()) }.result()?;
        let name = |text: &vk::PipelineExecutableInternalRepresentationKHR| {
            text.name_as_c_str().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        Ok(found.iter().map(name).zip(texts.iter().map(|bytes| text(bytes))).collect())
    }
}
