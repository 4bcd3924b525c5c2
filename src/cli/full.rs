//! `smoothcnn bench --full`.

use std::path::Path;
use std::time::Duration;

use smoothcnn::Result;
use smoothcnn::backend::device::Opened;
use smoothcnn::bench::full::{FullBench, FullReport};
use smoothcnn::fs::write_output;

use super::common;

/// Measures `device` at the sizes that were `asked` for, else at those that suit it, and writes the file.
pub fn run(device: Opened, asked: Option<Vec<([usize; 3], usize)>>, seconds: f64, path: &Path) -> Result<u8> {
    let hardware = device.gpu.as_ref().is_some_and(|gpu| gpu.is_hardware());
    let reduced = !hardware && asked.is_none();
    if reduced {
        common::note("this is no hardware GPU: fewer sizes");
    }
    let sizes = asked.unwrap_or_else(|| usual(hardware));
    let patience = Duration::from_secs_f64(120.0 * seconds);
    let report = FullBench { device, sizes, reduced, seconds, patience }.run(&|line| common::note(line))?;
    let text = serde_json::to_string_pretty(&report).expect("plain structs with string keys always serialise");
    write_output(path, text.as_bytes())?;
    for line in describe(&report) {
        common::print(line)?;
    }
    let faults = report.faults();
    for fault in &faults {
        common::print(format_args!("FAIL: {fault}"))?;
    }
    common::note(format_args!("written in {:.0} s: {}", report.seconds, common::quoted(path)));
    Ok(u8::from(!faults.is_empty()))
}

/// The cheapest first, since the time may be over before the last.
fn usual(hardware: bool) -> Vec<([usize; 3], usize)> {
    let (small, large) = ([1, 28, 28], [1, 112, 112]);
    let [small_batches, large_batches]: [&[usize]; 2] =
        if hardware { [&[32, 64, 128, 256, 1024]; 2] } else { [&[32, 64, 256], &[32]] };
    let of = |input, batches: &[usize]| batches.iter().map(|&batch| (input, batch)).collect::<Vec<_>>();
    [of(small, small_batches), of(large, large_batches)].concat()
}

/// The answer in a few lines.
fn describe(report: &FullReport) -> Vec<String> {
    let mut lines = vec![format!("smoothcnn {} on {}", report.version, report.device)];
    if let Some(found) = report.check.as_ref().and_then(|part| part.found.as_ref()) {
        let comparisons: usize = found.ops.iter().map(|op| op.comparisons).sum();
        let right = comparisons - found.failures.len();
        lines.push(format!("check: {right} of {comparisons} comparisons within tolerance"));
    }
    if let Some(found) = report.autotune.as_ref().and_then(|part| part.found.as_ref()) {
        let [forward, backward, linear] = found.fastest.tiles().map(|tiles| tiles.name());
        lines.push(format!("fastest forms: conv forward {forward}, conv backward {backward}, linear {linear}"));
    }
    if let Some(found) = &report.determinism.found {
        let same = if found.equal { "the same" } else { "DIFFERENT" };
        lines.push(format!("two trainings of {} steps: {same} bits", found.steps));
    }
    if let Some(found) = &report.accuracy.found {
        let best = found.epochs.iter().map(|epoch| epoch.accuracy).fold(0.0, f64::max);
        lines.push(match found.reached_after {
            Some(seconds) => format!("accuracy {:.3} after {seconds:.1} s, {} epochs", best, found.epochs.len()),
            None => format!("accuracy {best:.3} after {} epochs, when the time was over", found.epochs.len()),
        });
    }
    for result in report.bench.found.iter().flat_map(|found| &found.results) {
        let [c, h, w] = result.input;
        let [median, ..] = result.images_per_second;
        lines.push(format!("{:<5} {c}x{h}x{w} batch {}: {median:.0} images/s", result.task, result.batch_size));
    }
    lines.extend(report.left_out.iter().map(|size| format!("left out: {size}")));
    lines
}
