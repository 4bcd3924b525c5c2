//! smoothcnn
pub mod checkpoint;
pub mod data;
pub mod error;
pub mod metrics;
pub mod net;
pub mod ops;
pub mod oracle;
pub mod rng;
pub mod smoothing;
pub use error::{Error, Result};
