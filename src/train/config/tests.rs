//! What a configuration says of its loss, and what of it is refused.

use std::fs;

use super::loss::{LossConfig, LossKind, LossSettings, ScheduleKind};
use super::*;
use crate::data::Dataset;
use crate::loss::comparator::ComparatorLoss;
use crate::loss::distillation::DistillationLoss;
use crate::loss::smoothing::Smoothing;
use crate::loss::weighted::{WeightedLoss, Weighting};
use crate::loss::{Form, Loss};
use crate::ops::IGNORED;
use crate::schedule::Schedule;

fn config(settings: &LossSettings, epsilon: f64) -> LossConfig<'_> {
    LossConfig { settings, epsilon, variant: Variant::Uniform }
}

/// Three classes: twice 0, three times 1, once 2, and one image that is ignored.
fn train() -> Dataset {
    Dataset { labels: vec![0, 1, 1, 2, 0, 1, IGNORED], classes: 3, ..Dataset::default() }
}

fn kept() -> Vec<u32> {
    (0..7).collect()
}

fn refused<T>(result: Result<T>) -> String {
    result.err().expect("it is refused").to_string()
}

fn loss(settings: &LossSettings, epsilon: f64) -> Loss {
    config(settings, epsilon).loss(&train(), &kept()).unwrap()
}

fn weighted(settings: &LossSettings, epsilon: f64) -> WeightedLoss {
    let Form::Weighted(loss) = loss(settings, epsilon).form().clone() else { panic!("another form: {settings:?}") };
    loss
}

fn with(change: impl FnOnce(&mut LossSettings)) -> LossSettings {
    let mut settings = LossSettings::default();
    change(&mut settings);
    settings
}

#[test]
fn what_makes_no_sense_together_is_refused_by_its_flag() {
    let check = |settings: &LossSettings| config(settings, 0.0).check();
    let gamma = |kind, gamma| with(|s| (s.kind, s.focal_gamma) = (kind, Some(gamma)));
    assert!(check(&LossSettings::default()).is_ok() && LossSettings::default().is_default());
    assert!(check(&gamma(LossKind::Focal, 0.0)).is_ok() && !gamma(LossKind::Focal, 0.0).is_default());
    assert!(refused(check(&gamma(LossKind::CrossEntropy, 1.0))).contains("expected --loss focal with it"));
    for bad in [-0.1, f64::NAN, f64::INFINITY] {
        assert!(refused(check(&gamma(LossKind::Focal, bad))).contains("--focal-gamma: found"), "{bad}");
    }
    let beta = with(|s| (s.kind, s.confidence_beta) = (LossKind::Focal, Some(0.1)));
    assert!(refused(check(&beta)).contains("--confidence-beta: found 0.1, expected --loss confidence-penalty with it"));

    // What belongs to cross-entropy alone, and to a run without a teacher.
    let focal = with(|s| s.kind = LossKind::Focal);
    assert!(refused(config(&focal, 0.1).check()).contains("--label-smoothing: found with --loss focal"));
    let off_target = LossConfig { variant: Variant::OffTarget, ..config(&focal, 0.0) };
    assert!(refused(off_target.check()).contains("--smoothing-variant: found with"));
    type Given = (&'static str, fn(&mut LossSettings), bool);
    let given: [Given; 6] = [
        ("--smoothing-prior", |s| s.smoothing_prior = Some("unigram".into()), true),
        ("--smoothing-schedule", |s| s.smoothing_schedule = ScheduleKind::Warmup, false),
        ("--class-weights", |s| s.class_weights = Some("1,1,1".into()), true),
        ("--class-mask", |s| s.class_mask = vec![0, 1], true),
        ("--soft-labels", |s| s.soft_labels = Some("x".into()), true),
        ("--teacher", |s| s.teacher = Some("x".into()), false),
    ];
    for (flag, give, not_with_teacher) in given {
        let mut settings = focal.clone();
        give(&mut settings);
        let expected = format!("{flag}: found with --loss focal, expected cross-entropy");
        assert_eq!(refused(check(&settings)), expected);
        let mut settings = with(|s| (s.teacher, s.smoothing_epochs) = (Some("x".into()), None));
        give(&mut settings);
        if not_with_teacher {
            assert_eq!(refused(check(&settings)), format!("{flag}: found with --teacher, expected one of the two"));
        }
    }

    let prior = with(|s| s.smoothing_prior = Some("unigram".into()));
    let off_target = LossConfig { variant: Variant::OffTarget, ..config(&prior, 0.1) };
    assert!(refused(off_target.check()).contains("expected a smoothing variant of uniform with it"));
    assert!(config(&prior, 0.1).check().is_ok());
    assert!(refused(check(&with(|s| s.smoothing_epochs = Some(3)))).contains("expected --smoothing-schedule with it"));
    for kind in [ScheduleKind::Warmup, ScheduleKind::Decay] {
        let schedule = |epochs| with(|s| (s.smoothing_schedule, s.smoothing_epochs) = (kind, epochs));
        assert!(refused(check(&schedule(None))).contains("expected how many the schedule takes"));
        assert!(check(&schedule(Some(2))).is_ok());
    }
    let weighting = with(|s| s.class_weighting = Some(Weighting::Sample));
    assert!(refused(check(&weighting)).contains("--class-weighting: found sample, expected --class-weights with it"));
    let both = with(|s| (s.soft_labels, s.ignore_index) = (Some("x".into()), Some(-1)));
    assert!(refused(check(&both)).contains("--ignore-index: found -1 with --soft-labels"));
}

#[test]
fn a_teachers_numbers_are_in_range_and_need_a_teacher() {
    let check = |teacher: bool, temperature: Option<f64>, alpha: Option<f64>| {
        let settings = with(|s| {
            s.teacher = teacher.then(|| "x".into());
            (s.distill_temperature, s.distill_alpha) = (temperature, alpha);
        });
        config(&settings, 0.1).check()
    };
    assert!(check(true, Some(0.5), Some(1.0)).is_ok() && check(true, None, Some(0.0)).is_ok());
    assert!(refused(check(false, Some(2.0), None)).contains("--distill-temperature: found 2, expected --teacher"));
    assert!(refused(check(false, None, Some(0.5))).contains("--distill-alpha: found 0.5, expected --teacher"));
    for bad in [0.0, -1.0, f64::INFINITY, f64::NAN] {
        assert!(refused(check(true, Some(bad), None)).contains("expected a number above 0"), "{bad}");
    }
    for bad in [-0.1, 1.1, f64::NAN] {
        assert!(refused(check(true, None, Some(bad))).contains("expected a number from 0 to 1"), "{bad}");
    }
}

#[test]
fn the_kind_makes_the_loss() {
    let of = |settings: &LossSettings, epsilon| loss(settings, epsilon).form().clone();
    assert_eq!(of(&LossSettings::default(), 0.1), Form::from(Smoothing { variant: Variant::Uniform, epsilon: 0.1 }));
    let focal = |gamma| with(|s| (s.kind, s.focal_gamma) = (LossKind::Focal, gamma));
    assert_eq!(of(&focal(None), 0.0), Form::from(ComparatorLoss::focal(3, 2.0).unwrap()));
    assert_eq!(of(&focal(Some(0.5)), 0.0), Form::from(ComparatorLoss::focal(3, 0.5).unwrap()));
    let penalty = |beta| with(|s| (s.kind, s.confidence_beta) = (LossKind::ConfidencePenalty, beta));
    assert_eq!(of(&penalty(None), 0.0), Form::from(ComparatorLoss::confidence_penalty(3, 0.1).unwrap()));
    assert_eq!(of(&penalty(Some(0.3)), 0.0), Form::from(ComparatorLoss::confidence_penalty(3, 0.3).unwrap()));
    let smoothing = Smoothing { variant: Variant::Uniform, epsilon: 0.2 };
    let distilled = |temperature, alpha| DistillationLoss::new(3, temperature, alpha).unwrap().smoothed(smoothing);
    let teacher = with(|s| s.teacher = Some("x".into()));
    assert_eq!(of(&teacher, 0.2), Form::from(distilled(4.0, 0.9)));
    let numbers = LossSettings { distill_temperature: Some(2.0), distill_alpha: Some(0.5), ..teacher };
    assert_eq!(of(&numbers, 0.2), Form::from(distilled(2.0, 0.5)));
    assert_eq!(
        [LossKind::CrossEntropy, LossKind::Focal, LossKind::ConfidencePenalty].map(LossKind::usual_epsilon),
        [0.1, 0.0, 0.0]
    );
}

#[test]
fn a_prior_and_a_mask_change_where_epsilon_goes() {
    let unigram = weighted(&with(|s| s.smoothing_prior = Some("unigram".into())), 0.1);
    let shares = [2.0 / 6.0, 3.0 / 6.0, 1.0 / 6.0];
    let near = |(found, expected): (&f64, f64)| (found - expected).abs() < 1e-15;
    assert!(unigram.prior().iter().zip(shares).all(near), "the ignored image is none of them");
    let masked = with(|s| s.class_mask = vec![2, 0, 2]);
    let found = weighted(&masked, 0.1);
    assert_eq!(
        (found.allowed(), found.prior(), found.epsilon()),
        (&[true, false, true][..], &[0.5, 0.0, 0.5][..], 0.1)
    );
    // Off-target over the two that take part: e C/(C-1).
    let off_target = LossConfig { variant: Variant::OffTarget, ..config(&masked, 0.1) };
    let Form::Weighted(found) = off_target.loss(&train(), &kept()).unwrap().form().clone() else { panic!() };
    assert_eq!(found.epsilon(), 0.2);
    assert!(refused(LossConfig { epsilon: 0.5, ..off_target }.loss(&train(), &kept())).contains("less than 0.5"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prior");
    let of_file = |text: &str| {
        fs::write(&path, text).unwrap();
        let settings = with(|s| s.smoothing_prior = Some(path.display().to_string()));
        config(&settings, 0.1).loss(&train(), &kept()).map(|loss| loss.form().clone())
    };
    let Form::Weighted(found) = of_file("1, 0\t2\r\n").unwrap() else { panic!("another form") };
    assert_eq!(found.prior(), [1.0 / 3.0, 0.0, 2.0 / 3.0]);
    assert!(refused(of_file("1 2")).contains("found 2 numbers, expected 3"));
    for bad in ["1 -1 2", "1 x 2", "1 inf 2"] {
        assert!(refused(of_file(bad)).contains("expected 3 numbers from 0 on"), "{bad}");
    }
    let nothing = Dataset { labels: vec![IGNORED], ..train() };
    let unigram = with(|s| s.smoothing_prior = Some("unigram".into()));
    assert!(refused(config(&unigram, 0.1).loss(&nothing, &[0])).contains("found no training image that counts"));
}

#[test]
fn a_mask_names_two_classes_at_least() {
    let of = |mask: &[usize]| with(|s| s.class_mask = mask.to_vec()).allowed(3);
    assert_eq!((of(&[]).unwrap(), of(&[0, 2, 2]).unwrap()), (None, Some(vec![true, false, true])));
    assert!(refused(of(&[1, 3])).contains("found class 3, expected classes below 3"));
    assert!(refused(of(&[1, 1])).contains("found only class 1, expected at least two"));
}

#[test]
fn class_weights_are_balanced_or_given() {
    let of = |text: &str, mask: &[usize], train: &Dataset| {
        let settings = with(|s| (s.class_weights, s.class_mask) = (Some(text.into()), mask.to_vec()));
        config(&settings, 0.1).loss(train, &kept()).map(|loss| loss.form().clone())
    };
    let weights = |form: Form| match form {
        Form::Weighted(loss) => loss.weights().to_vec(),
        other => panic!("{other:?}"),
    };
    // 6 images / (3 classes * 2, 3, 1 images).
    assert_eq!(weights(of("balanced", &[], &train()).unwrap()), [1.0, 6.0 / 9.0, 2.0]);
    // Of classes 0 and 2 there are 3 images: 3 / (2 * 2), 3 / (2 * 1).
    assert_eq!(weights(of("balanced", &[0, 2], &train()).unwrap()), [0.75, 0.0, 1.5]);
    let without = Dataset { labels: vec![0, 1, 0], ..train() };
    assert!(refused(of("balanced", &[], &without)).contains("found no training image of class 2"));
    assert_eq!(weights(of("balanced", &[0, 1], &without).unwrap()), [0.75, 1.5, 0.0]);
    assert_eq!(weights(of("1, 0,2.5", &[], &train()).unwrap()), [1.0, 0.0, 2.5]);
    assert!(refused(of("1,2", &[], &train())).contains("found 2 weights, expected 3"));
    for bad in ["1,-1,2", "1,NaN,2", "1,inf,2"] {
        assert!(refused(of(bad, &[], &train())).contains("for class 1, expected a number from 0 on"), "{bad}");
    }
    assert!(refused(of("no-such-file", &[], &train())).contains("expected balanced, 3 numbers"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    fs::write(&path, "3\n2\n1\n").unwrap();
    assert_eq!(weights(of(&path.display().to_string(), &[], &train()).unwrap()), [3.0, 2.0, 1.0]);
    let sample = with(|s| {
        (s.class_weights, s.class_weighting) = (Some("1,1,2".into()), Some(Weighting::Sample));
    });
    assert_eq!(weighted(&sample, 0.1).weighting(), Weighting::Sample);
}

/// Soft labels as an IDX file: two dimensions of bytes.
#[test]
fn soft_labels_are_shares_of_what_takes_part() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("soft");
    let of = |rows: &[[u8; 3]], mask: &[usize], kept: &[u32]| {
        let head = [0, 0, 8, 2, 0, 0, 0, rows.len() as u8, 0, 0, 0, 3];
        fs::write(&path, [&head[..], rows.as_flattened()].concat()).unwrap();
        let settings = with(|s| (s.soft_labels, s.class_mask) = (Some(path.clone()), mask.to_vec()));
        let train = Dataset { labels: vec![0; kept.len()], ..train() };
        config(&settings, 0.1).loss(&train, kept).map(|loss| loss.rows().unwrap().to_vec())
    };
    let rows = [[1, 1, 2], [0, 0, 0], [3, 1, 4]];
    // By the places that the images have in the file.
    assert_eq!(of(&rows, &[], &[2, 0]).unwrap(), [0.375, 0.125, 0.5, 0.25, 0.25, 0.5]);
    assert_eq!(of(&rows, &[0, 1], &[2]).unwrap(), [0.75, 0.25, 0.0]);
    assert!(refused(of(&rows, &[], &[1])).contains("row 1: found a sum of 0"));
    assert!(refused(of(&rows[..2], &[], &[0, 2])).contains("found 2 rows, expected one for each of 3 images"));
    let four = Dataset { classes: 4, ..train() };
    let settings = with(|s| s.soft_labels = Some(path.clone()));
    assert!(refused(config(&settings, 0.1).loss(&four, &[0])).contains("found rows of 3 numbers, expected 4"));

    // The same as a matrix, whose numbers may be wrong.
    let path = folder.path().join("soft.safetensors");
    let of = |data: &[f64]| {
        let name = "soft".to_owned();
        let tensor = crate::train::checkpoint::Tensor { name, shape: vec![data.len() / 3, 3], data: data.into() };
        crate::train::checkpoint::save(&path, &[tensor], Dtype::F64, &Default::default()).unwrap();
        let settings = with(|s| s.soft_labels = Some(path.clone()));
        config(&settings, 0.1).loss(&train(), &[1]).map(|loss| loss.rows().unwrap().to_vec())
    };
    assert_eq!(of(&[9.0, 9.0, 9.0, 1.0, 0.0, 3.0]).unwrap(), [0.25, 0.0, 0.75]);
    assert!(refused(of(&[1.0, 1.0, 1.0, 1.0, -1.0, 3.0])).contains("row 1: found -1, expected numbers from 0 on"));
    assert!(refused(of(&[1.0, 1.0, 1.0, 1e308, 1e308, 1e308])).contains("found a sum of inf"));
}

#[test]
fn a_negative_epsilon_has_a_flag_of_its_own() {
    let of = |allowed, variant, epsilon| {
        with(|s| s.allow_negative_smoothing = allowed).smoothing(variant, epsilon, 4).map(|found| found.epsilon)
    };
    assert_eq!(of(true, Variant::Uniform, -0.5).unwrap(), -0.5);
    assert_eq!(of(false, Variant::Uniform, 0.5).unwrap(), 0.5);
    let message = refused(of(false, Variant::Uniform, -0.5));
    assert!(message.ends_with("expected a number in [0, 1), or --allow-negative-smoothing with it"), "{message}");
    // What the flag would not mend is refused without naming it.
    for bad in [f64::NEG_INFINITY, f64::NAN, 1.0] {
        assert!(refused(of(false, Variant::Uniform, bad)).ends_with("expected a number in [0, 1)"), "{bad}");
    }
    let zero = of(false, Variant::Uniform, 0.0);
    assert!(zero.unwrap() == 0.0 && refused(of(false, Variant::OffTarget, 0.75)).contains("off-target"));
}

#[test]
fn schedules_last_epochs_of_steps() {
    let of = |kind, epochs| with(|s| (s.smoothing_schedule, s.smoothing_epochs) = (kind, epochs)).schedule_over(5);
    assert_eq!(of(ScheduleKind::Constant, None), Schedule::CONSTANT);
    assert_eq!(of(ScheduleKind::Warmup, Some(3)), Schedule::rising(15));
    assert_eq!(of(ScheduleKind::Decay, Some(3)), Schedule::falling(15));
}

#[test]
fn a_loss_is_described_in_words() {
    let of = |settings: &LossSettings, epsilon| config(settings, epsilon).describe(10);
    let plain = LossSettings::default();
    // 0.1 * 9/10 off-target; off-target 0.09 is 0.1 uniform.
    assert_eq!(of(&plain, 0.1), "label smoothing 0.1 uniform (= 0.0900 off-target)");
    assert_eq!(of(&plain, 0.0), "plain cross-entropy");
    let off_target = LossConfig { variant: Variant::OffTarget, ..config(&plain, 0.09) };
    assert_eq!(off_target.describe(10), "label smoothing 0.09 off-target (= 0.1000 uniform)");
    // Two classes take part, one of them named twice.
    let masked = with(|s| (s.class_mask, s.ignore_index) = (vec![3, 4, 3], Some(-1)));
    let expected = "label smoothing 0.1 uniform (= 0.0500 off-target), classes [3, 4, 3] only, label -1 ignored";
    assert_eq!(of(&masked, 0.1), expected);
    let prior = with(|s| {
        (s.smoothing_prior, s.class_weights) = (Some("unigram".into()), Some("balanced".into()));
        (s.smoothing_schedule, s.smoothing_epochs) = (ScheduleKind::Warmup, Some(3));
    });
    let expected = "label smoothing 0.1 by the prior unigram, from 0 over 3 epochs, class weights balanced (pytorch)";
    assert_eq!(of(&prior, 0.1), expected);
    let falling = LossSettings { smoothing_schedule: ScheduleKind::Decay, ..prior };
    assert_eq!(config(&falling, 0.1).schedule(), ", falling to 0 over 3 epochs");
    assert_eq!(
        (config(&falling, 0.1).spread(), off_target.spread()),
        ("by the prior unigram".into(), "off-target".into())
    );
    let focal = with(|s| s.kind = LossKind::Focal);
    assert_eq!((of(&focal, 0.0), config(&focal, 0.0).describe_all()), ("focal loss, gamma 2".into(), of(&focal, 0.0)));
    let penalty = with(|s| (s.kind, s.confidence_beta) = (LossKind::ConfidencePenalty, Some(0.3)));
    assert_eq!(of(&penalty, 0.0), "confidence penalty, beta 0.3");
    let taught = with(|s| (s.teacher, s.soft_labels) = (Some("old".into()), Some("soft".into())));
    let expected =
        "cross-entropy with label smoothing, distilled from old (temperature 4, alpha 0.9), soft labels of soft";
    assert_eq!(config(&taught, 0.1).describe_all(), expected);
    assert_eq!(
        [LossKind::CrossEntropy, LossKind::Focal, LossKind::ConfidencePenalty].map(LossKind::name),
        ["cross-entropy", "focal", "confidence-penalty"]
    );
}

#[test]
fn numbers_of_a_configuration_are_bounded() {
    let check = |change: &dyn Fn(&mut Config)| {
        let mut config = Config::default();
        change(&mut config);
        config.check()
    };
    assert!(check(&|_| ()).is_ok());
    for (name, set) in [
        ("--epochs", (|c, n| c.epochs = n) as fn(&mut Config, usize)),
        ("--patience", |c, n| c.patience = Some(n)),
        ("--batch-size", |c, n| c.batch_size = n),
        ("--limit-train", |c, n| c.limit_train = Some(n)),
        ("--limit-test", |c, n| c.limit_test = Some(n)),
    ] {
        assert!(check(&|c| set(c, 1)).is_ok() && check(&|c| set(c, MOST)).is_ok(), "{name}");
        for bad in [0, MOST + 1] {
            assert!(refused(check(&|c| set(c, bad))).starts_with(&format!("{name}: found {bad}, expected a")));
        }
    }
    assert!(check(&|c| c.checkpoint_every = MOST).is_ok() && check(&|c| c.checkpoint_every = 0).is_ok());
    assert!(refused(check(&|c| c.checkpoint_every = MOST + 1)).starts_with("--checkpoint-every: found"));
    assert!(check(&|c| c.seed = i64::MAX as u64).is_ok());
    assert!(refused(check(&|c| c.seed = 1 << 63)).starts_with("--seed: found"));
    assert!(check(&|c| c.labels.val_split = 0.9).is_ok() && check(&|c| c.labels.label_noise = 1.0).is_ok());
    assert!(refused(check(&|c| c.labels.val_split = 0.91)).starts_with("--val-split: found 0.91"));
    assert!(refused(check(&|c| c.labels.label_noise = -0.1)).starts_with("--label-noise: found -0.1"));
    let halves = |c: &mut Config| c.activations = Storage::F16;
    assert!(check(&halves).is_ok() && check(&|c| c.dtype = Precision::F64).is_ok());
    let both = |c: &mut Config| (c.activations, c.dtype) = (Storage::F16, Precision::F64);
    assert!(refused(check(&both)).starts_with("--activations f16: found --dtype f64"));
    // What f32 does not hold, f64 may.
    let large = |c: &mut Config| c.optimizer = Optimizer::Adam(Adam { lr: 1e39, ..Adam::default() });
    assert!(check(&large).is_err());
    assert!(check(&|c| (large(c), c.dtype = Precision::F64).1).is_ok());
    let soft = |c: &mut Config| c.loss.soft_labels = Some("x".into());
    assert!(check(&soft).is_ok());
    assert!(refused(check(&|c| (soft(c), c.labels.label_noise = 0.1).1)).starts_with("--label-noise: found with"));
    assert!(refused(check(&|c| (soft(c), c.labels.train_labels = Some("y".into())).1)).starts_with("--train-labels: "));
    assert!(refused(check(&|c| c.label_smoothing = 1.0)).starts_with("--label-smoothing: found 1"));
    assert_eq!([Precision::F32, Precision::F64].map(Dtype::from), [Dtype::F32, Dtype::F64]);
}

/// A refusal of a file names the file and its key, in whichever table it is.
#[test]
fn a_files_refusals_name_its_keys() {
    let read = |config: Config| refused(config.read_from(Path::new("run/config.toml")));
    assert_eq!(read(Config { epochs: 0, ..Config::default() })[..25], *"run/config.toml: epochs: ");
    let labels = Labels { val_split: 2.0, ..Labels::default() };
    assert!(read(Config { labels, ..Config::default() }).starts_with("run/config.toml: labels.val-split: found 2"));
    let loss = with(|s| s.class_weighting = Some(Weighting::Sample));
    assert!(
        read(Config { loss, ..Config::default() }).starts_with("run/config.toml: loss.class-weighting: found sample")
    );
    let config = Config::default();
    assert_eq!(config.named(Err::<(), _>(Error::Usage("--x: y".into()))).unwrap_err().to_string(), "--x: y");
    let config = config.read_from(Path::new("a.toml")).unwrap();
    // A flag with a value has no key, and other errors name their own file.
    let named = |error: Error| config.named(Err::<(), _>(error)).unwrap_err().to_string();
    assert_eq!(named(Error::Usage("--activations f16: found".into())), "a.toml: --activations f16: found");
    assert_eq!(named(Error::Run("lost".into())), Error::Run("lost".into()).to_string());
}

#[test]
fn a_configuration_says_where_its_data_is() {
    let built_in = Config { limit_train: Some(5), ..Config::default() };
    let found = built_in.trained_on();
    assert_eq!((found.data, found.dir, found.limit_train), (DataKind::default(), None, Some(5)));
    let mnist = DataKind::from_name("mnist").unwrap();
    let moved = Config { data: mnist, data_dir: "/d".into(), limit_test: Some(7), ..Config::default() };
    let found = moved.trained_on();
    assert_eq!((found.data, found.dir, found.limit_test), (mnist, Some("/d".into()), Some(7)));
    let source = moved.source();
    assert_eq!((source.data, source.data_dir, source.limit_test), (mnist, "/d".into(), Some(7)));
}

/// A run of every epoch's checkpoints says nothing of them, so that its entry's name is what it always was.
#[test]
fn a_checkpoint_after_each_epoch_is_left_out_of_the_file() {
    let text = |checkpoint_every| toml::to_string(&Config { checkpoint_every, ..Config::default() }).unwrap();
    assert_eq!(Config::default().checkpoint_every, 1);
    assert!(!text(1).contains("checkpoint-every") && text(0).contains("checkpoint-every = 0"));
    let read = |text: &str| toml::from_str::<Config>(text).unwrap().checkpoint_every;
    assert_eq!([read(&text(0)), read(&text(1)), read(&text(5))], [0, 1, 5]);
}
