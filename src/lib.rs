//! Trains convolutional image classifiers with **label smoothing**. The compute kernels are written by hand in WGSL and
//! run through wgpu on Vulkan, Metal or DX12. Without a GPU a fast CPU path trains. Every kernel is tested against
//! plain Rust in `f64`. No hardware GPU has run it yet: the GPU path is tested on two software drivers.
//!
//! # Train, save, load, predict
//!
//! Arrays in memory, on whatever device there is:
//!
//! ```
//! use smoothcnn::backend::device::{Device, Precision};
//! use smoothcnn::backend::{Asked, ImageSet, Setup, State};
//! use smoothcnn::data::Dataset;
//! use smoothcnn::loss::smoothing::{Smoothing, Variant};
//! use smoothcnn::measure::evaluate;
//! use smoothcnn::network::Network;
//! use smoothcnn::ops::augment::Augment;
//! use smoothcnn::optimizer::{Adam, Optimizer, recipe::Recipe};
//! use smoothcnn::plan::Storage;
//! use smoothcnn::train::checkpoint::{Dtype, Metadata};
//! use smoothcnn::train::{Course, Progress, run, store};
//!
//! # let folder = tempfile::tempdir().expect("room for a folder");
//! # let path = &folder.path().join("model.safetensors");
//! // 96 images of 1x8x8 in bytes, bright in the left half (class 0) or in the right half (class 1).
//! let bright = |i: usize| (i % 8 < 4) == (i / 64 % 2 == 0);
//! let images = (0..96 * 64).map(|i| if bright(i) { 200 } else { (i % 50) as u8 }).collect();
//! let data = Dataset { shape: [1, 8, 8], classes: 2, images, labels: (0..96).map(|i| i % 2).collect(), files: vec![] };
//!
//! let net = Network::seed(data.shape, data.classes)?;
//! let loss = Smoothing::new(Variant::Uniform, 0.1, data.classes)?.into();
//! let optimizer = Optimizer::Adam(Adam::default());
//! let norm = [[0.4, 0.4]]; // mean and standard deviation of the channel
//! let normalisation = norm.to_vec();
//! let recipe = Recipe::default(); // a constant learning rate
//! let augment = Augment::NONE;
//! let (train, test) = (&data, &data);
//! let (seed, batch_size) = (0, 16);
//! let setup = Setup { net: &net, seed, batch_size, loss, optimizer, recipe, normalisation, augment, train, test };
//!
//! // A hardware GPU if there is one, else the CPU path.
//! let note = |line: &str| println!("{line}");
//! let device = Device::default().open(Precision::F32, &note)?;
//! let mut trainer = device.trainer(Storage::F32, None, setup.clone(), &State::initial(&net, 0), &note)?;
//! run(&mut *trainer, &setup, Course { epochs: 5, seed: 0, shuffle: true }, Progress::default(), &mut ())?;
//! store::save_model(path, &net, &trainer.state()?, Dtype::F32, &Metadata::new())?;
//!
//! // Later: the weights, by PyTorch's names, and what they answer.
//! let (State { params, buffers, .. }, _) = store::load_model(path, &net)?;
//! let asked = Asked { net: &net, params: &params, buffers: &buffers, normalisation: &norm, batch_size: 16 };
//! let logits = device.predictor(Storage::F32, None, &asked, data.len())?.logits(ImageSet::Bytes(&data))?;
//! let metrics = evaluate(&logits, &data.labels, data.classes, Smoothing::NONE);
//! println!("accuracy {:.3}, ECE {:.3}", metrics.accuracy, metrics.ece);
//! # assert_eq!(metrics.accuracy, 1.0);
//! # Ok::<(), smoothcnn::Error>(())
//! ```
//!
//! The program `smoothcnn` trains into a folder instead, and a run that was stopped goes on from there: [`train::runs`]
//! does the same for a library user. [`study::sweep`] and `report::collect` train many runs and compare them.
//!
//! # A network of your own
//!
//! A network is a sequence of layers. Shapes follow from the input; what does not fit is an error that names the layer.
//!
//! ```
//! use smoothcnn::network::{Layer, Network};
//!
//! let layers = [
//!     Layer::conv2d(16, 3, 1), // 16 channels, 3x3, padding 1
//!     Layer::leaky_relu(0.01),
//!     Layer::avg_pool2d(2),
//!     Layer::conv2d(32, 3, 1),
//!     Layer::relu(),
//!     Layer::global_avg_pool2d(),
//!     Layer::flatten(),
//!     Layer::dropout(0.2),
//!     Layer::linear(10),
//! ];
//! let net = Network::new([3, 32, 32], &layers)?;
//! assert_eq!(net.parameters[0].name, "conv1.weight");
//! assert_eq!(net.parameters[0].shape, [16, 3, 3, 3]);
//!
//! let error = Network::new([3, 32, 32], &[Layer::linear(10)]).unwrap_err();
//! assert!(error.to_string().starts_with("layer fc1: got an image 3x32x32, needs a flat vector"));
//! # Ok::<(), smoothcnn::Error>(())
//! ```
//!
//! # Gradients read back
//!
//! ```
//! use smoothcnn::backend::cpu::CpuNetwork;
//! use smoothcnn::loss::Batch;
//! use smoothcnn::loss::smoothing::{Smoothing, Variant};
//! use smoothcnn::network::Network;
//!
//! let net = Network::seed([1, 8, 8], 10)?;
//! let mut network = CpuNetwork::<f32>::new(&net, net.initial_parameters(0));
//! network.set_batch(&[0.5; 2 * 64]); // two images of 1x8x8
//! let batch = Batch::new(&[3, 7]);
//! let loss = network.loss_and_gradient(&Smoothing::new(Variant::Uniform, 0.1, 10)?.into(), batch);
//!
//! let bias = net.parameters.iter().find(|parameter| parameter.name == "fc2.bias").expect("the last layer's");
//! let gradient = &network.grads()[bias.range()];
//! assert!(loss > 0.0 && gradient[3] < 0.0, "class 3 should become more likely");
//! # Ok::<(), smoothcnn::Error>(())
//! ```
//!
//! # One kernel on your own arrays, and its twin
//!
//! ```
//! use std::sync::Arc;
//!
//! use smoothcnn::backend::gpu::{Engine, Gpu};
//! use smoothcnn::layer::{At, Forward, Kept, Layer, Mode, Random, Shape};
//! use smoothcnn::plan::{BatchBlock, Plan};
//!
//! let Ok(gpu) = Gpu::open_best().map(Arc::new) else { return Ok(()) }; // no adapter here
//! let op = Layer::leaky_relu(0.1).fit(Shape::Features(4)).expect("any shape fits");
//! let images = [-2.0f32, -1.0, 0.0, 1.0, 2.0, 3.0, -4.0, 5.0]; // two images of four numbers
//!
//! let mut plan = Plan::default();
//! let (x, y) = (plan.constant("x", &images)?, plan.buffer("y", 8)?);
//! let (mode, layer) = (Mode::Inference, 0);
//! let at = At { name: "mine", n: 2, mode, x, skip: None, y, params: &[], grads: &[], saved: None, layer };
//! op.record_forward(&mut plan, &at)?;
//! let engine = Engine::new(&gpu, plan)?;
//! let step = BatchBlock { count: 2, ..BatchBlock::default() }.into();
//! let found: Vec<f32> = engine.run(0..1, &[step], y).wait()?;
//!
//! let mut expected = [0.0; 8];
//! let (kept, random) = (&mut Kept::default(), Random::default());
//! let (skip, params, buffers) = (&[], &[], &mut []);
//! let pass = Forward { n: 2, mode, x: &images, skip, params, buffers, y: &mut expected, kept, random };
//! op.twin::<f32>().forward(pass);
//! assert_eq!(found, expected);
//! # Ok::<(), smoothcnn::Error>(())
//! ```
//!
//! [`check::layers`] does this with awkward inputs, for both passes, and says how far apart they are;
//! [`check::differences`] tests gradients; [`bench::layer`](mod@bench::layer) measures.
//!
//! # A layer of your own
//!
//! Your WGSL, your plain Rust, your cases, in your crate: checked, timed and trained as the layers here.
//! [`docs::own_layer`] shows one whole.
//!
//! # Pages
//!
//! | page | for |
//! |---|---|
//! | [`docs::label_smoothing`] | who chooses a loss: the two formulas, all settings |
//! | [`docs::study`] | who wonders whether smoothing helps: the six claims, measured |
//! | [`docs::sweeps`] | who trains many runs: here, with Slurm, with HyperQueue |
//! | [`docs::program`] | users of the program: commands, devices, exit codes, troubleshooting |
//! | [`docs::formats`] | scripts: every file, and what it promises |
//! | [`docs::kernels`] | who asks how fast it is, and how right |
//! | [`docs::reliability`] | who leaves long trainings alone |
//! | [`docs::own_layer`] | who needs a layer that is not here |
//! | [`docs::design`] | who changes the code |
//!
//! # Modules
//!
//! From the top down; a module uses those below it.
//!
//! | module | what |
//! |---|---|
//! | [`mod@bench`], [`check`] | how fast this machine is; every kernel against its twin |
//! | `report`, [`study`] | a run, or what smoothing does on your own data, as a page and as text; runs in pairs, verdicts on the six claims |
//! | [`export`] | a saved model for other programs |
//! | [`train`] | the training loop, a run in its folder with its configuration, weights files, a saved model |
//! | [`backend`] | what carries a training out: a GPU, the fast CPU path, the plain form |
//! | [`measure`], [`data`] | metrics, calibration, temperature; images and labels |
//! | [`compile`] | the network as a list of dispatches; which layers run as one kernel |
//! | [`network`] | a sequence of layers with their shapes, and their parameters |
//! | [`loss`], [`optimizer`] | the loss and what smoothing does to a target; the update of the parameters |
//! | [`ops`] | the layers, a folder each |
//! | [`layer`] | what a layer is: the contract between an operation and all that uses it |
//! | [`plan`] | plans as values, the WGSL and what naga says of it, forms of kernels |
//! | [`mod@fs`], [`input`], [`parse`] | files that are whole or not there, files that a user names, what they say |
//! | [`real`], [`rng`], [`schedule`], [`cases`], [`memory`], [`error`] | precisions, random numbers, how a number changes over training, what cases are made of, the memory that is left, errors |
//!
//! # Features
//!
//! | feature | what |
//! |---|---|
//! | `cli` | what only the program needs: flags, progress bars, signals; brings `report` |
//! | `report` | pages of runs and sweeps, a sweep's table; a sheet of a data set's images |
//! | `static-dxc` | Windows: Microsoft's shader compiler DXC in the program, for DirectX 12 (its build downloads it) |
//!
//! The first two are on by default; the library needs none. It prints nothing: what there is to say goes to a
//! [`train::listener::Listener`], or to a function of yours.

#![warn(missing_docs)]

pub mod backend;
pub mod bench;
pub mod cases;
pub mod check;
pub mod compile;
pub mod data;
pub mod docs;
pub mod error;
pub mod export;
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
mod protobuf;
pub mod real;
#[cfg(feature = "report")]
pub mod report;
pub mod rng;
pub mod schedule;
pub mod study;
pub mod train;

pub use error::{Error, Result};
