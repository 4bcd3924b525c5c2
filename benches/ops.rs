//! Each operation's passes over the cases of `check`: the plain kernels on the best adapter, and their twins on the CPU, both
//! in f32. Before a case is timed, the kernels' results are held against the f64 oracle's.
//!
//! `cargo bench --bench ops`; `-- conv2d` for a part of it. A time on the GPU is that of a submission and its end: below some
//! size it is all that is seen. `smoothcnn bench` times kernels by the device's own clock.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use smoothcnn::Result;
use smoothcnn::backend::gpu;
use smoothcnn::backend::gpu::{Engine, Gpu};
use smoothcnn::check::{Row, cases, ops, random, random_targets, smoothed_loss};
use smoothcnn::loss;
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::ops::smoothed_loss::{Buffers as LossBuffers, SmoothedLoss};
use smoothcnn::ops::{AffineBuffers, relu};
use smoothcnn::optimizer;
use smoothcnn::oracle;
use smoothcnn::plan::{Batch, Block, Plan, Slice, Step};

struct Bench<'a> {
    criterion: &'a mut Criterion,
    gpu: Arc<Gpu>,
}

impl Bench<'_> {
    /// Times a pass both ways. `record` allocates the buffers that it asks for by length.
    fn pass(
        &mut self,
        pass: &str,
        case: &str,
        n: usize,
        record: impl FnOnce(&mut Plan) -> Result<()>,
        mut cpu: impl FnMut(),
    ) {
        let mut plan = Plan::default();
        record(&mut plan).expect("the pass is recorded as `check` records it");
        let one = Slice { buffer: 0, offset: 0, bytes: 4 };
        let all = 0..plan.dispatches.len();
        let engine = Engine::new(&self.gpu, plan).expect("the case fits every device");
        let step = Step {
            batch: Batch { count: n as u32, ..Batch::default() },
            loss: Block::new(&loss::Block::mean(n)),
            optimizer: Block::new(&optimizer::Block::NONE),
        };
        let mut group = self.criterion.benchmark_group(pass);
        group.sample_size(10).warm_up_time(Duration::from_millis(50)).measurement_time(Duration::from_millis(200));
        group.bench_function(BenchmarkId::new("gpu", case), |bencher| {
            bencher.iter(|| engine.run(all.clone(), &[step], one).wait::<f32>().expect("the device is there"));
        });
        group.bench_function(BenchmarkId::new("cpu", case), |bencher| bencher.iter(&mut cpu));
    }
}

/// No timing of a wrong answer.
fn right(rows: Result<Vec<Row>>) {
    for row in rows.expect("the device is there") {
        assert!(row.failure.is_none(), "{row:?}");
    }
}

/// New buffers of these lengths.
fn buffers<const N: usize>(plan: &mut Plan, lens: [usize; N]) -> Result<[Slice; N]> {
    let mut slices = [Slice { buffer: 0, offset: 0, bytes: 0 }; N];
    for (slice, len) in slices.iter_mut().zip(lens) {
        *slice = plan.buffer("bench", len)?;
    }
    Ok(slices)
}

fn affine(plan: &mut Plan, [x, w, b, y]: [usize; 4]) -> Result<(AffineBuffers, Slice, Slice)> {
    let [x, w, b, y, dw, db, dy, dx] = buffers(plan, [x, w, b, y, w, b, y, x])?;
    Ok((AffineBuffers { x, w, b, y, dw, db }, dy, dx))
}

/// conv2d and linear have the same three passes.
macro_rules! affine_passes {
    ($bench:expr, $stem:ident, $case:expr, $name:expr, $lens:expr) => {{
        let (n, d, name, lens) = ($case.n, $case.dims, $name, $lens);
        let [x, w, b, y] = [0, 1, 2, 3].map(|i| random(lens[i], i as u64));
        let (mut dx, mut dw, mut db, mut out) = (x.clone(), w.clone(), b.clone(), y.clone());
        right(ops::$stem(&$bench.gpu, $case));
        let op = stringify!($stem);
        $bench.pass(
            &format!("{op}/forward"),
            &name,
            n,
            |plan| affine(plan, lens).and_then(|(at, ..)| d.forward(plan, op, n, &at)),
            || oracle::$stem::forward(&d, &x, &w, &b, black_box(&mut out)),
        );
        $bench.pass(
            &format!("{op}/backward_input"),
            &name,
            n,
            |plan| affine(plan, lens).and_then(|(at, dy, dx)| d.backward_input(plan, op, n, &at, dy, dx)),
            || oracle::$stem::backward_input(&d, &y, &w, black_box(&mut dx)),
        );
        $bench.pass(
            &format!("{op}/backward_weight"),
            &name,
            n,
            |plan| affine(plan, lens).and_then(|(at, dy, _)| d.backward_weight(plan, op, n, &at, dy)),
            || oracle::$stem::backward_weight(&d, &x, &y, black_box(&mut dw), black_box(&mut db)),
        );
    }};
}

fn bench(criterion: &mut Criterion) {
    let gpu = Arc::new(Gpu::open_best().unwrap_or_else(|error| panic!("the benches need an adapter: {error}")));
    println!("on {}", gpu::device::describe(&gpu.info));
    let mut bench = Bench { criterion, gpu };
    for case in cases::CONV2D {
        let (n, d) = (case.n, case.dims);
        let name = format!("{n}x{:?} to {} k{:?} s{:?} p{:?}", d.input, d.c_out, d.kernel, d.stride, d.padding);
        affine_passes!(bench, conv2d, case, name, [n * d.input_len(), d.weight_len(), d.c_out, n * d.output_len()]);
    }
    for case in cases::LINEAR {
        let (n, d) = (case.n, case.dims);
        let name = format!("{n}x{} to {}", d.inputs, d.outputs);
        affine_passes!(bench, linear, case, name, [n * d.inputs, d.weight_len(), d.outputs, n * d.outputs]);
    }
    for case in cases::MAX_POOL2D {
        let (n, d) = (case.n, case.dims);
        let name = format!("{n}x{:?} k{:?} s{:?}", d.input, d.kernel, d.stride);
        let lens = [n * d.input_len(), n * d.output_len(), n * d.output_len()];
        right(ops::max_pool2d(&bench.gpu, case));
        let (x, mut y, mut argmax) = (random(lens[0], 0), random(lens[1], 1), vec![0; lens[1]]);
        bench.pass(
            "max_pool2d/forward",
            &name,
            n,
            |plan| buffers(plan, lens).and_then(|[x, y, argmax]| d.forward(plan, "max_pool2d", n, x, y, argmax)),
            || oracle::max_pool2d::forward(&d, &x, black_box(&mut y), black_box(&mut argmax)),
        );
        let (dy, mut dx, argmax) = (y.clone(), x.clone(), argmax.clone());
        bench.pass(
            "max_pool2d/backward",
            &name,
            n,
            |plan| buffers(plan, lens).and_then(|[dx, dy, argmax]| d.backward(plan, "max_pool2d", n, argmax, dy, dx)),
            || oracle::max_pool2d::backward(&d, &argmax, &dy, black_box(&mut dx)),
        );
    }
    for &(n, features) in cases::RELU {
        right(ops::relu(&bench.gpu, n, features));
        let (x, mut y) = (random(n * features, 0), random(n * features, 1));
        bench.pass(
            "relu/forward",
            &format!("{n}x{features}"),
            n,
            |plan| buffers(plan, [n * features; 2]).and_then(|[x, y]| relu::forward(plan, "relu", n, features, x, y)),
            || oracle::relu::forward(&x, black_box(&mut y)),
        );
    }
    for &(n, classes, scale) in cases::SMOOTHED_LOSS {
        let smoothing = Smoothing { variant: Variant::Uniform, epsilon: 0.1 };
        right(smoothed_loss::smoothed_loss(&bench.gpu, n, classes, scale, smoothing));
        let masses = smoothing.masses(classes);
        let (logits, targets, dloss) = (random(n * classes, 0), random_targets(n, classes, 1), vec![1.0 / n as f32; n]);
        let (mut losses, mut dlogits) = (vec![0.0; n], logits.clone());
        bench.pass(
            "smoothed_loss/forward_backward",
            &format!("{n}x{classes}"),
            n,
            |plan| {
                let [logits, targets, losses, dlogits] = buffers(plan, [n * classes, n, n, n * classes])?;
                let at = LossBuffers { logits, targets, losses, dlogits };
                SmoothedLoss { classes }.forward_backward(plan, n, &at)
            },
            || {
                oracle::smoothed_loss::forward(masses, classes, &logits, &targets, black_box(&mut losses));
                oracle::smoothed_loss::backward(masses, classes, &logits, &targets, &dloss, black_box(&mut dlogits));
            },
        );
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
