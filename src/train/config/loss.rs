//! For whoever chooses a loss: what a configuration says of it, and the loss that this and the training set make.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::loss::Loss;
use crate::loss::comparator::ComparatorLoss;
use crate::loss::distillation::DistillationLoss;
use crate::loss::logit_penalty::LogitPenalty;
use crate::loss::smoothing::{Epsilon, Prior, Smoothing, Variant};
use crate::loss::weighted::{Spec, WeightedLoss, Weighting};
use crate::ops::IGNORED;
use crate::schedule::Schedule;
use crate::train::soft_labels;
use crate::{Error, Result, input};

/// What is computed for each sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Cross-entropy, with label smoothing.
    #[default]
    #[cfg_attr(feature = "cli", value(alias = "ls"))]
    CrossEntropy,
    /// -(1 - p)^gamma ln p (Lin et al. 2017).
    Focal,
    /// Cross-entropy less beta times the prediction's entropy (Pereyra et al. 2017).
    ConfidencePenalty,
    /// Cross-entropy, and epsilon times the largest logit less the mean logit (MaxSup, Zhou et al. 2025).
    #[serde(rename = "maxsup")]
    #[cfg_attr(feature = "cli", value(name = "maxsup"))]
    MaxSup,
    /// Cross-entropy with a penalty on logits that are more than a margin below the largest (MbLS, Liu et al. 2022).
    Mbls,
}

impl LossKind {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::CrossEntropy, Self::Focal, Self::ConfidencePenalty, Self::MaxSup, Self::Mbls];

    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross-entropy",
            Self::Focal => "focal",
            Self::ConfidencePenalty => "confidence-penalty",
            Self::MaxSup => "maxsup",
            Self::Mbls => "mbls",
        }
    }

    /// The epsilon where nobody gives one.
    pub fn usual_epsilon(self) -> f64 {
        if self.has_epsilon() { 0.1 } else { 0.0 }
    }

    /// Whether it depends on epsilon.
    pub fn has_epsilon(self) -> bool {
        [Self::CrossEntropy, Self::MaxSup].contains(&self)
    }
}

/// How epsilon changes over training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Not at all.
    #[default]
    Constant,
    /// Linearly from 0 to epsilon.
    Warmup,
    /// Linearly from epsilon to 0.
    Decay,
}

/// What a configuration says of the loss, but for epsilon and over which classes it is spread: `[loss]` in config.toml.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct LossSettings {
    /// What is computed for each sample.
    pub kind: LossKind,
    /// The focal loss's exponent; without one, 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub focal_gamma: Option<f64>,
    /// The confidence penalty's factor; without one, 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence_beta: Option<f64>,
    /// MbLS' factor; without one, 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbls_lambda: Option<f64>,
    /// MbLS' margin; without one, 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbls_margin: Option<f64>,
    /// Whether epsilon may be below 0, which sharpens the targets instead (Wei et al. 2022, on noisy labels).
    pub allow_negative_smoothing: bool,
    /// Where epsilon goes: `unigram`, the frequencies of the training labels, or a file with a number for each class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothing_prior: Option<String>,
    /// How epsilon changes, step by step.
    pub smoothing_schedule: ScheduleKind,
    /// Epochs that the schedule takes; it needs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothing_epochs: Option<usize>,
    /// A weight for each class: `balanced` (images / (classes * images of the class)), numbers with commas, or a file
    /// of numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<String>,
    /// What a class weight multiplies; without one, its class's term.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weighting: Option<Weighting>,
    /// Training images with this label count for nothing, whatever number it is; those of the other sets are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_index: Option<i64>,
    /// Only these classes take part, if any is named; images of the others count for nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub class_mask: Vec<usize>,
    /// A distribution over the classes for each training image, in place of its label: counts as an IDX file of two
    /// dimensions (CIFAR-10H), or safetensors `[images, classes]`; the first ones where there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_labels: Option<PathBuf>,
    /// The model of the same data that is distilled: it is asked once, before the training (Hinton et al. 2015).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// What both models' logits are divided by; without one, 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill_temperature: Option<f64>,
    /// The teacher's share of the loss, the labels having the rest; without one, 0.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill_alpha: Option<f64>,
}

// What the help names as defaults.
const FOCAL_GAMMA: f64 = 2.0;
const CONFIDENCE_BETA: f64 = 0.1;
const MBLS_LAMBDA: f64 = 0.1;
const MBLS_MARGIN: f64 = 10.0;
const DISTILL_TEMPERATURE: f64 = 4.0;
const DISTILL_ALPHA: f64 = 0.9;

fn usage<T>(message: String) -> Result<T> {
    Err(Error::Usage(message))
}

impl LossSettings {
    /// Whether nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The same with another loss, without what only the former has.
    pub fn of_kind(&self, kind: LossKind) -> Self {
        let only = |of: LossKind, value: Option<f64>| value.filter(|_| kind == of);
        Self {
            kind,
            focal_gamma: only(LossKind::Focal, self.focal_gamma),
            confidence_beta: only(LossKind::ConfidencePenalty, self.confidence_beta),
            mbls_lambda: only(LossKind::Mbls, self.mbls_lambda),
            mbls_margin: only(LossKind::Mbls, self.mbls_margin),
            ..self.clone()
        }
    }

    /// What of it mixed images cannot have, as flags.
    pub(super) fn unmixable(&self) -> Option<String> {
        let kind = self.kind.name();
        let found = [
            (format!("--loss {kind}"), self.kind != LossKind::CrossEntropy),
            ("--smoothing-prior".into(), self.smoothing_prior.is_some()),
            ("--class-weights".into(), self.class_weights.is_some()),
            ("--class-mask".into(), !self.class_mask.is_empty()),
            ("--soft-labels".into(), self.soft_labels.is_some()),
            ("--teacher".into(), self.teacher.is_some()),
        ];
        found.into_iter().find_map(|(flag, given)| given.then_some(flag))
    }

    /// How epsilon changes, where an epoch has so many steps.
    pub fn schedule_over(&self, steps_per_epoch: u64) -> Schedule {
        let over = (self.smoothing_epochs.unwrap_or(0) as u64).saturating_mul(steps_per_epoch);
        match self.smoothing_schedule {
            ScheduleKind::Constant => Schedule::CONSTANT,
            ScheduleKind::Warmup => Schedule::rising(over),
            ScheduleKind::Decay => Schedule::falling(over),
        }
    }

    /// How a teacher is distilled.
    fn distillation(&self, classes: usize) -> Result<DistillationLoss> {
        DistillationLoss::new(
            classes,
            self.distill_temperature.unwrap_or(DISTILL_TEMPERATURE),
            self.distill_alpha.unwrap_or(DISTILL_ALPHA),
        )
    }

    /// A smoothing over `classes` classes, with a negative epsilon only where that is allowed.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn smoothing(&self, variant: Variant, epsilon: f64, classes: usize) -> Result<Smoothing> {
        match self.allow_negative_smoothing {
            true => Smoothing::negative_allowed(variant, epsilon, classes),
            false if epsilon.is_finite() && epsilon < 0.0 => usage(format!(
                "--label-smoothing: found {epsilon}, expected a number in [0, 1), or --allow-negative-smoothing with it"
            )),
            false => Smoothing::new(variant, epsilon, classes),
        }
    }

    /// Which of `classes` classes take part, if not all.
    ///
    /// # Errors
    /// [`Error::Usage`] for a class that there is not, or for fewer than two.
    pub fn allowed(&self, classes: usize) -> Result<Option<Vec<bool>>> {
        if self.class_mask.is_empty() {
            return Ok(None);
        }
        let mut allowed = vec![false; classes];
        for &class in &self.class_mask {
            match allowed.get_mut(class) {
                Some(allowed) => *allowed = true,
                None => return usage(format!("--class-mask: found class {class}, expected classes below {classes}")),
            }
        }
        if allowed.iter().filter(|allowed| **allowed).count() < 2 {
            return usage(format!("--class-mask: found only class {}, expected at least two", self.class_mask[0]));
        }
        Ok(Some(allowed))
    }
}

/// All that a configuration says of the loss.
#[derive(Clone, Copy, Debug)]
pub struct LossConfig<'a> {
    /// What it says beside the two below.
    pub settings: &'a LossSettings,
    /// The mass that smoothing moves.
    pub epsilon: f64,
    /// Over which classes it is spread.
    pub variant: Variant,
}

impl LossConfig<'_> {
    /// Refuses what makes no sense together, whatever the data.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self) -> Result<()> {
        let settings = self.settings;
        for (flag, value, kind) in [
            ("--focal-gamma", settings.focal_gamma, LossKind::Focal),
            ("--confidence-beta", settings.confidence_beta, LossKind::ConfidencePenalty),
            ("--mbls-lambda", settings.mbls_lambda, LossKind::Mbls),
            ("--mbls-margin", settings.mbls_margin, LossKind::Mbls),
        ] {
            let Some(value) = value else { continue };
            if settings.kind != kind {
                return usage(format!("{flag}: found {value}, expected --loss {} with it", kind.name()));
            }
            if !(value.is_finite() && value >= 0.0) {
                return usage(format!("{flag}: found {value}, expected a number from 0 on"));
            }
        }
        let scheduled = settings.smoothing_schedule != ScheduleKind::Constant;
        if settings.kind != LossKind::CrossEntropy {
            let found = [
                ("--label-smoothing", self.epsilon != 0.0 && !settings.kind.has_epsilon()),
                ("--smoothing-variant", self.variant != Variant::Uniform),
                ("--smoothing-prior", settings.smoothing_prior.is_some()),
                ("--smoothing-schedule", scheduled && !settings.kind.has_epsilon()),
                ("--allow-negative-smoothing", settings.allow_negative_smoothing),
                ("--class-weights", settings.class_weights.is_some()),
                ("--class-mask", !settings.class_mask.is_empty()),
                ("--soft-labels", settings.soft_labels.is_some()),
                ("--teacher", settings.teacher.is_some()),
            ];
            if let Some((flag, _)) = found.iter().find(|(_, given)| *given) {
                return usage(format!("{flag}: found with --loss {}, expected cross-entropy", settings.kind.name()));
            }
        }
        if let (Some(prior), Variant::OffTarget) = (&settings.smoothing_prior, self.variant) {
            return usage(format!("--smoothing-prior: found {prior}, expected a smoothing variant of uniform with it"));
        }
        match (settings.smoothing_schedule, settings.smoothing_epochs) {
            (ScheduleKind::Constant, Some(epochs)) => {
                return usage(format!("--smoothing-epochs: found {epochs}, expected --smoothing-schedule with it"));
            }
            (ScheduleKind::Warmup | ScheduleKind::Decay, None) => {
                return usage("--smoothing-epochs: found none, expected how many the schedule takes".into());
            }
            _ => {}
        }
        if let (None, Some(weighting)) = (&settings.class_weights, settings.class_weighting) {
            let found = weighting.name();
            return usage(format!("--class-weighting: found {found}, expected --class-weights with it"));
        }
        if settings.teacher.is_some() {
            let found = [
                ("--smoothing-prior", settings.smoothing_prior.is_some()),
                ("--class-weights", settings.class_weights.is_some()),
                ("--class-mask", !settings.class_mask.is_empty()),
                ("--soft-labels", settings.soft_labels.is_some()),
            ];
            if let Some((flag, _)) = found.iter().find(|(_, given)| *given) {
                return usage(format!("{flag}: found with --teacher, expected one of the two"));
            }
        }
        let in_range = |flag: &str, value: Option<f64>, valid: fn(f64) -> bool, expected: &str| match value {
            Some(value) if settings.teacher.is_none() => {
                usage(format!("{flag}: found {value}, expected --teacher with it"))
            }
            Some(value) if !valid(value) => usage(format!("{flag}: found {value}, expected {expected}")),
            _ => Ok(()),
        };
        let positive = |t: f64| t.is_finite() && t > 0.0;
        in_range("--distill-temperature", settings.distill_temperature, positive, "a number above 0")?;
        in_range("--distill-alpha", settings.distill_alpha, |a| (0.0..=1.0).contains(&a), "a number from 0 to 1")?;
        if let (Some(_), Some(ignored)) = (&settings.soft_labels, settings.ignore_index) {
            return usage(format!(
                "--ignore-index: found {ignored} with --soft-labels, which take the labels' place; expected one"
            ));
        }
        Ok(())
    }

    /// The loss over these training images, at its full epsilon, and without a teacher's logits. `kept` are their
    /// indices into the training set as its files have it.
    ///
    /// # Errors
    /// [`Error::Usage`] for what does not fit the data, [`Error::Data`] for a file that is not what it should be.
    pub fn loss(&self, train: &Dataset, kept: &[u32]) -> Result<Loss> {
        self.check()?;
        let settings = self.settings;
        let classes = train.classes;
        let comparator = |loss: Result<ComparatorLoss>| Ok(Loss::new(loss?, 0.0));
        let epsilon = self.epsilon;
        match settings.kind {
            LossKind::Focal => {
                return comparator(ComparatorLoss::focal(classes, settings.focal_gamma.unwrap_or(FOCAL_GAMMA)));
            }
            LossKind::ConfidencePenalty => {
                return comparator(ComparatorLoss::confidence_penalty(
                    classes,
                    settings.confidence_beta.unwrap_or(CONFIDENCE_BETA),
                ));
            }
            LossKind::MaxSup if !(0.0..1.0).contains(&epsilon) => {
                return usage(format!("--label-smoothing: found {epsilon}, expected a number in [0, 1)"));
            }
            LossKind::MaxSup => return Ok(Loss::new(LogitPenalty::maxsup(classes, epsilon)?, epsilon)),
            LossKind::Mbls => {
                let lambda = settings.mbls_lambda.unwrap_or(MBLS_LAMBDA);
                let margin = settings.mbls_margin.unwrap_or(MBLS_MARGIN);
                return Ok(Loss::new(LogitPenalty::mbls(classes, lambda, margin)?, 0.0));
            }
            LossKind::CrossEntropy => {}
        }
        let allowed = settings.allowed(classes)?;
        let variant = self.variant;
        let part = allowed.as_ref().map_or(classes, |allowed| allowed.iter().filter(|allowed| **allowed).count());
        let smoothing = settings.smoothing(variant, epsilon, part)?;
        let plain = settings.smoothing_prior.is_none() && settings.class_weights.is_none() && allowed.is_none();
        let mut loss = match settings.teacher {
            Some(_) => Loss::new(settings.distillation(classes)?.smoothed(smoothing), epsilon),
            None => smoothing.into(),
        };
        if !(plain && settings.soft_labels.is_none()) {
            let prior = match (&settings.smoothing_prior, variant) {
                (Some(text), _) if text == "unigram" => unigram(train)?,
                (Some(path), _) => Prior::Given(numbers(Path::new(path), classes)?),
                (None, Variant::Uniform) => Prior::Uniform,
                (None, Variant::OffTarget) => Prior::OffTarget,
            };
            let weights = match &settings.class_weights {
                None => None,
                Some(text) => {
                    Some((settings.class_weighting.unwrap_or_default(), class_weights(text, train, &allowed)?))
                }
            };
            let spec = Spec { classes, epsilon: Epsilon::negative_allowed(epsilon)?, prior, weights, allowed };
            loss = Loss::new(WeightedLoss::new(&spec)?, epsilon);
        }
        if let Some(path) = &settings.soft_labels {
            let allowed = settings.allowed(classes)?.unwrap_or_else(|| vec![true; classes]);
            let soft = soft_labels::read(path, &allowed, kept)?;
            loss = loss.with_soft_targets(soft.into_iter().map(|share| share as f32).collect())?;
        }
        Ok(loss)
    }

    /// What the loss is, with the smoothing's meaning spelled out.
    pub fn describe(&self, classes: usize) -> String {
        let (e, settings) = (self.epsilon, self.settings);
        let c = if settings.class_mask.is_empty() {
            classes
        } else {
            settings.class_mask.iter().collect::<BTreeSet<_>>().len()
        };
        let c = c as f64;
        let meaning = match (&settings.smoothing_prior, self.variant) {
            (Some(_), _) => String::new(),
            (None, Variant::Uniform) => format!(" (= {:.4} off-target)", e * (c - 1.0) / c),
            (None, Variant::OffTarget) => format!(" (= {:.4} uniform)", e * c / (c - 1.0)),
        };
        let kind = match settings.kind {
            LossKind::CrossEntropy if e == 0.0 => "plain cross-entropy".into(),
            LossKind::CrossEntropy => format!("label smoothing {e} {}{meaning}{}", self.spread(), self.schedule()),
            LossKind::MaxSup => format!("{}, alpha {e}{}", self.kind(), self.schedule()),
            _ => self.kind(),
        };
        kind + &self.details()
    }

    /// What the losses of a sweep have in common, whatever their epsilon.
    pub fn describe_all(&self) -> String {
        self.kind() + &self.details()
    }

    fn kind(&self) -> String {
        match self.settings.kind {
            LossKind::Focal => format!("focal loss, gamma {}", self.settings.focal_gamma.unwrap_or(FOCAL_GAMMA)),
            LossKind::ConfidencePenalty => {
                format!("confidence penalty, beta {}", self.settings.confidence_beta.unwrap_or(CONFIDENCE_BETA))
            }
            LossKind::MaxSup => "MaxSup".into(),
            LossKind::Mbls => format!(
                "MbLS, lambda {}, margin {}",
                self.settings.mbls_lambda.unwrap_or(MBLS_LAMBDA),
                self.settings.mbls_margin.unwrap_or(MBLS_MARGIN)
            ),
            LossKind::CrossEntropy => "cross-entropy with label smoothing".into(),
        }
    }

    /// Over which classes epsilon is spread.
    pub fn spread(&self) -> String {
        match (&self.settings.smoothing_prior, self.variant) {
            (Some(prior), _) => format!("by the prior {prior}"),
            (None, Variant::Uniform) => "uniform".into(),
            (None, Variant::OffTarget) => "off-target".into(),
        }
    }

    /// How epsilon changes: nothing, or a part of a sentence.
    pub fn schedule(&self) -> String {
        let over = self.settings.smoothing_epochs.unwrap_or(0);
        match self.settings.smoothing_schedule {
            ScheduleKind::Constant => String::new(),
            ScheduleKind::Warmup => format!(", from 0 over {over} epochs"),
            ScheduleKind::Decay => format!(", falling to 0 over {over} epochs"),
        }
    }

    /// What there is beside kind and smoothing.
    fn details(&self) -> String {
        let settings = self.settings;
        let mut text = String::new();
        if let Some(weights) = &settings.class_weights {
            text += &format!(", class weights {weights} ({})", settings.class_weighting.unwrap_or_default().name());
        }
        if !settings.class_mask.is_empty() {
            text += &format!(", classes {:?} only", settings.class_mask);
        }
        if let Some(ignored) = settings.ignore_index {
            text += &format!(", label {ignored} ignored");
        }
        if let Some(path) = &settings.teacher {
            let temperature = settings.distill_temperature.unwrap_or(DISTILL_TEMPERATURE);
            let alpha = settings.distill_alpha.unwrap_or(DISTILL_ALPHA);
            text += &format!(", distilled from {} (temperature {temperature}, alpha {alpha})", path.display());
        }
        if let Some(path) = &settings.soft_labels {
            text += &format!(", soft labels of {}", path.display());
        }
        text
    }
}

/// The labels that count.
fn counted(train: &Dataset) -> Vec<u32> {
    train.labels.iter().copied().filter(|&label| label != IGNORED).collect()
}

fn unigram(train: &Dataset) -> Result<Prior> {
    let labels = counted(train);
    if labels.is_empty() {
        return usage("--smoothing-prior unigram: found no training image that counts, expected at least one".into());
    }
    Prior::unigram(&labels, train.classes)
}

/// A weight for each class.
fn class_weights(text: &str, train: &Dataset, allowed: &Option<Vec<bool>>) -> Result<Vec<f64>> {
    let classes = train.classes;
    let list: Option<Vec<f64>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    let weights = match list {
        _ if text == "balanced" => {
            // As scikit-learn's: the classes that take part weigh the same together, and an image weighs 1 on average.
            let takes_part = |class: usize| allowed.as_ref().is_none_or(|allowed| allowed[class]);
            let labels: Vec<u32> = counted(train).into_iter().filter(|&label| takes_part(label as usize)).collect();
            let mut counts = vec![0usize; classes];
            labels.iter().for_each(|&label| counts[label as usize] += 1);
            let part = (0..classes).filter(|&class| takes_part(class)).count();
            if let Some(class) = (0..classes).find(|&class| takes_part(class) && counts[class] == 0) {
                return usage(format!(
                    "--class-weights balanced: found no training image of class {class}, expected at least one of each \
                     class (or a --class-mask)"
                ));
            }
            let weight = |&count: &usize| if count == 0 { 0.0 } else { labels.len() as f64 / (part * count) as f64 };
            counts.iter().map(weight).collect()
        }
        Some(list) => list,
        None if !Path::new(text).exists() => {
            return usage(format!(
                "--class-weights: found {text:?}, expected balanced, {classes} numbers with commas between them, or a \
                 file of them"
            ));
        }
        None => numbers(Path::new(text), classes)?,
    };
    if weights.len() != classes {
        return usage(format!("--class-weights: found {} weights, expected {classes}", weights.len()));
    }
    if let Some(class) = weights.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
        let found = weights[class];
        return usage(format!("--class-weights: found {found} for class {class}, expected a number from 0 on"));
    }
    Ok(weights)
}

/// A file of numbers, one for each class, with blanks, commas or line ends between them.
fn numbers(path: &Path, classes: usize) -> Result<Vec<f64>> {
    let text = input::read_text(path, &format!("{classes} numbers"))?;
    let mut numbers = vec![];
    for word in text.split([',', ' ', '\t', '\n', '\r']).filter(|word| !word.is_empty()) {
        let bad = || Error::data(path, format!("found {word:?}, expected {classes} numbers from 0 on"));
        numbers.push(word.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0).ok_or_else(bad)?);
    }
    if numbers.len() != classes {
        return Err(Error::data(path, format!("found {} numbers, expected {classes}: one a class", numbers.len())));
    }
    Ok(numbers)
}
