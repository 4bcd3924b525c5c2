//! What a device can do at most, measured: a copy for bandwidth, and chains of multiply-adds for arithmetic.

use crate::Result;
use crate::plan::shaders::CEILING;
use crate::plan::{Grid, Plan, Slice, uniform, word};

uniform! {
    /// `Ceiling` in `shaders/ceiling.wgsl`.
    struct Dims {
        len: u32,
        factor: f32,
    }
}

/// Floating-point operations of one thread of [`multiply_add`]: 64 rounds of 16 multiply-adds over four lanes.
const FLOPS: u64 = 64 * 16 * 4 * 2;

/// Records a copy of `x` to `y`, `len` vectors of four.
pub fn copy(plan: &mut Plan, len: usize, x: Slice, y: Slice) -> Result<()> {
    let dims = Dims { len: word(len), factor: 1.0 };
    plan.dispatch("ceiling.copy", (&CEILING, "copy"), dims, Grid::Threads(len), 0, &[("x", x), ("y", y)])
}

/// Records `len` threads of multiply-adds, each writing one vector of four.
pub fn multiply_add(plan: &mut Plan, len: usize, y: Slice) -> Result<()> {
    let dims = Dims { len: word(len), factor: 0.25 };
    let flops = FLOPS * len as u64;
    plan.dispatch("ceiling.multiply_add", (&CEILING, "multiply_add"), dims, Grid::Threads(len), flops, &[("y", y)])
}
