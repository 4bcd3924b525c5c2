//! `smoothcnn bench`.

use std::path::PathBuf;

use smoothcnn::backend::device::{Precision, check_activations};
use smoothcnn::backend::gpu::clock::Clock;
use smoothcnn::bench::full::{FullPart, FullReport};
use smoothcnn::bench::{Bench, Measurement, Report};
use smoothcnn::fs::write_output;
use smoothcnn::network::Architecture;
use smoothcnn::ops::augment::Augment;
use smoothcnn::plan::Storage;
use smoothcnn::plan::tuning::Tuning;
use smoothcnn::{Error, Result, input, memory, parse};

use super::common::{self, DeviceArgs};
use super::full;
use super::given::Given;

/// Measures training and inference of a network on this machine. Every answer is checked against the oracle first.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// Batch sizes
    #[arg(short, long, value_delimiter = ',', default_values_t = [32, 64, 128, 256, 1024], value_parser = common::at_least_one)]
    batch_size: Vec<usize>,
    /// The network: a name, or a file of layers that ends in .toml
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "seed")]
    network: String,
    /// Images' shapes
    #[arg(long, value_name = "CxHxW", value_delimiter = ',', default_values_t = ["1x28x28".to_owned(), "1x112x112".to_owned()])]
    input: Vec<String>,
    /// Also measure by how much longer a training step takes with images changed so: as `train --augment`
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "none")]
    augment: String,
    /// In what a GPU's fused kernels store what one layer gives to the next
    #[arg(long, value_enum, default_value = "f32")]
    activations: Storage,
    /// Seconds for each task of each configuration [default: 3, with --full 1]
    #[arg(long)]
    seconds: Option<f64>,
    /// All that there is to know of this device, within ten minutes, as one file to send: check, the fastest forms of
    /// the kernels, two trainings that must give the same bits, seconds to 99 % on the built-in digits, and this
    /// bench at fewer sizes where the device is no hardware GPU. Of the other flags only --save, --device, --adapter,
    /// --tiles, --batch-size, --input and --seconds may be given; the training to 99 % may last 120 times --seconds
    #[arg(long)]
    full: bool,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Also write the JSON to this file
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Compare with an earlier --save: the ratio now / then
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Measure nothing: print the Markdown table of these earlier files
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["json", "save", "compare"])]
    table: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args, given: &Given) -> Result<u8> {
    if !args.table.is_empty() {
        given.only("--table", &[])?;
        return table(&args.table);
    }
    let seconds = args.seconds.unwrap_or(if args.full { 1.0 } else { 3.0 });
    if !(seconds > 0.0 && seconds <= 3600.0) {
        return Err(Error::Usage(format!("--seconds: found {seconds}, expected a number above 0, up to 3600")));
    }
    if args.full {
        given.only("--full", &FULL)?;
        if args.save.is_none() {
            return Err(Error::Usage("--full: found no --save, expected a file to write: --save FILE".into()));
        }
    }
    let earlier = args.compare.as_deref().map(read).transpose()?;
    let inputs: Vec<_> = args.input.iter().map(|text| common::input_shape(text)).collect::<Result<_>>()?;
    let device = args.device.device();
    let opened = device.open(Precision::F32, &|line| common::note(line))?;
    if let (true, Some(path)) = (args.full, &args.save) {
        busy().into_iter().for_each(common::note);
        return full::run(opened, sizes(&inputs, &args.batch_size, given), seconds, path);
    }
    let gpu = opened.gpu;
    let kernels = device.kernels.unwrap_or_default();
    check_activations(args.activations, gpu.is_some(), kernels)?;
    let tuning = device.tiles.map(Tuning::all);
    let network = Architecture::parse(&args.network)?;
    let augment = Augment::parse(&args.augment)?;
    let bench = Bench { network, gpu, kernels, tuning, activations: args.activations, augment, seconds };
    busy().into_iter().for_each(common::note);
    let mut report = bench.report()?;
    let show = |text: String| if args.json { Ok(()) } else { common::print(text) };
    show(header(&report))?;
    for &input in &inputs {
        for &batch_size in &args.batch_size {
            let results = match bench.fits(input, batch_size).and_then(|()| bench.measure(input, batch_size)) {
                Ok(results) => results,
                // A batch too large for the device is a fact about the device, and no reason to stop.
                Err(Error::OverLimit(reason)) => {
                    show(format!("\n{} batch {batch_size}: left out: {reason}", shape(input)))?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for result in results {
                show(describe(&result, &report, earlier.as_ref()))?;
                report.results.push(result);
            }
        }
    }
    let spread = widest(&report);
    if spread > WIDE {
        let message = "something else runs here, or the clock changes: measure again, or longer (--seconds)";
        common::note(format_args!("the measurements of one case are up to {:.0} % apart: {message}", 100.0 * spread));
    }
    if let Some(path) = &args.save {
        let text = serde_json::to_string_pretty(&report).expect("plain structs with string keys always serialise");
        write_output(path, text.as_bytes())?;
    }
    if args.json {
        common::print_json(&report)?;
    } else {
        let first = if bench.gpu.is_some() { "check" } else { "devices" };
        let device = args.device.flags().join(" ");
        common::note(format_args!("next: smoothcnn {first}; smoothcnn train {device}"));
    }
    Ok(0)
}

/// The flags that --full takes.
const FULL: [&str; 7] = ["--save", "--device", "--adapter", "--tiles", "--batch-size", "--input", "--seconds"];

/// The sizes that were asked for, or `None` where nobody did.
fn sizes(inputs: &[[usize; 3]], batches: &[usize], given: &Given) -> Option<Vec<([usize; 3], usize)>> {
    let asked = given.has("--input") || given.has("--batch-size");
    let sizes = inputs.iter().flat_map(|&input| batches.iter().map(move |&batch| (input, batch)));
    asked.then(|| sizes.collect())
}

/// Measurements of one case that are further apart say more of the machine's other work than of the case.
const WIDE: f64 = 0.25;

/// By how much the best and the worst measurement of a case are apart, at most: a share of the median.
fn widest(report: &Report) -> f64 {
    let apart = |result: &Measurement| {
        let [median, worst, best] = result.images_per_second;
        (best - worst) / median
    };
    report.results.iter().map(apart).fold(0.0, f64::max)
}

/// Says so where other programs compute: more are ready to run than there are processors left.
fn busy() -> Option<String> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let load: f64 = text.split(' ').next()?.parse().ok()?;
    let processors = std::thread::available_parallelism().ok()?.get();
    let is_busy = load > 0.5 * processors as f64;
    is_busy.then(|| {
        format!("the machine is busy: a load of {load:.1} on {processors} processors, before anything is measured")
    })
}

/// The processor's name, as Linux has it.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn shape([c, h, w]: [usize; 3]) -> String {
    format!("{c}x{h}x{w}")
}

/// What --save wrote, with --full or without.
fn read(path: &std::path::Path) -> Result<Report> {
    let expected = "a file of --save";
    let text = input::read_text(path, expected)?;
    match parse::json::<FullReport>(path, &text, expected) {
        Ok(FullReport { bench: FullPart { found: Some(report), .. }, .. }) => Ok(report),
        _ => parse::json(path, &text, expected),
    }
}

/// What was measured, and what is unusual about it.
fn title(report: &Report) -> String {
    match report.activations {
        Storage::F32 => report.device.clone(),
        Storage::F16 => format!("{}, activations in f16", report.device),
    }
}

fn header(report: &Report) -> String {
    let mut text = format!("smoothcnn {} on {}", report.version, title(report));
    text += &processor().map_or(String::new(), |name| format!("\nprocessor: {name}"));
    text += "\nimages/s: the median of several windows (the worst to the best).\ncold start: from nothing to the first result.";
    if let Some(c) = &report.ceilings {
        text += &format!(
            "\nat most {:.1} GFLOP/s (multiply-adds), {:.1} GB/s (copy); a submission {:.0} us, a dispatch {:.1} us",
            c.flops_per_second / 1e9,
            c.bytes_per_second / 1e9,
            c.submit_seconds * 1e6,
            c.dispatch_seconds * 1e6
        );
        text += "\nkernels: us and share of a step's time; MFLOP, MB: what one does and moves.\n\
                 floor: a step's time at these limits; idle: the part of it without a kernel.";
    }
    text
}

fn same_case<'a>(report: &'a Report, result: &Measurement) -> Option<&'a Measurement> {
    report.results.iter().find(|r| (&r.task, r.input, r.batch_size) == (&result.task, result.input, result.batch_size))
}

fn describe(result: &Measurement, report: &Report, earlier: Option<&Report>) -> String {
    let [median, worst, best] = result.images_per_second;
    let mut text = format!(
        "\n{:<5} {} batch {}: {median:.0} images/s ({worst:.0} to {best:.0}), {:.2} ms a step",
        result.task,
        shape(result.input),
        result.batch_size,
        result.step_seconds() * 1e3
    );
    if let Some(then) = earlier.and_then(|report| same_case(report, result)) {
        text +=
            &format!(", {:.2}x of the earlier {:.0}", median / then.images_per_second[0], then.images_per_second[0]);
    }
    if result.task == "train" {
        text += &format!("; cold start {:.2} s", result.cold_start_seconds);
    }
    if let Some(cost) = result.augment_cost {
        text += &format!("; augmentation: {:+.1} % of a step", 100.0 * cost);
    }
    if result.kernels.is_empty() {
        return text;
    }
    let total = result.kernel_seconds();
    // Of a kernel that is shorter than a tick of the clock there is no rate.
    let rate = |amount: u64, seconds: f64| match seconds > 0.0 {
        true => format!("{:.2}", amount as f64 / seconds / 1e9),
        false => "-".to_owned(),
    };
    text += &format!(
        "; {} dispatches, plan {} ({} allocated), idle {:.0}%",
        result.kernels.len(),
        memory::bytes(result.plan_bytes),
        memory::bytes(result.allocated_bytes),
        100.0 * (1.0 - total / result.step_seconds()).max(0.0)
    );
    if let Some(ceilings) = &report.ceilings {
        let floor = result.floor_seconds(ceilings);
        text += &format!("; floor {:.2} ms, {:.0}% of it reached", floor * 1e3, 100.0 * floor / result.step_seconds());
    }
    if result.clock == Clock::Host {
        text += "\n  by the host's clock, with a submission for each kernel: the device's clock cannot be believed";
    }
    text += &format!(
        "\n  {:<32} {:>10} {:>6} {:>9} {:>9} {:>8} {:>8}",
        "kernel", "us", "share", "MFLOP", "MB", "GFLOP/s", "GB/s"
    );
    for k in &result.kernels {
        text += &format!(
            "\n  {:<32} {:>10.1} {:>5.1}% {:>9.2} {:>9.2} {:>8} {:>8}",
            k.label,
            k.seconds * 1e6,
            100.0 * k.seconds / total.max(f64::MIN_POSITIVE),
            k.flops as f64 / 1e6,
            k.bytes as f64 / 1e6,
            rate(k.flops, k.seconds),
            rate(k.bytes, k.seconds)
        );
    }
    text
}

/// The Markdown table of earlier results: a row for each configuration, a column for each file.
fn table(files: &[PathBuf]) -> Result<u8> {
    let reports: Vec<Report> = files.iter().map(|path| read(path)).collect::<Result<_>>()?;
    let titles: Vec<_> = reports.iter().map(title).collect();
    common::print(format_args!("| images/s | {} |\n|---|{}", titles.join(" | "), "---:|".repeat(reports.len())))?;
    for result in &reports[0].results {
        let cell = |report: &Report| {
            same_case(report, result).map_or("-".into(), |found| format!("{:.0}", found.images_per_second[0]))
        };
        let cells: Vec<_> = reports.iter().map(cell).collect();
        let (task, input) = (&result.task, shape(result.input));
        common::print(format_args!("| {task}, {input}, batch {} | {} |", result.batch_size, cells.join(" | ")))?;
    }
    Ok(0)
}
