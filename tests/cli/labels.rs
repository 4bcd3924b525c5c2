//! Which images are trained on, with which labels: the validation split, noise, replaced labels, other data sets.

use std::fs;

use tempfile::tempdir;

use super::{TRAIN, assert_fails, json_lines, metrics, number, run, stdout};

/// Catches a choice made on the test set: with a split, epochs measure the held-out images, and the test set comes
/// once.
#[test]
fn a_validation_split_is_measured_after_each_epoch_and_the_test_set_once() {
    let dir = tempdir().unwrap();
    let done = run(dir.path(), &format!("{TRAIN} --epochs 2 --val-split 0.25 --json --out run")).success();
    let out = dir.path().join("run");
    let (epochs, tests) = (metrics(&out, "epoch"), metrics(&out, "test"));
    assert_eq!((epochs.len(), tests.len()), (2, 1));
    for line in &epochs {
        assert!(number(line, "val_nll") > 0.0 && line.get("test_nll").is_none(), "{line}");
    }
    // 60 of 80 images remain: two batches of 32 an epoch.
    assert_eq!(epochs[1]["step"], 4);
    assert_eq!(tests[0]["images"], 40);
    assert_eq!(json_lines(&stdout(&done)).len(), 3);
    // The model file says the same.
    let eval = run(dir.path(), "eval --model run/model.safetensors --limit-test 40 --device cpu --json").success();
    let measured = &json_lines(&stdout(&eval))[0];
    assert_eq!(measured["accuracy"], tests[0]["accuracy"]);
    assert!((number(measured, "nll") - number(&tests[0], "nll")).abs() < 1e-6);
    // A temperature is fitted on the images that were held out.
    let fitted = run(dir.path(), "calibrate run --device cpu --json").success();
    let fitted = &json_lines(&stdout(&fitted))[0];
    assert_eq!((&fitted["validation"]["images"], &fitted["test"]["images"]), (&20.into(), &40.into()));
    let last = &epochs[1];
    assert!((number(&fitted["validation"], "nll_before") - number(last, "val_nll")).abs() < 1e-6, "{fitted} {last}");
    assert!(out.join("temperature.toml").exists());
    // Going on measures the test set anew.
    run(dir.path(), "train --resume run --epochs 3").success();
    assert_eq!((metrics(&out, "epoch").len(), metrics(&out, "test").len()), (3, 1));
}

/// Catches a fit on images that the model was trained on, which would look better than it is.
#[test]
fn calibrate_refuses_a_run_that_held_nothing_out() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    assert_fails(run(dir.path(), "calibrate run --device cpu"), 4, &["run/config.toml", "--val-split"]);
    assert_fails(run(dir.path(), "calibrate nowhere --device cpu"), 4, &["nowhere/config.toml"]);
}

/// Catches noise at another rate, on held-out images, or that the seed does not settle.
#[test]
fn label_noise_is_recorded_and_is_a_function_of_the_seed() {
    let dir = tempdir().unwrap();
    let flipped = |out: &str, args: &str| -> Vec<usize> {
        run(dir.path(), &format!("{TRAIN} --epochs 1 --out {out} {args}")).success();
        let text = fs::read_to_string(dir.path().join(out).join("flipped.txt")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    let noisy = flipped("a", "--label-noise 0.4");
    assert_eq!(noisy.len(), 32);
    assert!(noisy.windows(2).all(|pair| pair[0] < pair[1]) && noisy[31] < 80);
    assert_eq!(noisy, flipped("b", "--label-noise 0.4"));
    assert_ne!(noisy, flipped("c", "--label-noise 0.4 --seed 1"));
    assert_eq!(flipped("d", "--label-noise 0.5 --val-split 0.5").len(), 20);
    assert_eq!(flipped("e", "").len(), 0);
    assert!(!dir.path().join("e/flipped.txt").exists());
    let loss = |out: &str| number(&metrics(&dir.path().join(out), "epoch")[0], "train_loss");
    assert_ne!(loss("a"), loss("e"));
}

/// Catches labels that are read but not used, or used where they do not fit.
#[test]
fn training_labels_are_replaced_by_a_file() {
    let dir = tempdir().unwrap();
    let write = |name: &str, labels: &[u8]| {
        let header = [0, 0, 8, 1].into_iter().chain((labels.len() as u32).to_be_bytes());
        fs::write(dir.path().join(name), header.chain(labels.iter().copied()).collect::<Vec<_>>()).unwrap();
    };
    write("all-sevens", &[7; 100]);
    let args = "--epochs 4 --lr 0.01 --label-smoothing 0 --train-labels all-sevens";
    run(dir.path(), &format!("{TRAIN} {args} --out run")).success();
    let last = &metrics(&dir.path().join("run"), "epoch")[3];
    assert!(number(last, "train_loss") < 0.01 && number(last, "test_accuracy") < 0.3, "{last}");

    write("too-few", &[1; 79]);
    write("too-large", &[10; 80]);
    for (file, expected) in
        [("too-few", "79 labels, expected"), ("too-large", "is 10, expected below 10"), ("none", "")]
    {
        let failed = run(dir.path(), &format!("{TRAIN} --train-labels {file} --out other"));
        assert_fails(failed, 4, &[file, expected]);
        assert!(!dir.path().join("other").exists());
    }
}

/// Catches rates that make no sense.
#[test]
fn shares_outside_their_range_are_refused() {
    let dir = tempdir().unwrap();
    for (args, flag) in [
        ("--val-split 0.95", "--val-split"),
        ("--val-split -0.1", "--val-split"),
        ("--val-split 0.001", "--val-split"),
        ("--label-noise 1.5", "--label-noise"),
        ("--label-noise NaN", "--label-noise"),
    ] {
        assert_fails(run(dir.path(), &format!("{TRAIN} {args} --out run")), 2, &[flag]);
        assert!(!dir.path().join("run").exists());
    }
}

/// Catches three channels taken for one, here or in the model's metadata.
#[test]
fn cifar_10_trains_and_evaluates() {
    let dir = tempdir().unwrap();
    let records = |n: u8| -> Vec<u8> { (0..n).flat_map(|i| [vec![i % 10], vec![i * 5; 3072]].concat()).collect() };
    fs::write(dir.path().join("data_batch_1.bin"), records(40)).unwrap();
    fs::write(dir.path().join("test_batch.bin"), records(20)).unwrap();
    let data = "--data cifar-10 --data-dir . --device cpu";
    run(dir.path(), &format!("train {data} --epochs 1 -b 16 --out run")).success();
    let eval = run(dir.path(), &format!("eval --model run/model.safetensors {data} --json")).success();
    let test = &metrics(&dir.path().join("run"), "epoch")[0];
    assert_eq!(json_lines(&stdout(&eval))[0]["accuracy"], test["test_accuracy"]);
}
