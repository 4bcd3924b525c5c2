//! smoothcnn
pub mod check;
pub mod checkpoint;
pub mod compile;
pub mod cpu;
pub mod data;
pub mod error;
pub mod gpu;
pub mod metrics;
pub mod net;
pub mod ops;
pub mod oracle;
pub mod plan;
pub mod rng;
pub mod shaders;
pub mod smoothing;
pub mod train;
pub use error::{Error, Result};
