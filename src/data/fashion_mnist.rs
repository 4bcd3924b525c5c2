//! The articles of clothing of Fashion-MNIST, 28x28 grey, as IDX files (Xiao et al. 2017).

use std::path::Path;

use super::format::{Format, Loaded, ReadProgress, Reading};
use super::{Dataset, idx};
use crate::Result;

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

    fn read(&self, dir: &Path, how: &Reading, _: ReadProgress) -> Result<Loaded> {
        let sets = idx::load_dir_ignoring(dir, "FashionMNIST", CLASSES.len(), how.ignored)?;
        Ok(Loaded::published(sets, &CLASSES, &[[0.2860, 0.3530]]))
    }

    fn check_places(&self, _dir: &Path, _train: &Dataset) -> Result<()> {
        Ok(())
    }
}
