//! Laws of the optimizers that have a closed form.

use smoothcnn::optimizer::{Adam, Optimizer, Sgd, Values};
use smoothcnn::real::Real;

use crate::op::uniform;

/// More than one task's share (4096), and not a multiple of it.
const LEN: usize = 9001;

/// The parameters after `steps` steps with one and the same gradient.
fn after<T: Real>(optimizer: &Optimizer, steps: u64, start: &[f64], gradient: &[f64]) -> Vec<f64> {
    let mut params: Vec<T> = start.iter().map(|&v| T::of(v)).collect();
    let gradient: Vec<T> = gradient.iter().map(|&v| T::of(v)).collect();
    let (mut slots, decayed) = (optimizer.empty(params.len()), params.len());
    for t in 1..=steps {
        let values = Values { params: &mut params, grads: &gradient, slots: &mut slots, decayed, matrices: &[] };
        assert!(optimizer.step(t, values), "not finite");
    }
    params.into_iter().map(Real::wide).collect()
}

/// Checks every element to within `tolerance` of the largest expected; NaN fails.
fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let scale = crate::op::largest(expected);
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * scale, "{what}, element {i}: {f}, expected {e}");
    }
}

/// Gradients over seven orders of magnitude, both signs.
fn gradients() -> Vec<f64> {
    let sizes = uniform(LEN, -5.0, 2.0, 1);
    sizes.iter().enumerate().map(|(i, size)| if i % 2 == 0 { 1.0 } else { -1.0 } * libm::pow(10.0, *size)).collect()
}

/// Catches missing or wrong bias correction and an epsilon inside the root: under a constant gradient every step of
/// Adam, the first from zero state included, is lr g/(|g| + eps).
fn adam_steps<T: Real>(tolerance: f64) {
    let (lr, eps, g) = (0.01, 1e-3, gradients());
    for betas in [[0.9, 0.999], [0.5, 0.75]] {
        let adam = Adam { lr, betas, eps, weight_decay: 0.0 };
        for (optimizer, steps) in [(Optimizer::Adam(adam), 1), (Optimizer::Adam(adam), 7), (Optimizer::AdamW(adam), 7)]
        {
            let expected: Vec<f64> = g.iter().map(|g| -(steps as f64) * lr * g / (g.abs() + eps)).collect();
            let found = after::<T>(&optimizer, steps, &[0.0; LEN], &g);
            assert_close(&format!("{optimizer:?} after {steps}"), &found, &expected, tolerance);
        }
    }
}

#[test]
fn adam_moves_by_the_learning_rate_in_f64() {
    // A few roundings at each step; 1 - 0.999^t loses three digits.
    adam_steps::<f64>(1e-12);
}

#[test]
fn adam_moves_by_the_learning_rate_in_f32() {
    adam_steps::<f32>(1e-5);
}

/// Catches a division 0/0 where nothing has a gradient (as in the gaps between parameters), and decay put into the
/// moments: AdamW shrinks by 1 - lr wd at each step and Adam, without decay, stays.
#[test]
fn without_a_gradient_only_decoupled_decay_moves() {
    let start = uniform(LEN, -1.0, 1.0, 2);
    let adam = Adam { lr: 0.1, weight_decay: 0.5, ..Adam::default() };
    let still = Adam { weight_decay: 0.0, ..adam };
    let zero = [0.0; LEN];
    assert_eq!(after::<f64>(&Optimizer::Adam(still), 3, &start, &zero), start);
    let expected: Vec<f64> = start.iter().map(|p| p * libm::pow(0.95, 3.0)).collect();
    assert_close("AdamW", &after::<f64>(&Optimizer::AdamW(adam), 3, &start, &zero), &expected, 1e-15);
}

/// Catches momentum damped or begun late, and Nesterov's look ahead taken from the old velocity: under a constant
/// gradient the velocity after t steps is g (1 - mu^t)/(1 - mu).
#[test]
fn sgd_follows_the_geometric_series() {
    let (lr, g) = (0.1, gradients());
    for momentum in [0.0, 0.5, 0.9] {
        for nesterov in [false, true] {
            let velocity = |t: i32| (1.0 - libm::pow(momentum, f64::from(t))) / (1.0 - momentum);
            let moved: f64 = (1..=5).map(|t| if nesterov { velocity(t + 1) } else { velocity(t) }).sum();
            let expected: Vec<f64> = g.iter().map(|g| -lr * g * moved).collect();
            let optimizer = Optimizer::Sgd(Sgd { lr, momentum, nesterov, weight_decay: 0.0 });
            assert_close(&format!("{optimizer:?}"), &after::<f64>(&optimizer, 5, &[0.0; LEN], &g), &expected, 1e-14);
            assert_close(&format!("{optimizer:?}"), &after::<f32>(&optimizer, 5, &[0.0; LEN], &g), &expected, 1e-6);
        }
    }
}

/// Catches a weight decay that reaches what it should not, in either form of the CPU, around a task's and a vector's
/// end.
#[test]
fn weight_decay_reaches_the_first_parameters_alone() {
    let (len, lr, weight_decay) = (40_000 / 64 * 64, 0.1, 0.5);
    let adam = Adam { lr, weight_decay, ..Adam::default() };
    let sgd = Sgd { lr, momentum: 0.9, nesterov: false, weight_decay };
    for optimizer in [Optimizer::AdamW(adam), Optimizer::Adam(adam), Optimizer::Sgd(sgd)] {
        for decayed in [0, 64, 16_384, 16_448, len - 64, len] {
            let run = |fast: bool| {
                let (mut params, grads, mut slots) = (vec![2.0f64; len], vec![0.0; len], optimizer.empty(len));
                let values = Values { params: &mut params, grads: &grads, slots: &mut slots, decayed, matrices: &[] };
                assert!(if fast {
                    optimizer.fast_step(pulp::Arch::new(), 1, values)
                } else {
                    optimizer.step(1, values)
                });
                params
            };
            for params in [run(false), run(true)] {
                let moved = |range: std::ops::Range<usize>| params[range].iter().filter(|&&p| p != 2.0).count();
                assert_eq!([moved(0..decayed), moved(decayed..len)], [decayed, 0], "{optimizer:?}, {decayed}");
            }
        }
    }
}
