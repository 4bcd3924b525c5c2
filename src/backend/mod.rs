//! What carries out a training: a GPU, the fast CPU path, or the plain form that judges both.

pub mod cpu;
pub mod device;
pub mod gpu;
pub mod host;
pub mod reference;
