use super::bootstrap::{Interval, intervals, of_predictions, quantile};
use super::calibration::{ece, ece_equal_mass, equal_width, mce, reliability};
use super::selective::aurc;
use super::*;
use crate::golden::Golden;
use crate::loss::smoothing::Masses;
use crate::loss::smoothing::Variant;
use crate::rng::Philox;

fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    let error = (found - expected).abs() / expected.abs().max(1.0);
    assert!(error <= tolerance, "{what}: found {found}, expected {expected}");
}

#[test]
fn recorded_values() {
    let golden = Golden::open("metrics");
    let cases = golden.cases();
    let mut recorded = 0;
    assert_eq!(cases.len(), 9);
    for case in cases {
        let variant = match case.text("variant") {
            "uniform" => Variant::Uniform,
            _ => Variant::OffTarget,
        };
        let smoothing = Smoothing { variant, epsilon: case.parse("epsilon") };
        let labels = case.labels("labels");
        let found = evaluate(&case.f64("logits"), &labels, case.parse("classes"), smoothing);
        let check = |found, key: &str, tolerance| {
            close(found, case.scalar(key), tolerance, &format!("{} {key}", case.name));
        };
        assert_eq!(found.images, case.parse::<usize>("n"));
        check(found.loss, "loss", 1e-13);
        check(found.nll, "nll", 1e-13);
        check(found.accuracy, "accuracy", 1e-15);
        check(1.0 - found.error, "accuracy", 1e-15);
        check(found.ece, "ece", 3e-7); // torchmetrics counts in float32
        check(found.brier, "brier", 1e-13);
        check(found.mean_confidence, "mean_confidence", 1e-13);
        check(found.mce, "mce", 3e-7); // as for ece
        check(found.ece_classwise, "ece_classwise", 1e-13);
        check(found.ece_equal_mass, "ece_equal_mass", 1e-13);
        check(found.aurc, "aurc", 1e-13);
        check(found.above_99, "above_99", 1e-15);
        for (key, found) in [
            ("confidence_right", found.confidence_right),
            ("confidence_wrong", found.confidence_wrong),
            ("excess_loss", Some(found.excess_loss)),
        ] {
            if golden.has(&format!("{}.{key}", case.name)) {
                check(found.expect("there are such images"), key, 1e-13);
                recorded += 1;
            } else {
                assert!(found.is_none() || case.name == "large", "{} {key}: {found:?}", case.name);
            }
        }
    }
    assert_eq!(recorded, 3 * 8, "each of the three in all cases but one");
}

#[test]
fn edges_belong_to_the_bin_below() {
    for b in 1..=ECE_BINS {
        let edge = b as f64 / ECE_BINS as f64;
        assert_eq!(equal_width(edge), b - 1, "{edge}");
        assert_eq!(equal_width(edge.next_down()), b - 1);
        assert_eq!(equal_width(edge.next_up()), b.min(ECE_BINS - 1));
    }
    assert_eq!(equal_width(f64::MIN_POSITIVE), 0);
}

#[test]
fn confidence_on_an_edge() {
    // Five equal logits: confidence 1/5 = 3/15, in (2/15, 3/15]. The second image's is just above: another bin.
    let logits = [0.0, 0.0, 0.0, 0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 0.0];
    let above = 0.01f64.exp() / (0.01f64.exp() + 4.0);
    let found = evaluate(&logits, &[0, 1], 5, Smoothing::NONE);
    close(found.ece, (0.8 + above) / 2.0, 1e-15, "ece");
    close(found.accuracy, 0.5, 0.0, "accuracy: the first of equals");
}

#[test]
fn certain() {
    let smoothing = Smoothing::new(Variant::Uniform, 0.1, 2).unwrap();
    let found = evaluate(&[1e4, -1e4, 1e4, -1e4], &[0, 1], 2, smoothing);
    assert_eq!((found.mean_confidence, found.accuracy, found.error, found.ece), (1.0, 0.5, 0.5, 0.5));
    assert_eq!((found.nll, found.brier), (1e4, 1.0));
    close(found.loss, (0.05 * 2e4 + 0.95 * 2e4) / 2.0, 1e-15, "loss");

    let right = evaluate(&[1e4, -1e4], &[0], 2, Smoothing::NONE);
    assert_eq!((right.loss, right.nll, right.ece, right.brier, right.error), (0.0, 0.0, 0.0, 0.0, 0.0));
}

#[test]
fn all_one_class() {
    // Every image says class 2 with p = 1/2, and class 2 it is: accuracy 1 at confidence 1/2.
    let logits = [0.0, 0.0, 2f64.ln()].repeat(8);
    let found = evaluate(&logits, &[2; 8], 3, Smoothing::NONE);
    assert_eq!((found.images, found.accuracy, found.error), (8, 1.0, 0.0));
    close(found.ece, 0.5, 1e-15, "ece");
    close(found.nll, 2f64.ln(), 1e-15, "nll");
    close(found.brier, 0.25 + 2.0 / 16.0, 1e-15, "brier");
    // A single class: nothing to get wrong.
    let one = evaluate(&[3.0, -4.0], &[0, 0], 1, Smoothing::NONE);
    assert_eq!((one.loss, one.accuracy, one.ece, one.brier, one.mean_confidence), (0.0, 1.0, 0.0, 0.0, 1.0));
}

#[test]
fn not_a_number_is_wrong() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let found = evaluate(&[bad, 0.0, 1.0, 0.0], &[0, 0], 2, Smoothing::NONE);
        assert_eq!((found.images, found.accuracy, found.error), (2, 0.5, 0.5), "{bad}");
        for value in [found.loss, found.nll, found.ece, found.brier, found.mean_confidence] {
            assert!(value.is_nan(), "{bad}: {found:?}");
        }
        let new = [found.ece_equal_mass, found.ece_classwise, found.mce, found.above_99, found.aurc, found.excess_loss];
        assert!(new.iter().all(|value| value.is_nan()), "{bad}: {found:?}");
        assert!(found.confidence_wrong.is_some_and(f64::is_nan), "{bad}: {found:?}");
        close(found.confidence_right.unwrap(), 1.0 / (1.0 + (-1f64).exp()), 1e-15, "of the other image");
    }
}

#[test]
fn no_images() {
    let found = evaluate(&[], &[], 10, Smoothing::NONE);
    assert_eq!(found.images, 0);
    assert!(found.loss.is_nan() && found.accuracy.is_nan() && found.error.is_nan() && found.ece.is_nan());
    let new = [found.ece_equal_mass, found.ece_classwise, found.mce, found.above_99, found.aurc, found.excess_loss];
    assert!(new.iter().all(|value| value.is_nan()), "{found:?}");
    assert_eq!((found.confidence_right, found.confidence_wrong), (None, None));
}

#[test]
fn the_ends_of_f64() {
    let found = evaluate(&[f64::MAX, f64::MIN], &[0], 2, Smoothing::NONE);
    assert_eq!((found.loss, found.nll, found.accuracy, found.brier), (0.0, 0.0, 1.0, 0.0));
}

#[test]
fn probabilities_are_those_of_each_row() {
    let logits = [0.0, 3f64.ln(), 7.0, 7.0 + 4f64.ln(), f64::NAN, 0.0];
    let found = prediction::probabilities(&logits, 2);
    for (found, expected) in found.iter().zip([0.25, 0.75, 0.2, 0.8]) {
        close(*found, expected, 1e-15, "softmax");
    }
    assert!(found.len() == 6 && found[4..].iter().all(|p| p.is_nan()), "{found:?}");
    assert!(prediction::probabilities(&[], 0).is_empty());
}

/// Values of ml-calibration, scipy and numpy.
#[test]
fn recorded_values_of_calibration_ranking_and_sets() {
    let golden = Golden::open("calibration");
    let cases = golden.cases();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let (logits, labels, classes) = (case.f64("logits"), case.labels("labels"), case.parse("classes"));
        let found = predictions(&logits, &labels, classes, Smoothing::NONE);
        let check = |found: f64, key: &str, tolerance: f64| {
            close(found, case.scalar(key), tolerance, &format!("{} {key}", case.name));
        };
        check(smooth::smece(&found), "smece", 1e-12);
        check(perfect::ece_debiased(&found), "ece_debiased", 1e-10);
        let rankings = selective::Rankings::of(&logits, &labels, classes);
        check(rankings.aurc_max_logit, "aurc_max_logit", 1e-13);
        assert_eq!(rankings.aurc_normalised.is_none(), classes == 2);
        if let Some(area) = rankings.aurc_normalised {
            check(area, "aurc_normalised", 1e-13);
        }
        let p = probabilities(&logits, classes);
        let sets = conformal::Calibration::new(conformal::Score::Lac, &p, &labels, classes);
        check(sets.threshold(0.9), "lac_threshold", 1e-13);
        check(sets.measured(0.9, &p, &labels, classes).all.size, "lac_size", 1e-13);
    }
}

/// Values of torch-uncertainty and scikit-learn. The former has the ranks' penalties and a share of images in 32 bits.
#[test]
fn recorded_values_of_scores_and_detection() {
    use conformal::Score;
    let golden = Golden::open("sets");
    let cases = golden.cases();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let (logits, others, classes) = (case.f64("logits"), case.f64("others"), case.parse("classes"));
        let p = probabilities(&logits, classes);
        for (score, key, tolerance) in
            [(Score::Lac, "lac", 1e-13), (Score::Aps, "aps", 1e-13), (Score::Raps, "raps", 2e-7)]
        {
            let found: Vec<f64> = p.chunks(classes).flat_map(|row| score.of(row)).collect();
            for (i, (found, expected)) in found.iter().zip(case.f64(key)).enumerate() {
                close(*found, expected, tolerance, &format!("{} {key} {i}", case.name));
            }
        }
        let found = detection::detections(&logits, &others, classes);
        for (found, key) in found.iter().zip(["max_probability", "max_logit", "energy"]) {
            close(found.auroc, case.scalar(&format!("auroc_{key}")), 1e-13, &format!("{} auroc {key}", case.name));
            close(found.fpr95, case.scalar(&format!("fpr95_{key}")), 1e-7, &format!("{} fpr95 {key}", case.name));
        }
    }
}

/// Catches a -0, which is shown as -0.000000.
#[test]
fn nothing_lost_is_a_zero_without_a_sign() {
    let logits = [1000.0, 0.0, -1000.0, 0.0, 1000.0, 0.0];
    for smoothing in [Smoothing::NONE, Smoothing::new(Variant::Uniform, 0.0, 3).unwrap()] {
        let found = evaluate(&logits, &[0, 1], 3, smoothing);
        let zeros = [found.loss, found.nll, found.error, found.ece, found.brier, found.ece_classwise, found.mce];
        for zero in zeros.into_iter().chain([found.aurc, found.excess_loss, found.ece_equal_mass]) {
            assert!(zero == 0.0 && zero.is_sign_positive(), "{found:?}");
        }
    }
}

#[test]
fn rankings_of_next_to_nothing() {
    use selective::Rankings;
    let none = Rankings::of(&[], &[], 3);
    assert!(none.aurc_max_logit.is_nan() && none.aurc_normalised.is_some_and(f64::is_nan));
    let bad = Rankings::of(&[1.0, f64::NAN, 0.0], &[0], 3);
    assert!(bad.aurc_max_logit.is_nan() && bad.aurc_normalised.is_some_and(f64::is_nan));
    // The surest by its logit is wrong; by its direction it is the least sure.
    let logits = [5.0, 4.9, 0.0, 2.0, 0.0, 0.0];
    let found = Rankings::of(&logits, &[1, 0], 3);
    assert_eq!((found.aurc_max_logit, found.aurc_normalised), (0.75, Some(0.25)));
    assert_eq!(Rankings::of(&[0.0; 3], &[0], 3).aurc_normalised, Some(0.0));
}

fn image(confidence: f64, right: bool) -> Prediction {
    Prediction { right, confidence, loss: 0.0, nll: 0.0, brier: 0.0 }
}

/// `n` images, most confidences several times: bins and coverages meet ties.
fn with_ties(n: usize, seed: u64) -> Vec<Prediction> {
    let mut rng = Philox::new(seed, 0);
    (0..n).map(|_| image(f64::from(1 + rng.below(40)) / 40.0, rng.uniform() < 0.7)).collect()
}

#[test]
fn not_a_number_in_the_middle() {
    let mut images = with_ties(20, 0);
    images[7].confidence = f64::NAN;
    for measure in [ece, mce, ece_equal_mass, aurc] {
        assert!(measure(&images).is_nan() && measure(&[]).is_nan());
    }
}

#[test]
fn the_order_of_the_images_does_not_matter() {
    let mut images = with_ties(101, 1);
    let of = |images: &[Prediction]| [ece, mce, ece_equal_mass, aurc].map(|measure| measure(images));
    let first = of(&images);
    for seed in 0..20 {
        Philox::new(seed, 1).shuffle(&mut images);
        for (found, expected) in of(&images).into_iter().zip(first) {
            close(found, expected, 1e-14, "shuffled");
        }
    }
}

#[test]
fn bins_of_equal_mass() {
    // 32 images in 15 bins: the inner edges are those of ranks 3, 5, 7, 9, 11, 13, 15, 18, 20, ..., 30.
    let ranks: Vec<_> = (1..=15).map(|b| (b * 32usize).div_ceil(15)).collect();
    assert_eq!((ranks[0], ranks[1], ranks[6], ranks[7], ranks[14]), (3, 5, 15, 18, 32));
    let mut rng = Philox::new(4, 0);
    let images: Vec<_> = (1..=32).map(|i| image(f64::from(i) / 50.0, rng.uniform() < 0.5)).collect();
    let mut expected = 0.0;
    let mut start = 0;
    for end in ranks {
        expected += images[start..end].iter().map(|p| f64::from(p.right) - p.confidence).sum::<f64>().abs() / 32.0;
        start = end;
    }
    close(ece_equal_mass(&images), expected, 1e-15, "no ties");

    // Up to 15 images with confidences of their own: a bin for each, so nothing cancels.
    let few = [image(0.3, true), image(0.31, false), image(0.9, true)];
    close(ece_equal_mass(&few), (0.7 + 0.31 + 0.1) / 3.0, 1e-15, "a bin each");
    // Equal confidences share a bin, however many they are.
    let equals: Vec<_> = (0..60).map(|i| image(0.75, i % 4 != 0)).collect();
    close(ece_equal_mass(&equals), 0.0, 1e-15, "one bin");
}

#[test]
fn the_largest_error_is_that_of_a_bin() {
    // The bin of 0.95 and 0.96: two right, gap 0.045. That of 0.5: one wrong, gap 0.5. Empty bins do not count.
    let images = [image(0.95, true), image(0.96, true), image(0.5, false)];
    close(mce(&images), 0.5, 1e-15, "mce");
    close(mce(&images[..2]), 0.045, 1e-15, "without the wrong one");
    close(ece(&images), (0.09 + 0.5) / 3.0, 1e-15, "ece");
    assert_eq!(mce(&[image(1.0, true), image(1.0, true)]), 0.0);
}

/// Values of scipy.stats.binom.ppf.
#[test]
fn a_true_confidence_is_consistent_with_itself() {
    let bin = |images, confidence| calibration::Bin { images, confidence, accuracy: 0.5 };
    for (images, confidence, [low, high]) in [
        (100, 0.5, [0.4, 0.6]),
        (1, 0.9, [0.0, 1.0]),
        (10_000, 0.97, [0.9666, 0.9733]),
        (7, 1.0, [1.0, 1.0]),
        (20, 0.05, [0.0, 0.15]),
    ] {
        let found = bin(images, confidence).consistent().unwrap();
        assert!((found[0] - low).abs() < 1e-12 && (found[1] - high).abs() < 1e-12, "{images} {confidence}: {found:?}");
    }
    // A sum of rounded confidences may be above 1.
    assert_eq!(bin(7, 1.0 + 1e-15).consistent(), Some([1.0, 1.0]));
    assert_eq!([bin(0, f64::NAN).consistent(), bin(3, f64::NAN).consistent()], [None; 2]);
}

#[test]
fn the_reliability_diagram_adds_up() {
    let images = with_ties(300, 2);
    let bars = reliability(&images);
    assert_eq!((bars.len(), bars.iter().map(|bar| bar.images).sum::<usize>()), (ECE_BINS, 300));
    let filled: Vec<_> = bars.iter().filter(|bar| bar.images > 0).collect();
    let error = |bar: &&calibration::Bin| (bar.accuracy - bar.confidence).abs();
    let sum: f64 = filled.iter().map(|bar| bar.images as f64 * error(bar)).sum();
    close(sum / 300.0, ece(&images), 1e-14, "ece");
    close(filled.iter().map(error).fold(0.0, f64::max), mce(&images), 1e-14, "mce");
    for (b, bar) in bars.iter().enumerate().filter(|(_, bar)| bar.images > 0) {
        let (low, high) = (b as f64 / 15.0, (b + 1) as f64 / 15.0);
        assert!(bar.confidence > low && bar.confidence <= high + 1e-12, "{b}: {bar:?}");
    }

    let bars = reliability(&[image(1.0, true), image(1.0, false), image(0.0, false)]);
    assert_eq!((bars[14].images, bars[14].confidence, bars[14].accuracy), (2, 1.0, 0.5));
    assert_eq!((bars[0].images, bars[0].confidence, bars[0].accuracy), (1, 0.0, 0.0));
    assert!(bars[1..14].iter().all(|bar| bar.images == 0 && bar.confidence.is_nan() && bar.accuracy.is_nan()));
}

#[test]
fn classwise_counts_every_probability() {
    // p = (3/4, 1/4), twice class 0: class 0 is off by 1/4, class 1 by 1/4. The top confidence sees only the first.
    let logits = [3f64.ln(), 0.0, 3f64.ln(), 0.0];
    close(calibration::ece_classwise(&logits, &[0, 0], 2), 0.25, 1e-15, "both right");
    // One of each: 3/4 against 1/2, and 1/4 against 1/2.
    close(calibration::ece_classwise(&logits, &[0, 1], 2), 0.25, 1e-15, "one right");
    // Probabilities of exactly 0 and 1, each right and wrong once.
    let sure = [1e4, -1e4, 0.0, 1e4, -1e4, 0.0];
    close(calibration::ece_classwise(&sure, &[0, 1], 3), (0.5 + 0.5 + 0.0) / 3.0, 1e-15, "sure");
    assert_eq!(calibration::ece_classwise(&sure, &[0, 0], 3), 0.0);
}

#[test]
fn risk_and_coverage() {
    let of = |right: [bool; 4]| {
        let images = [0.9, 0.8, 0.7, 0.6].into_iter().zip(right).map(|(confidence, right)| image(confidence, right));
        aurc(&images.collect::<Vec<_>>())
    };
    assert_eq!((of([true; 4]), of([false; 4])), (0.0, 1.0));
    close(of([true, true, true, false]), 0.25 / 4.0, 1e-15, "the least sure is wrong");
    close(of([false, true, true, true]), (1.0 + 1.0 / 2.0 + 1.0 / 3.0 + 1.0 / 4.0) / 4.0, 1e-15, "the surest is wrong");
    assert_eq!((aurc(&[image(0.5, true)]), aurc(&[image(0.5, false)])), (0.0, 1.0));
}

#[test]
fn equal_confidences_come_in_every_order() {
    // Two images at 0.9 and four at 0.5: the mean over all 720 orders of six images, sorted stably by confidence.
    let images =
        [(0.9, false), (0.5, true), (0.5, false), (0.9, true), (0.5, true), (0.5, true)].map(|(c, r)| image(c, r));
    let mut places = [0usize, 1, 2, 3, 4, 5];
    let (mut sum, mut count) = (0.0, 0);
    permute(&mut places, 0, &mut |order| {
        let mut order = order.map(|i| images[i]);
        order.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
        let mut wrong = 0;
        for (i, p) in order.iter().enumerate() {
            wrong += usize::from(!p.right);
            sum += wrong as f64 / (i + 1) as f64 / 6.0;
        }
        count += 1;
    });
    assert_eq!(count, 720);
    close(aurc(&images), sum / 720.0, 1e-13, "aurc");
    // No use in a confidence that never changes: the risk is the error at every coverage.
    close(aurc(&images.map(|p| image(0.3, p.right))), 2.0 / 6.0, 1e-15, "all equal");
}

fn permute(places: &mut [usize; 6], fixed: usize, visit: &mut impl FnMut([usize; 6])) {
    if fixed == places.len() {
        return visit(*places);
    }
    for i in fixed..places.len() {
        places.swap(fixed, i);
        permute(places, fixed + 1, visit);
        places.swap(fixed, i);
    }
}

#[test]
fn confidences_by_outcome() {
    let logits = [4.6, 0.0, 4.59, 0.0, 0.0, 1.0]; // 0.9900, 0.9899, 0.731
    let p = |z: f64| 1.0 / (1.0 + (-z).exp());
    let found = evaluate(&logits, &[0, 1, 1], 2, Smoothing::NONE);
    close(found.above_99, 1.0 / 3.0, 1e-15, "above 0.99");
    close(found.confidence_right.unwrap(), (p(4.6) + p(1.0)) / 2.0, 1e-15, "right");
    close(found.confidence_wrong.unwrap(), p(4.59), 1e-15, "wrong");
    let edge = evaluate(&[99f64.ln(), 0.0], &[0], 2, Smoothing::NONE);
    assert_eq!((edge.mean_confidence, edge.above_99), (0.99, 0.0), "0.99 itself is not above it");
    assert_eq!(evaluate(&logits, &[0, 0, 1], 2, Smoothing::NONE).confidence_wrong, None);
    assert_eq!(evaluate(&logits, &[1, 1, 0], 2, Smoothing::NONE).confidence_right, None);
}

#[test]
fn the_excess_is_zero_at_the_target_only() {
    for variant in [Variant::Uniform, Variant::OffTarget] {
        let smoothing = Smoothing::new(variant, 0.3, 4).unwrap();
        let Masses { on, off } = smoothing.masses(4);
        let target = [off.ln(), on.ln(), off.ln(), off.ln()];
        close(evaluate(&target, &[1], 4, smoothing).excess_loss, 0.0, 1e-15, "the target itself");
        assert!(evaluate(&target.map(|z| 1.1 * z), &[1], 4, smoothing).excess_loss > 1e-3);
        assert!(evaluate(&target.map(|z| 0.9 * z), &[1], 4, smoothing).excess_loss > 1e-3);
    }
    let plain = evaluate(&[1.0, 2.0], &[0], 2, Smoothing::NONE);
    assert_eq!(plain.excess_loss, plain.nll);
}

#[test]
fn quantiles_are_numpys() {
    let values = [1.0, 2.0, 4.0, 8.0, 9.0];
    let cases = [(0.0, 1.0), (0.1, 1.4), (0.3, 2.4), (0.5, 4.0), (0.6, 5.6), (0.975, 8.9), (1.0, 9.0)];
    for (q, expected) in cases {
        close(quantile(&values, q), expected, 1e-15, &format!("{q}"));
    }
    assert_eq!((quantile(&[3.0], 0.4), quantile(&[f64::INFINITY; 2], 0.5)), (3.0, f64::INFINITY));
}

#[test]
fn the_bootstrap_draws_every_image_alike() {
    // K = 2: the mean draw of image 0 over all resamples is 1, and what is drawn is uniform over the images.
    let [zeros, mean] = intervals(200, 2000, 0.9, 3, |drawn| {
        assert_eq!(drawn.len(), 200);
        let zeros = drawn.iter().filter(|&&i| i == 0).count();
        [zeros as f64, drawn.iter().map(|&i| f64::from(i)).sum::<f64>() / 200.0]
    });
    // Poisson(1): 0.368 are 0, 0.920 at most 2, 0.981 at most 3. The mean: 99.5 +- 1.645 * 57.73 / sqrt(200).
    assert_eq!(zeros, Interval { low: 0.0, high: 3.0 });
    close(mean.low, 99.5 - 6.715, 0.01, "low");
    close(mean.high, 99.5 + 6.715, 0.01, "high");
}

#[test]
fn intervals_depend_on_the_seed_and_not_on_the_threads() {
    let images = with_ties(300, 5);
    let with = |threads: usize, seed| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| of_predictions(&images, 100, 0.95, seed))
    };
    let one = with(1, 8);
    assert_eq!(one, with(3, 8));
    assert_ne!(one, with(1, 9));
    // A wider level from the same resamples.
    let wide = of_predictions(&images, 100, 0.99, 8).accuracy;
    assert!(wide.low < one.accuracy.low && wide.high > one.accuracy.high, "{wide:?} {one:?}");
}

#[test]
fn intervals_are_those_of_the_measures() {
    let mut images = with_ties(250, 6);
    let mut rng = Philox::new(7, 0);
    images.iter_mut().for_each(|p| p.nll = rng.uniform());
    let found = of_predictions(&images, 400, 0.95, 1);
    let [accuracy, nll, error] = intervals(images.len(), 400, 0.95, 1, |drawn| {
        let drawn: Vec<_> = drawn.iter().map(|&i| images[i as usize]).collect();
        let mean = |of: fn(&Prediction) -> f64| drawn.iter().map(of).sum::<f64>() / 250.0;
        [mean(|p| f64::from(p.right)), mean(|p| p.nll), ece(&drawn)]
    });
    for (found, expected) in [(found.accuracy, accuracy), (found.nll, nll), (found.ece, error)] {
        close(found.low, expected.low, 1e-14, "low");
        close(found.high, expected.high, 1e-14, "high");
    }
    // The normal approximation of the binomial's: 1.96 standard errors.
    let p = images.iter().filter(|p| p.right).count() as f64 / 250.0;
    let half = 1.96 * (p * (1.0 - p) / 250.0).sqrt();
    close(accuracy.high - accuracy.low, 2.0 * half, 0.02, "width");
    assert!(accuracy.low < p && p < accuracy.high);
}

#[test]
fn intervals_of_next_to_nothing() {
    let both_nan = |interval: Interval| interval.low.is_nan() && interval.high.is_nan();
    assert!(both_nan(of_predictions(&[], 10, 0.95, 0).ece));
    assert!(both_nan(of_predictions(&with_ties(5, 0), 0, 0.95, 0).accuracy));
    let one = of_predictions(&[image(0.8, true)], 10, 0.95, 0);
    assert_eq!(one.accuracy, Interval { low: 1.0, high: 1.0 });
    close(one.ece.low, 0.2, 1e-15, "one image: the same every time");
    // Without a confidence the error has no interval; the accuracy has.
    let bad = of_predictions(&[image(f64::NAN, false), image(0.5, true)], 50, 0.95, 0);
    assert!(both_nan(bad.ece) && bad.accuracy == Interval { low: 0.0, high: 1.0 });
}

/// Catches an excess that rounding makes negative: these logits are the logarithms of the smoothed target itself.
#[test]
fn a_loss_at_its_least_has_an_excess_of_zero_and_not_below() {
    let mut rounded = 0;
    for classes in 2..40 {
        for step in 0..20 {
            let smoothing = Smoothing { variant: Variant::Uniform, epsilon: f64::from(step) / 20.0 };
            let Masses { on, off } = smoothing.masses(classes);
            let logits: Vec<f64> = (0..classes).map(|k| if k == 0 { on } else { off.max(1e-300) }.ln()).collect();
            let found = evaluate(&logits, &[0], classes, smoothing);
            rounded += u32::from(found.loss < smoothing.target_entropy(classes));
            assert!((0.0..1e-12).contains(&found.excess_loss), "{classes} {step}: {}", found.excess_loss);
        }
    }
    assert!(rounded > 0, "nothing was rounded down: the test says nothing");
    let sharpened = Smoothing { variant: Variant::Uniform, epsilon: -0.5 };
    assert!(evaluate(&[1.0, 0.0], &[0], 2, sharpened).excess_loss.is_nan(), "there is no least");
}
