//! For whoever looks for a learning rate: Smith's range test (Smith 2017, "Cyclical Learning Rates for Training Neural
//! Networks"). The rate grows by the same factor from step to step; where the loss falls fastest it is a good one.
//!
//! As PyTorch Lightning's `lr_find`: the loss is smoothed, the test ends early where that is above four times its
//! least, and the suggestion is the rate of its steepest descent, from one step to the next.

use std::ops::ControlFlow;

use serde::Serialize;

use super::Course;
use super::config::Config;
use super::config::images::{Images, images};
use super::listener::Listener;
use crate::backend::device::Device;
use crate::backend::{Setup, State};
use crate::loss::BatchLoss;
use crate::optimizer::recipe::Recipe;
use crate::schedule::{Curve, Schedule};
use crate::{Error, Result};

/// How much of the smoothed loss is of the steps before.
const BETA: f64 = 0.98;
/// The test ends where the smoothed loss is so many times its least.
const TOO_MUCH: f64 = 4.0;
/// Steps at the beginning that no suggestion is made of, and at the end.
const SKIPPED: [usize; 2] = [10, 1];

/// Which rates are tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RangeTest {
    /// The first.
    pub from: f64,
    /// The last.
    pub to: f64,
    /// How many; no more than an epoch has steps.
    pub steps: usize,
}

/// A step of the test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tried {
    /// The learning rate.
    pub lr: f64,
    /// The batch's loss before the update.
    pub loss: f64,
    /// That, smoothed over the steps before.
    pub smoothed: f64,
}

/// What the test came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Every step.
    pub steps: Vec<Tried>,
    /// The rate of the steepest descent, where there are enough steps.
    pub suggestion: Option<f64>,
    /// Whether the loss grew so much that the test ended before its last step.
    pub ended_early: bool,
}

impl RangeTest {
    /// The optimizer's schedule over `steps` steps, its full rate being [`Self::from`].
    fn schedule(&self, steps: usize) -> Schedule {
        let curve = Curve::Exponential { every: (steps as u64 - 1).max(1), factor: self.to / self.from };
        Schedule { curve, ..Schedule::CONSTANT }
    }

    /// Refuses a range that is none.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self) -> Result<()> {
        let Self { from, to, .. } = *self;
        if !(from > 0.0 && from.is_finite()) {
            return Err(Error::Usage(format!("--from: found {from}, expected a number above 0")));
        }
        if !(to > from && to <= f32::MAX.into()) {
            return Err(Error::Usage(format!("--to: found {to}, expected a number above --from, which is {from}")));
        }
        Ok(())
    }
}

/// Tries rates on the data and the network of `config`; nothing is written.
///
/// # Errors
/// As [`super::runs::train`], but for those of a folder.
pub fn find(mut config: Config, device: &Device, test: RangeTest, listener: &dyn Listener) -> Result<Rates> {
    test.check()?;
    let note = |line: &str| listener.note(line);
    if let Some(path) = &config.loss.teacher {
        return Err(Error::Usage(format!("--teacher: found {}, expected none: it has no part here", path.display())));
    }
    let images = images(&config, &note, &|done, all| listener.reading(done, all))?;
    let Images { train, test: tested, .. } = &images;
    let net = config.recipe.sparing(config.network.network(train.shape, train.classes)?);
    net.check_batches(train.len(), config.batch_size)?;
    config.augment.check(train.shape)?;
    let loss = images.loss(&config)?;
    let normalisation = config.normalisation(&images.normalisation)?;
    let steps = test.steps.min(train.len().div_ceil(config.update_images()));
    let plain = config.recipe.recipe(&config.optimizer, steps, 1)?;
    let recipe = Recipe { lr: test.schedule(steps), momentum: None, ema: None, ..plain };
    let mut opened = device.open(config.dtype, &note)?;
    opened.kernels = device.kernels.unwrap_or(opened.kernels);
    let setup = Setup {
        seed: config.seed,
        net: &net,
        batch_size: config.batch_size,
        loss,
        optimizer: config.optimizer.with(test.from, None),
        recipe,
        normalisation,
        augment: config.augment,
        train,
        test: tested,
    };
    config.tuning = opened.tuning(&setup, config.activations, config.tuning, &note)?;
    let state = match &config.init {
        Some(init) => super::saved::load_foreign(&net, init)?.0,
        None => State::initial(&net, config.seed),
    };
    let mut trainer = opened.trainer(config.activations, config.tuning, setup.clone(), &state, &note)?;
    let course = Course { epochs: 1, seed: config.seed, shuffle: config.shuffle };
    let order = course.order(1, train.len());
    let order = &order[..train.len().min(steps.saturating_mul(config.update_images()))];
    let mut losses = vec![];
    trainer.train_epoch(order, 0, &mut |means: &[BatchLoss]| {
        losses.extend(means.iter().map(|means| means.loss));
        let over = means.iter().any(|means| means.diverged) || smoothed(&losses).len() < losses.len();
        Ok(if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let rates = (1..).map(|t| setup.optimizer_at(t).lr());
    let tried = rates.zip(&losses).zip(smoothed(&losses));
    let tried: Vec<Tried> = tried.map(|((lr, &loss), smoothed)| Tried { lr, loss, smoothed }).collect();
    Ok(Rates { suggestion: suggestion(&tried), ended_early: tried.len() < steps, steps: tried })
}

/// The smoothed losses, up to where they are too much or no numbers.
fn smoothed(losses: &[f64]) -> Vec<f64> {
    let (mut average, mut share, mut least) = (0.0, 1.0, f64::INFINITY);
    let mut smoothed = vec![];
    for (i, loss) in losses.iter().enumerate() {
        average = BETA * average + (1.0 - BETA) * loss;
        share *= BETA;
        let value = average / (1.0 - share);
        if !value.is_finite() || (i > 1 && value > TOO_MUCH * least) {
            break;
        }
        least = least.min(value);
        smoothed.push(value);
    }
    smoothed
}

/// The rate at which the smoothed loss falls fastest, by differences of neighbours on either side.
fn suggestion(tried: &[Tried]) -> Option<f64> {
    let end = tried.len().checked_sub(SKIPPED[1])?;
    let part = tried.get(SKIPPED[0]..end).filter(|part| part.len() > 1)?;
    let slope = |i: usize| {
        let (before, after) = (i.saturating_sub(1), (i + 1).min(part.len() - 1));
        (part[after].smoothed - part[before].smoothed) / (after - before) as f64
    };
    let steepest = (0..part.len()).min_by(|&a, &b| slope(a).total_cmp(&slope(b)))?;
    Some(part[steepest].lr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::gpu::DeviceKind;
    use crate::train::config::recipe::LrSchedule;

    fn tried(losses: &[f64]) -> Vec<Tried> {
        let of = |(i, &smoothed): (usize, &f64)| Tried { lr: 10f64.powi(i as i32), loss: 0.0, smoothed };
        losses.iter().enumerate().map(of).collect()
    }

    /// Catches a suggestion of the least loss, of an ascent, or of the steps that are left out.
    #[test]
    fn the_suggestion_is_the_steepest_descent() {
        let flat = [5.0; 10];
        let found = |rest: &[f64]| suggestion(&tried(&[&flat, rest].concat()));
        // Slopes at 10 and on: -0.5, -1.5, -1.25, -0.25, then up; the last one does not count.
        assert_eq!(found(&[4.0, 3.5, 1.0, 1.0, 0.5, 3.0, 9.0]), Some(1e11));
        assert_eq!(suggestion(&tried(&[5.0, 1.0, 0.0])), None);
        assert_eq!(found(&[1.0, 0.5]), None);
        assert_eq!(found(&[1.0, 0.5, 0.0]), Some(1e10));
        assert_eq!(suggestion(&[]), None);
        // By one neighbour at the ends, by two between them: -3, -1.75, … and -1, -1, -0.55, -1, -1.9.
        assert_eq!(found(&[6.0, 3.0, 2.5, 2.5, 2.5, 2.5, 2.5]), Some(1e10));
        assert_eq!(found(&[6.0, 5.0, 4.0, 3.9, 2.0, 0.1, 0.1, 0.1]), Some(1e14));
    }

    /// Catches a first value that is pulled to 0, and a test that goes on after its end.
    #[test]
    fn losses_are_smoothed_until_they_are_too_much() {
        let found = smoothed(&[2.0, 1.0, 1.5]);
        assert!((found[0] - 2.0).abs() < 1e-12 && (found[1] - (0.98 * 2.0 + 1.0) / 1.98).abs() < 1e-12, "{found:?}");
        assert_eq!(smoothed(&[1.0, 1.0, 1.0, 1e3, 1.0]).len(), 3);
        assert_eq!(smoothed(&[1.0, f64::NAN, 1.0]).len(), 1);
        assert_eq!(smoothed(&[1e9, 1.0, 1.0]).len(), 3, "the first steps end nothing");
        assert_eq!(smoothed(&[1.0, 1e3]).len(), 2, "nor does the second");
        assert_eq!(smoothed(&[0.0; 5]).len(), 5, "nothing is not too much of nothing");
        // Too much is a factor: (0.98^3 + 0.98^2 + 0.98) / 100 + 1, over 3.88, is 26 times the least.
        assert_eq!(smoothed(&[0.01, 0.01, 0.01, 1.0, 0.01]).len(), 3);
    }

    #[test]
    fn rates_grow_by_one_factor_from_end_to_end() {
        let test = RangeTest { from: 1e-6, to: 1.0, steps: 7 };
        let schedule = test.schedule(7);
        for t in 0..7 {
            let expected = 10f64.powi(t - 6);
            assert!((schedule.value(1e-6, t as u64) / expected - 1.0).abs() < 1e-12, "{t}");
        }
        assert!(RangeTest { from: 0.0, ..test }.check().is_err() && RangeTest { to: 1e-7, ..test }.check().is_err());
    }

    /// The ends of both ranges: a rate of 0 and one that f32 does not hold are none.
    #[test]
    fn a_range_has_two_ends() {
        let of = |from, to| RangeTest { from, to, steps: 7 }.check().map_err(|error| error.to_string());
        assert!(of(1e-6, f32::MAX.into()).is_ok());
        for from in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            assert!(of(from, 1.0).unwrap_err().starts_with(&format!("--from: found {from}, ")));
        }
        for to in [1e-6, 1e-7, 1e39, f64::NAN] {
            assert!(of(1e-6, to).unwrap_err().starts_with(&format!("--to: found {to}, ")));
        }
    }

    /// Catches another schedule than the test's, a step that is left out or added, and a test without an end.
    #[test]
    fn each_step_tries_its_rate_on_a_batch() {
        let device = Device { kind: DeviceKind::Cpu, ..Device::default() };
        let config = Config { limit_train: Some(40), limit_test: Some(20), batch_size: 8, ..Config::default() };
        let find = |config: &Config, test| find(config.clone(), &device, test, &());
        let test = RangeTest { from: 1e-6, to: 1e-3, steps: 4 };
        let found = find(&config, test).unwrap();
        assert_eq!(found.steps.len(), 4);
        for (step, expected) in found.steps.iter().zip([1e-6, 1e-5, 1e-4, 1e-3]) {
            assert!((step.lr / expected - 1.0).abs() < 1e-12, "{step:?}");
        }
        assert_eq!((found.ended_early, found.suggestion), (false, None));
        // The batches are those of an epoch: it has no more of them, and a shorter test has the first ones.
        let all = find(&config, RangeTest { steps: 100, ..test }).unwrap();
        assert_eq!((all.steps.len(), all.ended_early, all.steps[0].loss), (5, false, found.steps[0].loss));
        // What a recipe plans for a whole training has no part in it.
        let mut planned = config.clone();
        planned.recipe.lr_schedule = LrSchedule::OneCycle;
        assert_eq!(find(&planned, test).unwrap(), found);
        // At such rates all is lost.
        let many = Config { limit_train: Some(160), ..config.clone() };
        let lost = find(&many, RangeTest { from: 1e-3, to: 1e12, steps: 20 }).unwrap();
        assert!(lost.ended_early && lost.steps.len() < 20, "{lost:?}");
        // Or too much of it, long before it is no number.
        let much = find(&many, RangeTest { from: 1e-3, to: 1e2, steps: 20 }).unwrap();
        assert!(much.ended_early && much.steps.iter().all(|step| step.loss.is_finite()), "{much:?}");

        assert!(find(&config, RangeTest { from: 0.0, ..test }).unwrap_err().to_string().starts_with("--from: "));
        planned.loss.teacher = Some("old".into());
        assert!(find(&planned, test).unwrap_err().to_string().starts_with("--teacher: found old, expected none"));
    }
}
