//! The articles of clothing of Fashion-MNIST, 28x28 grey, as IDX files (Xiao et al. 2017).

use std::path::Path;

use super::format::{Format, Loaded, ReadProgress, Reading};
use super::idx_files::SetFiles;
use super::{Dataset, idx};
use crate::Result;

/// Under torchvision's root.
const FOLDER: &str = "FashionMNIST";
/// The SHA-256 of the training labels' file, unpacked: by it the published set is known.
const TRAIN_LABELS: &str = "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9";

const CLASSES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// The articles of clothing of Fashion-MNIST, 28x28 grey, as IDX files (Xiao et al. 2017).
pub struct FashionMnist;

impl Format for FashionMnist {
    fn name(&self) -> &'static str {
        "fashion-mnist"
    }

    fn about(&self) -> &'static str {
        "Fashion-MNIST's IDX files"
    }

    fn recognises(&self, path: &Path) -> bool {
        idx::has_labels(path, FOLDER, TRAIN_LABELS)
    }

    fn read(&self, dir: &Path, how: &Reading, _: ReadProgress) -> Result<Loaded> {
        let files = SetFiles::published(dir, FOLDER, "; `smoothcnn data fetch fashion-mnist` downloads them")?;
        let sets = idx::load_files(&files, CLASSES.len(), how.ignored)?;
        let loaded = Loaded::published(sets, &CLASSES, &[[0.2860, 0.3530]]);
        Ok(Loaded { notes: files.notes, ..loaded })
    }

    fn reads_ignored(&self) -> bool {
        true
    }

    fn check_places(&self, _dir: &Path, _train: &Dataset) -> Result<()> {
        Ok(())
    }
}
