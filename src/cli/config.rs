//! The flags of a run, and the configuration that they ask for.

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::PossibleValuesParser;
use smoothcnn::backend::device::Precision;
use smoothcnn::data::labels::Noise;
use smoothcnn::data::source::{DataChoice, Source, recorded};
use smoothcnn::loss::smoothing::Variant;
use smoothcnn::network::Architecture;
use smoothcnn::ops::augment::Augment;
use smoothcnn::optimizer::{Adam, Optimizer, Sgd, muon};
use smoothcnn::plan::Storage;
use smoothcnn::train::config::{Config, EPOCHS, Labels};
use smoothcnn::{Error, Result};

use super::common;
use super::dataset::DataArgs;
use super::given::Given;
use super::loss::{LossArgs, Spread};
use super::recipe::RecipeArgs;
use super::sources;

/// SGD's momentum where nobody says.
const MOMENTUM: f64 = 0.9;

/// Flags that `train` and `sweep` share: all that a run depends on but epsilon, the rate of label noise and the seed.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Flags that go well together: mnist-fast, 99 % on MNIST in an epoch; cifar, for small colour pictures. Those
    /// given here count first
    #[arg(id = "recipe", long, value_name = "NAME", value_parser = PossibleValuesParser::new(sources::recipes()))]
    pub named_recipe: Option<String>,
    /// Keep only the first N training images
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    pub limit_train: Option<usize>,
    /// Keep only the first N test images
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    pub limit_test: Option<usize>,
    /// The network: seed, lenet5, mlp, cifar, resnet8, resnet20, or a file of layers that ends in .toml [default: that
    /// of --init, else seed]
    #[arg(long, value_name = "NAME|FILE.toml")]
    pub network: Option<String>,
    /// What is done to training images, anew in each update: none, light (shifts of up to 2 pixels), cifar (shifts of
    /// up to 4, mirrored images), or a file that ends in .toml with some of shift, border (zero, reflect), flip,
    /// cutout, rotate (degrees), scale, brightness, contrast (shares, such as 0.1)
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "none")]
    pub augment: String,
    /// Times through the training set [default: 10]
    #[arg(long, value_name = "N", value_parser = common::at_least_one)]
    pub epochs: Option<usize>,
    /// Images in a batch
    #[arg(short, long, default_value_t = 64, value_parser = common::at_least_one)]
    pub batch_size: usize,
    /// Learning rate
    #[arg(long, default_value_t = 1e-3, allow_negative_numbers = true)]
    pub lr: f64,
    /// Optimizer; muon is adamw with the steps of hidden layers' weights made orthogonal
    #[arg(long, value_enum, default_value = "adam")]
    pub opt: OptimizerKind,
    /// With --opt sgd or muon: its momentum [default: 0.9, 0.95]
    #[arg(long, allow_negative_numbers = true)]
    pub momentum: Option<f64>,
    /// With --opt sgd: Nesterov's form of its momentum, which muon always has
    #[arg(long)]
    pub nesterov: bool,
    /// Weight decay: an L2 term for adam and sgd, decoupled for adamw and muon
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub weight_decay: f64,
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Over which classes epsilon is spread
    #[arg(long, value_enum, default_value = "uniform")]
    pub smoothing_variant: Spread,
    #[command(flatten)]
    pub loss: LossArgs,
    /// Hold out this share of every class of the training set, and measure on it after each epoch; the test set is then
    /// measured once, at the end [default: none; 0.1 in a sweep]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub val_split: Option<f64>,
    /// With --label-noise: to which class a label flips [default: symmetric]
    #[arg(long, value_enum)]
    pub noise: Option<Noise>,
    /// IDX labels that replace the training set's, as CIFAR-10N's; the first ones where there are more
    #[arg(long, value_name = "FILE")]
    pub train_labels: Option<PathBuf>,
    /// Keep the file's order in every epoch
    #[arg(long)]
    pub no_shuffle: bool,
    /// Start from these weights. Their names may be behind `module.`, `model.` or `_orig_mod.`, or have the numbers of
    /// a plain nn.Sequential (`0.weight`, `3.weight`, …)
    #[arg(long, value_name = "FILE.safetensors")]
    pub init: Option<PathBuf>,
    /// Mean of the pixels, scaled to 0..1: one value, or one a channel [default: the data set's usual one]
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    pub mean: Vec<f64>,
    /// Their standard deviation
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
    pub std: Vec<f64>,
    /// Precision; f64 on the CPU path
    #[arg(long, value_enum, default_value = "f32")]
    pub dtype: Precision,
    /// In what a GPU's fused kernels store what one layer gives to the next: f16 takes half the memory and rounds to 11
    /// bits; everything is computed in f32 either way
    #[arg(long, value_enum, default_value = "f32")]
    pub activations: Storage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OptimizerKind {
    Adam,
    Adamw,
    Muon,
    Sgd,
}

/// What the runs of a sweep differ in.
#[derive(Clone, Copy, Debug)]
pub struct Varied {
    pub label_smoothing: f64,
    pub label_noise: f64,
    pub seed: u64,
}

impl RunArgs {
    /// The configuration that the flags ask for.
    pub fn config(&self, varied: Varied) -> Result<Config> {
        let Self { lr, weight_decay, nesterov, .. } = *self;
        let plain = matches!(self.opt, OptimizerKind::Adam | OptimizerKind::Adamw);
        for (flag, given, others) in [
            ("--momentum", plain && self.momentum.is_some(), "sgd or muon"),
            ("--nesterov", self.opt != OptimizerKind::Sgd && nesterov, "sgd"),
        ] {
            if given {
                let opt = self.opt.to_possible_value().map(|opt| opt.get_name().to_owned()).unwrap_or_default();
                let found = format!("{flag}: found with --opt {opt}, expected --opt {others} with it");
                return Err(Error::Usage(found));
            }
        }
        let adam = Adam { lr, weight_decay, ..Adam::default() };
        let optimizer = match self.opt {
            OptimizerKind::Adam => Optimizer::Adam(adam),
            OptimizerKind::Adamw => Optimizer::AdamW(adam),
            OptimizerKind::Muon => {
                let [momentum, second] = muon::settings().betas;
                let betas = [self.momentum.unwrap_or(momentum), second];
                Optimizer::Muon(Adam { lr, betas, weight_decay, ..muon::settings() })
            }
            OptimizerKind::Sgd => {
                Optimizer::Sgd(Sgd { lr, momentum: self.momentum.unwrap_or(MOMENTUM), nesterov, weight_decay })
            }
        };
        let epochs = self.epochs.unwrap_or(EPOCHS);
        let (loss, smoothing_variant) = self.loss.recorded(self.smoothing_variant, epochs)?;
        let Source { data, data_dir, pictures, .. } = self.data.wanted().source()?;
        let path = |flag, path: &Option<PathBuf>| path.as_deref().map(|path| recorded(flag, path)).transpose();
        Ok(Config {
            data,
            data_dir,
            limit_train: self.limit_train,
            limit_test: self.limit_test,
            pictures,
            network: self.network.as_deref().map_or(Ok(Architecture::default()), Architecture::parse)?,
            augment: Augment::parse(&self.augment)?,
            init: path("--init", &self.init)?,
            epochs,
            batch_size: self.batch_size,
            label_smoothing: varied.label_smoothing,
            smoothing_variant,
            seed: varied.seed,
            shuffle: !self.no_shuffle,
            mean: self.mean.clone(),
            std: self.std.clone(),
            dtype: self.dtype,
            activations: self.activations,
            labels: Labels {
                val_split: self.val_split.unwrap_or(0.0),
                label_noise: varied.label_noise,
                noise: self.noise.unwrap_or_default(),
                train_labels: path("--train-labels", &self.train_labels)?,
            },
            loss,
            optimizer,
            recipe: self.recipe.recorded(),
            ..Config::default()
        })
    }

    /// The same flags, given to a run that goes on: what they leave open, and depends on others, is as the run has it.
    pub fn beside(mut self, run: &Config, given: &Given) -> Self {
        if !given.has("--opt") {
            self.opt = match run.optimizer {
                Optimizer::Adam(_) => OptimizerKind::Adam,
                Optimizer::AdamW(_) => OptimizerKind::Adamw,
                Optimizer::Muon(_) => OptimizerKind::Muon,
                Optimizer::Sgd(_) => OptimizerKind::Sgd,
            };
        }
        if !given.has("--smoothing-variant") {
            self.smoothing_variant = match (&run.loss.smoothing_prior, run.smoothing_variant) {
                (Some(_), _) => Spread::Prior,
                (None, Variant::Uniform) => Spread::Uniform,
                (None, Variant::OffTarget) => Spread::OffTarget,
            };
        }
        if self.smoothing_variant == Spread::Prior && self.loss.smoothing_prior.is_none() {
            self.loss.smoothing_prior.clone_from(&run.loss.smoothing_prior);
        }
        // Where the data is may change.
        self.data.data_dir = None;
        self.data.data.get_or_insert(DataChoice::Named(run.data));
        self
    }

    /// Refuses a kind of noise where no rate of it was `given`.
    pub fn check_noise(&self, given: bool) -> Result<()> {
        match self.noise {
            Some(noise) if !given => {
                let noise = noise.name();
                Err(Error::Usage(format!("--noise: found {noise} alone, expected --label-noise with it")))
            }
            _ => Ok(()),
        }
    }
}
