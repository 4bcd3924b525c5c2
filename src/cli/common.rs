//! What the commands share: devices as flags, backends, and printing.

use std::io::Write;
use std::sync::Arc;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use smoothcnn::backend::cpu;
use smoothcnn::backend::gpu::choose::choose;
use smoothcnn::backend::gpu::trainer::{GpuTrainer, Options};
use smoothcnn::backend::gpu::{Choice, DeviceKind, Gpu, autotune, cache, device};
use smoothcnn::backend::reference::ReferenceTrainer;
use smoothcnn::compile::fuse::Kernels;
use smoothcnn::network::Network;
use smoothcnn::plan::Storage;
use smoothcnn::plan::tuning::{Autotune, Tiles, Tuning};
use smoothcnn::train::checkpoint::{self, Dtype, Metadata, Tensor};
use smoothcnn::train::{Backend, Setup, State};
use smoothcnn::{Error, Result};

/// Prints a line of results. A reader that went away (`| head`) is no error: the program ends quietly.
pub fn print(line: impl std::fmt::Display) -> Result<()> {
    if !print_if_read(line)? {
        std::process::exit(0);
    }
    Ok(())
}

/// Prints a line of results. `Ok(false)` where the reader went away, for a command whose work goes on without it.
pub fn print_if_read(line: impl std::fmt::Display) -> Result<bool> {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(source) => Err(Error::Io { path: "standard output".into(), source }),
    }
}

/// Prints a line of progress on standard error. That nobody reads it is no reason to stop.
pub fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints a value as one line of JSON. What is not a number is written as null.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(to_json(value))
}

/// A value as one line of JSON.
pub fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structs with string keys always serialise")
}

/// Flags that choose what to compute on.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceArgs {
    /// What to compute on: auto takes a hardware GPU if there is one, else the CPU path
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceKind,
    /// A certain adapter: its index in `smoothcnn devices`, or a part of its name
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Kernels: fused layers, or the plain ones that they are held against [default: fused; reference for f64]
    #[arg(long, value_enum)]
    pub kernels: Option<Kernels>,
    /// On a GPU, the form of the fused kernels [default: what suits the adapter]
    #[arg(long, value_enum)]
    pub tiles: Option<Tiles>,
    /// On a GPU, time the forms of the kernels before a network's first training, and keep the choice [default: on for
    /// hardware, off for software drivers, whose fastest form is known]
    #[arg(long, value_enum)]
    pub autotune: Option<Autotune>,
}

impl DeviceArgs {
    /// The same for a run that goes on and is `recorded` to have begun on the CPU path: it stays there, where nobody
    /// says otherwise.
    pub fn resumed(&self, recorded: &str) -> Self {
        let stays = recorded == CPU && self.device == DeviceKind::Auto && self.adapter.is_none();
        Self { device: if stays { DeviceKind::Cpu } else { self.device }, ..self.clone() }
    }

    /// Refuses flags that have no effect beside the others.
    pub fn check(&self, precision: Precision) -> Result<()> {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let tiles = self.tiles.map(|tiles| ("--tiles", name(tiles.to_possible_value())));
        // That nothing is timed is so everywhere.
        let on = self.autotune.filter(|autotune| *autotune == Autotune::On);
        let autotune = on.map(|on| ("--autotune", name(on.to_possible_value())));
        let why = if self.device == DeviceKind::Cpu {
            "--device cpu"
        } else if precision == Precision::F64 {
            "--dtype f64"
        } else if self.kernels == Some(Kernels::Reference) {
            "--kernels reference"
        } else if let (Some(_), Some((flag, found))) = (&tiles, &autotune) {
            return Err(Error::Usage(format!("{flag}: found {found} with --tiles, expected one of the two")));
        } else {
            return Ok(());
        };
        match tiles.or(autotune) {
            Some((flag, found)) => Err(Error::Usage(format!(
                "{flag}: found {found} with {why}, expected a GPU's fused kernels, which it is about"
            ))),
            None => Ok(()),
        }
    }

    /// The form of the kernels that the flags ask for.
    pub fn tuning(&self) -> Option<Tuning> {
        self.tiles.map(Tuning::all)
    }

    /// The same again, for another process.
    pub fn flags(&self) -> Vec<String> {
        let name = |value: &clap::builder::PossibleValue| value.get_name().to_owned();
        let mut flags = vec!["--device".to_owned()];
        flags.extend(self.device.to_possible_value().as_ref().map(name));
        if let Some(adapter) = &self.adapter {
            flags.extend(["--adapter".to_owned(), adapter.clone()]);
        }
        if let Some(kernels) = self.kernels.and_then(|kernels| kernels.to_possible_value()) {
            flags.extend(["--kernels".to_owned(), name(&kernels)]);
        }
        if let Some(tiles) = self.tiles.and_then(|tiles| tiles.to_possible_value()) {
            flags.extend(["--tiles".to_owned(), name(&tiles)]);
        }
        if let Some(autotune) = self.autotune.and_then(|autotune| autotune.to_possible_value()) {
            flags.extend(["--autotune".to_owned(), name(&autotune)]);
        }
        flags
    }
}

/// The most of anything that a flag counts: products of a few such numbers and of sizes are far from what 64 bits hold.
pub const MOST: usize = u32::MAX as usize;

/// For flags that count something.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=MOST).contains(&n) => Ok(n),
        _ => Err(format!("found {text:?}, expected a whole number of at least 1 and at most {MOST}")),
    }
}

/// An image's shape from `--input`.
pub fn input_shape(text: &str) -> Result<[usize; 3]> {
    let expected = "channels x height x width, each from 1 to 65536: 1x28x28";
    let wrong = || Error::Usage(format!("--input: found {text:?}, expected {expected}"));
    let size = |part: &str| part.parse().ok().filter(|size| (1..=1 << 16).contains(size));
    let sizes: Vec<usize> = text.split('x').map(size).collect::<Option<_>>().ok_or_else(wrong)?;
    sizes.try_into().map_err(|_| wrong())
}

/// In which precision to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 64 bits, on the CPU path: the oracle itself trains.
    F64,
}

impl Precision {
    /// The same, for a weights file.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F64 => Dtype::F64,
        }
    }
}

/// Chooses what to compute on and says so on standard error.
pub fn choose_device(args: &DeviceArgs, precision: Precision) -> Result<Option<Arc<Gpu>>> {
    args.check(precision)?;
    if precision == Precision::F64 {
        if args.device == DeviceKind::Gpu || args.adapter.is_some() {
            return Err(Error::Usage("--dtype f64: found a GPU asked for, expected --device cpu".into()));
        }
        note(format_args!("device: CPU path, f64 ({} threads)", rayon::current_num_threads()));
        return Ok(None);
    }
    if let (DeviceKind::Cpu, Some(adapter)) = (args.device, &args.adapter) {
        return Err(Error::Usage(format!("--adapter: found {adapter:?} with --device cpu, expected one of the two")));
    }
    let Choice { gpu, reason, notes, .. } = choose(args.device, args.adapter.as_deref(), cache::folder())?;
    notes.into_iter().for_each(|line| note(format_args!("device: {line}")));
    match &gpu {
        Some(_) => note(format_args!("device: {reason}")),
        None => note(format_args!("device: {reason} ({} threads)", rayon::current_num_threads())),
    }
    Ok(gpu.map(Arc::new))
}

/// The CPU path, as a run records it.
const CPU: &str = "cpu";

/// What a run records that it computes on.
pub fn backend_name(gpu: Option<&Gpu>) -> String {
    gpu.map_or(CPU.into(), |gpu| device::describe(&gpu.info))
}

/// Refuses to go on on the CPU path, unasked, with a run that is `recorded` to have begun on a GPU; says it where the
/// device is another one for another reason.
pub fn check_resumed(args: &DeviceArgs, gpu: Option<&Gpu>, recorded: &str) -> Result<()> {
    let now = backend_name(gpu);
    if recorded.is_empty() || recorded == now {
        return Ok(());
    }
    if gpu.is_none() && args.device != DeviceKind::Cpu {
        return Err(Error::Usage(format!(
            "--device: found no GPU for a run that began on {recorded}, and on the CPU path its bits will differ; \
             expected --device cpu for that"
        )));
    }
    note(format_args!("the run began on {recorded}: from here on its bits differ"));
    Ok(())
}

/// Refuses activations that are stored in another way than they are computed where nothing but the fused kernels of a GPU
/// could do so.
pub fn check_activations(activations: Storage, gpu: bool, kernels: Kernels) -> Result<()> {
    let found = match activations {
        Storage::F32 => return Ok(()),
        Storage::F16 if kernels == Kernels::Reference => "--kernels reference",
        Storage::F16 if !gpu => "the CPU path",
        Storage::F16 => return Ok(()),
    };
    Err(Error::Usage(format!("--activations f16: found {found}, expected a GPU's fused kernels (--device gpu)")))
}

/// The form of the kernels for a training: that of the flags, else the one that the run has `recorded`, if the device runs it,
/// else the fastest.
pub fn tuning(
    gpu: Option<&Arc<Gpu>>,
    device: &DeviceArgs,
    setup: &Setup,
    activations: Storage,
    recorded: Option<Tuning>,
) -> Result<Option<Tuning>> {
    let Some(gpu) = gpu else { return Ok(recorded) };
    // Where timing is asked for, what was recorded does not stand in its way.
    let kept = |tuning: &Tuning| gpu.offers(*tuning).is_ok() && device.autotune != Some(Autotune::On);
    let recorded = recorded.filter(kept);
    if let Some(tuning) = device.tuning().or(recorded) {
        return Ok(Some(tuning));
    }
    let hardware = gpu.is_hardware();
    let timed = device.autotune.map_or(hardware, |autotune| autotune == Autotune::On);
    if !timed {
        return Ok(Some(gpu.tuning()));
    }
    let autotune::Chosen { tuning, notes } = autotune::tuning(gpu, &fitted(setup.clone()), activations)?;
    notes.into_iter().for_each(note);
    Ok(Some(tuning))
}

/// The kernels where nobody chooses: in f64 it is the oracle that is asked for.
pub fn usual_kernels(precision: Precision) -> Kernels {
    if precision == Precision::F64 { Kernels::Reference } else { Kernels::Fused }
}

/// The same with a batch that is no larger than the set that it is taken from: a device's buffers are made for whole
/// batches.
pub fn fitted(setup: Setup) -> Setup {
    let set = if setup.train.is_empty() { setup.test } else { setup.train };
    Setup { batch_size: setup.batch_size.min(set.len().max(1)), ..setup }
}

/// A backend for `setup`, starting from `state`, that stores activations as they are computed.
pub fn backend<'a>(
    gpu: Option<&Arc<Gpu>>,
    device: &DeviceArgs,
    tuning: Option<Tuning>,
    precision: Precision,
    setup: Setup<'a>,
    state: &State,
) -> Result<Box<dyn Backend + 'a>> {
    backend_storing(Storage::F32, gpu, device, tuning, precision, setup, state)
}

/// As [`backend`], with activations stored in this way.
pub fn backend_storing<'a>(
    activations: Storage,
    gpu: Option<&Arc<Gpu>>,
    device: &DeviceArgs,
    tuning: Option<Tuning>,
    precision: Precision,
    setup: Setup<'a>,
    state: &State,
) -> Result<Box<dyn Backend + 'a>> {
    let kernels = device.kernels.unwrap_or(usual_kernels(precision));
    let setup = if gpu.is_some() { fitted(setup) } else { setup };
    if gpu.is_none() {
        let sets = [setup.train.len(), setup.test.len()];
        let memory = match precision {
            Precision::F32 => cpu::memory::check::<f32>(setup.net, kernels, setup.batch_size, sets)?,
            Precision::F64 => cpu::memory::check::<f64>(setup.net, kernels, setup.batch_size, sets)?,
        };
        if !setup.train.is_empty() {
            note(format_args!(
                "memory: about {}, of which a batch takes {}",
                bytes(memory.total()),
                bytes(memory.batch)
            ));
        }
    }
    let params: Vec<f32> = state.params.iter().map(|&p| p as f32).collect();
    let options = Options { kernels, tuning, activations, ..Options::default() };
    let mut backend: Box<dyn Backend> = match (gpu, precision, kernels) {
        (Some(gpu), ..) => Box::new(GpuTrainer::with_options(gpu, setup, &params, options)?),
        (None, Precision::F32, Kernels::Fused) => Box::new(cpu::CpuTrainer::<f32>::new(setup, &params)),
        (None, Precision::F64, Kernels::Fused) => Box::new(cpu::CpuTrainer::<f64>::new(setup, &params)),
        (None, Precision::F32, Kernels::Reference) => Box::new(ReferenceTrainer::<f32>::new(setup, &params)),
        (None, Precision::F64, Kernels::Reference) => Box::new(ReferenceTrainer::<f64>::new(setup, &params)),
    };
    backend.set_state(state);
    Ok(backend)
}

/// The logits `[images, classes]`, if all are numbers; else which is the first that is none.
pub fn finite(logits: Vec<f64>, classes: usize) -> Result<Vec<f64>> {
    match logits.iter().position(|logit| !logit.is_finite()) {
        None => Ok(logits),
        Some(at) => Err(Error::NoNumber {
            what: format!("image {}: the network's output {}", at / classes, at % classes),
            found: logits[at],
            advice: "its weights are too large, as those of a training that diverged".into(),
        }),
    }
}

/// The names and shapes of a network's parameters, each with a prefix.
pub fn expected(net: &Network, prefix: &str) -> Vec<(String, Vec<usize>)> {
    net.parameters.iter().map(|p| (format!("{prefix}{}", p.name), p.shape.clone())).collect()
}

/// A flat vector as named tensors.
pub fn tensors<'a>(net: &Network, prefix: &str, flat: &'a [f64]) -> Vec<Tensor<'a>> {
    let tensor = |p: &smoothcnn::network::Parameter| Tensor {
        name: format!("{prefix}{}", p.name),
        shape: p.shape.clone(),
        data: flat[p.range()].into(),
    };
    net.parameters.iter().map(tensor).collect()
}

/// Named tensors, in the order of the parameters, as a flat vector.
pub fn flatten(net: &Network, tensors: &[Vec<f64>]) -> Vec<f64> {
    let mut flat = vec![0.0; net.flat_len()];
    for (parameter, values) in net.parameters.iter().zip(tensors) {
        flat[parameter.range()].copy_from_slice(values);
    }
    flat
}

/// Parameters from a file, with the optimizer's memory empty.
pub fn load_params(net: &Network, path: &std::path::Path) -> Result<(State, Metadata)> {
    cpu::memory::check_state(net, false)?;
    let (tensors, metadata) = checkpoint::load(path, &expected(net, ""))?;
    let zeros = vec![0.0; net.flat_len()];
    Ok((State { params: flatten(net, &tensors), first: zeros.clone(), second: zeros }, metadata))
}

/// `12.3 MiB`.
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}
