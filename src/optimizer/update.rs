//! What an update is made of.

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
    pub len: u32,
    pub decayed: u32,
    pub segments: u32,
    /// One past the last parameter that a segment holds.
    pub parted: u32,
}
