//! Laws of a whole training step: the same bits with any number of threads, and no memory of earlier batches.

use gemm::Parallelism;
use smoothcnn::loss::{Batch, Form};
use smoothcnn::net::Network;
use smoothcnn::ops::linear::Linear;
use smoothcnn::ops::optimizer::{Adam, Optimizer};
use smoothcnn::oracle::Real;
use smoothcnn::oracle::network::CpuNetwork;
use smoothcnn::oracle::optimizer::step;
use smoothcnn::smoothing::{Smoothing, Variant};

use crate::op::{Op, integers, targets, uniform};

const FORM: Form = Form::Smoothed(Smoothing { variant: Variant::Uniform, epsilon: 0.1 });

/// What `work` gives in a pool of `threads` threads.
fn with_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

fn narrow(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|v| v as f32).collect()
}

/// The seed network, and a batch of `n` images with their targets.
fn seed_network(n: usize) -> (CpuNetwork<f32>, Vec<f32>, Vec<u32>) {
    let net = Network::seed([1, 28, 28], 10).unwrap();
    let cpu = CpuNetwork::new(&net, net.initial_parameters(1));
    (cpu, narrow(uniform(n * 784, 0.0, 1.0, n as u64)), targets(n, 10, n as u64))
}

/// Catches work split by the number of threads, and sums in the order that threads finish: three steps of training, on
/// a batch that is not a multiple of the 8 images of a partial sum, give the same bits with 1, 2, 3 and 5 threads.
#[test]
fn training_gives_the_same_bits_with_any_number_of_threads() {
    let train = || {
        let (mut cpu, images, targets) = seed_network(21);
        let optimizer = Optimizer::AdamW(Adam { weight_decay: 0.01, ..Adam::default() });
        let mut bits: Vec<u64> = vec![];
        for t in 1..=3 {
            cpu.batch(21).copy_from_slice(&images);
            bits.push(cpu.train_step(&FORM, Batch::new(&targets), &optimizer, t).loss.to_bits());
        }
        let vectors = [&cpu.params, &cpu.grads, &cpu.state.first, &cpu.state.second];
        bits.extend(vectors.into_iter().flatten().map(|v| u64::from(v.to_bits())));
        bits
    };
    let one = with_threads(1, train);
    for threads in [2, 3, 5] {
        assert!(one == with_threads(threads, train), "{threads} threads");
    }
}

/// `a [m, k]` times `b`, which is `[k, n]`, or `[n, k]` where it is `transposed`.
fn product<T: Real>(m: usize, k: usize, n: usize, transposed: bool, a: &[T], b: &[T], threads: Parallelism) -> Vec<T> {
    assert!(a.len() == m * k && b.len() == k * n);
    let mut c = vec![T::zero(); m * n];
    let (row_stride, column_stride) = if transposed { (1, k) } else { (n, 1) };
    // SAFETY: by the lengths above, every element that the strides address lies inside its slice, and `c` is our own.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            k as isize,
            b.as_ptr(),
            column_stride as isize,
            row_stride as isize,
            T::one(),
            T::one(),
            false,
            false,
            false,
            threads,
        );
    }
    c
}

/// Catches a gemm that splits the sum among threads: the Linear layer lets it use them all. The sizes lie on both sides
/// of its threading threshold (about 590,000 multiply-adds), with sums of one block and of several.
fn gemm_bits<T: Real>() {
    for (m, k, n) in [(21, 3136, 128), (64, 128, 10), (128, 700, 129), (3, 5000, 67), (1, 4096, 300), (300, 4096, 1)] {
        for transposed in [false, true] {
            let random = |len, stream| uniform(len, -1.0, 1.0, stream).into_iter().map(T::of).collect::<Vec<T>>();
            let (a, b) = (random(m * k, 1), random(k * n, 2));
            let multiply = |threads| product(m, k, n, transposed, &a, &b, threads);
            let alone = multiply(Parallelism::None);
            for threads in [1, 2, 3, 5] {
                let found = with_threads(threads, || multiply(Parallelism::Rayon(0)));
                assert!(alone == found, "{m} x {k} x {n}, transposed {transposed}: {threads} threads");
            }
        }
    }
}

#[test]
fn gemm_gives_the_same_bits_with_any_number_of_threads_in_f32() {
    gemm_bits::<f32>();
}

#[test]
fn gemm_gives_the_same_bits_with_any_number_of_threads_in_f64() {
    gemm_bits::<f64>();
}

/// Catches a row of Linear that depends on its neighbours beyond rounding, at a size that gemm threads: integers, so
/// each image alone gives the batch's bits.
#[test]
fn linear_treats_every_image_alike() {
    let op = Op::Linear(Linear { inputs: 3136, outputs: 128 });
    let lens = op.input_lens(9);
    let inputs: Vec<Vec<f32>> = (0..3).map(|i| integers(lens[i], 8, i as u64)).collect();
    let together = op.forward(&inputs);
    for (x, y) in inputs[0].chunks(3136).zip(together.chunks(128)) {
        assert_eq!(op.forward(&[x.to_vec(), inputs[1].clone(), inputs[2].clone()]), y);
    }
}

/// Catches an update counted from another step, by gradients of an earlier batch, or a loss taken after it: a training
/// step is the loss and its gradient, then the optimizer's update number t.
#[test]
fn a_training_step_is_the_gradient_then_the_update() {
    let (mut whole, images, labels) = seed_network(2);
    let (mut parts, ..) = seed_network(2);
    let optimizer = Optimizer::Adam(Adam { weight_decay: 0.01, ..Adam::default() });
    for t in 1..=3 {
        whole.batch(2).copy_from_slice(&images);
        parts.batch(2).copy_from_slice(&images);
        let loss = whole.train_step(&FORM, Batch::new(&labels), &optimizer, t);
        assert_eq!(loss.loss, parts.loss_and_gradient(&FORM, Batch::new(&labels)));
        step(&optimizer, t, &mut parts.params, &parts.grads, &mut parts.state);
        assert!(whole.params == parts.params, "step {t}");
    }
}

/// Catches buffers that keep something of a larger batch, or of one that was not finite: a batch of 3 after such ones
/// gives the bits it gives at first. Also the gaps between parameters: they stay zero.
#[test]
fn a_batch_leaves_nothing_behind() {
    let (mut fresh, images, labels) = seed_network(3);
    let (mut used, other, other_labels) = seed_network(10);
    for spoil in [1.0, f32::NAN] {
        used.batch(10).iter_mut().zip(&other).for_each(|(x, v)| *x = v * spoil);
        let loss = used.loss_and_gradient(&FORM, Batch::new(&other_labels));
        assert_eq!(loss.is_nan(), spoil.is_nan(), "{loss}");
    }
    let run = |cpu: &mut CpuNetwork<f32>| {
        cpu.batch(3).copy_from_slice(&images);
        (cpu.loss_and_gradient(&FORM, Batch::new(&labels)).to_bits(), cpu.grads.clone())
    };
    let expected = run(&mut fresh);
    assert!(expected == run(&mut used));

    let mut gap = vec![true; expected.1.len()];
    fresh.network().parameters.iter().for_each(|p| gap[p.range()].fill(false));
    fresh.train_step(&FORM, Batch::new(&labels), &Optimizer::Adam(Adam::default()), 1);
    assert!(gap.contains(&true));
    for values in [&expected.1, &fresh.params, &fresh.state.first, &fresh.state.second] {
        assert!(values.iter().zip(&gap).all(|(&v, &gap)| !gap || v == 0.0));
    }
}

/// Catches a loss that is a sum, or a mean over something else than the batch: the loss and the gradient of a batch are
/// the means of its images'.
#[test]
fn a_batch_is_the_mean_of_its_images() {
    let net = Network::seed([1, 12, 8], 5).unwrap();
    let params: Vec<f64> = net.initial_parameters(2).into_iter().map(f64::from).collect();
    let mut cpu = CpuNetwork::new(&net, params);
    let n = 11;
    let (images, labels) = (uniform(n * 96, 0.0, 1.0, 5), targets(n, 5, 5));
    let (mut loss, mut gradient) = (0.0, vec![0.0; net.flat_len()]);
    for (image, label) in images.chunks(96).zip(labels.chunks(1)) {
        cpu.batch(1).copy_from_slice(image);
        loss += cpu.loss_and_gradient(&FORM, Batch::new(label)) / n as f64;
        gradient.iter_mut().zip(&cpu.grads).for_each(|(sum, g)| *sum += g / n as f64);
    }
    cpu.batch(n).copy_from_slice(&images);
    let found = cpu.loss_and_gradient(&FORM, Batch::new(&labels));
    assert!((found - loss).abs() <= 1e-14, "{found} against {loss}");
    let scale = crate::op::largest(&gradient);
    for (i, (found, expected)) in cpu.grads.iter().zip(&gradient).enumerate() {
        // Sums of a few thousand terms in another order.
        assert!((found - expected).abs() <= 1e-13 * scale, "gradient {i}: {found} against {expected}");
    }
}
