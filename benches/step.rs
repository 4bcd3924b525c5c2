//! Images per second of a training step and of inference, all in f32: the fast CPU path, the oracle's plain one, and
//! the fused kernels on the best adapter. Before anything is timed, the losses are held against the f64 oracle's.
//!
//! `cargo bench --bench step`; `-- fast/train` for a part of it.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use smoothcnn::backend::cpu;
use smoothcnn::backend::gpu::trainer::GpuTrainer;
use smoothcnn::backend::gpu::{Gpu, device};
use smoothcnn::backend::reference::ReferenceTrainer;
use smoothcnn::backend::{Setup, Trainer};
use smoothcnn::bench::pictures;
use smoothcnn::check::network::{against_oracle, training};
use smoothcnn::compile::fuse::Kernels;
use smoothcnn::data::Dataset;
use smoothcnn::loss::BatchLoss;
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::network::Network;
use smoothcnn::optimizer::{Adam, Optimizer};

/// Image sizes with the batches that are timed.
const CASES: [(usize, &[usize]); 2] = [(28, &[64, 128, 256, 1024]), (112, &[32])];

fn setup<'a>(net: &'a Network, data: &'a Dataset, batch_size: usize) -> Setup<'a> {
    Setup {
        seed: 0,
        net,
        batch_size,
        loss: Smoothing { variant: Variant::Uniform, epsilon: 0.1 }.into(),
        optimizer: Optimizer::Adam(Adam::default()),
        recipe: Default::default(),
        normalisation: vec![[0.13, 0.31]; net.input[0]],
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: data,
        test: data,
    }
}

/// The losses of one pass over the data.
fn epoch(backend: &mut dyn Trainer, images: usize) -> Vec<BatchLoss> {
    let order: Vec<u32> = (0..images as u32).collect();
    let mut losses = vec![];
    let done = backend.train_epoch(&order, 0, &mut |some| {
        losses.extend_from_slice(some);
        Ok(ControlFlow::Continue(()))
    });
    done.expect("the device is there");
    losses
}

/// Two steps must agree with the oracle's before their times mean anything.
fn check(net: &Network, gpu: &Arc<Gpu>) {
    let smoothing = Smoothing { variant: Variant::Uniform, epsilon: 0.1 };
    let on_cpu = against_oracle("cpu", net, smoothing, [8, 2], |setup, params| {
        Ok(Box::new(cpu::CpuTrainer::<f32>::new(setup, params)))
    });
    for rows in [on_cpu, training(gpu, net, smoothing, 8, 2, &[Kernels::Fused])] {
        for row in rows.expect("the device is there") {
            assert!(row.failure.is_none(), "{row:?}");
        }
    }
}

fn bench(criterion: &mut Criterion) {
    let gpu = Arc::new(Gpu::open_best().unwrap_or_else(|error| panic!("the benches need an adapter: {error}")));
    println!("on {}", device::describe(&gpu.info));
    for (size, batches) in CASES {
        let net = Network::seed([1, size, size], 10).expect("the seed network fits");
        check(&net, &gpu);
        for &batch in batches {
            let data = pictures(batch, net.input);
            let params = net.initial_parameters(1);
            let on_gpu = GpuTrainer::new(&gpu, setup(&net, &data, batch), &params).expect("the batch fits");
            let mut backends: [(&str, Box<dyn Trainer>); 3] = [
                ("gpu", Box::new(on_gpu)),
                ("fast", Box::new(cpu::CpuTrainer::<f32>::new(setup(&net, &data, batch), &params))),
                ("plain", Box::new(ReferenceTrainer::<f32>::new(setup(&net, &data, batch), &params))),
            ];
            for (path, backend) in &mut backends {
                for task in ["train", "infer"] {
                    let mut group = criterion.benchmark_group(format!("{path}/{task}"));
                    group.throughput(Throughput::Elements(batch as u64)).sample_size(10);
                    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
                    group.bench_function(BenchmarkId::new(format!("{size}x{size}"), batch), |bencher| {
                        bencher.iter(|| match task {
                            "train" => black_box(epoch(backend.as_mut(), batch)).len(),
                            _ => black_box(backend.test_logits().expect("the device is there")).len(),
                        });
                    });
                }
            }
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
