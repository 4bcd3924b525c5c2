//! CIFAR-10: photographs of ten classes, 32x32, in the binary version (`cifar.rs` reads it).

use std::path::Path;

use super::Dataset;
use super::cifar::Layout;
use super::format::{Format, Loaded, ReadProgress, Reading};
use crate::Result;

const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

const LAYOUT: Layout = Layout {
    title: "CIFAR-10, binary",
    labels: 1,
    label: 0,
    classes: CLASSES.len(),
    folder: "cifar-10-batches-bin",
    archive: "cifar-10-binary.tar.gz",
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test: "test_batch.bin",
    names: None,
};

/// Reads training set and test set: those of `data_batch_1.bin` to `data_batch_5.bin` that are there, in order, and
/// `test_batch.bin`, each plain or with `.gz`, in `dir` or in `dir/cifar-10-batches-bin`; or all of them out of
/// `dir/cifar-10-binary.tar.gz`, where `dir` may be the archive itself.
///
/// # Errors
/// [`crate::Error::Data`] if there is no training batch or no test batch, or a file is damaged, empty, not made of
/// whole records, or has a label above 9.
pub fn load_dir(dir: &Path) -> Result<(Dataset, Dataset)> {
    let (train, test, _) = LAYOUT.load(dir)?;
    Ok((train, test))
}

/// The data set as a format.
pub struct Cifar10;

impl Format for Cifar10 {
    fn name(&self) -> &'static str {
        "cifar-10"
    }

    fn about(&self) -> &'static str {
        "CIFAR-10's binary files, or their archive"
    }

    fn recognises(&self, path: &Path) -> bool {
        LAYOUT.is_at(path)
    }

    fn read(&self, dir: &Path, _how: &Reading, _: ReadProgress) -> Result<Loaded> {
        let normalisation = [[0.4914, 0.2470], [0.4822, 0.2435], [0.4465, 0.2616]];
        Ok(Loaded::published(load_dir(dir)?, &CLASSES, &normalisation))
    }

    fn check_places(&self, dir: &Path, train: &Dataset) -> Result<()> {
        LAYOUT.check_places(dir, train)
    }
}

#[cfg(test)]
mod tests {
    use super::super::cifar::tests::gzip;
    use super::*;

    const PIXELS: usize = 3 * 32 * 32;
    const RECORD: usize = 1 + PIXELS;

    fn records(labels: &[u8]) -> Vec<u8> {
        super::super::cifar::tests::records(labels, 1)
    }

    fn message(dir: &Path) -> String {
        load_dir(dir).unwrap_err().to_string()
    }

    #[test]
    fn batches_are_read_in_order_plain_or_gzip() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("test_batch.bin"), records(&[7])).unwrap();
        std::fs::write(dir.path().join("data_batch_2.bin"), records(&[4, 5])).unwrap();
        std::fs::write(dir.path().join("data_batch_1.bin.gz"), gzip(&records(&[1, 9]))).unwrap();
        let (train, test) = load_dir(dir.path()).unwrap();
        assert_eq!((train.labels.as_slice(), test.labels.as_slice()), ([1, 9, 4, 5].as_slice(), [7].as_slice()));
        assert_eq!((train.shape, train.images.len(), train.image(1)[0]), ([3, 32, 32], 4 * PIXELS, 27));
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
