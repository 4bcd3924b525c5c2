//! `smoothcnn sweep`: a grid of runs over epsilon, label noise and seeds, and the study that comes of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use smoothcnn::backend::device::Precision;
use smoothcnn::fs::{remove, write_atomic};
use smoothcnn::parse::to_json;
use smoothcnn::report::collect::{Question, of_table};
use smoothcnn::report::sweep::Story;
use smoothcnn::study::choice::{Criterion, HeldOut};
use smoothcnn::study::entry::SweepEntry;
use smoothcnn::study::sweep::{self, PLAN, REPORT, RESULTS, SweepGrid, VAL_SPLIT};
use smoothcnn::train::config::loss::LossKind;
use smoothcnn::{Error, Result};

use super::common::{self, DeviceArgs};
use super::config::{RunArgs, Varied};
use super::{signals, sources};

/// Trains a grid of runs and says what label smoothing does on this data, and which epsilon to use.
///
/// Alone it does all three steps: `plan`, `run`, `collect`. Whatever is done is not done again: a sweep that was
/// stopped goes on with the same command.
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
    /// plan.json is a JSON array with an entry for each run: its id, its folder and its whole configuration. Train one
    /// with `smoothcnn train --entry plan.json --index N`, anywhere that sees the folder, in any order. So it fits a
    /// Slurm job array, and HyperQueue's `hq submit --from-json`, which hands each task its entry.
    Plan(Box<PlanArgs>),
    /// Train the runs of a plan that are not done, on this machine.
    Run {
        /// Folder of the sweep
        #[arg(default_value = "runs/sweep")]
        out: PathBuf,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Make results.csv and report.html of the runs that are done, or ask a results.csv again.
    Collect {
        /// Folder of the sweep; or the results.csv of one, whose findings are printed and nothing else
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
    /// Losses to hold against label smoothing: maxsup, mbls, focal, confidence-penalty. Those with an epsilon are
    /// trained at each one above 0, the others once, as they are usually set
    #[arg(long, value_name = "LOSS,…", value_delimiter = ',', conflicts_with = "kind")]
    losses: Vec<LossKind>,
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
    /// By what the recommended epsilon is chosen, on the images held out. `refined-nll`, for probabilities, is always
    /// shown too
    #[arg(long, value_enum, default_value = "error")]
    choose_by: Criterion,
    /// With label noise, judge the images held out by labels with that noise, as whoever has noisy data must; `false`
    /// takes the clean ones. What the others would choose is shown beside
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    noise_in_validation: bool,
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

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    match args.step {
        Some(Step::Plan(args)) => {
            let entries = plan(&args)?;
            let path = args.out.join(PLAN);
            common::print(format_args!("{} runs in {}", entries.len(), path.display()))?;
        }
        Some(Step::Run { out, local }) => train_all(&sweep::read_plan(&out)?, &out, &local)?,
        Some(Step::Collect { out, collect: args }) if out.is_file() => show(&of_table(&out, &args.question())?, &args)?,
        Some(Step::Collect { out, collect: args }) => collect(&sweep::read_plan(&out)?, &out, &args)?,
        None => {
            let Args { plan: args, local, collect: how, .. } = args;
            how.question().check()?;
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

/// Writes the plan and gives it. A plan that was there before is replaced: runs go by what they are, not by their
/// place.
fn plan(args: &PlanArgs) -> Result<Vec<SweepEntry>> {
    let PlanArgs { run, losses, label_smoothing, label_noise, seeds, out } = args.clone();
    let run = RunArgs { val_split: Some(run.val_split.unwrap_or(VAL_SPLIT)), ..run };
    run.check_noise(!label_noise.is_empty())?;
    let base = run.config(Varied { label_smoothing: 0.0, label_noise: 0.0, seed: 0 })?;
    let label_noise = if label_noise.is_empty() { vec![0.0] } else { label_noise };
    sweep::plan(&base, &SweepGrid { losses, label_smoothing, label_noise, seeds }, &out, &tell)
}

/// Notes of the library's.
fn tell(line: &str) {
    common::note(line);
}

fn any_done(entries: &[SweepEntry]) -> Result<bool> {
    for entry in entries {
        if entry.outcome(&tell)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A run's standard error, beside its folder: what every attempt said.
fn log(entry: &SweepEntry) -> PathBuf {
    entry.out.with_extension("log")
}

/// How a run ended that failed, beside its folder: it is tried again after those that were never tried.
fn failed(entry: &SweepEntry) -> PathBuf {
    entry.out.with_extension("failed")
}

/// Trains what is not done, each run in a process of its own. One that fails does not stop the others.
fn train_all(entries: &[SweepEntry], out: &Path, local: &LocalArgs) -> Result<()> {
    let _ending_well = signals::ending_well();
    let mut open = vec![];
    for entry in entries {
        if entry.outcome(&tell)?.is_none() {
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
    let device = local.device.device();
    device.check(Precision::F32)?;
    let jobs = match local.jobs {
        Some(jobs) => jobs,
        // On two cores two runs side by side take 0.7 (software driver) or 0.83 (CPU path) of one after the other's
        // time.
        None => match device.open(Precision::F32, &tell)?.gpu {
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
    let mut under_way: Vec<(&SweepEntry, Child)> = vec![];
    let mut failures: Vec<(&SweepEntry, String)> = vec![];
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
fn start(entry: &SweepEntry, threads: usize, local: &LocalArgs) -> Result<Child> {
    let runs = entry.out.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(runs).map_err(Error::io(runs))?;
    let entry_path = entry.out.with_extension("json");
    write_atomic(&entry_path, to_json(entry).as_bytes())?;
    let log_path = log(entry);
    let log = File::options().create(true).append(true).open(&log_path).map_err(Error::io(&log_path))?;
    let program = std::env::current_exe().map_err(Error::io("this program's own file"))?;
    let mut command = Command::new(program);
    command.args(["train", "--entry"]).arg(&entry_path).args(local.device.flags());
    for variable in sources::variables() {
        command.env_remove(variable);
    }
    // The results do not depend on it.
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        command.env("RAYON_NUM_THREADS", threads.to_string());
    }
    command.env(signals::ENDS_WITH_STDIN, "1").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
    command.spawn().map_err(Error::io("smoothcnn train"))
}

/// How a run ended that failed, in words.
fn how_it_ended(entry: &SweepEntry, status: ExitStatus) -> String {
    let said = fs::read(log(entry)).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let said = said.lines().rev().find_map(|line| line.strip_prefix("smoothcnn: ")).unwrap_or("no word");
    let code = status.code().map_or("by a signal".into(), |code| format!("with exit code {code}"));
    format!("ended {code}: {said}")
}

impl CollectArgs {
    /// What the flags ask.
    fn question(&self) -> Question {
        let Self { choose_by, noise_in_validation, reference, level, .. } = *self;
        let labels = if noise_in_validation { HeldOut::Noisy } else { HeldOut::Clean };
        Question { choose_by, labels, reference, level }
    }
}

/// Prints the findings.
fn show(story: &Story, args: &CollectArgs) -> Result<()> {
    if !args.json {
        return common::print(story.text().trim_end());
    }
    let Story { study, reference, findings, choices, by_other_labels, rivals, ensembles, predictions, .. } = story;
    common::print_json(&serde_json::json!({
        "runs": study.outcomes().len(), "reference": reference, "cross_fitted": study.is_cross_fitted(),
        "findings": findings, "choices": choices, "by_other_labels": by_other_labels, "rivals": rivals, "ensembles": ensembles, "predictions": predictions,
    }))
}

/// Gathers what is done into results.csv and report.html, and prints the findings.
fn collect(entries: &[SweepEntry], out: &Path, args: &CollectArgs) -> Result<()> {
    show(&smoothcnn::report::collect::collect(entries, out, &args.question(), &tell)?, args)?;
    common::note(format_args!("written to {} and {}", out.join(RESULTS).display(), out.join(REPORT).display()));
    Ok(())
}
