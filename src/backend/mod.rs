//! What carries out a training or answers for a model: a GPU, the fast CPU path, or the plain form that judges both.

pub mod cpu;
pub mod device;
pub mod gpu;
pub mod host;
pub mod reference;

use std::ops::{ControlFlow, Range};

use crate::data::Dataset;
use crate::loss::{BatchLoss, Form, Loss};
use crate::network::Network;
use crate::ops::augment::Augment;
use crate::optimizer::{Optimizer, recipe::Recipe};
use crate::{Error, Result};

/// What is trained, on what, how.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// The network.
    pub net: &'a Network,
    /// The run's seed, for layers that draw random numbers.
    pub seed: u64,
    /// Images in a batch; the epoch's last batch may be smaller.
    pub batch_size: usize,
    /// What is done to training images.
    pub augment: Augment,
    /// The loss.
    pub loss: Loss,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// What is done beside its plain updates.
    pub recipe: Recipe,
    /// Each channel's mean and standard deviation, of pixels scaled to 0..1.
    pub normalisation: Vec<[f64; 2]>,
    /// The training set.
    pub train: &'a Dataset,
    /// The test set.
    pub test: &'a Dataset,
}

impl Setup<'_> {
    /// The optimizer of update `t`, from 1.
    pub fn optimizer_at(&self, t: u64) -> Optimizer {
        self.recipe.at(self.optimizer, t)
    }

    /// Images of an update; the epoch's last one may have fewer.
    pub fn update_images(&self) -> usize {
        self.batch_size.saturating_mul(self.recipe.accumulate.max(1))
    }

    /// The batches of an order of so many images, which begins with an update.
    pub fn parts(&self, images: usize) -> impl Iterator<Item = UpdatePart> {
        let (batch_size, of_update) = (self.batch_size, self.update_images());
        (0..images).step_by(batch_size).map(move |first| {
            let begins = first / of_update * of_update;
            UpdatePart {
                images: first..(first + batch_size).min(images),
                update: begins..begins.saturating_add(of_update).min(images),
                which: (first - begins) / batch_size,
            }
        })
    }

    /// Refuses a loss and an augmentation that do not fit network and images, and a loss of one label where images are
    /// mixed.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self) -> Result<()> {
        self.augment.check(self.train.shape)?;
        if !self.recipe.mix.is_none() && !matches!(self.loss.form(), Form::Mixed(_)) {
            return Err(Error::Usage("mixup and cutmix: found a loss of one label, expected `Loss::mixed`".into()));
        }
        self.loss.check(self.net.classes, self.train.len())
    }
}

/// A batch, as a part of its update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdatePart {
    /// Its images, by their places in the order.
    pub images: Range<usize>,
    /// Those of its whole update.
    pub update: Range<usize>,
    /// Which of the update's batches it is, from 0.
    pub which: usize,
}

impl UpdatePart {
    /// Images of the update that came in batches before it.
    pub fn before(&self) -> usize {
        self.images.start - self.update.start
    }

    /// Whether it is the update's last batch.
    pub fn is_last(&self) -> bool {
        self.images.end == self.update.end
    }
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
    /// The moving averages of parameters and of buffers, where the recipe has some; none where they are still these.
    pub averages: Vec<Vec<f64>>,
}

impl State {
    /// The state before training: the network's first values by `seed`, and no memory.
    pub fn initial(net: &Network, seed: u64) -> Self {
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
        let (params, buffers) = (wide(net.initial_parameters(seed)), wide(net.initial_buffers(seed)));
        Self { params, buffers, ..Self::default() }
    }

    /// The same with the averages in the place of parameters and buffers, where there are some.
    pub fn averaged(&self) -> Self {
        match &self.averages[..] {
            [params, buffers] => Self { params: params.clone(), buffers: buffers.clone(), ..self.clone() },
            _ => self.clone(),
        }
    }
}

/// Something that trains.
pub trait Trainer {
    /// Trains on the images `order`, batch by batch. `updates` is how many updates there were before. `on_losses` gets
    /// the means of each update ([`crate::loss`]), in order, a few at a time; an error from it ends the epoch. Where it
    /// breaks off, no further step is begun, those under way are finished and handed on as well, and [`Self::state`] is
    /// that after the last of them.
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

/// A network whose parameters are known, and how it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The network.
    pub net: &'a Network,
    /// Its parameters, `[net.flat_len()]`.
    pub params: &'a [f64],
    /// What its layers keep ([`Network::buffers`]).
    pub buffers: &'a [f64],
    /// Each channel's mean and standard deviation, of pixels scaled to 0..1; for images in bytes.
    pub normalisation: &'a [[f64; 2]],
    /// Images in a batch.
    pub batch_size: usize,
}

/// Images that a network is asked about.
#[derive(Clone, Copy, Debug)]
pub enum ImageSet<'a> {
    /// In bytes, which are normalised. Their labels have no part in it.
    Bytes(&'a Dataset),
    /// In numbers that are normalised, `[images, channels, height, width]`.
    Floats(&'a [f32]),
}

impl ImageSet<'_> {
    /// How many images, of so many pixels each.
    ///
    /// # Errors
    /// [`Error::Usage`] for numbers that are no whole images.
    pub fn count(&self, pixels: usize) -> Result<usize> {
        match self {
            Self::Bytes(set) => Ok(set.len()),
            Self::Floats(values) if values.len().is_multiple_of(pixels) => Ok(values.len() / pixels),
            Self::Floats(values) => {
                let found = values.len();
                Err(Error::Usage(format!("images: found {found} numbers, expected a multiple of {pixels}")))
            }
        }
    }
}

/// Something that answers, and does not train: it has no gradient and no memory of an optimizer.
pub trait Predictor {
    /// The logits `[images, classes]` of images of the network's shape.
    ///
    /// # Errors
    /// [`Error::Usage`] for numbers that are no whole images; whatever the device reports.
    fn logits(&mut self, images: ImageSet) -> Result<Vec<f64>>;
}
