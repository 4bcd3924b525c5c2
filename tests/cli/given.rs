//! What is given is believed only after it was checked, wherever it comes from, and nothing that is given is dropped.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use super::refuse::refused;
use super::{TRAIN, assert_fails, command, metrics, number, run, snapshot};

/// Catches a value of a configuration that a flag could not have, and a key that is none, in a run's config.toml, in a
/// plan and in an entry: each is named with its file.
#[test]
fn files_are_checked_as_flags_are() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --val-split 0.2 --out run")).success();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --opt sgd --out sgd")).success();
    let grid = "--limit-train 80 --limit-test 40 --seeds 1 --label-smoothing 0.1 --out s";
    run(dir.path(), &format!("sweep plan {grid}")).success();
    let replaced = |file: &Path, from: &str, to: &str| {
        let good = fs::read_to_string(file).unwrap();
        let bad = good.replacen(from, to, 1);
        assert_ne!(good, bad, "{from}");
        fs::write(file, bad).unwrap();
        good
    };
    for (at, from, to, parts) in [
        ("run", "batch-size = 32", "batch-size = 0", &["batch-size: found 0", "at least 1"][..]),
        ("run", "epochs = 1", "epochs = 0", &["epochs: found 0"]),
        ("run", "limit-train = 80", "limit-train = 0", &["limit-train: found 0"]),
        ("run", "lr = 0.001", "lr = -5.0", &["optimizer.lr: found -5", "at least 0"]),
        ("run", "lr = 0.001", "lr = nan", &["optimizer.lr: found NaN"]),
        ("run", "lr = 0.001", "lr = inf", &["optimizer.lr: found inf"]),
        ("run", "weight_decay = 0.0", "weight_decay = -1.0", &["optimizer.weight_decay: found -1"]),
        ("run", "0.999,", "1.0,", &["optimizer.betas: found 1", "below 1"]),
        ("run", "eps = 0.00000001", "eps = 0.0", &["optimizer.eps: found 0", "above 0"]),
        ("run", "val-split = 0.2", "val-split = 0.95", &["labels.val-split: found 0.95"]),
        ("run", "label-noise = 0.0", "label-noise = nan", &["labels.label-noise: found NaN"]),
        ("run", "label-smoothing = 0.1", "label-smoothing = 1.5", &["label-smoothing: found 1.5"]),
        ("run", "0.2525", "0.0", &["std: found 0"]),
        ("run", "0.1127", "inf", &["mean: found inf"]),
        ("run", "version = \"0.", "version = \"99.", &["version: found \"99.", "expected at most"]),
        ("run", "batch-size = 32", "batchsize = 32", &["unknown key \"batchsize\"", "perhaps \"batch-size\""]),
        ("run", "limit-train = 80", "limit_train = 80", &["unknown key \"limit_train\"", "perhaps \"limit-train\""]),
        ("run", "val-split = 0.2", "val-spilt = 0.2", &["unknown key \"val-spilt\"", "perhaps \"val-split\""]),
        ("run", "weight_decay = 0.0", "weight-decay = 0.0", &["unknown key \"weight-decay\"", "\"weight_decay\""]),
        ("run", "[optimizer]", "[loss]\nlos = \"focal\"\n[optimizer]", &["unknown key los", "expected"]),
        ("run", "name = \"adam\"", "name = \"adan\"", &["unknown value \"adan\"", "perhaps \"adam\""]),
        ("run", "dtype = \"f32\"", "dtype = \"f64\"\nactivations = \"f16\"", &["activations", "f64"]),
        ("run", "[optimizer]", "[loss]\nsmoothing-epochs = 3\n[optimizer]", &["loss.smoothing-epochs: found 3"]),
        (
            "run",
            "[optimizer]",
            "[loss]\nsmoothing-schedule = \"warmup\"\n[optimizer]",
            &["smoothing-epochs: found none"],
        ),
        ("run", "[optimizer]", "[loss]\nclass-mask = [3]\n[optimizer]", &["loss.class-mask: found only class 3"]),
        ("sgd", "momentum = 0.9", "momentum = -1.0", &["optimizer.momentum: found -1"]),
        ("sgd", "nesterov = false", "nesterov = true\nmomentun = 0.9", &["unknown key \"momentun\""]),
    ] {
        let file = dir.path().join(at).join("config.toml");
        let good = replaced(&file, from, to);
        let named = format!("{at}/config.toml: ");
        let parts: Vec<_> = parts.iter().copied().chain([named.as_str()]).collect();
        refused(dir.path(), &format!("train --device cpu --resume {at} --epochs 3"), 4, &parts);
        if from == "0.999," {
            refused(dir.path(), "calibrate run --device cpu", 4, &parts);
        }
        fs::write(file, good).unwrap();
    }
    let plan = dir.path().join("s/plan.json");
    for (from, to, parts) in [
        ("\"batch-size\":64", "\"batch-size\":0", ["batch-size: found 0", "at least 1"]),
        ("\"lr\":0.001", "\"lr\":-5", ["optimizer.lr: found -5", "at least 0"]),
        ("\"limit-train\":80", "\"limit-trian\":80", ["unknown key \"limit-trian\"", "perhaps \"limit-train\""]),
        ("\"out\":", "\"outt\":1,\"out\":", ["unknown key \"outt\"", "perhaps \"out\""]),
        ("\"version\":\"0", "\"version\":\"77", ["version: found \"77", "expected at most"]),
    ] {
        let good = replaced(&plan, from, to);
        refused(
            dir.path(),
            "train --entry s/plan.json --index 0 --device cpu",
            4,
            &["s/plan.json: ", parts[0], parts[1]],
        );
        fs::write(dir.path().join("entry.json"), fs::read_to_string(&plan).unwrap().trim_matches(['[', ']', '\n']))
            .unwrap();
        refused(dir.path(), "train --entry entry.json --device cpu", 4, &["entry.json: ", parts[0], parts[1]]);
        fs::write(&plan, good).unwrap();
    }
}

/// Catches a flag that is given where it has no effect, and is dropped without a word.
#[test]
fn no_flag_is_without_effect() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    run(dir.path(), &format!("sweep plan {} --seeds 1 --out s", &TRAIN[5..].replace("--device cpu", ""))).success();
    let resume = "train --device cpu --resume run --epochs 2";
    let (mean, std) = ("[0.1", "0.2525");
    for (flags, found, has) in [
        ("--lr 0.1", "0.1", "0.001"),
        ("--lr -5", "-5.0", "0.001"),
        ("--class-weights rubbish", "rubbish", "none"),
        ("--batch-size 64", "64", "32"),
        ("--batch-size 32 --seed 1", "1", "0"),
        ("--data mnist", "mnist", "digits"),
        ("--data mnist --data-dir x", "mnist", "digits"),
        ("--limit-train 81", "81", "80"),
        ("--label-smoothing 0.2", "0.2", "0.1"),
        ("--smoothing-variant off-target", "off-target", "uniform"),
        ("--smoothing-variant prior --smoothing-prior unigram", "prior", "uniform"),
        ("--loss focal", "focal", "cross-entropy"),
        ("--label-noise 0.2", "0.2", "0.0"),
        ("--val-split 0.2", "0.2", "0.0"),
        ("--best-by ece", "ece", "none"),
        ("--opt adamw", "adamw", "adam"),
        ("--opt muon", "muon", "adam"),
        ("--no-shuffle", "false", "true"),
        ("--dtype f64", "f64", "f32"),
        ("--activations f16", "f16", "f32"),
        ("--mean 0.7", "[0.7]", mean),
        ("--std 0.7", "[0.7]", std),
        ("--teacher x", "/x", "none"),
        ("--init x", "/x", "none"),
    ] {
        let flag = flags.split(' ').rev().find(|word| word.starts_with("--") && *word != "--data-dir").unwrap();
        let flag = if flags.contains("prior") { "--smoothing-variant" } else { flag };
        let parts = [&format!("{flag} cannot change in a run that goes on: found "), found, "the run has ", has];
        refused(dir.path(), &format!("{resume} {flags}"), 2, &parts);
    }
    let wrong = ["--momentum: found with --opt adam", "--opt sgd"];
    refused(dir.path(), &format!("{resume} --momentum 0.9"), 2, &wrong);
    refused(
        dir.path(),
        &format!("{resume} --size 8x8"),
        2,
        &["--size: found with digits, whose images are as they are"],
    );
    refused(dir.path(), &format!("{resume} --data-dir /nowhere"), 2, &["--data-dir: found /nowhere", "built in"]);
    for flags in ["--epochs 2", "--data-dir x", "--lr 1", "--seed 4"] {
        let flag = flags.split(' ').next().unwrap();
        let args = format!("train --entry s/plan.json --index 0 --device cpu {flags}");
        refused(dir.path(), &args, 2, &[&format!("{flag}: found with --entry"), "--index"]);
    }
    for (args, parts) in [
        (format!("{TRAIN} --nesterov"), ["--nesterov: found with --opt adam", "--opt sgd"]),
        (format!("{TRAIN} --opt adamw --momentum 0.9"), ["--momentum: found with --opt adamw", "--opt sgd or muon"]),
        (format!("{TRAIN} --opt muon --nesterov"), ["--nesterov: found with --opt muon", "--opt sgd"]),
        (format!("{TRAIN} --opt muon --momentum 1"), ["--momentum: found 1, expected a number", "below 1"]),
        (format!("{TRAIN} --opt sgd --nesterov --momentum 0"), ["--nesterov", "momentum of 0"]),
        (format!("{TRAIN} --noise pair-flip"), ["--noise: found pair-flip alone", "--label-noise"]),
        ("sweep run s --device cpu --tiles lanes".into(), ["--tiles: found lanes", "--device cpu"]),
        ("sweep --noise pair-flip".into(), ["--noise: found pair-flip alone", "--label-noise"]),
        (format!("{TRAIN} --data-dir somewhere"), ["--data-dir: found somewhere", "built in"]),
        (format!("{TRAIN} --data digits --data-dir data"), ["--data-dir: found data", "built in"]),
        (format!("{TRAIN} --tiles lanes"), ["--tiles: found lanes", "--device cpu"]),
        (format!("{TRAIN} --autotune on"), ["--autotune: found on", "--device cpu"]),
        ("train --dtype f64 --tiles lanes".into(), ["--tiles: found lanes", "--dtype f64"]),
        (
            "train --device gpu --kernels reference --tiles lanes".into(),
            ["--tiles: found lanes", "--kernels reference"],
        ),
        ("train --device gpu --tiles lanes --autotune on".into(), ["--autotune: found on", "--tiles"]),
        ("data preview -o x.png --data-dir data".into(), ["--data-dir: found data", "built in"]),
        (
            "eval --device cpu --data-dir data --model run/model.safetensors".into(),
            ["--data-dir: found data", "built in"],
        ),
        ("calibrate run --device cpu --data-dir data".into(), ["--data-dir: found data", "built in"]),
        ("plan --kernels reference --tiles lanes".into(), ["--tiles", "--kernels reference"]),
    ] {
        refused(dir.path(), &args, 2, &parts);
    }
    // clap's own refusals span lines.
    for args in [
        "eval --model run/model.safetensors --limit-train 3",
        "predict --model run/model.safetensors --limit-train 3",
        "train --allow-changed-data",
        "data preview -o x.png --limit-test 3",
    ] {
        run(dir.path(), args).code(2);
    }
    // What may change in mid-run does, and what is as it was is taken.
    let same = "--lr 0.001 --batch-size 32 --limit-train 80 --data digits --opt adam --label-smoothing 0.1 --loss cross-entropy";
    run(dir.path(), &format!("{resume} --log-every 1 --json --kernels fused --checkpoint-every 2 {same}")).success();
    assert_eq!(metrics(&dir.path().join("run"), "step").len(), 3);
    // A rate of 0 is one of several that a script may give.
    run(dir.path(), &format!("{TRAIN} --epochs 1 --label-noise 0 --noise pair-flip --out clean")).success();
}

/// Catches a resumed run that changes its kind of device, and so its bits, without a word.
#[test]
fn a_run_goes_on_where_it_began() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    run(dir.path(), "train --resume run --epochs 2").success();
    let file = dir.path().join("run/config.toml");
    let config = fs::read_to_string(&file).unwrap();
    assert!(config.contains("backend = \"cpu\""), "{config}");
    fs::write(&file, config.replace("backend = \"cpu\"", "backend = \"Some GPU (Vulkan)\"")).unwrap();
    // Without a hardware GPU auto takes the CPU path. Adapters are kept from the program.
    let resume = |args: &str| {
        let mut resume = command(dir.path(), &format!("train --resume run --epochs 3 {args}"));
        resume.env("VK_DRIVER_FILES", "/nowhere").env("VK_ICD_FILENAMES", "/nowhere");
        assert_cmd::assert::OutputAssertExt::assert(&mut resume)
    };
    let before = snapshot(dir.path());
    assert_fails(resume(""), 2, &["--device", "began on Some GPU (Vulkan)", "bits will differ", "--device cpu"]);
    assert!(snapshot(dir.path()) == before);
    let done = resume("--device cpu").success();
    assert!(super::stderr(&done).join("\n").contains("began on Some GPU (Vulkan): from here on its bits differ"));
}

/// Catches a loss that is summed where it weighs nothing, on one of the devices.
#[test]
fn a_batch_that_weighs_nothing_has_a_loss_of_nothing_on_every_device() {
    let dir = tempdir().unwrap();
    let labels: Vec<u8> = (0..80).map(|i| if i < 32 { 0 } else { i % 10 }).collect();
    let header = [0, 0, 8, 1, 0, 0, 0, 80];
    fs::write(dir.path().join("labels"), [&header[..], &labels].concat()).unwrap();
    for device in ["cpu", "cpu --kernels reference", "gpu"] {
        let train = TRAIN.replace("--device cpu", &format!("--device {device}"));
        let flags = "--train-labels labels --class-weights 0,1,1,1,1,1,1,1,1,1 --no-shuffle --log-every 1 --epochs 1";
        let out = device.replace(' ', "");
        run(dir.path(), &format!("{train} {flags} --out {out}")).success();
        let losses: Vec<_> = metrics(&dir.path().join(out), "step").iter().map(|step| number(step, "loss")).collect();
        assert!(losses[0] == 0.0 && losses[1] > 0.0, "{device}: {losses:?}");
        for epoch in metrics(&dir.path().join(device.replace(' ', "")), "epoch") {
            assert!(number(&epoch, "train_excess_loss") >= 0.0, "{epoch}");
        }
    }
}
