//! What the commands share: data sets and devices as flags, and printing.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use smoothcnn::activations::Activations;
use smoothcnn::checkpoint::{self, Dtype, Metadata, Tensor};
use smoothcnn::data::digits::{self, Digits};
use smoothcnn::data::{Dataset, cifar, idx};
use smoothcnn::fusion::Kernels;
use smoothcnn::gpu::choose::choose;
use smoothcnn::gpu::trainer::{GpuTrainer, Options};
use smoothcnn::gpu::{Choice, DeviceKind, Gpu, autotune, cache};
use smoothcnn::net::Network;
use smoothcnn::ops::IGNORED;
use smoothcnn::train::{Backend, Setup, State};
use smoothcnn::tuning::{Autotune, Tiles, Tuning};
use smoothcnn::{Error, Result, cpu, oracle};

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

/// Which images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// Built in: drawn by the program, 28x28, ten classes.
    Digits,
    /// MNIST's IDX files.
    Mnist,
    /// Fashion-MNIST's IDX files.
    FashionMnist,
    /// CIFAR-10's binary files.
    #[value(name = "cifar-10")]
    #[serde(rename = "cifar-10")]
    Cifar10,
}

/// Flags that choose a data set.
#[derive(Clone, Debug, clap::Args)]
pub struct DataArgs {
    /// Data set
    #[arg(long, value_enum, default_value = "digits")]
    pub data: DataKind,
    /// Folder with the data set's files, plain or .gz, under their published names
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// Keep only the first N training images
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub limit_train: Option<usize>,
    /// Keep only the first N test images
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub limit_test: Option<usize>,
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

/// For flags that count something.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n >= 1 => Ok(n),
        _ => Err(format!("found {text:?}, expected a whole number of at least 1")),
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

/// Training and test set, cut to the limits. Training images with the label `ignored` count for nothing; the test set is
/// without such images.
pub fn load_data(args: &DataArgs, ignored: Option<i64>) -> Result<(Dataset, Dataset)> {
    let (train, test) = load_marked(args, ignored)?;
    Ok((train, if ignored.is_some() { labelled(&test) } else { test }))
}

/// The images whose label is not ignored.
pub fn labelled(images: &Dataset) -> Dataset {
    let counts = (0..images.len() as u32).filter(|&i| images.labels[i as usize] != IGNORED);
    images.subset(&counts.collect::<Vec<_>>())
}

/// Training and test set, cut to the limits. The label `ignored` has become [`IGNORED`] in both.
pub fn load_marked(args: &DataArgs, ignored: Option<i64>) -> Result<(Dataset, Dataset)> {
    let (mut train, mut test) = match args.data {
        // A larger set begins with the smaller one: only what is kept is drawn.
        DataKind::Digits => {
            let all = Digits::default();
            let kept = |limit: Option<usize>, n: usize| limit.map_or(n, |limit| limit.min(n));
            let (train, test) = (kept(args.limit_train, all.train), kept(args.limit_test, all.test));
            Digits { train, test, ..all }.generate()
        }
        DataKind::Mnist => idx::load_dir_ignoring(&args.data_dir, "MNIST", 10, ignored)?,
        DataKind::FashionMnist => idx::load_dir_ignoring(&args.data_dir, "FashionMNIST", 10, ignored)?,
        DataKind::Cifar10 => cifar::load_dir(&args.data_dir)?,
    };
    train.truncate(args.limit_train.unwrap_or(usize::MAX));
    test.truncate(args.limit_test.unwrap_or(usize::MAX));
    if ignored.is_some() {
        // IDX files have been read so; the other formats have classes only.
        for label in train.labels.iter_mut().chain(&mut test.labels) {
            if ignored == Some((*label).into()) {
                *label = IGNORED;
            }
        }
    }
    Ok((train, test))
}

/// Mean and standard deviation of each channel: what was given, else the data set's usual values.
pub fn normalisation(data: DataKind, mean: &[f64], std: &[f64], channels: usize) -> Result<Vec<[f64; 2]>> {
    let (usual_mean, usual_std) = match data {
        DataKind::Digits => (vec![digits::MEAN_AND_STD.0], vec![digits::MEAN_AND_STD.1]),
        DataKind::Mnist => (vec![0.1307], vec![0.3081]),
        DataKind::FashionMnist => (vec![0.2860], vec![0.3530]),
        DataKind::Cifar10 => (vec![0.4914, 0.4822, 0.4465], vec![0.2470, 0.2435, 0.2616]),
    };
    let one_each = |flag: &str, given: &[f64], usual: Vec<f64>| match given.len() {
        0 => Ok(usual),
        1 => Ok(vec![given[0]; channels]),
        n if n == channels => Ok(given.to_vec()),
        n => Err(Error::Usage(format!("{flag}: found {n} values, expected 1 or one for each of {channels} channels"))),
    };
    let (mean, std) = (one_each("--mean", mean, usual_mean)?, one_each("--std", std, usual_std)?);
    if let Some(bad) = std.iter().find(|std| !(std.is_finite() && **std > 0.0)) {
        return Err(Error::Usage(format!("--std: found {bad}, expected numbers above 0")));
    }
    if let Some(bad) = mean.iter().find(|mean| !mean.is_finite()) {
        return Err(Error::Usage(format!("--mean: found {bad}, expected numbers")));
    }
    Ok(mean.into_iter().zip(std).map(|(mean, std)| [mean, std]).collect())
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

/// Refuses activations that are stored in another way than they are computed where nothing but the fused kernels of a GPU
/// could do so.
pub fn check_activations(activations: Activations, gpu: bool, kernels: Kernels) -> Result<()> {
    let found = match activations {
        Activations::F32 => return Ok(()),
        Activations::F16 if kernels == Kernels::Reference => "--kernels reference",
        Activations::F16 if !gpu => "the CPU path",
        Activations::F16 => return Ok(()),
    };
    Err(Error::Usage(format!("--activations f16: found {found}, expected a GPU's fused kernels (--device gpu)")))
}

/// The form of the kernels for a training: that of the flags, else the one that the run has `recorded`, if the device runs it,
/// else the fastest.
pub fn tuning(
    gpu: Option<&Arc<Gpu>>,
    device: &DeviceArgs,
    setup: &Setup,
    activations: Activations,
    recorded: Option<Tuning>,
) -> Result<Option<Tuning>> {
    let Some(gpu) = gpu else { return Ok(recorded) };
    let recorded = recorded.filter(|&tuning| gpu.offers(tuning).is_ok());
    if let Some(tuning) = device.tuning().or(recorded) {
        return Ok(Some(tuning));
    }
    let hardware = gpu.is_hardware();
    let timed = device.autotune.map_or(hardware, |autotune| autotune == Autotune::On);
    if !timed {
        return Ok(Some(gpu.tuning()));
    }
    let autotune::Chosen { tuning, notes } = autotune::tuning(gpu, setup, activations)?;
    notes.into_iter().for_each(note);
    Ok(Some(tuning))
}

/// The kernels where nobody chooses: in f64 it is the oracle that is asked for.
pub fn usual_kernels(precision: Precision) -> Kernels {
    if precision == Precision::F64 { Kernels::Reference } else { Kernels::Fused }
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
    backend_storing(Activations::F32, gpu, device, tuning, precision, setup, state)
}

/// As [`backend`], with activations stored in this way.
pub fn backend_storing<'a>(
    activations: Activations,
    gpu: Option<&Arc<Gpu>>,
    device: &DeviceArgs,
    tuning: Option<Tuning>,
    precision: Precision,
    setup: Setup<'a>,
    state: &State,
) -> Result<Box<dyn Backend + 'a>> {
    let params: Vec<f32> = state.params.iter().map(|&p| p as f32).collect();
    let kernels = device.kernels.unwrap_or(usual_kernels(precision));
    let options = Options { kernels, tuning, activations, ..Options::default() };
    let mut backend: Box<dyn Backend> = match (gpu, precision, kernels) {
        (Some(gpu), ..) => Box::new(GpuTrainer::with_options(gpu, setup, &params, options)?),
        (None, Precision::F32, Kernels::Fused) => Box::new(cpu::CpuTrainer::<f32>::new(setup, &params)),
        (None, Precision::F64, Kernels::Fused) => Box::new(cpu::CpuTrainer::<f64>::new(setup, &params)),
        (None, Precision::F32, Kernels::Reference) => Box::new(oracle::trainer::CpuTrainer::<f32>::new(setup, &params)),
        (None, Precision::F64, Kernels::Reference) => Box::new(oracle::trainer::CpuTrainer::<f64>::new(setup, &params)),
    };
    backend.set_state(state);
    Ok(backend)
}

/// The names and shapes of a network's parameters, each with a prefix.
pub fn expected(net: &Network, prefix: &str) -> Vec<(String, Vec<usize>)> {
    net.parameters.iter().map(|p| (format!("{prefix}{}", p.name), p.shape.clone())).collect()
}

/// A flat vector as named tensors.
pub fn tensors<'a>(net: &Network, prefix: &str, flat: &'a [f64]) -> Vec<Tensor<'a>> {
    let tensor = |p: &smoothcnn::net::Parameter| Tensor {
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
