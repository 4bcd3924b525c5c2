//! What the dispatches of a training step wait for.

use smoothcnn::compile::fuse::Kernels;
use smoothcnn::compile::{Job, compile};
use smoothcnn::loss::Loss;
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::network::Network;
use smoothcnn::ops::augment::Augment;
use smoothcnn::optimizer::{Adam, Optimizer};
use smoothcnn::plan::Storage;
use smoothcnn::plan::order::{least_waves, waits, waves};
use smoothcnn::plan::tuning::{Tiles, Tuning};

/// Catches a step that could run in fewer waves by another order of its dispatches, and one that wgpu drags out: by
/// hand, the fused step is a chain of nine. Of the plain kernels' dispatches, the gradients of weight, bias and input
/// of a layer need nothing of each other.
#[test]
fn a_fused_step_is_a_chain_and_a_plain_one_is_not() {
    let net = Network::seed([1, 28, 28], 10).unwrap();
    let step = |kernels| {
        compile(&Job {
            net: &net,
            batch_size: 64,
            augment: Augment::NONE,
            loss: &Loss::from(Smoothing::NONE),
            optimizer: Optimizer::Adam(Adam::default()),
            recipe: Default::default(),
            train_images: 64,
            test_images: 9,
            loss_slots: 4,
            kernels,
            tuning: Tuning::all(Tiles::Workgroup),
            activations: Storage::F32,
        })
        .unwrap()
    };
    let fused = step(Kernels::Fused);
    let dispatches = &fused.plan.dispatches[fused.train.clone()];
    let all = waits(dispatches);
    assert_eq!((waves(&all).len(), least_waves(&all), dispatches.len()), (9, 9, 9));
    // The first layer's gradient needs that of its output, and its codes; the gradients of others are in one buffer
    // with its own.
    let names = |buffers: &[usize]| buffers.iter().map(|&i| fused.plan.buffers[i].name.as_str()).collect::<Vec<_>>();
    let found: Vec<_> =
        all[7].iter().map(|w| (dispatches[w.on].label.as_str(), names(&w.data), names(&w.whole))).collect();
    assert_eq!(
        found,
        [
            ("conv1+relu1+pool1.forward", vec!["conv1+relu1+pool1.codes"], vec![]),
            ("fc2.backward", vec![], vec!["grads"]),
            ("fc1+relu3.backward", vec![], vec!["grads"]),
            ("conv2+relu2+pool2.backward", vec!["conv2+relu2+pool2.in.grad"], vec!["grads"]),
        ]
    );

    let plain = step(Kernels::Reference);
    let all = waits(&plain.plan.dispatches[plain.train]);
    assert!(
        least_waves(&all) < waves(&all).len() && waves(&all).len() <= all.len(),
        "{} {}",
        all.len(),
        least_waves(&all)
    );
}
