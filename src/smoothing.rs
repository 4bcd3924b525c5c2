//! What label smoothing does to a class-index target, without ever building the dense target.
//!
//! Over C classes the target of class y is `on` for y and `off` for each other class. With epsilon e:
//!
//! | variant      | on          | off      | source                                                                   |
//! |--------------|-------------|----------|--------------------------------------------------------------------------|
//! | `uniform`    | 1 - e + e/C | e/C      | Szegedy et al. 2016; `torch.nn.CrossEntropyLoss(label_smoothing=e)`      |
//! | `off-target` | 1 - e       | e/(C-1)  | the tutorial's formula                                                  |
//!
//! They are the same family: `off-target` with e equals `uniform` with e * C/(C-1).

use crate::{Error, Result};

/// How epsilon is spread over the classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// e/C on every class, the true one included (PyTorch's).
    #[default]
    Uniform,
    /// e/(C-1) on every class but the true one.
    OffTarget,
}

/// A smoothing variant with its epsilon.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Smoothing {
    /// How epsilon is spread.
    pub variant: Variant,
    /// The mass taken from the true class; 0 is plain cross-entropy.
    pub epsilon: f64,
}

/// The two values of a smoothed target: `on + (C-1) * off = 1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Masses {
    /// On the true class.
    pub on: f64,
    /// On each other class.
    pub off: f64,
}

impl Smoothing {
    /// Plain cross-entropy.
    pub const NONE: Self = Self { variant: Variant::Uniform, epsilon: 0.0 };

    /// Checks epsilon against the classes: in [0, 1), and for `off-target` below (C-1)/C, where the true class would no
    /// longer be the largest.
    pub fn new(variant: Variant, epsilon: f64, classes: usize) -> Result<Self> {
        if !(0.0..1.0).contains(&epsilon) {
            return Err(Error::Usage(format!("--label-smoothing: found {epsilon}, expected a number in [0, 1)")));
        }
        let bound = (classes as f64 - 1.0) / classes as f64;
        if variant == Variant::OffTarget && epsilon >= bound {
            return Err(Error::Usage(format!(
                "--label-smoothing: found {epsilon}, expected less than {bound} for the off-target variant over \
                 {classes} classes: from there on the true class is no longer the target's largest"
            )));
        }
        Ok(Self { variant, epsilon })
    }

    /// The target's two values over `classes` classes.
    pub fn masses(&self, classes: usize) -> Masses {
        let (e, c) = (self.epsilon, classes as f64);
        match self.variant {
            Variant::Uniform => Masses { on: 1.0 - e + e / c, off: e / c },
            Variant::OffTarget => Masses { on: 1.0 - e, off: e / (c - 1.0) },
        }
    }

    /// The entropy of the smoothed target in nats: the least value the loss can reach.
    pub fn target_entropy(&self, classes: usize) -> f64 {
        let Masses { on, off } = self.masses(classes);
        let term = |q: f64| if q > 0.0 { -q * q.ln() } else { 0.0 };
        term(on) + (classes as f64 - 1.0) * term(off)
    }
}
