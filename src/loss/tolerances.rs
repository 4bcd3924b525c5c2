//! The cases of `check`, held against tolerances worked out by hand. One that grows unseen would let a wrong kernel
//! pass, and no other test would know.
//!
//! Below, u is 2^-24 and S(n, m) = (8 + 2 sqrt n) u m the tolerance of a sum ([`crate::cases::sum_tolerance`]). At a
//! scale of 0 all logits are 0: over four classes each has a softmax of 1/4, and the logits' spread is ln 4. At another
//! scale the softmax of a row, and so the tolerances of its gradient, add up to those of a single certain class.

use super::comparator::{self, ComparatorLoss};
use super::distillation::{self, DistillationLoss};
use super::logit_penalty::{self, LogitPenalty};
use super::smoothed;
use super::smoothing::{Smoothing, Variant};
use super::weighted::cases::{FEATURES, Features, case as weighted};
use super::weighted::{Weighting, reference};
use super::*;
use crate::ops::IGNORED;
use crate::schedule::Schedule;

fn near(what: &str, found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-9, "{what}: found {found}, expected {expected}");
}

/// Of each element of a row, whose class is `label`: `own` there and `other` elsewhere.
fn gradient(case: &LossCase, row: usize, own: f64, other: f64) {
    for (k, found) in case.gradient_tolerance[row * case.classes..][..case.classes].iter().enumerate() {
        near(&case.name, *found, if k as u32 == case.labels[row] { own } else { other });
    }
}

fn sum_of_row(case: &LossCase, row: usize) -> f64 {
    case.gradient_tolerance[row * case.classes..][..case.classes].iter().sum()
}

/// Loss: S(17, ln 4) + 2e-6; an element of target q: (8 * 8 / 4 + 4 q) u + 1e-12. Of 130 classes up to 3: three
/// rounds of 64, a spread of 6 + ln 130 = 10.87, S(19, 10.87) + 2e-6; a row: (8 * 10.87 + 4) u + 130e-12.
#[test]
fn of_the_smoothed_loss() {
    let of = |variant| Smoothing { variant, epsilon: 0.1 };
    let uniform = smoothed::cases::case(1, 4, 0.0, of(Variant::Uniform));
    near("loss", uniform.loss_tolerance[0][0], 3.342_417_660_185_7e-6);
    near("nll", uniform.loss_tolerance[0][1], 3.342_417_660_185_7e-6);
    gradient(&uniform, 0, 1.174_212_502_075_2e-6, 9.596_357_808_837_9e-7);
    let off_target = smoothed::cases::case(1, 4, 0.0, of(Variant::OffTarget));
    gradient(&off_target, 0, 1.168_252_037_597_66e-6, 9.616_226_023_763_0e-7);
    let wide = smoothed::cases::case(2, 130, 3.0, of(Variant::Uniform));
    near("loss", wide.loss_tolerance[1][0], 1.282_904_603_920_043e-5);
    near("row", sum_of_row(&wide, 1), 5.420_592_823_131_36e-6);
    assert_eq!((wide.dloss, wide.loss_tolerance.len()), (0.5, 2));
}

/// With L = S(17, ln 4) + 2e-6 for a logarithm and 64 u for a softmax, T = 2 and alpha = 1/4. Loss: 3/4 L + 1/4 T^2
/// (2 L + 64 u 2 ln 4); an element: 3/4 (16 + 4 q) u + 1/4 T (1/4 + 1/4) 64 u. Up to 6 and with T = 1/2 the cooled
/// logits spread over 24 + ln 4.
#[test]
fn of_distillation() {
    let of =
        |temperature, scale| distillation::cases::case(1, scale, DistillationLoss::new(4, temperature, 0.25).unwrap());
    let case = of(2.0, 0.0);
    near("loss", case.loss_tolerance[0][0], 1.976_823_518_294_148e-5);
    near("nll", case.loss_tolerance[0][1], 3.342_417_660_185_7e-6);
    gradient(&case, 0, 1.834_333_942_962_65e-6, 1.673_401_402_069_1e-6);
    let cooled = of(0.5, 6.0);
    near("loss", cooled.loss_tolerance[0][0], 5.295_785_555_663_75e-5);
    near("nll", cooled.loss_tolerance[0][1], 1.496_261_346_709_57e-5);
    near("row", sum_of_row(&cooled, 0), 7.992_411_970_962_47e-6);
}

/// With L as above, P = 64 u + L for a softmax, and for the power of gamma = 2: W = 2 (P + 2e-6) + 16 u 2 ln 4. The
/// loss is (3/4)^2 ln 4: L + that times W; an element: 3 miss (P + W + 2 * 2e-5), 3 being 1 + gamma. A penalty of
/// beta = 1/2: the entropy's E = L + P max(ln C, 1); L + E/2, and miss P + 1/8 (E + P 2 ln 4).
#[test]
fn of_the_comparators() {
    let focal = comparator::cases::case(1, 0.0, ComparatorLoss::focal(4, 2.0).unwrap());
    near("loss", focal.loss_tolerance[0][0], 1.968_556_219_244_806e-5);
    near("nll", focal.loss_tolerance[0][1], 3.342_417_660_185_7e-6);
    gradient(&focal, 0, 1.532_598_567_215_27e-4, 5.108_661_957_384_23e-5);
    let penalty = |classes| comparator::cases::case(1, 0.0, ComparatorLoss::confidence_penalty(classes, 0.5).unwrap());
    near("loss", penalty(4).loss_tolerance[0][0], 9.974_560_522_047_73e-6);
    gradient(&penalty(4), 0, 9.506_339_925_708_13e-6, 5.927_782_462_802_78e-6);
    near("loss of two classes", penalty(2).loss_tolerance[0][0], 7.249_766_292_998_2e-6);

    // Of two classes: a spread of 4 times the scale + ln 2, of which a power takes 128 at most.
    for (scale, of_log, of_p, of_power) in [
        (1.0, 6.544_607_432_396_19e-6, 1.035_930_469_802_119e-5, 3.367_007_725_447_12e-5),
        (40.0, 1.576_071_529_222_266e-4, 2.342_316_166_065_21e-4, 7.166_038_581_330_43e-4),
    ] {
        let case = comparator::cases::case(3, scale, ComparatorLoss::focal(2, 2.0).unwrap());
        for (row, logits) in case.logits.chunks(2).enumerate() {
            let own = case.labels[row] as usize;
            let margin = f64::from(logits[own]) - f64::from(logits[1 - own]);
            let miss = 1.0 / (1.0 + margin.exp());
            let loss = miss * miss * (-margin).exp().ln_1p();
            near("loss", case.loss_tolerance[row][0], of_log + loss * of_power);
            let element = 3.0 * miss * (of_p + of_power + 4e-5) + 1e-12;
            gradient(&case, row, element, element);
        }
    }
}

/// Four equal logits share the largest's gradient, so that a penalty comes to nothing: of alpha = 1/2 an eighth is
/// added and taken away, 8 times 1/8. An element: (64/4 + 4 q + 1) u; the loss L and half of S(17, ln 4).
#[test]
fn of_the_logit_penalties() {
    let maxsup = logit_penalty::cases::case(1, 0.0, LogitPenalty::maxsup(4, 0.5).unwrap());
    near("loss", maxsup.loss_tolerance[0][0], 3.342_417_660_185_7e-6 + 0.5 * 1.342_417_660_185_7e-6);
    near("nll", maxsup.loss_tolerance[0][1], 3.342_417_660_185_7e-6);
    let u = 2f64.powi(-24);
    gradient(&maxsup, 0, 21.0 * u + 1e-12, 17.0 * u + 1e-12);
    // A margin of 10 beyond everything: its spread counts for the sum, and lambda/C = 1/8 for an element.
    let mbls = logit_penalty::cases::case(1, 0.0, LogitPenalty::mbls(4, 0.5, 10.0).unwrap());
    let of_one = 1.342_417_660_185_7e-6 / 4f64.ln();
    near("loss", mbls.loss_tolerance[0][0], 3.342_417_660_185_7e-6 + 0.5 * of_one * (4f64.ln() + 10.0));
    gradient(&mbls, 0, 21.0 * u + 1e-12, 17.0 * u + 1e-12);
    // In one row of four several logits are the largest.
    let case = logit_penalty::cases::case(8, 3.0, LogitPenalty::mbls(6, 1.0, 1.0).unwrap());
    let mut tied = vec![];
    for (row, logits) in case.logits.chunks(6).enumerate().filter(|(_, row)| !row[0].is_nan()) {
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        tied.extend((logits.iter().filter(|&&x| x == largest).count() > 1).then_some(row));
        assert!(logits.iter().all(|&x| (largest - x - 1.0).abs() > 1e-4), "{logits:?}");
    }
    assert_eq!(tied, [1, 5]);
}

/// With e = 0.1 and nothing else an element is 1/4 (64 u + S(17, 1)) + (8 q + 4 e/4) u + 1e-12. With e = -0.4 q is 1.3
/// and -0.1: 1.6 in size, 2.4 with what its two parts are larger by, which is 2 * 0.4/4 for each class.
#[test]
fn of_the_weighted_loss() {
    let plain = FEATURES[0];
    let case = weighted(1, 4, 0.0, plain);
    near("loss", case.loss_tolerance[0][0], 3.342_417_660_185_7e-6);
    near("nll", case.loss_tolerance[0][1], 3.342_417_660_185_7e-6);
    gradient(&case, 0, 1.642_797_564_865_64e-6, 1.213_644_122_482_83e-6);
    near("row", sum_of_row(&weighted(1, 130, 3.0, plain), 0), 6.679_311_664_629_34e-6);
    let sharper = Features { epsilon: -0.4, ..plain };
    let case = weighted(1, 4, 0.0, sharper);
    near("loss", case.loss_tolerance[0][0], 6.421_802_384_445_67e-6);
    near("nll", case.loss_tolerance[0][1], 3.342_417_660_185_7e-6);
    gradient(&case, 0, 2.845_987_291_810_35e-6, 2.273_782_701_966_6e-6);

    // A sample's weight makes all of it larger; a class's own weight what belongs to the class.
    let unit = 2f64.powi(-24);
    for weighting in [Weighting::Sample, Weighting::PyTorch] {
        let features = Features { weighting: Some(weighting), ..sharper };
        let loss = features.loss(4);
        for (row, &label) in weighted(6, 4, 0.0, features).labels.iter().enumerate() {
            let case = weighted(6, 4, 0.0, features);
            let weight = |k: usize| loss.weights()[if weighting == Weighting::Sample { label as usize } else { k }];
            let q = |k: usize| if k == label as usize { 1.3 } else { 0.1 };
            let total: f64 = (0..4).map(|k| weight(k) * q(k)).sum();
            let sizes: f64 = (0..4).map(|k| weight(k) * (q(k) + 0.2)).sum();
            // S(17, ln 4) and S(17, 1).
            let (of_loss, of_one) = (1.342_417_660_185_7e-6, 9.683_496_505_758_36e-7);
            let tolerance = of_loss * sizes + 2e-6 * total;
            assert!((case.loss_tolerance[row][0] - tolerance).abs() <= 1e-9 * tolerance, "{}", case.name);
            for k in 0..4 {
                let parts = (8.0 * weight(k) * (q(k) + 0.2) + 0.4) * unit + 1e-12;
                let element = 0.25 * (total * 64.0 * unit + sizes * of_one) + parts;
                near(&case.name, case.gradient_tolerance[row * 4 + k], element);
            }
        }
    }
}

/// What an ignored row and a class that takes no part may differ by is nothing: their results are exact.
#[test]
fn what_is_not_read_is_exact() {
    for listed in FORMS {
        let cases = (listed.cases)(8, 6, 3.0).unwrap();
        assert!(!cases.is_empty(), "{}", listed.name);
        for case in cases {
            let (what, classes) = (&case.name, case.classes);
            assert_eq!((case.labels.len(), case.logits.len(), case.loss_tolerance.len()), (8, 48, 8), "{what}");
            assert_eq!((classes, case.gradient_tolerance.len()), (6, 48), "{what}");
            let allowed = case.form.allowed().map_or(vec![true; 6], <[bool]>::to_vec);
            for (row, &label) in case.labels.iter().enumerate() {
                let soft = (!case.rows.is_empty() && case.form.needs().is_none()).then_some(&[0f32; 6][..]);
                // A mixed image is read where either of its labels counts.
                let mixed = matches!(case.form, Form::Mixed(_)).then(|| case.labels[7 - row]);
                let counts = [label, mixed.unwrap_or(label)].iter().any(|&of| case.form.counts(of, classes, soft));
                for (k, &allowed) in allowed.iter().enumerate() {
                    let (logit, tolerance) = (case.logits[row * 6 + k], case.gradient_tolerance[row * 6 + k]);
                    if counts && allowed {
                        assert!(
                            logit.abs() <= 9.0 && tolerance > 0.0 && tolerance < 1e-2,
                            "{what}: {logit} {tolerance}"
                        );
                    } else {
                        assert!(
                            (logit.is_nan() || logit == f32::MAX) && tolerance == 0.0,
                            "{what}: {logit} {tolerance}"
                        );
                    }
                }
                assert!(case.loss_tolerance[row].iter().all(|t| (0.0..1e-2).contains(t)), "{what}");
            }
        }
    }
}

/// One row in four of the simple forms is ignored, its logits are no numbers, and the others fill the scale.
#[test]
fn of_four_rows_the_last_is_ignored() {
    let simple = [
        smoothed::cases::cases(8, 6, 3.0).unwrap(),
        distillation::cases::cases(8, 6, 3.0).unwrap(),
        comparator::cases::cases(8, 6, 3.0).unwrap(),
        logit_penalty::cases::cases(8, 6, 3.0).unwrap(),
    ];
    for case in simple.iter().flatten() {
        let ignored: Vec<bool> = case.labels.iter().map(|&label| label == IGNORED).collect();
        assert_eq!(ignored, [false, false, false, true, false, false, false, true], "{}", case.name);
        for (row, logits) in case.logits.chunks(6).enumerate() {
            assert_eq!(logits.iter().all(|v| v.is_nan()), ignored[row], "{}", case.name);
        }
        // An upstream gradient of less than nothing: a kernel that drops its sign is found out.
        assert!(case.dloss == 0.125 || case.dloss < 0.0, "{}: {}", case.name, case.dloss);
        assert_eq!(case.dloss < 0.0, case.form.classes().is_some(), "{}", case.name);
        let largest = case.logits.iter().filter(|v| !v.is_nan()).map(|v| v.abs()).fold(0.0, f32::max);
        assert!(largest > 2.5, "{}: {largest}", case.name);
        if case.form.needs().is_some() {
            let largest = case.rows.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
            assert!((2.5..=3.0).contains(&largest), "{}: the teacher's {largest}", case.name);
        }
    }
    // Half of a comparator's rows are easy: there the target's logit is larger by twice the scale, up to 16.
    for (scale, more) in [(3.0, 6.0), (20.0, 16.0)] {
        let case = comparator::cases::case(8, scale, ComparatorLoss::focal(6, 1.0).unwrap());
        let plain = smoothed::cases::case(8, 6, scale, Smoothing::NONE);
        for (i, (found, plain)) in case.logits.iter().zip(&plain.logits).enumerate().filter(|(_, (v, _))| !v.is_nan()) {
            let label = case.labels[i / 6];
            let easy = label.is_multiple_of(2) && label as usize == i % 6;
            assert!((found - plain - if easy { more } else { 0.0 }).abs() < 1e-5, "{i}: {found} {plain}");
        }
    }
}

/// The general loss's cases have every kind of sample and class that is not read, and every kind of target.
#[test]
fn the_weighted_cases_cover_what_they_name() {
    assert_eq!(FEATURES.len(), 7);
    for &features in FEATURES.iter() {
        let (loss, case) = (features.loss(8), weighted(24, 8, 2.0, features));
        let masked: Vec<bool> = loss.allowed().iter().map(|allowed| !allowed).collect();
        let expected = [true, false, false, false].repeat(2);
        assert_eq!(masked, if features.masked { expected } else { vec![false; 8] });
        assert_eq!(loss.weights().contains(&0.0), features.weighting.is_some(), "{features:?}");
        assert_eq!(loss.prior().iter().filter(|v| **v == 0.0).count() > 2, features.prior, "{features:?}");
        assert_eq!(case.rows.len(), if features.soft { 24 * 8 } else { 0 });
        let not_read: Vec<f32> = case.logits.iter().copied().filter(|v| v.is_nan() || *v == f32::MAX).collect();
        let both = not_read.iter().any(|v| v.is_nan()) && not_read.contains(&f32::MAX);
        assert_eq!(both, features.masked || features.ignored.is_some(), "{features:?}");
        let kinds = |wanted: &dyn Fn(u32) -> bool| case.labels.iter().filter(|&&label| wanted(label)).count();
        let of_no_part = |label: u32| label < 8 && !loss.allowed()[label as usize];
        let ignored = features.ignored.is_some();
        assert_eq!(kinds(&|label| label == IGNORED) > 0, ignored, "{features:?}");
        assert_eq!(kinds(&|label| label == 8) > 0, ignored, "{features:?}");
        assert_eq!(kinds(&of_no_part) > 0, ignored && features.masked, "{features:?}");
        if ignored {
            let last: Vec<_> = case.labels.iter().skip(2).step_by(3).collect();
            assert!(last.iter().all(|&&label| !loss.allowed().get(label as usize).is_some_and(|part| *part)));
            assert_eq!(kinds(&|label| label < 8 && !of_no_part(label)), 16, "two of three");
        }
        for (row, target) in case.rows.chunks(8).enumerate() {
            let part = target.iter().zip(loss.allowed()).filter(|(_, allowed)| **allowed).map(|(t, _)| f64::from(*t));
            let whole: f64 = features.distributions(24, 8)[row * 8..][..8].iter().sum();
            assert!((whole - 1.0).abs() < 1e-6 && part.sum::<f64>() <= whole + 1e-6);
            assert!(target.iter().zip(loss.allowed()).all(|(t, allowed)| if *allowed { *t > 0.0 } else { t.is_nan() }));
        }
        // The upstream gradient is the mean's.
        let rows: Vec<f64> = features.distributions(24, 8);
        let at = if features.soft { reference::Targets::Soft(&rows) } else { reference::Targets::Index(&case.labels) };
        let weights: f64 = reference::weights(&loss, at, 24).iter().sum();
        near("dloss", case.dloss.into(), f64::from((1.0 / weights) as f32));
    }
    // Two or three classes, or an odd number: class 1 takes no part, and class 0 does.
    for (classes, first) in [(2, [true, false]), (3, [true, false]), (4, [false, true]), (5, [true, false])] {
        let loss = Features { masked: true, weighting: Some(Weighting::Sample), ..FEATURES[0] }.loss(classes);
        assert_eq!(loss.allowed()[..2], first, "{classes}");
        assert_eq!(loss.weights()[classes / 2], 0.0, "the class in the middle weighs nothing");
    }
    // No class of a distribution is next to nothing: 0.01 of at most 8 * 1.01.
    assert!(FEATURES[0].distributions(500, 8).iter().all(|share| *share > 0.01 / 8.08));
    // 3 weightings of 16 with three epsilons each, less those with an index to ignore in a distribution (4 of 16), less
    // a prior where no mass moves: 12 * 3 - 6.
    let all = Features::all();
    assert_eq!(all.len(), 3 * 30);
    let has = |wanted: &dyn Fn(&Features) -> bool| all.iter().filter(|&f| wanted(f)).count();
    assert_eq!(
        [has(&|f| f.soft), has(&|f| f.ignored == Some(3)), has(&|f| f.masked), has(&|f| f.prior)],
        [30, 30, 45, 36]
    );
    assert_eq!([0.0, 0.1, -0.4].map(|e| has(&|f| f.epsilon == e)), [18, 36, 36]);
    assert_eq!((has(&|f| f.soft && f.ignored.is_some()), has(&|f| f.prior && f.epsilon == 0.0)), (0, 0));
}

/// What the seven cases are for: one that is lost would not be missed anywhere else.
#[test]
fn the_weighted_cases_are_of_seven_kinds() {
    let (pytorch, sample) = (Some(Weighting::PyTorch), Some(Weighting::Sample));
    let indices = FEATURES.iter().filter(|f| !f.soft).map(|f| (f.ignored, f.masked, f.prior, f.weighting, f.epsilon));
    assert_eq!(
        indices.collect::<Vec<_>>(),
        [
            (None, false, false, None, 0.1),
            (Some(3), false, true, pytorch, 0.1),
            (Some(3), true, false, sample, 0.1),
            (None, false, true, None, -0.4),
        ]
    );
    let distributions = FEATURES.iter().filter(|f| f.soft).map(|f| (f.masked, f.prior, f.weighting, f.epsilon));
    assert_eq!(
        distributions.collect::<Vec<_>>(),
        [(false, false, pytorch, 0.1), (false, false, pytorch, -0.8), (true, true, sample, 0.1),]
    );
}

#[test]
fn a_softmax_is_of_differences() {
    let near = |found: Vec<f64>, expected: [f64; 2]| {
        found.iter().zip(expected).for_each(|(found, expected)| assert!((found - expected).abs() < 1e-15, "{found}"));
    };
    near(smoothed::cases::softmax(&[0.0, 2.0 * 3f64.ln()], 2.0), [0.25, 0.75]);
    near(smoothed::cases::softmax(&[900.0, 900.0], 1.0), [0.5, 0.5]);
}

/// What whole training steps are tried with: each loss is of its classes and images, and differs from the others.
#[test]
fn trainings_try_each_loss() {
    let mut names = vec![];
    for listed in FORMS {
        for (name, loss) in (listed.trainings)(5, 7).unwrap() {
            assert!(loss.check(5, 7).is_ok(), "{name}");
            names.push(name);
            let [scheduled, soft, taught] = ["warm-up", "soft", "distillation"].map(|part| name.contains(part));
            assert_eq!(loss.schedule() != Schedule::CONSTANT, scheduled || name.contains("decay"), "{name}");
            assert_eq!(loss.rows().is_some(), soft || taught, "{name}");
            if let Form::Weighted(form) = loss.form() {
                let uneven = |values: &[f64]| values.iter().any(|v| (v - values[0]).abs() > 1e-9);
                let prior = name.starts_with("prior") || name == "soft targets";
                assert_eq!(uneven(form.prior()), prior || name.contains("mask"), "{name}");
                assert_eq!(uneven(form.weights()), name.contains("weights"), "{name}");
                assert_eq!(
                    form.weighting() == Weighting::Sample,
                    name.contains("sample") || name.contains("targets, class")
                );
                assert_eq!(form.allowed()[1], !name.contains("mask"), "{name}");
                assert_eq!(form.epsilon() == 0.0, name == "soft targets, class weights", "{name}");
                assert!((form.epsilon() - 0.1 * 4.0 / 3.0).abs() < 1e-12 || !name.contains("off-target"));
            }
            if taught {
                let largest = loss.rows().unwrap().iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
                assert!((3.0..=4.0).contains(&largest), "a teacher that is sure of some images: {largest}");
            }
        }
    }
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "class mask, off-target",
            "class weights, pytorch",
            "class weights, sample",
            "confidence penalty",
            "distillation, warm-up",
            "focal",
            "maxsup, warm-up",
            "mbls",
            "mixed, off-target",
            "mixed, warm-up",
            "negative",
            "off-target, decay",
            "prior, decay",
            "soft targets",
            "soft targets, class weights",
            "uniform, warm-up",
        ]
    );
}
