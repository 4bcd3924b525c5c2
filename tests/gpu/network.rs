//! Whole training steps on the device against the f64 oracle.

use std::ops::ControlFlow;

use smoothcnn::backend::gpu::trainer::{GpuOptions, GpuTrainer};
use smoothcnn::backend::{Setup, Trainer};
use smoothcnn::check::losses::losses;
use smoothcnn::check::network::{images, random_data, training};
use smoothcnn::compile::fuse::Kernels;
use smoothcnn::loss::Loss;
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::network::{Layer, Network};
use smoothcnn::ops::{conv2d, max_pool2d};
use smoothcnn::optimizer::{Adam, Optimizer};

use super::{GPU, assert_rows};

/// With the reference kernels and with the fused ones.
fn train_both(net: &Network, loss: impl Into<Loss>, batch_size: usize, steps: usize) {
    assert_rows(training(&GPU, net, loss, batch_size, steps, &[Kernels::Reference, Kernels::Fused]));
}

/// Twenty steps, the last with a smaller batch: errors that one step hides add up here.
#[test]
fn twenty_steps_of_a_small_network() {
    let layers = [
        Layer::new(conv2d::Settings {
            in_channels: Some(2),
            out_channels: 5,
            kernel_size: [3, 2],
            stride: [1, 2],
            padding: [1, 1],
            ..conv2d::Settings::square(1, 1, 0)
        }),
        Layer::relu(),
        Layer::new(max_pool2d::Settings { kernel_size: [3, 2], stride: [2, 1], padding: [0; 2] }),
        Layer::conv2d(7, 3, 1),
        Layer::relu(),
        Layer::max_pool2d(2),
        Layer::flatten(),
        Layer::linear(11),
        Layer::relu(),
        Layer::linear(5),
    ];
    let net = Network::new([2, 11, 13], &layers).unwrap();
    for variant in [Variant::Uniform, Variant::OffTarget] {
        train_both(&net, Smoothing { variant, epsilon: 0.1 }, 7, 20);
    }
}

#[test]
fn three_steps_of_the_seed_network() {
    for input in [[1, 28, 28], [3, 32, 32]] {
        let net = Network::seed(input, 10).unwrap();
        train_both(&net, Smoothing { variant: Variant::Uniform, epsilon: 0.1 }, 4, 3);
    }
}

/// Every form of the loss, over five steps and every way into the last layer: with outputs that are no multiple of
/// four, and none that a fused head takes.
#[test]
fn five_steps_of_every_loss() {
    for outputs in [5, 8] {
        let layers = [
            Layer::conv2d(4, 3, 1),
            Layer::relu(),
            Layer::max_pool2d(2),
            Layer::flatten(),
            Layer::linear(12),
            Layer::relu(),
            Layer::linear(outputs),
        ];
        let net = Network::new([2, 9, 8], &layers).unwrap();
        for (name, loss) in losses(outputs, images(6, 5)).unwrap() {
            println!("{name}");
            train_both(&net, loss, 6, 5);
        }
    }
}

/// Layers below the first parameters, a linear layer alone, and convolutions without pooling.
#[test]
fn other_stacks() {
    let stacks: [&[Layer]; 3] = [
        &[Layer::flatten(), Layer::linear(3)],
        &[Layer::max_pool2d(2), Layer::relu(), Layer::flatten(), Layer::linear(4), Layer::relu(), Layer::linear(2)],
        &[Layer::conv2d(3, 3, 0), Layer::conv2d(2, 3, 0), Layer::relu(), Layer::flatten(), Layer::linear(3)],
    ];
    for layers in stacks {
        let net = Network::new([1, 9, 7], layers).unwrap();
        train_both(&net, Smoothing::NONE, 5, 3);
    }
}

/// What the fused kernels hand to each other and to reference kernels: a block above a lone ReLU and below a lone
/// pooling, a block whose input is not from a block, a linear layer with ReLU below one that is not fused, a first
/// block that is not the first layer, and one that is, under a loss that is not fused.
#[test]
fn fused_stages_among_others() {
    let block = |channels| [Layer::conv2d(channels, 3, 1), Layer::relu(), Layer::max_pool2d(2)];
    let tail = [Layer::flatten(), Layer::linear(12), Layer::relu(), Layer::linear(4)];
    let stacks = [
        [&block(8)[..], &block(12), &tail].concat(),
        [&block(4)[..], &[Layer::max_pool2d(2)], &tail].concat(),
        [&[Layer::conv2d(5, 3, 1), Layer::relu()][..], &block(8), &tail].concat(),
        [&block(8)[..], &[Layer::relu()], &block(4), &tail].concat(),
        [
            &block(4)[..],
            &[Layer::flatten(), Layer::linear(8), Layer::relu(), Layer::linear(7), Layer::relu(), Layer::linear(3)],
        ]
        .concat(),
        [&block(4)[..], &[Layer::flatten(), Layer::linear(8), Layer::linear(4), Layer::relu()]].concat(),
        [&[Layer::max_pool2d(2)][..], &block(8), &tail].concat(),
        [&block(8)[..], &[Layer::flatten(), Layer::linear(65)]].concat(),
    ];
    for layers in stacks {
        let net = Network::new([2, 13, 11], &layers).unwrap();
        train_both(&net, Smoothing { variant: Variant::Uniform, epsilon: 0.1 }, 5, 3);
    }
}

/// After a step the gradient lies in one piece, whether a kernel wrote it so or in parts.
#[test]
fn the_gradient_is_that_of_the_reference_kernels() {
    let net = Network::seed([1, 12, 12], 10).unwrap();
    let data = random_data(6, net.input, 10);
    let setup = Setup {
        seed: 0,
        net: &net,
        batch_size: 6,
        loss: Smoothing { variant: Variant::Uniform, epsilon: 0.1 }.into(),
        optimizer: Optimizer::Adam(Adam::default()),
        recipe: Default::default(),
        normalisation: vec![[0.5, 0.25]],
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &data,
        test: &data,
    };
    let [reference, fused] = [Kernels::Reference, Kernels::Fused].map(|kernels| -> Vec<f32> {
        let options = GpuOptions { kernels, ..GpuOptions::default() };
        let mut trainer = GpuTrainer::with_options(&GPU, setup.clone(), &net.initial_parameters(1), options).unwrap();
        trainer.train_epoch(&[0, 1, 2, 3, 4, 5], 0, &mut |_| Ok(ControlFlow::Continue(()))).unwrap();
        trainer.engine().read(trainer.compiled().gradient).unwrap()
    });
    assert_eq!((reference.len(), fused.len()), (net.flat_len(), net.flat_len()));
    let largest = reference.iter().fold(0f32, |m, g| m.max(g.abs()));
    assert!(largest > 1e-3, "{largest}");
    for (i, (r, f)) in reference.iter().zip(&fused).enumerate() {
        assert!((r - f).abs() <= 1e-5 * largest.max(1.0), "element {i}: {r} and {f}");
    }
}
