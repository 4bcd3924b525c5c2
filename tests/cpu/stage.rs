//! One stage (convolution, ReLU, pooling) forward and backward, against the oracle's three operations.

use pulp::Arch;
use smoothcnn::check::compare::{compare, sum_tolerance};
use smoothcnn::check::random;
use smoothcnn::layer::ImageLayout;
use smoothcnn::ops::conv2d::fast_backward::ConvSums;
use smoothcnn::ops::conv2d::fast_block::{ConvBlock, Packed};
use smoothcnn::ops::conv2d::fast_terms::{Image, Terms};
use smoothcnn::ops::conv2d::{self, Conv2d};
use smoothcnn::ops::max_pool2d::{self, MaxPool2d};
use smoothcnn::ops::relu;
use smoothcnn::real::{self, Real};

/// A stage and a batch.
#[derive(Clone, Copy, Debug)]
struct Case {
    n: usize,
    dims: Conv2d,
    relu: bool,
    pool: Option<MaxPool2d>,
}

/// What goes in, and what should come out, with the tolerance of an f32 result.
struct Expected {
    x: Vec<f64>,
    w: Vec<f64>,
    b: Vec<f64>,
    dy: Vec<f64>,
    results: [(&'static str, Vec<f64>, Vec<f64>); 4],
}

/// Every convolution of the check, and some whose channels are primes around a vector's length, with kernels of one to
/// seven rows, each alone and under poolings that cover the image, leave a rest, or leave gaps.
fn all_cases() -> Vec<Case> {
    let conv = |n, input, c_out, kernel, stride, padding| {
        (n, Conv2d { input, c_out, kernel, stride, padding, bias: true, ..Conv2d::PLAIN })
    };
    let own = [
        conv(1, [17, 9, 9], 31, [3, 3], [1, 1], [1, 1]),
        conv(2, [7, 10, 11], 37, [5, 3], [1, 1], [2, 1]),
        conv(2, [33, 6, 5], 13, [1, 1], [1, 1], [0, 0]),
        conv(1, [3, 17, 19], 3, [7, 7], [2, 2], [3, 3]),
        conv(5, [19, 5, 33], 67, [2, 5], [1, 2], [1, 0]),
        conv(1, [67, 7, 7], 5, [3, 3], [1, 1], [1, 1]),
    ];
    let mut all = vec![];
    for (n, dims) in conv2d::DIMS.iter().copied().chain(own) {
        let [rows, columns] = dims.output_plane();
        let input = [dims.c_out, rows, columns];
        let pools = [([2, 2], [2, 2]), ([3, 2], [3, 2]), ([2, 2], [3, 4]), ([1, 1], [2, 2]), ([4, 4], [4, 4])];
        for relu in [false, true] {
            all.push(Case { n, dims, relu, pool: None });
            for (kernel, stride) in pools {
                let pool = MaxPool2d { input, kernel, stride, padding: [0; 2] };
                if pool.output().is_ok() {
                    assert!(ConvBlock::takes(&pool));
                    all.push(Case { n, dims, relu, pool: Some(pool) });
                }
            }
        }
    }
    all
}

/// Runs the oracle on inputs that `value` makes.
fn expected(case: &Case, value: impl Fn(usize, u64) -> Vec<f64>) -> Expected {
    let d = &case.dims;
    let [rows, columns] = d.output_plane();
    let pool = case.pool.unwrap_or(MaxPool2d {
        input: [d.c_out, rows, columns],
        kernel: [1, 1],
        stride: [1, 1],
        padding: [0; 2],
    });
    let (x, w, b) = (value(case.n * d.input_len(), 1), value(d.weight_len(), 2), value(d.c_out, 3));
    let dy = value(case.n * pool.output_len(), 4);
    let conv = |x: &[f64], w: &[f64], b: &[f64]| {
        let mut y = vec![0.0; case.n * d.output_len()];
        conv2d::reference::forward(d, x, w, b, &mut y);
        y
    };
    let mut activated = conv(&x, &w, &b);
    if case.relu {
        let before = activated.clone();
        relu::reference::forward(&before, &mut activated);
    }
    let (mut y, mut argmax) = (vec![0.0; dy.len()], vec![0; dy.len()]);
    max_pool2d::reference::forward(&pool, &activated, &mut y, &mut argmax);

    let mut dactivated = vec![0.0; activated.len()];
    max_pool2d::reference::backward(&pool, &argmax, &dy, &mut dactivated);
    let mut dconv = dactivated.clone();
    if case.relu {
        relu::reference::backward(&activated, &dactivated, &mut dconv);
    }
    let gradients = |x: &[f64], w: &[f64], dconv: &[f64]| {
        let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; d.c_out]);
        conv2d::reference::backward_input(d, dconv, w, &mut dx);
        conv2d::reference::backward_weight(d, x, dconv, &mut dw, &mut db);
        [dx, dw, db]
    };
    let [dx, dw, db] = gradients(&x, &w, &dconv);
    // The sums of the terms' absolute values: what rounding errors are measured in.
    let abs = |values: &[f64]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
    let [x1, w1, b1, dconv1] = [&x, &w, &b, &dconv].map(|values| abs(values));
    let (mut y1, mut ignored) = (vec![0.0; y.len()], vec![0; y.len()]);
    max_pool2d::reference::forward(&pool, &conv(&x1, &w1, &b1), &mut y1, &mut ignored);
    let [dx1, dw1, db1] = gradients(&x1, &w1, &dconv1);
    let tolerance =
        |terms: usize, magnitudes: Vec<f64>| magnitudes.iter().map(|&m| sum_tolerance(terms, m)).collect::<Vec<_>>();
    let windows = case.n * pool.output_plane().iter().product::<usize>();
    let results = [
        ("y", y, tolerance(d.fan_in() + 1, y1)),
        ("dx", dx, tolerance(d.c_out * d.kernel[0] * d.kernel[1], dx1)),
        ("dw", dw, tolerance(windows, dw1)),
        ("db", db, tolerance(windows, db1)),
    ];
    Expected { x, w, b, dy, results }
}

/// The stage's y, dx, dw and db, in the oracle's order. `pixels`: the output goes to another convolution's layout.
fn run<T: Real>(arch: Arch, case: &Case, expected: &Expected, wants_input_gradient: bool, pixels: bool) -> [Vec<T>; 4] {
    let lanes = real::machine_lanes::<T>(arch);
    let narrow = |values: &[f64]| values.iter().map(|&v| T::of(v)).collect::<Vec<T>>();
    let d = case.dims;
    let mut stage = ConvBlock::new(d, case.relu, case.pool, wants_input_gradient, lanes);
    if pixels {
        stage.output = ImageLayout::pixels(stage.output.dims, [1, 2], d.c_out.next_multiple_of(lanes), lanes);
    }
    let mut packed = Packed::default();
    stage.pack_forward(&narrow(&expected.w), &narrow(&expected.b), &mut packed);
    stage.pack_backward(&narrow(&expected.w), &mut packed);
    let (mut sums, mut terms) = (ConvSums::default(), Terms::default());
    let mut band = vec![T::zero(); stage.band_len()];
    stage.clear(&mut sums, &mut terms);
    let (x, dy) = (narrow(&expected.x), narrow(&expected.dy));
    let (mut all_y, mut all_dx) = (vec![T::zero(); dy.len()], vec![T::zero(); x.len()]);
    let out = dy.len() / case.n;
    let gradients = dy.chunks(out).zip(all_dx.chunks_mut(d.input_len()));
    for ((from, all_y), (dy, all_dx)) in x.chunks(d.input_len()).zip(all_y.chunks_mut(out)).zip(gradients) {
        let mut x = vec![T::zero(); stage.input.len];
        stage.input.write(from, &mut x);
        let mut y = vec![T::zero(); stage.output.len];
        let mut argmax = vec![0; stage.argmax_len()];
        stage.forward(arch, &packed, &x, &mut y, &mut argmax, &mut band);
        stage.output.read(&y, all_y);
        let mut upstream = vec![T::zero(); stage.output.len];
        stage.output.write(dy, &mut upstream);
        let mut dx = vec![T::nan(); if wants_input_gradient { stage.input.len } else { 0 }];
        let image = Image { x: &x, y: &y, argmax: &argmax, dy: &upstream, dx: &mut dx };
        stage.backward(arch, &packed, image, &mut sums, &mut terms);
        if wants_input_gradient {
            stage.input.read(&dx, all_dx);
        }
    }
    let mut dw = vec![T::zero(); d.weight_len()];
    stage.unpack(&sums.dw, &mut dw);
    [all_y, all_dx, dw, sums.db[..d.c_out].to_vec()]
}

/// This machine's instruction sets, the best first: what older machines run must be right too.
fn archs() -> Vec<Arch> {
    #[allow(unused_mut, reason = "only x86 has more than one")]
    let mut archs = vec![Arch::new()];
    #[cfg(target_arch = "x86_64")]
    {
        archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
        archs.push(Arch::Scalar);
    }
    archs
}

fn check<T: Real>(case: &Case, expected: &Expected, tolerance_of_f32: f64) {
    for arch in archs() {
        for (wants_input_gradient, pixels) in [(true, true), (false, false), (false, true), (true, false)] {
            let got = run::<T>(arch, case, expected, wants_input_gradient, pixels);
            for (got, (what, want, tolerance)) in got.iter().zip(&expected.results) {
                if *what == "dx" && !wants_input_gradient {
                    continue;
                }
                // The comparison takes f32 values: the differences, then, which hold in f32 whatever T is.
                let difference: Vec<f32> = got.iter().zip(want).map(|(got, want)| (got.wide() - want) as f32).collect();
                let tolerance: Vec<f64> = tolerance.iter().map(|t| t * tolerance_of_f32).collect();
                let found = compare(&difference, &vec![0.0; want.len()], &tolerance);
                assert!(found.failure.is_none(), "{what}, {pixels}, {arch:?}: {:?} in {case:?}", found.failure);
            }
        }
    }
}

/// Wrong strides, offsets, packing or tails of vectors: any of them misplaces or drops a term, which is far above the
/// tolerance of a sum in f32; in f64, with a tolerance 2^29 times as small, even a term stored in f32 shows.
#[test]
fn every_pass_of_every_case_in_both_precisions() {
    for case in all_cases() {
        let value = |len, stream| random(len, stream).iter().map(|&v| v.into()).collect();
        let expected = expected(&case, value);
        check::<f32>(&case, &expected, 1.0);
        check::<f64>(&case, &expected, 2f64.powi(-29));
    }
}

/// Small integers make every sum exact and almost every window a tie: the results must be equal to the last bit, which
/// they are only if the first maximum wins, and if a ReLU passes no gradient at zero.
#[test]
fn ties_go_to_the_first_maximum_and_relu_passes_nothing_at_zero() {
    for case in all_cases() {
        let value = |len, stream| random(len, stream).iter().map(|v| (v * 1.8).round().into()).collect();
        let expected = expected(&case, value);
        check::<f32>(&case, &expected, 0.0);
        check::<f64>(&case, &expected, 0.0);
    }
}
