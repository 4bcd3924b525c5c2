//! Which form of the kernels is fastest here, found out once: every form that the device runs is timed on the network
//! at hand, and the choice is kept in a file. From then on the file decides and not the clock, so that the bits of a
//! run do not depend on what else the machine was doing. Where nothing can be kept, the kind of adapter decides.
//!
//! Being fast is not enough: a form counts only if its answer is that of the plain kernels ([`Kernels::Reference`]).

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clock::{Clock, Times};
use super::device::describe;
use super::engine::FIRST_WORK;
use super::trainer::{GpuOptions, GpuTrainer, compile_for};
use super::{Gpu, cache};
use crate::backend::{Setup, Trainer};
use crate::compile::fuse::Kernels;
use crate::compile::largest_batch;
use crate::network::Network;
use crate::plan::Dispatch;
use crate::plan::Storage;
use crate::plan::tuning::{Tiles, Tuning};
use crate::{Error, Result};

/// A kept choice. The shaders are the cache's business.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// What it was made for: [`key`].
    key: String,
    tuning: Tuning,
}

/// Steps that a form is timed for, after one to warm up.
const STEPS: usize = 4;

/// How far a form's answer may be from that of the plain kernels, as a share of the largest number of the loss, the
/// logits, or a parameter's gradient. Sums in another order make some millionths of a difference. Halves make more
/// where two numbers of a pooling window round to the same one, and the gradient goes another way; with a few images,
/// 0.07 was seen. What is wrong is far beyond either.
fn tolerance(activations: Storage) -> f64 {
    if activations == Storage::F16 { 0.2 } else { 2e-3 }
}

/// A choice, and what there is to say of it: one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The form of each kind of kernel.
    pub tuning: Tuning,
    /// Why a form was left out, and whose clock decided where it was not the device's.
    pub notes: Vec<String>,
}

/// The choice for `setup`: the one that is kept, or else a new one, which is then kept.
///
/// # Errors
/// [`Error::DeviceLost`] if the device goes away meanwhile; [`Error::Check`] if no form gives the answer of the plain
/// kernels.
pub fn tuning(gpu: &Arc<Gpu>, setup: &Setup, activations: Storage) -> Result<Chosen> {
    let key = key(gpu, setup, activations);
    let path = path(gpu, &key);
    let kept = || -> Option<Tuning> {
        let kept: Kept = serde_json::from_slice(&cache::read(path.as_ref()?)?).ok()?;
        (kept.key == key && gpu.offers(kept.tuning).is_ok()).then_some(kept.tuning)
    };
    if let Some(tuning) = kept() {
        return Ok(Chosen { tuning, notes: vec![] });
    }
    let mut chosen = measure(gpu, setup, activations)?;
    let usual = usual(gpu, &chosen.right);
    if let (Some(tuning), Some(path)) = (chosen.fastest, &path) {
        let text = serde_json::to_vec(&Kept { key: key.clone(), tuning }).expect("strings and names always serialise");
        cache::write(path, &text);
    }
    // Another process may have been faster; what is in the file counts. Without one the kind of adapter decides.
    let tuning = kept().unwrap_or(usual);
    chosen.notes.dedup();
    Ok(Chosen { tuning, notes: chosen.notes })
}

/// The choice as it falls now, which is neither looked up nor kept.
///
/// # Errors
/// As [`tuning`].
pub fn fresh(gpu: &Arc<Gpu>, setup: &Setup, activations: Storage) -> Result<Chosen> {
    let tried = measure(gpu, setup, activations)?;
    let tuning = tried.fastest.unwrap_or_else(|| usual(gpu, &tried.right));
    Ok(Chosen { tuning, notes: tried.notes })
}

/// What suits the kind of adapter, among the forms that are right.
fn usual(gpu: &Gpu, right: &[Tiles]) -> Tuning {
    let usual = gpu.tuning();
    let all_right = usual.tiles().iter().all(|tiles| right.contains(tiles));
    if all_right { usual } else { right.first().map_or(usual, |&tiles| Tuning::all(tiles)) }
}

/// Everything that the fastest form depends on but the shaders: adapter, driver, network, batch, storage.
fn key(gpu: &Gpu, setup: &Setup, activations: Storage) -> String {
    let info = &gpu.info;
    let Setup { net, batch_size, .. } = setup;
    let layers: Vec<_> = net.layers.iter().map(|layer| format!("{:?}", layer.op)).collect();
    format!(
        "{} {}:{} {:?} batch {batch_size}{}: {}",
        describe(info),
        info.vendor,
        info.device,
        net.input,
        if activations == Storage::F16 { ", activations in f16" } else { "" },
        layers.join(", ")
    )
}

fn path(gpu: &Gpu, key: &str) -> Option<PathBuf> {
    let name = format!("tuning-{:016x}.json", cache::fnv1a(key.as_bytes(), cache::SEED));
    Some(gpu.cache_folder()?.join(name))
}

/// What came of trying every form.
#[derive(Debug)]
struct Tried {
    /// The fastest of each kind, if they could be compared.
    fastest: Option<Tuning>,
    /// Those whose answer is right.
    right: Vec<Tiles>,
    notes: Vec<String>,
}

/// What a form computes, by name. Each part is compared with the largest number in it.
type Answer = Vec<(String, Vec<f64>)>;

/// A form on trial.
trait Candidate {
    /// Its answer.
    fn answer(&mut self) -> Result<Answer>;
    /// Seconds that each kind of kernel takes ([`kind_of`]) by this clock; `None` if it cannot be believed.
    fn seconds(&mut self, clock: Clock) -> Result<Option<[f64; 3]>>;
}

/// Tries every form that the device runs.
fn measure(gpu: &Arc<Gpu>, setup: &Setup, activations: Storage) -> Result<Tried> {
    // The plain kernels are slow, and large: where a whole batch would be too much for them, a part of it is enough.
    let work_each = 3 * setup.net.forward_flops().max(1);
    let images = usize::try_from(4 * FIRST_WORK / work_each).unwrap_or(usize::MAX);
    let images = images.clamp(1, setup.batch_size).min(setup.train.len());
    let plain = GpuOptions { kernels: Kernels::Reference, ..GpuOptions::default() };
    let fits = |images: usize| {
        let setup = Setup { batch_size: images, test: setup.train, ..setup.clone() };
        let compiled = compile_for(&setup, &gpu.device.limits(), gpu.memory_available(), plain);
        compiled.is_ok_and(|(compiled, _)| gpu.ends_loops(&compiled.plan).is_ok())
    };
    let images = largest_batch(images + 1, fits).unwrap_or(1);
    let compared: Vec<u32> = (0..images as u32).collect();
    let test = setup.train.subset(&compared);
    let params = setup.net.initial_parameters(0);
    let form = |batch_size: usize, options: GpuOptions| -> Result<Form> {
        let with_test = Setup { batch_size, test: &test, ..setup.clone() };
        let trainer = GpuTrainer::with_options(gpu, with_test, &params, options)?;
        Ok(Form { trainer, net: setup.net, compared: &compared })
    };
    let reference = form(images, plain).and_then(|mut form| form.answer());
    let options = |tiles| GpuOptions { tuning: Some(Tuning::all(tiles)), activations, ..GpuOptions::default() };
    let of_step = |tiles| {
        let (compiled, _) = compile_for(setup, &gpu.device.limits(), gpu.memory_available(), options(tiles)).ok()?;
        Some(divided(&compiled.plan.dispatches[compiled.train]))
    };
    let runs = Tiles::DIVISIONS.into_iter().filter(|&tiles| gpu.runs(tiles));
    let forms = without_repeats(runs, of_step);
    let build = |tiles| {
        // What went wrong with another form is that form's own.
        gpu.forgive();
        form(setup.batch_size, options(tiles))
    };
    let tried = choose(&forms, reference, tolerance(activations), build);
    gpu.forgive();
    tried
}

/// How a step's work is divided: each dispatch's shader, pass, sizes and workgroups.
fn divided(step: &[Dispatch]) -> Vec<(&'static str, &'static str, Vec<u8>, [u32; 3])> {
    step.iter().map(|d| (d.shader.name, d.entry.name.as_str(), d.dims.clone(), d.workgroups)).collect()
}

/// Those that do not divide the work as one before does: a large batch gives the same parts to all devices. What does
/// not compile is for its trial to say.
fn without_repeats<T: PartialEq>(
    forms: impl Iterator<Item = Tiles>,
    mut of_step: impl FnMut(Tiles) -> Option<T>,
) -> Vec<Tiles> {
    let mut known = vec![];
    let mut is_new = |tiles: &Tiles| {
        let step = of_step(*tiles);
        let new = step.is_none() || !known.contains(&step);
        known.push(step);
        new
    };
    forms.filter(|tiles| is_new(tiles)).collect()
}

/// The forms whose answer is within `tolerance` of the reference, and the fastest of them. What fails or is wrong is
/// left out with a note.
fn choose<C: Candidate>(
    forms: &[Tiles],
    reference: Result<Answer>,
    tolerance: f64,
    mut build: impl FnMut(Tiles) -> Result<C>,
) -> Result<Tried> {
    let reference = match reference {
        Ok(answer) => answer,
        Err(error @ Error::DeviceLost(_)) => return Err(error),
        Err(error) => {
            let note = format!("autotune: nothing is compared or timed, because the plain kernels fail: {error}");
            return Ok(Tried { fastest: None, right: forms.to_vec(), notes: vec![note] });
        }
    };
    let mut notes = vec![];
    // Runs `trial` on the form; `None`, and a note, if that fails.
    let mut attempt = |tiles: Tiles,
                       notes: &mut Vec<String>,
                       trial: &mut dyn FnMut(&mut C) -> Result<Option<[f64; 3]>>| {
        match build(tiles).and_then(|mut form| trial(&mut form)) {
            Ok(seconds) => Ok(Some(seconds)),
            Err(error @ (Error::DeviceLost(_) | Error::Interrupted(_))) => Err(error),
            Err(error) => {
                notes.push(format!("autotune: the form {} is left out: {error}", tiles.name()));
                Ok(None)
            }
        }
    };
    let mut timed: Vec<(Tiles, Option<[f64; 3]>)> = vec![];
    for &tiles in forms {
        let seconds = attempt(tiles, &mut notes, &mut |form| {
            compare(&form.answer()?, &reference, tolerance)?;
            form.seconds(Clock::Device)
        })?;
        timed.extend(seconds.map(|seconds| (tiles, seconds)));
    }
    if timed.len() > 1 && timed.iter().any(|(_, seconds)| seconds.is_none()) {
        notes.push("autotune: timed by the host's clock, because the device's cannot be believed".into());
        for (tiles, seconds) in &mut timed {
            *seconds = attempt(*tiles, &mut notes, &mut |form| form.seconds(Clock::Host))?.flatten();
        }
        timed.retain(|(_, seconds)| seconds.is_some());
    }
    let right: Vec<Tiles> = timed.iter().map(|&(tiles, _)| tiles).collect();
    let fastest = |kind: usize| {
        let seconds = |seconds: &Option<[f64; 3]>| seconds.map_or(f64::INFINITY, |seconds| seconds[kind]);
        let least = timed.iter().min_by(|(_, a), (_, b)| seconds(a).total_cmp(&seconds(b)));
        least.map(|&(tiles, _)| tiles)
    };
    let [Some(conv_forward), Some(conv_backward), Some(linear)] = [0, 1, 2].map(fastest) else {
        let notes = notes.join("; ");
        return Err(Error::Check(format!("no form of the fused kernels works ({notes}); --kernels reference may")));
    };
    Ok(Tried { fastest: Some(Tuning { conv_forward, conv_backward, linear }), right, notes })
}

/// Refuses an answer that is further from the reference than `tolerance` of its largest number.
fn compare(found: &Answer, reference: &Answer, tolerance: f64) -> Result<()> {
    for ((name, found), (_, expected)) in found.iter().zip(reference) {
        // Next to nothing is compared with what is.
        let scale = expected.iter().fold(1e-6, |most: f64, v| most.max(v.abs()));
        let worst = found
            .iter()
            .zip(expected)
            .map(|(f, e)| (f - e).abs())
            .fold(0.0, |most: f64, error| if error.is_nan() { f64::INFINITY } else { most.max(error) });
        if found.len() != expected.len() || worst > tolerance * scale {
            return Err(Error::Check(format!(
                "{name} is off by {worst:.1e}, at most {:.1e} is rounding",
                tolerance * scale
            )));
        }
    }
    Ok(())
}

/// A form on the device.
struct Form<'a> {
    trainer: GpuTrainer<'a>,
    net: &'a Network,
    /// The images that its answer is about.
    compared: &'a [u32],
}

impl Candidate for Form<'_> {
    fn answer(&mut self) -> Result<Answer> {
        let logits = self.trainer.test_logits()?;
        let mut losses = vec![];
        self.trainer.train_epoch(self.compared, 0, &mut |all| {
            all.iter().for_each(|means| losses.extend([means.loss, means.nll]));
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        let gradient: Vec<f32> = self.trainer.engine().read(self.trainer.compiled().gradient)?;
        let part = |parameter: &crate::network::NamedParameter| {
            let values = gradient[parameter.range()].iter().map(|&v| v.into()).collect();
            (format!("the gradient of {}", parameter.name), values)
        };
        let mut answer = vec![("the loss".to_owned(), losses), ("a logit".to_owned(), logits)];
        answer.extend(self.net.parameters.iter().map(part));
        Ok(answer)
    }

    fn seconds(&mut self, clock: Clock) -> Result<Option<[f64; 3]>> {
        let (engine, range) = (self.trainer.engine(), self.trainer.compiled().train.clone());
        let step = self.trainer.timed_step();
        let mut least = vec![f64::INFINITY; range.len()];
        for i in 0..=STEPS {
            let seconds = match clock {
                Clock::Host => engine.profile_on_host(range.clone(), &step)?,
                Clock::Device => match engine.profile(range.clone(), &step)? {
                    Times { seconds, clock: Clock::Device } => seconds,
                    _ => return Ok(None),
                },
            };
            if i > 0 {
                least.iter_mut().zip(seconds).for_each(|(least, s)| *least = least.min(s));
            }
        }
        let dispatches = &engine.plan().dispatches[range];
        let total =
            |kind| dispatches.iter().zip(&least).filter(|(d, _)| kind_of(d) == Some(kind)).map(|(_, s)| s).sum();
        Ok(Some([0, 1, 2].map(total)))
    }
}

/// Which of the choices a dispatch depends on, in the order of [`Tuning::tiles`].
fn kind_of(dispatch: &Dispatch) -> Option<usize> {
    match dispatch.shader.name {
        name if name.starts_with("conv2d_pool") => Some(usize::from(dispatch.entry.name.starts_with("backward"))),
        "conv2d_tiled" | "conv2d_tiled_lanes" => {
            let backward = ["gradient", "weight"].iter().any(|pass| dispatch.entry.name.starts_with(pass));
            Some(usize::from(backward))
        }
        name if name.starts_with("linear_tiled") => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A form that answers and takes its time as it is told.
    struct Fake {
        answer: f64,
        seconds: f64,
        /// Whether the device's clock can be believed.
        clock: bool,
    }

    impl Candidate for Fake {
        fn answer(&mut self) -> Result<Answer> {
            Ok(vec![("the loss".into(), vec![2.0]), ("a logit".into(), vec![self.answer, -1.0])])
        }

        fn seconds(&mut self, clock: Clock) -> Result<Option<[f64; 3]>> {
            Ok((clock == Clock::Host || self.clock).then_some([self.seconds; 3]))
        }
    }

    fn reference() -> Result<Answer> {
        Fake { answer: 0.5, seconds: 0.0, clock: true }.answer()
    }

    const GOOD: Fake = Fake { answer: 0.5001, seconds: 2.0, clock: true };

    fn tried(build: impl FnMut(Tiles) -> Result<Fake>) -> Result<Tried> {
        choose(&Tiles::DIVISIONS, reference(), 1e-3, build)
    }

    fn refused() -> Error {
        Error::Gpu { context: "building".into(), message: "the compiler crashed".into() }
    }

    /// Catches a fast form with a wrong answer that wins, and one that fails and ends the training.
    #[test]
    fn a_form_that_is_wrong_or_fails_is_left_out_with_a_line() {
        for wrong in [0.502, f64::NAN, f64::INFINITY, 0.0] {
            let tried = tried(|tiles| match tiles {
                Tiles::Registers => Ok(GOOD),
                Tiles::Workgroup => Ok(Fake { answer: wrong, seconds: 1e-3, clock: true }),
                _ => Err(refused()),
            })
            .unwrap();
            assert_eq!(
                (tried.fastest, &tried.right[..]),
                (Some(Tuning::all(Tiles::Registers)), &[Tiles::Registers][..])
            );
            let [workgroup, .., lanes] = &tried.notes[..] else { panic!("{:?}", tried.notes) };
            assert!(workgroup.contains("workgroup is left out: wrong result: a logit is off by"), "{workgroup}");
            assert!(lanes.contains("lanes is left out") && lanes.contains("the compiler crashed"), "{lanes}");
        }
        let memory = tried(|tiles| match tiles {
            Tiles::Workgroup => Ok(GOOD),
            _ => Err(Error::OverLimit("out of memory".into())),
        });
        assert_eq!(memory.unwrap().right, [Tiles::Workgroup]);
        // None is left.
        let error = tried(|_| Err(refused())).unwrap_err();
        assert!(matches!(&error, Error::Check(text) if text.contains("--kernels reference")), "{error}");
        // A device that is gone is no matter of forms.
        assert!(matches!(tried(|_| Err(Error::DeviceLost("gone".into()))), Err(Error::DeviceLost(_))));
    }

    #[test]
    fn the_fastest_that_is_right_is_chosen_by_a_clock_that_can_be_believed() {
        let with_clock = |clock: bool| {
            tried(|tiles| {
                Ok(match tiles {
                    Tiles::Registers => Fake { clock, ..GOOD },
                    Tiles::Workgroup => Fake { seconds: 1.0, ..GOOD },
                    _ => Fake { seconds: 3.0, ..GOOD },
                })
            })
            .unwrap()
        };
        for clock in [true, false] {
            let tried = with_clock(clock);
            assert_eq!(tried.fastest, Some(Tuning::all(Tiles::Workgroup)), "not the first, whatever the clock");
            assert_eq!(tried.notes.iter().filter(|note| note.contains("host's clock")).count(), usize::from(!clock));
        }
        // Where there is nothing to compare with, nothing is chosen.
        let tried = choose(&Tiles::DIVISIONS, Err(refused()), 1e-3, |_| Ok(GOOD)).unwrap();
        assert!(tried.fastest.is_none() && tried.notes.len() == 1, "{tried:?}");
    }

    /// Catches a trial of the same parts twice, and one that is saved although the parts differ.
    #[test]
    fn parts_that_are_the_same_are_tried_once() {
        let tried = |of_step: fn(Tiles) -> Option<usize>| without_repeats(Tiles::DIVISIONS.into_iter(), of_step);
        assert_eq!(tried(|tiles| Some(tiles.workgroups())).len(), 3);
        assert_eq!(tried(|_| Some(1)), [Tiles::Registers]);
        assert_eq!(tried(|_| None), Tiles::DIVISIONS);
    }
}
