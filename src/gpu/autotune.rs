//! Which form of the kernels is fastest here, found out once: every form that the device runs is timed on the network at hand,
//! and the choice is kept in a file. From then on the file decides and not the clock, so that the bits of a run do not
//! depend on what else the machine was doing. Where nothing can be kept, the kind of adapter decides.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::trainer::{GpuTrainer, Options};
use super::{Gpu, cache, device};
use crate::Result;
use crate::activations::Activations;
use crate::plan::{Dispatch, Step};
use crate::train::Setup;
use crate::tuning::{Tiles, Tuning};

/// A kept choice. The shaders are the cache's business.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// What it was made for: [`key`].
    key: String,
    tuning: Tuning,
}

/// Steps that a form is timed for, after one to warm up.
const STEPS: usize = 4;

/// The choice for `setup`: the one that is kept, or else a new one, which is then kept.
///
/// # Errors
/// What [`GpuTrainer::with_options`] and the device report while the forms are timed.
pub fn tuning(gpu: &Arc<Gpu>, setup: &Setup, activations: Activations) -> Result<Tuning> {
    let key = key(gpu, setup, activations);
    let Some(path) = path(gpu, &key) else { return Ok(gpu.tuning()) };
    let kept = || -> Option<Tuning> {
        let kept: Kept = serde_json::from_slice(&cache::read(&path)?).ok()?;
        (kept.key == key && gpu.offers(kept.tuning).is_ok()).then_some(kept.tuning)
    };
    if let Some(tuning) = kept() {
        return Ok(tuning);
    }
    let Some(tuning) = measure(gpu, setup, activations)? else { return Ok(gpu.tuning()) };
    let text = serde_json::to_vec(&Kept { key: key.clone(), tuning }).expect("strings and names always serialise");
    cache::write(&path, &text);
    // Another process may have been faster; what is in the file counts.
    Ok(kept().unwrap_or_else(|| gpu.tuning()))
}

/// Everything that the fastest form depends on but the shaders: adapter, driver, network, batch, storage.
fn key(gpu: &Gpu, setup: &Setup, activations: Activations) -> String {
    let info = &gpu.info;
    let Setup { net, batch_size, .. } = setup;
    let layers: Vec<_> = net.layers.iter().map(|layer| format!("{:?}", layer.op)).collect();
    format!(
        "{} {}:{} {:?} batch {batch_size}{}: {}",
        device::describe(info),
        info.vendor,
        info.device,
        net.input,
        if activations == Activations::F16 { ", activations in f16" } else { "" },
        layers.join(", ")
    )
}

fn path(gpu: &Gpu, key: &str) -> Option<PathBuf> {
    let name = format!("tuning-{:016x}.json", cache::fnv1a(key.as_bytes(), cache::SEED));
    Some(gpu.cache_folder()?.join(name))
}

/// For each kind of kernel the form that took the least time on one batch; `None` where the device has no clock.
fn measure(gpu: &Arc<Gpu>, setup: &Setup, activations: Activations) -> Result<Option<Tuning>> {
    let batch: Vec<u32> = (0..setup.batch_size.min(setup.train.len()) as u32).collect();
    let data = setup.train.subset(&batch);
    let setup = Setup { train: &data, test: &data, ..setup.clone() };
    let params = setup.net.initial_parameters(0);
    let count = setup.batch_size as u32;
    let step = Step { count, dloss: 1.0 / count as f32, keep: 1.0, denominator: 1.0, ..Step::default() };
    let mut best: [Option<(f64, Tiles)>; 3] = [None; 3];
    for tiles in Tiles::ALL.into_iter().filter(|&tiles| gpu.runs(tiles)) {
        let options = Options { tuning: Some(Tuning::all(tiles)), activations, ..Options::default() };
        let trainer = GpuTrainer::with_options(gpu, setup.clone(), &params, options)?;
        let range = trainer.compiled().train.clone();
        let mut times = vec![f64::INFINITY; range.len()];
        for i in 0..=STEPS {
            let Some(seconds) = trainer.engine().profile(range.clone(), &step)? else { return Ok(None) };
            if i > 0 {
                times.iter_mut().zip(seconds).for_each(|(least, s)| *least = least.min(s));
            }
        }
        let dispatches = &trainer.engine().plan().dispatches[range];
        for (kind, best) in best.iter_mut().enumerate() {
            let total: f64 =
                dispatches.iter().zip(&times).filter(|(d, _)| kind_of(d) == Some(kind)).map(|(_, s)| s).sum();
            if best.is_none_or(|(least, _)| total < least) {
                *best = Some((total, tiles));
            }
        }
    }
    let [Some((_, conv_forward)), Some((_, conv_backward)), Some((_, linear))] = best else { return Ok(None) };
    Ok(Some(Tuning { conv_forward, conv_backward, linear }))
}

/// Which of the choices a dispatch depends on, in the order of [`Tuning::tiles`].
fn kind_of(dispatch: &Dispatch) -> Option<usize> {
    match dispatch.shader.name {
        name if name.starts_with("conv2d_pool") => Some(usize::from(dispatch.entry.name.starts_with("backward"))),
        name if name.starts_with("linear_tiled") => Some(2),
        _ => None,
    }
}
