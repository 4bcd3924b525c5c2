//! naga's back ends with the options that wgpu 30 gives them, for the pipelines of `src/backend/gpu/kernel.rs`.

use naga::back::{hlsl, msl, pipeline_constants, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ResourceBinding, ShaderStage};
use smoothcnn::plan::Step;
use smoothcnn::plan::shaders::{BindingKind, EntryPoint, Shader, capabilities};

/// A pass of a shader, for three kinds of devices.
pub struct Translated {
    pub shader: &'static Shader,
    pub entry: &'static EntryPoint,
    pub spirv: Vec<u32>,
    pub msl: String,
    pub hlsl: String,
}

/// Every pass of every shader: every form, storage, layer, loss and optimizer.
pub fn all() -> Vec<Translated> {
    let passes = smoothcnn::ops::shaders().flat_map(|shader| {
        let (module, info) = parse(shader.name, shader.source(), capabilities(shader.name));
        let model = match needs_subgroups(shader) {
            true => hlsl::ShaderModel::V6_0,
            false => hlsl::ShaderModel::V5_1,
        };
        shader.entries().iter().map(move |entry| {
            let fail = |target: &str, error: String| -> ! {
                panic!("{}.wgsl:{} in {target}: {error}", shader.name, entry.name)
            };
            Translated {
                shader,
                entry,
                spirv: spirv(&module, &info, entry).unwrap_or_else(|error| fail("SPIR-V", error)),
                msl: msl(&module, &info, entry).unwrap_or_else(|error| fail("MSL", error)),
                hlsl: hlsl(&module, &info, entry, model).unwrap_or_else(|error| fail("HLSL", error)),
            }
        })
    });
    passes.collect()
}

/// Whether a device must have subgroups, and DirectX the compiler DXC.
pub fn needs_subgroups(shader: &Shader) -> bool {
    capabilities(shader.name).contains(Capabilities::SUBGROUP)
}

/// Reads and validates WGSL.
pub fn parse(name: &str, source: &str, capabilities: Capabilities) -> (Module, ModuleInfo) {
    let fail = |error: String| -> ! { panic!("{name}: {error}") };
    let module = naga::front::wgsl::parse_str(source).unwrap_or_else(|error| fail(error.emit_to_string(source)));
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|error| fail(error.emit_to_string(source)));
    (module, info)
}

/// The bindings in the order of the layout, each with its number among all.
fn places(entry: &EntryPoint) -> impl Iterator<Item = (u32, ResourceBinding)> {
    (0..).zip(entry.bindings.iter().map(|binding| ResourceBinding { group: 0, binding: binding.number }))
}

/// As for a release of the program on a driver of Vulkan 1.3 with `robustBufferAccess2`: without it wgpu clamps
/// indices into buffers as well, and a debug build has names besides.
fn spirv(module: &Module, info: &ModuleInfo, entry: &EntryPoint) -> Result<Vec<u32>, String> {
    let place = |(i, binding)| (binding, spv::BindingInfo { descriptor_set: 0, binding: i, binding_array_size: None });
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        fake_missing_bindings: false,
        binding_map: places(entry).map(place).collect(),
        // wgpu lists those that the device has. Validation above has allowed only what the host asks for.
        capabilities: None,
        bounds_check_policies: BoundsCheckPolicies {
            index: BoundsCheckPolicy::Restrict,
            buffer: BoundsCheckPolicy::Unchecked,
            image_load: BoundsCheckPolicy::Unchecked,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.name.clone() };
    let (module, info) = constants(module, info, entry)?;
    spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|error| error.to_string())
}

/// As for macOS 14.
fn msl(module: &Module, info: &ModuleInfo, entry: &EntryPoint) -> Result<String, String> {
    // A slot for each binding, and one more for the buffers' sizes.
    let resources = places(entry).zip(&entry.bindings).map(|((i, place), binding)| {
        let mutable = binding.kind == BindingKind::Storage { writable: true };
        (place, msl::BindTarget { buffer: Some(i as msl::Slot), mutable, ..Default::default() })
    });
    let stored = entry.bindings.iter().any(|binding| matches!(binding.kind, BindingKind::Storage { .. }));
    let resources = msl::EntryPointResources {
        resources: resources.collect(),
        immediates_buffer: None,
        sizes_buffer: stored.then_some(entry.bindings.len() as msl::Slot),
    };
    let options = msl::Options {
        lang_version: (3, 1),
        per_entry_point_map: [(entry.name.clone(), resources)].into_iter().collect(),
        fake_missing_bindings: false,
        bounds_check_policies: BoundsCheckPolicies {
            index: BoundsCheckPolicy::Restrict,
            buffer: BoundsCheckPolicy::Restrict,
            image_load: BoundsCheckPolicy::Restrict,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, entry.name.clone())),
        vertex_pulling_transform: true,
        ..Default::default()
    };
    let (module, info) = constants(module, info, entry)?;
    let (text, names) = msl::write_string(&module, &info, &options, &pipeline).map_err(|error| error.to_string())?;
    names.entry_point_names.into_iter().try_for_each(|name| name.map(drop)).map_err(|error| error.to_string())?;
    Ok(text)
}

/// For shader model 5.1, which is the last that FXC takes. Subgroups are not in it: wgpu gives those shaders to DXC
/// only, here for 6.0. (With DXC it takes the newest model that the device has, for all shaders; what is written is
/// the same.)
pub fn hlsl(
    module: &Module,
    info: &ModuleInfo,
    entry: &EntryPoint,
    shader_model: hlsl::ShaderModel,
) -> Result<String, String> {
    let (mut constant, mut read, mut written) = (0, 0, 0);
    let take = |counter: &mut u32| std::mem::replace(counter, *counter + 1);
    let mut binding_map = hlsl::BindingMap::default();
    // Blocks with dynamic offsets come last: they are root descriptors.
    let is_block = |name: &str| Step::block(name).is_some();
    let order = [false, true].into_iter().flat_map(|last| {
        places(entry).zip(&entry.bindings).filter(move |(_, binding)| is_block(&binding.name) == last)
    });
    for ((_, place), binding) in order {
        let (register, restrict_indexing) = match binding.kind {
            BindingKind::Uniform { .. } => (take(&mut constant), is_block(&binding.name)),
            BindingKind::Storage { writable: false } => (take(&mut read), false),
            BindingKind::Storage { writable: true } => (take(&mut written), false),
        };
        binding_map.insert(place, hlsl::BindTarget { register, restrict_indexing, ..Default::default() });
    }
    let options = hlsl::Options {
        shader_model,
        binding_map,
        fake_missing_bindings: false,
        special_constants_binding: Some(hlsl::BindTarget { register: constant, ..Default::default() }),
        zero_initialize_workgroup_memory: false,
        restrict_indexing: true,
        force_loop_bounding: false,
        ..Default::default()
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, entry.name.clone())) };
    let (module, info) = constants(module, info, entry)?;
    let mut text = String::new();
    let names = hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(&module, &info, None)
        .map_err(|error| error.to_string())?;
    names.entry_point_names.into_iter().try_for_each(|name| name.map(drop)).map_err(|error| error.to_string())?;
    Ok(text)
}

/// wgpu's step before each back end, which leaves a shader without overridable constants as it is.
fn constants<'a>(
    module: &'a Module,
    info: &'a ModuleInfo,
    entry: &EntryPoint,
) -> Result<(std::borrow::Cow<'a, Module>, std::borrow::Cow<'a, ModuleInfo>), String> {
    let entry = Some((ShaderStage::Compute, entry.name.as_str()));
    pipeline_constants::process_overrides(module, info, entry, &Default::default()).map_err(|error| error.to_string())
}
