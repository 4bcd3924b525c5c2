//! A folder of IDX files whose classes are whatever its labels are, as EMNIST's.
//!
//! The files of a set are known by what their names say: `train` or `test` (MNIST's `t10k`), `images` or `labels`. What
//! stands before that is the set's name: `emnist-letters`. Of several sets in a folder, a path to
//! `FOLDER/emnist-letters` chooses one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Dataset;
use super::format::{Format, Loaded, ReadProgress, Reading};
use super::idx::{check_shapes, open, read_labels_of, read_planes};
use super::idx_files::listed;
use crate::ops::IGNORED;
use crate::{Error, Result, fs, input};

/// The folder as a format.
pub struct IdxFolder;

impl Format for IdxFolder {
    fn name(&self) -> &'static str {
        "idx"
    }

    fn about(&self) -> &'static str {
        "IDX files of any classes, such as EMNIST's: images and labels, train and test"
    }

    fn recognises(&self, path: &Path) -> bool {
        let is_idx = |path: &PathBuf| {
            let mut magic = [0; 3];
            open(path).is_ok_and(|(mut file, _)| file.read_exact(&mut magic).is_ok()) && magic == [0, 0, 8]
        };
        sets(path).is_ok_and(|(_, sets)| sets.values().flatten().flatten().any(is_idx))
    }

    fn reads_ignored(&self) -> bool {
        true
    }

    fn read(&self, path: &Path, how: &Reading, _: ReadProgress) -> Result<Loaded> {
        let Set { name, folder, paths, mut notes } = Set::find(path)?;
        let [train_images, train_labels, test_images, test_labels] = &paths;
        let (n, shape, images) = read_planes(train_images)?;
        let labels = read_labels_of(train_labels, train_images, n)?;
        let (test_n, test_shape, test_pixels) = read_planes(test_images)?;
        let test_values = read_labels_of(test_labels, test_images, test_n)?;
        check_shapes((train_images, shape), (test_images, test_shape))?;

        let values: BTreeSet<u8> = labels.iter().copied().filter(|&label| how.ignored != Some(label.into())).collect();
        let names = Names::find(&folder, &name, &values)?;
        let classes = match &how.classes {
            Some(known) => known.clone(),
            None => values.iter().map(|&value| names.of(value)).collect::<Result<Vec<_>>>()?,
        };
        if let ([_] | [], None) = (&classes[..], &how.classes) {
            let found = classes.first().map_or("no class".into(), |only| format!("one class only, {only}"));
            return Err(Error::data(train_labels, format!("found {found}, expected at least two")));
        }
        let all: BTreeSet<u8> =
            (labels.iter().chain(&test_values).copied()).filter(|&label| how.ignored != Some(label.into())).collect();
        let of_value = places(&names, &classes, how.classes.is_some().then_some(&all));
        let dataset = |path: &Path, labels: &[u8], images: Vec<u8>| -> Result<Dataset> {
            let label = |(i, &label): (usize, &u8)| match of_value[usize::from(label)] {
                _ if how.ignored == Some(label.into()) => Ok(IGNORED),
                Some(class) => Ok(class),
                None => {
                    let of = if how.classes.is_some() { "the model has" } else { "the training set has" };
                    Err(Error::data(path, format!("the label at index {i} is {label}, which is none that {of}")))
                }
            };
            let labels = labels.iter().enumerate().map(label).collect::<Result<_>>()?;
            Ok(Dataset { shape, classes: classes.len(), images, labels, files: vec![] })
        };
        let train = dataset(train_labels, &labels, images)?;
        let test = dataset(test_labels, &test_values, test_pixels)?;

        let is_shifted = values.iter().any(|&label| of_value[usize::from(label)] != Some(label.into()));
        if let (true, Some(first), Some(last)) = (is_shifted, values.first(), values.last()) {
            let n = values.len();
            notes.push(format!("data: the files have {n} labels from {first} to {last}; the classes count from 0"));
        }
        if name.starts_with("emnist") {
            notes.push(
                "data: EMNIST's images are published with rows and columns exchanged, and are read as they are".into(),
            );
        }
        let ignored = how.ignored.map(|label| {
            let class = u8::try_from(label).ok().and_then(|label| of_value[usize::from(label)]);
            class.map_or(label, i64::from)
        });
        let normalisation = train.normalisation();
        Ok(Loaded { train, test, classes, normalisation, notes, ignored, ..Loaded::default() })
    }
}

/// Of every label the place of its class. A model's classes, where `all` labels of the data are given, may be called
/// otherwise than this data's: by the labels' numbers, or as nobody here knows; then as many labels are taken in their
/// order.
fn places(names: &Names, classes: &[String], all: Option<&BTreeSet<u8>>) -> Vec<Option<u32>> {
    let place = |name: String| classes.iter().position(|class| *class == name).map(|place| place as u32);
    let by_name = |label: u8| names.of(label).ok().and_then(place);
    let by_number = |label: u8| place(label.to_string());
    let by_order = |label: u8| all?.iter().position(|&other| other == label).map(|place| place as u32);
    let ways: [&dyn Fn(u8) -> Option<u32>; 3] = [&by_name, &by_number, &by_order];
    let Some(all) = all else { return (0..=u8::MAX).map(by_name).collect() };
    let fits =
        |way: usize| all.iter().any(|&label| ways[way](label).is_some()) && (way < 2 || all.len() == classes.len());
    match (0..3).find(|way| fits(*way)) {
        Some(way) => (0..=u8::MAX).map(ways[way]).collect(),
        None => vec![None; 256],
    }
}

/// What the files of a set are, by their place in its list.
const PARTS: [&str; 4] = ["training images", "training labels", "test images", "test labels"];

/// A set without a name of its own is called so.
const UNNAMED: &str = "train";

/// The files of a folder's sets, by the sets' names and [`PARTS`].
type Sets = BTreeMap<String, [Vec<PathBuf>; 4]>;

/// What the name of a file says: its set, and which part it is.
fn part(name: &str) -> Option<(&str, usize)> {
    // The last word counts: there may be one in the set's name.
    let last = |words: &[(&str, usize)]| {
        words.iter().filter_map(|(word, value)| Some((name.rfind(word)?, *value))).max_by_key(|(at, _)| *at)
    };
    let (split_at, split) = last(&[("train", 0), ("test", 2), ("t10k", 2)])?;
    let (kind_at, kind) = last(&[("images", 0), ("labels", 1)])?;
    let set = name[..split_at.min(kind_at)].trim_end_matches(['-', '_', ' ']);
    Some((if set.is_empty() { UNNAMED } else { set }, split + kind))
}

/// The sets at a path, or a level below, and their folder; those of that name where the path is none of a folder.
fn sets(path: &Path) -> Result<(PathBuf, Sets)> {
    let (folder, wanted) = match (path.is_dir(), path.file_name().and_then(|name| name.to_str())) {
        (false, Some(name)) => (fs::folder_of(path), Some(name.to_lowercase())),
        _ => (path, None),
    };
    let in_folder = |folder: PathBuf| {
        let mut sets = Sets::new();
        for file in listed(&folder, |name| part(name).is_some()) {
            if let Some((set, part)) =
                part(&file.name).filter(|(set, _)| wanted.as_deref().is_none_or(|name| name == *set))
            {
                sets.entry(set.into()).or_default()[part].push(file.path);
            }
        }
        (folder, sets)
    };
    let here = in_folder(folder.to_owned());
    if !here.1.is_empty() || path.is_file() {
        return Ok(here);
    }
    // EMNIST's archive has a folder `gzip`, torchvision's root EMNIST/raw.
    let children = fs::names(folder)?.into_iter().map(|name| folder.join(name));
    let below =
        ["raw", "gzip"].map(|name| folder.join(name)).into_iter().chain(children.map(|child| child.join("raw")));
    let mut found = below.filter(|folder| folder.is_dir()).map(in_folder).filter(|(_, sets)| !sets.is_empty());
    match (found.next(), found.next()) {
        (Some((one, _)), Some((other, _))) => {
            let found = format!("found IDX files in {} and in {}", one.display(), other.display());
            Err(Error::data(path, format!("{found}, expected one folder: name it")))
        }
        (one, _) => Ok(one.unwrap_or((folder.to_owned(), Sets::new()))),
    }
}

/// The set that is read.
struct Set {
    name: String,
    folder: PathBuf,
    paths: [PathBuf; 4],
    notes: Vec<String>,
}

impl Set {
    fn find(path: &Path) -> Result<Self> {
        let (folder, sets) = sets(path)?;
        let names: Vec<_> = sets.keys().cloned().collect();
        let mut sets = sets.into_iter();
        let (name, files) = match (sets.next(), names.len()) {
            (Some(set), 1) => set,
            (None, _) => {
                let expected = "files whose names have train or test, and images or labels";
                return Err(Error::data(path, format!("found no IDX files, expected {expected}")));
            }
            (Some(_), _) => {
                let chooses = format!("{} chooses the first", folder.join(&names[0]).display());
                return Err(Error::data(path, format!("found the sets {}, expected one: {chooses}", names.join(", "))));
            }
        };
        let mut paths = vec![];
        for (files, part) in files.into_iter().zip(PARTS) {
            paths.push(match &files[..] {
                [one] => one.clone(),
                [] => {
                    return Err(Error::data(
                        &folder,
                        format!("found no {part} of the set {name}, expected an IDX file"),
                    ));
                }
                [one, other, ..] => {
                    let [one, other] = [one, other].map(|path| path.strip_prefix(&folder).unwrap_or(path).display());
                    return Err(Error::data(&folder, format!("found {one} and {other}, expected one file of {part}")));
                }
            });
        }
        let notes = match folder == path || !path.is_dir() {
            true => vec![],
            false => vec![format!("data: the files are read from {}", folder.display())],
        };
        let paths = paths.try_into().unwrap_or_default();
        Ok(Self { name, folder, paths, notes })
    }
}

/// What the labels stand for, where a file says so.
struct Names(Option<(PathBuf, BTreeMap<u8, String>)>);

impl Names {
    /// Reads `NAME-mapping.txt`, or the one file that is called so: a line for each label, with the numbers of the
    /// characters that it stands for.
    fn find(folder: &Path, set: &str, values: &BTreeSet<u8>) -> Result<Self> {
        let mut files = listed(folder, |name| name.ends_with("mapping-txt"));
        if let Some(own) = files.iter().position(|file| file.name == format!("{set}-mapping-txt")) {
            files = vec![files.swap_remove(own)];
        }
        let [file] = &files[..] else { return Ok(Self(None)) };
        let path = &file.path;
        let text = input::read_text(path, "a line for each label")?;
        let mut names = BTreeMap::new();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |found: &str| {
                let expected = "a label and the numbers of its characters";
                Error::data(path, format!("line {}: found {found}, expected {expected}", i + 1))
            };
            let numbers: Option<Vec<u32>> = line.split_whitespace().map(|word| word.parse().ok()).collect();
            let Some([label, characters @ ..]) = numbers.as_deref() else { return Err(wrong(&format!("{line:?}"))) };
            let characters = characters.iter().map(|&c| char::from_u32(c).filter(|c| !c.is_control()));
            let characters: Option<Vec<_>> = characters.map(|c| c.map(String::from)).collect();
            let name = characters.map(|characters| characters.join("/")).filter(|name| !name.is_empty());
            let (Ok(label), Some(name)) = (u8::try_from(*label), name) else { return Err(wrong(&format!("{line:?}"))) };
            if names.insert(label, name).is_some() {
                return Err(wrong(&format!("the label {label} again")));
            }
        }
        let mut seen = BTreeMap::new();
        for (label, name) in names.iter().filter(|(label, _)| values.contains(label)) {
            if let Some(other) = seen.insert(name, label) {
                let message = format!("found {name} for the labels {other} and {label}, expected a name for each");
                return Err(Error::data(path, message));
            }
        }
        Ok(Self(Some((path.clone(), names))))
    }

    /// The name of a label's class.
    fn of(&self, label: u8) -> Result<String> {
        match &self.0 {
            None => Ok(label.to_string()),
            Some((path, names)) => names.get(&label).cloned().ok_or_else(|| {
                Error::data(path, format!("found no line of the label {label}, expected one for each label"))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idx(path: &Path, dims: &[u32], data: &[u8]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let words = [0x0800 | dims.len() as u32].into_iter().chain(dims.iter().copied()).flat_map(u32::to_be_bytes);
        std::fs::write(path, words.chain(data.iter().copied()).collect::<Vec<_>>()).unwrap();
    }

    /// A set of these labels, each image 2x3 of its label.
    fn set(folder: &Path, name: &str, train: &[u8], test: &[u8]) {
        for (part, labels) in [("train", train), ("test", test)] {
            let n = labels.len() as u32;
            let pixels: Vec<u8> = labels.iter().flat_map(|&label| [label; 6]).collect();
            idx(&folder.join(format!("{name}{part}-images-idx3-ubyte")), &[n, 2, 3], &pixels);
            idx(&folder.join(format!("{name}{part}-labels-idx1-ubyte")), &[n], labels);
        }
    }

    fn read(path: &Path, how: &Reading) -> Result<Loaded> {
        assert!(IdxFolder.recognises(path));
        IdxFolder.read(path, how, &|_, _| {})
    }

    fn refusal(path: &Path) -> String {
        let error = IdxFolder.read(path, &Reading::default(), &|_, _| {}).unwrap_err();
        assert!(matches!(error, Error::Data { .. }), "{error:?}");
        error.to_string()
    }

    #[test]
    fn labels_of_any_numbers_become_classes() {
        let dir = tempfile::tempdir().unwrap();
        set(dir.path(), "emnist-letters-", &[1, 26, 3, 1], &[26, 1]);
        let Loaded { train, test, classes, notes, .. } = read(dir.path(), &Reading::default()).unwrap();
        assert_eq!((&classes[..], train.shape), (&["1".to_owned(), "3".into(), "26".into()][..], [1, 2, 3]));
        assert_eq!((&train.labels[..], &test.labels[..], train.image(1)[0]), (&[0, 2, 1, 0][..], &[2, 0][..], 26));
        assert_eq!(notes[0], "data: the files have 3 labels from 1 to 26; the classes count from 0");
        assert!(notes[1].contains("rows and columns exchanged"), "{notes:?}");
        std::fs::write(dir.path().join("emnist-letters-mapping.txt"), "1 65 97\n\n3 67 99\r\n26 90 122\n").unwrap();
        assert_eq!(read(dir.path(), &Reading::default()).unwrap().classes, ["A/a", "C/c", "Z/z"]);
    }

    /// Catches a label that is ignored twice: by its number in the file, and by that of the class that it would be.
    #[test]
    fn an_ignored_label_makes_no_class() {
        let dir = tempfile::tempdir().unwrap();
        set(dir.path(), "", &[1, 2, 3, 4], &[2, 1, 4]);
        let how = Reading { ignored: Some(1), ..Reading::default() };
        let Loaded { train, test, classes, ignored, .. } = read(dir.path(), &how).unwrap();
        assert_eq!((classes.len(), ignored), (3, Some(1)));
        assert_eq!((train.labels, test.labels), (vec![IGNORED, 0, 1, 2], vec![0, IGNORED, 2]));
        // Of a model that knows the label, its class: what is ignored makes no difference to the images' hash.
        let known = Some(vec!["1".to_owned(), "2".into(), "3".into(), "4".into()]);
        let how = Reading { classes: known, ..how };
        let Loaded { test, ignored, .. } = read(dir.path(), &how).unwrap();
        assert_eq!((&test.labels[..], ignored), (&[1, IGNORED, 3][..], Some(0)));
        let all = read(dir.path(), &Reading { ignored: None, ..how }).unwrap().test;
        assert_eq!(test.sha256(9, ignored), all.sha256(9, None));
    }

    #[test]
    fn a_models_classes_keep_their_labels_whatever_they_are_called() {
        let dir = tempfile::tempdir().unwrap();
        set(dir.path(), "", &[5, 7], &[7]);
        let labels = |known: &[&str]| {
            let classes = Some(known.iter().map(|&name| name.into()).collect());
            IdxFolder
                .read(dir.path(), &Reading { classes, ..Reading::default() }, &|_, _| {})
                .map(|all| all.test.labels)
        };
        assert_eq!(labels(&["7", "5", "9"]).unwrap(), [0]);
        assert_eq!(labels(&["a", "b"]).unwrap(), [1]);
        let message = labels(&["a", "b", "c"]).unwrap_err().to_string();
        assert!(message.ends_with("the label at index 0 is 5, which is none that the model has"), "{message}");
        std::fs::write(dir.path().join("mapping.txt"), "5 98\n7 97").unwrap();
        assert_eq!(labels(&["a", "b"]).unwrap(), [0]);
        assert_eq!(labels(&["5", "7"]).unwrap(), [1]);
    }

    #[test]
    fn images_may_have_channels() {
        let dir = tempfile::tempdir().unwrap();
        set(dir.path(), "", &[0, 1], &[1]);
        let with = |train: &[u32], test: &[u32]| {
            for (name, dims) in [("train", train), ("test", test)] {
                let n = dims.iter().product::<u32>() as u8;
                idx(&dir.path().join(format!("{name}-images-idx3-ubyte")), dims, &(0..n).collect::<Vec<_>>());
            }
        };
        with(&[2, 3, 2, 4], &[1, 3, 2, 4]);
        let Loaded { train, normalisation, notes, .. } = read(dir.path(), &Reading::default()).unwrap();
        assert_eq!((train.shape, train.image(1)[0], normalisation.len()), ([3, 2, 4], 24, 3));
        assert_eq!(notes, Vec::<String>::new());
        with(&[2, 1, 2, 4], &[1, 2, 4]);
        assert_eq!(read(dir.path(), &Reading::default()).unwrap().train.shape, [1, 2, 4]);
        with(&[2, 1, 2, 4], &[1, 3, 2, 4]);
        assert!(refusal(dir.path()).contains("images are 3x2x4, expected 1x2x4 as in "), "{}", refusal(dir.path()));
        with(&[2, 2, 4, 3], &[1, 2, 4]);
        assert!(refusal(dir.path()).contains("announces 2 x 2 x 4 x 3, expected images x channels x height x width"));
    }

    #[test]
    fn one_of_several_sets_is_chosen_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let gzip = dir.path().join("gzip");
        set(&gzip, "emnist-letters-", &[1, 2], &[2]);
        let found = read(dir.path(), &Reading::default()).unwrap();
        assert!(found.notes[0].starts_with("data: the files are read from ") && found.notes[0].ends_with("gzip"));
        set(&gzip, "emnist-balanced-", &[0, 1, 2], &[2]);
        set(&gzip, "", &[0, 1, 2, 3], &[2]);
        let message = refusal(dir.path());
        let parts = ["found the sets emnist-balanced, emnist-letters, train, expected one: ", "gzip/emnist-balanced"];
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        for (path, n) in [("gzip/emnist-balanced", 3), ("emnist-letters", 2), ("gzip/train", 4)] {
            assert_eq!(read(&dir.path().join(path), &Reading::default()).unwrap().classes.len(), n, "{path}");
        }
        assert!(!IdxFolder.recognises(&dir.path().join("emnist-digits")));
        set(&dir.path().join("more/raw"), "", &[0, 1], &[1]);
        assert!(refusal(dir.path()).contains("expected one folder: name it"), "{}", refusal(dir.path()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(!IdxFolder.recognises(root) && refusal(root).contains("found no IDX files, expected files whose"));
        let again = || set(root, "", &[1, 2], &[2]);
        again();
        idx(&root.join("test-labels-idx1-ubyte"), &[1], &[3]);
        assert!(refusal(root).ends_with("the label at index 0 is 3, which is none that the training set has"));
        idx(&root.join("train-labels-idx1-ubyte"), &[2], &[3, 3]);
        assert!(refusal(root).ends_with("found one class only, 3, expected at least two"));
        std::fs::remove_file(root.join("train-labels-idx1-ubyte")).unwrap();
        assert!(refusal(root).ends_with("found no training labels of the set train, expected an IDX file"));
        again();
        idx(&root.join("train-labels-more"), &[2], &[1, 2]);
        assert!(refusal(root).ends_with("expected one file of training labels"));
        std::fs::remove_file(root.join("train-labels-more")).unwrap();
        for (text, expected) in [
            ("1 65\n", "found no line of the label 2, expected one for each label"),
            ("1 65\n2 65", "found A for the labels 1 and 2, expected a name for each"),
            ("1 65\n1 66", "line 2: found the label 1 again, expected a label and"),
            ("1 65\n2", "line 2: found \"2\", expected a label and"),
            ("1 65\n2 7", "line 2: found \"2 7\", expected"),
            ("300 65", "line 1: found \"300 65\", expected"),
            ("1 -65", "line 1: found \"1 -65\", expected"),
        ] {
            std::fs::write(root.join("x-mapping.txt"), text).unwrap();
            assert!(refusal(root).contains(expected), "{}", refusal(root));
        }
        std::fs::write(root.join("train-images-idx3-ubyte"), b"\0\0\x08\x03\0").unwrap();
        assert!(refusal(root).contains("train-images-idx3-ubyte: ends after 5 bytes, expected a header of 16"));
        // Nothing of IDX is in a folder of pictures that is called so.
        std::fs::write(root.join("train-images-idx3-ubyte"), "x").unwrap();
        ["train-labels", "test-labels", "test-images"].iter().for_each(|name| {
            listed(root, |file| file.starts_with(name))
                .iter()
                .for_each(|file| std::fs::write(&file.path, "x").unwrap());
        });
        assert!(!IdxFolder.recognises(root));
    }
}
