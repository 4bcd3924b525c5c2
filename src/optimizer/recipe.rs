//! What a training does beside the plain update of each batch. The default is nothing.

use super::Optimizer;
use crate::ops::mix::Mix;
use crate::schedule::Schedule;

/// The least momentum of one that is cycled: where the learning rate is highest (PyTorch's `base_momentum`).
pub const LEAST_MOMENTUM: f64 = 0.85;
/// The most, at both ends (PyTorch's `max_momentum`).
pub const MOST_MOMENTUM: f64 = 0.95;

/// What a training does beside the plain update of each batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// How the learning rate changes; the optimizer has the full one.
    pub lr: Schedule,
    /// How momentum, or Adam's first beta, changes, where it does; the full one is [`LEAST_MOMENTUM`].
    pub momentum: Option<Schedule>,
    /// The most that the gradient's norm may be ([`super::clip`]).
    pub clip_grad_norm: Option<f64>,
    /// The decay of the weights' moving average, where one is kept ([`super::ema`]).
    pub ema: Option<f64>,
    /// How images are mixed.
    pub mix: Mix,
    /// Batches of an update ([`super::accumulate`]); 1 where each has its own.
    pub accumulate: usize,
}

impl Default for Recipe {
    fn default() -> Self {
        let (lr, mix) = (Schedule::CONSTANT, Mix::default());
        Self { lr, momentum: None, clip_grad_norm: None, ema: None, mix, accumulate: 1 }
    }
}

impl Recipe {
    /// The optimizer of update `t`, from 1: a function of `t` alone.
    pub fn at(&self, optimizer: Optimizer, t: u64) -> Optimizer {
        let at = t.saturating_sub(1);
        let lr = self.lr.value(optimizer.lr(), at);
        let momentum = self.momentum.map(|schedule| schedule.value(LEAST_MOMENTUM, at));
        optimizer.with(lr, momentum)
    }
}
