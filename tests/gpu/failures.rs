//! What goes wrong on a device becomes a typed error.

use smoothcnn::Error;
use smoothcnn::backend::Setup;
use smoothcnn::backend::gpu::choose::choose;
use smoothcnn::backend::gpu::trainer::{GpuOptions, compile_for};
use smoothcnn::backend::gpu::{DeviceKind, Engine};
use smoothcnn::check::network::random_data;
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::network::Network;
use smoothcnn::optimizer::{Adam, Optimizer};
use smoothcnn::plan::{Plan, Step};

use super::GPU;

#[test]
fn a_plan_that_does_not_fit_names_the_batch_size_that_would() {
    let net = Network::seed([1, 28, 28], 10).unwrap();
    let data = random_data(4, net.input, 10);
    let setup = |batch_size| Setup {
        seed: 0,
        net: &net,
        batch_size,
        loss: Smoothing::NONE.into(),
        optimizer: Optimizer::Adam(Adam::default()),
        recipe: Default::default(),
        normalisation: vec![[0.5, 0.5]],
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &data,
        test: &data,
    };
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 64 << 20, ..Default::default() };
    let compile = |batch_size, memory| compile_for(&setup(batch_size), &limits, memory, GpuOptions::default());
    for memory in [None, Some(100 << 20)] {
        let Err(Error::OverLimit(message)) = compile(100_000, memory) else { panic!("100,000 images fit in 64 MiB") };
        let advice = message.rsplit("--batch-size ").next().unwrap();
        let fits: usize = advice.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{message}"));
        assert!(compile(fits, memory).is_ok(), "{message}");
        assert!(matches!(compile(fits + 1, memory), Err(Error::OverLimit(_))), "{message}");
    }
    let Err(Error::OverLimit(message)) = compile(8, Some(1 << 20)) else { panic!("a network fits in 1 MiB") };
    assert!(message.contains("no batch size would fit"), "{message}");
}

#[test]
fn a_buffer_that_no_device_has_is_an_error() {
    let mut plan = Plan::default();
    assert!(matches!(plan.buffer("huge", 1 << 40), Err(Error::OverLimit(_))));
    plan.buffer("large", (u32::MAX - 1) as usize).unwrap();
    assert!(matches!(Engine::new(&GPU, plan), Err(Error::OverLimit(_) | Error::Gpu { .. })));
}

#[test]
fn an_unknown_adapter_is_named_with_those_that_exist() {
    let Err(error) = choose(DeviceKind::Auto, Some("no such adapter"), None) else { panic!("chose an adapter") };
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("no such adapter"), "{error}");
    assert!(matches!(choose(DeviceKind::Gpu, Some("99999"), None), Err(Error::NoAdapter(_))));
}

/// A second device, so that the others' is left alone: an error outside every scope is kept and reported, and so is the
/// device's end.
#[test]
fn uncaptured_errors_and_a_destroyed_device_are_reported() {
    let gpu = std::sync::Arc::new(smoothcnn::backend::gpu::Gpu::open_best().unwrap());
    assert!(gpu.check("nothing").is_ok());
    let mut plan = Plan::default();
    let slice = plan.buffer("small", 4).unwrap();
    let engine = Engine::new(&gpu, plan).unwrap();
    assert_eq!(engine.run(0..0, &[Step::default()], slice).wait::<u32>().unwrap(), [0; 4]);

    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::STORAGE;
    let invalid = wgpu::BufferDescriptor { label: None, size: 4, usage, mapped_at_creation: false };
    drop(gpu.device.create_buffer(&invalid));
    let error = gpu.check("a test").unwrap_err();
    assert!(matches!(&error, Error::Gpu { context, .. } if context == "a test"), "{error}");
    assert!(engine.run(0..0, &[Step::default()], slice).wait::<u32>().is_err());

    let gpu = std::sync::Arc::new(smoothcnn::backend::gpu::Gpu::open_best().unwrap());
    let mut plan = Plan::default();
    let slice = plan.buffer("small", 4).unwrap();
    let engine = Engine::new(&gpu, plan).unwrap();
    gpu.device.destroy();
    let error = engine.run(0..0, &[Step::default()], slice).wait::<u32>().unwrap_err();
    assert!(matches!(error, Error::Gpu { .. } | Error::DeviceLost(_)), "{error}");
}
