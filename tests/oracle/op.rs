//! Every op behind one pair of calls, so that one table can hold cases of all of them; and random values.

use std::sync::Arc;

use smoothcnn::layer::{self, Element, Kept, Mode};
use smoothcnn::loss::comparator::ComparatorLoss;
use smoothcnn::loss::distillation::DistillationLoss;
use smoothcnn::loss::distillation::reference::{self as distillation_loss, Logits};
use smoothcnn::loss::logit_penalty::LogitPenalty;
use smoothcnn::loss::smoothing::Masses;
use smoothcnn::loss::weighted::WeightedLoss;
use smoothcnn::loss::{
    Batch, comparator::reference as comparator_loss, logit_penalty::reference as logit_penalty,
    mixed::reference as mixed_loss, smoothed::reference as smoothed_loss, weighted::reference as weighted_loss,
};
use smoothcnn::ops::{conv2d::Conv2d, max_pool2d::MaxPool2d};
use smoothcnn::real::Real;
use smoothcnn::rng::Philox;

/// An op with all that is not differentiated: its dimensions, or its target.
#[derive(Clone, Debug)]
pub enum Op {
    Layer(Arc<dyn layer::Op>),
    SmoothedLoss { masses: Masses, classes: usize, targets: Vec<u32> },
    WeightedLoss { loss: WeightedLoss, targets: Targets },
    MixedLoss { masses: Masses, classes: usize, targets: Vec<u32>, share: f64 },
    ComparatorLoss { loss: ComparatorLoss, targets: Vec<u32> },
    LogitPenalty { loss: LogitPenalty, targets: Vec<u32> },
    DistillationLoss { loss: DistillationLoss, masses: Masses, targets: Vec<u32>, teacher: Vec<f64> },
}

impl<O: layer::Op> From<O> for Op {
    fn from(op: O) -> Self {
        Self::Layer(Arc::new(op))
    }
}

/// The targets of a general loss.
#[derive(Clone, Debug)]
pub enum Targets {
    Index(Vec<u32>),
    Soft(Vec<f64>),
}

impl Targets {
    /// Lends them to `read` in the oracle's type.
    pub fn with<T: Real, R>(&self, read: impl FnOnce(weighted_loss::Targets<T>) -> R) -> R {
        match self {
            Targets::Index(indices) => read(weighted_loss::Targets::Index(indices)),
            Targets::Soft(rows) => {
                let rows: Vec<T> = rows.iter().map(|&t| T::of(t)).collect();
                read(weighted_loss::Targets::Soft(&rows))
            }
        }
    }
}

impl Op {
    /// The lengths of the inputs for a batch of `n`: x, and where the op has them weight and bias. ReLU and the loss
    /// take theirs from their own case.
    pub fn input_lens(&self, n: usize) -> Vec<usize> {
        match self {
            Op::Layer(op) => {
                let parameters = op.parameters().into_iter().map(|parameter| parameter.shape.iter().product());
                std::iter::once(n * op.input().len()).chain(parameters).collect()
            }
            Op::SmoothedLoss { classes, .. } => vec![n * classes],
            Op::MixedLoss { classes, .. } => vec![n * classes],
            Op::WeightedLoss { loss, .. } => vec![n * loss.classes()],
            Op::ComparatorLoss { loss, .. } => vec![n * loss.classes()],
            Op::LogitPenalty { loss, .. } => vec![n * loss.classes()],
            Op::DistillationLoss { loss, .. } => vec![n * loss.classes()],
        }
    }

    /// The output for `inputs` (x, weight, bias).
    pub fn forward<T: Element>(&self, inputs: &[Vec<T>]) -> Vec<T> {
        let x = &inputs[0];
        match self {
            Op::Layer(op) => pass(&**op, inputs).0,
            Op::SmoothedLoss { masses, classes, targets } => {
                let mut losses = unwritten(targets.len());
                smoothed_loss::forward(*masses, *classes, x, targets, &mut losses);
                losses
            }
            Op::WeightedLoss { loss, targets } => {
                let mut losses = unwritten(x.len() / loss.classes());
                targets.with(|targets| weighted_loss::forward(loss, x, targets, &mut losses));
                losses
            }
            Op::MixedLoss { masses, classes, targets, share } => {
                let mut losses = unwritten(targets.len());
                let others: Vec<u32> = targets.iter().rev().copied().collect();
                let batch = Batch { others: &others, share: *share, ..Batch::new(targets) };
                mixed_loss::forward(*masses, *classes, x, batch, &mut losses);
                losses
            }
            Op::ComparatorLoss { loss, targets } => {
                let mut losses = unwritten(targets.len());
                comparator_loss::forward(loss, x, targets, &mut losses);
                losses
            }
            Op::LogitPenalty { loss, targets } => {
                let mut losses = unwritten(targets.len());
                logit_penalty::forward(loss, x, targets, &mut losses);
                losses
            }
            Op::DistillationLoss { loss, masses, targets, teacher } => {
                let mut losses = unwritten(targets.len());
                let teacher: Vec<T> = teacher.iter().map(|&v| T::of(v)).collect();
                let logits = Logits { student: x, teacher: &teacher };
                distillation_loss::forward(loss, *masses, logits, targets, &mut losses);
                losses
            }
        }
    }

    /// The gradient of each input for the upstream gradient `dy`.
    pub fn backward<T: Element>(&self, inputs: &[Vec<T>], dy: &[T]) -> Vec<Vec<T>> {
        let mut gradients: Vec<Vec<T>> = inputs.iter().map(|input| unwritten(input.len())).collect();
        let x = &inputs[0];
        match (self, &mut gradients[..]) {
            (Op::Layer(op), [dx, grads @ ..]) => {
                let (y, kept) = pass(&**op, inputs);
                op.twin().backward(layer::Backward {
                    n: x.len() / op.input().len(),
                    x,
                    y: &y,
                    params: &inputs[1..].iter().map(Vec::as_slice).collect::<Vec<_>>(),
                    kept: &kept,
                    dy,
                    dx: Some(dx),
                    grads: &mut grads.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(),
                    random: layer::Random::default(),
                });
            }
            (Op::SmoothedLoss { masses, classes, targets }, [dx]) => {
                smoothed_loss::backward(*masses, *classes, x, targets, dy, dx);
            }
            (Op::WeightedLoss { loss, targets }, [dx]) => {
                targets.with(|targets| weighted_loss::backward(loss, x, targets, dy, dx));
            }
            (Op::MixedLoss { masses, classes, targets, share }, [dx]) => {
                let others: Vec<u32> = targets.iter().rev().copied().collect();
                let batch = Batch { others: &others, share: *share, ..Batch::new(targets) };
                mixed_loss::backward(*masses, *classes, x, batch, dy, dx);
            }
            (Op::ComparatorLoss { loss, targets }, [dx]) => comparator_loss::backward(loss, x, targets, dy, dx),
            (Op::LogitPenalty { loss, targets }, [dx]) => logit_penalty::backward(loss, x, targets, dy, dx),
            (Op::DistillationLoss { loss, masses, targets, teacher }, [dx]) => {
                let teacher: Vec<T> = teacher.iter().map(|&v| T::of(v)).collect();
                let logits = Logits { student: x, teacher: &teacher };
                distillation_loss::backward(loss, *masses, logits, targets, dy, dx);
            }
            _ => panic!("{self:?} does not take {} inputs", inputs.len()),
        }
        gradients
    }
}

/// A layer's output in training, and what it keeps.
pub fn pass<T: Element>(op: &dyn layer::Op, inputs: &[Vec<T>]) -> (Vec<T>, Kept<T>) {
    let n = inputs[0].len() / op.input().len();
    let (mut y, mut kept) = (unwritten(n * op.output().len()), Kept::default());
    kept.fit(op, n);
    op.twin().forward(layer::Forward {
        n,
        mode: Mode::Training,
        x: &inputs[0],
        skip: &[],
        params: &inputs[1..].iter().map(Vec::as_slice).collect::<Vec<_>>(),
        buffers: &mut [],
        y: &mut y,
        kept: &mut kept,
        random: layer::Random::default(),
    });
    (y, kept)
}

/// The maxima and their positions.
pub fn pool<T: Element>(d: &MaxPool2d, x: &[T]) -> (Vec<T>, Vec<u32>) {
    let (y, kept) = pass(d, &[x.to_vec()]);
    (y, kept.words)
}

/// Memory for a result, full of NaN: an op that adds to what it should replace, or leaves an element out, shows.
fn unwritten<T: Real>(len: usize) -> Vec<T> {
    vec![T::nan(); len]
}

/// A convolution from `[c_in, h, w, c_out, kernel, stride, padding]`, each pair vertical first.
pub fn conv2d([c_in, h, w, c_out, kh, kw, sh, sw, ph, pw]: [usize; 10]) -> Conv2d {
    Conv2d {
        input: [c_in, h, w],
        c_out,
        kernel: [kh, kw],
        stride: [sh, sw],
        padding: [ph, pw],
        bias: true,
        ..Conv2d::PLAIN
    }
}

/// A pooling from `[channels, h, w, kernel, stride]`, each pair vertical first.
pub fn max_pool2d([c, h, w, kh, kw, sh, sw]: [usize; 7]) -> MaxPool2d {
    MaxPool2d { input: [c, h, w], kernel: [kh, kw], stride: [sh, sw], padding: [0; 2] }
}

/// `len` numbers in [low, high) from a stream of their own.
pub fn uniform(len: usize, low: f64, high: f64, stream: u64) -> Vec<f64> {
    let mut rng = Philox::new(20, stream);
    (0..len).map(|_| rng.range(low, high)).collect()
}

/// `len` integers from -limit to limit. Products and sums of small integers are exact in any order, fused or not, so
/// laws over them hold to the bit.
pub fn integers<T: Real>(len: usize, limit: u32, stream: u64) -> Vec<T> {
    let mut rng = Philox::new(21, stream);
    (0..len).map(|_| T::of(f64::from(rng.below(2 * limit + 1)) - f64::from(limit))).collect()
}

/// `len` class indices.
pub fn targets(len: usize, classes: usize, stream: u64) -> Vec<u32> {
    let mut rng = Philox::new(22, stream);
    (0..len).map(|_| rng.below(classes as u32)).collect()
}

/// The inner product.
pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

/// The largest magnitude; NaN if there is a NaN.
pub fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |max: f64, v| if v.abs() <= max { max } else { v.abs() })
}
