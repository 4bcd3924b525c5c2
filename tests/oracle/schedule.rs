//! Schedules against PyTorch's, whose values tests/golden/make_schedules.py recorded.

use smoothcnn::optimizer::recipe::MOST_MOMENTUM;
use smoothcnn::optimizer::{Adam, Optimizer, Sgd, Values, recipe::Recipe};
use smoothcnn::schedule::{Curve, Schedule};

use super::recorded::{Case, Golden};

/// Relative to the largest value: the cosines of two libraries may differ in the last place.
const TOLERANCE: f64 = 1e-12;

fn optimizer(case: &Case) -> Optimizer {
    let lr = case.parse("lr");
    match case.text("optimizer") {
        "adam" => Optimizer::Adam(Adam { lr, eps: 1e-4, ..Adam::default() }),
        "sgd" => Optimizer::Sgd(Sgd { lr, momentum: 0.9, nesterov: true, weight_decay: 0.0 }),
        other => panic!("no optimizer {other}"),
    }
}

fn recipe(case: &Case) -> Recipe {
    let (lr, total): (f64, u64) = (case.parse("lr"), case.parse("total"));
    let (warm_up, every, factor) = (case.parse("warm_up"), case.parse("every"), case.parse("factor"));
    let curve = match case.text("curve") {
        "constant" => Curve::Constant,
        "cosine" => Curve::Cosine { over: total - warm_up },
        "step" => Curve::Step { every, factor },
        "exponential" => Curve::Exponential { every, factor },
        "one-cycle" => Curve::OneCycle { total, rise: case.parse("rise") },
        other => panic!("no curve {other}"),
    };
    if !matches!(curve, Curve::OneCycle { .. }) {
        let lr = Schedule { first: case.parse("first"), warm_up, curve, end: case.parse("end") };
        return Recipe { lr, ..Recipe::default() };
    }
    // OneCycleLR's defaults.
    let first = lr / 25.0;
    let momentum = Schedule { first: MOST_MOMENTUM, warm_up, curve, end: MOST_MOMENTUM };
    Recipe { lr: Schedule { first, warm_up, curve, end: first / 1e4 }, momentum: Some(momentum), ..Recipe::default() }
}

/// Catches a rate of another step, a rise of another length, a momentum that is cycled the wrong way round, and, by the
/// parameters, a rate or a momentum that is not the one that the update is made with.
#[test]
fn schedules_agree_with_pytorch() {
    let golden = Golden::open("schedules");
    for case in golden.cases() {
        let (full, recipe) = (optimizer(&case), recipe(&case));
        let (rates, momenta) = (case.f64("lr"), case.f64("momentum"));
        let (grads, mut params) = (case.f64("grads"), case.f64("p0"));
        let len = params.len();
        let mut slots = full.empty(len);
        let close = |what: &str, t: usize, found: f64, expected: f64, size: f64| {
            let error = (found - expected).abs();
            assert!(error <= TOLERANCE * size, "{}: {what} of update {t}: {found}, expected {expected}", case.name);
        };
        assert_eq!(grads.len(), rates.len() * len);
        for (i, grads) in grads.chunks(len).enumerate() {
            let t = i as u64 + 1;
            let now = recipe.at(full, t);
            close("rate", i + 1, now.lr(), rates[i], full.lr());
            close("momentum", i + 1, now.update(t).momentum, momenta[i], 1.0);
            now.step(t, Values { params: &mut params, grads, slots: &mut slots, decayed: len, matrices: &[] });
        }
        for (found, expected) in params.iter().zip(case.f64("p")) {
            close("parameter", rates.len(), *found, expected, 1.0 + expected.abs());
        }
    }
}
