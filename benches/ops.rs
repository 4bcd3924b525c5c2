//! Each layer's passes over the cases of its folder: on the best adapter, in the plain form and in the fast form of the
//! CPU path, all in f32; and the loss. Before a case is timed, the kernels' results are held against the f64 oracle's.
//!
//! `cargo bench --bench ops`; `-- conv2d` for a part of it. A time on the GPU is that of a submission and its end:
//! below some size it is all that is seen. `smoothcnn bench` times kernels by the device's own clock.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use smoothcnn::backend::gpu;
use smoothcnn::backend::gpu::Gpu;
use smoothcnn::bench::layer::LayerBench;
use smoothcnn::ops;

fn bench(criterion: &mut Criterion) {
    let gpu = Arc::new(Gpu::open_best().unwrap_or_else(|error| panic!("the benches need an adapter: {error}")));
    println!("on {}", gpu::device::describe(&gpu.info));
    for entry in ops::ALL {
        for case in (entry.cases)() {
            if case.layer.fit(case.input).is_ok_and(|op| op.is_view()) {
                continue;
            }
            let mut bench = LayerBench::new(Some(&gpu), entry.name, &case).expect("the case is right on this device");
            for backward in [false, true] {
                let pass = if backward { "backward" } else { "forward" };
                let mut group = criterion.benchmark_group(format!("{}/{pass}", entry.name));
                group.sample_size(10);
                group.warm_up_time(Duration::from_millis(50)).measurement_time(Duration::from_millis(200));
                let name = bench.name.clone();
                group.bench_function(BenchmarkId::new("gpu", &name), |bencher| {
                    bencher.iter(|| bench.gpu_pass(backward).expect("the device is there"));
                });
                group.bench_function(BenchmarkId::new("plain", &name), |bencher| {
                    bencher.iter(|| black_box(if backward { bench.plain_backward() } else { bench.plain_forward() }));
                });
                group.bench_function(BenchmarkId::new("cpu", &name), |bencher| {
                    bencher.iter(|| black_box(if backward { bench.fast_backward() } else { bench.fast_forward() }));
                });
            }
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
