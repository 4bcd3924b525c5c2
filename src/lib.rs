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
//! class ([`loss::smoothing`]):
//!
//! ```text
//! loss = - sum over k of q[k] log softmax(z)[k],    q[y] = on,  q[k] = off for k != y
//! dloss/dz[k] = softmax(z)[k] - q[k]
//! ```
//!
//! [`loss::weighted`] is the general form: any prior, class weights, ignored samples, a class mask, distributions as
//! targets; [`loss`] says which forms a training may have.
//!
//! ## The modules
//!
//! | module | what |
//! |---|---|
//! | [`check`], [`mod@bench`] | every kernel against the oracle; how fast this machine is |
//! | [`study`], `report` | what smoothing does on the user's own data: paired runs, verdicts on the six claims; as a page and as text |
//! | [`train`] | the training loop, a run in its folder with its configuration, weights files, a saved model |
//! | [`backend`] | what carries a training out: a GPU, or the CPU |
//! | [`measure`], [`data`] | metrics, calibration, temperature; images and labels |
//! | [`compile`] | the network as a list of dispatches; which layers run as one kernel |
//! | [`network`] | layers with their shapes inferred, and their parameters |
//! | [`loss`], [`optimizer`] | the loss and what smoothing does to a target; the update of the parameters |
//! | [`layer`] | what a layer is: the contract between an operation and all that uses it |
//! | [`ops`] | the operations, a folder each |
//! | [`plan`] | plans as values, the WGSL and what naga says of it, forms of kernels |
//! | [`docs`] | pages for users: reliability |
//! | [`mod@fs`], [`input`], [`parse`] | files that are whole or not there, files that a user names, what they say |
//! | [`real`], [`rng`], [`cases`], [`memory`], [`error`] | precisions, random numbers, what cases are made of, the memory that is left, errors |
//!
//! ## Features
//!
//! | feature | what |
//! |---|---|
//! | `cli` | what only the program needs: flags, progress bars, signals; brings `report` |
//! | `report` | a sweep's table, page and pictures; a contact sheet as PNG |
//!
//! Both are on by default; the library needs neither. It prints nothing: what there is to say goes to a
//! [`train::listener::Listener`], or to a function of the caller's.

#![warn(missing_docs)]

pub mod backend;
pub mod bench;
pub mod cases;
pub mod check;
pub mod compile;
pub mod data;
pub mod docs;
pub mod error;
pub mod fs;
#[cfg(test)]
#[path = "../tests/common/golden.rs"]
mod golden;
pub mod input;
pub mod layer;
pub mod loss;
pub mod measure;
pub mod memory;
pub mod network;
pub mod ops;
pub mod optimizer;
pub mod parse;
pub mod plan;
pub mod real;
#[cfg(feature = "report")]
pub mod report;
pub mod rng;
pub mod study;
pub mod train;

pub use error::{Error, Result};
