//! The operations, a folder each, and their registry.
//!
//! | in a folder | what |
//! |---|---|
//! | `mod.rs` | formula, dimensions, settings, and which layer fits them |
//! | `record.rs` | the passes in a plan, on `shaders/<operation>.wgsl` |
//! | `reference.rs` | the passes as loops that read as the formula: what the shader and the fast form are tested against |
//! | `fast.rs` | the form of the fast CPU path, where there is one |
//! | `cases.rs` | shapes on which every test, check and bench of it runs |
//!
//! A new layer is such a folder, its shader, and a line in [`ALL`].

pub mod augment;
pub mod avg_pool2d;
pub mod batch_norm2d;
pub mod ceiling;
pub mod conv2d;
pub mod conv2d_pool;
pub mod conv2d_tiled;
pub mod dropout;
pub mod elementwise;
pub mod flatten;
pub mod gather;
pub mod gelu;
pub mod global_avg_pool2d;
pub mod group_norm;
pub mod head;
pub mod leaky_relu;
pub mod linear;
pub mod linear_tiled;
pub mod max_pool2d;
pub mod mix;
pub mod relu;
pub mod residual;
pub mod seal;
mod shared;
pub mod silu;
pub mod stage;

pub use shared::{AffineBuffers, Around, Case, Entry, Golden, IGNORED, Read};
pub(crate) use shared::{ELEMENTS, MOST_STEP, Pooling, Stride, WORKGROUP, pair, plain, pooled, windows};

use crate::plan::shaders::{self, Shader};

/// Every layer.
#[rustfmt::skip] // a line an operation
pub const ALL: &[Entry] = &[
    conv2d::ENTRY,
    max_pool2d::ENTRY,
    avg_pool2d::ENTRY,
    global_avg_pool2d::ENTRY,
    batch_norm2d::ENTRY,
    group_norm::ENTRY,
    linear::ENTRY,
    relu::ENTRY,
    leaky_relu::ENTRY,
    silu::ENTRY,
    gelu::ENTRY,
    dropout::ENTRY,
    flatten::ENTRY,
    residual::ENTRY,
];

/// Every fused operation.
pub const FUSED: &[stage::Pattern] =
    &[conv2d_pool::matches, conv2d_tiled::matches, global_avg_pool2d::matches, linear_tiled::matches];

/// Every shader of the crate.
pub fn shaders() -> impl Iterator<Item = &'static Shader> {
    ALL.iter().flat_map(|entry| entry.shaders).chain(shaders::ALL).copied()
}
