//! What no half holds is no silent wrong answer.

use smoothcnn::Error;
use smoothcnn::backend::gpu::trainer::{GpuOptions, GpuTrainer};
use smoothcnn::backend::{Setup, Trainer};
use smoothcnn::data::Dataset;
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::network::{Layer, Network};
use smoothcnn::optimizer::{Adam, Optimizer};
use smoothcnn::plan::Storage;
use smoothcnn::plan::tuning::{Tiles, Tuning};
use smoothcnn::train::{self, Course, Observer, Progress};

use super::GPU;
use super::skip::skipped;

struct Nobody;
impl Observer for Nobody {}

/// The logits of black images, the `lit` pixel of the last one white, through a first convolution whose weights are all
/// `weight`, and a second whose weights are all below 0; and what one epoch of training them comes to.
fn train(activations: Storage, tiles: Tiles, lit: usize, weight: f32) -> (Vec<f64>, smoothcnn::Result<()>) {
    let block = [Layer::conv2d(8, 3, 1), Layer::relu(), Layer::max_pool2d(2)];
    let tail = [Layer::flatten(), Layer::linear(8), Layer::relu(), Layer::linear(4)];
    let net = Network::new([1, 14, 14], &[&block[..], &block, &tail].concat()).unwrap();
    let mut params = net.initial_parameters(1);
    let [first, bias, second, ..] = &net.parameters[..] else { panic!("two convolutions") };
    params[first.range()].fill(weight);
    params[bias.range()].fill(0.0);
    params[second.range()].fill(-0.01);
    let mut images = vec![0; 3 * 14 * 14];
    images[2 * 14 * 14 + lit] = 255;
    let data = Dataset { shape: net.input, classes: 4, images, labels: vec![0, 1, 2], files: vec![] };
    let setup = Setup {
        seed: 0,
        net: &net,
        batch_size: 3,
        loss: Smoothing::NONE.into(),
        optimizer: Optimizer::Adam(Adam::default()),
        recipe: Default::default(),
        normalisation: vec![[0.0, 1.0]],
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &data,
        test: &data,
    };
    let options = GpuOptions { activations, tuning: Some(Tuning::all(tiles)), ..GpuOptions::default() };
    let mut trainer = GpuTrainer::with_options(&GPU, setup.clone(), &params, options).unwrap();
    let logits = trainer.test_logits().unwrap();
    let schedule = Course { epochs: 1, seed: 0, shuffle: false };
    (logits, train::run(&mut trainer, &setup, schedule, Progress::default(), &mut Nobody))
}

/// Catches an activation above 65504 that becomes an infinity and then, under weights below 0, the 0 of the next ReLU;
/// one that is stored as 65504, though it is nearer to that than to 65536; and one in the last row and column of a
/// plane of odd size, which the next windows see in their last element only. Training would stumble over each in the
/// gradients; inference must not depend on that.
#[test]
fn an_activation_beyond_the_halves_is_an_error() {
    if !GPU.stores(Storage::F16) {
        return skipped("this device packs no halves");
    }
    for tiles in Tiles::ALL.into_iter().filter(|&tiles| GPU.runs(tiles)) {
        for lit in [7 * 14 + 7, 14 * 14 - 1, 0] {
            for weight in [65508.0, 7e4, 1e30] {
                let (logits, trained) = train(Storage::F16, tiles, lit, weight);
                let (black, white) = logits.split_at(8);
                assert!(black.iter().all(|v| v.is_finite()), "{tiles:?}, pixel {lit}: {black:?}");
                assert!(white.iter().all(|v| v.is_nan()), "{tiles:?}, pixel {lit}: {white:?}");
                match trained {
                    Err(Error::NonFinite { epoch: 1, step: 1, loss, .. }) => assert!(!loss.is_finite()),
                    other => panic!("{tiles:?}, pixel {lit}, weight {weight}: {other:?}"),
                }
            }
            // As large as they get.
            for (activations, weight) in [(Storage::F16, 65504.0), (Storage::F32, 7e4)] {
                let (logits, trained) = train(activations, tiles, lit, weight);
                assert!(logits.iter().all(|v| v.is_finite()), "{tiles:?}, pixel {lit}: {logits:?}");
                trained.unwrap();
            }
        }
    }
}
