//! CIFAR-10's binary version, plain or gzip: records of one label byte and 3 x 32 x 32 pixels, plane by plane, no header.
//!
//! Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and the data set's page.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::Dataset;
use super::format::{Format, Loaded, ReadProgress, Reading};
use super::idx::open;
use super::idx_files::find;
use crate::{Error, Result};

const SHAPE: [usize; 3] = [3, 32, 32];
const CLASSES: usize = 10;
const PIXELS: usize = SHAPE[0] * SHAPE[1] * SHAPE[2];
const RECORD: usize = 1 + PIXELS;
/// More than the published files' 10,000 records, so that no file can fill the memory.
const MAX_RECORDS: usize = 100_000;

/// Reads training set and test set: those of `data_batch_1.bin` to `data_batch_5.bin` that are there, in order, and
/// `test_batch.bin`, each plain or with `.gz`, in `dir` or in `dir/cifar-10-batches-bin`.
///
/// # Errors
/// [`Error::Data`] if there is no training batch or no test batch, or a file is damaged, empty, not made of whole records,
/// or has a label above 9.
pub fn load_dir(dir: &Path) -> Result<(Dataset, Dataset)> {
    let folder = &folder(dir)?;
    let read = |names: &[String]| -> Result<Dataset> {
        let mut data = Dataset { shape: SHAPE, classes: CLASSES, images: vec![], labels: vec![], files: vec![] };
        for path in names.iter().filter_map(|name| find(folder, name)) {
            append(&path, &mut data)?;
        }
        Ok(data)
    };
    let train = read(&BATCHES.map(batch))?;
    if train.is_empty() {
        return Err(Error::data(folder, "found none of data_batch_1.bin to data_batch_5.bin (plain or .gz)"));
    }
    Ok((train, read(&["test_batch.bin".into()])?))
}

/// Checks that every training image of `train`, as [`load_dir`] read it, is at its place in the published set, where
/// labels that come in a file of their own expect it.
///
/// # Errors
/// [`Error::Data`] where a batch is missing, or the training set is not the published one's 50,000 images.
pub fn check_places(dir: &Path, train: &Dataset) -> Result<()> {
    let folder = folder(dir)?;
    if let Some(missing) = BATCHES.map(batch).into_iter().find(|name| find(&folder, name).is_none()) {
        return Err(Error::data(folder, format!("found no {missing}, expected every training batch")));
    }
    let (found, expected) = (train.len(), BATCHES.len() * PUBLISHED_RECORDS);
    if found != expected {
        return Err(Error::data(folder, format!("found {found} training images, expected the published {expected}")));
    }
    Ok(())
}

/// The data set as a format.
pub struct Cifar10;

impl Format for Cifar10 {
    fn name(&self) -> &'static str {
        "cifar-10"
    }

    fn about(&self) -> &'static str {
        "CIFAR-10's binary files"
    }

    fn read(&self, dir: &Path, _how: &Reading, _: ReadProgress) -> Result<Loaded> {
        let names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
        let normalisation = [[0.4914, 0.2470], [0.4822, 0.2435], [0.4465, 0.2616]];
        Ok(Loaded::published(load_dir(dir)?, &names, &normalisation))
    }

    fn check_places(&self, dir: &Path, train: &Dataset) -> Result<()> {
        check_places(dir, train)
    }
}

const BATCHES: [usize; 5] = [1, 2, 3, 4, 5];
/// Of each batch.
const PUBLISHED_RECORDS: usize = 10_000;

fn batch(i: usize) -> String {
    format!("data_batch_{i}.bin")
}

/// Where the files are.
fn folder(dir: &Path) -> Result<PathBuf> {
    let unpacked = dir.join("cifar-10-batches-bin");
    let holds_test = |folder: &&Path| find(folder, "test_batch.bin").is_some();
    match [dir, &unpacked].into_iter().find(holds_test) {
        Some(folder) => Ok(folder.to_owned()),
        None => {
            let message = format!("found no test_batch.bin (plain or .gz), neither here nor in {}", unpacked.display());
            Err(Error::data(dir, message))
        }
    }
}

/// Adds a file's records.
fn append(path: &Path, data: &mut Dataset) -> Result<()> {
    let (source, gzip) = open(path)?;
    let mut bytes = vec![];
    let most = (RECORD * MAX_RECORDS) as u64;
    source.take(most + 1).read_to_end(&mut bytes).map_err(|error| match gzip {
        true => Error::data(path, format!("truncated or corrupt gzip: {error}")),
        false => Error::io(path)(error),
    })?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) || bytes.len() as u64 > most {
        let message =
            format!("{} bytes, expected 1 to {MAX_RECORDS} records of {RECORD} bytes (CIFAR-10, binary)", bytes.len());
        return Err(Error::data(path, message));
    }
    for (i, record) in bytes.chunks(RECORD).enumerate() {
        if usize::from(record[0]) >= CLASSES {
            let message = format!("the label of record {i} is {}, expected below {CLASSES}", record[0]);
            return Err(Error::data(path, message));
        }
        data.labels.push(record[0].into());
        data.images.extend_from_slice(&record[1..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn records(labels: &[u8]) -> Vec<u8> {
        labels.iter().flat_map(|&label| [vec![label], vec![label * 3; PIXELS]].concat()).collect()
    }

    fn message(dir: &Path) -> String {
        load_dir(dir).unwrap_err().to_string()
    }

    #[test]
    fn batches_are_read_in_order_plain_or_gzip() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("test_batch.bin"), records(&[7])).unwrap();
        std::fs::write(dir.path().join("data_batch_2.bin"), records(&[4, 5])).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        gzip.write_all(&records(&[1, 9])).unwrap();
        std::fs::write(dir.path().join("data_batch_1.bin.gz"), gzip.finish().unwrap()).unwrap();
        let (train, test) = load_dir(dir.path()).unwrap();
        assert_eq!((train.labels.as_slice(), test.labels.as_slice()), ([1, 9, 4, 5].as_slice(), [7].as_slice()));
        assert_eq!((train.shape, train.images.len(), train.image(1)[0]), (SHAPE, 4 * PIXELS, 27));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(message(dir.path()).contains("found no test_batch.bin"));
        std::fs::write(dir.path().join("test_batch.bin"), records(&[7])).unwrap();
        assert!(message(dir.path()).contains("found none of data_batch_1.bin"));
        let batch = dir.path().join("data_batch_1.bin");
        for (bytes, expected) in [
            (vec![], "0 bytes, expected 1 to"),
            (records(&[1])[..RECORD - 1].to_vec(), "3072 bytes, expected 1 to"),
            (records(&[1, 10]), "the label of record 1 is 10, expected below 10"),
            (vec![0x1f, 0x8b, 8, 0], "truncated or corrupt gzip"),
        ] {
            std::fs::write(&batch, bytes).unwrap();
            let found = message(dir.path());
            assert!(found.contains(expected) && found.contains("data_batch_1.bin"), "{found}");
        }
    }
}
