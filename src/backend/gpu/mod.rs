//! The GPU path: choosing a device, building kernels, and carrying out plans. The only part of the crate that knows
//! wgpu.

pub mod advice;
pub mod autotune;
pub mod cache;
pub mod choose;
pub mod clock;
pub mod cut;
pub mod device;
pub mod engine;
pub mod kernel;
pub mod predictor;
pub mod trainer;

pub use choose::{Choice, DeviceKind};
pub use device::Gpu;
pub use engine::Engine;
