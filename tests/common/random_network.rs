//! Networks, batches, losses and optimizers drawn from a seed, and whole training steps of them held against the f64
//! oracle.
//!
//! `RANDOM_NETWORKS=500` draws so many, in place of a few; `RANDOM_NETWORK=17` only that of seed 17, which is what a
//! failure names. A new kind of layer joins through the registry; [`IMAGE_LAYERS`] and [`VECTOR_LAYERS`] are stacks
//! that fuse, or nearly do.
#![allow(dead_code)] // each test binary uses its own part

use std::fmt::{self, Display, Formatter};
use std::ops::ControlFlow;

use smoothcnn::backend::reference::ReferenceTrainer;
use smoothcnn::backend::{Setup, State, Trainer};
use smoothcnn::data::Dataset;
use smoothcnn::layer::Shape;
use smoothcnn::loss::comparator::ComparatorLoss;
use smoothcnn::loss::distillation::DistillationLoss;
use smoothcnn::loss::logit_penalty::LogitPenalty;
use smoothcnn::loss::smoothing::{Epsilon, Prior, Smoothing, Variant};
use smoothcnn::loss::weighted::{Spec, WeightedLoss, Weighting};
use smoothcnn::loss::{Form, Loss};
use smoothcnn::network::{Layer, Network};
use smoothcnn::ops::IGNORED;
use smoothcnn::ops::{self, conv2d, max_pool2d};
use smoothcnn::optimizer::{Adam, Optimizer, Sgd, muon, recipe::Recipe};
use smoothcnn::plan::tuning::Tiles;
use smoothcnn::rng::Philox;
use smoothcnn::schedule::{Curve, Schedule};

/// Layers that may come next; what does not fit is not taken.
type Draw = fn(&mut Rng) -> Vec<Layer>;

/// On images.
const IMAGE_LAYERS: &[Draw] = &[
    |rng| {
        vec![conv(
            rng.of(1..10),
            [rng.of(1..5), rng.of(1..5)],
            [rng.of(1..4), rng.of(1..4)],
            [rng.of(0..3), rng.of(0..3)],
        )]
    },
    |_| vec![Layer::relu()],
    |rng| vec![pool([rng.of(1..4), rng.of(1..4)], [rng.of(1..4), rng.of(1..4)])],
    // What fuses, more often than the rest.
    block,
    block,
    block,
    // What nearly does.
    |rng| vec![Layer::conv2d(rng.of(1..18), 3, rng.of(0..3)), Layer::relu(), pool([2, rng.of(1..3)], [2, 2])],
    |rng| vec![Layer::conv2d(4 * rng.of(1..3), 3, 1), Layer::relu()],
    |rng| vec![Layer::conv2d(4 * rng.of(1..3), 3, 1), Layer::max_pool2d(2), Layer::relu()],
];

/// From one to the other.
const FLATTEN: &[Draw] = &[|_| vec![Layer::flatten()]];

/// On vectors.
const VECTOR_LAYERS: &[Draw] = &[
    |rng| vec![Layer::linear(rng.of(1..40))],
    |rng| vec![Layer::linear(4 * rng.of(1..20))],
    |rng| vec![Layer::linear(4 * rng.of(1..20)), Layer::relu()],
    |rng| vec![Layer::linear(4 * rng.of(1..20)), Layer::relu()],
    |rng| vec![Layer::linear(rng.of(1..40)), Layer::relu()],
    |_| vec![Layer::relu()],
    |_| vec![Layer::flatten()],
];

/// How a stack ends.
const LAST_LAYERS: &[Draw] = &[
    |rng| vec![Layer::linear(rng.of(2..13))],
    |rng| vec![Layer::linear(4 * rng.of(1..4))],
    // More classes than a head takes.
    |rng| vec![Layer::linear(rng.of(60..70))],
    |rng| vec![Layer::linear(rng.of(2..13)), Layer::relu()],
    |_| vec![],
];

fn block(rng: &mut Rng) -> Vec<Layer> {
    vec![Layer::conv2d(4 * rng.of(1..5), 3, 1), Layer::relu(), Layer::max_pool2d(2)]
}

fn conv(out_channels: usize, kernel_size: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Layer {
    Layer::new(conv2d::Settings { out_channels, kernel_size, stride, padding, ..conv2d::Settings::square(1, 1, 0) })
}

fn pool(kernel_size: [usize; 2], stride: [usize; 2]) -> Layer {
    Layer::new(max_pool2d::Settings { kernel_size, stride, padding: [0; 2] })
}

/// Any layer of the registry, as its own folder draws it: a new kind joins by itself.
fn registered(rng: &mut Rng, input: [usize; 3], below: &[Layer]) -> Vec<Layer> {
    let mut shape = Shape::Image(input);
    for layer in below {
        shape = layer.fit(shape).expect("the layers below fit").output();
    }
    let entry = rng.one(ops::ALL);
    (entry.draw)(&mut rng.0, shape).into_iter().collect()
}

/// So that the oracle takes milliseconds.
const MOST_FLOPS: u64 = 400_000;

/// Random choices.
pub struct Rng(Philox);

impl Rng {
    /// A number of the range.
    fn of(&mut self, range: std::ops::Range<usize>) -> usize {
        range.start + self.0.below((range.end - range.start) as u32) as usize
    }

    /// One of several.
    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.of(0..of.len())].clone()
    }

    /// True once in `n` times.
    fn once_in(&mut self, n: usize) -> bool {
        self.of(0..n) == 0
    }
}

/// One training that is compared.
pub struct Case {
    seed: u64,
    net: Network,
    layers: Vec<Layer>,
    batch_size: usize,
    /// Images of the first step.
    first: usize,
    loss: Loss,
    optimizer: Optimizer,
    recipe: Recipe,
    train: Dataset,
    test: Dataset,
    params: Vec<f32>,
    /// The form of the fused kernels, if the device runs it.
    pub tiles: Tiles,
    /// How much of the data may be on a device at once.
    pub max_data_bytes: u64,
}

/// A number or a tensor of a training, by name.
struct Part {
    name: String,
    values: Vec<f64>,
    /// How far f32 may be from it.
    tolerance: f64,
}

/// How exact a path is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Precision {
    /// f64 throughout.
    F64,
    /// f32 throughout.
    F32,
    /// f32, with some activations stored in halves.
    Halves,
}

/// The seeds to draw, `usual` many unless the environment says otherwise.
pub fn seeds(usual: u64) -> Vec<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}: found {text:?}, expected a whole number")))
    };
    match number("RANDOM_NETWORK") {
        Some(seed) => vec![seed],
        None => (0..number("RANDOM_NETWORKS").unwrap_or(usual)).collect(),
    }
}

/// Draws each seed's network and holds it against the oracle by `paths`, which gives what was wrong. `binary` is the
/// test's.
pub fn each(binary: &str, usual: u64, paths: impl Fn(&Case) -> Vec<String>) {
    let mut wrong = vec![];
    for seed in seeds(usual) {
        // A panic below shows this line.
        println!("RANDOM_NETWORK={seed} cargo test --test {binary} random::");
        let case = Case::draw(seed);
        wrong.extend(
            paths(&case)
                .into_iter()
                .map(|what| format!("RANDOM_NETWORK={seed} cargo test --test {binary} random::  # {what}; {case}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Case {
    /// The case of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng(Philox::new(seed, 0xCA5E));
        let (net, layers) = network(&mut rng);
        let batch_size = if rng.once_in(4) { 1 } else { rng.of(2..10) };
        let first = if rng.once_in(2) { batch_size } else { rng.of(1..batch_size + 1) };
        let optimizer = optimizer(&mut rng);
        // Numbers of their own: those of before keep their networks.
        let mut own = Rng(Philox::new(seed, 0x5C4ED));
        let recipe = recipe(&mut own, &optimizer);
        let net = if own.once_in(3) { net.sparing(|p| p.name.ends_with(".bias")) } else { net };
        // The last batch is most often a part of one. At a rate of 1 later steps would run away.
        let later = if optimizer.lr() < 1.0 { rng.of(0..4 * batch_size + 1) } else { 0 };
        let images = first + later;
        let loss = loss(&mut rng, net.classes, images);
        let tiles = rng.one(&Tiles::DIVISIONS);
        let max_data_bytes = rng.one(&[u64::MAX, 0, 1000]);
        let test = dataset(&net, batch_size + 1, &mut Philox::new(seed, 0x7E57));
        let params = net.initial_parameters(seed);
        let mut train = dataset(&net, images, &mut Philox::new(seed, 0xDA7A));
        if !matches!(loss.form(), Form::Smoothed(_)) {
            train.labels.iter_mut().for_each(|label| {
                if rng.once_in(4) {
                    *label = IGNORED
                }
            });
            // A whole batch.
            if rng.once_in(4) {
                train.labels.iter_mut().skip(first).take(batch_size).for_each(|label| *label = IGNORED);
            }
        }
        let mut case = Self {
            seed,
            net,
            layers,
            batch_size,
            first,
            loss,
            optimizer,
            recipe,
            train,
            test,
            params,
            tiles,
            max_data_bytes,
        };
        // Other images, until none is where rounding decides: at the kink of a ReLU, or where two values of a window
        // are as good as equal. There the gradient of an f32 path may rightly be another.
        for stream in 1..20 {
            if case.is_smooth() {
                break;
            }
            case.train.images = dataset(&case.net, images, &mut Philox::new(seed, 0xDA7A + stream)).images;
        }
        case
    }

    /// Whether nothing moves by much when the parameters move by several times f32's rounding.
    fn is_smooth(&self) -> bool {
        let spread = self.spread(2, 2f64.powi(-20));
        self.oracle(&self.params).iter().zip(spread).all(|(part, spread)| spread <= 0.25 * part.tolerance)
    }

    /// How far each part moves in `directions` directions in which every parameter moves by up to `by` of itself.
    fn spread(&self, directions: u64, by: f64) -> Vec<f64> {
        let want = self.oracle(&self.params);
        let mut most = vec![0f64; want.len()];
        for direction in 0..directions {
            let mut rng = Philox::new(self.seed, 0x57E9 + direction);
            let moved = |p: &f32| (f64::from(*p) * (1.0 + rng.range(-by, by))) as f32;
            let found = self.oracle(&self.params.iter().map(moved).collect::<Vec<f32>>());
            for ((most, found), want) in most.iter_mut().zip(found).zip(&want) {
                *most = most.max(distance(&found.values, &want.values));
            }
        }
        most
    }

    fn setup(&self) -> Setup<'_> {
        Setup {
            seed: self.seed,
            net: &self.net,
            batch_size: self.batch_size,
            loss: self.loss.clone(),
            optimizer: self.optimizer,
            recipe: self.recipe,
            normalisation: vec![[0.45, 0.3]; self.net.input[0]],
            augment: smoothcnn::ops::augment::Augment::NONE,
            train: &self.train,
            test: &self.test,
        }
    }

    fn order(&self) -> Vec<u32> {
        (0..self.train.len() as u32).rev().collect()
    }

    fn oracle(&self, params: &[f32]) -> Vec<Part> {
        self.run(params, |setup, params| Box::new(ReferenceTrainer::<f64>::new(setup, params)))
    }

    /// Trains from `params` on the backend that `make` makes.
    fn run<M>(&self, params: &[f32], make: M) -> Vec<Part>
    where
        M: for<'a> FnOnce(Setup<'a>, &[f32]) -> Box<dyn Trainer + 'a>,
    {
        let mut backend = make(self.setup(), params);
        let backend = backend.as_mut();
        let mut parts = vec![];
        let mut add = |name: String, values: Vec<f64>, tolerance: f64| parts.push(Part { name, values, tolerance });
        let root = |values: &[f64]| (values.len() as f64).sqrt();
        let size = |values: &[f64]| root(values) + norm(values);
        let logits = backend.test_logits().unwrap();
        add("logits before".into(), logits.clone(), 5e-6 * size(&logits));
        let order: Vec<u32> = (0..self.train.len() as u32).rev().collect();
        let (first, rest) = order.split_at(self.first);
        let mut means = steps(backend, first, 0);
        // A temperature may multiply a mean.
        add("first loss and nll".into(), means[0].to_vec(), 5e-5 * size(&means[0]));

        // What the optimizer made of the first gradient: its first moment, or without one how far the parameters moved.
        let state = backend.state().unwrap();
        let (gradient, rounding) = match self.optimizer {
            Optimizer::Sgd(Sgd { momentum: 0.0, .. }) => (moved(&state.params, params), 2f64.powi(-23)),
            _ => (state.slots[0].clone(), 0.0),
        };
        let whole = norm(&gradient);
        for parameter in &self.net.parameters {
            let values = gradient[parameter.range()].to_vec();
            // The last is for a sum whose terms cancel.
            let tolerance = 1e-4 * norm(&values)
                + 1e-5 * whole
                + rounding * norm(&state.params[parameter.range()])
                + 2e-8 * root(&values);
            add(format!("gradient of {}", parameter.name), values, tolerance);
        }

        if !rest.is_empty() {
            means.extend(steps(backend, rest, 1));
        }
        let means = means.concat();
        let tolerance = 2e-4 * size(&means);
        add("losses and nlls".into(), means, tolerance);
        let State { params: last, slots, averages, .. } = backend.state().unwrap();
        assert_eq!(averages.len(), if self.recipe.ema.is_some() { 2 } else { 0 });
        if let [averages, _] = &averages[..] {
            let values = moved(averages, params);
            let rounding = 2f64.powi(-23) * (self.train.len() as f64 + 1.0) * norm(&last);
            let tolerance = 2e-3 * norm(&values) + rounding;
            add("how far the averages moved".into(), values, tolerance);
        }
        let steps = self.train.len().div_ceil(self.batch_size) as f64 + 1.0;
        let rounding = 2f64.powi(-23) * steps * norm(&last);
        let values = moved(&last, params);
        let tolerance = 2e-3 * norm(&values) + rounding;
        add("how far the parameters moved".into(), values, tolerance);
        // What is next to nothing is nothing in f32, and what cancels is not.
        assert_eq!(slots.len(), self.optimizer.slots().len());
        for ((name, values), least) in self.optimizer.slots().iter().zip(slots).zip([1e-7, f32::MIN_POSITIVE.into()]) {
            let tolerance = 2e-3 * norm(&values) + least * root(&values);
            add((*name).into(), values, tolerance);
        }
        let last = backend.test_logits().unwrap();
        let change = distance(&last, &logits);
        let tolerance = 5e-6 * size(&last) + 4e-3 * change;
        add("logits after".into(), last, tolerance);
        parts
    }

    /// Trains on the backend that `make` makes and says what differs from the oracle by more than rounding does.
    pub fn hold<M>(&self, what: &str, precision: Precision, make: M) -> Vec<String>
    where
        M: for<'a> FnOnce(Setup<'a>, &[f32]) -> Box<dyn Trainer + 'a>,
    {
        let (got, want) = (self.run(&self.params, make), self.oracle(&self.params));
        assert_eq!(got.len(), want.len());
        // What rounding to 11 bits does is what parameters do that move as much.
        let halves =
            if precision == Precision::Halves { self.spread(6, 2f64.powi(-10)) } else { vec![0.0; want.len()] };
        let mut wrong = vec![];
        for ((got, want), halves) in got.iter().zip(&want).zip(halves) {
            let error = distance(&got.values, &want.values);
            let tolerance =
                if precision == Precision::F64 { 1e-6 * want.tolerance } else { want.tolerance + 8.0 * halves };
            // A NaN is no small error.
            if got.values.len() != want.values.len() || error.is_nan() || error > tolerance {
                wrong.push(format!("{what}: {}: off by {error:.2e}, expected at most {tolerance:.2e}", want.name));
            }
        }
        wrong
    }

    /// The network.
    pub fn net(&self) -> &Network {
        &self.net
    }
}

impl Display for Case {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Self { net, layers, batch_size, first, loss, optimizer, train, tiles, .. } = self;
        write!(
            f,
            "{:?} {layers:?}, {} images in batches of {batch_size} after {first}, {:?}, {optimizer:?}, {tiles:?}",
            net.input,
            train.len(),
            loss.form()
        )
    }
}

/// Loss and nll of each step.
fn steps(backend: &mut dyn Trainer, order: &[u32], updates: u64) -> Vec<[f64; 2]> {
    let mut means = vec![];
    backend
        .train_epoch(order, updates, &mut |some| {
            means.extend(some.iter().map(|means| [means.loss, means.nll]));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    means
}

/// A stack that fits, and its layers.
fn network(rng: &mut Rng) -> (Network, Vec<Layer>) {
    loop {
        let input = [rng.of(1..6), rng.of(1..18), rng.of(1..18)];
        let mut layers = vec![];
        let ended = |layers: &[Layer], end: &[Layer]| {
            let net = Network::new(input, &[layers, end].concat()).ok()?;
            (net.forward_flops() <= MOST_FLOPS && net.classes < 80 && net.parameter_count() > 0).then_some(net)
        };
        for (some, n) in [(IMAGE_LAYERS, rng.of(0..5)), (FLATTEN, 1), (VECTOR_LAYERS, rng.of(0..4))] {
            for _ in 0..n {
                let next = if rng.once_in(3) { registered(rng, input, &layers) } else { rng.one(some)(rng) };
                let more = [layers.clone(), next].concat();
                if ended(&more, &[Layer::flatten(), Layer::linear(2)]).is_some() {
                    layers = more;
                }
            }
        }
        let end = rng.one(LAST_LAYERS)(rng);
        if let Some(net) = ended(&layers, &end) {
            return (net, [layers, end].concat());
        }
    }
}

/// A loss of any form.
fn loss(rng: &mut Rng, classes: usize, images: usize) -> Loss {
    let schedule = match rng.of(0..3) {
        0 => Schedule::rising(rng.of(1..6) as u64),
        1 => Schedule::falling(rng.of(1..6) as u64),
        _ => Schedule::CONSTANT,
    };
    let variant = rng.one(&[Variant::Uniform, Variant::OffTarget]);
    let epsilon = if variant == Variant::Uniform && rng.once_in(4) { -0.5 } else { rng.0.range(0.0, 0.45) };
    let smoothing = Smoothing { variant, epsilon };
    let mut rows = |scale: f64| -> Vec<f64> { (0..images * classes).map(|_| rng.0.range(0.01, scale)).collect() };
    let narrow = |values: &[f64]| -> std::sync::Arc<[f32]> { values.iter().map(|&v| v as f32).collect() };
    let (teacher, mut soft) = (narrow(&rows(6.0)), rows(1.0));
    for row in soft.chunks_mut(classes) {
        let total: f64 = row.iter().sum();
        row.iter_mut().for_each(|v| *v /= total);
    }
    let loss = match rng.of(0..9) {
        0 | 1 => smoothing.into(),
        2 => Loss::new(Form::Comparator(ComparatorLoss::focal(classes, rng.0.range(0.0, 4.0)).unwrap()), 0.0),
        3 => Loss::new(
            Form::Comparator(ComparatorLoss::confidence_penalty(classes, rng.0.range(0.0, 1.0)).unwrap()),
            0.0,
        ),
        7 => {
            let alpha = rng.0.range(0.0, 1.0);
            Loss::new(LogitPenalty::maxsup(classes, alpha).unwrap(), alpha)
        }
        8 => Loss::new(LogitPenalty::mbls(classes, rng.0.range(0.0, 1.0), rng.0.range(0.0, 1.0)).unwrap(), 0.0),
        4 => {
            let form = DistillationLoss::new(classes, rng.0.range(0.5, 8.0), rng.0.range(0.0, 1.0)).unwrap();
            let smoothing = Smoothing { epsilon: epsilon.abs().min(0.45), ..smoothing };
            Loss::new(form.smoothed(smoothing), smoothing.epsilon).with_teacher(teacher).unwrap()
        }
        _ => {
            let soft_targets = rng.once_in(3);
            let some = |rng: &mut Rng| -> Vec<f64> { (0..classes).map(|_| rng.0.range(0.1, 2.0)).collect() };
            let prior =
                if rng.once_in(2) { Prior::Given(some(rng)) } else { rng.one(&[Prior::Uniform, Prior::OffTarget]) };
            let prior = if soft_targets && prior == Prior::OffTarget { Prior::Uniform } else { prior };
            let weights = (!rng.once_in(3)).then(|| (rng.one(&[Weighting::PyTorch, Weighting::Sample]), some(rng)));
            // Two classes at least, and distributions over all of them.
            let out = rng.of(0..classes);
            let masked = classes > 2 && !soft_targets && rng.once_in(2);
            let allowed = masked.then(|| (0..classes).map(|class| class != out).collect());
            let epsilon = if prior == Prior::OffTarget { epsilon.abs().min(0.45) } else { epsilon };
            let checked = Epsilon::negative_allowed(epsilon).unwrap();
            let spec = Spec { classes, epsilon: checked, prior, weights, allowed };
            let loss = Loss::new(Form::Weighted(WeightedLoss::new(&spec).unwrap()), epsilon);
            if soft_targets { loss.with_soft_targets(narrow(&soft)).unwrap() } else { loss }
        }
    };
    loss.scheduled(schedule)
}

fn optimizer(rng: &mut Rng) -> Optimizer {
    let weight_decay = rng.one(&[0.0, 1e-2]);
    // With the usual eps of 1e-8 the sign of a gradient that is next to nothing decides, and rounding with it.
    let adam = Adam { weight_decay, eps: 1e-4, ..Adam::default() };
    match rng.of(0..5) {
        0 => Optimizer::Adam(adam),
        1 => Optimizer::AdamW(adam),
        2 => Optimizer::Muon(Adam { betas: muon::settings().betas, ..adam }),
        3 => Optimizer::Sgd(Sgd { lr: 0.05, momentum: 0.9, nesterov: rng.once_in(2), weight_decay }),
        _ => Optimizer::Sgd(Sgd { lr: 1.0, momentum: 0.0, nesterov: false, weight_decay: 0.0 }),
    }
}

/// A recipe of any kind.
fn recipe(rng: &mut Rng, optimizer: &Optimizer) -> Recipe {
    let lr = optimizer.lr();
    let over = rng.of(1..6) as u64;
    let curve = match rng.of(0..6) {
        0 => Curve::Cosine { over },
        1 => Curve::Step { every: over, factor: 0.3 },
        2 => Curve::Exponential { every: over, factor: 0.1 },
        3 => Curve::OneCycle { total: over, rise: 0.4 },
        _ => Curve::Constant,
    };
    let warm_up = if matches!(curve, Curve::OneCycle { .. }) { 0 } else { rng.of(0..3) as u64 };
    let momentum = Schedule { first: 0.95, warm_up, curve, end: 0.95 };
    let lr = Schedule { first: lr / 25.0, warm_up, curve, end: lr / 100.0 };
    // Most gradients are longer than the one, none than the other.
    let clip_grad_norm = rng.one(&[None, None, Some(0.2), Some(1e6)]);
    let momentum = rng.once_in(2).then_some(momentum);
    Recipe { lr, momentum, clip_grad_norm, ema: rng.once_in(2).then_some(0.7), ..Recipe::default() }
}

fn dataset(net: &Network, images: usize, rng: &mut Philox) -> Dataset {
    let pixels: usize = net.input.iter().product();
    let labels = (0..images).map(|_| rng.below(net.classes as u32)).collect();
    let images = (0..images * pixels).map(|_| rng.below(256) as u8).collect();
    Dataset { shape: net.input, classes: net.classes, images, labels, files: vec![] }
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

fn moved(now: &[f64], before: &[f32]) -> Vec<f64> {
    now.iter().zip(before).map(|(now, &before)| now - f64::from(before)).collect()
}

fn norm(a: &[f64]) -> f64 {
    a.iter().map(|v| v * v).sum::<f64>().sqrt()
}
