//! Sixteen steps of the preset `resnet8` from recorded weights, against PyTorch's float64 (`tests/golden`): batch norm,
//! residual blocks, SGD with momentum and weight decay, label smoothing.
#![allow(dead_code)] // each test binary uses its own part

use std::ops::ControlFlow;

use smoothcnn::backend::{Setup, State, Trainer};
use smoothcnn::data::Dataset;
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::network::{Architecture, NamedParameter, Network, Preset};
use smoothcnn::ops::augment::Augment;
use smoothcnn::optimizer::{Optimizer, Sgd};

use crate::golden::Golden;

/// Element i of the hash that both sides fill the network with.
fn hash(i: usize, tensor: u64) -> f64 {
    let value = (i as u64).wrapping_mul(2_654_435_761).wrapping_add(tensor * 40503 + 12345) % (1 << 32);
    value as f64 / (1u64 << 32) as f64
}

fn initial(net: &Network) -> Vec<f32> {
    let mut params = vec![0.0; net.flat_len()];
    for (index, p) in net.parameters.iter().enumerate() {
        let inputs = if p.shape.len() > 1 { p.shape[1..].iter().product() } else { 64 };
        let norm = format!(".{}", p.name).contains(".bn") && p.name.ends_with("weight");
        for (i, to) in params[p.range()].iter_mut().enumerate() {
            let value = 2.0 * (hash(i, index as u64) - 0.5);
            *to = if norm { 1.0 + 0.25 * value } else { value / (inputs as f64).sqrt() } as f32;
        }
    }
    params
}

/// Trains on the backend that `make` makes. No number may be further off than `tolerance` of the largest in its tensor.
pub fn agrees<M>(what: &str, tolerance: f64, make: M)
where
    M: for<'a> Fn(Setup<'a>, &[f32]) -> Box<dyn Trainer + 'a>,
{
    let golden = Golden::open("resnet8");
    let side: usize = golden.parse("side");
    let labels = golden.labels("labels");
    let net = Architecture::Preset(Preset::Resnet8).network([3, side, side], 10).unwrap();
    let index = golden.parse("images_index");
    let images = (0..labels.len() * 3 * side * side).map(|i| (256.0 * hash(i, index)).floor() as u8).collect();
    let train = Dataset { shape: net.input, classes: 10, images, labels, files: vec![] };
    let batch_size: usize = golden.parse("batch");
    let mut test = train.clone();
    test.truncate(batch_size);
    let setup = |lr: f64| Setup {
        net: &net,
        seed: 0,
        batch_size,
        augment: Augment::NONE,
        recipe: Default::default(),
        loss: Smoothing { variant: Variant::Uniform, epsilon: golden.parse("epsilon") }.into(),
        optimizer: Optimizer::Sgd(Sgd {
            lr,
            momentum: golden.parse("momentum"),
            nesterov: false,
            weight_decay: golden.parse("weight_decay"),
        }),
        normalisation: vec![[0.5, 0.25]; 3],
        train: &train,
        test: &test,
    };
    let order: Vec<u32> = (0..train.len() as u32).collect();
    let mut losses = vec![];
    let mut state: Option<State> = None;
    let mut logits = vec![];
    // A trainer for each step, which goes on from the last one's state: the rate is another in each.
    for ((t, lr), order) in (0..).zip(golden.f64("rates")).zip(order.chunks(batch_size)) {
        let mut backend = make(setup(lr), &initial(&net));
        state.iter().for_each(|state| backend.set_state(state));
        backend
            .train_epoch(order, t, &mut |some| {
                losses.extend(some.iter().map(|means| means.loss));
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        state = Some(backend.state().unwrap());
        logits = backend.test_logits().unwrap();
    }
    let state = state.unwrap();
    let mut worst = 0f64;
    let mut check = |name: &str, found: &[f64], size: f64| {
        let expected = golden.f64(name);
        assert_eq!(found.len(), expected.len(), "{what}: {name}");
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = (found - expected).abs() / size;
            assert!(error <= tolerance, "{what}: {name}[{i}]: found {found}, PyTorch {expected}: {error:e} of {size}");
            worst = worst.max(error);
        }
    };
    let largest = |values: &[f64]| values.iter().fold(0f64, |most, v| most.max(v.abs()));
    check("losses", &losses, largest(&losses));
    for p in &net.parameters {
        let values = &state.params[p.range()];
        let stride = golden.parse(&format!("{}.stride", p.name));
        let sample: Vec<f64> = values.iter().step_by(stride).copied().collect();
        check(&format!("p.{}.sample", p.name), &sample, largest(values));
        let squares: f64 = values.iter().map(|v| v * v).sum();
        check(&format!("p.{}.sum_sq", p.name), &[squares], squares);
    }
    let buffer = |p: &NamedParameter| state.buffers[p.range()].to_vec();
    for p in &net.buffers {
        check(&format!("b.{}", p.name), &buffer(p), largest(&buffer(p)));
    }
    check("logits", &logits, largest(&logits));
    println!("{what}: worst error {worst:e}, {tolerance:e} allowed");
}
