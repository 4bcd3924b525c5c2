//! What a loss says of itself, against answers worked out by hand.

use super::comparator::ComparatorLoss;
use super::distillation::DistillationLoss;
use super::logit_penalty::LogitPenalty;
use super::smoothing::{Epsilon, Masses, Prior, Smoothing, Variant};
use super::weighted::{Spec, WeightedLoss, Weighting};
use super::*;
use crate::ops::IGNORED;
use crate::plan::Plan;
use crate::schedule::Schedule;

fn smoothing(epsilon: f64) -> Smoothing {
    Smoothing { variant: Variant::Uniform, epsilon }
}

/// Three classes of weights 1, 2 and 0.5.
fn of_weights(weighting: Weighting, allowed: Option<Vec<bool>>) -> WeightedLoss {
    WeightedLoss::new(&Spec { weights: Some((weighting, vec![1.0, 2.0, 0.5])), allowed, ..Spec::new(3) }).unwrap()
}

fn distillation() -> DistillationLoss {
    DistillationLoss::new(3, 2.0, 0.25).unwrap().smoothed(smoothing(0.3))
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "found {found}, expected {expected}");
}

#[test]
fn an_epsilon_follows_its_schedule() {
    let schedule = Schedule::rising(4);
    let loss = Loss::from(smoothing(0.2)).scheduled(schedule);
    assert_eq!(loss.schedule(), schedule);
    // Update t has the epsilon of time t - 1; no update is number 0.
    assert_eq!([0, 1, 3, 5, 9].map(|t| loss.epsilon(t)), [0.0, 0.0, 0.1, 0.2, 0.2]);
    assert_eq!((loss.form(), loss.at(3)), (&Form::from(smoothing(0.2)), Form::from(smoothing(0.1))));
    let distilled = Loss::new(distillation(), 0.3).at(1);
    assert_eq!(distilled, Form::from(distillation()));
}

#[test]
fn a_batch_weighs_what_its_images_do() {
    let of = |form: Form, labels: &[u32], indices: &[u32]| Loss::new(form, 0.0).weights(labels, 3, indices);
    // Images in any order, and one of them twice.
    assert_eq!(of(smoothing(0.1).into(), &[0, IGNORED, 2, 3], &[2, 0, 2, 1, 3]), [3.0, 3.0]);
    let (pytorch, sample) = (of_weights(Weighting::PyTorch, None), of_weights(Weighting::Sample, None));
    assert_eq!(of(pytorch.clone().into(), &[0, 1, 2, IGNORED], &[1, 1, 2, 3]), [4.5, 3.0]);
    let masked = of_weights(Weighting::PyTorch, Some(vec![true, true, false]));
    assert_eq!(of(masked.into(), &[0, 1, 2], &[0, 1, 2]), [3.0, 2.0]);
    // Distributions: the expected weight, 1.5 and 0.5; with PyTorch's weighting 1 each. Labels count for nothing.
    let soft =
        |form: WeightedLoss| Loss::new(form, 0.0).with_soft_targets([0.5, 0.5, 0.0, 0.0, 0.0, 1.0].into()).unwrap();
    assert_eq!(soft(sample.clone()).weights(&[9, 9], 3, &[1]), [0.5, 1.0]);
    assert_eq!(soft(sample).weights(&[9, 9], 3, &[0, 1, 1]), [2.5, 3.0]);
    assert_eq!(soft(pytorch).weights(&[9, 9], 3, &[0]), [1.0, 1.0]);
}

#[test]
fn a_loss_fits_its_network_and_its_data() {
    let message = |loss: &Loss, classes, images| match loss.check(classes, images) {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    };
    let plain = Loss::from(smoothing(0.1));
    assert_eq!((message(&plain, 3, 5), message(&plain, 1000, 0)), (String::new(), String::new()));
    let weighted = Loss::new(of_weights(Weighting::Sample, None), 0.0);
    assert_eq!(message(&weighted, 3, 2), "");
    assert!(message(&weighted, 4, 2).contains("found one over 3 classes, expected 4"));
    let distilled = Loss::new(distillation(), 0.3);
    assert!(message(&distilled, 3, 2).contains("found no teacher's logits"));
    assert!(message(&distilled, 2, 2).contains("found one over 3 classes, expected 2"));
    let distilled = distilled.with_teacher(vec![0.0; 6].into()).unwrap();
    assert_eq!((message(&distilled, 3, 2), distilled.rows()), (String::new(), Some(&[0.0; 6][..])));
    assert!(message(&distilled, 3, 3).contains("found 6 values for the training images, expected 9: 3 for each of 3"));
    let comparator = Loss::new(ComparatorLoss::focal(3, 1.0).unwrap(), 0.0);
    assert!(message(&comparator, 2, 2).contains("found one over 3 classes, expected 2"));
}

#[test]
fn distributions_and_teachers_are_checked() {
    let weighted = |allowed| Loss::new(of_weights(Weighting::Sample, allowed), 0.0);
    let soft = |rows: &[f32]| weighted(None).with_soft_targets(rows.into()).map(|loss| loss.rows().unwrap().to_vec());
    assert_eq!(soft(&[0.5, 0.25, 0.25]).unwrap(), [0.5, 0.25, 0.25]);
    // f32 sums to 1 up to rounding; 1e-4 is where it ends.
    assert!(soft(&[0.5, 0.25, 0.25005]).is_ok() && soft(&[0.5, 0.25, 0.24995]).is_ok());
    for bad in [[0.5, 0.25, 0.2502], [0.5, 0.25, 0.2498], [-0.5, 1.0, 0.5], [f32::NAN, 0.5, 0.5]] {
        let rows = [&[1.0, 0.0, 0.0], &bad[..]].concat();
        let error = soft(&rows).unwrap_err().to_string();
        assert!(error.contains("image 1"), "{bad:?}: {error}");
    }
    // The sum is over the classes that take part.
    let masked = || weighted(Some(vec![true, true, false]));
    assert!(masked().with_soft_targets([0.5, 0.5, 0.7].into()).is_ok());
    assert!(masked().with_soft_targets([0.5, 0.2, 0.3].into()).is_err());
    assert!(Loss::from(smoothing(0.1)).with_soft_targets([1.0, 0.0, 0.0].into()).is_err());

    let teacher = |logits: &[f32]| Loss::new(distillation(), 0.3).with_teacher(logits.into());
    assert_eq!(teacher(&[1.0, -2.0, 3.0]).unwrap().rows(), Some(&[1.0, -2.0, 3.0][..]));
    assert!(teacher(&[1.0, f32::INFINITY, 3.0]).unwrap_err().to_string().contains("a logit of inf"));
    assert!(weighted(None).with_teacher([1.0; 3].into()).is_err());
}

/// Over three classes an epsilon of 0.3 gives 0.8, 0.1, 0.1.
#[test]
fn the_least_is_the_entropy_of_the_targets() {
    let h = -(0.8 * 0.8f64.ln() + 0.2 * 0.1f64.ln());
    let plain = Loss::from(smoothing(0.3));
    near(plain.entropy(&[0, 2, IGNORED, 3], 3, &[0, 1, 1, 2, 3], 1), 3.0 * h);
    let later = plain.clone().scheduled(Schedule::rising(1));
    assert_eq!(
        (later.entropy(&[0], 3, &[0], 1), later.entropy(&[0], 3, &[0], 2)),
        (0.0, plain.entropy(&[0], 3, &[0], 1))
    );
    // A teacher's share of the loss is 0 at its least.
    let distilled = Loss::new(distillation(), 0.3).with_teacher([0.0; 6].into()).unwrap();
    near(distilled.entropy(&[0, 7], 3, &[0, 1], 1), 0.75 * h);
    assert_eq!(Loss::new(ComparatorLoss::focal(3, 2.0).unwrap(), 0.0).entropy(&[0], 3, &[0], 1), 0.0);
    assert!(Loss::from(smoothing(-0.3)).entropy(&[0], 3, &[0], 1).is_nan());

    near(plain.excess(3.0, 1.0, 4.0), 0.5);
    assert_eq!((plain.excess(1.0, 3.0, 4.0), plain.excess(3.0, 1.0, 0.0)), (0.0, 0.0));
    let penalty = Loss::new(ComparatorLoss::confidence_penalty(3, 0.1).unwrap(), 0.0);
    near(penalty.excess(1.0, 3.0, 4.0), -0.5);
}

/// Masses a with the sum A: `A ln A - sum of a ln a`.
#[test]
fn the_least_of_a_weighted_loss_is_at_its_masses() {
    let least = |masses: &[f64]| {
        let total: f64 = masses.iter().sum();
        total * total.ln() - masses.iter().filter(|a| **a > 0.0).map(|a| a * a.ln()).sum::<f64>()
    };
    let of = |weighting, allowed| {
        let epsilon = Epsilon::new(0.3).unwrap();
        let weights = Some((weighting, vec![1.0, 2.0, 0.5]));
        Loss::new(WeightedLoss::new(&Spec { epsilon, weights, allowed, ..Spec::new(3) }).unwrap(), 0.3)
    };
    // Label 1: q = 0.1, 0.8, 0.1.
    near(of(Weighting::PyTorch, None).entropy(&[1], 3, &[0], 1), least(&[0.1, 1.6, 0.05]));
    near(of(Weighting::Sample, None).entropy(&[1], 3, &[0], 1), 2.0 * least(&[0.1, 0.8, 0.1]));
    // Two classes: q = 0.15, 0.85; class 2 is ignored.
    let masked = Some(vec![true, true, false]);
    near(of(Weighting::PyTorch, masked.clone()).entropy(&[1, 2], 3, &[0, 1], 1), least(&[0.15, 1.7]));
    // Of 0.5, 0.5, 0: q = 0.45, 0.45, 0.1, and a weight of 1.5. Without class 2: 0.5, 0.5.
    let soft = |loss: Loss| loss.with_soft_targets([0.5, 0.5, 0.0].into()).unwrap().entropy(&[9], 3, &[0], 1);
    near(soft(of(Weighting::PyTorch, None)), least(&[0.45, 0.9, 0.05]));
    near(soft(of(Weighting::Sample, None)), 1.5 * least(&[0.45, 0.45, 0.1]));
    near(soft(of(Weighting::PyTorch, masked)), least(&[0.5, 1.0]));
}

#[test]
fn each_form_says_what_it_is() {
    let masked = of_weights(Weighting::Sample, Some(vec![false, true, true]));
    let [smoothed, weighted] = [Form::from(smoothing(0.3)), Form::from(masked.clone())];
    let focal = Form::from(ComparatorLoss::focal(3, 1.5).unwrap());
    let distilled = Form::from(distillation());
    let forms = [&smoothed, &weighted, &focal, &distilled];
    assert_eq!(forms.map(Form::classes), [None, Some(3), Some(3), Some(3)]);
    assert_eq!(forms.map(Form::allowed), [None, Some(&[false, true, true][..]), None, None]);
    assert_eq!(forms.map(Form::needs), [None, None, None, Some("teacher's logits")]);
    assert_eq!(forms.map(Form::of_labels), [Some(smoothing(0.3)), None, None, Some(smoothing(0.3))]);
    assert_eq!(forms.map(Form::has_least), [true, true, false, true]);
    for (label, counted) in [(0, true), (2, true), (3, false), (IGNORED, false)] {
        for form in [&smoothed, &focal, &distilled] {
            assert_eq!(form.counts(label, 3, None), counted, "{form:?} {label}");
            assert_eq!(form.weight(label, 3, None), f64::from(u8::from(counted)), "{form:?} {label}");
        }
    }
    assert_eq!([0, 1, 2, 3].map(|label| weighted.counts(label, 3, None)), [false, true, true, false]);
    assert_eq!([0, 1, 2, 3].map(|label| weighted.weight(label, 3, None)), [0.0, 2.0, 0.5, 0.0]);
    // A distribution counts, whatever the label. Of 0.5, 0.25, 0.25 class 0 takes no part: 0.5 + 0.125.
    assert!(weighted.counts(IGNORED, 3, Some(&[0.5, 0.25, 0.25])));
    assert_eq!(weighted.weight(IGNORED, 3, Some(&[0.5, 0.25, 0.25])), 0.625);
    assert_eq!(smoothed.with_epsilon(0.1), Form::from(smoothing(0.1)));
    assert_eq!(focal.with_epsilon(0.1), focal);
    assert_eq!(distilled.with_epsilon(0.1), Form::from(distillation().smoothed(smoothing(0.1))));
    assert_eq!(masked.weighting().name(), "sample");
    assert_eq!(Weighting::PyTorch.name(), "pytorch");
}

/// What a device is told of a step: 0.3 over three classes is 0.8 on the true class and 0.1 on each other one.
#[test]
fn a_steps_block_has_the_masses_of_its_epsilon() {
    let block = LossBlock { dloss: 0.25, dnll: 0.5, ..LossBlock::default() };
    let of = |form: Form| form.fill(3, block);
    let masses = LossBlock { on: 0.8, off: 0.1, kept: 0.7, ..block };
    assert_eq!((of(smoothing(0.3).into()), of(distillation().into())), (masses, masses));
    let epsilon = Epsilon::new(0.3).unwrap();
    let weighted = WeightedLoss::new(&Spec { epsilon, ..Spec::new(3) }).unwrap();
    assert_eq!(of(weighted.into()), LossBlock { kept: 0.7, epsilon: 0.3, ..block });
    assert_eq!(of(ComparatorLoss::focal(3, 1.0).unwrap().into()), block);
    assert_eq!(LossBlock::mean(4), LossBlock { dloss: 0.25, dnll: 0.25, ..LossBlock::default() });
    assert_eq!(LossBlock::mean(0), LossBlock::default());
}

#[test]
fn a_part_of_a_batch_has_its_rows_and_the_whole_ones_divisors() {
    let rows: Vec<f64> = (0..12).map(f64::from).collect();
    let batch = Batch { rows: &rows, weight: 2.5, counted: 3.0, ..Batch::new(&[5, 6, 7, 8]) };
    let part = batch.part(1..3, 3);
    assert_eq!((part.labels, part.rows), (&[6, 7][..], &[3.0, 4.0, 5.0, 6.0, 7.0, 8.0][..]));
    assert_eq!((part.weight, part.counted, part.dloss()), (2.5, 3.0, 0.4));
    let plain = Batch::<f64>::new(&[5, 6, 7, 8]).part(2..4, 3);
    assert_eq!((plain.labels, plain.rows.len(), plain.dloss()), (&[7, 8][..], 0, 0.25));
    assert_eq!((of_each(0.0), of_each(4.0)), (0.0, 0.25));
}

#[test]
fn variants_have_names_and_bounds() {
    assert_eq!([Variant::Uniform, Variant::OffTarget].map(Variant::name), ["uniform", "off-target"]);
    assert_eq!(
        ["uniform", "off-target", "x"].map(Variant::from_name),
        [Some(Variant::Uniform), Some(Variant::OffTarget), None]
    );
    // Off-target over four classes: from 3/4 on the true class is not the largest.
    let of = |variant, epsilon| Smoothing::negative_allowed(variant, epsilon, 4).is_ok();
    assert!(of(Variant::OffTarget, 0.7499) && !of(Variant::OffTarget, 0.75) && of(Variant::Uniform, 0.99));
    assert!(of(Variant::Uniform, -3.0) && of(Variant::OffTarget, -3.0));
    for epsilon in [1.0, f64::NAN, f64::NEG_INFINITY, f64::INFINITY] {
        assert!(!of(Variant::Uniform, epsilon), "{epsilon}");
    }
    assert_eq!(Smoothing { variant: Variant::OffTarget, epsilon: 0.3 }.masses(4), Masses { on: 0.7, off: 0.3 / 3.0 });
}

/// Off-target smoothing of e is uniform smoothing of e C/(C-1).
#[test]
fn off_target_is_uniform_with_more() {
    near(Prior::OffTarget.effective_epsilon(0.3, 4), 0.4);
    assert_eq!((Prior::OffTarget.effective_epsilon(0.0, 1), Prior::Uniform.effective_epsilon(0.3, 4)), (0.0, 0.3));
    let epsilon = Epsilon::new(0.3).unwrap();
    let loss = WeightedLoss::new(&Spec { epsilon, prior: Prior::OffTarget, ..Spec::new(4) }).unwrap();
    near(loss.epsilon(), 0.4);
    let Form::Weighted(half) = Form::from(loss).with_epsilon(0.15) else { panic!("another form") };
    near(half.epsilon(), 0.2);
    let over = |classes, allowed: Option<Vec<bool>>, epsilon| {
        let epsilon = Epsilon::new(epsilon).unwrap();
        WeightedLoss::new(&Spec { epsilon, prior: Prior::OffTarget, allowed, ..Spec::new(classes) }).is_ok()
    };
    // Three classes take part: below 2/3. One: no smoothing at all.
    let masked = || Some(vec![true, true, true, false]);
    assert!(over(4, masked(), 0.66) && !over(4, masked(), 0.67) && over(4, None, 0.74));
    assert!(over(2, Some(vec![true, false]), 0.0) && !over(2, Some(vec![true, false]), 0.1));
    // A sum beyond f64 would make every share 0.
    assert!(Prior::Given(vec![f64::MAX; 2]).over(&[true; 2]).is_err());
}

/// The uniform block of a form's pass over four rows of three logits, as words, and what its pass binds beside it.
fn recorded(form: &Form) -> (Vec<u32>, Plan) {
    let mut plan = Plan::default();
    let mut buffer = |name: &str, len| plan.buffer(name, len).unwrap();
    let (logits, targets, order) = (buffer("logits", 12), buffer("targets", 4), buffer("order", 4));
    let (losses, dlogits, rows) = (buffer("losses", 8), buffer("dlogits", 20), buffer("rows", 12));
    let rows = form.needs().map(|_| rows);
    let at = Buffers { logits, targets, rows, order, losses, dlogits, stride: 5 };
    form.record(&mut plan, Pass::ForwardBackward, 4, 3, &at).unwrap();
    assert_eq!((plan.dispatches.len(), plan.dispatches[0].workgroups), (1, [4, 1, 1]), "a workgroup for each row");
    assert!(plan.dispatches[0].label.ends_with(".forward_backward"));
    (bytemuck::pod_collect_to_vec(&plan.dispatches[0].dims), plan)
}

/// What a kernel is told of a loss, field by field as its shader declares them.
#[test]
fn a_kernel_is_told_the_numbers_of_its_loss() {
    let words = |form: Form| recorded(&form).0;
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
    assert_eq!(words(smoothing(0.1).into()), [3, 5]);
    assert_eq!(words(ComparatorLoss::focal(3, 1.5).unwrap().into()), [&[3, 5][..], &bits(&[1.5, 0.0])].concat());
    let mbls = LogitPenalty::mbls(3, 0.75, 2.5).unwrap();
    assert_eq!(words(mbls.into()), [&[3, 5][..], &bits(&[0.25, 2.5])].concat());
    // T = 4 and alpha = 1/4: 1/T, 1 - alpha, alpha T^2, alpha T.
    let distilled = DistillationLoss::new(3, 4.0, 0.25).unwrap();
    assert_eq!(words(distilled.into()), [&[3, 5][..], &bits(&[0.25, 0.75, 4.0, 1.0])].concat());
    // Classes, the first that takes part, by sample, stride, the prior's total: 1/2 of each of two weights.
    let masked = || Some(vec![false, true, true]);
    let of = |weighting| words(of_weights(weighting, masked()).into());
    assert_eq!(of(Weighting::Sample), [&[3, 1, 1, 5][..], &bits(&[1.0])].concat());
    assert_eq!(of(Weighting::PyTorch), [&[3, 1, 0, 5][..], &bits(&[1.25])].concat());
}

/// Weight and prior of each class; a weight of -1 is a class that takes no part.
#[test]
fn a_kernel_is_told_each_classs_weight_and_prior() {
    let of = |weighting| of_weights(weighting, Some(vec![false, true, true])).class_table();
    assert_eq!(of(Weighting::Sample), [-1.0, 0.0, 2.0, 0.5, 0.5, 0.5]);
    assert_eq!(of(Weighting::PyTorch), [-1.0, 0.0, 2.0, 1.0, 0.5, 0.25]);
    let (_, plan) = recorded(&of_weights(Weighting::Sample, None).into());
    let table = plan.buffers.iter().find(|buffer| buffer.name == "loss.class_table").unwrap();
    assert_eq!(table.contents[..2], [1f32.to_bits(), (1f32 / 3.0).to_bits()]);
}

#[test]
fn what_is_no_weighted_loss_is_refused() {
    let of = |weights: &[f64], allowed: &[bool]| {
        let (weights, allowed) = (Some((Weighting::Sample, weights.to_vec())), Some(allowed.to_vec()));
        WeightedLoss::new(&Spec { weights, allowed, ..Spec::new(3) }).map_err(|error| error.to_string())
    };
    let all = [true; 3];
    assert!(of(&[0.0, 1.0, 2.0], &all).is_ok());
    assert!(of(&[1.0; 3], &all[1..]).unwrap_err().contains("found 2 entries in the class mask, expected 3"));
    assert!(of(&[1.0; 3], &[false; 3]).unwrap_err().contains("found no class of 3"));
    assert!(of(&[1.0; 4], &all).unwrap_err().contains("found 4 class weights, expected 3"));
    for bad in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(of(&[1.0, 1.0, bad], &all).unwrap_err().contains("weight of class 2"), "{bad}");
    }
}

#[test]
fn labels_are_checked_against_the_classes_that_take_part() {
    let loss = of_weights(Weighting::Sample, Some(vec![false, true, true]));
    let of = |labels: &[i64], ignored| loss.targets(labels, ignored).map_err(|error| error.to_string());
    assert_eq!(of(&[1, 2, -100, 1], Some(-100)).unwrap(), [1, 2, IGNORED, 1]);
    assert!(of(&[1, 0], None).unwrap_err().contains("label 1: found class 0, which the class mask leaves out"));
    assert!(of(&[3], None).unwrap_err().contains("label 0: found 3, expected a class below 3"));
    assert!(of(&[-1], Some(-100)).unwrap_err().contains("found -1, expected a class below 3, or -100, which"));
}

/// Of two logits m apart the target misses e^-m / (1 + e^-m) of the whole. With gamma = 1 its gradient is miss (p
/// ln(p) / miss - 1) miss: about -2 miss^2, of which nothing is right where 1 - p was computed from p.
#[test]
fn a_focal_gradient_keeps_its_digits_near_certainty() {
    let loss = Form::from(ComparatorLoss::focal(2, 1.0).unwrap());
    for margin in [0.5, 5.0, 20.0, 30.0, 34.0] {
        let miss = 1.0 / (1.0 + f64::exp(margin));
        let expected = miss * ((1.0 - miss) * (-miss).ln_1p() - miss);
        let (logits, batch) = ([7.0 + margin, 7.0], Batch { weight: 1.0, ..Batch::new(&[0]) });
        let (mut plain, mut fast) = ([f64::NAN; 2], [f64::NAN; 2]);
        loss.backward(2, &logits, batch, &[1.0], &mut plain);
        loss.fast(&logits, batch, &mut [[0.0; 2]], &mut fast);
        for found in [plain[0], fast[0], -plain[1], -fast[1]] {
            assert!((found / expected - 1.0).abs() < 1e-10, "{margin}: found {found}, expected {expected}");
        }
    }
}
