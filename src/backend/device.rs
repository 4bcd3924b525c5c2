//! For whoever trains, or asks a model, on whatever device there is: what is wanted of it as a value, the device
//! opened, and the trainer that it gives. Nothing is printed: what there is to say goes to a function of the caller's,
//! a line at a time.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cpu;
use super::gpu::choose::choose;
use super::gpu::predictor::GpuPredictor;
use super::gpu::trainer::{GpuOptions, GpuTrainer};
use super::gpu::{Choice, DeviceKind, Gpu, autotune, device};
use super::reference::{ReferencePredictor, ReferenceTrainer};
use crate::backend::{Asked, Predictor, Setup, State, Trainer};
use crate::compile::fuse::Kernels;
use crate::plan::Storage;
use crate::plan::tuning::{Autotune, Tiles, Tuning};
use crate::{Error, Result, fs, memory};

/// Is told a line for people.
pub type Note<'a> = &'a dyn Fn(&str);

/// In which precision to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 64 bits, on the CPU path.
    F64,
}

/// What to compute on; the default takes a hardware GPU if there is one, else the CPU path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    /// Which kind of device.
    pub kind: DeviceKind,
    /// A certain adapter: its index in [`super::gpu::choose::adapters`], or a part of its name.
    pub adapter: Option<String>,
    /// Which kernels, if not the fast ones.
    pub kernels: Option<Kernels>,
    /// On a GPU, the form of the fused kernels, if not what suits the adapter.
    pub tiles: Option<Tiles>,
    /// On a GPU, whether the forms are timed. Where nobody says, they are on hardware.
    pub autotune: Option<Autotune>,
}

/// The CPU path, as a run records it.
const CPU: &str = "cpu";

impl Device {
    /// The same for a run that goes on and is `recorded` to have begun on the CPU path: it stays there, where nobody
    /// says otherwise.
    pub fn resumed(&self, recorded: &str) -> Self {
        let stays = recorded == CPU && self.kind == DeviceKind::Auto && self.adapter.is_none();
        Self { kind: if stays { DeviceKind::Cpu } else { self.kind }, ..self.clone() }
    }

    /// Refuses what has no effect beside the rest.
    ///
    /// # Errors
    /// [`Error::Usage`], with the flag's name.
    pub fn check(&self, precision: Precision) -> Result<()> {
        let tiles = self.tiles.map(|tiles| ("--tiles", tiles.name()));
        // That nothing is timed is so everywhere.
        let on = self.autotune.filter(|autotune| *autotune == Autotune::On);
        let autotune = on.map(|_| ("--autotune", "on"));
        let why = if self.kind == DeviceKind::Cpu {
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

    /// Opens what is wanted, and says what it is.
    ///
    /// # Errors
    /// [`Error::Usage`] as [`Self::check`], and for a GPU that is to compute in f64; those of [`choose`].
    pub fn open(&self, precision: Precision, note: Note) -> Result<Opened> {
        self.check(precision)?;
        let opened = |gpu: Option<Gpu>| {
            let kernels = self.kernels.unwrap_or_default();
            Opened { wanted: self.clone(), gpu: gpu.map(Arc::new), kernels, precision }
        };
        if precision == Precision::F64 {
            if self.kind == DeviceKind::Gpu || self.adapter.is_some() {
                return Err(Error::Usage("--dtype f64: found a GPU asked for, expected --device cpu".into()));
            }
            note(&format!("device: CPU path, f64 ({} threads)", rayon::current_num_threads()));
            return Ok(opened(None));
        }
        if let (DeviceKind::Cpu, Some(adapter)) = (self.kind, &self.adapter) {
            let expected = "expected one of the two";
            return Err(Error::Usage(format!("--adapter: found {adapter:?} with --device cpu, {expected}")));
        }
        let Choice { gpu, reason, notes, .. } = choose(self.kind, self.adapter.as_deref(), fs::cache_folder())?;
        notes.into_iter().for_each(|line| note(&format!("device: {line}")));
        match &gpu {
            Some(_) => note(&format!("device: {reason}")),
            None => note(&format!("device: {reason} ({} threads)", rayon::current_num_threads())),
        }
        Ok(opened(gpu))
    }
}

/// A device that is open, and how it computes.
#[derive(Clone)]
pub struct Opened {
    /// What was wanted.
    pub wanted: Device,
    /// The GPU, or `None` for the CPU path.
    pub gpu: Option<Arc<Gpu>>,
    /// Which kernels.
    pub kernels: Kernels,
    /// In which precision.
    pub precision: Precision,
}

impl Opened {
    /// What a run records that it computes on.
    pub fn name(&self) -> String {
        self.gpu.as_ref().map_or(CPU.into(), |gpu| device::describe(&gpu.info))
    }

    /// The same after its GPU was lost: opened again.
    ///
    /// # Errors
    /// Those of [`Gpu::reopen`].
    pub fn reopen(&self) -> Result<Self> {
        let gpu = self.gpu.as_ref().map(|lost| lost.reopen().map(Arc::new)).transpose()?;
        Ok(Self { gpu, ..self.clone() })
    }

    /// Refuses to go on on the CPU path, unasked, with a run that is `recorded` to have begun on a GPU; says it where
    /// the device is another one for another reason.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check_resumed(&self, recorded: &str, note: Note) -> Result<()> {
        if recorded.is_empty() || recorded == self.name() {
            return Ok(());
        }
        if self.gpu.is_none() && self.wanted.kind != DeviceKind::Cpu {
            return Err(Error::Usage(format!(
                "--device: found no GPU for a run that began on {recorded}, and on the CPU path its bits will differ; \
                 expected --device cpu for that"
            )));
        }
        note(&format!("the run began on {recorded}: from here on its bits differ"));
        Ok(())
    }

    /// The form of the kernels for a training: the one that is wanted, else the one that the run has `recorded`, if the
    /// device runs it, else the fastest.
    ///
    /// # Errors
    /// Those of [`autotune::tuning`], where forms are timed.
    pub fn tuning(
        &self,
        setup: &Setup,
        activations: Storage,
        recorded: Option<Tuning>,
        note: Note,
    ) -> Result<Option<Tuning>> {
        let Some(gpu) = &self.gpu else { return Ok(recorded) };
        let Device { tiles, autotune, .. } = self.wanted;
        // Where timing is asked for, what was recorded does not stand in its way.
        let kept = |tuning: &Tuning| gpu.offers(*tuning).is_ok() && autotune != Some(Autotune::On);
        if let Some(tuning) = tiles.map(Tuning::all).or(recorded.filter(kept)) {
            return Ok(Some(tuning));
        }
        if !autotune.map_or(gpu.is_hardware(), |autotune| autotune == Autotune::On) {
            return Ok(Some(gpu.tuning()));
        }
        let autotune::Chosen { tuning, notes } = autotune::tuning(gpu, &fitted(setup.clone()), activations)?;
        notes.iter().for_each(|line| note(line));
        Ok(Some(tuning))
    }

    /// What trains `setup` from `state` on, and answers for it: with activations stored in this way, and on a GPU with
    /// fused kernels of the form `tuning`, if not the adapter's usual one.
    ///
    /// # Errors
    /// [`Error::OverLimit`] for what does not fit the memory; those of [`GpuTrainer::with_options`].
    pub fn trainer<'a>(
        &self,
        activations: Storage,
        tuning: Option<Tuning>,
        setup: Setup<'a>,
        state: &State,
        note: Note,
    ) -> Result<Box<dyn Trainer + 'a>> {
        let Self { gpu, kernels, precision, .. } = self;
        let setup = if gpu.is_some() { fitted(setup) } else { setup };
        if gpu.is_none() {
            let sets = [setup.train.len(), setup.test.len()];
            let memory = match precision {
                Precision::F32 => cpu::memory::check::<f32>(setup.net, *kernels, setup.batch_size, sets)?,
                Precision::F64 => cpu::memory::check::<f64>(setup.net, *kernels, setup.batch_size, sets)?,
            };
            if !setup.train.is_empty() {
                let [total, batch] = [memory.total(), memory.batch].map(memory::bytes);
                note(&format!("memory: about {total}, of which a batch takes {batch}"));
            }
        }
        let params: Vec<f32> = state.params.iter().map(|&p| p as f32).collect();
        let options = GpuOptions { kernels: *kernels, tuning, activations, ..GpuOptions::default() };
        let mut backend: Box<dyn Trainer> = match (gpu, precision, kernels) {
            (Some(gpu), ..) => Box::new(GpuTrainer::with_options(gpu, setup, &params, options)?),
            (None, Precision::F32, Kernels::Fused) => Box::new(cpu::CpuTrainer::<f32>::new(setup, &params)),
            (None, Precision::F64, Kernels::Fused) => Box::new(cpu::CpuTrainer::<f64>::new(setup, &params)),
            (None, Precision::F32, Kernels::Reference) => Box::new(ReferenceTrainer::<f32>::new(setup, &params)),
            (None, Precision::F64, Kernels::Reference) => Box::new(ReferenceTrainer::<f64>::new(setup, &params)),
        };
        backend.set_state(state);
        Ok(backend)
    }

    /// What answers for a network, about up to `images` images at a time, with activations stored in this way, and on a
    /// GPU with fused kernels of the form `tuning`, if not the adapter's usual one.
    ///
    /// # Errors
    /// [`Error::OverLimit`] for what does not fit the memory; those of [`GpuPredictor::new`].
    pub fn predictor(
        &self,
        activations: Storage,
        tuning: Option<Tuning>,
        asked: &Asked,
        images: usize,
    ) -> Result<Box<dyn Predictor>> {
        let Self { gpu, kernels, precision, .. } = self;
        let Asked { net, batch_size, .. } = *asked;
        if gpu.is_none() {
            match precision {
                Precision::F32 => cpu::memory::check::<f32>(net, *kernels, batch_size, [0, images])?,
                Precision::F64 => cpu::memory::check::<f64>(net, *kernels, batch_size, [0, images])?,
            };
        }
        let options = GpuOptions { kernels: *kernels, tuning, activations, ..GpuOptions::default() };
        Ok(match (gpu, precision, kernels) {
            (Some(gpu), ..) => Box::new(GpuPredictor::new(gpu, asked, options)?),
            (None, Precision::F32, Kernels::Fused) => Box::new(cpu::CpuPredictor::<f32>::new(asked)),
            (None, Precision::F64, Kernels::Fused) => Box::new(cpu::CpuPredictor::<f64>::new(asked)),
            (None, Precision::F32, Kernels::Reference) => Box::new(ReferencePredictor::<f32>::new(asked)),
            (None, Precision::F64, Kernels::Reference) => Box::new(ReferencePredictor::<f64>::new(asked)),
        })
    }
}

/// Refuses activations that are stored in another way than they are computed where nothing but the fused kernels of a
/// GPU could do so.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_activations(activations: Storage, gpu: bool, kernels: Kernels) -> Result<()> {
    let found = match activations {
        Storage::F32 => return Ok(()),
        Storage::F16 if kernels == Kernels::Reference => "--kernels reference",
        Storage::F16 if !gpu => "the CPU path",
        Storage::F16 => return Ok(()),
    };
    Err(Error::Usage(format!("--activations f16: found {found}, expected a GPU's fused kernels (--device gpu)")))
}

/// `setup` with a batch that is no larger than the set that it is taken from: a device's buffers are made for whole
/// batches.
fn fitted(setup: Setup) -> Setup {
    let set = if setup.train.is_empty() { setup.test } else { setup.train };
    Setup { batch_size: setup.batch_size.min(set.len().max(1)), ..setup }
}

/// The logits `[images, classes]`, if all are numbers; else which is the first that is none.
///
/// # Errors
/// [`Error::NoNumber`].
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
