//! The articles of clothing of Fashion-MNIST, 28x28 grey, as IDX files (Xiao et al. 2017).

use std::path::Path;

use super::format::Format;
use super::{Dataset, idx};
use crate::Result;

/// The articles of clothing of Fashion-MNIST, 28x28 grey, as IDX files (Xiao et al. 2017).
pub struct FashionMnist;

impl Format for FashionMnist {
    fn name(&self) -> &'static str {
        "fashion-mnist"
    }

    fn about(&self) -> &'static str {
        "Fashion-MNIST's IDX files"
    }

    fn classes(&self) -> &'static [&'static str] {
        &["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    }

    fn normalisation(&self) -> [&'static [f64]; 2] {
        [&[0.2860], &[0.3530]]
    }

    fn read(&self, dir: &Path, _limits: [Option<usize>; 2], ignored: Option<i64>) -> Result<(Dataset, Dataset)> {
        idx::load_dir_ignoring(dir, "FashionMNIST", self.classes().len(), ignored)
    }
}
