//! All of it, in the order of a network: layers, losses, optimizers, what is no layer, and what is fused.

use std::sync::Arc;

use super::{Row, cases, fused, layers, losses, nan, ops};
use crate::Result;
use crate::backend::gpu::Gpu;
use crate::ops::ALL;

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
    for image in [[1, 1, 1], [1, 28, 28], [3, 5, 7]] {
        each(ops::gather(gpu, 3, image)?);
    }
    each(ops::seal(gpu)?);
    fused::all(gpu, each)
}
