//! What `eval` says beyond its measures: which classes are taken for which, and the worst mistakes.

use std::path::Path;

use serde::Serialize;
use smoothcnn::fs::write_atomic;
use smoothcnn::measure::classes::{ClassMeasures, Mistake, macro_mean};
use smoothcnn::train::marked::Marked;
use smoothcnn::train::run_folder::OwnFolder;
use smoothcnn::{Error, Result};

use super::columns;
use super::common::print;

/// What `eval --out` writes.
pub const FILES: [&str; 3] = ["classes.csv", "confusion.csv", "mistakes.csv"];

/// A matrix of more classes is wider than a terminal.
const WIDEST: usize = 12;

/// So many pairs of classes, and so many mistakes, are shown.
const SHOWN: usize = 10;

/// The answers to a test set, class by class.
pub struct Details<'a> {
    /// What the classes are called, by their label.
    pub names: &'a [String],
    /// The answers.
    pub marked: &'a Marked,
}

/// A class, as JSON has it.
#[derive(Serialize)]
pub struct ClassLine<'a> {
    class: &'a str,
    precision: f64,
    recall: f64,
    f1: f64,
    support: usize,
}

/// A wrong answer, as JSON has it.
#[derive(Serialize)]
pub struct MistakeLine<'a> {
    /// Its place in the test set.
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    label: &'a str,
    answer: &'a str,
    probability: f64,
}

impl<'a> Details<'a> {
    /// The surest of the wrong answers, for JSON.
    pub fn mistakes(&self) -> Vec<MistakeLine<'_>> {
        let of = |mistake: &Mistake| MistakeLine {
            index: self.marked.places[mistake.index],
            file: self.marked.images.files.get(mistake.index).map(String::as_str),
            label: &self.names[mistake.label],
            answer: &self.names[mistake.answer],
            probability: mistake.probability,
        };
        self.marked.mistakes.iter().take(SHOWN).map(of).collect()
    }

    /// Each class, for JSON.
    pub fn lines(&self) -> Vec<ClassLine<'_>> {
        let of = |(class, of): (&'a String, &ClassMeasures)| {
            let ClassMeasures { precision, recall, f1, support, .. } = *of;
            ClassLine { class, precision, recall, f1, support }
        };
        self.names.iter().zip(&self.marked.classes).map(of).collect()
    }

    /// Prints all of it, at most 80 columns wide.
    pub fn print(&self) -> Result<()> {
        self.print_classes()?;
        print("")?;
        if self.names.len() <= WIDEST {
            self.print_matrix()?
        } else {
            self.print_pairs()?
        }
        if self.marked.mistakes.is_empty() {
            return Ok(());
        }
        print("\nthe surest of the wrong answers")?;
        for Mistake { index, label, answer, probability } in self.marked.mistakes.iter().take(SHOWN) {
            let [label, answer] = [label, answer].map(|class| columns::left(&self.names[*class], 14));
            let file = columns::path(&self.marked.name(*index), 28);
            print(format_args!("{file}  is {label}  answered {answer} {probability:.4}"))?;
        }
        Ok(())
    }

    fn print_classes(&self) -> Result<()> {
        print(format_args!("\n{:<32} {:>9} {:>9} {:>9} {:>9}", "class", "precision", "recall", "f1", "images"))?;
        for (name, ClassMeasures { precision, recall, f1, support, .. }) in self.names.iter().zip(&self.marked.classes)
        {
            let name = columns::left(name, 32);
            print(format_args!("{name} {precision:>9.4} {recall:>9.4} {f1:>9.4} {support:>9}"))?;
        }
        let [precision, recall, f1] = macro_mean(&self.marked.classes);
        let support = self.marked.images.len();
        print(format_args!("{:<32} {precision:>9.4} {recall:>9.4} {f1:>9.4} {support:>9}", "mean of the classes"))
    }

    fn print_matrix(&self) -> Result<()> {
        let row = |name: &str, cells: Vec<String>| {
            let cells: String = cells.iter().map(|cell| format!(" {}", columns::right(cell, 5))).collect();
            print(format!("{}{cells}", columns::left(name, 7)).trim_end())
        };
        print("images of the row's class that are answered with the column's")?;
        row("", self.names.to_vec())?;
        for (label, name) in self.names.iter().enumerate() {
            row(
                name,
                (0..self.names.len()).map(|answer| self.marked.confusion.count(label, answer).to_string()).collect(),
            )?;
        }
        Ok(())
    }

    fn print_pairs(&self) -> Result<()> {
        print("classes that are taken for others most often")?;
        for (label, answer, count) in self.marked.confusion.confused().into_iter().take(SHOWN) {
            let [label, answer] = [label, answer].map(|class| columns::left(&self.names[class], 24));
            print(format_args!("{label}  answered {answer}  {count:>6}"))?;
        }
        Ok(())
    }

    /// Writes [`FILES`] to a folder that was taken for them.
    pub fn write(&self, folder: &OwnFolder) -> Result<()> {
        let folder = folder.path();
        let classes = self.lines().into_iter().map(|line| {
            let numbers = [line.precision, line.recall, line.f1].map(|value| value.to_string());
            [line.class.to_owned()].into_iter().chain(numbers).chain([line.support.to_string()]).collect()
        });
        let header =
            |first: &str, rest: &[&str]| [&[first], rest].concat().iter().map(|name| String::from(*name)).collect();
        table(folder, FILES[0], header("class", &["precision", "recall", "f1", "images"]), classes)?;
        let named = [String::from("label")].into_iter().chain(self.names.iter().cloned()).collect();
        let rows = self
            .names
            .iter()
            .zip(self.marked.confusion.counts.chunks(self.names.len()))
            .map(|(name, counts)| [name.clone()].into_iter().chain(counts.iter().map(usize::to_string)).collect());
        table(folder, FILES[1], named, rows)?;
        let rows = self.marked.mistakes.iter().map(|of| {
            let [label, answer] = [of.label, of.answer].map(|class| self.names[class].clone());
            vec![
                self.marked.places[of.index].to_string(),
                self.marked.images.files.get(of.index).cloned().unwrap_or_default(),
                label,
                answer,
                of.probability.to_string(),
            ]
        });
        table(folder, FILES[2], header("index", &["file", "label", "answer", "probability"]), rows)
    }
}

fn table(folder: &Path, name: &str, header: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> Result<()> {
    let path = folder.join(name);
    let failed = |error: csv::Error| Error::Io { path: path.clone(), source: error.into() };
    let mut writer = csv::Writer::from_writer(vec![]);
    writer.write_record(header).map_err(failed)?;
    for row in rows {
        writer.write_record(row).map_err(failed)?;
    }
    write_atomic(&path, &writer.into_inner().expect("a vector takes what is written to it"))
}
