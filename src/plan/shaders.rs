//! The WGSL sources, and what naga tells about them. A shader is the one place where its bindings, their access and the
//! size of its workgroup are written: the host asks ([`Shader::entry`]) and binds by name.

use std::sync::OnceLock;

use crate::plan::tuning::Tiles;

/// A WGSL file with the common files it builds on.
pub struct Shader {
    /// The file's stem, with `_f16` where it stores activations in halves.
    pub name: &'static str,
    /// The file's stem.
    pub file: &'static str,
    /// Whether it is one of this crate's, of which the tests know that every loop ends and that no memory is read
    /// before it is written. Others run with the checks of the driver.
    pub own: bool,
    parts: &'static [&'static str],
    source: OnceLock<String>,
    entries: OnceLock<Vec<EntryPoint>>,
}

/// What every shader begins with: threads and workgroups, and the batch's block, at binding 0.
pub const COMMON: &str =
    concat!(include_str!("../../shaders/common/dispatch.wgsl"), include_str!("../../shaders/common/batch.wgsl"));

/// Random numbers, behind [`COMMON`]: the same as [`crate::layer::Random::word`].
pub const RANDOM: &str = include_str!("../../shaders/common/random.wgsl");

/// One pass of a shader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPoint {
    /// The entry point's name.
    pub name: String,
    /// Threads of a workgroup along x, y, z.
    pub workgroup_size: [u32; 3],
    /// Bytes that a workgroup's threads share.
    pub workgroup_memory: u32,
    /// What it binds, by binding number.
    pub bindings: Vec<Binding>,
}

/// One binding of an entry point; all are in group 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The variable's name.
    pub name: String,
    /// The binding's number.
    pub number: u32,
    /// What it is bound to.
    pub kind: BindingKind,
}

/// What a binding is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindingKind {
    /// A uniform block.
    Uniform {
        /// Its fields' names and byte offsets.
        fields: Vec<(String, u32)>,
        /// Bytes.
        size: u32,
    },
    /// A storage buffer.
    Storage {
        /// Whether the shader may write to it.
        writable: bool,
    },
}

/// `shaders/<stem>.wgsl`, behind [`COMMON`] and the common files that are named.
macro_rules! shader {
    ($stem:literal $(+ $storage:literal)? $(with $($common:literal)&+)?) => {
        $crate::plan::shaders::Shader::of(concat!($stem $(, $storage)?), $stem, true, &[
            $crate::plan::shaders::COMMON,
            $($(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/common/", $common, ".wgsl")),)+)?
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $stem, ".wgsl")),
        ])
    };
}
pub(crate) use shader;

macro_rules! shaders {
    ($($constant:ident = $stem:literal $(+ $storage:literal)? $(with $($common:literal)&+)?),* $(,)?) => {
        $(
            #[doc = concat!("`shaders/", $stem, ".wgsl`" $(, ", `", $storage, "`")?)]
            pub static $constant: Shader = shader!($stem $(+ $storage)? $(with $($common)&+)?);
        )*
        /// Every shader but those of layers, which stand in their folders ([`crate::ops::shaders`]).
        pub static ALL: &[&Shader] = &[$(&$constant),*];
    };
}

// A file whose activations are stored in either way is two shaders: the common files say how.
shaders! {
    ACCUMULATE = "accumulate" with "loss_block" & "part_block" & "segments" & "slot",
    ADAM = "adam" with "loss_block" & "segments" & "slot" & "optimizer",
    CEILING = "ceiling",
    CLIP = "clip" with "segments" & "reduce",
    COMPARATOR_LOSS = "comparator_loss" with "loss_block" & "reduce" & "loss" & "largest_of_row",
    DISTILLATION_LOSS = "distillation_loss" with "loss_block" & "reduce" & "loss",
    CONV2D_POOL = "conv2d_pool" with "conv2d_pool" & "f32" & "conv2d_pool_f32",
    CONV2D_POOL_F16 = "conv2d_pool" + "_f16" with "conv2d_pool" & "f16" & "conv2d_pool_f16",
    CONV2D_POOL_LANES = "conv2d_pool_lanes" with "conv2d_pool" & "f32" & "conv2d_pool_f32",
    CONV2D_POOL_LANES_F16 = "conv2d_pool_lanes" + "_f16" with "conv2d_pool" & "f16" & "conv2d_pool_f16",
    CONV2D_POOL_TILED = "conv2d_pool_tiled" with "conv2d_pool" & "f32" & "conv2d_pool_f32" & "conv2d_pool_tile",
    CONV2D_POOL_TILED_F16 =
        "conv2d_pool_tiled" + "_f16" with "conv2d_pool" & "f16" & "conv2d_pool_f16" & "conv2d_pool_tile",
    CONV2D_TILED = "conv2d_tiled" with "channels_last" & "conv2d_tiled",
    CONV2D_TILED_LANES = "conv2d_tiled_lanes" with "channels_last" & "conv2d_tiled",
    CONV2D_TILED_NORM = "conv2d_tiled_norm" with "channels_last" & "reduce",
    EMA = "ema",
    GATHER = "gather" with "random" & "part_block",
    LOGIT_PENALTY = "logit_penalty" with "loss_block" & "reduce" & "loss" & "largest_of_row",
    HEAD = "head" with "f32" & "loss_block",
    HEAD_F16 = "head" + "_f16" with "f16" & "loss_block",
    LINEAR_TILED = "linear_tiled" with "linear_tiled" & "linear_tiled_f32",
    LINEAR_TILED_F16 = "linear_tiled" + "_f16" with "linear_tiled" & "f16" & "linear_tiled_f16",
    LINEAR_TILED_LANES = "linear_tiled_lanes" with "linear_tiled" & "linear_tiled_f32",
    LINEAR_TILED_LANES_F16 = "linear_tiled_lanes" + "_f16" with "linear_tiled" & "f16" & "linear_tiled_f16",
    MIX = "mix" with "part_block",
    MUON = "muon" with "loss_block" & "segments" & "slot" & "optimizer" & "reduce",
    MIXED_LOSS = "mixed_loss" with "loss_block" & "part_block" & "reduce" & "loss" & "largest_of_row" & "smoothed_row",
    SEAL = "seal",
    SGD = "sgd" with "loss_block" & "segments" & "slot" & "optimizer",
    SMOOTHED_LOSS = "smoothed_loss" with "loss_block" & "reduce" & "loss" & "largest_of_row" & "smoothed_row",
    WEIGHTED_LOSS = "weighted_loss" with "loss_block" & "reduce" & "loss" & "weighted_loss",
    WEIGHTED_LOSS_SOFT = "weighted_loss_soft" with "loss_block" & "reduce" & "loss" & "weighted_loss",
}

impl std::fmt::Debug for Shader {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}.wgsl", self.name)
    }
}

impl Shader {
    /// A shader of one's own, from parts of WGSL that are one behind the other; the first is [`COMMON`] for kernels
    /// that go by the batch. Bindings are in group 0, dimensions in a uniform called `dims`.
    pub const fn new(name: &'static str, parts: &'static [&'static str]) -> Self {
        Self::of(name, name, false, parts)
    }

    pub(crate) const fn of(name: &'static str, file: &'static str, own: bool, parts: &'static [&'static str]) -> Self {
        Self { name, file, own, parts, source: OnceLock::new(), entries: OnceLock::new() }
    }

    /// The whole source.
    pub fn source(&self) -> &str {
        self.source.get_or_init(|| self.parts.concat())
    }

    /// Every pass of the shader.
    pub fn entries(&self) -> &[EntryPoint] {
        self.entries.get_or_init(|| reflect(self.name, self.source()))
    }

    /// The pass called `name`.
    pub fn entry(&self, name: &str) -> Option<&EntryPoint> {
        self.entries().iter().find(|entry| entry.name == name)
    }
}

/// The shaders of a form of the fused kernels.
pub fn of_form(tiles: Tiles) -> impl Iterator<Item = &'static Shader> {
    let name = move |shader: &Shader| match tiles {
        Tiles::Registers => ["conv2d_pool", "conv2d_tiled", "linear_tiled"].contains(&shader.file),
        Tiles::Workgroup | Tiles::WorkgroupFew | Tiles::WorkgroupMany => {
            ["conv2d_pool_tiled", "conv2d_tiled", "linear_tiled"].contains(&shader.file)
        }
        Tiles::Lanes => ["conv2d_pool_lanes", "conv2d_tiled_lanes", "linear_tiled_lanes"].contains(&shader.file),
    };
    ALL.iter().copied().filter(move |shader| name(shader))
}

/// What a device must offer for a shader that not every device of WebGPU or Vulkan does. The host checks it before it
/// takes such a shader.
pub fn capabilities(name: &str) -> naga::valid::Capabilities {
    use naga::valid::Capabilities;
    let needs = |part: &str, capability| if name.contains(part) { capability } else { Capabilities::empty() };
    // Core WGSL, but some Vulkan drivers lack it: `pack2x16float`.
    needs("_lanes", Capabilities::SUBGROUP) | needs("_f16", Capabilities::SHADER_FLOAT16_IN_FLOAT32)
}

/// Asks naga what each entry point binds.
///
/// # Panics
/// If the source is not valid WGSL. The sources are part of the crate, and a test validates each of them.
fn reflect(name: &str, source: &str) -> Vec<EntryPoint> {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|error| panic!("{name}.wgsl: {}", error.emit_to_string(source)));
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities(name));
    let info =
        validator.validate(&module).unwrap_or_else(|error| panic!("{name}.wgsl: {}", error.emit_to_string(source)));
    let entry = |(i, point): (usize, &naga::EntryPoint)| {
        let used = |handle: naga::Handle<naga::GlobalVariable>| !info.get_entry_point(i)[handle].is_empty();
        let mut bindings: Vec<Binding> = module
            .global_variables
            .iter()
            .filter(|(handle, _)| used(*handle))
            .filter_map(|(_, variable)| binding(&module, variable))
            .collect();
        bindings.sort_by_key(|binding| binding.number);
        let shared = module
            .global_variables
            .iter()
            .filter(|(handle, variable)| used(*handle) && matches!(variable.space, naga::AddressSpace::WorkGroup));
        // Each variable starts where any type may.
        let bytes = |ty| module.types[ty].inner.size(module.to_ctx()).next_multiple_of(16);
        let workgroup_memory = shared.map(|(_, variable)| bytes(variable.ty)).sum();
        EntryPoint { name: point.name.clone(), workgroup_size: point.workgroup_size, workgroup_memory, bindings }
    };
    module.entry_points.iter().enumerate().map(entry).collect()
}

fn binding(module: &naga::Module, variable: &naga::GlobalVariable) -> Option<Binding> {
    let number = variable.binding.as_ref()?.binding;
    let kind = match variable.space {
        naga::AddressSpace::Storage { access } => {
            BindingKind::Storage { writable: access.contains(naga::StorageAccess::STORE) }
        }
        naga::AddressSpace::Uniform => match &module.types[variable.ty].inner {
            naga::TypeInner::Struct { members, span } => BindingKind::Uniform {
                fields: members.iter().map(|m| (m.name.clone().unwrap_or_default(), m.offset)).collect(),
                size: *span,
            },
            other => unreachable!("a uniform that is not a struct: {other:?}"),
        },
        _ => return None,
    };
    Some(Binding { name: variable.name.clone().unwrap_or_default(), number, kind })
}
