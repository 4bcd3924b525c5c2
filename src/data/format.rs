//! For whoever adds a format of data: what it must say and do. A format has a file of its own and a line in
//! [`super::source::FORMATS`].

use std::path::Path;

use super::Dataset;
use crate::Result;

/// A format of data sets: what it is called, and how it is read.
pub trait Format: Sync {
    /// As flags and files have it: `cifar-10`.
    fn name(&self) -> &'static str;

    /// What it is, in a line.
    fn about(&self) -> &'static str;

    /// What the classes are called, by their label.
    fn classes(&self) -> &'static [&'static str];

    /// The means of the channels that are usual for it, of pixels scaled to 0..1, and their standard deviations.
    fn normalisation(&self) -> [&'static [f64]; 2];

    /// Whether it needs no files.
    fn is_built_in(&self) -> bool {
        false
    }

    /// Training set and test set, from the files in `dir`. The label `ignored` may be any number that the format holds, and
    /// becomes [`crate::ops::IGNORED`]. More images than the limits may be given, where that is less work.
    ///
    /// # Errors
    /// [`crate::Error::Data`] where a file is missing, damaged, or not what it should be.
    fn read(&self, dir: &Path, limits: [Option<usize>; 2], ignored: Option<i64>) -> Result<(Dataset, Dataset)>;

    /// Refuses training images that are not at their places in the published set, where labels that come in a file of their
    /// own expect them.
    ///
    /// # Errors
    /// [`crate::Error::Data`].
    fn check_places(&self, _dir: &Path, _train: &Dataset) -> Result<()> {
        Ok(())
    }
}
