//! What layers do with numbers that their cases do not have: far from 0.

use smoothcnn::backend::gpu::Engine;
use smoothcnn::check::batch::CaseBatch;
use smoothcnn::check::layers::of_batch;
use smoothcnn::layer::{At, Layer, Mode, Shape};
use smoothcnn::ops::Case;
use smoothcnn::ops::gelu::{self, Approximate};
use smoothcnn::plan::{BatchBlock, Plan, Step};

use super::{GPU, assert_rows};

const UNIT: f64 = 1.0 / (1 << 24) as f64;

/// A layer on these inputs, which f32 holds.
fn batch(layer: Layer, n: usize, input: Shape, x: &[f32]) -> CaseBatch<f64> {
    let mut batch = CaseBatch::new(&Case { n, input, layer }).unwrap();
    batch.x = x.iter().map(|&x| x.into()).collect();
    batch
}

/// The device's output of a forward pass.
fn forward(batch: &CaseBatch<f64>) -> Vec<f64> {
    let mut plan = Plan::default();
    let mut floats = |name: &str, values: &[f64]| {
        let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        plan.constant(name, &values).unwrap()
    };
    let x = floats("x", &batch.x);
    let params: Vec<_> = batch.params.iter().map(|values| floats("parameter", values)).collect();
    let y = plan.buffer("y", batch.n * batch.op.output().len()).unwrap();
    let saved = batch.op.saved(batch.n).map(|saved| plan.buffer(saved.name, saved.len).unwrap());
    let (n, mode) = (batch.n, Mode::Training);
    let at = At { name: "layer", n, mode, x, skip: None, y, params: &params, grads: &[], saved, layer: 0 };
    batch.op.record_forward(&mut plan, &at).unwrap();
    let all = 0..plan.dispatches.len();
    let step = Step::from(BatchBlock { count: n as u32, ..BatchBlock::default() });
    let found: Vec<f32> = Engine::new(&GPU, plan).unwrap().run(all, &[step], y).wait().unwrap();
    found.into_iter().map(f64::from).collect()
}

/// The layer; how far it may be off at x, in units of 2^-24 of the result; and what f64's oracle may be off itself.
/// WGSL allows an `exp` 3 + 2 |argument| units in the last place, each of which is two of these.
type Curve = (Layer, fn(f64) -> f64, fn(f64) -> f64);

/// Catches a polynomial for erf with a wrong digit, a tail that is the difference of two numbers near 1, and an exp
/// that overflows: relative errors, down to where f32 ends.
#[test]
fn smooth_activations_keep_their_digits_in_the_tails() {
    let tanh = Layer::new(gelu::Settings { approximate: Approximate::Tanh });
    let curves: [Curve; 3] = [
        (Layer::silu(), |x| 18.0 + 4.0 * x.abs(), |_| 0.0),
        (Layer::gelu(), |x| 18.0 + 3.0 * x * x, |_| 0.0),
        // The oracle has tanh itself, and near -1 only so many digits of 1 + tanh.
        (tanh, |x| 18.0 + 8.0 * 0.8 * (x.abs() + 0.045 * x.abs().powi(3)), |x| 4.0 * f64::EPSILON * x.abs()),
    ];
    let mut x: Vec<f32> = (-1400..=1400).map(|i| i as f32 * 0.01).collect();
    x.extend([1e-30, -1e-30, 1e-3, -1e-3, 80.0, -80.0, 200.0, -200.0, 1e4, -1e4, 1e30, -1e30]);
    for (layer, relative, absolute) in curves {
        let batch = batch(layer, 1, Shape::Features(x.len()), &x);
        assert_rows(of_batch(&GPU, "curve", &batch));
        let want = batch.forward(Mode::Training).y;
        let mut worst = 0f64;
        for ((found, want), x) in forward(&batch).into_iter().zip(want).zip(&batch.x) {
            // What is below f32's normal numbers may be 0, also before it is multiplied with x.
            let allowed = relative(*x) * UNIT * want.abs() + absolute(*x) + 4.0 * x.abs().max(1.0) * 2f64.powi(-126);
            let error = (found - want).abs();
            assert!(error <= allowed, "{:?} at {x}: found {found:e}, expected {want:e} +- {allowed:e}", batch.op);
            worst = worst.max(error / allowed);
        }
        println!("{:?}: worst error {worst:.3} of the bound", batch.op);
    }
}

/// Catches a variance that is lost in the square of a mean far from 0, and inputs that lose their digits to a mean that
/// is rounded: at 1e4 that alone is 5e-4.
#[test]
fn group_norm_far_from_zero() {
    for mean in [1e4, -300.0] {
        let input = Shape::Image([6, 9, 7]);
        let near = smoothcnn::check::random(5 * input.len(), 1);
        let x: Vec<f32> = near.iter().map(|x| x + mean).collect();
        let batch = batch(Layer::group_norm(2), 5, input, &x);
        assert_rows(of_batch(&GPU, "group_norm", &batch));
        let want = batch.forward(Mode::Training).y;
        let found = forward(&batch);
        let worst = found.iter().zip(&want).map(|(found, want)| (found - want).abs()).fold(0.0, f64::max);
        assert!(found.len() == want.len() && worst < 1e-5, "around {mean}: {worst:e} apart");
    }
}
