//! The one place that lists adapters and chooses among them.
//!
//! Honours `WGPU_BACKEND`, `WGPU_ADAPTER_NAME` and `WGPU_POWER_PREF`. An adapter that is listed need not open (a driver
//! without its GPU, a GPU without its rights): a choice is an adapter that did.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::Gpu;
use super::advice::Facts;
use super::device::describe;
use crate::{Error, Result};

/// What the user asked to compute on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
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
pub struct Choice<G = Gpu> {
    /// The open device, or `None` for the CPU path.
    pub gpu: Option<G>,
    /// Its index in [`adapters`].
    pub index: Option<usize>,
    /// One line for the user.
    pub reason: String,
    /// One line for each adapter that would have come before, and could not be opened.
    pub notes: Vec<String>,
}

/// Every adapter that `WGPU_BACKEND` lets through, the best first: hardware before software, discrete before integrated
/// (the other way round with `WGPU_POWER_PREF=low`).
///
/// # Errors
/// [`Error::Usage`] for a value of the two variables that means nothing.
pub fn adapters() -> Result<Vec<wgpu::Adapter>> {
    let (backends, low_power) = environment(|name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()))?;
    let mut adapters = pollster::block_on(instance(backends).enumerate_adapters(backends));
    adapters.sort_by_key(|adapter| rank(adapter.get_info().device_type, low_power));
    Ok(adapters)
}

/// One for the whole process: some drivers crash when a second one is made while the first is torn down.
fn instance(backends: wgpu::Backends) -> &'static wgpu::Instance {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        let descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        wgpu::Instance::new(wgpu::InstanceDescriptor { backends, ..descriptor })
    })
}

fn rank(kind: wgpu::DeviceType, low_power: bool) -> u8 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 1,
        wgpu::DeviceType::IntegratedGpu if low_power => 0,
        wgpu::DeviceType::IntegratedGpu => 2,
        wgpu::DeviceType::VirtualGpu => 3,
        wgpu::DeviceType::Other => 4,
        wgpu::DeviceType::Cpu => 5,
    }
}

/// Which backends, and whether the GPU that takes less power is the better one. wgpu drops what it does not know; a
/// user who misspelt something wants to hear of it.
fn environment(variable: impl Fn(&str) -> Option<String>) -> Result<(wgpu::Backends, bool)> {
    let given = |name: &str| variable(name).map(|value| value.trim().to_lowercase()).filter(|value| !value.is_empty());
    let wrong = |name: &str, found: &str, expected: &str| {
        Err(Error::Usage(format!("{name}: found {found:?}, expected {expected}")))
    };
    let mut backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    if let Some(list) = given("WGPU_BACKEND") {
        for name in list.split(',').map(str::trim) {
            if !["vulkan", "vk", "dx12", "d3d12", "metal", "mtl"].contains(&name) {
                return wrong("WGPU_BACKEND", name, "vulkan, dx12 or metal, or several with commas between them");
            }
        }
        backends = wgpu::Backends::from_comma_list(&list);
    }
    if let Some(compiler) = given("WGPU_DX12_COMPILER")
        && !["auto", "fxc", "dxc", "dynamicdxc", "staticdxc"].contains(&compiler.as_str())
    {
        return wrong("WGPU_DX12_COMPILER", &compiler, "auto, fxc, dxc, dynamicdxc or staticdxc");
    }
    match given("WGPU_POWER_PREF").as_deref() {
        None | Some("none" | "high") => Ok((backends, false)),
        Some("low") => Ok((backends, true)),
        Some(other) => wrong("WGPU_POWER_PREF", other, "low, high or none"),
    }
}

/// What compiles the shaders of an adapter, where the user may have a say in it: on DirectX 12.
pub fn shader_compiler(info: &wgpu::AdapterInfo) -> Option<String> {
    let options = wgpu::InstanceDescriptor::new_without_display_handle_from_env().backend_options;
    (info.backend == wgpu::Backend::Dx12).then(|| compiler_name(&options.dx12.shader_compiler))
}

fn compiler_name(compiler: &wgpu::Dx12Compiler) -> String {
    match compiler {
        wgpu::Dx12Compiler::Fxc => "FXC (WGPU_DX12_COMPILER=dxc takes dxcompiler.dll)".into(),
        wgpu::Dx12Compiler::DynamicDxc { dxc_path } => format!("DXC, from {dxc_path}"),
        wgpu::Dx12Compiler::StaticDxc => "DXC, built in".into(),
        wgpu::Dx12Compiler::Auto => "DXC if dxcompiler.dll is found, else FXC (WGPU_DX12_COMPILER chooses)".into(),
    }
}

/// Chooses what to compute on, and opens it. `wanted` is `--adapter`: an index into [`adapters`] or a part of a name;
/// without it, `WGPU_ADAPTER_NAME` counts, always as a part of a name. Pipelines go to and come from `cache_folder`.
///
/// # Errors
/// [`Error::NoAdapter`] if what was asked for is not there or does not open, [`Error::Usage`] for a variable that means
/// nothing.
pub fn choose(kind: DeviceKind, wanted: Option<&str>, cache_folder: Option<PathBuf>) -> Result<Choice> {
    if kind == DeviceKind::Cpu {
        let reason = "CPU path, as asked for with --device cpu".into();
        return Ok(Choice { gpu: None, index: None, reason, notes: vec![] });
    }
    let adapters = adapters()?;
    let listed: Vec<_> = adapters.iter().map(wgpu::Adapter::get_info).collect();
    let from_environment = std::env::var("WGPU_ADAPTER_NAME").ok().filter(|name| !name.is_empty());
    let named = wanted.map(Named::Flag).or(from_environment.as_deref().map(Named::Variable));
    let open = |index: usize| Gpu::open_with(&adapters[index], cache_folder.clone());
    pick(&listed, kind, named, open, Facts::gather)
}

/// An adapter that was asked for.
#[derive(Clone, Copy, Debug)]
enum Named<'a> {
    /// By `--adapter`.
    Flag(&'a str),
    /// By `WGPU_ADAPTER_NAME`.
    Variable(&'a str),
}

impl Named<'_> {
    fn origin(self) -> &'static str {
        match self {
            Self::Flag(_) => "--adapter",
            Self::Variable(_) => "WGPU_ADAPTER_NAME",
        }
    }

    /// Which of the adapters it may mean: one by its index, else all with such a name (a GPU is listed by every
    /// backend). A number that is no index is a part of a name: `4090`.
    fn matches(self, listed: &[wgpu::AdapterInfo]) -> Vec<usize> {
        let (Self::Flag(name) | Self::Variable(name)) = self;
        match (self, name.parse::<usize>()) {
            (Self::Flag(_), Ok(index)) if index < listed.len() => vec![index],
            _ => {
                let name = name.to_lowercase();
                (0..listed.len()).filter(|&i| listed[i].name.to_lowercase().contains(&name)).collect()
            }
        }
    }
}

impl Gpu {
    /// Opens the best adapter there is, software included: what tests and checks run on. `WGPU_ADAPTER_NAME` and its
    /// kin choose.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] with the remedy if there is none.
    pub fn open_best() -> Result<Self> {
        let choice = choose(DeviceKind::Gpu, None, None)?;
        choice.gpu.ok_or(Error::NoAdapter(choice.reason))
    }

    /// Opens the same adapter once more, after the device was lost ([`Error::DeviceLost`]). Nothing that was on the
    /// device is on the new one.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the adapter is gone, or does not open.
    pub fn reopen(&self) -> Result<Self> {
        let same = |info: &wgpu::AdapterInfo| {
            (&info.name, info.backend, info.vendor, info.device, &info.device_pci_bus_id)
                == (
                    &self.info.name,
                    self.info.backend,
                    self.info.vendor,
                    self.info.device,
                    &self.info.device_pci_bus_id,
                )
        };
        let adapter = adapters()?.into_iter().find(|adapter| same(&adapter.get_info()));
        let adapter = adapter.ok_or_else(|| Error::DeviceLost(format!("{} is gone", self.info.name)))?;
        Self::open_with(&adapter, self.cache_folder().map(Path::to_owned))
            .map_err(|error| Error::DeviceLost(error.to_string()))
    }
}

/// The choice among the adapters `listed`, the best first. `open` opens one, `facts` say what to do where there is
/// none.
fn pick<G>(
    listed: &[wgpu::AdapterInfo],
    kind: DeviceKind,
    named: Option<Named>,
    mut open: impl FnMut(usize) -> Result<G>,
    facts: impl Fn() -> Facts,
) -> Result<Choice<G>> {
    let mut notes = vec![];
    let mut first_open = |candidates: Vec<usize>, why: &str| {
        candidates.into_iter().find_map(|index| match open(index) {
            Ok(gpu) => {
                let reason = format!("{}, {why}", describe(&listed[index]));
                Some(Choice { gpu: Some(gpu), index: Some(index), reason, notes: std::mem::take(&mut notes) })
            }
            Err(error) => {
                // An error of opening names the adapter as well: once is enough.
                let why = if let Error::Gpu { message, .. } = error { message } else { error.to_string() };
                notes.push(format!("{index}: {} cannot be opened: {why}", listed[index].name));
                None
            }
        })
    };
    let is_hardware = |&i: &usize| listed[i].device_type != wgpu::DeviceType::Cpu;
    let all = (0..listed.len()).collect::<Vec<_>>();
    let names = || listed.iter().map(|info| info.name.as_str()).collect::<Vec<_>>().join(", ");
    let advice = || facts().advice();
    let nothing_opens = |notes: &[String]| match notes {
        [] => format!("found no adapter; {}", advice()),
        some => format!("no adapter can be opened: {}; {}", some.join("; "), advice()),
    };

    if let Some(named) = named {
        let (origin, Named::Flag(name) | Named::Variable(name)) = (named.origin(), named);
        if let Some(choice) = first_open(named.matches(listed), &format!("as asked for with {origin}")) {
            return Ok(choice);
        }
        return Err(Error::NoAdapter(match (&notes[..], listed) {
            ([], []) => format!("{origin}: no adapter matches {name:?}; found no adapter at all; {}", advice()),
            ([], _) => format!("{origin}: no adapter matches {name:?}; found {}", names()),
            (failed, _) => format!("{origin} {name:?}: {}", failed.join("; ")),
        }));
    }
    match kind {
        DeviceKind::Gpu => first_open(all, "the best adapter here")
            .ok_or_else(|| Error::NoAdapter(format!("--device gpu: {}", nothing_opens(&notes)))),
        DeviceKind::Auto | DeviceKind::Cpu => {
            let hardware: Vec<usize> = all.into_iter().filter(is_hardware).collect();
            let any = !hardware.is_empty();
            if let Some(choice) = first_open(hardware, "the best hardware GPU here") {
                return Ok(choice);
            }
            let reason = match (listed, any) {
                ([], _) => match facts().hint() {
                    Some(hint) => format!("CPU path: no GPU adapter found ({hint})"),
                    None => "CPU path: no GPU adapter found".into(),
                },
                (_, true) => "CPU path: no hardware GPU can be opened".into(),
                (_, false) => {
                    format!("CPU path: the only adapters are software drivers ({}); --device gpu uses them", names())
                }
            };
            Ok(Choice { gpu: None, index: None, reason, notes })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, device_type: wgpu::DeviceType) -> wgpu::AdapterInfo {
        let mut info = wgpu::AdapterInfo::new(device_type, wgpu::Backend::Vulkan);
        info.name = name.into();
        info
    }

    /// A discrete GPU, an integrated one, and a software driver.
    fn machine() -> Vec<wgpu::AdapterInfo> {
        use wgpu::DeviceType::{Cpu, DiscreteGpu, IntegratedGpu};
        vec![info("NVIDIA GeForce RTX 4090", DiscreteGpu), info("Graphics 770", IntegratedGpu), info("llvmpipe", Cpu)]
    }

    /// The choice on `listed`, where the adapters `broken` do not open: the index, the reason or error, and the notes.
    fn chosen(
        listed: &[wgpu::AdapterInfo],
        kind: DeviceKind,
        named: Option<Named>,
        broken: &[usize],
    ) -> (Option<usize>, String, usize) {
        let open = |index: usize| match broken.contains(&index) {
            true => Err(Error::Gpu { context: "opening".into(), message: "it is broken".into() }),
            false => Ok(index),
        };
        let facts = || Facts { os: "linux".into(), driver_files: Some("x".into()), ..Facts::default() };
        match pick(listed, kind, named, open, facts) {
            Ok(choice) => {
                assert_eq!(choice.gpu, choice.index);
                (choice.gpu, choice.reason, choice.notes.len())
            }
            Err(error) => {
                assert_eq!(error.exit_code(), 3, "{error}");
                (None, error.to_string(), usize::MAX)
            }
        }
    }

    /// Catches an adapter that is listed, does not open, and ends the run.
    #[test]
    fn what_does_not_open_is_left_out_with_a_line() {
        let all = machine();
        for (kind, broken, expected, words, notes) in [
            (DeviceKind::Auto, &[][..], Some(0), "best hardware GPU", 0),
            (DeviceKind::Auto, &[0], Some(1), "best hardware GPU", 1),
            (DeviceKind::Auto, &[0, 1], None, "CPU path: no hardware GPU can be opened", 2),
            (DeviceKind::Gpu, &[0, 1], Some(2), "best adapter", 2),
            (DeviceKind::Gpu, &[0, 1, 2], None, "--device gpu: no adapter can be opened: 0: NVIDIA", usize::MAX),
        ] {
            let (index, reason, lines) = chosen(&all, kind, None, broken);
            assert_eq!((index, lines), (expected, notes), "{kind:?}, {broken:?}: {reason}");
            assert!(reason.contains(words), "{reason}");
        }
        let (_, reason, notes) = chosen(&all[2..], DeviceKind::Auto, None, &[0]);
        assert!(reason.contains("only adapters are software drivers (llvmpipe)") && notes == 0, "{reason}");
        let (_, reason, _) = chosen(&[], DeviceKind::Auto, None, &[]);
        assert_eq!(reason, "CPU path: no GPU adapter found (VK_DRIVER_FILES=x hides every other driver: unset it)");
        let (_, reason, _) = chosen(&[], DeviceKind::Gpu, None, &[]);
        assert!(reason.starts_with("--device gpu: found no adapter; VK_") && reason.ends_with("; or use --device cpu"));
    }

    #[test]
    fn a_number_is_an_index_where_it_can_be_and_else_a_part_of_a_name() {
        let mut all = machine();
        for (name, expected) in [("0", Some(0)), ("2", Some(2)), ("4090", Some(0)), ("770", Some(1)), ("LLVM", Some(2))]
        {
            assert_eq!(chosen(&all, DeviceKind::Auto, Some(Named::Flag(name)), &[]).0, expected, "{name}");
        }
        assert_eq!(chosen(&all, DeviceKind::Gpu, Some(Named::Variable("0")), &[]).0, Some(0), "a part of 4090");
        assert_eq!(chosen(&all, DeviceKind::Gpu, Some(Named::Variable("2")), &[]).0, None);
        let (_, error, _) = chosen(&all, DeviceKind::Gpu, Some(Named::Flag("99")), &[]);
        assert_eq!(
            error,
            "--adapter: no adapter matches \"99\"; found NVIDIA GeForce RTX 4090, Graphics 770, llvmpipe"
        );
        // What was asked for by name is not replaced by another; the same GPU on another backend is no other.
        let (index, error, _) = chosen(&all, DeviceKind::Auto, Some(Named::Flag("4090")), &[0]);
        assert!(index.is_none() && error.contains("it is broken"), "{error}");
        all.push(info("NVIDIA GeForce RTX 4090", wgpu::DeviceType::DiscreteGpu));
        let (index, reason, notes) = chosen(&all, DeviceKind::Auto, Some(Named::Flag("4090")), &[0]);
        assert_eq!((index, notes), (Some(3), 1), "{reason}");
    }

    #[test]
    fn a_variable_that_means_nothing_is_named_with_what_does() {
        let read =
            |name: &'static str, value: &'static str| environment(move |n| (n == name).then(|| value.to_owned()));
        for (name, value, allowed) in [
            ("WGPU_BACKEND", "vulcan", "vulkan, dx12 or metal"),
            ("WGPU_BACKEND", "vulkan,dx13", "vulkan, dx12 or metal"),
            ("WGPU_BACKEND", "gl", "vulkan, dx12 or metal"),
            ("WGPU_POWER_PREF", "lo", "low, high or none"),
            ("WGPU_DX12_COMPILER", "gcc", "auto, fxc"),
        ] {
            let error = read(name, value).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let text = error.to_string();
            let found = value.split(',').next_back().unwrap();
            assert!(text.starts_with(name) && text.contains(found) && text.contains(allowed), "{text}");
        }
        assert_eq!(read("WGPU_BACKEND", " VK , metal").unwrap().0, wgpu::Backends::VULKAN | wgpu::Backends::METAL);
        assert!(read("WGPU_BACKEND", "").unwrap().0.contains(wgpu::Backends::VULKAN), "an empty variable is none");
        assert!(read("WGPU_POWER_PREF", "LOW").unwrap().1 && !read("WGPU_POWER_PREF", "high").unwrap().1);
        assert!(rank(wgpu::DeviceType::IntegratedGpu, true) < rank(wgpu::DeviceType::DiscreteGpu, true));
    }

    #[test]
    fn on_directx_the_shader_compiler_has_a_name() {
        assert_eq!(shader_compiler(&info("llvmpipe", wgpu::DeviceType::Cpu)), None);
        let all = [wgpu::Dx12Compiler::Fxc, wgpu::Dx12Compiler::Auto, wgpu::Dx12Compiler::default_dynamic_dxc()];
        for (compiler, name) in all.iter().zip(["FXC", "else FXC", "from dxcompiler.dll"]) {
            assert!(compiler_name(compiler).contains(name));
        }
    }
}
