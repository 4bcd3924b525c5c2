//! The comparison of a kernel's f32 result with the oracle's f64 result.

pub use crate::cases::sum_tolerance;

/// What a comparison found.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The largest absolute error; NaN if an element is not a number where a number was expected.
    pub worst_error: f64,
    /// The largest share of its tolerance that an element used, in percent.
    pub tolerance_used: f64,
    /// The first element that failed: where, what was found, what was expected, and the tolerance.
    pub failure: Option<String>,
}

/// Compares element by element: an element passes if `|got - want| <= tolerance`, so that a NaN fails.
pub fn compare(got: &[f32], want: &[f64], tolerance: &[f64]) -> Comparison {
    let mut result = Comparison { worst_error: 0.0, tolerance_used: 0.0, failure: None };
    if got.len() != want.len() || want.len() != tolerance.len() {
        let lengths = format!("{} values, {} expected, {} tolerances", got.len(), want.len(), tolerance.len());
        result.failure = Some(lengths);
        return result;
    }
    for (i, ((&got, &want), &tolerance)) in got.iter().zip(want).zip(tolerance).enumerate() {
        let error = (f64::from(got) - want).abs();
        let used = if error == 0.0 { 0.0 } else { 100.0 * error / tolerance };
        if error > result.worst_error || error.is_nan() {
            result.worst_error = error;
        }
        if used > result.tolerance_used || used.is_nan() {
            result.tolerance_used = used;
        }
        let passes = error <= tolerance;
        if !passes && result.failure.is_none() {
            result.failure = Some(format!("element {i}: found {got:e}, expected {want:e} +- {tolerance:.1e}"));
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_pass_and_use_nothing() {
        let result = compare(&[1.0, -2.0], &[1.0, -2.0], &[0.0, 0.0]);
        assert_eq!(result, Comparison { worst_error: 0.0, tolerance_used: 0.0, failure: None });
    }

    #[test]
    fn an_error_at_the_tolerance_passes_and_one_beyond_it_fails() {
        assert!(compare(&[1.5], &[1.0], &[0.5]).failure.is_none());
        assert_eq!(compare(&[1.5], &[1.0], &[0.5]).tolerance_used, 100.0);
        let failure = compare(&[1.0, 1.5], &[1.0, 1.0], &[0.1, 0.4]).failure.unwrap();
        assert!(failure.starts_with("element 1: found 1.5e0, expected 1e0"), "{failure}");
    }

    #[test]
    fn nan_and_infinity_fail() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(compare(&[0.0, bad], &[0.0, 0.0], &[1.0, 1.0]).failure.is_some(), "{bad}");
        }
        assert!(compare(&[0.0], &[f64::NAN], &[1.0]).failure.is_some());
        assert!(compare(&[0.0], &[0.1], &[f64::NAN]).failure.is_some());
        assert!(compare(&[f32::NAN], &[0.0], &[1.0]).worst_error.is_nan());
    }

    #[test]
    fn lengths_must_agree() {
        assert!(compare(&[0.0], &[0.0, 0.0], &[1.0, 1.0]).failure.is_some());
        assert!(compare(&[], &[0.0], &[1.0]).failure.is_some());
    }

    #[test]
    fn a_missing_term_is_far_above_the_tolerance_of_a_sum() {
        for terms in [1usize, 10, 1000, 12_544] {
            let magnitude = 0.5 * terms as f64;
            assert!(sum_tolerance(terms, magnitude) * 5.0 < magnitude / terms as f64, "{terms}");
        }
    }
}
