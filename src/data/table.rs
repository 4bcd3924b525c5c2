//! A table of pictures, CSV or TSV: a line for each, with its file and its label.
//!
//! The first line names the columns: `file` and `label`, and `split` where the table says which set a picture is of.
//! Files are relative to the table. Labels are names, sorted as folders would be, or whole numbers, sorted as such.

use std::collections::BTreeSet;
use std::path::Path;

use super::format::{Format, Loaded, ReadProgress, Reading};
use super::pictures::{Listing, load};
use super::reader::Item;
use crate::fs::folder_of;
use crate::{Error, Result, input};

/// The table as a format.
pub struct Table;

impl Format for Table {
    fn name(&self) -> &'static str {
        "table"
    }

    fn about(&self) -> &'static str {
        "a CSV or TSV of pictures with the columns file, label and, if sets are given, split"
    }

    fn recognises(&self, path: &Path) -> bool {
        path.is_file() && delimiter(path).is_some()
    }

    fn is_of_pictures(&self) -> bool {
        true
    }

    fn read(&self, path: &Path, how: &Reading, progress: ReadProgress) -> Result<Loaded> {
        load(listing(path, how.classes.as_deref())?, how, progress)
    }
}

/// What stands between two fields, as the file's name has it.
fn delimiter(path: &Path) -> Option<u8> {
    match &path.extension()?.to_str()?.to_lowercase()[..] {
        "csv" => Some(b','),
        "tsv" => Some(b'\t'),
        _ => None,
    }
}

/// What a column may be called; the first is what this format calls it.
const COLUMNS: [&[&str]; 3] =
    [&["file", "filename", "path", "image"], &["label", "class", "target"], &["split", "set"]];

fn listing(path: &Path, known: Option<&[String]>) -> Result<Listing> {
    let text = input::read_text(path, "a table of pictures, .csv or .tsv")?;
    // Spreadsheets begin their files with a mark of the byte order.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let delimiter = delimiter(path).unwrap_or(b',');
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
    let damaged = |error: csv::Error| match error.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, csv::Position::line);
            Error::data(
                path,
                format!("line {line}: found {len} fields, expected {expected_len}, as the first line has"),
            )
        }
        _ => Error::data(path, format!("found {error}, expected a table")),
    };
    let header = reader.headers().map_err(damaged)?.clone();
    let column = |which: usize| {
        let is = |name: &str| COLUMNS[which].contains(&&name.trim().to_lowercase()[..]);
        header.iter().position(is)
    };
    let needed = |which: usize| {
        column(which).ok_or_else(|| {
            let (found, name) = (header.iter().collect::<Vec<_>>().join(", "), COLUMNS[which][0]);
            Error::data(path, format!("found the columns {found}, expected one called {name}"))
        })
    };
    let (file, label, split) = (needed(0)?, needed(1)?, column(2));
    let mut rows = vec![];
    for record in reader.records() {
        let record = record.map_err(damaged)?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |at: usize| record.get(at).unwrap_or_default().trim();
        let empty = |name: &str| Error::data(path, format!("line {line}: found no {name}, expected one"));
        let set = match split.map(|at| field(at).to_lowercase()).as_deref() {
            None | Some("train" | "training") => 0,
            Some("val" | "valid" | "validation") => 1,
            Some("test" | "testing") => 2,
            Some(other) => {
                let message = format!("line {line}: found the split {other:?}, expected train, val or test");
                return Err(Error::data(path, message));
            }
        };
        let (file, label) = (field(file), field(label));
        if file.is_empty() || label.is_empty() {
            return Err(empty(if file.is_empty() { "file" } else { "label" }));
        }
        let is_there = |file: &str| folder_of(path).join(file).exists();
        // A table that was written on Windows.
        let with_slashes = file.replace('\\', "/");
        let file = if is_there(file) { file } else { &with_slashes };
        if !is_there(file) {
            return Err(Error::data(
                path,
                format!("line {line}: found {file}, which is not there, expected a picture"),
            ));
        }
        rows.push((set, file.to_owned(), label.to_owned()));
    }
    if rows.is_empty() {
        return Err(Error::data(path, "found no line of a picture, expected at least one"));
    }
    let classes = match known {
        Some(known) => known.to_vec(),
        None => sorted(rows.iter().filter(|(set, ..)| *set == 0).map(|(.., label)| &label[..]).collect()),
    };
    let mut splits = [vec![], vec![], vec![]];
    for (set, file, label) in rows {
        let by_name = classes.iter().position(|class| *class == label);
        // A model's classes may have names where the table has numbers.
        let by_number = || label.parse().ok().filter(|label| *label < classes.len() && known.is_some());
        let Some(label) = by_name.or_else(by_number) else {
            let of = if known.is_some() { "the model has" } else { "the training set has" };
            return Err(Error::data(path, format!("found the label {label} of {file}, which is none that {of}")));
        };
        splits[set].push(Item { file, label: label as u32 });
    }
    Ok(Listing { root: folder_of(path).to_owned(), path: path.to_owned(), classes, splits, notes: vec![] })
}

/// Labels in order: of numbers where all are numbers, else of names.
fn sorted(labels: BTreeSet<&str>) -> Vec<String> {
    let mut labels: Vec<&str> = labels.into_iter().collect();
    if let Some(numbers) = labels.iter().map(|label| label.parse::<i64>().ok()).collect::<Option<Vec<_>>>() {
        let mut pairs: Vec<_> = numbers.into_iter().zip(labels).collect();
        pairs.sort();
        labels = pairs.into_iter().map(|(_, label)| label).collect();
    }
    labels.into_iter().map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::super::pictures::tests::save_grey;
    use super::*;

    /// Twelve pictures `p/0.png` …, of values 0 …, and a table with this text.
    fn table(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        (0..12).for_each(|i| save_grey(&dir.path().join(format!("p/{i}.png")), i, 2));
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn read(path: &Path, known: Option<&[&str]>) -> Result<Loaded> {
        let classes = known.map(|known| known.iter().map(|name| String::from(*name)).collect());
        Table.read(path, &Reading { classes, ..Reading::default() }, &|_, _| {})
    }

    fn refusal(text: &str) -> String {
        let (_dir, path) = table("t.csv", text);
        let error = read(&path, None).unwrap_err();
        assert!(matches!(error, Error::Data { .. }), "{error:?}");
        error.to_string().split_once("t.csv: ").unwrap().1.to_owned()
    }

    const SPLIT: &str = "Split,label,file\ntrain,9,p/3.png\ntrain,10,p/1.png\nval,9,p/2.png\ntest,10,p/0.png\n";

    /// Catches labels that are sorted as text, rows in another order, and a set under another name.
    #[test]
    fn rows_keep_their_order_and_numbers_theirs() {
        let (_dir, path) = table("t.csv", SPLIT);
        assert!(Table.recognises(&path));
        let Loaded { train, validation, test, classes, .. } = read(&path, None).unwrap();
        assert_eq!(classes, ["9", "10"]);
        assert_eq!((train.labels.clone(), train.image(0)[0], train.image(1)[0]), (vec![0, 1], 3, 1));
        assert_eq!((validation.unwrap().labels, test.labels), (vec![0], vec![1]));
        assert_eq!(train.files, ["p/3.png", "p/1.png"]);
    }

    #[test]
    fn tabs_quotes_and_a_byte_order_mark_are_understood() {
        let rows: String =
            (0..12).map(|i| format!("\"p/{i}.png\"\t{}\r\n", if i % 2 == 0 { "a, b" } else { "c" })).collect();
        let (_dir, path) = table("t.TSV", &format!("\u{feff}path\tclass\r\n{rows}"));
        let Loaded { train, test, classes, .. } = read(&path, None).unwrap();
        assert_eq!((&classes[..], train.len(), test.len()), (&["a, b".to_owned(), "c".into()][..], 10, 2));
    }

    #[test]
    fn known_classes_are_meant_by_name_or_number() {
        let (_dir, path) = table("t.csv", "file,label,split\np/1.png,dog,test\np/2.png,1,test\np/3.png,cat,train\n");
        let Loaded { test, .. } = read(&path, Some(&["dog", "cat"])).unwrap();
        assert_eq!(test.labels, [0, 1]);
        let message = read(&path, Some(&["dog", "bird"])).unwrap_err().to_string();
        assert!(message.ends_with("found the label cat of p/3.png, which is none that the model has"), "{message}");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        assert_eq!(refusal("a,b\n1,2\n"), "found the columns a, b, expected one called file");
        assert_eq!(refusal("file,label\n"), "found no line of a picture, expected at least one");
        assert_eq!(
            refusal("file,label\np/1.png,a\np/2.png\n"),
            "line 3: found 1 fields, expected 2, as the first line has"
        );
        let missing = "line 2: found p/99.png, which is not there, expected a picture";
        assert_eq!(refusal("file,label\np/99.png,a\n"), missing);
        assert_eq!(refusal("file,label\np/1.png,\n"), "line 2: found no label, expected one");
        let split = "line 2: found the split \"extra\", expected train, val or test";
        assert_eq!(refusal("file,label,split\np/1.png,a,extra\n"), split);
        let test_only = "found the label b of p/2.png, which is none that the training set has";
        assert_eq!(refusal("file,label,split\np/1.png,a,train\np/2.png,b,test\n"), test_only);
        assert_eq!(refusal("file,label\np/1.png,a\np/2.png,a\n"), "found one class only, a, expected at least two");
    }
}
