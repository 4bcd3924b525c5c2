//! What an update is made of.

use std::ops::Range;

use crate::ops::WORKGROUP;
use crate::plan::Grid;

/// What an optimizer remembers: a vector as long as the parameters for each of [`super::Optimizer::slots`].
pub type Slots<T> = Vec<Vec<T>>;

/// What an update on the CPU works on, each as long as the flat vector of parameters.
#[derive(Debug)]
pub struct Values<'a, T> {
    /// The parameters.
    pub params: &'a mut [T],
    /// Their gradients.
    pub grads: &'a [T],
    /// The optimizer's memory.
    pub slots: &'a mut Slots<T>,
    /// No weight decay reaches the parameters from here on; a multiple of 64.
    pub decayed: usize,
    /// What Muon updates as matrices (`Network::weight_matrices`), in the order of the flat vector. No other
    /// optimizer reads them.
    pub matrices: &'a [WeightMatrix],
}

/// A weight that is updated as a matrix, row by row in the flat vector of parameters: a row for each output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightMatrix {
    /// Its first element; a multiple of 64.
    pub first: usize,
    /// Outputs.
    pub rows: usize,
    /// What feeds an output.
    pub columns: usize,
}

impl WeightMatrix {
    /// Its elements in the flat vector.
    pub fn range(&self) -> Range<usize> {
        self.first..self.first + self.rows * self.columns
    }
}

/// What is not in the matrices, as ranges that begin at multiples of 64.
pub(super) fn between(matrices: &[WeightMatrix], len: usize) -> Vec<Range<usize>> {
    let mut from = 0;
    let ends = matrices.iter().map(|matrix| matrix.range()).chain(std::iter::once(len..len));
    let ranges = ends.map(|matrix| std::mem::replace(&mut from, matrix.end.next_multiple_of(64))..matrix.start);
    ranges.filter(|range| !range.is_empty()).collect()
}

/// The numbers of one update. Both forms of Adam are one update with these coefficients; what depends on the step (the
/// bias corrections) is worked out here, on the host, in f64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The parameter is first multiplied by this: `1 - lr * weight_decay` for AdamW, else 1.
    pub keep: f64,
    /// The L2 term's factor in the gradient.
    pub l2: f64,
    /// Adam: `lr / (1 - b1^t)`. SGD: `lr`.
    pub step_size: f64,
    /// Adam: `sqrt(1 - b2^t)`. SGD: 1.
    pub denominator: f64,
    /// Adam: its first beta. SGD: its momentum.
    pub momentum: f64,
    /// The learning rate.
    pub rate: f64,
}

impl Update {
    /// The same without weight decay.
    pub fn undecayed(self) -> Self {
        Self { keep: 1.0, l2: 0.0, ..self }
    }
}

/// How many parameters, and segments, an update has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// The first that is updated; a multiple of 4.
    pub begin: u32,
    /// One past the last.
    pub len: u32,
    pub decayed: u32,
    pub segments: u32,
    /// One past the last parameter that a segment holds.
    pub parted: u32,
}

impl Extent {
    /// A thread owns four parameters; the first workgroup adds the losses.
    pub fn grid(&self) -> Grid {
        Grid::Workgroups(1 + ((self.len - self.begin) as usize / 4).div_ceil(WORKGROUP))
    }
}
