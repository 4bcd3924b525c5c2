//! What carries out a training or answers for a model: a GPU, the fast CPU path, or the plain form that judges both.

pub mod cpu;
pub mod device;
pub mod gpu;
pub mod host;
pub mod reference;

use std::ops::ControlFlow;

use crate::Result;
use crate::data::Dataset;
use crate::loss::{BatchLoss, Loss};
use crate::network::Network;
use crate::optimizer::Optimizer;

/// What is trained, on what, how.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// The network.
    pub net: &'a Network,
    /// The run's seed, for layers that draw random numbers.
    pub seed: u64,
    /// Images in a batch; the epoch's last batch may be smaller.
    pub batch_size: usize,
    /// The loss.
    pub loss: Loss,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Each channel's mean and standard deviation, of pixels scaled to 0..1.
    pub normalisation: Vec<[f64; 2]>,
    /// The training set.
    pub train: &'a Dataset,
    /// The test set.
    pub test: &'a Dataset,
}

/// Parameters and the optimizer's memory, each a flat vector (see [`crate::network::NamedParameter::range`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Parameters.
    pub params: Vec<f64>,
    /// The optimizer's memory ([`Optimizer::slots`]); none where it is empty.
    pub slots: Vec<Vec<f64>>,
    /// What layers keep from one step to the next ([`Network::buffers`]).
    pub buffers: Vec<f64>,
}

impl State {
    /// The state before training: the network's first values by `seed`, and no memory.
    pub fn initial(net: &Network, seed: u64) -> Self {
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
        Self { params: wide(net.initial_parameters(seed)), slots: vec![], buffers: wide(net.initial_buffers(seed)) }
    }
}

/// Something that trains.
pub trait Trainer {
    /// Trains on the images `order`, batch by batch. `updates` is how many updates there were before. `on_losses` gets
    /// the means of each batch ([`crate::loss`]), in order, a few at a time; an error from it ends the epoch. Where it breaks off,
    /// no further step is begun, those under way are finished and handed on as well, and [`Self::state`] is that after the last
    /// of them.
    ///
    /// # Errors
    /// `on_losses`' own, and whatever the device reports.
    fn train_epoch(
        &mut self,
        order: &[u32],
        updates: u64,
        on_losses: &mut dyn FnMut(&[BatchLoss]) -> Result<ControlFlow<()>>,
    ) -> Result<()>;

    /// The logits of the whole test set, `[images, classes]`.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn test_logits(&mut self) -> Result<Vec<f64>>;

    /// The logits of other images of the same shape, `[images, classes]`.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn logits(&mut self, images: &Dataset) -> Result<Vec<f64>>;

    /// Parameters and the optimizer's memory.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn state(&mut self) -> Result<State>;

    /// Goes on from `state`.
    fn set_state(&mut self, state: &State);
}
