//! Every pass of every shader is recorded by some operation. [`Plan::dispatch`] holds the shader's bindings and uniform
//! blocks against the host's as it records, so that these tests prove that the two sides agree.

use std::collections::BTreeSet;

use smoothcnn::compile::fuse::Kernels;
use smoothcnn::compile::{Compiled, Job, compile};
use smoothcnn::layer::{At, Mode};
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::loss::{self, FORMS, Loss};
use smoothcnn::network::{Architecture, Layer, Network, Preset};
use smoothcnn::ops;
use smoothcnn::ops::AffineBuffers;
use smoothcnn::ops::augment::Augment;
use smoothcnn::ops::ceiling;
use smoothcnn::ops::conv2d::{self, Conv2d};
use smoothcnn::ops::conv2d_pool::Conv2dPool;
use smoothcnn::ops::linear::Linear;
use smoothcnn::ops::linear_tiled::LinearTiled;
use smoothcnn::ops::max_pool2d::{self, MaxPool2d};
use smoothcnn::ops::mix::Mix;
use smoothcnn::ops::stage::Layout;
use smoothcnn::optimizer::{Adam, Optimizer, Sgd, muon, recipe::Recipe};
use smoothcnn::plan::Plan;
use smoothcnn::plan::Storage;
use smoothcnn::plan::shaders::BindingKind;
use smoothcnn::plan::tuning::{Tiles, Tuning};

type Pass = (&'static str, String);

fn job<'a>(
    net: &'a Network,
    loss: &'a Loss,
    optimizer: Optimizer,
    (kernels, tiles, activations): (Kernels, Tiles, Storage),
) -> Job<'a> {
    Job {
        recipe: Default::default(),
        net,
        batch_size: 7,
        augment: Augment::NONE,
        loss,
        optimizer,
        train_images: 20,
        test_images: 9,
        loss_slots: 4,
        kernels,
        tuning: Tuning::all(tiles),
        activations,
    }
}

const KERNELS: [(Kernels, Tiles, Storage); 7] = [
    (Kernels::Reference, Tiles::Registers, Storage::F32),
    (Kernels::Fused, Tiles::Registers, Storage::F32),
    (Kernels::Fused, Tiles::Workgroup, Storage::F32),
    (Kernels::Fused, Tiles::Lanes, Storage::F32),
    (Kernels::Fused, Tiles::Registers, Storage::F16),
    (Kernels::Fused, Tiles::Workgroup, Storage::F16),
    (Kernels::Fused, Tiles::Lanes, Storage::F16),
];

fn optimizers() -> [Optimizer; 5] {
    [
        Optimizer::Adam(Adam::default()),
        Optimizer::AdamW(Adam { weight_decay: 0.01, ..Adam::default() }),
        Optimizer::Muon(muon::settings()),
        Optimizer::Sgd(Sgd { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.0 }),
        Optimizer::Sgd(Sgd { lr: 0.1, momentum: 0.0, nesterov: false, weight_decay: 0.0 }),
    ]
}

/// The seed network on several images, and ones that no fused kernel fits: other strides, windows, orders of layers.
fn networks() -> Vec<Network> {
    let mut networks: Vec<_> =
        [[1, 28, 28], [3, 32, 32], [1, 5, 7]].map(|input| Network::seed(input, 10).unwrap()).into();
    let odd_conv = Layer::new(conv2d::Settings {
        out_channels: 3,
        kernel_size: [2, 3],
        stride: [2, 1],
        padding: [0, 2],
        ..conv2d::Settings::square(1, 1, 0)
    });
    let overlapping = Layer::new(max_pool2d::Settings { kernel_size: [3, 2], stride: [1, 2], padding: [0; 2] });
    for layers in [
        vec![odd_conv, overlapping, Layer::relu(), Layer::conv2d(2, 1, 0), Layer::flatten(), Layer::linear(11)],
        vec![Layer::flatten(), Layer::linear(5), Layer::linear(2)],
        vec![Layer::flatten(), Layer::linear(8), Layer::relu(), Layer::linear(3)],
        // A fused block below a layer that is not fused.
        vec![
            Layer::conv2d(4, 3, 1),
            Layer::relu(),
            Layer::max_pool2d(2),
            Layer::conv2d(3, 1, 0),
            Layer::flatten(),
            Layer::linear(2),
        ],
        // One above a layer that is not.
        vec![
            Layer::conv2d(5, 3, 1),
            Layer::conv2d(4, 3, 1),
            Layer::relu(),
            Layer::max_pool2d(2),
            Layer::flatten(),
            Layer::linear(2),
        ],
        vec![
            Layer::relu(),
            Layer::max_pool2d(2),
            Layer::conv2d(4, 3, 1),
            Layer::relu(),
            Layer::flatten(),
            Layer::linear(3),
        ],
        // A kernel of one tap that wants the gradient of its input.
        vec![Layer::conv2d(4, 3, 1), Layer::conv2d(8, 1, 0), Layer::relu(), Layer::flatten(), Layer::linear(3)],
        // The first layer with parameters, but not the first.
        vec![
            Layer::max_pool2d(2),
            Layer::conv2d(4, 3, 1),
            Layer::relu(),
            Layer::max_pool2d(2),
            Layer::flatten(),
            Layer::linear(2),
        ],
        // The same below a linear layer, and a block above a layer that is not fused: both give what that layer reads.
        vec![
            Layer::max_pool2d(2),
            Layer::conv2d(4, 3, 1),
            Layer::relu(),
            Layer::max_pool2d(2),
            Layer::flatten(),
            Layer::linear(4),
            Layer::linear(2),
        ],
        vec![
            Layer::conv2d(5, 3, 1),
            Layer::conv2d(4, 3, 1),
            Layer::relu(),
            Layer::max_pool2d(2),
            Layer::flatten(),
            Layer::linear(4),
            Layer::linear(2),
        ],
        // A block that reads the data set, and more classes than a head takes.
        vec![Layer::conv2d(4, 3, 1), Layer::relu(), Layer::max_pool2d(2), Layer::flatten(), Layer::linear(65)],
    ] {
        networks.push(Network::new([2, 9, 8], &layers).unwrap());
    }
    networks
}

fn all_plans() -> Vec<Compiled> {
    let mut plans = vec![];
    let loss = Loss::from(Smoothing::NONE);
    for net in &networks() {
        for optimizer in optimizers() {
            plans.extend(KERNELS.map(|kernels| compile(&job(net, &loss, optimizer, kernels)).unwrap()));
        }
        let recipe = Recipe { clip_grad_norm: Some(1.0), ema: Some(0.9), ..Recipe::default() };
        let with = |kernels| compile(&Job { recipe, ..job(net, &loss, optimizers()[0], kernels) }).unwrap();
        plans.extend(KERNELS.map(with));
    }
    // Work for more workgroups than some kernels have larger parts for.
    let net = &networks()[0];
    let large = |kernels| Job { batch_size: 512, train_images: 512, ..job(net, &loss, optimizers()[0], kernels) };
    plans.extend(KERNELS.map(|kernels| compile(&large(kernels)).unwrap()));
    // Batch norms, additions, tensors of two readers; a pooling behind a batch norm.
    for preset in [Preset::Resnet8, Preset::Cifar] {
        let net = Architecture::Preset(preset).network([3, 32, 32], 10).unwrap();
        plans.extend(KERNELS.map(|kernels| compile(&job(&net, &loss, optimizers()[0], kernels)).unwrap()));
    }
    // The same with images that are augmented.
    let residual = Architecture::Preset(Preset::Resnet8).network([3, 32, 32], 10).unwrap();
    for net in [&residual, &networks()[0]] {
        let job = Job { augment: Augment::CIFAR, ..job(net, &loss, optimizers()[0], KERNELS[1]) };
        plans.push(compile(&job).unwrap());
        // Images that are mixed; gradients that are added up.
        let mixed = Loss::from(Smoothing::NONE).mixed().unwrap();
        let recipe = Recipe { mix: Mix { mixup: 1.0, cutmix: 1.0 }, accumulate: 2, ..Recipe::default() };
        plans.push(compile(&Job { loss: &mixed, recipe, ..job }).unwrap());
    }
    plans
}

fn passes(plan: &Plan) -> impl Iterator<Item = Pass> {
    plan.dispatches.iter().map(|dispatch| (dispatch.shader.name, dispatch.entry.name.clone()))
}

/// Every pass of every form of loss, with and without rows: what `check` holds against the twin. Training takes both at
/// once.
fn losses() -> Plan {
    let mut plan = Plan::default();
    let at = plan.buffer("any", 64).unwrap();
    let labels = loss::Buffers { logits: at, targets: at, rows: None, order: at, losses: at, dlogits: at, stride: 4 };
    for form in FORMS.iter().flat_map(|form| (form.cases)(3, 4, 1.0).unwrap()).map(|case| case.form) {
        for pass in [loss::Pass::Forward, loss::Pass::Backward(at), loss::Pass::ForwardBackward] {
            let rows = loss::Buffers { rows: Some(at), ..labels };
            form.record(&mut plan, pass, 3, 4, &rows).unwrap();
            if form.needs().is_none() {
                form.record(&mut plan, pass, 3, 4, &labels).unwrap();
            }
        }
    }
    plan
}

/// Every layer's passes over the first of its cases, in training and in inference.
fn layers_apart() -> Plan {
    let mut plan = Plan::default();
    let at = plan.buffer("any", 64).unwrap();
    for entry in ops::ALL {
        let case = &(entry.cases)()[0];
        let op = case.layer.fit(case.input).unwrap();
        let params = vec![at; op.parameters().len()];
        for mode in [Mode::Training, Mode::Inference] {
            let saved = op.saved(case.n).map(|_| at);
            let at_layer = At {
                name: "layer",
                n: case.n,
                mode,
                x: at,
                skip: Some(at),
                y: at,
                params: &params,
                grads: &params,
                saved,
                layer: 0,
            };
            op.record_forward(&mut plan, &at_layer).unwrap();
            if mode == Mode::Training {
                op.record_backward(&mut plan, &at_layer, at, Some(at)).unwrap();
            }
        }
    }
    plan
}

/// What only `bench` runs.
fn ceilings() -> Plan {
    let mut plan = Plan::default();
    let (x, y) = (plan.buffer("x", 64).unwrap(), plan.buffer("y", 64).unwrap());
    ceiling::copy(&mut plan, 16, x, y).unwrap();
    ceiling::multiply_add(&mut plan, 16, y).unwrap();
    plan
}

/// What only `check` runs. A layer that reads halves has one below it, which wants a gradient; one that gives halves
/// has a fused one above it, which gives its gradient as it is wanted.
fn halves_apart() -> Plan {
    let mut plan = Plan::default();
    let at = plan.buffer("any", 64).unwrap();
    let buffers = AffineBuffers { x: at, w: at, b: at, y: at, dw: at, db: at };
    for tiles in [Tiles::Registers, Tiles::Lanes] {
        let layer = LinearTiled::new(&Linear::new(4, 4)).unwrap();
        let layer = LinearTiled { x: Storage::F16, tiles, ..layer };
        layer.backward(&mut plan, "linear", 3, &buffers, at, None).unwrap();
    }
    let conv = Conv2d {
        input: [1, 2, 2],
        c_out: 4,
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1, 1],
        bias: true,
        ..Conv2d::PLAIN
    };
    let pool = MaxPool2d { input: [4, 2, 2], kernel: [2, 2], stride: [2, 2], padding: [0; 2] };
    let mut block = Conv2dPool::new(&conv, &pool, false, Layout::Planes, Layout::Planes).unwrap();
    block.stored = Storage::F16;
    block.channels_last(&mut plan, "block", 3, at, at).unwrap();
    plan
}

/// Catches a pass that no operation uses any more, and uniform blocks or bindings that differ between shader and host.
#[test]
fn every_pass_is_recorded_by_an_operation() {
    let mut recorded: BTreeSet<Pass> =
        [losses(), layers_apart(), ceilings(), halves_apart()].iter().flat_map(passes).collect();
    for compiled in all_plans() {
        recorded.extend(passes(&compiled.plan));
    }
    let mut missing = vec![];
    for shader in smoothcnn::ops::shaders() {
        let passes = shader.entries().iter().map(|entry| (shader.name, entry.name.clone()));
        missing.extend(passes.filter(|pass| !recorded.contains(pass)));
    }
    assert!(missing.is_empty(), "nothing records {missing:?}");
}

/// Catches a slice outside its buffer, or a writable binding that shares bytes with another one of its dispatch: WebGPU
/// refuses both, on a device.
#[test]
fn what_a_pass_binds_lies_within_its_buffer_and_what_it_writes_is_its_own() {
    for compiled in all_plans() {
        for dispatch in &compiled.plan.dispatches {
            let storage = dispatch.entry.bindings.iter().filter_map(|binding| match binding.kind {
                BindingKind::Storage { writable } => Some((&binding.name, writable)),
                BindingKind::Uniform { .. } => None,
            });
            let bound: Vec<_> = storage.zip(&dispatch.slices).collect();
            assert_eq!(bound.len(), dispatch.slices.len(), "{}", dispatch.label);
            for (i, ((name, writable), slice)) in bound.iter().enumerate() {
                let whole = compiled.plan.buffers[slice.buffer].bytes;
                assert!(
                    slice.bytes > 0 && slice.offset + slice.bytes <= whole,
                    "{}: {name} binds {slice:?} of {whole} bytes",
                    dispatch.label
                );
                assert_eq!(slice.offset % 256, 0, "{}: {name} starts between two allowed offsets", dispatch.label);
                for ((other, other_writable), with) in &bound[i + 1..] {
                    let disjoint = slice.buffer != with.buffer
                        || slice.offset + slice.bytes <= with.offset
                        || with.offset + with.bytes <= slice.offset;
                    assert!(
                        disjoint || !(*writable || *other_writable),
                        "{}: {name} and {other} overlap, and one is written",
                        dispatch.label
                    );
                }
            }
        }
    }
}

/// Catches a forward pass that differs between training and the test, or an update that is not a step's last act.
#[test]
fn inference_is_the_forward_part_of_training() {
    let loss = Loss::from(Smoothing::NONE);
    for (net, kernels) in networks().iter().flat_map(|net| KERNELS.map(|kernels| (net, kernels))) {
        let compiled = compile(&job(net, &loss, optimizers()[0], kernels)).unwrap();
        let labels = |range: std::ops::Range<usize>| -> Vec<&str> {
            compiled.plan.dispatches[range].iter().map(|dispatch| dispatch.label.as_str()).collect()
        };
        let (train, mut infer) = (labels(compiled.train.clone()), labels(compiled.infer.clone()));
        assert_eq!(train.last(), Some(&"adam.update"));
        assert_eq!(infer.pop(), Some("logits.seal"));
        assert_eq!(labels(compiled.seal_state), ["params.seal", "optimizer.exp_avg.seal", "optimizer.exp_avg_sq.seal"]);
        // A first block reads the data set itself; then a head looks up the labels, and any other loss is handed them.
        let [train, infer] = match train[0] {
            "train.gather" => {
                assert_eq!(infer[0], "test.gather");
                [&train[1..], &infer[1..]]
            }
            "train.labels" => [&train[1..], &infer[..]],
            _ => [&train[..], &infer[..]],
        };
        // In training a fused head takes the loss along.
        let head = usize::from(train.iter().any(|label| label.ends_with("+loss.forward_backward")));
        assert_eq!(train[..infer.len() - head], infer[..infer.len() - head]);
        assert!(labels(compiled.load).iter().all(|label| label.contains(".pack")));
        assert!(infer.iter().all(|label| !label.contains("backward") && !label.contains("update")));
    }
}

/// Catches a dispatch that a step of the seed network did without: on a large device and a small batch each costs as
/// much as the arithmetic of several.
#[test]
fn a_step_of_the_seed_network_has_few_dispatches() {
    let loss = Loss::from(Smoothing::NONE);
    for input in [[1, 28, 28], [3, 32, 32], [1, 112, 112]] {
        let net = Network::seed(input, 10).unwrap();
        for optimizer in optimizers() {
            let Compiled { train, infer, .. } = compile(&job(&net, &loss, optimizer, KERNELS[1])).unwrap();
            // Inference ends with the seal of its answer.
            // Muon's matrices take three for each of five steps, three others, and part Adam's in three.
            let most = if matches!(optimizer, Optimizer::Muon(_)) { 9 + 15 + 3 + 2 } else { 9 };
            assert!(train.len() <= most && infer.len() <= 4 + 1, "{} and {}", train.len(), infer.len());
        }
    }
}

/// Catches an overflow instead of an error, which names the buffer.
#[test]
fn a_batch_beyond_32_bits_is_over_the_limit() {
    let loss = Loss::from(Smoothing::NONE);
    let net = Network::seed([1, 28, 28], 10).unwrap();
    for (batch_size, images) in [(usize::MAX, 10), (1 << 31, 10), (8, usize::MAX), (8, 1 << 40)] {
        let job = Job { batch_size, train_images: images, ..job(&net, &loss, optimizers()[0], KERNELS[1]) };
        match compile(&job) {
            Err(smoothcnn::Error::OverLimit(message)) => assert!(message.starts_with("buffer "), "{message}"),
            other => panic!("{batch_size}, {images}: {:?}", other.map(|compiled| compiled.plan.bytes())),
        }
    }
}
