//! Networks: layers fitted to the shape of an image, and where they come from.

pub mod architecture;
pub mod presets;
pub mod sequence;

pub use crate::layer::{Layer, Shape};
pub use architecture::Architecture;
pub use presets::Preset;
pub use sequence::{FittedLayer, NamedParameter, Network, PARAMETER_ALIGNMENT};
