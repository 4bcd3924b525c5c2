//! What only answers gives the bits that a trainer with the same parameters gives, and its plan has nothing of a
//! training.

use smoothcnn::backend::gpu::predictor::GpuPredictor;
use smoothcnn::backend::gpu::trainer::{GpuOptions, GpuTrainer};
use smoothcnn::backend::{Asked, ImageSet, Predictor, Setup, Trainer};
use smoothcnn::check::network::random_data;
use smoothcnn::compile::fuse::Kernels;
use smoothcnn::compile::inference::{InferenceJob, inference};
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::network::Network;
use smoothcnn::optimizer::{Adam, Optimizer};
use smoothcnn::plan::Storage;
use smoothcnn::plan::tuning::Tuning;

use super::GPU;

#[test]
fn a_predictor_answers_as_a_trainer_does() {
    let net = Network::seed([3, 8, 12], 4).unwrap();
    let images = random_data(11, net.input, 4);
    let few = images.subset(&[4, 2, 9]);
    let params = net.initial_parameters(3);
    let wide: Vec<f64> = params.iter().map(|&p| p.into()).collect();
    let normalisation = [[0.5, 0.25], [0.4, 0.3], [0.1, 0.5]];
    let asked = Asked { net: &net, params: &wide, buffers: &[], normalisation: &normalisation, batch_size: 4 };
    for kernels in [Kernels::Fused, Kernels::Reference] {
        for max_data_bytes in [u64::MAX, 5 * 3 * 8 * 12] {
            let options = GpuOptions { max_data_bytes, kernels, ..GpuOptions::default() };
            let mut predictor = GpuPredictor::new(&GPU, &asked, options).unwrap();
            for test in [&images, &few, &images, &images] {
                let setup = Setup {
                    seed: 0,
                    net: &net,
                    batch_size: 4,
                    loss: Smoothing::NONE.into(),
                    optimizer: Optimizer::Adam(Adam::default()),
                    recipe: Default::default(),
                    normalisation: normalisation.to_vec(),
                    augment: smoothcnn::ops::augment::Augment::NONE,
                    train: test,
                    test,
                };
                let mut trainer = GpuTrainer::with_options(&GPU, setup, &params, options).unwrap();
                let expected = trainer.test_logits().unwrap();
                assert_eq!(predictor.logits(ImageSet::Bytes(test)).unwrap(), expected);
                let floats: Vec<f32> = (0..test.len())
                    .flat_map(|i| test.image(i).chunks(8 * 12).zip(normalisation))
                    .flat_map(|(plane, [mean, std])| {
                        plane.iter().map(move |&byte| ((f64::from(byte) / 255.0 - mean) / std) as f32)
                    })
                    .collect();
                // The device normalises with rounded scales: a few units in the last place of each input.
                let found = predictor.logits(ImageSet::Floats(&floats)).unwrap();
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{found}, {expected}");
                }
            }
        }
    }
}

/// Catches a plan that only answers and allocates what a training needs.
#[test]
fn a_plan_that_answers_has_nothing_of_a_training() {
    let net = Network::seed([1, 28, 28], 10).unwrap();
    for images in [Some(100), None] {
        for kernels in [Kernels::Fused, Kernels::Reference] {
            let (tuning, activations) = (Tuning::default(), Storage::F32);
            let job = InferenceJob { net: &net, batch_size: 8, images, kernels, tuning, activations };
            let plan = inference(&job).unwrap().plan;
            for buffer in &plan.buffers {
                let of_training = ["grad", "optimizer", "loss"].iter().any(|word| buffer.name.contains(word));
                assert!(!of_training, "{} of {} bytes", buffer.name, buffer.bytes);
            }
        }
    }
}
