//! Each pass of each op: the list of awkward cases, and random shapes.

use proptest::prelude::*;
use smoothcnn::check::cases;
use smoothcnn::check::conv2d_tiled as conv_and_more;
use smoothcnn::check::layers::layer;
use smoothcnn::check::linear_tiled::linear_tiled;
use smoothcnn::check::{fused, losses, nan, ops};
use smoothcnn::layer::Shape;
use smoothcnn::loss::comparator::ComparatorLoss;
use smoothcnn::loss::distillation::DistillationLoss;
use smoothcnn::loss::logit_penalty::LogitPenalty;
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::loss::weighted::Weighting;
use smoothcnn::loss::weighted::cases::Features;
use smoothcnn::loss::{FORMS, LossCase, comparator, distillation, logit_penalty, smoothed, weighted};
use smoothcnn::ops::augment::Augment;
use smoothcnn::ops::conv2d::Conv2d;
use smoothcnn::ops::linear::{self, Linear};
use smoothcnn::ops::linear_tiled::CASES;
use smoothcnn::ops::{self as layers, Case, conv2d_pool, conv2d_tiled};
use smoothcnn::rng::Philox;

use super::property::config;
use super::{GPU, assert_rows};

fn assert_loss(case: &LossCase) {
    assert_rows(losses::loss(&GPU, "loss", case));
}

/// Every layer of the registry.
#[test]
fn layer_cases() {
    for entry in layers::ALL {
        (entry.cases)().iter().filter(|case| !view(case)).for_each(|case| assert_rows(layer(&GPU, entry.name, case)));
    }
}

fn view(case: &Case) -> bool {
    case.layer.fit(case.input).unwrap().is_view()
}

/// Catches a NaN that is lost because it is not the first of its window.
#[test]
fn max_pool2d_of_a_nan() {
    assert_rows(nan::max_pool2d(&GPU));
}

/// Every form of loss over every shape.
#[test]
fn loss_cases() {
    losses::all(&GPU, |rows| assert_rows(Ok(rows))).unwrap();
}

#[test]
fn smoothed_loss_epsilons() {
    for &(n, classes, scale) in cases::SMOOTHED_LOSS {
        for variant in [Variant::Uniform, Variant::OffTarget] {
            for epsilon in [0.0, 0.45] {
                assert_loss(&smoothed::cases::case(n, classes, scale, Smoothing { variant, epsilon }));
            }
        }
    }
}

/// Catches a maximum that begins at 0: with every logit far below it nothing would be left of the exponentials.
#[test]
fn losses_of_logits_far_below_zero() {
    for listed in FORMS {
        for mut case in (listed.cases)(5, 10, 4.0).unwrap() {
            case.logits.iter_mut().for_each(|logit| *logit -= 1e4);
            assert_loss(&case);
        }
    }
}

/// Every combination of what the general loss covers, on one shape; logits of ignored rows and of classes that take no
/// part are NaN.
#[test]
fn weighted_loss_features() {
    Features::all().into_iter().for_each(|features| assert_loss(&weighted::cases::case(5, 67, 4.0, features)));
}

#[test]
fn clipping_cases() {
    cases::OPTIMIZER.iter().copied().map(Some).chain([None]).for_each(|len| assert_rows(ops::clip(&GPU, len)));
}

#[test]
fn average_cases() {
    cases::OPTIMIZER.iter().for_each(|&len| assert_rows(ops::ema(&GPU, len)));
}

#[test]
fn optimizer_cases() {
    for &len in cases::OPTIMIZER {
        ops::optimizers().iter().for_each(|optimizer| assert_rows(ops::optimizer(&GPU, len, optimizer)));
    }
    for wants_dx in [false, true] {
        ops::optimizers().iter().for_each(|optimizer| assert_rows(ops::optimizer_segments(&GPU, optimizer, wants_dx)));
    }
}

/// Sizes that are no multiple of four end in the middle of a word of the byte buffer.
#[test]
fn gather_cases() {
    for image in [[1, 1, 1], [1, 28, 28], [3, 5, 7], [2, 3, 3]] {
        assert_rows(ops::gather(&GPU, 3, image, &Augment::NONE));
    }
    for (image, augment) in ops::GATHERS {
        assert_rows(ops::gather(&GPU, 9, *image, augment));
    }
}

#[test]
fn conv2d_pool_cases() {
    conv2d_pool::CASES.iter().for_each(|&(n, dims)| assert_rows(fused::conv2d_pool(&GPU, n, dims)));
}

#[test]
fn conv2d_tiled_cases() {
    conv2d_tiled::CASES.iter().for_each(|(n, conv)| assert_rows(conv_and_more::conv2d_tiled(&GPU, *n, conv)));
}

/// Catches a variance that is lost in the square of a mean far from 0.
#[test]
fn conv2d_tiled_far_from_zero() {
    for kernel in [1, 3] {
        let conv = Conv2d { input: [1, 9, 13], c_out: 8, kernel: [kernel; 2], bias: false, ..Conv2d::PLAIN };
        for offset in [1e4, -300.0] {
            assert_rows(conv_and_more::one_way(&GPU, 5, &conv, 3, offset));
        }
    }
}

#[test]
fn averages_of_channels_that_are_last() {
    conv2d_tiled::AVERAGES
        .iter()
        .for_each(|(n, image)| assert_rows(conv_and_more::global_avg_pool2d(&GPU, *n, *image)));
}

/// The same in every form, layout and storage of the fused kernels.
#[test]
fn conv2d_pool_of_a_nan() {
    assert_rows(nan::conv2d_pool(&GPU));
}

#[test]
fn linear_tiled_and_head_cases() {
    for (n, dims) in linear::DIMS.iter().chain(CASES).filter(|(_, dims)| dims.inputs.is_multiple_of(4)) {
        assert_rows(linear_tiled(&GPU, *n, dims));
        for variant in [Variant::Uniform, Variant::OffTarget] {
            if dims.outputs <= 64 {
                assert_rows(fused::head(&GPU, *n, dims, Smoothing { variant, epsilon: 0.1 }));
            }
        }
    }
}

proptest! {
    #![proptest_config(config(24))]

    /// Every layer of the registry, as its own folder draws it.
    #[test]
    fn layers_random_shapes(
        n in 1usize..4, channels in 1usize..6, h in 1usize..15, w in 1usize..15, flat in any::<bool>(), seed in any::<u64>(),
    ) {
        let input = if flat { Shape::Features(channels * h * w) } else { Shape::Image([channels, h, w]) };
        for (i, entry) in layers::ALL.iter().enumerate() {
            let Some(drawn) = (entry.draw)(&mut Philox::new(seed, i as u64), input) else { continue };
            let case = Case { n, input, layer: drawn };
            if !view(&case) {
                assert_rows(layer(&GPU, entry.name, &case));
            }
        }
    }

    #[test]
    fn smoothed_loss_random_shapes(n in 1usize..20, classes in 2usize..300, epsilon in 0.0..0.49f64, off in any::<bool>()) {
        let variant = if off { Variant::OffTarget } else { Variant::Uniform };
        assert_loss(&smoothed::cases::case(n, classes, 4.0, Smoothing { variant, epsilon }));
    }

    #[test]
    fn weighted_loss_random_shapes(
        n in 1usize..20, classes in 2usize..300, epsilon in -1.0..0.99f64, soft in any::<bool>(),
        ignored in proptest::option::of(1usize..5),
        masked in any::<bool>(), prior in any::<bool>(),
        weighting in proptest::sample::select(vec![None, Some(Weighting::PyTorch), Some(Weighting::Sample)]),
    ) {
        let features = Features { soft, ignored: ignored.filter(|_| !soft), masked, prior, weighting, epsilon };
        assert_loss(&weighted::cases::case(n, classes, 4.0, features));
    }

    #[test]
    fn comparator_loss_random_shapes(n in 1usize..20, classes in 2usize..300, strength in 0.0..4.0f64, focal in any::<bool>()) {
        let new = if focal { ComparatorLoss::focal } else { ComparatorLoss::confidence_penalty };
        assert_loss(&comparator::cases::case(n, 4.0, new(classes, strength).unwrap()));
    }

    #[test]
    fn logit_penalty_random_shapes(n in 1usize..20, classes in 2usize..300, strength in 0.0..2.0f64, margin in proptest::option::of(0.0..6.0f64)) {
        let loss = match margin {
            Some(margin) => LogitPenalty::mbls(classes, strength, margin),
            None => LogitPenalty::maxsup(classes, strength),
        };
        assert_loss(&logit_penalty::cases::case(n, 4.0, loss.unwrap()));
    }

    #[test]
    fn distillation_loss_random_shapes(
        n in 1usize..20, classes in 2usize..300, temperature in 0.5..20.0f64, alpha in 0.0..1.0f64,
    ) {
        let loss = DistillationLoss::new(classes, temperature, alpha).unwrap();
        assert_loss(&distillation::cases::case(n, 4.0, loss));
    }

    #[test]
    fn conv2d_pool_random_shapes(
        n in 1usize..6, c_in in 1usize..10, fours in 1usize..6, h in 1usize..14, w in 1usize..14,
        padding in prop_oneof![Just([1usize, 1]), [0usize..3, 0usize..3]],
    ) {
        let dims = Conv2d { input: [c_in, h, w], c_out: fours * 4, kernel: [3, 3], stride: [1, 1], padding, bias: true, ..Conv2d::PLAIN };
        prop_assume!(dims.output().is_ok_and(|[_, h, w]| h >= 2 && w >= 2));
        assert_rows(fused::conv2d_pool(&GPU, n, dims));
    }

    #[test]
    fn conv2d_tiled_random_shapes(
        n in 1usize..6, c_in in 1usize..14, fours in 1usize..6, h in 1usize..14, w in 1usize..14,
        point in any::<bool>(), stride in 1usize..3, padding in [0usize..2, 0usize..2], bias in any::<bool>(),
        way in 0..conv_and_more::WAYS,
    ) {
        let (kernel, padding) = if point { ([1; 2], [0; 2]) } else { ([3; 2], padding) };
        let conv = Conv2d { input: [c_in, h, w], c_out: fours * 4, kernel, stride: [stride; 2], padding, bias, ..Conv2d::PLAIN };
        prop_assume!(conv.output().is_ok());
        // Not every way has something to do: a pooling of a single row.
        let rows = conv_and_more::one_way(&GPU, n, &conv, way, 0.0).unwrap();
        prop_assume!(!rows.is_empty());
        assert_rows(Ok(rows));
    }

    #[test]
    fn linear_tiled_random_shapes(n in 1usize..40, fours in 1usize..50, outputs in 2usize..70) {
        let dims = Linear::new(fours * 4, outputs);
        assert_rows(linear_tiled(&GPU, n, &dims));
        if outputs <= 64 {
            assert_rows(fused::head(&GPU, n, &dims, Smoothing { variant: Variant::Uniform, epsilon: 0.1 }));
        }
    }
}
