//! For whoever has trained the runs of a sweep: gathers what is done into a table, a page and a picture.
//!
//! ```
//! use smoothcnn::backend::device::Device;
//! use smoothcnn::backend::gpu::DeviceKind;
//! use smoothcnn::report::collect::{Question, collect};
//! use smoothcnn::study::sweep::{SweepGrid, REPORT, VAL_SPLIT, plan};
//! use smoothcnn::study::entry;
//! use smoothcnn::train::config::{Config, Labels};
//! use smoothcnn::train::runs::Options;
//!
//! # fn main() -> smoothcnn::Result<()> {
//! let parent = tempfile::tempdir().expect("room for a folder");
//! let out = parent.path().join("sweep");
//! let labels = Labels { val_split: VAL_SPLIT, ..Labels::default() };
//! let base = Config { limit_train: Some(100), limit_test: Some(20), epochs: 1, labels, ..Config::default() };
//! let grid = SweepGrid { losses: vec![], label_smoothing: vec![0.0, 0.1], label_noise: vec![0.0], seeds: 1 };
//! let device = Device { kind: DeviceKind::Cpu, ..Device::default() };
//!
//! let entries = plan(&base, &grid, &out, &|_| ())?;
//! for entry in &entries {
//!     entry::run(entry, &Options { device: device.clone(), ..Options::default() }, &mut ())?;
//! }
//! let story = collect(&entries, &out, &Question::default(), &|_| ())?;
//! assert_eq!((story.study.outcomes().len(), story.reference), (2, Some(0.1)));
//! assert!(out.join(REPORT).exists());
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use super::sweep::Story;
use super::{plots, results};
use crate::backend::device::Note;
use crate::fs::write_atomic;
use crate::study::choice::{Criterion, HeldOut};
use crate::study::ensemble::{Answers, ensembles};
use crate::study::entry::{self, SweepEntry};
use crate::study::sweep::{CURVES, REPORT, RESULTS, folder};
use crate::study::{Outcome, Study, choice, claims, rivals};
use crate::train::config::loss::LossKind;
use crate::train::config::{Config, read_config};
use crate::train::run_folder::CONFIG;
use crate::{Error, Result};

/// What is asked of a sweep.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// By what the recommended epsilon is chosen, on the images held out.
    pub choose_by: Criterion,
    /// By which labels of these images.
    pub labels: HeldOut,
    /// The epsilon that the claims are tried at; the least above 0 where the grid has no such one.
    pub reference: f64,
    /// Confidence level of the intervals.
    pub level: f64,
}

impl Default for Question {
    fn default() -> Self {
        Self { choose_by: Criterion::default(), labels: HeldOut::default(), reference: 0.1, level: 0.95 }
    }
}

impl Question {
    /// Refuses a level that is none.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self) -> Result<()> {
        if !(self.level > 0.0 && self.level < 1.0) {
            return Err(Error::Usage(format!("--level: found {}, expected a number between 0 and 1", self.level)));
        }
        Ok(())
    }
}

/// Gathers what is done of the sweep in `out` into [`RESULTS`], [`REPORT`] and [`CURVES`], and gives what they tell.
///
/// # Errors
/// [`Error::Usage`] for a level that is none, or where nothing is done; [`Error::Data`] for a damaged file of a run;
/// [`Error::Report`] for a picture that cannot be drawn; those of [`folder`].
pub fn collect(entries: &[SweepEntry], out: &Path, question: &Question, note: Note) -> Result<Story> {
    question.check()?;
    let mut done = vec![];
    for entry in entries {
        done.extend(entry.outcome(note)?.map(|outcome| (entry, outcome)));
    }
    let all = Losses::new(done.iter().map(|(_, outcome)| outcome.clone()).collect(), question.level)?;
    if done.len() < entries.len() {
        let (missing, all) = (entries.len() - done.len(), entries.len());
        note(&format!("{missing} of {all} runs are not done yet: what follows is without them"));
    }
    let _folder = folder(out, note)?;
    let configs: HashMap<&str, &Config> = done.iter().map(|(entry, _)| (&entry.id[..], &entry.config)).collect();
    write_atomic(&out.join(RESULTS), &results::written(&all.outcomes(), &configs)?)?;
    let own = all.own.outcomes()[0].loss;

    let mut story = story(all, question);
    story.facts = facts(&done, own, entries.len());
    let folders: HashMap<&str, &Path> = done.iter().map(|(entry, _)| (&entry.id[..], entry.out.as_path())).collect();
    story.ensembles = ensembles(&story.study, &|outcome| Answers::read(folders[&outcome.id[..]], outcome))?;
    for epsilon in [Some(0.0), story.reference].into_iter().flatten() {
        // The first of the runs without noise: they stand for the others.
        let noise = story.study.noises[0];
        let wanted = |o: &Outcome| o.label_smoothing == epsilon && o.label_noise == noise && o.loss == own;
        let found = done.iter().find(|(_, o)| wanted(o));
        if let Some((entry, _)) = found {
            story.projections.push((epsilon, entry::projected(&entry.out)?));
        }
    }
    story.projections.retain(|(_, images)| !images.is_empty());
    write_atomic(&out.join(REPORT), story.html()?.as_bytes())?;
    write_atomic(&out.join(CURVES), plots::curves(&story.study)?.as_bytes())?;
    Ok(story)
}

/// The runs of a sweep by their loss.
struct Losses {
    /// Those of label smoothing; of the first loss where there are none.
    own: Study,
    /// Those of each other loss.
    others: Vec<Study>,
}

impl Losses {
    fn new(outcomes: Vec<Outcome>, level: f64) -> Result<Self> {
        let of = |loss| outcomes.iter().filter(|o| o.loss == loss).cloned().collect::<Vec<_>>();
        let mut groups = LossKind::ALL.into_iter().map(of).filter(|group| !group.is_empty());
        let own = Study::new(groups.next().unwrap_or_default(), level)?;
        Ok(Self { own, others: groups.map(|group| Study::new(group, level)).collect::<Result<_>>()? })
    }

    fn outcomes(&self) -> Vec<Outcome> {
        std::iter::once(&self.own).chain(&self.others).flat_map(|study| study.outcomes().to_vec()).collect()
    }
}

/// What the runs of a study tell, without what is known of them beside their measures.
fn story(Losses { own: study, others }: Losses, question: &Question) -> Story {
    let rivals = rivals::rivals(&study, &others, question.choose_by, question.labels);
    let reference = claims::reference(&study, question.reference);
    let findings = reference.map(|reference| claims::findings(&study, reference, question.labels)).unwrap_or_default();
    let choose = |noise: f64, labels| Criterion::ALL.map(|by| choice::choose(&study, noise, by, labels));
    let all = |labels: HeldOut, noises: &dyn Fn(f64) -> bool| {
        let noises = study.noises.iter().copied().filter(|&noise| noises(noise));
        noises.flat_map(|noise| choose(noise, labels)).flatten().collect::<Vec<_>>()
    };
    let choices = all(question.labels, &|_| true);
    let other = question.labels.other();
    let by_other_labels = all(other, &|noise| question.labels.at(&study, noise) != other.at(&study, noise));
    let predictions = study.noises.iter().filter_map(|&noise| choice::prediction(&study, noise)).collect();
    let chosen_by = question.choose_by;
    Story {
        study,
        facts: vec![],
        reference,
        findings,
        choices,
        by_other_labels,
        rivals,
        ensembles: vec![],
        chosen_by,
        predictions,
        projections: vec![],
    }
}

/// What a sweep's [`RESULTS`] tells, of this version or of an earlier one, without its runs. Nothing is written.
///
/// # Errors
/// [`Error::Usage`] for a level that is none; [`Error::Data`] for a damaged table.
pub fn of_table(table: &Path, question: &Question) -> Result<Story> {
    question.check()?;
    Ok(story(Losses::new(results::read(table)?, question.level)?, question))
}

/// What the report says of the runs as a whole.
fn facts(done: &[(&SweepEntry, Outcome)], own: LossKind, planned: usize) -> Vec<(&'static str, String)> {
    let (first, of_first) = done.iter().find(|(_, outcome)| outcome.loss == own).unwrap_or(&done[0]);
    let config = &first.config;
    let list = |of: fn(&Outcome) -> f64| {
        let mut values: Vec<f64> = done.iter().map(|(_, outcome)| of(outcome)).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        values.iter().map(f64::to_string).collect::<Vec<_>>().join(", ")
    };
    let seeds: HashSet<u64> = done.iter().map(|(_, outcome)| outcome.seed).collect();
    // An adapter is named in the run's own configuration.
    let devices: BTreeSet<_> =
        done.iter().filter_map(|(entry, _)| read_config(&entry.out.join(CONFIG)).ok()).map(|c| c.backend).collect();
    let Outcome { train, validation, test, .. } = of_first;
    let loss = config.loss_config();
    let mut others: Vec<String> = vec![];
    for (entry, _) in done.iter().filter(|(_, outcome)| outcome.loss != own) {
        let said = entry.config.loss_config().describe_all();
        if !others.contains(&said) {
            others.push(said);
        }
    }
    let epsilon = match config.loss.kind {
        LossKind::CrossEntropy => format!("{} ({}{})", list(|o| o.label_smoothing), loss.spread(), loss.schedule()),
        LossKind::MaxSup => format!("{} (alpha{})", list(|o| o.label_smoothing), loss.schedule()),
        LossKind::Focal | LossKind::ConfidencePenalty | LossKind::Mbls => "none".into(),
    };
    vec![
        ("data", config.data.name().into()),
        ("network", config.network.to_string()),
        (
            "images",
            format!(
                "{} to train on, {} held out, {} to test on",
                train.images, validation.plain.images, test.plain.images
            ),
        ),
        ("runs", format!("{} of {planned}", done.len())),
        ("loss", loss.describe_all()),
        ("other losses", if others.is_empty() { "none".into() } else { others.join("; ") }),
        ("epsilon", epsilon),
        ("label noise", format!("{} ({})", list(|o| o.label_noise), config.labels.noise.name())),
        ("seeds", seeds.len().to_string()),
        ("training", format!("{} epochs, {}, {}", config.epochs, config.describe_batches(), config.describe_updates())),
        ("device", devices.into_iter().collect::<Vec<_>>().join("; ")),
        ("time", format!("{:.0} s, all runs added up", done.iter().map(|(_, o)| o.seconds).sum::<f64>())),
        ("program", format!("smoothcnn {}", env!("CARGO_PKG_VERSION"))),
    ]
}
