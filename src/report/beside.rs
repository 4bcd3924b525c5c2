//! What a sweep's report says beside the claims: the seeds asked together, and other losses.

use maud::{Markup, html};

use super::numbers::{interval, scale};
use crate::study::ensemble::Ensemble;
use crate::study::rivals::{Compared, Rival};
use crate::study::stats::Estimate;

/// Both, for a terminal.
pub fn lines(ensembles: &[Ensemble], rivals: &[Rival]) -> Vec<String> {
    let mut lines = vec![];
    for e in ensembles {
        lines.push(format!(
            "noise {}: the {} seeds at e = {} together: test error {:.2} % ({:.2} % each), nll {:.4} ({:.4} each), ECE {:.4}",
            e.label_noise,
            e.runs,
            e.epsilon,
            100.0 * e.error,
            100.0 * e.single_error,
            e.nll,
            e.single_nll,
            e.ece
        ));
    }
    for rival in rivals {
        lines.push(against(rival));
        for c in &rival.measured {
            let [mean, none, smoothing] = compared(c);
            lines.push(format!("    {:<22} {mean:>10}  {none:<28} {smoothing}", c.measure));
        }
    }
    lines
}

/// The seeds of each cell together.
pub fn together(ensembles: &[Ensemble]) -> Markup {
    let columns = ["noise", "e", "seeds", "error, %", "each, %", "nll", "each", "ECE"];
    html! {
        table {
            thead { tr { @for name in columns { th.number { (name) } } } }
            tbody {
                @for e in ensembles {
                    tr {
                        td.number { (e.label_noise) } td.number { (e.epsilon) } td.number { (e.runs) }
                        td.number { (format!("{:.2}", 100.0 * e.error)) }
                        td.number { (format!("{:.2}", 100.0 * e.single_error)) }
                        td.number { (format!("{:.4}", e.nll)) } td.number { (format!("{:.4}", e.single_nll)) }
                        td.number { (format!("{:.4}", e.ece)) }
                    }
                }
            }
        }
    }
}

/// Other losses, each measure of each in a row.
pub fn other_losses(rivals: &[Rival]) -> Markup {
    html! {
        p { "Each at the epsilon that the images held out rank first, if it has one. Differences are means over pairs of the \
             same seed; below 0 is better." }
        table {
            thead { tr {
                th { "loss" } th { "measure" }
                @for name in ["mean", "above plain cross-entropy", "above label smoothing"] { th.number { (name) } }
            } }
            tbody {
                @for rival in rivals { @for c in &rival.measured {
                    @let [mean, none, smoothing] = compared(c);
                    tr {
                        td { (against(rival)) } td { (c.measure) }
                        td.number { (mean) } td.number { (none) } td.number { (smoothing) }
                    }
                } }
            }
        }
    }
}

/// Which loss, at what, beside what.
fn against(rival: &Rival) -> String {
    let &Rival { loss, label_noise, epsilon, smoothing, .. } = rival;
    let at = if loss.has_epsilon() { format!(" at e = {epsilon}") } else { String::new() };
    let smoothed = smoothing.map(|e| format!(" and with smoothing at e = {e}")).unwrap_or_default();
    format!("noise {label_noise}: {}{at}, beside plain cross-entropy{smoothed}", loss.name())
}

/// The mean, and by how much it is above that of plain cross-entropy and of smoothing.
fn compared(found: &Compared) -> [String; 3] {
    let (factor, digits, unit) = scale(found.measure);
    let above = |estimate: &Estimate| if estimate.n == 0 { "–".into() } else { interval(estimate, factor, digits) };
    [format!("{:.digits$}{unit}", factor * found.mean), above(&found.above_none), above(&found.above_smoothing)]
}
