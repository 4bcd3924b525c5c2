//! Means over seeds, and what can be said of them.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// A mean, with the interval that holds the true mean at the level asked for (Student's t; the values are taken to be
/// normal, which for a handful of seeds can only be hoped).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// How many values.
    pub n: usize,
    /// Their mean; NaN where there are none.
    pub mean: f64,
    /// The interval's lower end; NaN with fewer than two values.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The standard error of the mean: the standard deviation (with n - 1) over sqrt n; NaN with fewer than two values.
    pub standard_error: f64,
}

/// The mean of `values` with its interval of confidence `level`, between 0 and 1.
pub fn estimate(values: &[f64], level: f64) -> Estimate {
    let n = values.len();
    let mean = values.iter().sum::<f64>() / n as f64;
    let nan = Estimate { n, mean, low: f64::NAN, high: f64::NAN, standard_error: f64::NAN };
    if n < 2 {
        return nan;
    }
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    let standard_error = (variance / n as f64).sqrt();
    let Ok(t) = StudentsT::new(0.0, 1.0, (n - 1) as f64) else { return nan };
    let half = t.inverse_cdf((1.0 + level) / 2.0) * standard_error;
    Estimate { n, mean, low: mean - half, high: mean + half, standard_error }
}

/// What an effect says of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The whole interval is on the claim's side of zero.
    Holds,
    /// The whole interval is on the other side.
    DoesNotHold,
    /// Zero is in the interval, or there are fewer than two seeds.
    Undecided,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::Undecided => "undecided with this many seeds",
        })
    }
}

/// On which side of zero a claim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The measure falls.
    Down,
    /// The measure rises.
    Up,
}

impl Estimate {
    /// The verdict on a claim about the side of zero that the mean is on.
    pub fn verdict(&self, claimed: Direction) -> Verdict {
        let (up, down) = (self.low > 0.0, self.high < 0.0);
        match claimed {
            Direction::Up if up => Verdict::Holds,
            Direction::Down if down => Verdict::Holds,
            _ if up || down => Verdict::DoesNotHold,
            _ => Verdict::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a printed table of Student's t, two-sided 95 %, and the definition.
    #[test]
    fn intervals_are_students() {
        for (n, t) in [(2, 12.706_205), (3, 4.302_653), (5, 2.776_445), (10, 2.262_157), (31, 2.042_272)] {
            let values: Vec<f64> = (0..n).map(f64::from).collect();
            let found = estimate(&values, 0.95);
            let n = f64::from(n);
            // 0..n-1: variance n (n + 1) / 12.
            let standard_error = ((n + 1.0) / 12.0).sqrt();
            assert!(
                (found.mean - (n - 1.0) / 2.0).abs() < 1e-12 && (found.standard_error - standard_error).abs() < 1e-12
            );
            let half = t * standard_error;
            assert!((found.high - found.mean - half).abs() < 1e-6 * half, "{n}: {found:?}, expected +- {half}");
            assert!((found.mean - found.low - half).abs() < 1e-6 * half, "{n}: {found:?}");
        }
    }

    #[test]
    fn a_verdict_needs_the_whole_interval() {
        let of = |values: &[f64], claimed| estimate(values, 0.95).verdict(claimed);
        use {Direction::*, Verdict::*};
        assert_eq!([of(&[1.0, 1.1, 0.9], Up), of(&[1.0, 1.1, 0.9], Down)], [Holds, DoesNotHold]);
        assert_eq!([of(&[-1.0, -1.1], Down), of(&[-1.0, -1.1], Up)], [Holds, DoesNotHold]);
        assert_eq!([of(&[1.0, -1.1, 0.9], Up), of(&[5.0], Up), of(&[], Up), of(&[0.0; 4], Up)], [Undecided; 4]);
        // The same difference for every seed leaves no doubt.
        assert_eq!(of(&[0.5; 3], Up), Holds);
    }
}
