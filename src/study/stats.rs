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
    /// What the claim says is mended was not there before: its whole interval, without smoothing, is at 0 or below.
    NothingToMend,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::Undecided => "undecided with this many seeds",
            Self::NothingToMend => "nothing to mend",
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

/// What an effect is for whoever uses the network, whatever was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum News {
    /// It is better so.
    Good,
    /// It is worse so.
    Bad,
    /// Neither is shown.
    Open,
}

impl std::fmt::Display for News {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Good => "good news",
            Self::Bad => "bad news",
            Self::Open => "open",
        })
    }
}

/// The p of several tests, corrected for how many they are (Holm 1979): of m tests the k-th smallest p times m - k + 1,
/// never less than those before it, at most 1. A NaN is no test and stays.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&i| !p[i].is_nan()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let (mut corrected, mut largest) = (vec![f64::NAN; p.len()], 0.0f64);
    for (k, &i) in order.iter().enumerate() {
        largest = largest.max(p[i] * (order.len() - k) as f64).min(1.0);
        corrected[i] = largest;
    }
    corrected
}

impl Estimate {
    /// How likely a mean as far from 0 as this one, or farther, is where the true one is 0 (Student's t, both sides);
    /// NaN with fewer than two values.
    pub fn p(&self) -> f64 {
        if self.standard_error == 0.0 {
            // The same value every time.
            return f64::from(self.mean == 0.0);
        }
        let Ok(t) = StudentsT::new(0.0, 1.0, self.n.saturating_sub(1) as f64) else { return f64::NAN };
        // Of what was not measured the distribution says nothing: it ends the program.
        if (self.mean / self.standard_error).is_nan() {
            return f64::NAN;
        }
        2.0 * t.cdf(-(self.mean / self.standard_error).abs())
    }

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

    /// R: `t.test(c(0, 1, 2, 3, 5))$p.value` is 0.06275, `p.adjust(c(0.01, 0.04, 0.03, 0.5), "holm")` is 0.04 0.09 0.09
    /// 0.5.
    #[test]
    fn tests_and_their_correction_are_those_of_others() {
        let p = estimate(&[0.0, 1.0, 2.0, 3.0, 5.0], 0.95).p();
        // t = 2.2 / 0.860233 = 2.557449 with 4 degrees: 1 - x (1 + (1 - x^2)/2), x = t/sqrt(t^2 + 4).
        let x: f64 = 2.557_449_f64 / (2.557_449_f64.powi(2) + 4.0).sqrt();
        assert!((p - (1.0 - x * (1.0 + (1.0 - x * x) / 2.0))).abs() < 1e-6, "{p}");
        for (p, expected) in holm(&[0.01, f64::NAN, 0.04, 0.03, 0.5]).iter().zip([0.04, f64::NAN, 0.09, 0.09, 0.5]) {
            assert!((p - expected).abs() < 1e-15 || (p.is_nan() && expected.is_nan()), "{p} {expected}");
        }
        assert_eq!(holm(&[0.4, 0.5]), [0.8, 0.8]);
        assert_eq!([estimate(&[1.0; 3], 0.95).p(), estimate(&[0.0; 3], 0.95).p()], [0.0, 1.0]);
        assert!(estimate(&[1.0], 0.95).p().is_nan() && estimate(&[], 0.95).p().is_nan());
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
