//! For whoever shows a run while it trains, or ends it early: what is told of it.

use std::path::Path;

use super::EpochReport;
use crate::loss::BatchLoss;
use crate::measure::Metrics;
use crate::network::Network;

/// A run that is about to train.
#[derive(Clone, Copy, Debug)]
pub struct Begun<'a> {
    /// Its folder.
    pub out: &'a Path,
    /// Training images.
    pub images: usize,
    /// Images of a step.
    pub update_images: usize,
    /// Times through the training images.
    pub epochs: usize,
    /// How far the run was before, if it goes on: epochs that are done, and steps of the next one.
    pub done: (usize, usize),
    /// The network.
    pub net: &'a Network,
    /// What is measured after each epoch: `test` or `val`.
    pub measured: &'static str,
}

/// Is told what happens in a run. `()` does not listen.
pub trait Listener: Sync {
    /// A line for people: what was chosen, and what is unusual.
    fn note(&self, _line: &str) {}

    /// So many of all files of the data are read. Called from several threads.
    fn reading(&self, _done: usize, _all: usize) {}

    /// Before the first step; the folder is made.
    fn begins(&mut self, _run: &Begun) {}

    /// After a step of epoch `epoch`, from 1; `recorded` says whether it has a line in the record.
    fn step(&mut self, _epoch: usize, _means: &BatchLoss, _recorded: bool) {}

    /// After an epoch, its line in the record and its checkpoint, where one is due.
    fn epoch(&mut self, _report: &EpochReport, _line: &str) {}

    /// After the model is on the disk: nothing has to be brought to an end any more.
    fn saved(&mut self) {}

    /// After the test set was measured, with the weights of the best epoch, at the end of a run with images held out.
    fn test(&mut self, _metrics: &Metrics, _line: &str) {}

    /// The number of the signal for which the run is to end, if it is to end. Asked after every few steps; the run then
    /// ends with [`crate::Error::Interrupted`] and a checkpoint to go on from.
    fn wants_stop(&self) -> Option<u8> {
        None
    }
}

impl Listener for () {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Observer;

    #[test]
    fn where_nobody_watches_nobody_stops() {
        assert_eq!(Listener::wants_stop(&()), None);
        assert!(!Observer::wants_stop(&()) && !Observer::is_over(&()));
    }
}
