//! `smoothcnn report`.

use std::io::Read;
use std::path::{Path, PathBuf};

use smoothcnn::fs::{is_standard_output, write_atomic, write_output};
use smoothcnn::report::comparison;
use smoothcnn::report::page::MADE_BY;
use smoothcnn::report::run::{DataPlace, RunReport};
use smoothcnn::report::run_page;
use smoothcnn::train::run_folder::OwnFolder;
use smoothcnn::{Error, Result};

use super::common;
use super::model::InferenceArgs;

/// Writes what runs came to as a page to look at: one run into its folder, several side by side.
///
/// The best weights of each run answer its own test set again, with the temperature that `calibrate` left. `train`
/// writes the page of its run by itself; of the runs of a sweep this command makes it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folders of runs; the first is the one that the others are held against
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The page to write [default: report.html in the run's folder; of several runs, comparison.html here]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where the data of the runs has moved to
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Answer the images that are there, though they are not those that a run was measured on
    #[arg(long)]
    allow_changed_data: bool,
    #[command(flatten)]
    inference: InferenceArgs,
}

/// Of several runs, where nobody says.
const COMPARISON: &str = "comparison.html";

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    let out = match &args.out {
        None if args.runs.len() > 1 => Some(free(Path::new(COMPARISON))?),
        given => given.clone(),
    };
    let data = DataPlace { dir: args.data_dir.clone(), allow_changed: args.allow_changed_data };
    let how = args.inference.inference();
    let bar = common::ReadingBar::default();
    let mut runs = vec![];
    for path in &args.runs {
        // Nobody trains it meanwhile.
        let _folder = OwnFolder::open_run(path)?;
        let run = RunReport::read(path, &data, &how, &|line| common::note(line), &|done, all| bar.show(done, all))?;
        common::note(format_args!("{}: {}", path.display(), run.model.file.describe()));
        runs.push(run);
    }
    match (out, &runs[..]) {
        (None, runs) => runs.iter().try_for_each(|run| common::print(run_page::write(run)?.display()))?,
        (Some(out), [run]) => written(&out, &run_page::html(run)?)?,
        (Some(out), runs) => written(&out, &comparison::html(runs)?)?,
    }
    Ok(0)
}

fn written(out: &Path, page: &str) -> Result<()> {
    if is_standard_output(out) {
        return write_output(out, page.as_bytes());
    }
    write_atomic(out, page.as_bytes())?;
    common::print(out.display())
}

/// The path, if there is nothing or a page of the program's own.
fn free(path: &Path) -> Result<PathBuf> {
    let mut start = vec![];
    if let Ok(file) = std::fs::File::open(path) {
        file.take(4096).read_to_end(&mut start).map_err(Error::io(path))?;
        if !String::from_utf8_lossy(&start).contains(MADE_BY) {
            let message = "found a file that smoothcnn did not write, expected none; --out names another";
            return Err(Error::Usage(format!("{}: {message}", path.display())));
        }
    }
    Ok(path.to_owned())
}
