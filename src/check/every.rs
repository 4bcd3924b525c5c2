//! All of it, in the order of a network: layers, losses, optimizers, what is no layer, and what is fused.

use std::sync::Arc;

use super::{Row, cases, fused, layers, losses, nan, network, ops};
use crate::Result;
use crate::backend::gpu::Gpu;
use crate::compile::fuse::Kernels;
use crate::loss::smoothing::{Smoothing, Variant};
use crate::network::Network;
use crate::ops::ALL;
use crate::ops::augment::Augment;

/// Every operation over every case.
///
/// # Errors
/// What the device reports. A wrong result is not an error: it is in its row.
pub fn all(gpu: &Arc<Gpu>, mut each: impl FnMut(Vec<Row>)) -> Result<()> {
    for entry in ALL {
        layers::all(gpu, entry.name, &(entry.cases)(), &mut each)?;
    }
    each(nan::max_pool2d(gpu)?);
    losses::all(gpu, &mut each)?;
    for &len in cases::OPTIMIZER {
        for optimizer in ops::optimizers() {
            each(ops::optimizer(gpu, len, &optimizer)?);
        }
    }
    for optimizer in ops::optimizers() {
        for wants_dx in [false, true] {
            each(ops::optimizer_segments(gpu, &optimizer, wants_dx)?);
        }
    }
    for len in cases::OPTIMIZER.iter().copied().map(Some).chain([None]) {
        each(ops::clip(gpu, len)?);
    }
    for &len in cases::OPTIMIZER {
        each(ops::ema(gpu, len)?);
    }
    for image in [[1, 1, 1], [1, 28, 28], [3, 5, 7]] {
        each(ops::gather(gpu, 3, image, &Augment::NONE)?);
    }
    for (image, augment) in ops::GATHERS {
        each(ops::gather(gpu, 7, *image, augment)?);
    }
    each(ops::seal(gpu)?);
    fused::all(gpu, each)
}

/// The same, and then three training steps of whole networks.
///
/// # Errors
/// As [`all`].
pub fn with_training(gpu: &Arc<Gpu>, mut each: impl FnMut(Vec<Row>)) -> Result<()> {
    all(gpu, &mut each)?;
    for variant in [Variant::Uniform, Variant::OffTarget] {
        for input in [[1, 28, 28], [3, 32, 32]] {
            let net = Network::seed(input, 10)?;
            let kernels = [Kernels::Reference, Kernels::Fused];
            each(network::training(gpu, &net, Smoothing { variant, epsilon: 0.1 }, 8, 3, &kernels)?);
        }
    }
    let net = Network::seed([1, 28, 28], 10)?;
    for (name, loss) in losses::losses(net.classes, network::images(8, 3))? {
        let mut rows = network::training(gpu, &net, loss, 8, 3, &[Kernels::Fused])?;
        rows.iter_mut().for_each(|row| row.case = format!("{name}, {}", row.case));
        each(rows);
    }
    Ok(())
}
