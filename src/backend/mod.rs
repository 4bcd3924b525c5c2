//! What carries out a training: a GPU, or the CPU.

pub mod cpu;
pub mod device;
pub mod gpu;
