//! `smoothcnn predict`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use serde::Serialize;
use smoothcnn::error::escaped;
use smoothcnn::fs::write_output;
use smoothcnn::measure::conformal::{Calibration, Score, SetMaker};
use smoothcnn::measure::scaling::Scaling;
use smoothcnn::ops::IGNORED;
use smoothcnn::train::answers::{Answer, Answerer, pictures_of};
use smoothcnn::train::conformal_file::ConformalFile;
use smoothcnn::train::model::ModelFile;
use smoothcnn::{Error, Result};

use super::given::Given;
use super::model::{Asked, ModelArgs, scaling};
use super::{columns, common};

/// Answers pictures with a saved model: the file, its class, the probability. Without pictures, answers the test images
/// of a data set, as CSV.
///
/// A model that `train` wrote knows itself how pictures become its images, and what its classes are called. Of a run's
/// folder the best weights are taken, and the temperature that `calibrate` left there.
///
/// The columns of a data set's answers: the image's index, its label (nothing where that is ignored), the answer, the
/// answer's probability, the probability of each class, and with --coverage the classes of the set.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pictures, folders of pictures, or patterns such as '*.png'
    #[arg(value_name = "PICTURE|FOLDER|PATTERN")]
    pictures: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// So many classes for each picture, the most probable first [default: 1]
    #[arg(long, value_name = "K", requires = "pictures", value_parser = common::at_least_one)]
    topk: Option<usize>,
    /// Answer with a set of classes too, which holds the right one for this share of all images like those held out
    /// (0.9: nine in ten); `calibrate` must have been there
    #[arg(long, value_name = "SHARE", value_parser = common::between_0_and_1)]
    coverage: Option<f64>,
    /// With --coverage: what makes a class strange [default: lac]
    #[arg(long, value_name = "SCORE", requires = "coverage")]
    score: Option<Score>,
    /// A JSON object for each picture, a line each
    #[arg(long, requires = "pictures", conflicts_with = "out")]
    json: bool,
    /// Write the answers here, as CSV [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Flags that say nothing of pictures.
const OF_DATA: [&str; 10] = [
    "--data",
    "--data-dir",
    "--size",
    "--crop-mode",
    "--channels",
    "--test-split",
    "--skip-bad",
    "--limit-test",
    "--allow-changed-data",
    "--ignore-index",
];

/// Runs the command.
pub fn run(args: Args, given: &Given) -> Result<u8> {
    if args.pictures.is_empty() {
        return data_set(&args);
    }
    given.without("pictures", &OF_DATA)?;
    let mut pictures = vec![];
    for path in &args.pictures {
        for path in expanded(path)? {
            pictures.extend(pictures_of(&path)?);
        }
    }
    let file = ModelFile::open(&args.model.model)?;
    let scaling = scaling(&args.model.model, &file, args.model.temperature.as_deref())?;
    let mut answerer = Answerer::new(&file, scaling.unwrap_or(Scaling::NONE))?;
    if let Some(coverage) = args.coverage {
        answerer = answerer.with_sets(sets_of(&args, &file.path)?, coverage);
    }
    common::note(format_args!("model: {}; pictures: {}", file.describe(), answerer.describe()));
    let topk = args.topk.unwrap_or(1).min(answerer.classes().len());
    let mut output = Output::new(&args, answerer.classes(), topk)?;
    let mut bad: Option<Error> = None;
    let mut n_bad = 0;
    let how = args.model.how();
    answerer.answer(&pictures, topk, &how, &|line| common::note(line), &mut |answer| match answer {
        Ok(answer) => output.answer(&answer),
        Err(error @ (Error::Data { .. } | Error::Io { .. })) => {
            n_bad += 1;
            match bad {
                // The first one ends the program, once the others are answered.
                None => bad = Some(error),
                Some(_) => common::note(format_args!("no picture: {error}")),
            }
            Ok(())
        }
        Err(error) => Err(error),
    })?;
    output.end()?;
    match bad {
        None => Ok(0),
        Some(Error::Data { path, message }) => {
            Err(Error::data(path, format!("{message}; {n_bad} of {} files could not be answered", pictures.len())))
        }
        Some(error) => Err(error),
    }
}

/// What the sets are made of.
fn sets_of(args: &Args, weights: &Path) -> Result<Calibration> {
    ConformalFile::read(weights, args.score.unwrap_or_default())
}

/// A pattern's files, for a shell that leaves patterns as they are; any other path as it is.
fn expanded(path: &Path) -> Result<Vec<PathBuf>> {
    let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']) && !path.exists());
    let Some(pattern) = pattern else { return Ok(vec![path.to_owned()]) };
    let wrong = |error: glob::PatternError| Error::Usage(format!("{pattern}: found a pattern with {error}"));
    let found: Vec<PathBuf> = glob::glob(pattern).map_err(wrong)?.flatten().collect();
    if found.is_empty() {
        return Err(Error::data(path, "found no file that the pattern fits, expected at least one picture"));
    }
    Ok(found)
}

/// A class and its probability, as JSON has it.
#[derive(Serialize)]
struct Top<'a> {
    class: &'a str,
    probability: f64,
}

#[derive(Serialize)]
struct Line<'a> {
    file: String,
    class: &'a str,
    probability: f64,
    top: Vec<Top<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<Vec<&'a str>>,
}

/// Where answers go.
struct Output<'a> {
    args: &'a Args,
    classes: &'a [String],
    /// With --out: until all are known.
    table: Option<csv::Writer<Vec<u8>>>,
    bar: bool,
    widest: usize,
}

impl<'a> Output<'a> {
    fn new(args: &'a Args, classes: &'a [String], topk: usize) -> Result<Self> {
        let mut table = args.out.as_ref().map(|_| csv::Writer::from_writer(vec![]));
        if let Some(table) = &mut table {
            let columns = (1..=topk).flat_map(|k| match k {
                1 => ["class".to_owned(), "probability".into()],
                _ => [format!("class{k}"), format!("probability{k}")],
            });
            let set = args.coverage.map(|_| "set".to_owned());
            table.write_record(["file".to_owned()].into_iter().chain(columns).chain(set)).map_err(failed(args))?;
        }
        let bar = std::io::stdout().is_terminal();
        let widest = classes.iter().map(|class| columns::width(class)).max().unwrap_or(0);
        Ok(Self { args, classes, table, bar, widest })
    }

    fn answer(&mut self, Answer { file, top, set }: &Answer) -> Result<()> {
        let set: Option<Vec<&str>> =
            set.as_ref().map(|set| set.iter().map(|&class| &self.classes[class][..]).collect());
        let top: Vec<Top> =
            top.iter().map(|&(class, probability)| Top { class: &self.classes[class], probability }).collect();
        let file = file.display().to_string();
        if let Some(table) = &mut self.table {
            let columns = top.iter().flat_map(|top| [top.class.to_owned(), top.probability.to_string()]);
            let set = set.map(|set| set.join(";"));
            return table.write_record([file].into_iter().chain(columns).chain(set)).map_err(failed(self.args));
        }
        if self.args.json {
            let (class, probability) = (top[0].class, top[0].probability);
            return common::print_json(&Line { file, class, probability, top, set });
        }
        let file = escaped(&file);
        for (k, Top { class, probability }) in top.iter().enumerate() {
            let class = columns::left(class, self.widest);
            /// The length of a bar of probability 1.
            const LENGTH: f64 = 20.0;
            let bar = if self.bar { "█".repeat((probability * LENGTH).round() as usize) } else { String::new() };
            let file = if k == 0 { file.clone() } else { " ".repeat(columns::width(&file)) };
            let one_of = match &set {
                Some(set) if k == 0 => {
                    format!("  one of: {}", set.iter().map(|name| escaped(name)).collect::<Vec<_>>().join(", "))
                }
                _ => String::new(),
            };
            let line = format!("{file}  {class}  {probability:.4}  {bar}{one_of}");
            common::print(line.trim_end())?;
        }
        Ok(())
    }

    fn end(self) -> Result<()> {
        match (self.table, &self.args.out) {
            (Some(table), Some(out)) => write_output(out, &written(table)),
            _ => Ok(()),
        }
    }
}

fn failed(args: &Args) -> impl Fn(csv::Error) -> Error + '_ {
    |error| Error::Io { path: args.out.clone().unwrap_or_else(|| "standard output".into()), source: error.into() }
}

fn written(table: csv::Writer<Vec<u8>>) -> Vec<u8> {
    table.into_inner().expect("a vector takes what is written to it")
}

/// Answers a data set's test images.
fn data_set(args: &Args) -> Result<u8> {
    let asked = args.model.load()?;
    let Asked { model, test, .. } = &asked;
    let given = args.model.temperature.as_deref();
    let scaling = scaling(&args.model.model, &model.file, given)?.unwrap_or(Scaling::NONE);
    if args.model.temperature.is_none() && !scaling.is_none() {
        common::note(format_args!("model: {}, which `calibrate` found", scaling.describe()));
    }
    let classes = model.net.classes;
    let logits = args.model.logits(&asked, test)?;
    let probabilities = model.probabilities(&logits, &scaling)?;
    // Sets are made of the logits as they are.
    let sets = match args.coverage {
        None => None,
        Some(coverage) => {
            let sets = SetMaker::new(sets_of(args, &model.file.path)?, coverage);
            Some((sets, model.probabilities(&logits, &Scaling::NONE)?))
        }
    };
    let mut writer = csv::Writer::from_writer(vec![]);
    let header = ["image", "label", "answer", "confidence"].map(String::from);
    let columns = (0..classes).map(|k| format!("p{k}")).chain(sets.as_ref().map(|_| "set".to_owned()));
    writer.write_record(header.into_iter().chain(columns)).map_err(failed(args))?;
    for (i, (row, label)) in probabilities.chunks(classes).zip(&test.labels).enumerate() {
        // The first of equals, as everywhere.
        let answer = (1..row.len()).fold(0, |top, k| if row[k] > row[top] { k } else { top });
        let label = if *label == IGNORED { String::new() } else { label.to_string() };
        let first = [i.to_string(), label, answer.to_string(), row[answer].to_string()];
        let set = sets.as_ref().map(|(sets, plain)| {
            let set = sets.set(&plain[i * classes..][..classes]);
            set.iter().map(usize::to_string).collect::<Vec<_>>().join(";")
        });
        let columns = row.iter().map(f64::to_string).chain(set);
        writer.write_record(first.into_iter().chain(columns)).map_err(failed(args))?;
    }
    let text = written(writer);
    match &args.out {
        Some(out) => write_output(out, &text)?,
        None => common::print(String::from_utf8(text).expect("numbers and commas").trim_end())?,
    }
    Ok(0)
}
