//! Laws of the smoothed loss, for both variants.

use proptest::prelude::*;
use smoothcnn::check::losses::losses;
use smoothcnn::layer::Element;
use smoothcnn::loss::smoothing::{Masses, Smoothing, Variant};
use smoothcnn::loss::{Batch, Form};
use smoothcnn::ops::IGNORED;

use super::config;
use crate::op::{Op, integers, targets, uniform};

const VARIANTS: [Variant; 2] = [Variant::Uniform, Variant::OffTarget];

/// A smoothing with `part` of the largest epsilon that the variant takes.
fn smoothing(variant: Variant, part: f64, classes: usize) -> Smoothing {
    let bound = match variant {
        Variant::Uniform => 1.0,
        Variant::OffTarget => (classes - 1) as f64 / classes as f64,
    };
    Smoothing::new(variant, part * bound, classes).unwrap()
}

/// The losses of `logits` and, for the upstream gradient `dloss`, the logits' gradients.
fn loss<T: Element>(masses: Masses, targets: &[u32], logits: &[T], dloss: &[T]) -> (Vec<T>, Vec<T>) {
    let op = Op::SmoothedLoss { masses, classes: logits.len() / targets.len(), targets: targets.to_vec() };
    let inputs = [logits.to_vec()];
    (op.forward(&inputs), op.backward(&inputs, dloss).remove(0))
}

/// Checks that `found` is `expected` to within `tolerance`, NaN never being so.
fn near(found: f64, expected: f64, tolerance: f64) -> Result<(), TestCaseError> {
    let error = (found - expected).abs();
    prop_assert!(error <= tolerance, "{found} is not {expected}: {error:e} apart, {tolerance:e} allowed");
    Ok(())
}

/// Rounding of a sum of `classes` terms that are at most `size` together: half an ulp for each addition, and a few for
/// each term (its exponential's argument, the exponential, the product).
fn rounding(classes: usize, size: f64) -> f64 {
    (classes as f64 / 2.0 + 16.0) * f64::EPSILON * size
}

/// Smoothing, classes (2 to 32,000), batch, stream.
fn cases() -> impl Strategy<Value = (Smoothing, usize, usize, u64)> {
    let classes = prop_oneof![4 => 2..=40usize, 1 => 41..=2000usize, 1 => Just(32_000usize)];
    let part = prop_oneof![1 => Just(0.0), 4 => 0.0..0.999f64];
    (proptest::sample::select(&VARIANTS), part, classes, 1..=4usize, 0..1000u64)
        .prop_map(|(variant, part, classes, n, stream)| (smoothing(variant, part, classes), classes, n, stream))
}

proptest! {
    #![proptest_config(config())]

    /// Catches a loss or gradient that is not the definition's: the dense target against log-softmax, in the simplest
    /// words. Logits are small enough for the plain exponential.
    #[test]
    fn the_loss_is_its_definition((smoothing, classes, n, stream) in cases()) {
        let masses = smoothing.masses(classes);
        let logits = uniform(n * classes, -20.0, 20.0, stream);
        let targets = targets(n, classes, stream);
        let dloss = uniform(n, -2.0, 2.0, stream + 1);
        let (losses, dlogits) = loss(masses, &targets, &logits, &dloss);
        for (i, row) in logits.chunks(classes).enumerate() {
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            let q = |class| if class == targets[i] as usize { masses.on } else { masses.off };
            let expected: f64 = row.iter().enumerate().map(|(class, x)| -q(class) * (x - sum.ln())).sum();
            // The terms of either form together: q (|x| + |x - max| + ln sum) at the most.
            near(losses[i], expected, rounding(2 * classes, 100.0))?;
            // An exponential's argument of up to 50 errs by 50 ulps, on either side.
            for (class, x) in row.iter().enumerate() {
                let (found, p) = (dlogits[i * classes + class], x.exp() / sum);
                let tolerance = dloss[i].abs() * rounding(2 * classes + 200, p + q(class));
                near(found, dloss[i] * (p - q(class)), tolerance)?;
            }
        }
    }

    /// Catches a target that does not sum to 1, and a softmax normalised by another sum: each row of the gradient sums
    /// to zero.
    #[test]
    fn gradient_rows_sum_to_zero((smoothing, classes, n, stream) in cases()) {
        let dloss = uniform(n, -2.0, 2.0, stream);
        let logits = uniform(n * classes, -30.0, 30.0, stream + 1);
        let (_, dlogits) = loss(smoothing.masses(classes), &targets(n, classes, stream), &logits, &dloss);
        for (row, dloss) in dlogits.chunks(classes).zip(dloss) {
            // The terms are p and q, each of sum 1; the normaliser's sum errs as much again.
            near(row.iter().sum(), 0.0, dloss.abs() * rounding(2 * classes, 2.0))?;
        }
    }

    /// Catches anything that sees the logits' level: adding a constant to all changes no bit. (Integers and a large
    /// integer constant: the sums are exact.)
    #[test]
    fn a_shift_of_the_logits_changes_nothing(
        (smoothing, classes, n, stream) in cases(),
        shift in -1_000_000..1_000_000i32,
    ) {
        let masses = smoothing.masses(classes);
        let (targets, dloss) = (targets(n, classes, stream), uniform(n, -2.0, 2.0, stream));
        let logits = integers::<f64>(n * classes, 20, stream);
        let shifted: Vec<f64> = logits.iter().map(|x| x + f64::from(shift)).collect();
        prop_assert_eq!(loss(masses, &targets, &logits, &dloss), loss(masses, &targets, &shifted, &dloss));
    }

    /// Catches a loss that is not a cross-entropy: equal logits cost ln C, whatever is smoothed and however.
    #[test]
    fn equal_logits_cost_ln_c((smoothing, classes, n, stream) in cases(), level in -1e4..1e4f64) {
        let masses = smoothing.masses(classes);
        let (losses, _) = loss(masses, &targets(n, classes, stream), &vec![level; n * classes], &vec![1.0; n]);
        for found in losses {
            near(found, (classes as f64).ln(), 1e-15 * (classes as f64).ln())?;
        }
    }

    /// Catches a wrong bound for the least loss: the target's entropy is reached at logits ln q, where the gradient is
    /// zero, and no logits cost less.
    #[test]
    fn the_least_loss_is_the_targets_entropy((smoothing, classes, n, stream) in cases()) {
        let masses = smoothing.masses(classes);
        let least = smoothing.target_entropy(classes);
        let targets = targets(n, classes, stream);
        let tolerance = rounding(2 * classes, 2.0 * (classes as f64).ln() + 2.0);
        let any = uniform(n * classes, -10.0, 10.0, stream);
        for found in loss(masses, &targets, &any, &vec![1.0; n]).0 {
            prop_assert!(found >= least - tolerance, "{found} is below {least}");
        }
        // Without smoothing ln q is -infinity for the other classes, where -800 has the same exponential: zero.
        let ln = |q: f64| if q > 0.0 { q.ln() } else { -800.0 };
        let q = |i: usize| if i % classes == targets[i / classes] as usize { masses.on } else { masses.off };
        let logits: Vec<f64> = (0..n * classes).map(|i| ln(q(i))).collect();
        let (losses, dlogits) = loss(masses, &targets, &logits, &vec![1.0; n]);
        for found in losses {
            near(found, least, tolerance)?;
        }
        for (i, found) in dlogits.into_iter().enumerate() {
            // ln q itself errs by an ulp of up to 40.
            near(found, 0.0, q(i) * (rounding(2 * classes, 1.0) + 80.0 * f64::EPSILON))?;
        }
    }

    /// Catches a mix-up of C and C - 1: off-target with e is uniform with e C/(C-1).
    #[test]
    fn the_variants_are_one_family(part in 0.0..0.999f64, classes in 2..=2000usize, stream in 0..1000u64) {
        let off_target = smoothing(Variant::OffTarget, part, classes);
        let epsilon = off_target.epsilon * classes as f64 / (classes as f64 - 1.0);
        let uniform_variant = Smoothing::new(Variant::Uniform, epsilon, classes).unwrap();
        let (targets, dloss) = (targets(2, classes, stream), uniform(2, -2.0, 2.0, stream));
        let logits = uniform(2 * classes, -10.0, 10.0, stream);
        let [a, b] = [off_target, uniform_variant].map(|s| loss(s.masses(classes), &targets, &logits, &dloss));
        for (a, b) in a.0.iter().zip(&b.0).chain(a.1.iter().zip(&b.1)) {
            // The masses differ by a few ulps of 1; the loss weighs each with up to 20 + ln C.
            near(*a, *b, rounding(classes, 60.0))?;
        }
    }
}

/// Catches any change of the formula: the worked example, logits [2, 1, 0, -1, 0.5] for class 0 and e = 0.1.
#[test]
fn the_worked_example() {
    for (variant, expected) in [(Variant::Uniform, 0.724_437_94f64), (Variant::OffTarget, 0.761_937_94)] {
        let masses = Smoothing { variant, epsilon: 0.1 }.masses(5);
        let found = loss(masses, &[0], &[2.0, 1.0, 0.0, -1.0, 0.5], &[1.0]).0[0];
        assert!((found - expected).abs() <= 1e-8, "{variant:?}: {found}, expected {expected}");
    }
}

/// Catches an exponential of an unshifted logit: with one logit at 1e4 and the others at -1e4 the softmax is exact, so
/// the loss is 2e4 times the target's mass on the others.
fn extreme_logits<T: Element>(epsilon_of_t: f64) {
    for (variant, part, classes) in VARIANTS.iter().flat_map(|&v| {
        [0.0, 0.1, 0.5].into_iter().flat_map(move |part| [2, 3, 10, 1000].map(|classes| (v, part, classes)))
    }) {
        let masses = smoothing(variant, part, classes).masses(classes);
        let mut logits = vec![T::of(-1e4); classes];
        logits[classes - 1] = T::of(1e4);
        for (target, on_top) in [(0, masses.off), (classes as u32 - 1, masses.on)] {
            let (losses, dlogits) = loss(masses, &[target], &logits, &[T::one()]);
            let tolerance = epsilon_of_t * classes as f64;
            let expected = 2e4 * (1.0 - on_top);
            let found = losses[0].wide();
            assert!((found - expected).abs() <= 2e4 * tolerance, "{variant:?} {classes}: {found} against {expected}");
            for (class, d) in dlogits.iter().map(|d| d.wide()).enumerate() {
                let p = f64::from(class == classes - 1);
                let q = if class == target as usize { masses.on } else { masses.off };
                assert!((d - (p - q)).abs() <= tolerance, "{variant:?} {classes}: {d} against {}", p - q);
            }
        }
    }
}

#[test]
fn extreme_logits_are_stable_in_f64() {
    extreme_logits::<f64>(f64::EPSILON);
}

#[test]
fn extreme_logits_are_stable_in_f32() {
    extreme_logits::<f32>(f64::from(f32::EPSILON));
}

/// Catches a NaN that the maximum drops: a broken network must not show a loss.
#[test]
fn a_nan_reaches_the_loss() {
    let masses = Smoothing { variant: Variant::Uniform, epsilon: 0.1 }.masses(3);
    for at in 0..3 {
        let mut logits = [5.0, 1.0, -2.0];
        logits[at] = f64::NAN;
        let (losses, dlogits) = loss(masses, &[0], &logits, &[1.0]);
        assert!(losses[0].is_nan() && dlogits.iter().all(|d| d.is_nan()), "{losses:?} {dlogits:?}");
    }
}

/// Catches an nll that some form smooths, weighs, or takes from the teacher: whatever the loss is, it is -ln p of the
/// label, or of a distribution the mean of that, over the classes that take part; 0 where the sample is ignored.
#[test]
fn the_nll_is_the_same_for_every_loss() {
    let (n, classes) = (6, 5);
    let logits = uniform(n * classes, -8.0, 8.0, 1);
    let labels = [0, 1, IGNORED, 4, 2, 3];
    for (name, loss) in losses(classes, n).unwrap() {
        let rows: Vec<f64> = loss.rows().unwrap_or_default().iter().map(|&v| v.into()).collect();
        let soft = matches!(loss.form(), Form::Weighted(_)) && !rows.is_empty();
        let takes_part = |k: usize| match loss.form() {
            Form::Weighted(loss) => loss.allowed()[k],
            _ => true,
        };
        let mut found = vec![f64::NAN; n];
        let batch =
            Batch { rows: &rows, others: &labels, share: 1.0, weight: 1.0, counted: 1.0, ..Batch::new(&labels) };
        loss.form().nll(classes, &logits, batch, &mut found);
        for (i, (row, &label)) in logits.chunks(classes).zip(&labels).enumerate() {
            let total: f64 = (0..classes).filter(|&k| takes_part(k)).map(|k| row[k].exp()).sum();
            let one_hot = |k: usize| f64::from(u8::from(k == label as usize));
            let mass = |k: usize| if soft { rows[i * classes + k] } else { one_hot(k) };
            let term = |k: usize| -mass(k) * (row[k].exp() / total).ln();
            let expected: f64 = (0..classes).filter(|&k| takes_part(k)).map(term).sum();
            assert!((found[i] - expected).abs() <= 1e-13, "{name}, {i}: {} against {expected}", found[i]);
        }
    }
}
