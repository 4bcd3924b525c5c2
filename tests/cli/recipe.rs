//! The flags of the recipe: each does something, is recorded, goes on after --resume, and is refused where it makes no
//! sense.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use super::{TRAIN, assert_fails, metrics, number, read_tensors, run, stdout};

/// Every form, by its flags. An epoch has three steps.
const FORMS: [&str; 22] = [
    "",
    "--warmup-epochs 1",
    "--warmup-steps 2 --warmup-lr 0.0001",
    "--lr-schedule cosine",
    "--lr-schedule cosine --lr-epochs 3 --min-lr 0.0005",
    "--lr-schedule cosine --warmup-steps 4",
    "--lr-schedule one-cycle",
    "--lr-schedule one-cycle --opt sgd --lr 0.02",
    "--lr-schedule one-cycle --warmup-steps 4 --warmup-lr 0.0005 --min-lr 0.0001",
    "--lr-schedule step --decay-epochs 1",
    "--lr-schedule step --decay-epochs 1 --decay-rate 0.5",
    "--lr-schedule exponential --decay-rate 0.5",
    "--opt sgd --lr 0.02 --clip-grad-norm 0.5",
    "--opt adamw --weight-decay 0.5",
    "--opt adamw --weight-decay 0.5 --no-decay bias",
    "--opt sgd --lr 0.02 --weight-decay 0.5 --no-decay norm,bias",
    "--opt muon --lr-schedule one-cycle",
    "--opt muon --weight-decay 0.5 --no-decay bias --clip-grad-norm 0.5",
    "--mixup 0.4",
    "--cutmix 1",
    "--mixup 0.8 --cutmix 1",
    "--mixup 0.8 --accumulate 2",
];

fn model(dir: &Path, run: &str) -> Vec<u8> {
    fs::read(dir.join(run).join("model.safetensors")).unwrap()
}

/// Catches a flag that is read and changes nothing, and one that a resumed run forgets: every form leaves other
/// weights, and the same as in one go where it is stopped between its epochs.
#[test]
fn every_form_trains_and_goes_on_where_it_stopped() {
    let dir = tempdir().unwrap();
    let mut seen: Vec<(&str, Vec<u8>)> = vec![];
    for (i, flags) in FORMS.into_iter().enumerate() {
        let (whole, parts) = (format!("whole{i}"), format!("parts{i}"));
        run(dir.path(), &format!("{TRAIN} --epochs 2 --out {whole} {flags}")).success();
        // The length of a schedule follows from the run's epochs unless it is given.
        let finite = flags.contains("cosine") || flags.contains("one-cycle");
        let length = if finite && !flags.contains("lr-epochs") { "--lr-epochs 2" } else { "" };
        run(dir.path(), &format!("{TRAIN} --epochs 1 --out {parts} {flags} {length}")).success();
        run(dir.path(), &format!("train --device cpu --resume {parts} --epochs 2 {flags}")).success();
        assert!(model(dir.path(), &whole) == model(dir.path(), &parts), "{flags:?}: a resumed run is another one");
        let tensors = read_tensors(&dir.path().join(&whole).join("model.safetensors")).0;
        let bytes: Vec<u8> = tensors.into_values().flat_map(|(_, _, bytes)| bytes).collect();
        let same = seen.iter().find(|(_, other)| *other == bytes);
        assert!(same.is_none(), "{flags:?} gives the weights of {:?}", same.map(|(flags, _)| flags));
        seen.push((flags, bytes));
    }
}

/// Catches a rate that is not in the record, or not that of its step, a schedule that a resumed run has another length
/// of, and one that a GPU does not follow.
#[test]
fn each_step_names_its_rate_on_every_path() {
    let dir = tempdir().unwrap();
    let flags = "--lr 0.01 --lr-schedule one-cycle --log-every 1";
    for device in ["cpu", "gpu"] {
        let train = TRAIN.replace("cpu", device);
        run(dir.path(), &format!("{train} --epochs 3 --out {device} {flags}")).success();
        run(dir.path(), &format!("{train} --epochs 1 --lr-epochs 3 --out {device}-parts {flags}")).success();
        let resume = format!("train --device {device} --log-every 1 --resume {device}-parts --epochs");
        run(dir.path(), &format!("{resume} 2")).success();
        run(dir.path(), &format!("{resume} 3")).success();
        assert!(model(dir.path(), device) == model(dir.path(), &format!("{device}-parts")), "{device}");
        let steps = metrics(&dir.path().join(device), "step");
        let config: toml::Table =
            fs::read_to_string(dir.path().join(device).join("config.toml")).unwrap().parse().unwrap();
        assert_eq!(config["recipe"]["lr-schedule"].as_str(), Some("one-cycle"));
        assert_eq!(config["recipe"]["lr-epochs"].as_integer(), Some(3));
        // Up within 0.3 * 9 - 1 steps, down from there to the ninth.
        let half_cosine =
            |from: f64, to: f64, share: f64| to + (from - to) / 2.0 * (1.0 + (share * std::f64::consts::PI).cos());
        let top = 1.7;
        for (t, line) in steps.iter().enumerate() {
            let (t, first) = (t as f64, 0.01 / 25.0);
            let [lr, momentum] = match t <= top {
                true => [[first, 0.01], [0.95, 0.85]].map(|[a, b]| half_cosine(a, b, t / top)),
                false => [[0.01, first / 1e4], [0.85, 0.95]].map(|[a, b]| half_cosine(a, b, (t - top) / (8.0 - top))),
            };
            assert!((number(line, "lr") - lr).abs() < 1e-15, "{line}: {lr}");
            assert!((number(line, "momentum") - momentum).abs() < 1e-12, "{line}: {momentum}");
        }
        assert_eq!(steps, metrics(&dir.path().join(format!("{device}-parts")), "step"));
        let page = fs::read_to_string(dir.path().join(device).join("report.html")).unwrap();
        assert!(page.contains("learning rate\n</text>"), "a curve");
    }
    let [cpu, gpu] = ["cpu", "gpu"].map(|device| metrics(&dir.path().join(device), "epoch"));
    for (cpu, gpu) in cpu.iter().zip(&gpu) {
        assert!((number(cpu, "train_loss") - number(gpu, "train_loss")).abs() <= 2e-3, "{cpu}, {gpu}");
    }
}

/// Catches a norm that is not in the record, one of a part of the gradient, on a GPU or on the CPU, and a gradient that
/// changes though it is not too long.
#[test]
fn each_step_names_its_gradients_norm_on_every_path() {
    let dir = tempdir().unwrap();
    let flags = "--opt sgd --momentum 0 --epochs 1 --log-every 1 --limit-train 32";
    for device in ["cpu", "gpu"] {
        let train = TRAIN.replace("cpu", device);
        let trained = |name: &str, more: &str| {
            let name = format!("{device}-{name}");
            run(dir.path(), &format!("{train} --out {name} {flags} {more}")).success();
            (model(dir.path(), &name), metrics(&dir.path().join(&name), "step"))
        };
        let (plain, lines) = trained("plain", "--lr 1");
        assert!(lines[0].get("grad_norm").is_none(), "{lines:?}");
        let (long, lines) = trained("long", "--lr 1 --clip-grad-norm 1e30");
        assert!(long == plain, "{device}: a gradient that is not too long has changed");
        let (short, clipped) = trained("short", "--lr 1 --clip-grad-norm 0.25");
        assert_eq!(number(&clipped[0], "grad_norm"), number(&lines[0], "grad_norm"));
        assert!(short != plain && number(&clipped[0], "grad_norm") > 0.25, "{clipped:?}");
        trained("still", "--lr 0");
    }
    let [cpu, gpu] = ["cpu", "gpu"]
        .map(|device| number(&metrics(&dir.path().join(format!("{device}-short")), "step")[0], "grad_norm"));
    assert!((cpu - gpu).abs() <= 1e-4 * cpu, "{cpu}, {gpu}");
    let weights = |name: String| -> Vec<f64> {
        let tensors = read_tensors(&dir.path().join(name).join("model.safetensors")).0;
        let bytes: Vec<u8> = tensors.into_values().flat_map(|(_, _, bytes)| bytes).collect();
        bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect()
    };
    // At a rate of 1 the step moves the weights by as much as its gradient is long.
    for device in ["cpu", "gpu"] {
        let [short, still] = ["short", "still"].map(|name| weights(format!("{device}-{name}")));
        let moved = short.iter().zip(&still).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        assert!((moved - 0.25).abs() < 1e-4, "{device}: {moved}");
    }
}

/// Catches an average that changes the training, that a resumed run begins anew, that is not measured, or not timm's.
#[test]
fn the_average_of_the_weights_is_measured_saved_and_kept() {
    let dir = tempdir().unwrap();
    let file = |name: &str, file: &str| dir.path().join(name).join(file);
    let weights = |path: &Path| -> Vec<f64> {
        let bytes: Vec<u8> = read_tensors(path).0.into_values().flat_map(|(_, _, bytes)| bytes).collect();
        bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect()
    };
    for device in ["cpu", "gpu"] {
        let train = TRAIN.replace("cpu", device);
        let trained = |name: &str, flags: &str| {
            run(dir.path(), &format!("{train} --out {device}-{name} {flags}")).success();
            format!("{device}-{name}")
        };
        let plain = trained("plain", "--epochs 3");
        let whole = trained("whole", "--epochs 3 --ema 0.8");
        let parts = trained("parts", "--epochs 1 --ema 0.8");
        run(dir.path(), &format!("train --device {device} --resume {parts} --epochs 3 --ema 0.8")).success();
        let average = |run: &str| fs::read(file(run, "model-ema.safetensors")).unwrap();
        assert!(average(&whole) == average(&parts), "{device}: a resumed run is another one");
        assert!(average(&whole) != model(dir.path(), &whole));
        let model = |run: &str| weights(&file(run, "model.safetensors"));
        assert!(model(&plain) == model(&whole), "{device}: the average changes the training");
        assert!(!file(&plain, "model-ema.safetensors").exists());

        let last = metrics(&dir.path().join(&whole), "epoch").pop().unwrap();
        let eval = format!("eval --device {device} --json --limit-test 40 --model {whole}/model-ema.safetensors");
        let measured: Value = serde_json::from_str(&stdout(&run(dir.path(), &eval).success())).unwrap();
        for measure in ["nll", "accuracy", "ece"] {
            let [found, expected] = [number(&last, &format!("test_ema_{measure}")), number(&measured, measure)];
            assert!((found - expected).abs() < 1e-5, "{device}: {measure} {found}, {expected}");
        }

        // A step from known weights.
        let still = trained("still", "--epochs 1 --lr 0 --limit-train 32");
        let step = trained("step", "--epochs 1 --ema 0.8 --limit-train 32");
        let averages = weights(&file(&step, "model-ema.safetensors"));
        for ((found, before), after) in averages.iter().zip(model(&still)).zip(model(&step)) {
            let [kept, new] = [0.8 * before, 0.2 * after];
            // Both factors, both products and the sum are rounded.
            let rounding = 3.0 * 2f64.powi(-24) * (kept.abs() + new.abs());
            assert!((found - kept - new).abs() <= rounding, "{device}: {found}, {kept} and {new}");
        }
    }
    let resume = "train --device cpu --resume cpu-whole --epochs 4";
    assert_fails(run(dir.path(), &format!("{resume} --ema 0.9")), 2, &["--ema", "the run has 0.8"]);
    assert_fails(run(dir.path(), &format!("{TRAIN} --epochs 1 --ema 1")), 2, &["--ema: found 1, expected"]);
}

/// Catches a flag that is dropped without a word, and a schedule that changes in mid-run.
#[test]
fn what_makes_no_sense_is_refused() {
    let dir = tempdir().unwrap();
    let cases: [(&str, &[&str]); 11] = [
        ("--clip-grad-norm 0", &["--clip-grad-norm: found 0", "above 0"]),
        ("--no-decay norm,bias", &["--no-decay: found norm,bias", "--weight-decay"]),
        ("--min-lr 0.0001", &["--min-lr: found 0.0001", "--lr-schedule"]),
        ("--lr-schedule step", &["--decay-epochs: found none"]),
        ("--lr-schedule cosine --warmup-epochs 1 --warmup-steps 2", &["--warmup-steps: found 2", "one of the two"]),
        ("--lr-schedule cosine --warmup-epochs 1", &["--warmup-epochs: found 3 steps", "fewer than"]),
        ("--lr-schedule cosine --min-lr 1", &["--min-lr: found 1", "0.001"]),
        ("--lr-schedule exponential --decay-rate 2", &["--decay-rate: found 2"]),
        ("--mixup -1", &["--mixup: found -1", "from 0"]),
        ("--mixup 1 --loss focal", &["--mixup: found with --loss focal", "cross-entropy of the labels alone"]),
        ("--cutmix 1 --class-weights balanced", &["--cutmix: found with --class-weights"]),
    ];
    for (flags, parts) in cases {
        assert_fails(run(dir.path(), &format!("{TRAIN} --epochs 1 --out refused {flags}")), 2, parts);
        assert!(!dir.path().join("refused").exists(), "{flags}");
    }
    run(dir.path(), &format!("{TRAIN} --epochs 1 --lr-schedule cosine --out run")).success();
    let resume = "train --device cpu --resume run --epochs 2";
    assert_fails(run(dir.path(), &format!("{resume} --lr-schedule step")), 2, &["--lr-schedule", "the run has cosine"]);
    assert_fails(run(dir.path(), &format!("{resume} --lr-epochs 2")), 2, &["--lr-epochs", "the run has 1"]);
    assert_fails(run(dir.path(), &format!("{resume} --warmup-steps 2")), 2, &["--warmup-steps", "the run has none"]);
    assert_fails(run(dir.path(), &format!("{resume} --mixup 1")), 2, &["--mixup", "found 1.0, the run has none"]);
}

/// Catches a rate that is not tried, a suggestion out of the range, files that a test leaves, and a flag that is
/// dropped.
#[test]
fn lr_find_tries_rates_and_suggests_one() {
    let dir = tempdir().unwrap();
    let flags = "--network small.toml --limit-train 400 --limit-test 10 --batch-size 10 --steps 40";
    for device in ["cpu", "gpu"] {
        let command = format!("lr-find --device {device} {flags} --from 1e-5 --to 10 --svg {device}.svg");
        let found: Value =
            serde_json::from_str(&stdout(&run(dir.path(), &format!("{command} --json")).success())).unwrap();
        let steps = found["steps"].as_array().unwrap();
        assert_eq!(number(&steps[0], "lr"), 1e-5);
        assert!((number(&steps[1], "lr") / (1e-5 * 1e6f64.powf(1.0 / 39.0)) - 1.0).abs() < 1e-12);
        assert!(steps.len() == 40 || found["ended_early"] == true, "{found}");
        let suggestion = found["suggestion"].as_f64().unwrap();
        assert!((1e-5..10.0).contains(&suggestion), "{suggestion}");
        assert!(fs::read_to_string(dir.path().join(format!("{device}.svg"))).unwrap().starts_with("<svg"));
        let shown = stdout(&run(dir.path(), &command).success());
        assert_eq!(shown.lines().count(), steps.len() + 2, "{shown}");
        assert!(shown.contains(&format!("suggestion: --lr {suggestion:.2e}")), "{shown}");
    }
    assert!(!dir.path().join("runs").exists());
    assert_fails(run(dir.path(), "lr-find --device cpu --lr 0.1"), 2, &["--lr: found with lr-find"]);
    assert_fails(run(dir.path(), "lr-find --device cpu --from 0"), 2, &["--from: found 0"]);
    assert_fails(run(dir.path(), "lr-find --device cpu --to 1e-9"), 2, &["--to: found 0.000000001", "--from"]);
}

/// Catches a step for each batch where gradients are added up, and a schedule that counts batches.
#[test]
fn a_step_of_several_batches_is_one_step() {
    let dir = tempdir().unwrap();
    let flags = "--lr-schedule cosine --epochs 2 --log-every 1 --opt sgd --lr 0.01";
    run(dir.path(), &format!("{TRAIN} --limit-train 70 --batch-size 8 --accumulate 4 --out parts {flags}")).success();
    run(dir.path(), &format!("{TRAIN} --limit-train 70 --batch-size 32 --out whole {flags}")).success();
    let [parts, whole] = ["parts", "whole"].map(|out| metrics(&dir.path().join(out), "step"));
    assert_eq!((parts.len(), whole.len()), (6, 6));
    for (parts, whole) in parts.iter().zip(&whole) {
        assert_eq!(number(parts, "lr"), number(whole, "lr"));
        assert!((number(parts, "loss") - number(whole, "loss")).abs() < 1e-4, "{parts}, {whole}");
    }
    let config = fs::read_to_string(dir.path().join("parts/config.toml")).unwrap();
    assert!(config.contains("accumulate = 4"), "{config}");
    let resume = "train --device cpu --resume parts --epochs 3 --accumulate 2";
    assert_fails(run(dir.path(), resume), 2, &["--accumulate", "found 2, the run has 4"]);
}

/// Catches a best epoch that the plain weights choose, weights that are not the average's, and a report without it.
#[test]
fn the_average_chooses_the_best_epoch_where_it_is_asked_to() {
    let dir = tempdir().unwrap();
    let train = format!("{TRAIN} --limit-train 80 --val-split 0.25 --epochs 4 --lr 0.02 --best-by ema-nll");
    run(dir.path(), &format!("{train} --ema 0.9 --out run")).success();
    let out = dir.path().join("run");
    let epochs = metrics(&out, "epoch");
    let least = epochs.iter().min_by(|a, b| number(a, "val_ema_nll").total_cmp(&number(b, "val_ema_nll"))).unwrap();
    let test = metrics(&out, "test").pop().unwrap();
    assert_eq!((number(&test, "epoch"), &test["best_by"]), (number(least, "epoch"), &Value::from("ema-nll")));
    let eval = "eval --device cpu --json --limit-test 40 --model";
    let measured = |model: &str| -> Value {
        serde_json::from_str(&stdout(&run(dir.path(), &format!("{eval} {model}")).success())).unwrap()
    };
    assert!((number(&measured("run/best.safetensors"), "nll") - number(&test, "nll")).abs() < 1e-5);
    if number(least, "epoch") == 4.0 {
        assert!(fs::read(out.join("best.safetensors")).unwrap() != fs::read(out.join("model.safetensors")).unwrap());
        let average = number(&measured("run/model-ema.safetensors"), "nll");
        assert!((average - number(&test, "nll")).abs() < 1e-5);
    }
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("moving average of the weights"));
    // In one go and in two: the same.
    run(dir.path(), &format!("{} --ema 0.9 --out parts", train.replace("--epochs 4", "--epochs 2"))).success();
    run(dir.path(), "train --device cpu --resume parts --epochs 4").success();
    let best = |run: &str| fs::read(dir.path().join(run).join("best.safetensors")).unwrap();
    assert!(best("run") == best("parts"));
    assert_fails(run(dir.path(), &format!("{train} --out none")), 2, &["--best-by: found ema-nll", "--ema"]);
}
