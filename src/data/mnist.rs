//! The handwritten digits of MNIST, 28x28 grey, as IDX files (LeCun et al. 1998).

use std::path::Path;

use super::format::Format;
use super::{Dataset, idx};
use crate::Result;

/// The handwritten digits of MNIST, 28x28 grey, as IDX files (LeCun et al. 1998).
pub struct Mnist;

impl Format for Mnist {
    fn name(&self) -> &'static str {
        "mnist"
    }

    fn about(&self) -> &'static str {
        "MNIST's IDX files"
    }

    fn classes(&self) -> &'static [&'static str] {
        &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
    }

    fn normalisation(&self) -> [&'static [f64]; 2] {
        [&[0.1307], &[0.3081]]
    }

    fn read(&self, dir: &Path, _limits: [Option<usize>; 2], ignored: Option<i64>) -> Result<(Dataset, Dataset)> {
        idx::load_dir_ignoring(dir, "MNIST", self.classes().len(), ignored)
    }
}
