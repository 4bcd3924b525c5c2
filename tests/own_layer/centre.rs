//! A layer with a buffer: what forward passes in training leave for inference, as batch norm's running mean. Its values
//! reach every device, a checkpoint, a predictor and a run that goes on.

use std::ops::ControlFlow;
use std::sync::Arc;

use smoothcnn::backend::cpu::{CpuPredictor, CpuTrainer};
use smoothcnn::backend::gpu::predictor::GpuPredictor;
use smoothcnn::backend::gpu::trainer::{GpuOptions, GpuTrainer};
use smoothcnn::backend::reference::{ReferencePredictor, ReferenceTrainer};
use smoothcnn::backend::{Asked, ImageSet, Predictor, Setup, State, Trainer};
use smoothcnn::check::network::{against_oracle, random_data};
use smoothcnn::check::{differences, layers};
use smoothcnn::layer::{
    At, Backward, First, Fit, Forward, Layer, Misfit, Mode, Op, Parameter, Role, Rounding, Shape, Twin,
};
use smoothcnn::loss::smoothing::Smoothing;
use smoothcnn::network::Network;
use smoothcnn::ops::Case;
use smoothcnn::optimizer::{Adam, Optimizer};
use smoothcnn::plan::shaders::{COMMON, Shader};
use smoothcnn::plan::{Grid, Plan, Slice, word};
use smoothcnn::real::Real;
use smoothcnn::train::checkpoint::{Dtype, Metadata};
use smoothcnn::train::store;
use smoothcnn::{Result, uniform};

use crate::{GPU, assert_right};

static SHADER: Shader = Shader::new("centre", &[COMMON, include_str!("centre.wgsl")]);

#[derive(Clone, Copy, Debug)]
struct Centre;

#[derive(Clone, Copy, Debug)]
struct FittedCentre(Shape);

uniform! {
    /// `Centre` in `centre.wgsl`.
    struct Dims {
        features: u32,
    }
}

impl Fit for Centre {
    fn kind(&self) -> &'static str {
        "centre"
    }

    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        Ok(Arc::new(FittedCentre(input)))
    }
}

impl Op for FittedCentre {
    fn input(&self) -> Shape {
        self.0
    }

    fn output(&self) -> Shape {
        self.0
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![Parameter { name: "running", shape: vec![1], first: First::Constant(0.5), role: Role::Buffer }]
    }

    fn rounding(&self, n: usize) -> Rounding {
        let terms = n * self.0.len();
        Rounding { terms: [terms, terms, 0], ulps: 8.0 }
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        let entry = match at.mode {
            Mode::Training => "forward_training",
            Mode::Inference => "forward_inference",
        };
        let bindings = [("x", at.x), ("running", at.params[0]), ("y", at.y)];
        let dims = Dims { features: word(self.0.len()) };
        plan.dispatch(format!("{}.forward", at.name), (&SHADER, entry), dims, Grid::Workgroups(1), 0, &bindings)
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        let Some(dx) = dx else { return Ok(()) };
        let dims = Dims { features: word(self.0.len()) };
        let (label, bindings) = (format!("{}.backward_input", at.name), [("dy", dy), ("dx", dx)]);
        plan.dispatch(label, (&SHADER, "backward_input"), dims, Grid::Workgroups(1), 0, &bindings)
    }
}

fn mean<T: Real>(values: &[T]) -> T {
    values.iter().copied().sum::<T>() / T::of(values.len() as f64)
}

impl<T: Real> Twin<T> for FittedCentre {
    fn forward(&self, pass: Forward<T>) {
        let running = &mut pass.buffers[0][0];
        let m = match pass.mode {
            Mode::Training => mean(pass.x),
            Mode::Inference => *running,
        };
        if pass.mode == Mode::Training {
            *running = T::of(0.9) * *running + T::of(0.1) * m;
        }
        for (y, &x) in pass.y.iter_mut().zip(pass.x) {
            *y = x - m;
        }
    }

    fn backward(&self, pass: Backward<T>) {
        let m = mean(pass.dy);
        if let Some(dx) = pass.dx {
            for (dx, &dy) in dx.iter_mut().zip(pass.dy) {
                *dx = dy - m;
            }
        }
    }
}

fn cases() -> Vec<Case> {
    let case = |n, features| Case { n, input: Shape::Features(features), layer: Layer::new(Centre) };
    vec![case(1, 5), case(3, 17), case(2, 64), case(5, 131)]
}

#[test]
fn its_passes_and_its_buffer_are_held_against_its_plain_form() {
    for case in cases() {
        differences::layer("centre", &case).unwrap();
        assert_right(&layers::layer(&GPU, "centre", &case).unwrap());
    }
}

fn net() -> Network {
    let layers = [
        Layer::conv2d(6, 3, 1),
        Layer::new(Centre),
        Layer::relu(),
        Layer::max_pool2d(2),
        Layer::flatten(),
        Layer::linear(12),
        Layer::new(Centre),
        Layer::relu(),
        Layer::linear(4),
    ];
    Network::new([1, 8, 8], &layers).unwrap()
}

/// Whole steps, with what the network answers afterwards: that depends on the buffers.
#[test]
fn it_trains_in_a_network() {
    let net = net();
    assert_eq!(
        net.buffers.iter().map(|buffer| buffer.name.as_str()).collect::<Vec<_>>(),
        ["centre1.running", "centre2.running"]
    );
    let smoothing = Smoothing::NONE;
    let rows = against_oracle("gpu", &net, smoothing, [6, 3], |setup, params| {
        Ok(Box::new(GpuTrainer::new(&GPU, setup, params)?))
    });
    assert_right(&rows.unwrap());
    let rows = against_oracle("cpu", &net, smoothing, [6, 3], |setup, params| {
        Ok(Box::new(CpuTrainer::<f32>::new(setup, params)))
    });
    assert_right(&rows.unwrap());
}

/// On each device: the buffers move, all agree on where to, a checkpoint gives them back, a run that goes on from it
/// ends with the same bits, and what only answers gives the trainer's answers.
#[test]
fn its_buffer_is_part_of_the_state() {
    let net = net();
    let data = random_data(20, net.input, net.classes);
    let normalisation = vec![[0.5, 0.25]];
    let optimizer = Optimizer::Adam(Adam::default());
    let setup = Setup {
        seed: 0,
        net: &net,
        batch_size: 6,
        loss: Smoothing::NONE.into(),
        optimizer,
        recipe: Default::default(),
        normalisation: normalisation.clone(),
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: &data,
        test: &data,
    };
    let first = net.initial_parameters(1);
    let order: Vec<u32> = (0..20).collect();
    let trainers: [&dyn Fn() -> Box<dyn Trainer>; 3] = [
        &|| Box::new(GpuTrainer::new(&GPU, setup.clone(), &first).unwrap()),
        &|| Box::new(CpuTrainer::<f32>::new(setup.clone(), &first)),
        &|| Box::new(ReferenceTrainer::<f32>::new(setup.clone(), &first)),
    ];
    let epoch = |trainer: &mut dyn Trainer, updates| {
        trainer.train_epoch(&order, updates, &mut |_| Ok(ControlFlow::Continue(()))).unwrap();
    };
    let folder = tempfile::tempdir().unwrap();
    let mut of_each = vec![];
    for make in trainers {
        let mut trainer = make();
        epoch(&mut *trainer, 0);
        let State { params, slots, buffers, .. } = trainer.state().unwrap();
        assert!(buffers.iter().take(1).all(|&b| b != 0.5 && b != 0.0), "{buffers:?}");
        let expected = trainer.test_logits().unwrap();
        assert_eq!(trainer.state().unwrap().buffers, buffers, "an answer changes nothing");

        let path = &folder.path().join("checkpoint.safetensors");
        let state = State { params: params.clone(), slots, buffers: buffers.clone(), ..State::default() };
        store::save_checkpoint(path, &net, &optimizer, (&state, None), (Metadata::new(), Dtype::F32)).unwrap();
        let (loaded, _, _) = store::load_checkpoint(path, &net, &optimizer).unwrap();
        assert_eq!(loaded, state);
        epoch(&mut *trainer, 4);
        let mut resumed = make();
        resumed.set_state(&loaded);
        epoch(&mut *resumed, 4);
        assert_eq!(resumed.state().unwrap(), trainer.state().unwrap());

        let asked =
            Asked { net: &net, params: &params, buffers: &buffers, normalisation: &normalisation, batch_size: 6 };
        let mut predictors: [Box<dyn Predictor>; 3] = [
            Box::new(GpuPredictor::new(&GPU, &asked, GpuOptions::default()).unwrap()),
            Box::new(CpuPredictor::<f32>::new(&asked)),
            Box::new(ReferencePredictor::<f32>::new(&asked)),
        ];
        for predictor in &mut predictors {
            let logits = predictor.logits(ImageSet::Bytes(&data)).unwrap();
            for (a, b) in logits.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
        assert!(expected.iter().all(|v| v.is_finite()) && expected.iter().any(|&v| v != 0.0));
        of_each.push(buffers);
    }
    for buffers in &of_each[1..] {
        for (a, b) in buffers.iter().zip(&of_each[0]) {
            assert!((a - b).abs() < 1e-4, "{of_each:?}");
        }
    }
}
