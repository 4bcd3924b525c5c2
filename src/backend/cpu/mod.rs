//! The fast CPU path: training and inference on machines without a GPU, in `f32` or `f64` from the same code.
//!
//! What makes it faster than [`super::reference`], which stays the plain form that it is tested against:
//!
//! - A convolution with the ReLU and the pooling that follow it is one pass ([`crate::ops::conv2d::fast_forward`]): of
//!   its output only the few rows under one row of windows exist at a time, in cache. The pooled values and one byte a
//!   window, which says where its maximum was, are all that is stored.
//! - Images lie pixel by pixel, a pixel's channels side by side ([`crate::layer::ImageLayout`]), so that vectors run
//!   along channels: shapes that are awkward across a row of 7 or 14 pixels cost nothing.
//! - The gradient that reaches a convolution through a pooling is zero outside each window's maximum, and under the
//!   ReLU there too where the maximum was negative. The backward passes ([`crate::ops::conv2d::fast_backward`]) visit
//!   the rest only.
//! - An answer goes through the network in parts of the batch that stay in cache ([`network`]); a batch norm is part of
//!   the weights before it.
//! - A thread takes one chunk of images after another through the same memory ([`crate::layer::PerThread`]), which
//!   stays in its cache; and a gradient that has been read leaves its place to the next one. That makes training
//!   faster, and smaller.
//! - The vector width is chosen at run time ([`crate::real`]): AVX-512, AVX2 or NEON where the machine has them.
//!
//! Work is split among threads by the number of images alone and partial sums are added in order, so the same input
//! gives the same bits with any number of threads. They differ between vector widths, within rounding.

mod gradients;
pub mod memory;
pub mod network;
mod nodes;
pub mod plain;
pub mod trainer;

pub use crate::real::Real;
pub use network::CpuNetwork;
pub use trainer::{CpuPredictor, CpuTrainer};
