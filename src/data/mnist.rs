//! The handwritten digits of MNIST, 28x28 grey, as IDX files (LeCun et al. 1998).

use std::path::Path;

use super::format::{Format, Loaded, ReadProgress, Reading};
use super::{Dataset, idx};
use crate::Result;

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

    fn read(&self, dir: &Path, how: &Reading, _: ReadProgress) -> Result<Loaded> {
        let sets = idx::load_dir_ignoring(dir, "MNIST", CLASSES.len(), how.ignored)?;
        Ok(Loaded::published(sets, &CLASSES, &[[0.1307, 0.3081]]))
    }

    fn check_places(&self, _dir: &Path, _train: &Dataset) -> Result<()> {
        Ok(())
    }
}
