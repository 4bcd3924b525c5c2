//! Images per second of a training step and of inference on the CPU: the fast path against the oracle's plain one, both
//! in f32. Before anything is timed, the fast path's losses are held against the f64 oracle's.
//!
//! `cargo bench --bench step`; `-- fast/train` for a part of it.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use smoothcnn::check::network::random_data;
use smoothcnn::data::Dataset;
use smoothcnn::net::Network;
use smoothcnn::ops::optimizer::{Adam, Optimizer};
use smoothcnn::smoothing::{Smoothing, Variant};
use smoothcnn::train::{Backend, Setup};
use smoothcnn::{cpu, oracle};

/// Image sizes with the batches that are timed.
const CASES: [(usize, &[usize]); 2] = [(28, &[64, 128, 256, 1024]), (112, &[32])];

fn setup<'a>(net: &'a Network, data: &'a Dataset, batch_size: usize) -> Setup<'a> {
    Setup {
        net,
        batch_size,
        smoothing: Smoothing { variant: Variant::Uniform, epsilon: 0.1 },
        optimizer: Optimizer::Adam(Adam::default()),
        normalisation: vec![[0.13, 0.31]; net.input[0]],
        train: data,
        test: data,
    }
}

/// The losses of one pass over the data.
fn epoch(backend: &mut dyn Backend, images: usize) -> Vec<f64> {
    let order: Vec<u32> = (0..images as u32).collect();
    let mut losses = vec![];
    let done = backend.train_epoch(&order, 0, &mut |some| {
        losses.extend_from_slice(some);
        Ok(())
    });
    done.expect("the CPU does not fail");
    losses
}

/// Three steps of both must agree before their times mean anything.
fn check(net: &Network) {
    let data = random_data(24, net.input, net.classes);
    let params = net.initial_parameters(1);
    let got = epoch(&mut cpu::CpuTrainer::<f32>::new(setup(net, &data, 8), &params), 24);
    let want = epoch(&mut oracle::trainer::CpuTrainer::<f64>::new(setup(net, &data, 8), &params), 24);
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() <= 2e-4, "wrong losses: {got} against {want}");
    }
}

fn bench(criterion: &mut Criterion) {
    for (size, batches) in CASES {
        let net = Network::seed([1, size, size], 10).expect("the seed network fits");
        check(&net);
        for &batch in batches {
            let data = random_data(batch, net.input, net.classes);
            let params = net.initial_parameters(1);
            let mut backends: [(&str, Box<dyn Backend>); 2] = [
                ("fast", Box::new(cpu::CpuTrainer::<f32>::new(setup(&net, &data, batch), &params))),
                ("plain", Box::new(oracle::trainer::CpuTrainer::<f32>::new(setup(&net, &data, batch), &params))),
            ];
            for (path, backend) in &mut backends {
                for task in ["train", "infer"] {
                    let mut group = criterion.benchmark_group(format!("{path}/{task}"));
                    group.throughput(Throughput::Elements(batch as u64)).sample_size(20);
                    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
                    group.bench_function(BenchmarkId::new(format!("{size}x{size}"), batch), |bencher| {
                        bencher.iter(|| match task {
                            "train" => black_box(epoch(backend.as_mut(), batch)),
                            _ => black_box(backend.test_logits().expect("the CPU does not fail")),
                        });
                    });
                }
            }
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
