//! Gradients of several batches, added up for one update: for a batch that is larger than what fits at once.
//!
//! ```text
//! gradient = sum over the update's batches of the sum of their losses' gradients, over all their weights together
//! ```
//!
//! So an update over `n` batches of `b` images is one over a batch of `n b`, but for rounding, and for what looks at a
//! batch as a whole: batch norm, and which images are mixed. The last update of an epoch has what is left.

use rayon::prelude::*;

use crate::Result;
use crate::ops::WORKGROUP;
use crate::ops::stage::Segment;
use crate::plan::shaders::ACCUMULATE;
use crate::plan::{Grid, Plan, Slice, uniform, word};
use crate::real::Real;

/// Elements that one task takes.
const CHUNK: usize = 16_384;

uniform! {
    /// `Accumulate` in `shaders/accumulate.wgsl`.
    struct Dims {
        len: u32,
        segments: u32,
        parted: u32,
    }
}

/// Adds the gradient of an update's batch to that of those before it. Each element is by itself: there is no faster
/// form.
pub fn add<T: Real>(grads: &[T], sums: &mut [T]) {
    sums.par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK)).for_each(|(sums, grads)| {
        sums.iter_mut().zip(grads).for_each(|(sum, &gradient)| *sum += gradient);
    });
}

/// Where it is in a plan.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// A batch's gradient, and behind it the parts of the segments' gradients.
    pub grads: Slice,
    /// The sum over an update's batches.
    pub sums: Slice,
    /// Loss and nll of each of the batch's images, `[n, 2]`.
    pub losses: Slice,
    /// A [`Slot`](super::Slot) for each batch of a submission.
    pub step_losses: Slice,
}

/// Records the sum over all `len` parameters, begun anew with an update's first batch, and the batch's part of the
/// means into its slot. Gives the segments as they are in the sums: whole.
///
/// # Errors
/// As [`Plan::dispatch`] and [`Plan::buffer`].
pub fn record(plan: &mut Plan, len: usize, segments: &[Segment], at: &Buffers) -> Result<Vec<Segment>> {
    let parted = segments.iter().map(|segment| segment.first + segment.len).max().unwrap_or(0);
    let dims = Dims { len: word(len), segments: word(segments.len()), parted };
    let of_parts = match segments {
        // A binding holds at least one.
        [] => plan.constant("accumulate.segments", &[Segment::default()])?,
        some => plan.constant("accumulate.segments", some)?,
    };
    // The first workgroup adds the losses.
    let grid = Grid::Workgroups(1 + (len / 4).div_ceil(WORKGROUP));
    let bindings = [
        ("grads", at.grads),
        ("segments", of_parts),
        ("sums", at.sums),
        ("losses", at.losses),
        ("step_losses", at.step_losses),
    ];
    plan.dispatch("accumulate", (&ACCUMULATE, "add"), dims, grid, 0, &bindings)?;
    Ok(segments.iter().map(|segment| segment.whole()).collect())
}
