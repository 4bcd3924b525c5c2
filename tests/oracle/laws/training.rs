//! Laws of a whole training step: the same bits with any number of threads, and no memory of earlier batches. And of a
//! whole training: where a schedule of epsilon leads to.

use std::ops::ControlFlow;

use gemm::Parallelism;
use smoothcnn::backend::reference::{ReferenceNetwork, ReferenceTrainer};
use smoothcnn::backend::{Setup, Trainer, cpu};
use smoothcnn::data::Dataset;
use smoothcnn::loss::smoothing::{Epsilon, Prior, Smoothing, Variant};
use smoothcnn::loss::weighted::{Spec, WeightedLoss};
use smoothcnn::loss::{Batch, Form, Loss};
use smoothcnn::network::{Layer, Network};
use smoothcnn::ops::linear::Linear;
use smoothcnn::optimizer::{Adam, Optimizer, Sgd, Values};
use smoothcnn::real::Real;
use smoothcnn::schedule::Schedule;

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
fn seed_network(n: usize) -> (ReferenceNetwork<f32>, Vec<f32>, Vec<u32>) {
    let net = Network::seed([1, 28, 28], 10).unwrap();
    let cpu = ReferenceNetwork::new(&net, net.initial_parameters(1));
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
        let vectors = [&cpu.params, &cpu.grads, &cpu.slots[0], &cpu.slots[1]];
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
    let op = Op::from(Linear::new(3136, 128));
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
        let ReferenceNetwork { params, grads, slots, .. } = &mut parts;
        let decayed = params.len();
        if slots.is_empty() {
            *slots = optimizer.empty(decayed);
        }
        optimizer.step(t, Values { params, grads, slots, decayed, matrices: &[] });
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
    let run = |cpu: &mut ReferenceNetwork<f32>| {
        cpu.batch(3).copy_from_slice(&images);
        (cpu.loss_and_gradient(&FORM, Batch::new(&labels)).to_bits(), cpu.grads.clone())
    };
    let expected = run(&mut fresh);
    assert!(expected == run(&mut used));

    let mut gap = vec![true; expected.1.len()];
    fresh.network().parameters.iter().for_each(|p| gap[p.range()].fill(false));
    fresh.train_step(&FORM, Batch::new(&labels), &Optimizer::Adam(Adam::default()), 1);
    assert!(gap.contains(&true));
    for values in [&expected.1, &fresh.params, &fresh.slots[0], &fresh.slots[1]] {
        assert!(values.iter().zip(&gap).all(|(&v, &gap)| !gap || v == 0.0));
    }
}

/// Catches a loss that is a sum, or a mean over something else than the batch: the loss and the gradient of a batch are
/// the means of its images'.
#[test]
fn a_batch_is_the_mean_of_its_images() {
    let net = Network::seed([1, 12, 8], 5).unwrap();
    let params: Vec<f64> = net.initial_parameters(2).into_iter().map(f64::from).collect();
    let mut cpu = ReferenceNetwork::new(&net, params);
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

/// Learning rate of [`gaps`]: the curvature of the loss is at most 1/2.
const RATE: f64 = 2.0;

/// Trains biases alone on one black image of class 1, whose logits they are, and gives the gap between its logit and
/// the largest other one after each of these numbers of updates.
fn gaps(loss: &Loss, classes: usize, fast: bool, updates: &[usize]) -> Vec<f64> {
    let net = Network::new([1, 1, 1], &[Layer::flatten(), Layer::linear(classes)]).unwrap();
    let data = Dataset { shape: [1, 1, 1], classes, images: vec![0], labels: vec![1], files: vec![] };
    let setup = Setup {
        seed: 0,
        net: &net,
        batch_size: 1,
        loss: loss.clone(),
        optimizer: Optimizer::Sgd(Sgd { lr: RATE, momentum: 0.0, nesterov: false, weight_decay: 0.0 }),
        recipe: Default::default(),
        normalisation: vec![[0.0, 1.0]],
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &data,
        test: &data,
    };
    let zeros = vec![0.0; net.flat_len()];
    let mut backend: Box<dyn Trainer> = match fast {
        true => Box::new(cpu::CpuTrainer::<f64>::new(setup, &zeros)),
        false => Box::new(ReferenceTrainer::<f64>::new(setup, &zeros)),
    };
    let mut done = 0;
    let gap_after = |&updates: &usize| {
        backend.train_epoch(&vec![0; updates - done], done as u64, &mut |_| Ok(ControlFlow::Continue(()))).unwrap();
        done = updates;
        let logits = backend.test_logits().unwrap();
        let others = (0..classes).filter(|&k| k != 1).map(|k| logits[k]);
        logits[1] - others.fold(f64::NEG_INFINITY, f64::max)
    };
    updates.iter().map(gap_after).collect()
}

/// The losses with this epsilon and schedule over `classes` classes, in both forms that have them; each with the logit
/// gap of its optimum at the full epsilon.
fn scheduled(classes: usize, e: f64, schedule: Schedule) -> Vec<(Loss, f64)> {
    let c = classes as f64;
    let uniform = ((1.0 - e + e / c) / (e / c)).ln();
    let off_target = ((1.0 - e) * (c - 1.0) / e).ln();
    let kinds = [(Variant::Uniform, Prior::Uniform, uniform), (Variant::OffTarget, Prior::OffTarget, off_target)];
    let both = |(variant, prior, gap)| {
        let spec = Spec { epsilon: Epsilon::new(e).unwrap(), prior, ..Spec::new(classes) };
        let forms = [
            Form::Smoothed(Smoothing::new(variant, e, classes).unwrap()),
            Form::Weighted(WeightedLoss::new(&spec).unwrap()),
        ];
        forms.map(|form| (Loss::new(form, e).scheduled(schedule), gap))
    };
    kinds.into_iter().flat_map(both).collect()
}

/// Catches a warm-up that stays below its full epsilon, or passes it: on its way the gap grows beyond the full
/// epsilon's, and in the end it comes back to it.
#[test]
fn after_a_warm_up_the_optimum_is_that_of_the_full_epsilon() {
    const OVER: usize = 600;
    for (classes, e) in [(3, 0.3), (10, 0.1), (10, 0.5)] {
        for (loss, expected) in scheduled(classes, e, Schedule::rising(OVER as u64)) {
            for fast in [false, true] {
                let found = gaps(&loss, classes, fast, &[OVER / 4, OVER + 5_000]);
                assert!(found[0] > expected + 0.1, "{loss:?}: {found:?} on the way to {expected}");
                assert!((found[1] - expected).abs() <= 1e-9, "{loss:?}: gap {}, expected {expected}", found[1]);
            }
        }
    }
}

/// Catches a decay that stops above 0, where the gap would stay finite. Without smoothing gradient descent lets it grow
/// for ever, as the logarithm of the updates t (Soudry et al. 2018): the gradient is p - onehot, so that gap' = rate C
/// exp(-gap) where the others' p are small, and exp(gap) grows by rate C with each update.
#[test]
fn after_a_decay_the_gap_grows_as_without_smoothing() {
    const OVER: usize = 600;
    for (classes, e) in [(3, 0.3), (10, 0.1), (10, 0.5)] {
        for (loss, full) in scheduled(classes, e, Schedule::falling(OVER as u64)) {
            for fast in [false, true] {
                let times = [OVER, 10 * OVER, 40 * OVER];
                let found = gaps(&loss, classes, fast, &times);
                assert!(found[0] > full + 0.1, "{loss:?}: {found:?} after the decay from {full}");
                let growth = (found[2].exp() - found[1].exp()) / (times[2] - times[1]) as f64;
                let expected = RATE * classes as f64;
                assert!((growth / expected - 1.0).abs() <= 0.01, "{loss:?}: {growth} an update, expected {expected}");
            }
        }
    }
}
