//! `smoothcnn check`.

use std::sync::Arc;

use smoothcnn::backend::gpu::choose::choose;
use smoothcnn::backend::gpu::{Choice, DeviceKind};
use smoothcnn::check::{Row, every, losses, network};
use smoothcnn::compile::fuse::Kernels;
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::network::Network;
use smoothcnn::parse::to_json;
use smoothcnn::{Error, Result};

use super::common;

/// Runs every kernel over awkward shapes, and three training steps of the network, and compares with the f64 oracle.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A certain adapter: its index in `smoothcnn devices`, or a part of its name
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    let Choice { gpu, reason, notes, .. } = choose(DeviceKind::Gpu, args.adapter.as_deref(), None)?;
    notes.into_iter().for_each(|line| common::note(format_args!("device: {line}")));
    let Some(gpu) = gpu.map(Arc::new) else { return Err(Error::NoAdapter(reason)) };
    common::note(format_args!("device: {reason}"));

    let mut table = Table { json: args.json, read: true, rows: 0, failures: 0, worst: 0.0 };
    if !args.json {
        table.print(format_args!(
            "{:<14} {:<34} {:<52} {:>9} {:>10} {:>6}",
            "op", "pass", "case", "elements", "error", "used"
        ))?;
    }
    let mut printed = Ok(());
    every::all(&gpu, |rows| {
        if printed.is_ok() {
            printed = table.add(&rows);
        }
    })?;
    printed?;
    for kernels in [Kernels::Reference, Kernels::Fused] {
        for variant in [Variant::Uniform, Variant::OffTarget] {
            for input in [[1, 28, 28], [3, 32, 32]] {
                let net = Network::seed(input, 10)?;
                let smoothing = Smoothing { variant, epsilon: 0.1 };
                table.add(&network::training(&gpu, &net, smoothing, 8, 3, kernels)?)?;
            }
        }
    }
    let net = Network::seed([1, 28, 28], 10)?;
    for (name, loss) in losses::losses(net.classes, network::images(8, 3))? {
        let mut rows = network::training(&gpu, &net, loss, 8, 3, Kernels::Fused)?;
        rows.iter_mut().for_each(|row| row.case = format!("{name}, {}", row.case));
        table.add(&rows)?;
    }
    if !args.json {
        let summary = format!(
            "{}: {} of {} comparisons within tolerance; the closest used {:.0}% of its own",
            if table.failures == 0 { "pass" } else { "FAIL" },
            table.rows - table.failures,
            table.rows,
            table.worst
        );
        table.print(summary)?;
    }
    Ok(u8::from(table.failures > 0))
}

struct Table {
    json: bool,
    /// Whether somebody still reads. The check goes on without, for its exit code.
    read: bool,
    rows: usize,
    failures: usize,
    worst: f64,
}

impl Table {
    fn print(&mut self, line: impl std::fmt::Display) -> Result<()> {
        self.read = self.read && common::print_if_read(line)?;
        Ok(())
    }

    fn add(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            self.rows += 1;
            self.failures += usize::from(row.failure.is_some());
            self.worst = self.worst.max(row.tolerance_used);
            if self.json {
                self.print(to_json(row))?;
                continue;
            }
            self.print(format_args!(
                "{:<14} {:<34} {:<52} {:>9} {:>10.1e} {:>5.0}%{}",
                row.op,
                row.pass,
                row.case,
                row.elements,
                row.worst_error,
                row.tolerance_used,
                row.failure.as_ref().map(|failure| format!("  FAIL: {failure}")).unwrap_or_default()
            ))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a failure that `check | head` does not count, because nobody reads the table any more.
    #[test]
    fn what_nobody_reads_is_counted() {
        let row = |failure: Option<&str>| Row {
            op: "op".into(),
            pass: "pass".into(),
            case: "case".into(),
            elements: 1,
            worst_error: 0.0,
            tolerance_used: 50.0,
            failure: failure.map(str::to_owned),
        };
        for json in [false, true] {
            let mut table = Table { json, read: false, rows: 0, failures: 0, worst: 0.0 };
            table.add(&[row(None), row(Some("wrong")), row(None)]).unwrap();
            assert_eq!((table.rows, table.failures, table.worst), (3, 1, 50.0));
        }
    }
}
