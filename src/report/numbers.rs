//! How numbers are shown in a sweep's report.

use maud::{Markup, html};

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

/// An effect and its interval around 0, on a line from `-widest` to `widest`; nothing without an interval.
pub fn drawn(e: &Estimate, widest: f64) -> Markup {
    const WIDTH: f64 = 120.0;
    const MIDDLE: f64 = 7.0;
    let widest = if widest > 0.0 { widest } else { 1.0 };
    let at = |value: f64| format!("{:.1}", WIDTH / 2.0 * (1.0 + 0.96 * value / widest));
    let label = format!("effect {:+.3e}, from {:+.3e} to {:+.3e}", e.mean, e.low, e.high);
    html! {
        @if e.low.is_finite() {
            svg.effect width=(WIDTH) height=(2.0 * MIDDLE) role="img" aria-label=(label) {
                line x1="0" x2=(WIDTH) y1=(MIDDLE) y2=(MIDDLE) stroke="currentColor" stroke-opacity="0.2" {}
                line x1=(at(0.0)) x2=(at(0.0)) y1="1" y2=(2.0 * MIDDLE - 1.0) stroke="currentColor" stroke-opacity="0.5" {}
                line x1=(at(e.low)) x2=(at(e.high)) y1=(MIDDLE) y2=(MIDDLE) stroke="currentColor" stroke-width="2.5" {}
                circle cx=(at(e.mean)) cy=(MIDDLE) r="3.5" fill="currentColor" {}
            }
        }
    }
}
