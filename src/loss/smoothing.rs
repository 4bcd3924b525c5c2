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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// e/C on every class, the true one included (PyTorch's).
    #[default]
    Uniform,
    /// e/(C-1) on every class but the true one.
    OffTarget,
}

impl Variant {
    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::OffTarget => "off-target",
        }
    }

    /// The variant of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Uniform, Self::OffTarget].into_iter().find(|variant| variant.name() == name)
    }
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
        Self::negative_allowed(variant, epsilon, classes)
    }

    /// As [`Self::new`], but epsilon may be any finite number below 1: see [`Epsilon::negative_allowed`].
    pub fn negative_allowed(variant: Variant, epsilon: f64, classes: usize) -> Result<Self> {
        if !(epsilon.is_finite() && epsilon < 1.0) {
            return Err(Error::Usage(format!("--label-smoothing: found {epsilon}, expected a finite number below 1")));
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

    /// The entropy of the smoothed target in nats: the least value the loss can reach. NaN for a negative epsilon, with
    /// which there is no least value.
    pub fn target_entropy(&self, classes: usize) -> f64 {
        let Masses { on, off } = self.masses(classes);
        entropy_term(on) + (classes as f64 - 1.0) * entropy_term(off)
    }
}

/// `-q ln q`, 0 for 0; NaN for a negative q, which is no probability.
pub(crate) fn entropy_term(q: f64) -> f64 {
    if q == 0.0 { 0.0 } else { -q * q.ln() }
}

/// What the smoothing mass is spread over the classes by: q = (1 - e) onehot + e prior.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Prior {
    /// 1/C on each class (PyTorch's).
    #[default]
    Uniform,
    /// 1/(C-1) on each class but the true one: [`Variant::OffTarget`].
    OffTarget,
    /// A distribution over the classes, `[classes]`; it need not sum to 1 yet.
    Given(Vec<f64>),
}

impl Prior {
    /// The frequencies of the classes among `labels`: the unigram prior of Pereyra et al. 2017, section 3.2.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no label, or one beyond the classes.
    pub fn unigram(labels: &[u32], classes: usize) -> Result<Self> {
        let mut counts = vec![0u64; classes];
        for (i, &label) in labels.iter().enumerate() {
            let count = counts.get_mut(label as usize).ok_or_else(|| {
                Error::Usage(format!("unigram prior: label {i} is {label}, expected less than {classes}"))
            })?;
            *count += 1;
        }
        if labels.is_empty() {
            return Err(Error::Usage("unigram prior: found no label, expected at least one".into()));
        }
        Ok(Self::Given(counts.into_iter().map(|count| count as f64 / labels.len() as f64).collect()))
    }

    /// The prior over the allowed classes: it sums to 1 there and is 0 elsewhere. `OffTarget` is uniform here; what it
    /// takes from the true class is in [`Prior::effective_epsilon`].
    ///
    /// # Errors
    /// [`Error::Usage`] for a wrong length, a value that is negative or not finite, or nothing left to spread over.
    pub fn over(&self, allowed: &[bool]) -> Result<Vec<f64>> {
        let fail = |what: String| Err(Error::Usage(format!("smoothing prior: {what}")));
        let of_class: Vec<f64> = match self {
            Self::Uniform | Self::OffTarget => vec![1.0; allowed.len()],
            Self::Given(values) if values.len() != allowed.len() => {
                return fail(format!("found {} values, expected {}", values.len(), allowed.len()));
            }
            Self::Given(values) => {
                if let Some(class) = values.iter().position(|v| !v.is_finite() || *v < 0.0) {
                    return fail(format!("class {class}: found {}, expected a number from 0 on", values[class]));
                }
                values.clone()
            }
        };
        let total: f64 = of_class.iter().zip(allowed).filter(|(_, allowed)| **allowed).map(|(v, _)| v).sum();
        // A total beyond f64 would make every share 0.
        if !(total > 0.0 && total.is_finite()) {
            return fail(format!("the classes that take part have {total} together, expected a positive number"));
        }
        Ok(of_class.iter().zip(allowed).map(|(v, &allowed)| if allowed { v / total } else { 0.0 }).collect())
    }

    /// The epsilon that gives this prior's target in the form (1 - e) onehot + e prior over `classes` classes that take
    /// part: e itself, or e * C/(C-1) for `OffTarget` (see the module's table).
    pub fn effective_epsilon(&self, epsilon: f64, classes: usize) -> f64 {
        match self {
            // Without smoothing one class is enough.
            Self::OffTarget if epsilon != 0.0 => epsilon * classes as f64 / (classes as f64 - 1.0),
            _ => epsilon,
        }
    }
}

/// The mass that smoothing moves.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Epsilon(f64);

impl Epsilon {
    /// In [0, 1); 0 is plain cross-entropy.
    ///
    /// # Errors
    /// [`Error::Usage`] otherwise.
    pub fn new(epsilon: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&epsilon) {
            return Err(Error::Usage(format!("label smoothing: found {epsilon}, expected a number in [0, 1)")));
        }
        Ok(Self(epsilon))
    }

    /// Any finite number below 1. A negative one sharpens instead of smoothing: `q[y] > 1` and `q < 0` elsewhere, so
    /// the loss has no lower bound (Wei et al. 2022, "To Smooth or Not? When Label Smoothing Meets Noisy Labels").
    ///
    /// # Errors
    /// [`Error::Usage`] otherwise.
    pub fn negative_allowed(epsilon: f64) -> Result<Self> {
        if !(epsilon.is_finite() && epsilon < 1.0) {
            return Err(Error::Usage(format!("label smoothing: found {epsilon}, expected a finite number below 1")));
        }
        Ok(Self(epsilon))
    }

    /// The number.
    pub fn value(self) -> f64 {
        self.0
    }
}

/// By how much a loss exceeds the least that it can be. Rounding alone can make it less, and then it is 0; NaN stays,
/// where there is no least.
pub(crate) fn excess(difference: f64) -> f64 {
    if difference <= 0.0 { 0.0 } else { difference }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priors_sum_to_one_over_the_classes_that_take_part() {
        let allowed = [true, false, true, true];
        assert_eq!(Prior::Uniform.over(&[true; 4]).unwrap(), [0.25; 4]);
        assert_eq!(Prior::Given(vec![1.0, 9.0, 0.0, 3.0]).over(&allowed).unwrap(), [0.25, 0.0, 0.0, 0.75]);
        let unigram = Prior::unigram(&[3, 0, 3, 1], 4).unwrap();
        assert_eq!(unigram, Prior::Given(vec![0.25, 0.25, 0.0, 0.5]));
        assert_eq!(unigram.over(&allowed).unwrap(), [1.0 / 3.0, 0.0, 0.0, 0.5 / 0.75]);
    }

    #[test]
    fn what_is_no_prior_is_refused() {
        let given = |values: &[f64]| Prior::Given(values.to_vec());
        let bad = [vec![1.0], vec![1.0, -1.0], vec![f64::NAN, 1.0], vec![f64::INFINITY, 1.0], vec![0.0, 0.0]];
        for values in bad {
            assert!(given(&values).over(&[true; 2]).is_err(), "{values:?}");
        }
        // All of it on the class that takes no part.
        assert!(given(&[1.0, 0.0]).over(&[false, true]).is_err());
        assert!(Prior::Uniform.over(&[false, false]).is_err());
        assert!(given(&[2.0, -1.0]).over(&[true; 2]).is_err(), "a negative share, though the sum is positive");
        assert!(Prior::unigram(&[], 2).is_err() && Prior::unigram(&[2], 2).is_err());
    }

    #[test]
    fn a_negative_epsilon_needs_the_explicit_name() {
        assert!([-0.1, 1.0, f64::NAN, f64::INFINITY].iter().all(|&e| Epsilon::new(e).is_err()));
        assert!([1.0, f64::NAN, f64::NEG_INFINITY].iter().all(|&e| Epsilon::negative_allowed(e).is_err()));
        assert_eq!(Epsilon::negative_allowed(-0.5).unwrap().value(), -0.5);
    }
}
