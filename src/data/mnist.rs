//! The handwritten digits of MNIST, 28x28 grey, as IDX files (LeCun et al. 1998).

use std::path::Path;

use super::format::{Format, Loaded, ReadProgress, Reading};
use super::idx_files::SetFiles;
use super::{Dataset, idx};
use crate::Result;

/// Under torchvision's root.
const FOLDER: &str = "MNIST";
/// The SHA-256 of the training labels' file, unpacked: by it the published set is known.
const TRAIN_LABELS: &str = "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5";

const CLASSES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// The handwritten digits of MNIST, 28x28 grey, as IDX files (LeCun et al. 1998).
pub struct Mnist;

impl Format for Mnist {
    fn name(&self) -> &'static str {
        "mnist"
    }

    fn about(&self) -> &'static str {
        "MNIST's IDX files"
    }

    fn recognises(&self, path: &Path) -> bool {
        idx::has_labels(path, FOLDER, TRAIN_LABELS)
    }

    fn read(&self, dir: &Path, how: &Reading, _: ReadProgress) -> Result<Loaded> {
        let files = SetFiles::published(dir, FOLDER, "; `smoothcnn data fetch mnist` downloads them")?;
        let sets = idx::load_files(&files, CLASSES.len(), how.ignored)?;
        let loaded = Loaded::published(sets, &CLASSES, &[[0.1307, 0.3081]]);
        Ok(Loaded { notes: files.notes, ..loaded })
    }

    fn reads_ignored(&self) -> bool {
        true
    }

    fn check_places(&self, _dir: &Path, _train: &Dataset) -> Result<()> {
        Ok(())
    }
}
