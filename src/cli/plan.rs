//! `smoothcnn plan`.

use clap::builder::Resettable;
use serde::Serialize;
use smoothcnn::backend::cpu;
use smoothcnn::backend::device::check_activations;
use smoothcnn::compile::fuse::Kernels;
use smoothcnn::compile::{Job, compile};
use smoothcnn::data::Dataset;
use smoothcnn::loss::Loss;
use smoothcnn::network::{Architecture, Network};
use smoothcnn::ops::augment::Augment;
use smoothcnn::optimizer::{Adam, Optimizer};
use smoothcnn::plan::order::{self, Wait};
use smoothcnn::plan::tuning::{Tiles, Tuning};
use smoothcnn::plan::{Plan, Storage};
use smoothcnn::train::config::EPOCHS;
use smoothcnn::train::config::loss::LossConfig;
use smoothcnn::train::model::Model;
use smoothcnn::{Error, Result, memory};

use super::common;
use super::given::Given;
use super::loss::{LossArgs, Spread};

/// Prints what a training step does.
// A plan's --classes are how many there are.
#[derive(Debug, clap::Args)]
#[command(mut_arg("class_mask", |arg| arg.visible_alias(Resettable::Reset)))]
pub struct Args {
    /// The network: a name, or a file of layers that ends in .toml
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "seed")]
    network: String,
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
    activations: Storage,
    /// Epsilon: how much of the target's mass is spread; 0 is plain cross-entropy [default: 0.1; 0 for other losses]
    #[arg(long, value_name = "E", allow_negative_numbers = true)]
    label_smoothing: Option<f64>,
    /// Over which classes epsilon is spread
    #[arg(long, value_enum, default_value = "uniform")]
    smoothing_variant: Spread,
    #[command(flatten)]
    loss: LossArgs,
    /// What each dispatch waits for, and which run side by side
    #[arg(long)]
    order: bool,
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
    waits_for: Vec<WaitsFor>,
}

/// A dispatch that another waits for.
#[derive(Serialize)]
struct WaitsFor {
    label: String,
    /// Buffers of which both use a common part.
    data: Vec<String>,
    /// Buffers of which they use different parts: wgpu waits for the whole.
    whole_buffers: Vec<String>,
}

impl WaitsFor {
    fn of(plan: &Plan, dispatches: &[smoothcnn::plan::Dispatch], wait: &Wait) -> Self {
        let names = |buffers: &[usize]| buffers.iter().map(|&i| plan.buffers[i].name.clone()).collect();
        let (data, whole_buffers) = (names(&wait.data), names(&wait.whole));
        Self { label: dispatches[wait.on].label.clone(), data, whole_buffers }
    }

    /// For a line of text.
    fn words(&self) -> String {
        match (&self.data[..], &self.whole_buffers[..]) {
            (data, []) => format!("{} ({})", self.label, data.join(", ")),
            ([], whole) => format!("{} (only as wgpu waits for all of {})", self.label, whole.join(", ")),
            (data, whole) => format!("{} ({}; other parts of {})", self.label, data.join(", "), whole.join(", ")),
        }
    }
}

#[derive(Serialize)]
struct Buffer {
    name: String,
    bytes: u64,
}

#[derive(Serialize)]
struct Printed {
    parameters: usize,
    loss: String,
    train: Vec<Step>,
    infer: Vec<Step>,
    buffers: Vec<Buffer>,
    total_bytes: u64,
    /// What the CPU path would take in its place.
    cpu_bytes: u64,
}

/// The loss that the flags ask for, and what it is in words. Which kernels and buffers a loss has does not depend on
/// the data, so that one image of each class stands for all of them.
fn loss(args: &Args, net: &Network) -> Result<(Loss, String)> {
    let (flags, variant) = args.loss.recorded(args.smoothing_variant, EPOCHS)?;
    let epsilon = args.label_smoothing.unwrap_or(flags.kind.usual_epsilon());
    let config = LossConfig { settings: &flags, epsilon, variant };
    let one_each = Dataset {
        shape: net.input,
        classes: net.classes,
        images: vec![],
        labels: (0..net.classes as u32).collect(),
        files: vec![],
    };
    // Of soft labels the last row: with it all are there.
    let last = args.train_images.checked_sub(1).map(|last| u32::try_from(last).unwrap_or(u32::MAX));
    let mut loss = config.loss(&one_each, last.as_slice())?;
    if let Some(path) = &flags.teacher {
        Model::teacher(path, net.input, net.classes)?;
        loss = loss.with_teacher([].into())?;
    }
    Ok((loss, config.describe(net.classes)))
}

/// Runs the command.
pub fn run(args: Args, given: &Given) -> Result<u8> {
    if args.kernels == Kernels::Reference {
        given.without("--kernels reference", &["--tiles"])?;
    }
    let input = common::input_shape(&args.input)?;
    if !(2..=1 << 16).contains(&args.classes) {
        return Err(Error::Usage(format!("--classes: found {}, expected 2 to 65536", args.classes)));
    }
    check_activations(args.activations, true, args.kernels)?;
    let net = Architecture::parse(&args.network)?.network(input, args.classes)?;
    let (loss, described) = loss(&args, &net)?;
    let compiled = compile(&Job {
        recipe: Default::default(),
        net: &net,
        batch_size: args.batch_size,
        augment: Augment::NONE,
        loss: &loss,
        optimizer: Optimizer::Adam(Adam::default()),
        train_images: args.train_images,
        test_images: args.test_images,
        loss_slots: smoothcnn::backend::gpu::engine::MAX_STEPS,
        kernels: args.kernels,
        tuning: Tuning::all(args.tiles),
        activations: args.activations,
    })?;
    let steps = |range: std::ops::Range<usize>| -> Vec<Step> {
        let dispatches = &compiled.plan.dispatches[range];
        let step = |(d, waits): (&smoothcnn::plan::Dispatch, Vec<Wait>)| Step {
            label: d.label.clone(),
            kernel: format!("{}.wgsl:{}", d.shader.name, d.entry.name),
            workgroups: d.workgroups,
            bytes: d.bytes,
            flops: d.flops,
            waits_for: waits.iter().map(|wait| WaitsFor::of(&compiled.plan, dispatches, wait)).collect(),
        };
        dispatches.iter().zip(order::waits(dispatches)).map(step).collect()
    };
    let printed = Printed {
        parameters: net.parameter_count(),
        loss: described,
        train: steps(compiled.train.clone()),
        infer: steps(compiled.infer.clone()),
        buffers: compiled.plan.buffers.iter().map(|b| Buffer { name: b.name.clone(), bytes: b.bytes }).collect(),
        total_bytes: compiled.plan.bytes(),
        cpu_bytes: {
            let [train, infer] = [args.train_images, args.test_images].map(|images| images.min(args.batch_size));
            cpu::memory::of_backend::<f32>(&net, args.kernels, train, infer).total()
        },
    };
    if args.json {
        common::print_json(&printed)?;
        return Ok(0);
    }
    common::print(format_args!(
        "{} on {}, {} classes: {} parameters; batch size {}; {}",
        args.network, args.input, args.classes, printed.parameters, args.batch_size, printed.loss
    ))?;
    // As wide as the widest.
    let width = |of: fn(&Step) -> &str| {
        printed.train.iter().chain(&printed.infer).map(|step| of(step).len()).max().unwrap_or_default()
    };
    let (labels, kernels) = (width(|step| &step.label), width(|step| &step.kernel));
    for (title, steps) in [("training step", &printed.train), ("inference", &printed.infer)] {
        let (bytes, flops): (u64, u64) = (steps.iter().map(|s| s.bytes).sum(), steps.iter().map(|s| s.flops).sum());
        common::print(format_args!("\n{title}: {} dispatches", steps.len()))?;
        common::print(format_args!(
            "{:<labels$} {:<kernels$} {:>14} {:>11} {:>10}",
            "label", "kernel", "workgroups", "bound", "MFLOP"
        ))?;
        let line = |label: &str, kernel: &str, groups: &str, bytes: u64, flops: u64| {
            common::print(format_args!(
                "{label:<labels$} {kernel:<kernels$} {groups:>14} {:>11} {:>10.2}",
                memory::bytes(bytes),
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
    if args.order {
        for (title, steps, range) in [
            ("training step", &printed.train, compiled.train.clone()),
            ("inference", &printed.infer, compiled.infer.clone()),
        ] {
            print_order(title, steps, &order::waits(&compiled.plan.dispatches[range]))?;
        }
    }
    common::print(format_args!(
        "\nmemory: {} in {} buffers",
        memory::bytes(printed.total_bytes),
        printed.buffers.len()
    ))?;
    let mut largest: Vec<_> = printed.buffers.iter().collect();
    largest.sort_by_key(|buffer| std::cmp::Reverse(buffer.bytes));
    for buffer in largest.iter().take(8) {
        common::print(format_args!("{:<28} {:>11}", buffer.name, memory::bytes(buffer.bytes)))?;
    }
    common::print(format_args!("\nmemory on the CPU path: about {}", memory::bytes(printed.cpu_bytes)))?;
    Ok(0)
}

/// What each dispatch waits for, wave by wave.
fn print_order(title: &str, steps: &[Step], waits: &[Vec<Wait>]) -> Result<()> {
    let waves = order::waves(waits);
    common::print(format_args!(
        "\n{title}: {} dispatches run in {} waves, at least {} in any order of them",
        steps.len(),
        waves.len(),
        order::least_waves(waits)
    ))?;
    let width = steps.iter().map(|step| step.label.len()).max().unwrap_or_default();
    for (number, wave) in waves.into_iter().enumerate() {
        for step in &steps[wave] {
            let waits: Vec<_> = step.waits_for.iter().map(WaitsFor::words).collect();
            let waits = if waits.is_empty() { "nothing".into() } else { waits.join(", ") };
            common::print(format_args!("{:>4} {:<width$} waits for {waits}", number + 1, step.label))?;
        }
    }
    Ok(())
}
