//! The kernels on a real device, against the f64 oracle. One binary, one device: the tests share it. A machine without
//! a Vulkan driver makes them fail with the remedy.

mod autotune;
mod cache;
mod determinism;
mod drivers;
mod failures;
mod folded;
#[path = "../common/golden.rs"]
mod golden;
mod halves;
mod layers;
mod network;
mod ops;
mod predictor;
#[path = "../common/property.rs"]
mod property;
mod random;
#[path = "../common/random_network.rs"]
mod random_network;
mod recipe;
mod resnet;
#[path = "../common/resnet8.rs"]
mod resnet8;
mod rng;
#[path = "../common/skip.rs"]
mod skip;
mod stopping;

use std::sync::{Arc, LazyLock};

use smoothcnn::backend::gpu::choose::{adapters, choose};
use smoothcnn::backend::gpu::{DeviceKind, Gpu};
use smoothcnn::check::Row;
use smoothcnn::network::{Layer, Network};
use smoothcnn::plan::Storage;
use smoothcnn::plan::tuning::Tiles;

/// The device that all tests share.
static GPU: LazyLock<Arc<Gpu>> = LazyLock::new(|| {
    let opened = if low_limits() { open_small() } else { Gpu::open_best() };
    let gpu = opened.unwrap_or_else(|error| panic!("the GPU tests need an adapter: {error}"));
    println!("testing on {}", smoothcnn::backend::gpu::device::describe(&gpu.info));
    Arc::new(gpu)
});

/// Whether the tests run as if on a small GPU, of a phone or an old laptop.
fn low_limits() -> bool {
    std::env::var_os("SMOOTHCNN_LOW_LIMITS").is_some_and(|value| !value.is_empty())
}

/// The best adapter within what wgpu takes for granted nowhere less than; eight buffers are what the kernels need.
fn open_small() -> smoothcnn::Result<Gpu> {
    let limits = wgpu::Limits { max_storage_buffers_per_shader_stage: 8, ..wgpu::Limits::downlevel_defaults() };
    let adapters = adapters()?;
    let adapter = adapters.first().ok_or_else(|| smoothcnn::Error::NoAdapter("there is none".into()))?;
    Gpu::open_within(adapter, limits, None)
}

/// A device of a test's own, with a cache folder.
fn opened(cache_folder: Option<std::path::PathBuf>) -> Arc<Gpu> {
    Arc::new(choose(DeviceKind::Gpu, None, cache_folder).unwrap().gpu.unwrap())
}

/// Says which forms of the kernels and which storage the tests leave out: they try what the device has.
#[test]
fn every_form_is_tried() {
    for tiles in Tiles::ALL.into_iter().filter(|&tiles| !GPU.runs(tiles)) {
        skip::skipped(&format!("this device runs no kernels in {tiles:?}"));
    }
    if low_limits() {
        let limits = GPU.device.limits();
        assert!(limits.max_compute_workgroup_storage_size < 16 << 10, "{limits:?}");
        assert!(GPU.runs(Tiles::Workgroup), "the form for hardware must fit a small GPU");
    }
    if !GPU.stores(Storage::F16) {
        skip::skipped("this device packs no halves");
    }
}

/// The layers of the seed network with few channels, for tests of what the host does: the same fused kernels, in a
/// fraction of the time.
fn few_channels(input: [usize; 3], classes: usize) -> Network {
    let block = |channels| [Layer::conv2d(channels, 3, 1), Layer::relu(), Layer::max_pool2d(2)];
    let head = [Layer::flatten(), Layer::linear(16), Layer::relu(), Layer::linear(classes)];
    Network::new(input, &[&block(8)[..], &block(12), &head].concat()).unwrap()
}

/// Fails with every row that is out of its tolerance.
fn assert_rows(rows: smoothcnn::Result<Vec<Row>>) {
    let rows = rows.unwrap();
    assert!(!rows.is_empty() && rows.iter().all(|row| row.elements > 0));
    let wrong: Vec<_> = rows.iter().filter(|row| row.failure.is_some()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
