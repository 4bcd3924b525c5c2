//! Laws of convolution, Linear and pooling. On small integers every sum is exact in any order, so they hold to the bit,
//! in `f32` as in `f64`.

use proptest::prelude::*;
use smoothcnn::layer::{Element, Layer, Shape};
use smoothcnn::ops::conv2d::Conv2d;
use smoothcnn::ops::linear::Linear;
use smoothcnn::ops::max_pool2d::MaxPool2d;
use smoothcnn::ops::relu::Relu;

use super::config;
use crate::op::{Op, dot, integers, pool};

/// Convolutions of every kind that fits: windows that overlap or leave gaps, padding beyond the kernel, single pixels,
/// kernels with gaps, groups.
fn conv2d() -> impl Strategy<Value = Conv2d> {
    let axis = || (1..=9usize, 1..=4usize, 1..=3usize, 0..=3usize, 1..=3usize);
    (1..=3usize, 1..=3usize, 1..=3usize, axis(), axis())
        .prop_map(|(c_in, c_out, groups, (h, kh, sh, ph, dh), (w, kw, sw, pw, dw))| Conv2d {
            input: [groups * c_in, h, w],
            c_out: groups * c_out,
            kernel: [kh, kw],
            stride: [sh, sw],
            padding: [ph, pw],
            dilation: [dh, dw],
            groups,
            ..Conv2d::PLAIN
        })
        .prop_filter("the kernel fits", |d| d.output().is_ok())
}

/// Poolings likewise.
fn max_pool2d() -> impl Strategy<Value = MaxPool2d> {
    let axis = || (1..=9usize, 1..=5usize, 1..=4usize, 0..=2usize);
    (1..=3usize, axis(), axis())
        .prop_map(|(channels, (h, kh, sh, ph), (w, kw, sw, pw))| MaxPool2d {
            input: [channels, h, w],
            kernel: [kh, kw],
            stride: [sh, sw],
            padding: [ph, pw],
        })
        .prop_filter("the window fits", |d| d.output().is_ok())
}

/// <op(x, w, 0), g> = <x, dx> = <w, dw>, and <op(0, w, b), g> = <b, db>: the op is linear in each, and its gradients
/// are its adjoints.
fn adjoint<T: Element>(op: &Op, n: usize, stream: u64) -> Result<(), TestCaseError> {
    let lens = op.input_lens(n);
    let [x, w, b] = [0, 1, 2].map(|i| integers::<T>(lens[i], 8, stream + i as u64));
    let no_bias = vec![T::zero(); b.len()];
    let y = op.forward(&[x.clone(), w.clone(), no_bias]);
    let g = integers::<T>(y.len(), 8, stream + 3);
    let gradients = op.backward(&[x.clone(), w.clone(), b.clone()], &g);
    prop_assert_eq!(dot(&y, &g), dot(&x, &gradients[0]), "x");
    prop_assert_eq!(dot(&y, &g), dot(&w, &gradients[1]), "weight");
    let only_bias = op.forward(&[vec![T::zero(); x.len()], w, b.clone()]);
    prop_assert_eq!(dot(&only_bias, &g), dot(&b, &gradients[2]), "bias");
    Ok(())
}

/// The convolution as its formula says, one product at a time.
fn conv2d_by_definition(d: &Conv2d, x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    let ([_, height, width], [kh, kw], [rows, columns]) = (d.input, d.kernel, d.output_plane());
    let [c_in, c_out] = [d.input[0] / d.groups, d.c_out / d.groups];
    let mut y = vec![];
    for image in x.chunks(d.input_len()) {
        for o in 0..d.c_out {
            for at in 0..rows * columns {
                let (i, j) = (at / columns * d.stride[0], at % columns * d.stride[1]);
                let mut sum = b[o];
                for tap in 0..c_in * kh * kw {
                    let (c, p, q) = (tap / (kh * kw), tap / kw % kh, tap % kw);
                    let (row, column) = (i + d.dilation[0] * p, j + d.dilation[1] * q);
                    let c = o / c_out * c_in + c;
                    let inside = |at, padding, size| (padding..padding + size).contains(&at);
                    if inside(row, d.padding[0], height) && inside(column, d.padding[1], width) {
                        let (row, column) = (row - d.padding[0], column - d.padding[1]);
                        sum += w[o * c_in * kh * kw + tap] * image[(c * height + row) * width + column];
                    }
                }
                y.push(sum);
            }
        }
    }
    y
}

proptest! {
    #![proptest_config(config())]

    /// Catches an index error in im2col that its inverse repeats: adjointness and finite differences would not see it.
    #[test]
    fn conv2d_is_its_definition(d in conv2d(), n in 1..=3usize, stream in 0..1000u64) {
        let op = Op::from(d);
        let inputs: Vec<Vec<f64>> = op.input_lens(n).into_iter().map(|len| integers(len, 8, stream)).collect();
        prop_assert_eq!(op.forward(&inputs), conv2d_by_definition(&d, &inputs[0], &inputs[1], &inputs[2]));
    }

    /// Catches a backward pass that is not its forward pass's adjoint, for any shape and batch (groups of 8 and a
    /// rest), and any path that gemm takes by size.
    #[test]
    fn conv2d_gradients_are_adjoint(d in conv2d(), n in 1..=19usize, stream in 0..1000u64) {
        adjoint::<f64>(&Op::from(d), n, stream)?;
        adjoint::<f32>(&Op::from(d), n, stream)?;
    }

    /// The same for Linear, with y = x w^T + b from its definition.
    #[test]
    fn linear_gradients_are_adjoint(
        inputs in 1..=70usize,
        outputs in 1..=70usize,
        n in 1..=19usize,
        stream in 0..1000u64,
    ) {
        let op = Op::from(Linear::new(inputs, outputs));
        adjoint::<f64>(&op, n, stream)?;
        adjoint::<f32>(&op, n, stream)?;
        let [x, w, b] = [n * inputs, outputs * inputs, outputs].map(|len| integers::<f64>(len, 8, stream));
        let row = |x| w.chunks(inputs).zip(&b).map(move |(w, b)| dot(x, w) + b);
        let by_definition: Vec<f64> = x.chunks(inputs).flat_map(row).collect();
        prop_assert_eq!(op.forward(&[x, w, b]), by_definition);
    }

    /// Catches an argmax that is not the first maximum, row by row, of its own window. Five values only: most windows
    /// hold their maximum twice.
    #[test]
    fn the_first_maximum_wins(d in max_pool2d(), n in 1..=3usize, stream in 0..1000u64) {
        let x = integers::<f64>(n * d.input_len(), 2, stream);
        let (y, argmax) = pool(&d, &x);
        let ([_, h, w], [rows, columns]) = (d.input, d.output_plane());
        let mut outputs = y.iter().zip(&argmax);
        for plane in x.chunks(h * w) {
            for window in 0..rows * columns {
                let (top, left) = (window / columns * d.stride[0], window % columns * d.stride[1]);
                let places = (top..top + d.kernel[0]).flat_map(|r| (left..left + d.kernel[1]).map(move |c| (r, c)));
                let [above, beside] = d.padding;
                let inside = |(r, c): &(usize, usize)| (above..above + h).contains(r) && (beside..beside + w).contains(c);
                let places = places.filter(inside).map(|(r, c)| (r - above) * w + c - beside);
                let max = places.clone().map(|at| plane[at]).fold(f64::NEG_INFINITY, f64::max);
                let first = places.clone().find(|&at| plane[at] == max).unwrap();
                prop_assert_eq!(outputs.next(), Some((&max, &(first as u32))));
            }
        }
        prop_assert_eq!(outputs.next(), None);
    }

    /// Catches gradient lost or counted twice where windows overlap.
    #[test]
    fn pooling_conserves_the_gradient(d in max_pool2d(), n in 1..=3usize, stream in 0..1000u64) {
        let op = Op::from(d);
        let inputs = [integers::<f32>(n * d.input_len(), 2, stream)];
        let dy = integers::<f32>(n * d.output_len(), 8, stream + 1);
        let dx = op.backward(&inputs, &dy);
        prop_assert_eq!(dx[0].iter().sum::<f32>(), dy.iter().sum::<f32>());
    }
}

/// Catches a NaN lost in a comparison, and a window without anything above -infinity: PyTorch's answers.
#[test]
fn pooling_and_relu_keep_what_is_not_a_number() {
    let d = MaxPool2d { input: [1, 1, 6], kernel: [1, 3], stride: [1, 3], padding: [0; 2] };
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let (y, argmax) = pool(&d, &[1.0, nan, inf, -inf, -inf, -inf]);
    assert!(y[0].is_nan() && y[1] == -inf, "{y:?}");
    assert_eq!(argmax, [1, 3]);
    assert_eq!(pool(&d, &[0.0, nan, nan, -0.0, 0.0, 0.0]).1, [1, 3]);
    // The first of a window's own elements, where the padding is as large.
    let d = MaxPool2d { input: [1, 1, 4], kernel: [1, 3], stride: [1, 2], padding: [0, 1] };
    assert_eq!(pool(&d, &[-inf; 4]), (vec![-inf; 2], vec![0, 1]));
    assert_eq!(pool(&d, &[-3.0, -2.0, -1.0, -4.0]), (vec![-2.0, -1.0], vec![1, 2]));
    let y = Op::from(Relu(Shape::Features(4))).forward(&[vec![nan, -inf, inf, -0.0]]);
    assert!(y[0].is_nan() && y[1..] == [0.0, inf, 0.0], "{y:?}");
}

/// Catches a variance that is lost in the square of a mean far from 0, and a mean that a long sum in f32 misses.
#[test]
fn group_norm_in_f32_keeps_what_is_around_a_mean_of_1e4() {
    let op = Op::Layer(Layer::group_norm(1).fit(Shape::Image([4, 32, 32])).unwrap());
    let x: Vec<f32> = crate::op::uniform(4096, -1.0, 1.0, 3).into_iter().map(|x| (1e4 + x) as f32).collect();
    let wide: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    let narrow = op.forward::<f32>(&[x, vec![1.0; 4], vec![0.0; 4]]);
    let exact = op.forward::<f64>(&[wide, vec![1.0; 4], vec![0.0; 4]]);
    // The mean is a number of f32, and so up to 5e-4 off; the deviation is 0.58.
    let apart = narrow.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(apart < 1e-3, "{apart:e}");
}
