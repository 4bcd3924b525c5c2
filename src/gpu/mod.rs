//! The GPU path: choosing a device, building kernels, and carrying out plans. The only part of the crate that knows wgpu.

pub mod autotune;
pub mod cache;
pub mod device;
pub mod engine;
pub mod kernel;
pub mod trainer;

pub use device::{Choice, DeviceKind, Gpu};
pub use engine::Engine;
