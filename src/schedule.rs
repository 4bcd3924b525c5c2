//! How a number changes over training: the learning rate, momentum, the epsilon of label smoothing.
//!
//! A [`Schedule`] is a pure function of the time, which counts updates from 0. So a run that goes on has the values
//! that it would have had. With `f` the full value, `w` the warm-up, `s` its first value and `e` the end:
//!
//! ```text
//! warm-up       s + (f - s) t / w                                 t < w; after it t counts from its end
//! constant      f
//! linear        e + (f - e) (1 - t / n)                           n: how long it lasts, as below
//! cosine        e + (f - e) (1 + cos(pi t / n)) / 2               torch CosineAnnealingLR, timm "cosine"
//! step          f r^floor(t / n), not below e                     torch StepLR, timm "step"
//! exponential   f r^(t / n), not below e                          torch ExponentialLR, gamma = r^(1/n)
//! one-cycle     s to f to e, by half a cosine each                torch OneCycleLR
//! ```
//!
//! A warm-up is that of torch's `LinearLR`, before the rest as `SequentialLR` puts it (timm: `--warmup-prefix`).
//! Sources: Loshchilov and Hutter 2017 (cosine); Smith and Topin 2018 (one-cycle); Goyal et al. 2017 (warm-up).

use std::f64::consts::PI;

/// What follows the warm-up. Lengths are in updates.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Curve {
    /// The full value.
    #[default]
    Constant,
    /// Along a line to the end.
    Linear {
        /// When the end is reached.
        over: u64,
    },
    /// Along half a cosine to the end.
    Cosine {
        /// When the end is reached.
        over: u64,
    },
    /// By a factor, all at once.
    Step {
        /// From one change to the next.
        every: u64,
        /// The factor.
        factor: f64,
    },
    /// By a factor, little by little.
    Exponential {
        /// How long the factor takes.
        every: u64,
        /// The factor; above 1 the value grows.
        factor: f64,
    },
    /// From the first value to the full one and down to the end. It has its own warm-up.
    OneCycle {
        /// All updates: the last one has the end.
        total: u64,
        /// Which share of them the rise takes.
        rise: f64,
    },
}

/// How a number changes over training. The number at its full value is given where one asks.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Schedule {
    /// The value at time 0, where there is a warm-up.
    pub first: f64,
    /// How long it rises from there along a line; 0 for no warm-up.
    pub warm_up: u64,
    /// What follows.
    pub curve: Curve,
    /// Where it ends.
    pub end: f64,
}

impl Schedule {
    /// Always the full value.
    pub const CONSTANT: Self = Self { first: 0.0, warm_up: 0, curve: Curve::Constant, end: 0.0 };

    /// From 0 to the full value, which it keeps.
    pub const fn rising(over: u64) -> Self {
        Self { warm_up: over, ..Self::CONSTANT }
    }

    /// From the full value to 0, which it keeps.
    pub const fn falling(over: u64) -> Self {
        Self { curve: Curve::Linear { over }, ..Self::CONSTANT }
    }

    /// Whether it is always the full value.
    pub fn is_constant(&self) -> bool {
        self.warm_up == 0 && self.curve == Curve::Constant
    }

    /// The value at time `at`, `full` being the full one.
    pub fn value(&self, full: f64, at: u64) -> f64 {
        let Self { first, warm_up, curve, end } = *self;
        if at < warm_up {
            return first + (full - first) * share(at, warm_up);
        }
        let at = at - warm_up;
        match curve {
            Curve::Constant => full,
            Curve::Linear { over } => end + (full - end) * (1.0 - share(at, over)),
            Curve::Cosine { over } => cosine([full, end], share(at, over)),
            Curve::Step { every, factor } => (full * libm::pow(factor, (at / every.max(1)) as f64)).max(end),
            Curve::Exponential { every, factor } => {
                (full * libm::pow(factor, at as f64 / every.max(1) as f64)).max(end)
            }
            Curve::OneCycle { total, rise } => {
                let (at, last) = (at as f64, total as f64 - 1.0);
                let top = (rise * total as f64 - 1.0).min(last);
                if at <= top && top > 0.0 {
                    cosine([first, full], at / top)
                } else if at >= last {
                    end
                } else {
                    cosine([full, end], (at - top) / (last - top))
                }
            }
        }
    }
}

/// The part of `over` that is gone, at most 1.
fn share(at: u64, over: u64) -> f64 {
    if at >= over { 1.0 } else { at as f64 / over as f64 }
}

/// From one value to the other along half a cosine; exactly them at its ends.
fn cosine([from, to]: [f64; 2], share: f64) -> f64 {
    match () {
        () if share <= 0.0 => from,
        () if share >= 1.0 => to,
        () => to + (from - to) / 2.0 * (1.0 + libm::cos(PI * share)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(schedule: Schedule, full: f64, times: usize) -> Vec<f64> {
        (0..times as u64).map(|at| schedule.value(full, at)).collect()
    }

    #[test]
    fn lines_are_exact_at_their_ends() {
        let e = 0.1;
        for at in [0, 1, 7, u64::MAX] {
            assert_eq!(Schedule::CONSTANT.value(e, at), e);
        }
        let (up, down) = (Schedule::rising(8), Schedule::falling(8));
        assert_eq!([0, 8, 9, u64::MAX].map(|at| up.value(e, at)), [0.0, e, e, e]);
        assert_eq!([0, 8, 9, u64::MAX].map(|at| down.value(e, at)), [e, 0.0, 0.0, 0.0]);
        for at in 0..8 {
            assert_eq!(up.value(e, at), e * at as f64 / 8.0);
            assert!(up.value(e, at) < up.value(e, at + 1) && down.value(e, at) > down.value(e, at + 1));
            assert!((up.value(e, at) + down.value(e, at) - e).abs() < 1e-16);
        }
        // A negative number keeps its sign.
        assert_eq!(up.value(-0.5, 4), -0.25);
    }

    #[test]
    fn a_schedule_of_no_length_is_at_its_end() {
        assert_eq!(Schedule::rising(0).value(0.1, 0), 0.1);
        assert_eq!(Schedule::falling(0).value(0.1, 0), 0.0);
        let curve = |curve| Schedule { first: 0.01, curve, end: 0.001, ..Schedule::CONSTANT };
        assert_eq!(curve(Curve::Cosine { over: 0 }).value(0.1, 0), 0.001);
        assert_eq!(curve(Curve::Step { every: 0, factor: 0.5 }).value(0.1, 1), 0.05);
        for total in 0..12 {
            for rise in [0.0, 0.1, 0.25, 0.3, 1.0] {
                let cycle = all(curve(Curve::OneCycle { total, rise }), 0.1, 14);
                assert!(cycle.iter().all(|v| (0.001..=0.1).contains(v)), "{total}, {rise}: {cycle:?}");
                assert!(cycle[total.max(1) as usize..].iter().all(|v| *v == 0.001), "{total}, {rise}: {cycle:?}");
            }
        }
    }

    #[test]
    fn curves_go_where_they_should() {
        let warm = Schedule { first: 0.01, warm_up: 4, curve: Curve::Cosine { over: 16 }, end: 0.02 };
        let values = all(warm, 0.1, 30);
        assert_eq!([values[0], values[4], values[20], values[29]], [0.01, 0.1, 0.02, 0.02]);
        assert!(values[..5].is_sorted() && values[4..].is_sorted_by(|a, b| a >= b));
        let step = Schedule { curve: Curve::Step { every: 2, factor: 0.5 }, end: 0.2, ..Schedule::CONSTANT };
        assert_eq!(all(step, 1.0, 8), [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2]);
        let growth = Schedule { curve: Curve::Exponential { every: 1, factor: 2.0 }, ..Schedule::CONSTANT };
        assert_eq!(all(growth, 1.0, 4), [1.0, 2.0, 4.0, 8.0]);
        let cycle = Schedule { first: 0.1, curve: Curve::OneCycle { total: 20, rise: 0.3 }, end: 0.01, warm_up: 0 };
        let values = all(cycle, 1.0, 20);
        assert_eq!([values[0], values[5], values[19]], [0.1, 1.0, 0.01]);
        assert!(values[..6].is_sorted() && values[5..].is_sorted_by(|a, b| a >= b));
    }
}
