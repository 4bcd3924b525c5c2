//! Random networks on the device: reference kernels, and fused ones in a form drawn with the network.

use smoothcnn::backend::gpu::trainer::{GpuOptions, GpuTrainer};
use smoothcnn::check::network::tensors_in_halves;
use smoothcnn::compile::fuse::Kernels;
use smoothcnn::plan::Storage;
use smoothcnn::plan::tuning::{Tiles, Tuning};

use super::GPU;
use super::random_network::{Case, Precision, each};

/// Catches what no list of stacks has: kernels that hand to each other what was never tried, a batch, a loss.
#[test]
fn networks() {
    each("gpu", 120, |case| {
        let tiles = if GPU.runs(case.tiles) { case.tiles } else { Tiles::Registers };
        let options = GpuOptions {
            max_data_bytes: case.max_data_bytes,
            tuning: Some(Tuning::all(tiles)),
            ..GpuOptions::default()
        };
        let mut wrong = hold(case, GpuOptions { kernels: Kernels::Reference, ..options });
        wrong.extend(hold(case, options));
        let halves = GpuOptions { activations: Storage::F16, ..options };
        if GPU.stores(Storage::F16) && in_halves(case, halves) {
            wrong.extend(hold(case, halves));
        }
        wrong
    });
}

fn in_halves(case: &Case, options: GpuOptions) -> bool {
    tensors_in_halves(case.net(), options.kernels, options.activations) > 0
}

fn hold(case: &Case, options: GpuOptions) -> Vec<String> {
    let what = format!("{:?}, {:?}", options.kernels, options.activations);
    let precision = if in_halves(case, options) { Precision::Halves } else { Precision::F32 };
    case.hold(&what, precision, |setup, params| {
        Box::new(GpuTrainer::with_options(&GPU, setup, params, options).unwrap())
    })
}
