//! What CIFAR-10 and CIFAR-100 share: their binary versions are records of label bytes and 3 x 32 x 32 pixels, plane by
//! plane, without a header. They lie in a folder, plain or gzip, or in the archive as published, which is read where it
//! is.
//!
//! Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and the data sets' page.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, copy, sink};
use std::path::{Path, PathBuf};

use tar::Archive;

use super::Dataset;
use super::idx::open;
use super::idx_files::find;
use crate::{Error, Result};

const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = SHAPE[0] * SHAPE[1] * SHAPE[2];
/// More than the 50,000 records of any published file, so that no file can fill the memory.
const MAX_RECORDS: usize = 100_000;
/// The most bytes of a list of names.
const MAX_NAMES: u64 = 1 << 16;
/// The most that an archive unpacks to: the published ones have 180 MB.
const MAX_UNPACKED: u64 = 1 << 30;
/// Training images of both sets.
const PUBLISHED: usize = 50_000;

/// How the files of a set are called, and how its records are made.
pub(super) struct Layout {
    /// What it is, for errors.
    pub title: &'static str,
    /// Label bytes of a record.
    pub labels: usize,
    /// Which of them is the label.
    pub label: usize,
    /// Each label is below it.
    pub classes: usize,
    /// The folder that the archive unpacks to.
    pub folder: &'static str,
    /// The archive as it is published.
    pub archive: &'static str,
    /// Training files, in the order of their images.
    pub train: &'static [&'static str],
    /// The test file.
    pub test: &'static str,
    /// A line for each class, where the set has such a file.
    pub names: Option<&'static str>,
}

/// Where the files are.
enum Place {
    Folder(PathBuf),
    Archive(PathBuf),
}

/// The files of a set.
enum Files {
    Folder(PathBuf),
    /// Each by its name, and the archive's path.
    Archive(PathBuf, BTreeMap<String, Vec<u8>>),
}

impl Layout {
    /// Training set, test set, and the classes' names where a file says them. `path` is a folder with the files, with
    /// the folder that the archive unpacks to, or with the archive; or the archive itself.
    pub fn load(&self, path: &Path) -> Result<(Dataset, Dataset, Option<Vec<String>>)> {
        let mut files = match self.place(path)? {
            Place::Folder(folder) => Files::Folder(folder),
            Place::Archive(archive) => {
                let members = self.unpacked(&archive)?;
                Files::Archive(archive, members)
            }
        };
        let mut read = |names: &[&str]| -> Result<Dataset> {
            let empty = Dataset { shape: SHAPE, classes: self.classes, ..Dataset::default() };
            names.iter().try_fold(empty, |mut data, name| {
                if let Some((path, bytes)) = files.take(name, self.most(name))? {
                    self.append(&path, &bytes, &mut data)?;
                }
                Ok(data)
            })
        };
        let (train, test) = (read(self.train)?, read(&[self.test])?);
        if train.is_empty() {
            let list = match self.train {
                [first, .., last] => format!("{first} to {last}"),
                only => only.concat(),
            };
            return Err(Error::data(files.path(), format!("found none of {list} (plain or .gz)")));
        }
        let names = self.names.map(|name| files.take(name, MAX_NAMES)).transpose()?.flatten();
        let names = names.map(|(path, bytes)| self.class_names(&path, &bytes)).transpose()?;
        Ok((train, test, names))
    }

    /// Whether there are such files.
    pub fn is_at(&self, path: &Path) -> bool {
        match self.place(path) {
            Ok(Place::Folder(folder)) => self.train.iter().any(|name| find(&folder, name).is_some()),
            // By its name: to look into it takes a second.
            Ok(Place::Archive(archive)) => {
                let stem = self.archive.trim_end_matches(".tar.gz");
                archive.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(stem))
            }
            Err(_) => false,
        }
    }

    /// Checks that every training image of `train`, as [`Self::load`] read it, is at its place in the published set,
    /// where labels that come in a file of their own expect it.
    ///
    /// # Errors
    /// [`Error::Data`] where a file is missing, or the training set is not the published one's 50,000 images.
    pub fn check_places(&self, path: &Path, train: &Dataset) -> Result<()> {
        // An archive without one of them is not read.
        if let Place::Folder(folder) = self.place(path)?
            && let Some(missing) = self.train.iter().find(|name| find(&folder, name).is_none())
        {
            return Err(Error::data(folder, format!("found no {missing}, expected every training batch")));
        }
        match train.len() {
            PUBLISHED => Ok(()),
            found => {
                let message = format!("found {found} training images, expected the published {PUBLISHED}");
                Err(Error::data(path, message))
            }
        }
    }

    fn place(&self, path: &Path) -> Result<Place> {
        if path.is_file() {
            return Ok(Place::Archive(path.into()));
        }
        let [unpacked, archive] = [self.folder, self.archive].map(|name| path.join(name));
        let holds_test = |folder: &&Path| find(folder, self.test).is_some();
        if let Some(folder) = [path, &unpacked].into_iter().find(holds_test) {
            return Ok(Place::Folder(folder.into()));
        }
        if archive.is_file() {
            return Ok(Place::Archive(archive));
        }
        let (test, unpacked, archive) = (self.test, unpacked.display(), self.archive);
        let found = format!("found no {test} (plain or .gz), neither here nor in {unpacked}, and no {archive}");
        let set = archive.trim_end_matches("-binary.tar.gz");
        Err(Error::data(path, format!("{found}; `smoothcnn data fetch {set}` downloads it")))
    }

    /// The most bytes of a file.
    fn most(&self, name: &str) -> u64 {
        if self.names == Some(name) { MAX_NAMES } else { (self.record() * MAX_RECORDS) as u64 }
    }

    /// Bytes of a record.
    fn record(&self) -> usize {
        self.labels + PIXELS
    }

    /// The archive's files that belong to the set. Nothing is written.
    fn unpacked(&self, path: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
        let (source, _) = open(path)?;
        let mut archive = Archive::new(source.take(MAX_UNPACKED));
        let members = self.members(path, &mut archive);
        let mut rest = archive.into_inner();
        if rest.limit() == 0 {
            let expected = format!("{} as published", self.archive);
            return Err(Error::data(path, format!("unpacks to more than {MAX_UNPACKED} bytes, expected {expected}")));
        }
        let members = members?;
        // Only at its end gzip says whether all was whole.
        copy(&mut rest, &mut sink()).map_err(damaged(path))?;
        let needed = self.train.iter().chain([&self.test]);
        match needed.into_iter().find(|name| !members.contains_key(**name)) {
            Some(missing) => Err(Error::data(path, format!("found no {missing} in it, expected {}", self.title))),
            None => Ok(members),
        }
    }

    fn members(&self, path: &Path, archive: &mut Archive<impl Read>) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut members = BTreeMap::new();
        for entry in archive.entries().map_err(damaged(path))? {
            let mut entry = entry.map_err(damaged(path))?;
            let Ok(place) = entry.path() else { continue };
            let Some(name) = place.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
            let is_wanted = self.train.iter().chain([&self.test]).chain(&self.names).any(|wanted| *wanted == name);
            if !is_wanted || !entry.header().entry_type().is_file() {
                continue;
            }
            let (size, most) = (entry.size(), self.most(&name));
            if size > most {
                return Err(Error::data(path, format!("found {name} of {size} bytes, expected at most {most}")));
            }
            // The buffer grows with what is really there.
            let mut bytes = vec![];
            entry.by_ref().take(most).read_to_end(&mut bytes).map_err(damaged(path))?;
            if bytes.len() as u64 != size {
                let found = format!("found {} bytes of {name}", bytes.len());
                return Err(Error::data(path, format!("{found}, expected {size}: truncated")));
            }
            if members.insert(name.clone(), bytes).is_some() {
                return Err(Error::data(path, format!("found {name} twice, expected it once")));
            }
        }
        Ok(members)
    }

    /// Adds a file's records.
    fn append(&self, path: &Path, bytes: &[u8], data: &mut Dataset) -> Result<()> {
        let (record, classes, title) = (self.record(), self.classes, self.title);
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) || bytes.len() > record * MAX_RECORDS {
            let n = bytes.len();
            let message = format!("{n} bytes, expected 1 to {MAX_RECORDS} records of {record} bytes ({title})");
            return Err(Error::data(path, message));
        }
        for (i, record) in bytes.chunks(record).enumerate() {
            let label = record[self.label];
            if usize::from(label) >= classes {
                let message = format!("the label of record {i} is {label}, expected below {classes}");
                return Err(Error::data(path, message));
            }
            data.labels.push(label.into());
            data.images.extend_from_slice(&record[self.labels..]);
        }
        Ok(())
    }

    fn class_names(&self, path: &Path, bytes: &[u8]) -> Result<Vec<String>> {
        let text = String::from_utf8_lossy(bytes);
        let names: Vec<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
        let mut different = names.clone();
        different.sort();
        different.dedup();
        let (found, expected) = (different.len(), self.classes);
        match found == expected && names.len() == expected {
            true => Ok(names),
            false => {
                let found = format!("found {} names, {found} of them different", names.len());
                Err(Error::data(path, format!("{found}, expected {expected}: one for each class")))
            }
        }
    }
}

impl Files {
    fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Archive(path, _) => path,
        }
    }

    /// A file's bytes, one more than `most` where there are more; and what it is called in errors.
    fn take(&mut self, name: &str, most: u64) -> Result<Option<(PathBuf, Vec<u8>)>> {
        let folder = match self {
            Self::Archive(path, members) => return Ok(members.remove(name).map(|bytes| (path.join(name), bytes))),
            Self::Folder(folder) => folder,
        };
        let Some(path) = find(folder, name) else { return Ok(None) };
        let (source, gzip) = open(&path)?;
        let mut bytes = vec![];
        source.take(most + 1).read_to_end(&mut bytes).map_err(|error| match gzip {
            true => Error::data(&path, format!("truncated or corrupt gzip: {error}")),
            false => Error::io(&path)(error),
        })?;
        Ok(Some((path, bytes)))
    }
}

/// What a decoder or the reader of archives says of a file; what the system says is the system's.
fn damaged(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |error| match error.kind() {
        ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof | ErrorKind::Other => {
            Error::data(path, format!("truncated or corrupt archive (tar, gzip): {error}"))
        }
        _ => Error::io(path)(error),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    const LAYOUT: Layout = Layout {
        title: "a set, binary",
        labels: 2,
        label: 1,
        classes: 3,
        folder: "set-binary",
        archive: "set-binary.tar.gz",
        train: &["batch_1.bin", "batch_2.bin"],
        test: "test.bin",
        names: Some("names.txt"),
    };

    /// Records of one label, after a first label byte of 9 where there are two.
    pub fn records(labels: &[u8], bytes: usize) -> Vec<u8> {
        labels.iter().flat_map(|&label| [vec![9; bytes - 1], vec![label], vec![label * 3; PIXELS]].concat()).collect()
    }

    pub fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// An archive of these files.
    pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(vec![]);
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn good() -> Vec<u8> {
        tar(&[
            ("set-binary/batch_2.bin", &records(&[2], 2)),
            ("set-binary/readme.html", b"<html>"),
            ("set-binary/test.bin", &records(&[1], 2)),
            ("set-binary/batch_1.bin", &records(&[0, 1], 2)),
            ("set-binary/names.txt", b"a\nb\nc\n\n"),
        ])
    }

    fn refusal(path: &Path) -> String {
        let error = LAYOUT.load(path).unwrap_err();
        assert!(matches!(error, Error::Data { .. }), "{error:?}");
        assert!(!error.to_string().contains('\n'), "{error}");
        error.to_string()
    }

    #[test]
    fn an_archive_is_read_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set-binary.tar.gz");
        std::fs::write(&path, gzip(&good())).unwrap();
        let (train, test, names) = LAYOUT.load(&path).unwrap();
        assert_eq!((&train.labels[..], &test.labels[..], train.image(2)[0]), (&[0, 1, 2][..], &[1][..], 6));
        assert_eq!(names.as_ref().unwrap().concat(), "abc");
        assert!(LAYOUT.is_at(&path) && LAYOUT.is_at(dir.path()));
        assert_eq!(LAYOUT.load(dir.path()).unwrap(), (train.clone(), test.clone(), names.clone()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        // Unpacked is unpacked: what is there as files is read from them.
        tar::Archive::new(&good()[..]).unpack(dir.path()).unwrap();
        std::fs::write(&path, "no archive").unwrap();
        assert_eq!(LAYOUT.load(dir.path()).unwrap(), (train, test, names));
        // Another file is none of this set, unless it is named as one.
        std::fs::rename(&path, dir.path().join("other.tar.gz")).unwrap();
        assert!(!LAYOUT.is_at(&dir.path().join("other.tar.gz")));
    }

    #[test]
    fn a_damaged_archive_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set-binary.tar.gz");
        let with = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            refusal(&path)
        };
        let whole = gzip(&good());
        for keep in [12, whole.len() / 2, whole.len() - 30, whole.len() - 9, whole.len() - 1] {
            let message = with(&whole[..keep]);
            assert!(message.contains("truncated or corrupt archive (tar, gzip): "), "{keep}: {message}");
        }
        let mut flipped = whole.clone();
        flipped[whole.len() - 6] ^= 1;
        assert!(with(&flipped).contains("truncated or corrupt archive"));
        assert!(with(b"").contains("found no batch_1.bin in it, expected a set, binary"));
        assert!(with(b"<html>Not found</html>").contains("truncated or corrupt archive"));
        assert!(with(&gzip(&[7; 2000])).contains("truncated or corrupt archive"));
        // Cut between two files, in the middle of one, and within a head.
        let plain = good();
        assert!(with(&gzip(&plain[..512 + 3584])).contains("found no batch_1.bin in it"));
        assert!(with(&gzip(&plain[..2000])).contains("truncated"));
        assert!(with(&gzip(&plain[..512 + 3584 + 100])).contains("truncated or corrupt archive"));
    }

    #[test]
    fn an_archive_that_lies_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set-binary.tar.gz");
        let with = |bytes: &[u8]| {
            std::fs::write(&path, gzip(bytes)).unwrap();
            refusal(&path)
        };
        let most = (LAYOUT.record() * MAX_RECORDS) as u64;
        let head = |size: u64, kind: tar::EntryType| {
            let mut header = tar::Header::new_gnu();
            header.set_path("set-binary/batch_1.bin").unwrap();
            header.set_size(size);
            header.set_entry_type(kind);
            header.set_cksum();
            header.as_bytes().to_vec()
        };
        let expected = format!("found batch_1.bin of {} bytes, expected at most {most}", most + 1);
        assert!(with(&head(most + 1, tar::EntryType::Regular)).contains(&expected));
        assert!(with(&head(u64::MAX / 2, tar::EntryType::Regular)).contains("expected at most"));
        assert!(with(&head(most, tar::EntryType::Regular)).contains("truncated"));
        // A link is no file, wherever it leads.
        assert!(with(&head(0, tar::EntryType::Symlink)).contains("found no batch_1.bin in it"));
        let (train, test) = (records(&[1], 2), records(&[1, 3], 2));
        let twice = [("a/batch_1.bin", &train[..]), ("b/batch_1.bin", &train)];
        assert!(with(&tar(&twice)).ends_with("found batch_1.bin twice, expected it once"));
        let labels = [("batch_1.bin", &train[..]), ("batch_2.bin", &train), ("test.bin", &test)];
        let message = with(&tar(&labels));
        assert!(
            message.contains("set-binary.tar.gz/test.bin: the label of record 1 is 3, expected below 3"),
            "{message}"
        );
        let mut named = labels.to_vec();
        named[2].1 = &train;
        named.push(("names.txt", b"a\nb\na"));
        assert!(with(&tar(&named)).ends_with("found 3 names, 2 of them different, expected 3: one for each class"));
    }

    /// A file that no one asked for, and that unpacks for ever.
    #[test]
    fn a_bomb_does_not_go_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set-binary.tar.gz");
        let mut header = tar::Header::new_gnu();
        header.set_path("zeros").unwrap();
        header.set_size(MAX_UNPACKED * 4);
        header.set_cksum();
        let file = std::fs::File::create(&path).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        encoder.write_all(header.as_bytes()).unwrap();
        let zeros = vec![0; 1 << 20];
        (0..(MAX_UNPACKED >> 20) + 1).for_each(|_| encoder.write_all(&zeros).unwrap());
        encoder.finish().unwrap();
        assert!(refusal(&path).contains("unpacks to more than 1073741824 bytes"), "{}", refusal(&path));
    }
}
