//! For whoever compares runs: a grid over epsilon, label noise and seeds, planned as a file with an entry for each run.
//!
//! Each entry is trained on its own ([`super::entry::run`]), in this process or in another one, on this machine or on
//! another one that sees the folder; whatever is done is not done again.

use std::collections::HashSet;
use std::path::Path;

use super::entry::{self, SweepEntry};
use crate::backend::device::Note;
use crate::fs::write_atomic;
use crate::loss::smoothing::Variant;
use crate::parse::to_json;
use crate::train::config::loss::LossKind;
use crate::train::config::{Config, Labels};
use crate::train::run_folder::OwnFolder;
use crate::{Error, Result, input};

/// The plan of a sweep: a JSON array with an entry for each run.
pub const PLAN: &str = "plan.json";
/// A line for each run that is done.
pub const RESULTS: &str = "results.csv";
/// What the runs say together, as a page.
pub const REPORT: &str = "report.html";
/// The page's first picture, on its own.
pub const CURVES: &str = "curves.svg";
/// Every file of a sweep's folder, beside its runs.
const FILES: [&str; 4] = [PLAN, RESULTS, REPORT, CURVES];

/// The share of the training images that is held out where nobody says.
pub const VAL_SPLIT: f64 = 0.1;

/// More than anyone trains.
const MOST_RUNS: usize = 100_000;

/// What the runs of a sweep differ in.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepGrid {
    /// Other losses than the configuration's, each at every epsilon above 0, or once where it has none. They are held
    /// against the configuration's own.
    pub losses: Vec<LossKind>,
    /// The epsilons; 0 is what the others are held against.
    pub label_smoothing: Vec<f64>,
    /// The shares of the training labels that are flipped.
    pub label_noise: Vec<f64>,
    /// So many runs of each, with seeds from 0.
    pub seeds: usize,
}

/// The folder of a sweep, to write in: made if it is not there, and waited for where another process writes in it.
///
/// # Errors
/// As [`OwnFolder::wait_for`].
pub fn folder(out: &Path, note: Note) -> Result<OwnFolder> {
    OwnFolder::wait_for(out, &FILES, &mut |holder| {
        note(&format!("{}: {holder} writes there; waiting for it to end", out.display()));
    })
}

/// Writes the plan of a sweep in `out` and gives it: `base` at each point of the grid, each run once. A plan that was
/// there before is replaced: runs go by what they are, not by their place.
///
/// # Errors
/// [`Error::Usage`] for a grid that is too large, a folder that is no text, or a configuration as [`Config::check`];
/// those of [`folder`].
pub fn plan(base: &Config, grid: &SweepGrid, out: &Path, note: Note) -> Result<Vec<SweepEntry>> {
    let SweepGrid { losses, label_smoothing, label_noise, seeds } = grid;
    if base.labels.val_split == 0.0 {
        return Err(Error::Usage(
            "--val-split: found 0, expected images to hold out: everything is chosen on them".into(),
        ));
    }
    if out.to_str().is_none() {
        return Err(Error::Usage(format!("--out: found {out:?}, expected a path in UTF-8, which plan.json can hold")));
    }
    let own = base.loss.kind;
    let mut settings: Vec<(LossKind, f64)> = label_smoothing.iter().map(|&epsilon| (own, epsilon)).collect();
    for &loss in losses.iter().filter(|&&loss| loss != own) {
        match loss.has_epsilon() {
            true => settings.extend(label_smoothing.iter().filter(|&&e| e != 0.0).map(|&epsilon| (loss, epsilon))),
            false => settings.push((loss, 0.0)),
        }
    }
    let runs = [settings.len(), label_noise.len()].iter().fold(*seeds, |all, &n| all.saturating_mul(n));
    if runs > MOST_RUNS {
        return Err(Error::Usage(format!(
            "--seeds: found {seeds}, which makes {runs} runs, expected at most {MOST_RUNS}"
        )));
    }
    let mut entries = vec![];
    let mut known = HashSet::new();
    // Seed by seed: a study that is stopped early has whole pairs.
    for seed in 0..*seeds as u64 {
        for &label_noise in label_noise {
            for &(kind, label_smoothing) in &settings {
                let labels = Labels { label_noise, ..base.labels.clone() };
                let mut config = Config { label_smoothing, seed, labels, ..base.clone() };
                if kind != own {
                    config.loss = base.loss.of_kind(kind);
                    config.smoothing_variant = Variant::Uniform;
                }
                config.check()?;
                let entry = SweepEntry::new(out, config);
                if known.insert(entry.id.clone()) {
                    entries.push(entry);
                }
            }
        }
    }
    let _folder = folder(out, note)?;
    let lines: Vec<_> = entries.iter().map(to_json).collect();
    write_atomic(&out.join(PLAN), format!("[\n{}\n]\n", lines.join(",\n")).as_bytes())?;
    Ok(entries)
}

/// The plan of the sweep in `out`.
///
/// # Errors
/// [`Error::Data`] with the file.
pub fn read_plan(out: &Path) -> Result<Vec<SweepEntry>> {
    let path = out.join(PLAN);
    let text = input::read_text(&path, "the plan of a sweep, made by `smoothcnn sweep plan`")?;
    let entries = entry::entries(&path, &text)?;
    entries.iter().try_for_each(|entry| entry.check().map_err(|e| Error::data(&path, e.to_string())))?;
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Config {
        Config { labels: Labels { val_split: 0.1, ..Labels::default() }, ..Config::default() }
    }

    fn refused(base: &Config, grid: &SweepGrid, out: &Path) -> String {
        plan(base, grid, out, &|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_plan_has_each_run_of_the_grid_once() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("sweep");
        let grid =
            SweepGrid { losses: vec![], label_smoothing: vec![0.0, 0.1, 0.0], label_noise: vec![0.0, 0.2], seeds: 2 };
        let entries = plan(&base(), &grid, &out, &|_| ()).unwrap();
        let found: Vec<_> = entries
            .iter()
            .map(|SweepEntry { config, .. }| (config.seed, config.labels.label_noise, config.label_smoothing))
            .collect();
        let of_seed = |seed| [(seed, 0.0, 0.0), (seed, 0.0, 0.1), (seed, 0.2, 0.0), (seed, 0.2, 0.1)];
        assert_eq!(found, [of_seed(0), of_seed(1)].concat());
        assert!(entries.iter().all(|entry| entry.config.labels.val_split == 0.1 && entry.check().is_ok()));
        assert_eq!(read_plan(&out).unwrap(), entries);
        let text = std::fs::read_to_string(out.join(PLAN)).unwrap();
        std::fs::write(out.join(PLAN), text.replacen(&entries[0].id, &entries[1].id, 1)).unwrap();
        assert!(read_plan(&out).unwrap_err().to_string().contains("plan.json: --entry: found an entry with the id"));
    }

    /// Catches a loss without epsilon that is trained for each one, and one with epsilon that is trained at 0, where it
    /// is plain cross-entropy.
    #[test]
    fn other_losses_are_trained_beside_the_own_one() {
        let folder = tempfile::tempdir().unwrap();
        let base = Config { smoothing_variant: Variant::OffTarget, ..base() };
        let losses = vec![LossKind::CrossEntropy, LossKind::MaxSup, LossKind::Focal];
        let grid = SweepGrid { losses, label_smoothing: vec![0.0, 0.1, 0.2], label_noise: vec![0.0], seeds: 1 };
        let entries = plan(&base, &grid, folder.path(), &|_| ()).unwrap();
        let found: Vec<_> = entries
            .iter()
            .map(|SweepEntry { config, .. }| (config.loss.kind, config.label_smoothing, config.smoothing_variant))
            .collect();
        let (own, other) = (Variant::OffTarget, Variant::Uniform);
        let expected = [
            (LossKind::CrossEntropy, 0.0, own),
            (LossKind::CrossEntropy, 0.1, own),
            (LossKind::CrossEntropy, 0.2, own),
            (LossKind::MaxSup, 0.1, other),
            (LossKind::MaxSup, 0.2, other),
            (LossKind::Focal, 0.0, other),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let grid = |seeds| SweepGrid { losses: vec![], label_smoothing: vec![0.0, 0.1], label_noise: vec![0.0], seeds };
        assert!(refused(&Config::default(), &grid(1), folder.path()).contains("--val-split: found 0"));
        let many = refused(&base(), &grid(MOST_RUNS / 2 + 1), folder.path());
        assert!(many.contains("which makes 100002 runs, expected at most 100000"), "{many}");
        assert!(refused(&base(), &grid(usize::MAX), folder.path()).contains("--seeds: found"));
        let bad = SweepGrid { label_smoothing: vec![1.0], ..grid(1) };
        assert!(refused(&base(), &bad, folder.path()).contains("--label-smoothing: found 1"));
        assert!(!folder.path().join(PLAN).exists());
    }

    #[test]
    fn the_most_runs_are_still_a_plan() {
        let folder = tempfile::tempdir().unwrap();
        let grid = SweepGrid { losses: vec![], label_smoothing: vec![1.0], label_noise: vec![0.0], seeds: MOST_RUNS };
        assert!(refused(&base(), &grid, folder.path()).contains("--label-smoothing: found 1"), "and not their number");
    }
}
