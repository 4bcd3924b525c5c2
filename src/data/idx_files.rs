//! Where the files of an IDX set are: under their published names, or under names that are near them.
//!
//! Archives, unpackers and collections rename them: `train-images.idx3-ubyte`, or `train-images-idx3-ubyte` in a folder
//! that is called so too. What was taken for what is said.

use std::path::{Path, PathBuf};

use crate::{Error, Result, fs};

/// `folder/name` or `folder/name.gz`, if there is one.
pub(super) fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    [folder.join(name), folder.join(format!("{name}.gz"))].into_iter().find(|path| path.is_file())
}

/// The four files of a set, and what to say of where they were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetFiles {
    /// Training images and labels, test images and labels.
    pub paths: [PathBuf; 4],
    /// A line where they are not under their names.
    pub notes: Vec<String>,
}

const NAMES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

impl SetFiles {
    /// The files of a set of the MNIST family, in `dir/FOLDER/raw`, where torchvision puts them, with
    /// `torchvision_folder` as FOLDER; in `dir`; or a level above or below. `advice` ends the error where none of them
    /// is there.
    ///
    /// # Errors
    /// [`Error::Data`] where one of them is missing.
    pub fn published(dir: &Path, torchvision_folder: &str, advice: &str) -> Result<Self> {
        let below = dir.join(torchvision_folder);
        let raw = below.join("raw");
        // Another set may lie in `dir` itself, under the same names: the folder with this set's own name comes first.
        let mut near = vec![dir.join("raw"), below];
        near.extend(dir.is_dir().then(|| fs::folder_of(dir).join("raw")));
        // One folder for all four files, so that two data sets are never mixed.
        let all = [raw.as_path(), dir].into_iter().chain(near.iter().map(PathBuf::as_path));
        let mut listings = all.map(|folder| (folder, listed(folder, |name| NAMES.contains(&name))));
        let Some((folder, listed)) = listings.find(|(_, listed)| !listed.is_empty()) else {
            let (names, raw) = (NAMES.join(", "), raw.display());
            let message = format!("found none of {names} (plain or .gz), neither here nor in {raw}{advice}");
            return Err(Error::data(dir, message));
        };
        let path = |name: &str| {
            let found = listed.iter().find(|file| file.name == name).map(|file| file.path.clone());
            found.ok_or_else(|| Error::data(folder, format!("found neither {name} nor {name}.gz")))
        };
        let paths = [path(NAMES[0])?, path(NAMES[1])?, path(NAMES[2])?, path(NAMES[3])?];
        let is_exact = |(path, name): &(&PathBuf, &str)| find(folder, name).as_ref() == Some(*path);
        let mut others = paths.iter().zip(NAMES).filter(|pair| !is_exact(pair));
        let mut notes = vec![];
        if folder != dir && near.iter().any(|near| near == folder) {
            notes.push(format!("data: the files are read from {}", folder.display()));
        }
        if let Some((path, name)) = others.next() {
            let more = match others.count() {
                0 => String::new(),
                n => format!(", and {n} more so"),
            };
            let path = path.strip_prefix(folder).unwrap_or(path).display();
            notes.push(format!("data: {path} is taken for {name}{more}"));
        }
        Ok(Self { paths, notes })
    }
}

/// A file of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// As published sets write names: in small letters, without `.gz`, and with `-` for `.`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// The files of a folder whose names are `wanted`; a folder with a file of its own name in it stands for that file. Of
/// files with one name the plain one is there.
pub(super) fn listed(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<Listed> {
    let mut found = vec![];
    // What cannot be listed has nothing that is wanted.
    for file in fs::names(folder).unwrap_or_default() {
        let Some(text) = file.to_str() else { continue };
        let plain = text.strip_suffix(".gz").unwrap_or(text);
        let name = plain.to_lowercase().replace('.', "-");
        if !wanted(&name) {
            continue;
        }
        let path = folder.join(text);
        let path = if path.is_file() { Some(path) } else { find(&path, plain) };
        if let Some(path) = path {
            // A name as it should be comes first, then a plain file.
            let is_gzip = path.extension().is_some_and(|extension| extension == "gz");
            found.push(((name.clone(), name != plain, is_gzip), Listed { name, path }));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found.dedup_by(|(later, _), (first, _)| later.0 == first.0);
    found.into_iter().map(|(_, file)| file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }

    fn found(dir: &Path) -> SetFiles {
        SetFiles::published(dir, "MNIST", "").unwrap()
    }

    #[test]
    fn names_that_are_near_are_taken_and_said() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d");
        write(&dir.join("train-images.idx3-ubyte"));
        write(&dir.join("train-labels-idx1-ubyte/train-labels-idx1-ubyte"));
        write(&dir.join("t10k-images.idx3-ubyte.gz"));
        write(&dir.join("T10k-labels-idx1-ubyte"));
        let SetFiles { paths, notes } = found(&dir);
        assert!(paths.iter().all(|path| path.is_file()), "{paths:?}");
        let note = "data: train-images.idx3-ubyte is taken for train-images-idx3-ubyte, and 3 more so";
        assert_eq!(notes, [note]);
        // The right names come first, and nothing is to be said of them.
        NAMES.iter().for_each(|name| write(&dir.join(format!("{name}.gz"))));
        let exact = SetFiles { paths: NAMES.map(|name| dir.join(format!("{name}.gz"))), notes: vec![] };
        std::fs::remove_dir_all(dir.join("train-labels-idx1-ubyte")).unwrap();
        std::fs::remove_file(dir.join("T10k-labels-idx1-ubyte")).unwrap();
        assert_eq!(found(&dir), exact);
    }

    #[test]
    fn torchvisions_folder_is_found_from_above_and_below() {
        let root = tempfile::tempdir().unwrap();
        let raw = root.path().join("MNIST/raw");
        NAMES.iter().for_each(|name| write(&raw.join(name)));
        std::fs::create_dir(root.path().join("MNIST/processed")).unwrap();
        for (dir, said) in [("", 0), ("MNIST", 1), ("MNIST/raw", 0), ("MNIST/processed", 1)] {
            let SetFiles { paths, notes } = found(&root.path().join(dir));
            assert_eq!(notes.len(), said, "{dir}: {notes:?}");
            assert!(paths[0].ends_with("MNIST/raw/train-images-idx3-ubyte") || dir == "MNIST/processed", "{paths:?}");
        }
        // Of two sets under one root, each by its own name, also where another lies in the root itself.
        NAMES.iter().for_each(|name| write(&root.path().join(name)));
        assert!(found(root.path()).paths[0].starts_with(&raw));
        assert!(SetFiles::published(root.path(), "FashionMNIST", "").unwrap().paths[0].starts_with(root.path()));
    }
}
