//! Where the passes of the CPU path run.

use std::ops::ControlFlow;

use smoothcnn::backend::cpu::CpuNetwork;
use smoothcnn::backend::host::{HostNetwork, HostPredictor, HostTrainer, Normalised};
use smoothcnn::backend::{Asked, ImageSet, Predictor, Setup, Trainer};
use smoothcnn::check::network::random_data;
use smoothcnn::data::Dataset;
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::loss::{Batch, Form};
use smoothcnn::network::Network;
use smoothcnn::ops::augment::Augment;
use smoothcnn::ops::mix::Mixed;
use smoothcnn::optimizer::{Adam, Optimizer, Slots, recipe::Recipe};

/// The fast network; every pass of it must be called on a thread of the pool.
struct OnPool(CpuNetwork<f32>);

impl OnPool {
    fn network(&mut self) -> &mut CpuNetwork<f32> {
        assert!(rayon::current_thread_index().is_some(), "called from outside the pool");
        &mut self.0
    }
}

impl HostNetwork<f32> for OnPool {
    fn start(net: &Network, params: Vec<f32>, seed: u64) -> Self {
        Self(HostNetwork::start(net, params, seed))
    }

    fn answering(net: &Network, params: Vec<f32>) -> Self {
        Self(CpuNetwork::answering(net, params))
    }

    fn take(&mut self, images: &[f32]) {
        self.network().take(images);
    }

    fn gather(&mut self, data: &Dataset, indices: &[u32], normalised: &Normalised<f32>) {
        self.network().gather(data, indices, normalised);
    }

    fn mix(&mut self, mixed: &Mixed) {
        self.network().mix(mixed);
    }

    fn gradient(&mut self, form: &Form, batch: Batch<f32>, t: u64, before: usize) -> [f64; 2] {
        self.network().gradient(form, batch, t, before)
    }

    fn grads(&mut self) -> &mut [f32] {
        self.network().grads()
    }

    fn clip(&mut self, most: f64) -> f64 {
        self.network().clip(most)
    }

    fn update(&mut self, optimizer: &Optimizer, t: u64) -> bool {
        self.network().update(optimizer, t)
    }

    fn logits(&mut self) -> &[f32] {
        self.network().logits()
    }

    fn parts(&mut self) -> (&mut Vec<f32>, &mut Slots<f32>, &mut Vec<f32>) {
        self.0.parts_mut()
    }
}

/// Catches a pass from outside: each of its loops would wake the pool and wait for it, and small networks would take
/// up to twice as long.
#[test]
fn passes_run_on_the_pool() {
    let (net, data) = (Network::seed([1, 8, 8], 3).unwrap(), random_data(7, [1, 8, 8], 3));
    let params = net.initial_parameters(0);
    let normalisation = vec![[0.5, 0.25]];
    let setup = Setup {
        seed: 0,
        net: &net,
        batch_size: 4,
        augment: Augment::CIFAR,
        loss: Smoothing::NONE.into(),
        optimizer: Optimizer::Adam(Adam::default()),
        recipe: Recipe { clip_grad_norm: Some(1.0), accumulate: 2, ..Recipe::default() },
        normalisation: normalisation.clone(),
        train: &data,
        test: &data,
    };
    let mut trainer = HostTrainer::<f32, OnPool>::new(setup, &params);
    let order: Vec<u32> = (0..7).collect();
    trainer.train_epoch(&order, 0, &mut |_| Ok(ControlFlow::Continue(()))).unwrap();
    assert_eq!(trainer.test_logits().unwrap().len(), 7 * 3);

    let params: Vec<f64> = params.into_iter().map(f64::from).collect();
    let asked = Asked { net: &net, params: &params, buffers: &[], normalisation: &normalisation, batch_size: 4 };
    let mut predictor = HostPredictor::<f32, OnPool>::new(&asked);
    assert_eq!(predictor.logits(ImageSet::Bytes(&data)).unwrap().len(), 7 * 3);
    assert_eq!(predictor.logits(ImageSet::Floats(&[0.5; 5 * 64])).unwrap().len(), 5 * 3);
}
