//! A layer from outside the crate, whole: Swish with a learned slope (Ramachandran, Zoph, Le 2017, "Searching for
//! Activation Functions"), which the crate does not bring. Its settings, its shapes, its passes in WGSL and in plain
//! Rust, and its cases are here; the check, the finite differences, the bench and the training are the crate's.

mod centre;

use std::sync::{Arc, LazyLock};

use smoothcnn::backend::cpu::CpuTrainer;
use smoothcnn::backend::gpu::Gpu;
use smoothcnn::backend::gpu::trainer::GpuTrainer;
use smoothcnn::bench::layer::LayerBench;
use smoothcnn::check::network::against_oracle;
use smoothcnn::check::{Row, differences, layers};
use smoothcnn::layer::{At, Backward, First, Fit, Forward, Layer, Misfit, Op, Parameter, Role, Rounding, Shape, Twin};
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::network::Network;
use smoothcnn::ops::Case;
use smoothcnn::plan::shaders::{COMMON, Shader};
use smoothcnn::plan::{Grid, Plan, Slice, word};
use smoothcnn::real::Real;
use smoothcnn::{Result, uniform};

static SHADER: Shader = Shader::new("swish", &[COMMON, include_str!("swish.wgsl")]);

/// The layer as its author writes it.
#[derive(Clone, Copy, Debug)]
struct Swish;

/// The layer over images of a shape.
#[derive(Clone, Copy, Debug)]
struct FittedSwish(Shape);

uniform! {
    /// `Swish` in `swish.wgsl`.
    struct Dims {
        features: u32,
    }
}

impl Fit for Swish {
    fn kind(&self) -> &'static str {
        "swish"
    }

    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        Ok(Arc::new(FittedSwish(input)))
    }
}

impl FittedSwish {
    fn dims(&self) -> Dims {
        Dims { features: word(self.0.len()) }
    }
}

impl Op for FittedSwish {
    fn input(&self) -> Shape {
        self.0
    }

    fn output(&self) -> Shape {
        self.0
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![Parameter { name: "beta", shape: vec![1], first: First::Constant(1.0), role: Role::Undecayed }]
    }

    fn rounding(&self, n: usize) -> Rounding {
        // WGSL grants exp(v) 3 + 2 |v| units in the last place.
        Rounding { terms: [1, 1, n * self.0.len()], ulps: 64.0 }
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        let bindings = [("x", at.x), ("beta", at.params[0]), ("y", at.y)];
        let threads = Grid::Threads(at.n * self.0.len());
        plan.dispatch(format!("{}.forward", at.name), (&SHADER, "forward"), self.dims(), threads, 0, &bindings)
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        let inputs = [("x", at.x), ("beta", at.params[0]), ("dy", dy)];
        let of_beta = [&inputs[..], &[("dbeta", at.grads[0])]].concat();
        let label = format!("{}.backward_beta", at.name);
        plan.dispatch(label, (&SHADER, "backward_beta"), self.dims(), Grid::Workgroups(1), 0, &of_beta)?;
        let Some(dx) = dx else { return Ok(()) };
        let of_input = [&inputs[..], &[("dx", dx)]].concat();
        let threads = Grid::Threads(at.n * self.0.len());
        let label = format!("{}.backward_input", at.name);
        plan.dispatch(label, (&SHADER, "backward_input"), self.dims(), threads, 0, &of_input)
    }
}

fn sigmoid<T: Real>(v: T) -> T {
    T::one() / (T::one() + (-v).exp())
}

impl<T: Real> Twin<T> for FittedSwish {
    fn forward(&self, pass: Forward<T>) {
        let beta = pass.params[0][0];
        for (y, &x) in pass.y.iter_mut().zip(pass.x) {
            *y = x * sigmoid(beta * x);
        }
    }

    fn backward(&self, pass: Backward<T>) {
        let beta = pass.params[0][0];
        let elements = || pass.x.iter().zip(pass.dy).map(|(&x, &dy)| (x, dy, sigmoid(beta * x)));
        pass.grads[0][0] = elements().map(|(x, dy, s)| dy * x * x * s * (T::one() - s)).sum();
        if let Some(dx) = pass.dx {
            for (dx, (x, dy, s)) in dx.iter_mut().zip(elements()) {
                *dx = dy * (s + beta * x * s * (T::one() - s));
            }
        }
    }
}

fn cases() -> Vec<Case> {
    let case = |n, features| Case { n, input: Shape::Features(features), layer: Layer::new(Swish) };
    vec![case(1, 1), case(3, 17), case(2, 64), case(5, 131)]
}

static GPU: LazyLock<Arc<Gpu>> =
    LazyLock::new(|| Arc::new(Gpu::open_best().unwrap_or_else(|error| panic!("this needs an adapter: {error}"))));

fn assert_right(rows: &[Row]) {
    assert!(!rows.is_empty());
    rows.iter().for_each(|row| assert!(row.failure.is_none(), "{row:?}"));
}

#[test]
fn its_kernels_are_held_against_its_plain_form() {
    for case in cases() {
        assert_right(&layers::layer(&GPU, "swish", &case).unwrap());
    }
}

#[test]
fn its_gradients_are_held_against_finite_differences() {
    for case in cases() {
        let worst = differences::layer("swish", &case).unwrap();
        println!("worst error {worst:e}");
    }
}

#[test]
fn its_passes_are_timed() {
    let times = LayerBench::new(Some(&GPU), "swish", &cases()[3]).unwrap().times(0.01).unwrap();
    assert!(times.gpu.is_some_and(|gpu| gpu.iter().chain(&times.plain).chain(&times.fast).all(|&s| s > 0.0)));
}

/// Whole training steps of a network with it, on the GPU beside fused kernels and on the CPU path, against the f64
/// oracle.
#[test]
fn it_trains_in_a_network() {
    let layers = [
        Layer::conv2d(8, 3, 1),
        Layer::relu(),
        Layer::max_pool2d(2),
        Layer::conv2d(4, 3, 1),
        Layer::new(Swish),
        Layer::flatten(),
        Layer::linear(12),
        Layer::new(Swish),
        Layer::linear(4),
    ];
    let net = Network::new([1, 8, 8], &layers).unwrap();
    assert_eq!(net.layers[7].name, "swish2");
    assert!(net.parameters.iter().any(|parameter| parameter.name == "swish2.beta"));
    let smoothing = Smoothing { variant: Variant::Uniform, epsilon: 0.1 };
    let rows = against_oracle("gpu", &net, smoothing, [6, 3], |setup, params| {
        Ok(Box::new(GpuTrainer::new(&GPU, setup, params)?))
    });
    assert_right(&rows.unwrap());
    let rows = against_oracle("cpu", &net, smoothing, [6, 3], |setup, params| {
        Ok(Box::new(CpuTrainer::<f32>::new(setup, params)))
    });
    assert_right(&rows.unwrap());
}
