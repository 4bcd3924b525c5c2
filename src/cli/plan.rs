//! `smoothcnn plan`.

use serde::Serialize;
use smoothcnn::activations::Activations;
use smoothcnn::compile::{Job, compile};
use smoothcnn::fusion::Kernels;
use smoothcnn::net::Network;
use smoothcnn::ops::optimizer::{Adam, Optimizer};
use smoothcnn::smoothing::Smoothing;
use smoothcnn::tuning::{Tiles, Tuning};
use smoothcnn::{Error, Result};

use super::common::{self, SmoothingArgs};

/// Prints what a training step of the seed network does.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Channels x height x width of an image
    #[arg(long, value_name = "CxHxW", default_value = "1x28x28")]
    input: String,
    /// Classes
    #[arg(long, default_value_t = 10)]
    classes: usize,
    /// Images in a batch
    #[arg(short, long, default_value_t = 64, value_parser = common::at_least_one)]
    batch_size: usize,
    /// Training images on the device
    #[arg(long, value_name = "N", default_value_t = 60_000)]
    train_images: usize,
    /// Test images on the device
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    test_images: usize,
    /// Kernels
    #[arg(long, value_enum, default_value = "fused")]
    kernels: Kernels,
    /// The form of the fused kernels
    #[arg(long, value_enum, default_value = "registers")]
    tiles: Tiles,
    /// In what the fused kernels store what one layer gives to the next
    #[arg(long, value_enum, default_value = "f32")]
    activations: Activations,
    #[command(flatten)]
    smoothing: SmoothingArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Step {
    label: String,
    kernel: String,
    workgroups: [u32; 3],
    bytes: u64,
    flops: u64,
}

#[derive(Serialize)]
struct Buffer {
    name: String,
    bytes: u64,
}

#[derive(Serialize)]
struct Printed {
    parameters: usize,
    train: Vec<Step>,
    infer: Vec<Step>,
    buffers: Vec<Buffer>,
    total_bytes: u64,
}

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    let input = common::input_shape(&args.input)?;
    if !(2..=1 << 16).contains(&args.classes) {
        return Err(Error::Usage(format!("--classes: found {}, expected 2 to 65536", args.classes)));
    }
    common::check_activations(args.activations, true, args.kernels)?;
    let net = Network::seed(input, args.classes)?;
    let smoothing = Smoothing::new(args.smoothing.smoothing_variant, args.smoothing.label_smoothing, args.classes)?;
    let compiled = compile(&Job {
        net: &net,
        batch_size: args.batch_size,
        loss: &smoothing.into(),
        optimizer: Optimizer::Adam(Adam::default()),
        train_images: args.train_images,
        test_images: args.test_images,
        loss_slots: smoothcnn::gpu::engine::MAX_STEPS,
        kernels: args.kernels,
        tuning: Tuning::all(args.tiles),
        activations: args.activations,
    })?;
    let steps = |range: std::ops::Range<usize>| -> Vec<Step> {
        let step = |d: &smoothcnn::plan::Dispatch| Step {
            label: d.label.clone(),
            kernel: format!("{}.wgsl:{}", d.shader.name, d.entry.name),
            workgroups: d.workgroups,
            bytes: d.bytes,
            flops: d.flops,
        };
        compiled.plan.dispatches[range].iter().map(step).collect()
    };
    let printed = Printed {
        parameters: net.parameter_count(),
        train: steps(compiled.train.clone()),
        infer: steps(compiled.infer.clone()),
        buffers: compiled.plan.buffers.iter().map(|b| Buffer { name: b.name.clone(), bytes: b.bytes }).collect(),
        total_bytes: compiled.plan.bytes(),
    };
    if args.json {
        common::print_json(&printed)?;
        return Ok(0);
    }
    common::print(format_args!(
        "seed network on {}, {} classes: {} parameters; batch size {}",
        args.input, args.classes, printed.parameters, args.batch_size
    ))?;
    for (title, steps) in [("training step", &printed.train), ("inference", &printed.infer)] {
        let (bytes, flops): (u64, u64) = (steps.iter().map(|s| s.bytes).sum(), steps.iter().map(|s| s.flops).sum());
        common::print(format_args!("\n{title}: {} dispatches", steps.len()))?;
        common::print(format_args!(
            "{:<28} {:<34} {:>14} {:>11} {:>10}",
            "label", "kernel", "workgroups", "bound", "MFLOP"
        ))?;
        let line = |label: &str, kernel: &str, groups: &str, bytes: u64, flops: u64| {
            common::print(format_args!(
                "{label:<28} {kernel:<34} {groups:>14} {:>11} {:>10.2}",
                common::bytes(bytes),
                flops as f64 / 1e6
            ))
        };
        for step in steps {
            let [x, y, _] = step.workgroups;
            let groups = if y == 1 { x.to_string() } else { format!("{x}x{y}") };
            line(&step.label, &step.kernel, &groups, step.bytes, step.flops)?;
        }
        line("total", "", "", bytes, flops)?;
    }
    common::print(format_args!(
        "\nmemory: {} in {} buffers",
        common::bytes(printed.total_bytes),
        printed.buffers.len()
    ))?;
    let mut largest: Vec<_> = printed.buffers.iter().collect();
    largest.sort_by_key(|buffer| std::cmp::Reverse(buffer.bytes));
    for buffer in largest.iter().take(8) {
        common::print(format_args!("{:<28} {:>11}", buffer.name, common::bytes(buffer.bytes)))?;
    }
    Ok(0)
}
