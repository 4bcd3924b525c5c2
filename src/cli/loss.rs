//! The flags that describe the loss, and the loss that they and the training set make.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use smoothcnn::data::{Dataset, idx};
use smoothcnn::loss::Loss;
use smoothcnn::loss::comparator::ComparatorLoss;
use smoothcnn::loss::distillation::DistillationLoss;
use smoothcnn::loss::smoothing::{Epsilon, Prior, Schedule, Smoothing, Variant};
use smoothcnn::loss::weighted::{Spec, WeightedLoss, Weighting};
use smoothcnn::ops::IGNORED;
use smoothcnn::train::checkpoint;
use smoothcnn::{Error, Result, input};

use super::dataset::recorded;

/// What is computed for each sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Cross-entropy, with label smoothing.
    #[default]
    CrossEntropy,
    /// -(1 - p)^gamma ln p (Lin et al. 2017).
    Focal,
    /// Cross-entropy less beta times the prediction's entropy (Pereyra et al. 2017).
    ConfidencePenalty,
}

/// Over which classes epsilon is spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Spread {
    /// All, e/C each (PyTorch's).
    #[default]
    Uniform,
    /// All but the true one, e/(C-1) each.
    OffTarget,
    /// By a distribution over the classes: --smoothing-prior.
    Prior,
}

/// How epsilon changes over training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
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

/// Flags that describe the loss, but for epsilon and over which classes it is spread. In config.toml they are `[loss]`.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct LossArgs {
    /// Loss
    #[arg(long = "loss", value_enum, default_value = "cross-entropy")]
    pub kind: Kind,
    /// The focal loss's exponent [default: 2]
    #[arg(long, value_name = "GAMMA", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub focal_gamma: Option<f64>,
    /// The confidence penalty's factor [default: 0.1]
    #[arg(long, value_name = "BETA", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence_beta: Option<f64>,
    /// Let epsilon be below 0, which sharpens the targets instead (Wei et al. 2022, on noisy labels)
    #[arg(long)]
    pub allow_negative_smoothing: bool,
    /// With --smoothing-variant prior: unigram, the frequencies of the training labels, or a file with a number for each class
    #[arg(long, value_name = "unigram|FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothing_prior: Option<String>,
    /// How epsilon changes, step by step
    #[arg(long, value_enum, default_value = "constant")]
    pub smoothing_schedule: ScheduleKind,
    /// Epochs that the schedule takes [default: the run's]
    #[arg(long, value_name = "N", value_parser = super::common::at_least_one)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothing_epochs: Option<usize>,
    /// A weight for each class: balanced (images / (classes * images of the class)), numbers with commas, or a file of numbers
    #[arg(long, value_name = "balanced|W,W,…|FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<String>,
    /// What a class weight multiplies: its class's term (pytorch, with smoothing it moves the optimum) or the whole sample
    /// [default: pytorch]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weighting: Option<Weighting>,
    /// Training images with this label count for nothing, whatever number it is; so do those of the other sets, which are left
    /// out
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_index: Option<i64>,
    /// Only these classes take part; images of the others count for nothing
    #[arg(long, visible_alias = "classes", value_name = "CLASS,CLASS,…", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub class_mask: Vec<usize>,
    /// A distribution over the classes for each training image, in place of its label: counts as an IDX file of two dimensions
    /// (CIFAR-10H), or safetensors `[images, classes]`; the first ones where there are more
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_labels: Option<PathBuf>,
    /// Distil this model of the same data: it is asked once, before the training (Hinton et al. 2015)
    #[arg(long, value_name = "MODEL.safetensors")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// What both models' logits are divided by [default: 4]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill_temperature: Option<f64>,
    /// The teacher's share of the loss; the labels have the rest [default: 0.9]
    #[arg(long, value_name = "ALPHA", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill_alpha: Option<f64>,
}

// What the help names as defaults.
const FOCAL_GAMMA: f64 = 2.0;
const CONFIDENCE_BETA: f64 = 0.1;
const DISTILL_TEMPERATURE: f64 = 4.0;
const DISTILL_ALPHA: f64 = 0.9;

fn usage<T>(message: String) -> Result<T> {
    Err(Error::Usage(message))
}

impl LossArgs {
    /// Whether nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The epsilon where nobody gives one.
    pub fn usual_epsilon(&self) -> f64 {
        if self.kind == Kind::CrossEntropy { 0.1 } else { 0.0 }
    }

    /// The flags as a configuration records them: with the length of the schedule, which --resume must not change.
    pub fn recorded(&self, spread: Spread, epochs: usize) -> Result<(Self, Variant)> {
        let variant = match (spread, &self.smoothing_prior) {
            (Spread::Uniform, None) | (Spread::Prior, Some(_)) => Variant::Uniform,
            (Spread::OffTarget, None) => Variant::OffTarget,
            (Spread::Prior, None) => {
                return usage("--smoothing-variant: found prior alone, expected --smoothing-prior with it".into());
            }
            (_, Some(prior)) => {
                return usage(format!("--smoothing-prior: found {prior}, expected --smoothing-variant prior with it"));
            }
        };
        let scheduled = self.smoothing_schedule != ScheduleKind::Constant;
        let smoothing_epochs = self.smoothing_epochs.or(scheduled.then_some(epochs));
        let path = |flag, path: &Option<PathBuf>| path.as_deref().map(|path| recorded(flag, path)).transpose();
        let soft_labels = path("--soft-labels", &self.soft_labels)?;
        let teacher = path("--teacher", &self.teacher)?;
        Ok((Self { smoothing_epochs, soft_labels, teacher, ..self.clone() }, variant))
    }

    /// How epsilon changes, where an epoch has so many steps.
    pub fn schedule_over(&self, steps_per_epoch: u64) -> Schedule {
        let over = (self.smoothing_epochs.unwrap_or(0) as u64).saturating_mul(steps_per_epoch);
        match self.smoothing_schedule {
            ScheduleKind::Constant => Schedule::Constant,
            ScheduleKind::Warmup => Schedule::WarmUp { over },
            ScheduleKind::Decay => Schedule::Decay { over },
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
    pub args: &'a LossArgs,
    pub epsilon: f64,
    pub variant: Variant,
}

impl LossConfig<'_> {
    /// Refuses what makes no sense together, whatever the data.
    pub fn check(&self) -> Result<()> {
        let args = self.args;
        let name = |kind: Kind| kind.to_possible_value().expect("no loss is hidden").get_name().to_owned();
        for (flag, value, kind) in [
            ("--focal-gamma", args.focal_gamma, Kind::Focal),
            ("--confidence-beta", args.confidence_beta, Kind::ConfidencePenalty),
        ] {
            let Some(value) = value else { continue };
            if args.kind != kind {
                return usage(format!("{flag}: found {value}, expected --loss {} with it", name(kind)));
            }
            if !(value.is_finite() && value >= 0.0) {
                return usage(format!("{flag}: found {value}, expected a number from 0 on"));
            }
        }
        if args.kind != Kind::CrossEntropy {
            let found = [
                ("--label-smoothing", self.epsilon != 0.0),
                ("--smoothing-variant", self.variant != Variant::Uniform),
                ("--smoothing-prior", args.smoothing_prior.is_some()),
                ("--smoothing-schedule", args.smoothing_schedule != ScheduleKind::Constant),
                ("--class-weights", args.class_weights.is_some()),
                ("--class-mask", !args.class_mask.is_empty()),
                ("--soft-labels", args.soft_labels.is_some()),
                ("--teacher", args.teacher.is_some()),
            ];
            if let Some((flag, _)) = found.iter().find(|(_, given)| *given) {
                return usage(format!("{flag}: found with --loss {}, expected cross-entropy", name(args.kind)));
            }
        }
        if let (Some(prior), Variant::OffTarget) = (&args.smoothing_prior, self.variant) {
            return usage(format!("--smoothing-prior: found {prior}, expected a smoothing variant of uniform with it"));
        }
        match (args.smoothing_schedule, args.smoothing_epochs) {
            (ScheduleKind::Constant, Some(epochs)) => {
                return usage(format!("--smoothing-epochs: found {epochs}, expected --smoothing-schedule with it"));
            }
            (ScheduleKind::Warmup | ScheduleKind::Decay, None) => {
                return usage("--smoothing-epochs: found none, expected how many the schedule takes".into());
            }
            _ => {}
        }
        if let (None, Some(weighting)) = (&args.class_weights, args.class_weighting) {
            let weighting = weighting.to_possible_value().expect("no weighting is hidden");
            return usage(format!(
                "--class-weighting: found {}, expected --class-weights with it",
                weighting.get_name()
            ));
        }
        if args.teacher.is_some() {
            let found = [
                ("--smoothing-prior", args.smoothing_prior.is_some()),
                ("--class-weights", args.class_weights.is_some()),
                ("--class-mask", !args.class_mask.is_empty()),
                ("--soft-labels", args.soft_labels.is_some()),
            ];
            if let Some((flag, _)) = found.iter().find(|(_, given)| *given) {
                return usage(format!("{flag}: found with --teacher, expected one of the two"));
            }
        }
        let in_range = |flag: &str, value: Option<f64>, valid: fn(f64) -> bool, expected: &str| match value {
            Some(value) if args.teacher.is_none() => {
                usage(format!("{flag}: found {value}, expected --teacher with it"))
            }
            Some(value) if !valid(value) => usage(format!("{flag}: found {value}, expected {expected}")),
            _ => Ok(()),
        };
        let positive = |t: f64| t.is_finite() && t > 0.0;
        in_range("--distill-temperature", args.distill_temperature, positive, "a number above 0")?;
        in_range("--distill-alpha", args.distill_alpha, |a| (0.0..=1.0).contains(&a), "a number from 0 to 1")?;
        if let (Some(_), Some(ignored)) = (&args.soft_labels, args.ignore_index) {
            return usage(format!(
                "--ignore-index: found {ignored} with --soft-labels, which take the labels' place; expected one"
            ));
        }
        Ok(())
    }

    /// The loss over these training images, at its full epsilon, and without a teacher's logits. `kept` are their indices into
    /// the training set as its files have it.
    pub fn loss(&self, train: &Dataset, kept: &[u32]) -> Result<Loss> {
        self.check()?;
        let args = self.args;
        let classes = train.classes;
        let comparator = |loss: Result<ComparatorLoss>| Ok(Loss::new(loss?, 0.0));
        match args.kind {
            Kind::Focal => return comparator(ComparatorLoss::focal(classes, args.focal_gamma.unwrap_or(FOCAL_GAMMA))),
            Kind::ConfidencePenalty => {
                return comparator(ComparatorLoss::confidence_penalty(
                    classes,
                    args.confidence_beta.unwrap_or(CONFIDENCE_BETA),
                ));
            }
            Kind::CrossEntropy => {}
        }
        let allowed = args.allowed(classes)?;
        let (variant, epsilon) = (self.variant, self.epsilon);
        let part = allowed.as_ref().map_or(classes, |allowed| allowed.iter().filter(|allowed| **allowed).count());
        let smoothing = args.smoothing(variant, epsilon, part)?;
        let plain = args.smoothing_prior.is_none() && args.class_weights.is_none() && allowed.is_none();
        let mut loss = match args.teacher {
            Some(_) => Loss::new(args.distillation(classes)?.smoothed(smoothing), epsilon),
            None => smoothing.into(),
        };
        if !(plain && args.soft_labels.is_none()) {
            let prior = match (&args.smoothing_prior, variant) {
                (Some(text), _) if text == "unigram" => unigram(train)?,
                (Some(path), _) => Prior::Given(numbers(Path::new(path), classes)?),
                (None, Variant::Uniform) => Prior::Uniform,
                (None, Variant::OffTarget) => Prior::OffTarget,
            };
            let weights = match &args.class_weights {
                None => None,
                Some(text) => Some((args.class_weighting.unwrap_or_default(), class_weights(text, train, &allowed)?)),
            };
            let spec = Spec { classes, epsilon: Epsilon::negative_allowed(epsilon)?, prior, weights, allowed };
            loss = Loss::new(WeightedLoss::new(&spec)?, epsilon);
        }
        if let Some(path) = &args.soft_labels {
            loss = loss.with_soft_targets(soft_labels(path, args, (classes, kept))?.into())?;
        }
        Ok(loss)
    }

    /// What the loss is, with the smoothing's meaning spelled out.
    pub fn describe(&self, classes: usize) -> String {
        let (e, args) = (self.epsilon, self.args);
        let c =
            if args.class_mask.is_empty() { classes } else { args.class_mask.iter().collect::<BTreeSet<_>>().len() };
        let c = c as f64;
        let meaning = match (&args.smoothing_prior, self.variant) {
            (Some(_), _) => String::new(),
            (None, Variant::Uniform) => format!(" (= {:.4} off-target)", e * (c - 1.0) / c),
            (None, Variant::OffTarget) => format!(" (= {:.4} uniform)", e * c / (c - 1.0)),
        };
        let kind = match args.kind {
            Kind::CrossEntropy if e == 0.0 => "plain cross-entropy".into(),
            Kind::CrossEntropy => format!("label smoothing {e} {}{meaning}{}", self.spread(), self.schedule()),
            _ => self.kind(),
        };
        kind + &self.details()
    }

    /// What the losses of a sweep have in common, whatever their epsilon.
    pub fn describe_all(&self) -> String {
        self.kind() + &self.details()
    }

    fn kind(&self) -> String {
        match self.args.kind {
            Kind::Focal => format!("focal loss, gamma {}", self.args.focal_gamma.unwrap_or(FOCAL_GAMMA)),
            Kind::ConfidencePenalty => {
                format!("confidence penalty, beta {}", self.args.confidence_beta.unwrap_or(CONFIDENCE_BETA))
            }
            Kind::CrossEntropy => "cross-entropy with label smoothing".into(),
        }
    }

    /// Over which classes epsilon is spread.
    pub fn spread(&self) -> String {
        match (&self.args.smoothing_prior, self.variant) {
            (Some(prior), _) => format!("by the prior {prior}"),
            (None, Variant::Uniform) => "uniform".into(),
            (None, Variant::OffTarget) => "off-target".into(),
        }
    }

    /// How epsilon changes: nothing, or a part of a sentence.
    pub fn schedule(&self) -> String {
        let over = self.args.smoothing_epochs.unwrap_or(0);
        match self.args.smoothing_schedule {
            ScheduleKind::Constant => String::new(),
            ScheduleKind::Warmup => format!(", from 0 over {over} epochs"),
            ScheduleKind::Decay => format!(", falling to 0 over {over} epochs"),
        }
    }

    /// What there is beside kind and smoothing.
    fn details(&self) -> String {
        let args = self.args;
        let mut text = String::new();
        if let Some(weights) = &args.class_weights {
            let weighting =
                args.class_weighting.unwrap_or_default().to_possible_value().expect("no weighting is hidden");
            text += &format!(", class weights {weights} ({})", weighting.get_name());
        }
        if !args.class_mask.is_empty() {
            text += &format!(", classes {:?} only", args.class_mask);
        }
        if let Some(ignored) = args.ignore_index {
            text += &format!(", label {ignored} ignored");
        }
        if let Some(path) = &args.teacher {
            let temperature = args.distill_temperature.unwrap_or(DISTILL_TEMPERATURE);
            let alpha = args.distill_alpha.unwrap_or(DISTILL_ALPHA);
            text += &format!(", distilled from {} (temperature {temperature}, alpha {alpha})", path.display());
        }
        if let Some(path) = &args.soft_labels {
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

/// The distributions of the training images, over the classes that take part.
fn soft_labels(path: &Path, args: &LossArgs, (classes, kept): (usize, &[u32])) -> Result<Vec<f32>> {
    let safetensors = path.extension().is_some_and(|extension| extension == "safetensors");
    let (rows, columns, counts, numbers) = match safetensors {
        true => {
            let (rows, columns, numbers) = checkpoint::load_matrix(path)?;
            (rows, columns, vec![], numbers)
        }
        false => {
            let counts = idx::read_counts(path)?;
            (counts.rows, counts.columns, counts.values, vec![])
        }
    };
    // Not widened as a whole: a file of bytes may be large.
    let value = |i: usize| if safetensors { numbers[i] } else { counts[i].into() };
    if columns != classes {
        return Err(Error::data(path, format!("found rows of {columns} numbers, expected {classes}: one a class")));
    }
    let needed = kept.iter().max().map_or(0, |&last| last as usize + 1);
    if rows < needed {
        return Err(Error::data(path, format!("found {rows} rows, expected one for each of {needed} images")));
    }
    let allowed = args.allowed(classes)?.unwrap_or_else(|| vec![true; classes]);
    let mut soft = Vec::with_capacity(kept.len() * classes);
    for &image in kept {
        let first = image as usize * classes;
        let row: Vec<f64> = (first..first + classes).map(value).collect();
        if let Some(bad) = row.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
            return Err(Error::data(path, format!("row {image}: found {bad}, expected numbers from 0 on")));
        }
        let part = || row.iter().zip(&allowed).map(|(&v, &allowed)| if allowed { v } else { 0.0 });
        let total: f64 = part().sum();
        if !(total > 0.0 && total.is_finite()) {
            let message = format!("row {image}: found a sum of {total} over the classes that take part, expected more");
            return Err(Error::data(path, message));
        }
        soft.extend(part().map(|v| (v / total) as f32));
    }
    Ok(soft)
}
