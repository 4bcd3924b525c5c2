//! For whoever chooses how to train: what a configuration says of it beside the optimizer, and the recipe that this and
//! the number of steps make.

use serde::{Deserialize, Serialize};

use crate::network::{NamedParameter, Network};
use crate::ops::mix::Mix;
use crate::optimizer::Optimizer;
use crate::optimizer::recipe::{MOST_MOMENTUM, Recipe};
use crate::schedule::{Curve, Schedule};
use crate::{Error, Result};

/// How the learning rate changes. Formulas: [`crate::schedule`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum LrSchedule {
    /// Not at all.
    #[default]
    Constant,
    /// Along half a cosine to --min-lr.
    Cosine,
    /// Up to --lr and down again; momentum (Adam's first beta) goes down to 0.85 and up again to 0.95.
    OneCycle,
    /// By --decay-rate after every --decay-epochs.
    Step,
    /// By --decay-rate over --decay-epochs, little by little.
    Exponential,
}

/// Parameters that no weight decay reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Spared {
    /// Those of normalisations: of one dimension, in layers that have no larger ones.
    Norm,
    /// The biases of all other layers.
    Bias,
}

impl Spared {
    /// Whether `parameter` of `net` is one of them.
    fn has(self, net: &Network, parameter: &NamedParameter) -> bool {
        let layer = |p: &NamedParameter| p.name.rsplit_once('.').map(|(layer, _)| layer.to_owned());
        let of_layer = || net.parameters.iter().filter(|p| layer(p) == layer(parameter));
        let is_bias = parameter.name.ends_with(".bias") && of_layer().any(|p| p.shape.len() > 1);
        match self {
            Self::Bias => is_bias,
            Self::Norm => !is_bias && parameter.shape.len() <= 1,
        }
    }
}

impl LrSchedule {
    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Cosine => "cosine",
            Self::OneCycle => "one-cycle",
            Self::Step => "step",
            Self::Exponential => "exponential",
        }
    }

    /// Whether it has an end that is planned.
    fn is_finite(self) -> bool {
        matches!(self, Self::Cosine | Self::OneCycle)
    }
}

// PyTorch's OneCycleLR, where nobody says.
const RISE: f64 = 0.3;
const DIV_FACTOR: f64 = 25.0;
const FINAL_DIV_FACTOR: f64 = 1e4;
/// So large an alpha mixes all images half and half.
const MOST_ALPHA: f64 = 1e6;
/// PyTorch's StepLR, and timm's.
const STEP_RATE: f64 = 0.1;

/// What a configuration says of the recipe: `[recipe]` in config.toml. What it leaves open is as the help of the flags
/// says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct RecipeSettings {
    /// How the learning rate changes.
    pub lr_schedule: LrSchedule,
    /// Epochs that it takes, those of the warm-up included; without them, the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_epochs: Option<usize>,
    /// Epochs in which it rises first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_epochs: Option<usize>,
    /// The same, in steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
    /// What it rises from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_lr: Option<f64>,
    /// The least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr: Option<f64>,
    /// Epochs from one change of `step` to the next, or that `exponential` takes for its factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_epochs: Option<usize>,
    /// The factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_rate: Option<f64>,
    /// What weight decay spares; it spares nothing where nothing is named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub no_decay: Vec<Spared>,
    /// The most that the gradient's norm may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_grad_norm: Option<f64>,
    /// The decay of the weights' moving average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Mixup's alpha.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixup: Option<f64>,
    /// Cutmix's alpha.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutmix: Option<f64>,
    /// Batches whose gradients a step adds up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accumulate: Option<usize>,
}

fn usage<T>(message: String) -> Result<T> {
    Err(Error::Usage(message))
}

impl RecipeSettings {
    /// Whether nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Settles how long the schedule takes, so that a run that goes on with more epochs keeps it.
    pub fn settle(&mut self, epochs: usize) {
        if self.lr_schedule.is_finite() {
            self.lr_epochs.get_or_insert(epochs);
        }
    }

    /// The number of each setting that counts something.
    pub fn counts(&self) -> [(&'static str, Option<usize>); 5] {
        [
            ("--lr-epochs", self.lr_epochs),
            ("--warmup-epochs", self.warmup_epochs),
            ("--warmup-steps", self.warmup_steps),
            ("--decay-epochs", self.decay_epochs),
            ("--accumulate", self.accumulate),
        ]
    }

    /// Refuses what makes no sense together, whatever the data.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self, optimizer: &Optimizer) -> Result<()> {
        let (lr, weight_decay) = (optimizer.lr(), optimizer.weight_decay());
        let kind = self.lr_schedule;
        let (name, one_cycle) = (kind.name(), kind == LrSchedule::OneCycle);
        let decays = matches!(kind, LrSchedule::Step | LrSchedule::Exponential);
        let warms_up = one_cycle || self.warmup_epochs.is_some() || self.warmup_steps.is_some();
        let count = |n: Option<usize>| n.map(|n| n.to_string());
        let number = |n: Option<f64>| n.map(|n| n.to_string());
        let idle = [
            ("--lr-epochs", count(self.lr_epochs), kind.is_finite(), "--lr-schedule cosine or one-cycle"),
            ("--decay-epochs", count(self.decay_epochs), decays, "--lr-schedule step or exponential"),
            ("--decay-rate", number(self.decay_rate), decays, "--lr-schedule step or exponential"),
            ("--warmup-lr", number(self.warmup_lr), warms_up, "--warmup-epochs or --warmup-steps"),
            ("--no-decay", self.names(), weight_decay > 0.0, "--weight-decay above 0"),
            ("--min-lr", number(self.min_lr), kind != LrSchedule::Constant, "--lr-schedule"),
        ];
        for (flag, found, counts, expected) in idle {
            if let (Some(found), false) = (found, counts) {
                return usage(format!("{flag}: found {found}, expected {expected} with it"));
            }
        }
        if let (Some(_), Some(steps)) = (self.warmup_epochs, self.warmup_steps) {
            return usage(format!("--warmup-steps: found {steps} and --warmup-epochs, expected one of the two"));
        }
        match (kind, self.decay_epochs, self.decay_rate) {
            (LrSchedule::Step, None, _) => {
                return usage(format!("--decay-epochs: found none, expected it with --lr-schedule {name}"));
            }
            (LrSchedule::Exponential, _, None) => {
                return usage(format!("--decay-rate: found none, expected it with --lr-schedule {name}"));
            }
            _ => {}
        }
        for (flag, value) in [("--warmup-lr", self.warmup_lr), ("--min-lr", self.min_lr)] {
            if let Some(value) = value.filter(|value| !(0.0..=lr).contains(value)) {
                return usage(format!("{flag}: found {value}, expected a number from 0 to --lr, which is {lr}"));
            }
        }
        if let Some(most) = self.clip_grad_norm.filter(|most| !(*most > 0.0 && *most <= f32::MAX.into())) {
            let expected = format!("a number above 0, at most {:.0e}", f32::MAX);
            return usage(format!("--clip-grad-norm: found {most}, expected {expected}"));
        }
        if let Some(decay) = self.ema.filter(|decay| !(0.0..1.0).contains(decay)) {
            return usage(format!("--ema: found {decay}, expected a number from 0 on, below 1"));
        }
        for (flag, alpha) in [("--mixup", self.mixup), ("--cutmix", self.cutmix)] {
            if let Some(alpha) = alpha.filter(|alpha| !(0.0..=MOST_ALPHA).contains(alpha)) {
                return usage(format!("{flag}: found {alpha}, expected a number from 0 to {MOST_ALPHA}"));
            }
        }
        match self.decay_rate {
            Some(rate) if !(rate > 0.0 && rate <= 1.0) => {
                usage(format!("--decay-rate: found {rate}, expected a number above 0, at most 1"))
            }
            _ => Ok(()),
        }
    }

    /// How images are mixed.
    pub fn mix(&self) -> Mix {
        Mix { mixup: self.mixup.unwrap_or(0.0), cutmix: self.cutmix.unwrap_or(0.0) }
    }

    /// The recipe, where an epoch has so many steps and the run so many epochs.
    ///
    /// # Errors
    /// [`Error::Usage`] for a warm-up that leaves nothing of the schedule.
    pub fn recipe(&self, optimizer: &Optimizer, steps_per_epoch: usize, epochs: usize) -> Result<Recipe> {
        let steps = |epochs: usize| (epochs as u64).saturating_mul(steps_per_epoch as u64);
        let warm_up = self.warmup_epochs.map(steps).or(self.warmup_steps.map(|steps| steps as u64));
        let total = steps(self.lr_epochs.unwrap_or(epochs));
        if let Some(warm_up) = warm_up.filter(|warm_up| self.lr_schedule.is_finite() && *warm_up >= total) {
            let flag = if self.warmup_epochs.is_some() { "--warmup-epochs" } else { "--warmup-steps" };
            return usage(format!("{flag}: found {warm_up} steps, expected fewer than the schedule's {total}"));
        }
        let rest = total - warm_up.unwrap_or(0).min(total);
        let every = steps(self.decay_epochs.unwrap_or(1));
        let factor = self.decay_rate.unwrap_or(STEP_RATE);
        let (first, end) = (self.warmup_lr.unwrap_or(0.0), self.min_lr.unwrap_or(0.0));
        let Self { clip_grad_norm, ema, .. } = *self;
        let accumulate = self.accumulate.unwrap_or(1);
        let plain = Recipe { clip_grad_norm, ema, mix: self.mix(), accumulate, ..Recipe::default() };
        let of = |curve| Recipe { lr: Schedule { first, warm_up: warm_up.unwrap_or(0), curve, end }, ..plain };
        Ok(match self.lr_schedule {
            LrSchedule::Constant => of(Curve::Constant),
            LrSchedule::Cosine => of(Curve::Cosine { over: rest }),
            LrSchedule::Step => of(Curve::Step { every, factor }),
            LrSchedule::Exponential => of(Curve::Exponential { every, factor }),
            LrSchedule::OneCycle => {
                let rise = warm_up.map_or(RISE, |warm_up| warm_up as f64 / total as f64);
                let curve = Curve::OneCycle { total, rise };
                let first = self.warmup_lr.unwrap_or(optimizer.lr() / DIV_FACTOR);
                let end = self.min_lr.unwrap_or(first / FINAL_DIV_FACTOR);
                let momentum = Schedule { first: MOST_MOMENTUM, warm_up: 0, curve, end: MOST_MOMENTUM };
                Recipe { lr: Schedule { first, warm_up: 0, curve, end }, momentum: Some(momentum), ..plain }
            }
        })
    }

    /// The network, with no weight decay of what it spares.
    pub fn sparing(&self, net: Network) -> Network {
        if self.no_decay.is_empty() {
            return net;
        }
        let all = net.clone();
        net.sparing(|parameter| self.no_decay.iter().any(|spared| spared.has(&all, parameter)))
    }

    /// What weight decay spares, if anything.
    fn names(&self) -> Option<String> {
        let name = |spared: &Spared| if *spared == Spared::Norm { "norm" } else { "bias" };
        let names: Vec<&str> = self.no_decay.iter().map(name).collect();
        (!names.is_empty()).then(|| names.join(","))
    }

    /// What is beside the optimizer's own settings, as a part of a sentence; nothing where there is nothing.
    pub fn describe(&self) -> String {
        let kind = self.lr_schedule;
        let mut text = match (kind, self.decay_epochs.unwrap_or(1), self.decay_rate.unwrap_or(STEP_RATE)) {
            (LrSchedule::Constant, ..) => String::new(),
            (LrSchedule::Cosine | LrSchedule::OneCycle, ..) => {
                let over = self.lr_epochs.map_or(String::new(), |epochs| format!(" over {epochs} epochs"));
                format!(", {}{over}", kind.name())
            }
            (LrSchedule::Step, epochs, rate) => format!(", times {rate} after every {epochs} epochs"),
            (LrSchedule::Exponential, epochs, rate) => format!(", falling by {rate} in {epochs} epochs"),
        };
        text += &self.min_lr.map_or(String::new(), |least| format!(", not below {least}"));
        match (self.warmup_epochs, self.warmup_steps) {
            (Some(epochs), _) => text += &format!(", rising over {epochs} epochs"),
            (None, Some(steps)) => text += &format!(", rising over {steps} steps"),
            (None, None) => {}
        }
        text += &self.warmup_lr.map_or(String::new(), |first| format!(" from {first}"));
        text += &self.names().map_or(String::new(), |names| format!(", no weight decay of {names}"));
        text += &self.clip_grad_norm.map_or(String::new(), |most| format!(", gradient clipped at a norm of {most}"));
        text += &self.ema.map_or(String::new(), |decay| format!(", weights averaged with a decay of {decay}"));
        for (name, alpha) in [("mixup", self.mix().mixup), ("cutmix", self.mix().cutmix)] {
            if alpha > 0.0 {
                text += &format!(", {name} with an alpha of {alpha}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::{Adam, Sgd};

    fn adam() -> Optimizer {
        Optimizer::Adam(Adam { lr: 0.1, ..Adam::default() })
    }

    fn settings(lr_schedule: LrSchedule) -> RecipeSettings {
        RecipeSettings { lr_schedule, ..RecipeSettings::default() }
    }

    fn refused(settings: RecipeSettings, flag: &str, words: &str) {
        let found = settings.check(&adam()).and_then(|()| settings.recipe(&adam(), 5, 3)).unwrap_err().to_string();
        assert!(found.starts_with(&format!("{flag}: ")) && found.contains(words), "{found}");
    }

    /// Catches a flag that is dropped without a word.
    #[test]
    fn what_makes_no_sense_together_is_refused() {
        use LrSchedule::{Constant, Cosine, Exponential, OneCycle, Step};
        let with = |kind, change: fn(&mut RecipeSettings)| {
            let mut settings = settings(kind);
            change(&mut settings);
            settings
        };
        refused(with(Constant, |s| s.min_lr = Some(0.01)), "--min-lr", "--lr-schedule");
        refused(with(Constant, |s| s.warmup_lr = Some(0.01)), "--warmup-lr", "--warmup-epochs");
        refused(with(Step, |s| s.lr_epochs = Some(2)), "--lr-epochs", "cosine");
        refused(with(Cosine, |s| s.decay_epochs = Some(2)), "--decay-epochs", "step");
        refused(with(OneCycle, |s| s.decay_rate = Some(0.5)), "--decay-rate", "step");
        refused(settings(Step), "--decay-epochs", "found none");
        refused(settings(Exponential), "--decay-rate", "found none");
        refused(with(Cosine, |s| s.min_lr = Some(0.2)), "--min-lr", "found 0.2");
        refused(with(Cosine, |s| s.min_lr = Some(f64::NAN)), "--min-lr", "NaN");
        refused(with(OneCycle, |s| s.warmup_lr = Some(-0.1)), "--warmup-lr", "found -0.1");
        for rate in [0.0, -1.0, 1.5, f64::NAN] {
            let s = RecipeSettings { decay_rate: Some(rate), ..settings(Exponential) };
            refused(s, "--decay-rate", &rate.to_string());
        }
        refused(with(Constant, |s| s.no_decay = vec![Spared::Bias]), "--no-decay", "found bias");
        let both = |s: &mut RecipeSettings| (s.warmup_epochs, s.warmup_steps) = (Some(1), Some(1));
        refused(with(Cosine, both), "--warmup-steps", "one of the two");
        refused(with(Cosine, |s| s.warmup_epochs = Some(3)), "--warmup-epochs", "15 steps");
        refused(with(OneCycle, |s| s.warmup_steps = Some(15)), "--warmup-steps", "15 steps");
    }

    /// Catches a bias that decays, and a place that is not behind the others. Together they are timm's: all of one
    /// dimension and all biases.
    #[test]
    fn what_weight_decay_spares_stands_last() {
        let net = || Network::seed([1, 8, 8], 3).unwrap();
        let count = net().parameter_count();
        let spared = |no_decay: &[Spared]| {
            let settings = RecipeSettings { no_decay: no_decay.to_vec(), ..RecipeSettings::default() };
            let net = settings.sparing(net());
            let decayed = net.decayed_len();
            let spared = net.parameters.iter().filter(|p| p.offset >= decayed).map(|p| p.name.clone());
            assert!(net.parameters.iter().all(|p| p.offset >= decayed || p.range().end <= decayed));
            assert_eq!(net.parameter_count(), count);
            spared.collect::<Vec<_>>()
        };
        assert_eq!(spared(&[]), [""; 0]);
        assert_eq!(spared(&[Spared::Norm]), [""; 0]);
        let biases = ["conv1.bias", "conv2.bias", "fc1.bias", "fc2.bias"];
        assert_eq!(spared(&[Spared::Bias]), biases);
        assert_eq!(spared(&[Spared::Norm, Spared::Bias]), biases);
        // As a normalisation's would be: its bias is not one of `bias`.
        let mut net = net();
        net.parameters[0].shape = vec![288];
        let of = |spared: Spared| net.parameters.iter().filter(|p| spared.has(&net, p)).count();
        assert_eq!([of(Spared::Norm), of(Spared::Bias)], [2, 3]);
    }

    /// Catches a schedule that a later end of the run changes, a rate that a resumed run has another of, and a momentum
    /// that is cycled where there is none.
    #[test]
    fn the_rate_is_a_function_of_the_step() {
        let mut one = settings(LrSchedule::OneCycle);
        one.settle(2);
        let [short, long] = [2, 9].map(|epochs| one.recipe(&adam(), 5, epochs).unwrap());
        assert_eq!(short, long);
        let rate = |t| short.at(adam(), t).lr();
        // 0.3 * 10 - 1 = 2 steps up, 7 down.
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-15, "{found}, {expected}");
        near(rate(1), 0.1 / 25.0);
        near(rate(3), 0.1);
        near(rate(10), 0.1 / 25.0 / 1e4);
        assert_eq!(rate(10), rate(1000));
        let beta = |t| match short.at(adam(), t) {
            Optimizer::Adam(adam) => adam.betas,
            other => panic!("{other:?}"),
        };
        assert_eq!([beta(1), beta(3), beta(10)], [[0.95, 0.999], [0.85, 0.999], [0.95, 0.999]]);
        let plain = Optimizer::Sgd(Sgd { lr: 0.1, momentum: 0.0, nesterov: false, weight_decay: 0.0 });
        assert!(matches!(short.at(plain, 3), Optimizer::Sgd(Sgd { momentum: 0.0, .. })));

        let warm = RecipeSettings { warmup_epochs: Some(2), ..settings(LrSchedule::Constant) };
        let recipe = warm.recipe(&adam(), 5, 1).unwrap();
        assert_eq!([1, 6, 11, 99].map(|t| recipe.at(adam(), t).lr()), [0.0, 0.05, 0.1, 0.1]);
        // Without a schedule nothing is computed at all.
        assert_eq!(RecipeSettings::default().recipe(&adam(), 5, 1).unwrap().at(adam(), 7), adam());
    }

    #[test]
    fn the_ends_of_a_range_are_taken_or_refused() {
        let of = |change: fn(&mut RecipeSettings)| {
            let mut settings = settings(LrSchedule::Exponential);
            settings.decay_rate = Some(0.5);
            change(&mut settings);
            settings.check(&adam())
        };
        assert!(of(|s| s.decay_rate = Some(1.0)).is_ok() && of(|s| s.min_lr = Some(0.1)).is_ok());
        assert!(of(|s| s.clip_grad_norm = Some(f32::MAX.into())).is_ok() && of(|s| s.ema = Some(0.0)).is_ok());
        for bad in [0.0, -1.0, 1e39, f64::NAN] {
            let found = RecipeSettings { clip_grad_norm: Some(bad), ..RecipeSettings::default() };
            refused(found, "--clip-grad-norm", "expected a number above 0, at most 3e38");
        }
        for bad in [1.0, -0.1, f64::NAN] {
            refused(RecipeSettings { ema: Some(bad), ..RecipeSettings::default() }, "--ema", "from 0 on, below 1");
        }
        for bad in [-0.1, 2e6, f64::NAN] {
            let expected = "expected a number from 0 to 1000000";
            refused(RecipeSettings { mixup: Some(bad), ..RecipeSettings::default() }, "--mixup", expected);
            refused(RecipeSettings { cutmix: Some(bad), ..RecipeSettings::default() }, "--cutmix", expected);
        }
        let none = RecipeSettings { mixup: Some(0.0), ..RecipeSettings::default() };
        assert!(none.check(&adam()).is_ok() && none.mix().is_none());
        // A rise of its own, in epochs or in steps; weight decay that can spare something.
        for (warmup_epochs, warmup_steps) in [(Some(1), None), (None, Some(1))] {
            let warm = RecipeSettings { warmup_epochs, warmup_steps, warmup_lr: Some(0.05), ..Default::default() };
            assert!(warm.check(&adam()).is_ok());
        }
        let decaying = Optimizer::AdamW(Adam { weight_decay: 0.1, ..Adam::default() });
        let sparing = RecipeSettings { no_decay: vec![Spared::Norm, Spared::Bias], ..Default::default() };
        assert!(sparing.check(&decaying).is_ok());
        refused(sparing, "--no-decay", "found norm,bias");
        assert!(RecipeSettings { lr_epochs: Some(2), ..settings(LrSchedule::Cosine) }.check(&adam()).is_ok());
        assert!(RecipeSettings { decay_epochs: Some(2), ..settings(LrSchedule::Step) }.check(&adam()).is_ok());
    }

    #[test]
    fn what_is_left_of_a_schedule_after_its_warm_up_is_its_own() {
        let of = |settings: &RecipeSettings| settings.recipe(&adam(), 5, 4).unwrap();
        let ends = RecipeSettings { warmup_lr: Some(0.01), min_lr: Some(0.02), ..Default::default() };
        let ends = RecipeSettings { clip_grad_norm: Some(2.0), ema: Some(0.5), ..ends };
        let schedule = |curve, warm_up| Schedule { first: 0.01, warm_up, curve, end: 0.02 };
        let cosine = RecipeSettings { lr_schedule: LrSchedule::Cosine, warmup_steps: Some(8), ..ends.clone() };
        let found = of(&cosine);
        assert_eq!(found.lr, schedule(Curve::Cosine { over: 12 }, 8));
        assert_eq!((found.clip_grad_norm, found.ema, found.momentum), (Some(2.0), Some(0.5), None));
        let long = RecipeSettings { lr_epochs: Some(10), warmup_epochs: Some(2), warmup_steps: None, ..cosine };
        assert_eq!(of(&long).lr, schedule(Curve::Cosine { over: 40 }, 10));
        let step = RecipeSettings { lr_schedule: LrSchedule::Step, decay_epochs: Some(3), ..ends.clone() };
        assert_eq!(of(&step).lr, schedule(Curve::Step { every: 15, factor: 0.1 }, 0));
        let falling = RecipeSettings { lr_schedule: LrSchedule::Exponential, decay_rate: Some(0.5), ..ends.clone() };
        assert_eq!(of(&falling).lr, schedule(Curve::Exponential { every: 5, factor: 0.5 }, 0));
        let one = RecipeSettings { lr_schedule: LrSchedule::OneCycle, warmup_epochs: Some(1), ..ends };
        let found = of(&one);
        let curve = Curve::OneCycle { total: 20, rise: 0.25 };
        assert_eq!(found.lr, schedule(curve, 0));
        assert_eq!(found.momentum, Some(Schedule { first: MOST_MOMENTUM, warm_up: 0, curve, end: MOST_MOMENTUM }));
        assert_eq!((found.clip_grad_norm, found.ema), (Some(2.0), Some(0.5)));
        // A warm-up that is longer than the run is no mistake where nothing comes after it.
        let warm = RecipeSettings { warmup_steps: Some(50), ..Default::default() };
        assert_eq!(of(&warm).lr.warm_up, 50);
    }

    #[test]
    fn a_recipe_is_described_in_words() {
        let of = |lr_schedule| settings(lr_schedule).describe();
        assert_eq!((of(LrSchedule::Constant), of(LrSchedule::Cosine)), (String::new(), ", cosine".into()));
        assert_eq!(of(LrSchedule::Step), ", times 0.1 after every 1 epochs");
        let falling = RecipeSettings { decay_epochs: Some(3), decay_rate: Some(0.5), ..Default::default() };
        let falling = RecipeSettings { lr_schedule: LrSchedule::Exponential, ..falling };
        assert_eq!(falling.describe(), ", falling by 0.5 in 3 epochs");
        let steps = RecipeSettings { warmup_steps: Some(7), ..Default::default() };
        assert_eq!(steps.describe(), ", rising over 7 steps");
        let all = RecipeSettings {
            lr_epochs: Some(9),
            warmup_epochs: Some(2),
            warmup_lr: Some(0.01),
            min_lr: Some(0.02),
            no_decay: vec![Spared::Norm, Spared::Bias],
            clip_grad_norm: Some(2.0),
            ema: Some(0.9),
            mixup: Some(0.2),
            cutmix: Some(1.0),
            ..settings(LrSchedule::OneCycle)
        };
        let expected = ", one-cycle over 9 epochs, not below 0.02, rising over 2 epochs from 0.01, no weight decay of \
                        norm,bias, gradient clipped at a norm of 2, weights averaged with a decay of 0.9, mixup with \
                        an alpha of 0.2, cutmix with an alpha of 1";
        assert_eq!(all.describe(), expected);
        assert!(!all.is_default() && RecipeSettings::default().is_default());
        let counts =
            RecipeSettings { warmup_steps: Some(7), decay_epochs: Some(3), accumulate: Some(4), ..all }.counts();
        let expected = [
            ("--lr-epochs", 9),
            ("--warmup-epochs", 2),
            ("--warmup-steps", 7),
            ("--decay-epochs", 3),
            ("--accumulate", 4),
        ];
        assert_eq!(counts, expected.map(|(flag, n)| (flag, Some(n))));
    }

    #[test]
    fn a_schedule_without_an_end_is_not_given_one() {
        for (kind, expected) in [(LrSchedule::Cosine, Some(4)), (LrSchedule::Step, None), (LrSchedule::Constant, None)]
        {
            let mut settings = settings(kind);
            settings.settle(4);
            settings.settle(9);
            assert_eq!(settings.lr_epochs, expected, "{kind:?}");
        }
    }
}
