//! smoothcnn
pub mod checkpoint;
pub mod data;
pub mod error;
pub mod metrics;
pub mod rng;
pub mod smoothing;
pub use error::{Error, Result};
