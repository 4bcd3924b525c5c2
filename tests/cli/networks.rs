//! Networks by name and by file, from a training to all that asks its model; images that change.

use std::fs;

use tempfile::tempdir;

use super::{TRAIN_SEED, assert_fails, read_tensors, run, stdout};

const FILE: &str = r#"
[[layers]]
type = "conv2d"
out = 8
kernel = 3
padding = 1
bias = false
[[layers]]
type = "batch_norm2d"
[[layers]]
type = "relu"
[[layers]]
type = "residual"
[[layers.residual]]
type = "conv2d"
out = 8
kernel = 3
padding = 1
[[layers.residual]]
type = "batch_norm2d"
[[layers]]
type = "dropout"
p = 0.25
[[layers]]
type = "global_avg_pool2d"
[[layers]]
type = "flatten"
[[layers]]
type = "linear"
"#;

/// Catches a model that does not know its network, and a part of the program that takes it for the seed network.
#[test]
fn a_model_of_a_file_knows_its_layers() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("net.toml"), FILE).unwrap();
    run(dir.path(), &format!("{TRAIN_SEED} --network net.toml --epochs 2 --out run")).success();
    // Nothing asks for the file again.
    fs::remove_file(dir.path().join("net.toml")).unwrap();
    let (weights, metadata) = read_tensors(&dir.path().join("run/model.safetensors"));
    assert!(metadata["network"].contains("batch_norm2d"), "{}", metadata["network"]);
    for name in ["conv1.weight", "bn1.running_var", "res1.conv1.bias", "res1.bn1.weight", "fc1.bias"] {
        assert!(weights.contains_key(name), "{name}: {:?}", weights.keys());
    }
    assert!(!weights.contains_key("conv1.bias"));
    // The program's own answers, by the run and by the model alone.
    let measured = stdout(&run(dir.path(), "eval --model run --limit-test 40").success());
    fs::copy(dir.path().join("run/model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let alone = stdout(&run(dir.path(), "eval --model model.safetensors --limit-test 40").success());
    assert_eq!(measured.lines().filter(|line| line.starts_with("nll")).count(), 1, "{measured}");
    let nll = |text: &str| text.lines().find(|line| line.starts_with("nll")).map(String::from);
    assert_eq!(nll(&measured), nll(&alone));
    run(dir.path(), "predict --model model.safetensors --limit-test 40 --out answers.csv").success();
    run(dir.path(), "export onnx model.safetensors --out model.onnx").success();
    run(dir.path(), "report run").success();
    // Weights to start from bring their network along.
    run(dir.path(), &format!("{TRAIN_SEED} --init model.safetensors --epochs 1 --out more")).success();
    let config = fs::read_to_string(dir.path().join("more/config.toml")).unwrap();
    assert!(config.contains("batch_norm2d"), "{config}");
}

/// Catches statistics, or random numbers, that a run does not take along when it goes on.
#[test]
fn a_run_that_goes_on_has_the_bits_of_one_that_was_not_stopped() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("net.toml"), FILE).unwrap();
    let augment =
        "shift = 3\nborder = \"reflect\"\nflip = true\ncutout = 5\nrotate = 10\nscale = 0.1\ncontrast = 0.2\n";
    fs::write(dir.path().join("augment.toml"), augment).unwrap();
    for network in ["net.toml", "resnet8"] {
        let train = format!("{TRAIN_SEED} --limit-train 70 --network {network} --augment augment.toml");
        run(dir.path(), &format!("{train} --epochs 3 --out whole-{network}")).success();
        run(dir.path(), &format!("{train} --epochs 1 --out part-{network}")).success();
        run(dir.path(), &format!("train --resume part-{network} --epochs 3 --device cpu")).success();
        let bytes = |run: &str| fs::read(dir.path().join(format!("{run}-{network}/model.safetensors"))).unwrap();
        assert!(bytes("whole") == bytes("part"), "{network}");
    }
    run(dir.path(), &format!("{TRAIN_SEED} --network net.toml --epochs 3 --out plain")).success();
    let model = |run: &str| fs::read(dir.path().join(run).join("model.safetensors")).unwrap();
    assert!(model("plain") != model("whole-net.toml"), "images that change make another model");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("typo.toml"), FILE.replace("padding", "pad")).unwrap();
    fs::write(dir.path().join("wide.toml"), FILE.replace("type = \"linear\"", "type = \"linear\"\nout = 7")).unwrap();
    fs::write(dir.path().join("shift.toml"), "shift = 28\n").unwrap();
    fs::write(dir.path().join("turn.toml"), "rotate = -5\n").unwrap();
    for (flags, code, parts) in [
        ("--network resnet9", 2, &["--network", "resnet9", "resnet8", ".toml"][..]),
        ("--network typo.toml", 4, &["typo.toml", "layer 1 (conv2d)", "pad"]),
        ("--network wide.toml", 2, &["fc1", "7 outputs", "10 classes"]),
        ("--network none.toml", 1, &["none.toml"]),
        ("--augment heavy", 2, &["--augment", "heavy", "cifar"]),
        ("--augment shift.toml", 2, &["--augment", "28", "27"]),
        ("--augment turn.toml", 2, &["--augment", "rotate of -5", "0 to 180"]),
    ] {
        assert_fails(run(dir.path(), &format!("{TRAIN_SEED} {flags} --out run")), code, parts);
        assert!(!dir.path().join("run").exists(), "{flags}");
    }
}
