//! `smoothcnn check`.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use smoothcnn::backend::gpu::choose::choose;
use smoothcnn::backend::gpu::{Choice, DeviceKind};
use smoothcnn::check::{Row, every};
use smoothcnn::parse::to_json;
use smoothcnn::{Error, Result};

use super::common;

/// Runs every kernel over awkward shapes, and three training steps of the network, and compares with the f64 oracle.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A certain adapter: its index in `smoothcnn devices`, or a part of its name
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Every comparison, a line each
    #[arg(short, long)]
    verbose: bool,
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

    let mut table =
        Table { json: args.json, verbose: args.verbose, read: true, ops: vec![], failed: vec![], bar: bar() };
    if args.verbose && !args.json {
        table.print(HEADER)?;
    }
    let mut printed = Ok(());
    every::with_training(&gpu, |rows| {
        if printed.is_ok() {
            printed = table.add(&rows);
        }
    })?;
    printed?;
    table.bar.finish_and_clear();
    if !args.json {
        table.summary().into_iter().try_for_each(|line| table.print(line))?;
    }
    Ok(u8::from(!table.failed.is_empty()))
}

/// What is under way, on a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{pos} comparisons, {elapsed}: {msg}");
    bar.set_style(style.expect("the template is well formed"));
    bar
}

const HEADER: &str = "op             pass                               case                                                  elements      error   used";

/// A row as text: its place, its worst error, how much of its tolerance that is.
fn line(row: &Row) -> String {
    let Row { op, pass, case, elements, worst_error, tolerance_used, failure } = row;
    let failure = failure.as_ref().map(|failure| format!("  FAIL: {failure}")).unwrap_or_default();
    format!("{op:<14} {pass:<34} {case:<52} {elements:>9} {worst_error:>10.1e} {tolerance_used:>5.0}%{failure}")
}

/// The comparisons of one operation.
struct Tally {
    op: String,
    rows: usize,
    failures: usize,
    worst: f64,
}

struct Table {
    json: bool,
    /// Whether every row is printed.
    verbose: bool,
    /// Whether somebody still reads. The check goes on without, for its exit code.
    read: bool,
    /// In the order in which they are first seen.
    ops: Vec<Tally>,
    /// The rows that failed.
    failed: Vec<String>,
    bar: ProgressBar,
}

impl Table {
    fn print(&mut self, line: impl std::fmt::Display) -> Result<()> {
        self.read = self.read && common::print_if_read(line)?;
        Ok(())
    }

    fn add(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let at = self.ops.iter().position(|tally| tally.op == row.op).unwrap_or_else(|| {
                self.ops.push(Tally { op: row.op.clone(), rows: 0, failures: 0, worst: 0.0 });
                self.ops.len() - 1
            });
            let tally = &mut self.ops[at];
            tally.rows += 1;
            tally.failures += usize::from(row.failure.is_some());
            tally.worst = tally.worst.max(row.tolerance_used);
            if row.failure.is_some() {
                self.failed.push(line(row));
            }
            self.bar.inc(1);
            self.bar.set_message(row.op.clone());
            if self.json {
                self.print(to_json(row))?;
            } else if self.verbose {
                self.print(line(row))?;
            }
        }
        Ok(())
    }

    /// The verdict, a line for each operation, the rows that failed, where they are not printed yet, and the verdict
    /// again.
    fn summary(&self) -> Vec<String> {
        let rows: usize = self.ops.iter().map(|tally| tally.rows).sum();
        let worst = self.ops.iter().map(|tally| tally.worst).fold(0.0, f64::max);
        let word = |failures: usize| if failures == 0 { "pass" } else { "FAIL" };
        let failures = self.failed.len();
        let verdict = format!(
            "{}: {} of {rows} comparisons within tolerance; the closest used {worst:.0}% of its own",
            word(failures),
            rows - failures
        );
        let of_op = |tally: &Tally| {
            let Tally { op, rows, failures, worst } = tally;
            let failed = if *failures > 0 { format!("  {failures} failed") } else { String::new() };
            format!(
                "{}  {op:<18} {rows:>5} comparisons, at most {worst:>4.0}% of the tolerance{failed}",
                word(*failures)
            )
        };
        let failed = self.failed.iter().filter(|_| !self.verbose).cloned();
        let ops = self.ops.iter().map(of_op);
        [verdict.clone()].into_iter().chain(ops).chain(failed).chain([verdict]).collect()
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
            let bar = ProgressBar::hidden();
            let mut table = Table { json, verbose: false, read: false, ops: vec![], failed: vec![], bar };
            table.add(&[row(None), row(Some("wrong")), row(None)]).unwrap();
            let lines = table.summary();
            let verdict = "FAIL: 2 of 3 comparisons within tolerance; the closest used 50% of its own";
            assert_eq!((&lines[0][..], &lines[3][..]), (verdict, verdict));
            assert_eq!(
                lines[1],
                "FAIL  op                     3 comparisons, at most   50% of the tolerance  1 failed"
            );
            assert!(lines[2].ends_with("50%  FAIL: wrong"), "{lines:?}");
        }
    }
}
