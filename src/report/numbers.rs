//! How numbers are shown in a sweep's report.

use crate::study::stats::Estimate;

/// `0.0123 [0.0101, 0.0145]`.
pub fn interval(e: &Estimate, factor: f64, digits: usize) -> String {
    let Estimate { mean, low, high, .. } = e;
    let mean = format!("{:+.digits$}", factor * mean);
    if low.is_finite() { format!("{mean} [{:+.digits$}, {:+.digits$}]", factor * low, factor * high) } else { mean }
}

/// Shares are shown in per cent; everything else as it is.
pub fn scale(measure: &str) -> (f64, usize, &'static str) {
    let share = ["error", "confidence", "memorised"].iter().any(|word| measure.contains(word));
    if share { (100.0, 2, " %") } else { (1.0, 4, "") }
}

/// `0.03`, or that it is less than what two digits show.
pub fn p_text(p: f64) -> String {
    if p.is_nan() {
        "–".into()
    } else if p < 0.0005 {
        "<0.001".into()
    } else {
        format!("{p:.3}")
    }
}
