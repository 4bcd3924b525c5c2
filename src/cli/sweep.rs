//! `smoothcnn sweep`: a grid of runs over epsilon, label noise and seeds, and the study that comes of it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use smoothcnn::fs::{remove, write_atomic};
use smoothcnn::optimizer::{Adam, Optimizer, Sgd};
use smoothcnn::report::{Story, plots};
use smoothcnn::study::choice::Criterion;
use smoothcnn::study::{Outcome, Study, choice, claims};
use smoothcnn::train::run_folder::{CONFIG, OwnFolder};
use smoothcnn::{Error, Result, input};

use super::common::{self, DeviceArgs};
use super::config::{Config, RunArgs, Varied, read_config};
use super::entry::{self, Entry};
use super::loss::Kind;
use super::signals;

/// Trains a grid of runs and says what label smoothing does on this data, and which epsilon to use.
///
/// Alone it does all three steps: `plan`, `run`, `collect`. Whatever is done is not done again: a sweep that was stopped
/// goes on with the same command.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    step: Option<Step>,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    local: LocalArgs,
    #[command(flatten)]
    collect: CollectArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Step {
    /// Write the plan: an entry for each run.
    ///
    /// plan.json is a JSON array with an entry for each run: its id, its folder and its whole configuration. Train one with
    /// `smoothcnn train --entry plan.json --index N`, anywhere that sees the folder, in any order. So it fits a Slurm job
    /// array, and HyperQueue's `hq submit --from-json`, which hands each task its entry.
    Plan(Box<PlanArgs>),
    /// Train the runs of a plan that are not done, on this machine.
    Run {
        /// Folder of the sweep
        #[arg(default_value = "runs/sweep")]
        out: PathBuf,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Make results.csv and report.html of the runs that are done.
    Collect {
        /// Folder of the sweep
        #[arg(default_value = "runs/sweep")]
        out: PathBuf,
        #[command(flatten)]
        collect: CollectArgs,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub struct PlanArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The epsilons; 0 is what the others are held against
    #[arg(
        long,
        value_name = "E,E,…",
        value_delimiter = ',',
        default_value = "0,0.05,0.1,0.2,0.3",
        allow_negative_numbers = true
    )]
    label_smoothing: Vec<f64>,
    /// The shares of the training labels that are flipped
    /// [default: 0]
    #[arg(long, value_name = "RATE,…", value_delimiter = ',', allow_negative_numbers = true)]
    label_noise: Vec<f64>,
    /// So many runs of each, with seeds from 0. Runs of one seed start alike and see the images in the same order
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = common::at_least_one)]
    seeds: usize,
    /// Folder of the sweep
    #[arg(long, value_name = "DIR", default_value = "runs/sweep")]
    out: PathBuf,
}

#[derive(Clone, Debug, clap::Args)]
pub struct LocalArgs {
    /// So many runs side by side [default: on a hardware GPU 1, else one for each core]
    #[arg(short, long, value_name = "N", value_parser = common::at_least_one)]
    jobs: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Debug, clap::Args)]
pub struct CollectArgs {
    /// By what the recommended epsilon is chosen, on the images held out
    #[arg(long, value_enum, default_value = "error")]
    choose_by: Criterion,
    /// The epsilon that the claims are tried at; the least above 0 where the grid has no such one
    #[arg(long, value_name = "E", default_value_t = 0.1)]
    reference: f64,
    /// Confidence level of the intervals
    #[arg(long, default_value_t = 0.95)]
    level: f64,
    /// The findings as one JSON object
    #[arg(long)]
    json: bool,
}

const PLAN: &str = "plan.json";
const RESULTS: &str = "results.csv";
const REPORT: &str = "report.html";
/// The report's first picture, on its own.
const CURVES: &str = "curves.svg";
/// Every file of a sweep's folder, beside its runs.
const FILES: [&str; 4] = [PLAN, RESULTS, REPORT, CURVES];

/// The folder of a sweep, to write in: made if it is not there, and waited for where another process writes in it.
fn folder(out: &Path) -> Result<OwnFolder> {
    OwnFolder::wait_for(out, &FILES, &mut |holder| {
        common::note(format_args!("{}: {holder} writes there; waiting for it to end", out.display()));
    })
}

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    match args.step {
        Some(Step::Plan(args)) => {
            let entries = plan(&args)?;
            let path = args.out.join(PLAN);
            common::print(format_args!("{} runs in {}", entries.len(), path.display()))?;
        }
        Some(Step::Run { out, local }) => train_all(&read_plan(&out)?, &out, &local)?,
        Some(Step::Collect { out, collect: args }) => collect(&read_plan(&out)?, &out, &args)?,
        None => {
            let Args { plan: args, local, collect: how, .. } = args;
            check_collect(&how)?;
            let entries = plan(&args)?;
            let trained = train_all(&entries, &args.out, &local);
            if matches!(trained, Ok(()) | Err(Error::Run(_))) && any_done(&entries)? {
                collect(&entries, &args.out, &how)?;
            }
            trained?;
        }
    }
    Ok(0)
}

/// The share of the training images that is held out where nobody says.
const VAL_SPLIT: f64 = 0.1;

/// More than anyone trains.
const MOST_RUNS: usize = 100_000;

/// Writes the plan and gives it. A plan that was there before is replaced: runs go by what they are, not by their place.
fn plan(args: &PlanArgs) -> Result<Vec<Entry>> {
    let PlanArgs { run, label_smoothing, label_noise, seeds, out } = args;
    let run = RunArgs { val_split: Some(run.val_split.unwrap_or(VAL_SPLIT)), ..run.clone() };
    if run.val_split == Some(0.0) {
        return Err(Error::Usage(
            "--val-split: found 0, expected images to hold out: everything is chosen on them".into(),
        ));
    }
    run.check_noise(!label_noise.is_empty())?;
    if out.to_str().is_none() {
        return Err(Error::Usage(format!("--out: found {out:?}, expected a path in UTF-8, which plan.json can hold")));
    }
    let label_noise = if label_noise.is_empty() { &vec![0.0] } else { label_noise };
    let runs = [label_smoothing.len(), label_noise.len()].iter().fold(*seeds, |all, &n| all.saturating_mul(n));
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
            for &label_smoothing in label_smoothing {
                let config = run.config(Varied { label_smoothing, label_noise, seed })?;
                config.check()?;
                let entry = Entry::new(out, config);
                if known.insert(entry.id.clone()) {
                    entries.push(entry);
                }
            }
        }
    }
    let _folder = folder(out)?;
    let lines: Vec<_> = entries.iter().map(common::to_json).collect();
    write_atomic(&out.join(PLAN), format!("[\n{}\n]\n", lines.join(",\n")).as_bytes())?;
    Ok(entries)
}

fn read_plan(out: &Path) -> Result<Vec<Entry>> {
    let path = out.join(PLAN);
    let text = input::read_text(&path, "the plan of a sweep, made by `smoothcnn sweep plan`")?;
    let entries = entry::entries(&path, &text)?;
    entries.iter().try_for_each(|entry| entry.check().map_err(|e| Error::data(&path, e.to_string())))?;
    Ok(entries)
}

fn any_done(entries: &[Entry]) -> Result<bool> {
    for entry in entries {
        if entry.outcome()?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A run's standard error, beside its folder: what every attempt said.
fn log(entry: &Entry) -> PathBuf {
    entry.out.with_extension("log")
}

/// How a run ended that failed, beside its folder: it is tried again after those that were never tried.
fn failed(entry: &Entry) -> PathBuf {
    entry.out.with_extension("failed")
}

/// Trains what is not done, each run in a process of its own. One that fails does not stop the others.
fn train_all(entries: &[Entry], out: &Path, local: &LocalArgs) -> Result<()> {
    let _ending_well = signals::ending_well();
    let mut open = vec![];
    for entry in entries {
        if entry.outcome()?.is_none() {
            open.push(entry);
        }
    }
    if open.is_empty() {
        common::note(format_args!("all {} runs are done", entries.len()));
        return Ok(());
    }
    open.sort_by_key(|entry| failed(entry).exists());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Here, and not by each run on its own.
    local.device.check(Default::default())?;
    let jobs = match local.jobs {
        Some(jobs) => jobs,
        // On two cores two runs side by side take 0.7 (software driver) or 0.83 (CPU path) of one after the other's time.
        None => match common::choose_device(&local.device, Default::default())? {
            Some(gpu) if gpu.is_hardware() => 1,
            _ => cores,
        },
    };
    let jobs = jobs.min(open.len());
    let threads = (cores / jobs).max(1);
    common::note(format_args!(
        "{} of {} runs to do in {}, {jobs} side by side",
        open.len(),
        entries.len(),
        out.display()
    ));
    let bar = ProgressBar::with_draw_target(Some(open.len() as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("[{bar:30}] {pos}/{len} runs, {elapsed}, eta {eta}")
        .expect("the template is well formed");
    bar.set_style(style.progress_chars("=> "));

    let mut waiting = open.into_iter();
    let mut under_way: Vec<(&Entry, Child)> = vec![];
    let mut failures: Vec<(&Entry, String)> = vec![];
    loop {
        let stopping = signals::received().is_some();
        while !stopping && under_way.len() < jobs {
            let Some(entry) = waiting.next() else { break };
            under_way.push((entry, start(entry, threads, local)?));
        }
        if under_way.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        let mut still = vec![];
        for (entry, mut child) in under_way {
            if stopping {
                // It ends with its standard input.
                drop(child.stdin.take());
            }
            match child.try_wait().map_err(Error::io("smoothcnn train"))? {
                None => still.push((entry, child)),
                Some(status) if status.success() => {
                    remove(&failed(entry))?;
                    bar.inc(1);
                    if bar.is_hidden() {
                        common::note(format_args!("{}/{} runs", bar.position(), bar.length().unwrap_or(0)));
                    }
                }
                // It was asked to end.
                Some(_) if signals::received().is_some() => {}
                Some(status) => {
                    let said = how_it_ended(entry, status);
                    write_atomic(&failed(entry), format!("{said}\n").as_bytes())?;
                    bar.suspend(|| common::note(format_args!("run {} {said}", entry.id)));
                    failures.push((entry, said));
                }
            }
        }
        under_way = still;
    }
    bar.finish_and_clear();
    if let Some(signal) = signals::received() {
        common::note(format_args!("stopped; `smoothcnn sweep run {}` goes on", out.display()));
        return Err(Error::Interrupted(signal));
    }
    let [(entry, said), others @ ..] = &failures[..] else { return Ok(()) };
    for (entry, said) in others {
        common::note(format_args!("failed: run {} {said}", entry.id));
    }
    let also = if others.is_empty() { String::new() } else { format!(" ({} others failed too)", others.len()) };
    let log = log(entry);
    Err(Error::Run(format!("run {} {said}{also}; all that it said is in {}", entry.id, log.display())))
}

/// Starts a run in a process of its own, which ends when this one does, however that ends.
fn start(entry: &Entry, threads: usize, local: &LocalArgs) -> Result<Child> {
    let runs = entry.out.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(runs).map_err(Error::io(runs))?;
    let entry_path = entry.out.with_extension("json");
    write_atomic(&entry_path, common::to_json(entry).as_bytes())?;
    let log_path = log(entry);
    let log = File::options().create(true).append(true).open(&log_path).map_err(Error::io(&log_path))?;
    let program = std::env::current_exe().map_err(Error::io("this program's own file"))?;
    let mut command = Command::new(program);
    command.args(["train", "--entry"]).arg(&entry_path).args(local.device.flags());
    // The results do not depend on it.
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        command.env("RAYON_NUM_THREADS", threads.to_string());
    }
    command.env(signals::ENDS_WITH_STDIN, "1").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
    command.spawn().map_err(Error::io("smoothcnn train"))
}

/// How a run ended that failed, in words.
fn how_it_ended(entry: &Entry, status: ExitStatus) -> String {
    let said = fs::read(log(entry)).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let said = said.lines().rev().find_map(|line| line.strip_prefix("smoothcnn: ")).unwrap_or("no word");
    let code = status.code().map_or("by a signal".into(), |code| format!("with exit code {code}"));
    format!("ended {code}: {said}")
}

fn check_collect(args: &CollectArgs) -> Result<()> {
    if !(args.level > 0.0 && args.level < 1.0) {
        return Err(Error::Usage(format!("--level: found {}, expected a number between 0 and 1", args.level)));
    }
    Ok(())
}

/// Gathers what is done into results.csv and report.html, and prints the findings.
fn collect(entries: &[Entry], out: &Path, args: &CollectArgs) -> Result<()> {
    check_collect(args)?;
    let mut done = vec![];
    for entry in entries {
        done.extend(entry.outcome()?.map(|outcome| (entry, outcome)));
    }
    let study = Study::new(done.iter().map(|(_, outcome)| outcome.clone()).collect(), args.level)?;
    if done.len() < entries.len() {
        let (missing, all) = (entries.len() - done.len(), entries.len());
        common::note(format_args!("{missing} of {all} runs are not done yet: what follows is without them"));
    }
    let _folder = folder(out)?;
    let configs: HashMap<&str, &Config> = done.iter().map(|(entry, _)| (&entry.id[..], &entry.config)).collect();
    write_atomic(&out.join(RESULTS), &results(study.outcomes(), &configs)?)?;

    let reference = claims::reference(&study, args.reference);
    let findings = reference.map(|reference| claims::findings(&study, reference)).unwrap_or_default();
    let choices: Vec<_> = study
        .noises
        .iter()
        .flat_map(|&noise| Criterion::ALL.map(|criterion| choice::choose(&study, noise, criterion)))
        .flatten()
        .collect();
    let predictions: Vec<_> = study.noises.iter().filter_map(|&noise| choice::prediction(&study, noise)).collect();
    let mut projections = vec![];
    for epsilon in [Some(0.0), reference].into_iter().flatten() {
        // The first of the runs without noise: they stand for the others.
        let found = done.iter().find(|(_, o)| o.label_smoothing == epsilon && o.label_noise == study.noises[0]);
        if let Some((entry, _)) = found {
            projections.push((epsilon, entry::projected(&entry.out)?));
        }
    }
    projections.retain(|(_, images)| !images.is_empty());
    let story = Story {
        study: &study,
        facts: facts(&done, entries.len()),
        reference,
        findings,
        choices,
        chosen_by: args.choose_by,
        predictions,
        projections,
    };
    write_atomic(&out.join(REPORT), story.html()?.as_bytes())?;
    write_atomic(&out.join(CURVES), plots::curves(&study)?.as_bytes())?;
    if args.json {
        common::print_json(&serde_json::json!({
            "runs": done.len(), "reference": reference, "findings": story.findings, "choices": story.choices,
            "predictions": story.predictions,
        }))?;
    } else {
        common::print(story.text().trim_end())?;
    }
    common::note(format_args!("written to {} and {}", out.join(RESULTS).display(), out.join(REPORT).display()));
    Ok(())
}

/// What the report says of the runs as a whole.
fn facts(done: &[(&Entry, Outcome)], planned: usize) -> Vec<(&'static str, String)> {
    let config = &done[0].0.config;
    let name = |value: Option<clap::builder::PossibleValue>| value.map(|v| v.get_name().to_owned()).unwrap_or_default();
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
    let Outcome { train, validation, test, .. } = &done[0].1;
    let loss = config.loss_config();
    let epsilon = match config.loss.kind {
        Kind::CrossEntropy => format!("{} ({}{})", list(|o| o.label_smoothing), loss.spread(), loss.schedule()),
        Kind::Focal | Kind::ConfidencePenalty => "none".into(),
    };
    vec![
        ("data", name(config.data.to_possible_value())),
        (
            "network",
            "the seed network: Conv2d(32), Conv2d(64), each with ReLU and MaxPool2d, Linear(128), Linear".into(),
        ),
        (
            "images",
            format!(
                "{} to train on, {} held out, {} to test on",
                train.images, validation.plain.images, test.plain.images
            ),
        ),
        ("runs", format!("{} of {planned}", done.len())),
        ("loss", loss.describe_all()),
        ("epsilon", epsilon),
        ("label noise", format!("{} ({})", list(|o| o.label_noise), name(config.labels.noise.to_possible_value()))),
        ("seeds", seeds.len().to_string()),
        (
            "training",
            format!("{} epochs, batch size {}, {}", config.epochs, config.batch_size, optimizer(config.optimizer)),
        ),
        ("device", devices.into_iter().collect::<Vec<_>>().join("; ")),
        ("time", format!("{:.0} s, all runs added up", done.iter().map(|(_, o)| o.seconds).sum::<f64>())),
        ("program", format!("smoothcnn {}", env!("CARGO_PKG_VERSION"))),
    ]
}

fn optimizer(optimizer: Optimizer) -> String {
    let (name, lr, weight_decay) = match optimizer {
        Optimizer::Adam(Adam { lr, weight_decay, .. }) => ("Adam".into(), lr, weight_decay),
        Optimizer::AdamW(Adam { lr, weight_decay, .. }) => ("AdamW".into(), lr, weight_decay),
        Optimizer::Sgd(Sgd { lr, momentum, nesterov, weight_decay }) => {
            let nesterov = if nesterov { "Nesterov's " } else { "" };
            (format!("SGD with {nesterov}momentum {momentum}"), lr, weight_decay)
        }
    };
    format!("{name}, learning rate {lr}, weight decay {weight_decay}")
}

/// A line for each run.
fn results(outcomes: &[Outcome], configs: &HashMap<&str, &Config>) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(vec![]);
    let written = |e: csv::Error| Error::Io { path: RESULTS.into(), source: e.into() };
    let sets = ["val", "val_scaled", "test", "test_scaled"];
    let measures = [
        "error",
        "nll",
        "ece",
        "ece_equal_mass",
        "ece_classwise",
        "mce",
        "brier",
        "mean_confidence",
        "confidence_right",
        "confidence_wrong",
        "above_99",
        "aurc",
    ];
    let mut header: Vec<String> = [
        "id",
        "label_smoothing",
        "smoothing_variant",
        "loss",
        "label_noise",
        "seed",
        "temperature",
        "seconds",
        "train_error",
        "train_nll",
        "memorised",
    ]
    .map(String::from)
    .to_vec();
    header.extend(sets.iter().flat_map(|set| measures.iter().map(move |measure| format!("{set}_{measure}"))));
    writer.write_record(&header).map_err(written)?;
    for o in outcomes {
        // Nothing is written for what there is none of.
        let some = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
        let loss = configs[&o.id[..]].loss_config();
        let mut row = vec![
            o.id.clone(),
            o.label_smoothing.to_string(),
            // As the flag has it.
            if loss.args.smoothing_prior.is_some() { "prior".into() } else { loss.spread() },
            loss.describe(o.classes),
            o.label_noise.to_string(),
            o.seed.to_string(),
            o.temperature.to_string(),
            o.seconds.to_string(),
            o.train.error.to_string(),
            o.train.nll.to_string(),
            some(o.memorised),
        ];
        for m in [&o.validation.plain, &o.validation.scaled, &o.test.plain, &o.test.scaled] {
            let values = [m.error, m.nll, m.ece, m.ece_equal_mass, m.ece_classwise, m.mce, m.brier, m.mean_confidence];
            row.extend(values.map(|value| value.to_string()));
            row.extend([
                some(m.confidence_right),
                some(m.confidence_wrong),
                m.above_99.to_string(),
                m.aurc.to_string(),
            ]);
        }
        writer.write_record(&row).map_err(written)?;
    }
    Ok(writer.into_inner().expect("a vector takes what is written to it"))
}
