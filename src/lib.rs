//! # smoothcnn
//!
//! Convolutional classifiers trained with **label smoothing** on compute kernels written by hand in WGSL, run through wgpu on
//! any Vulkan, Metal or DX12 GPU; with a plain CPU path that is the oracle for every kernel and the fallback where there is no
//! GPU.
//!
//! ## The network
//!
//! The seed network, for images of c x h x w and C classes (1x28x28 and 10: 421,642 parameters):
//!
//! ```text
//! x -> Conv2d(c, 32, 3, padding=1) -> ReLU -> MaxPool2d(2)
//!   -> Conv2d(32, 64, 3, padding=1) -> ReLU -> MaxPool2d(2)
//!   -> Flatten -> Linear(64 * (h/4) * (w/4), 128) -> ReLU -> Linear(128, C) -> logits z
//! ```
//!
//! ## The loss
//!
//! Cross-entropy against a target that keeps `on` of its mass on the true class y and spreads the rest, `off` on each other
//! class ([`smoothing`]):
//!
//! ```text
//! loss = - sum over k of q[k] log softmax(z)[k],    q[y] = on,  q[k] = off for k != y
//! dloss/dz[k] = softmax(z)[k] - q[k]
//! ```
//!
//! [`ops::weighted_loss`] is the general form: any prior, class weights, ignored samples, a class mask, distributions as
//! targets; [`loss`] says which forms a training may have.
//!
//! ## The modules
//!
//! | module | what |
//! |---|---|
//! | [`net`], [`compile`] | layers with their shapes inferred; the network as a list of dispatches |
//! | [`fusion`], [`tuning`], [`activations`] | which layers run as one kernel, in which of its forms, and what is stored between them |
//! | [`ops`], [`shaders`], [`plan`] | each operation's dimensions and dispatches; the WGSL and what naga says of it; plans as values |
//! | [`gpu`] | the adapter, kernels built by reflection, the engine that replays a plan, training on it |
//! | [`oracle`] | every operation on the CPU in its plain form, generic over f32 and f64 |
//! | [`cpu`] | the fast CPU path |
//! | [`check`], [`mod@bench`] | every kernel against the oracle; how fast this machine is |
//! | [`train`], [`loss`], [`metrics`] | the training loop, its loss, what it measures |
//! | [`smoothing`] | what smoothing does to a target, where its mass goes, how it changes over training |
//! | [`temperature`] | one number that calibrates a trained network's confidences |
//! | [`study`] | what smoothing does on the user's own data: paired runs, verdicts on the six claims, the epsilon to use |
//! | [`report`] | a study as a page and as text |
//! | [`docs`] | pages for users: reliability |
//! | [`data`], [`checkpoint`], [`run_folder`] | images, weights files, the folder of a run |
//! | [`rng`], [`mod@fs`], [`input`], [`error`] | random numbers, files that are whole or not there, files that a user names, errors |

#![warn(missing_docs)]

pub mod activations;
pub mod bench;
pub mod check;
pub mod checkpoint;
pub mod compile;
pub mod cpu;
pub mod data;
pub mod docs;
pub mod error;
pub mod fs;
pub mod fusion;
#[cfg(test)]
#[path = "../tests/common/golden.rs"]
mod golden;
pub mod gpu;
pub mod input;
pub mod loss;
pub mod metrics;
pub mod net;
pub mod ops;
pub mod oracle;
pub mod plan;
pub mod report;
pub mod rng;
pub mod run_folder;
pub mod shaders;
pub mod smoothing;
pub mod study;
pub mod temperature;
pub mod train;
pub mod tuning;

pub use error::{Error, Result};
