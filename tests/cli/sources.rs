//! Flags from a file and from the environment.

use std::fs;

use assert_cmd::assert::OutputAssertExt;
use tempfile::tempdir;

use super::{TRAIN, assert_fails, command, run, stderr};

#[test]
fn a_run_takes_flags_from_a_file_and_the_environment() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("f.toml"), "lr = 0.005\nepochs = 3\nlabel_smoothing = 0.2\nlog-every = 1\n").unwrap();
    let mut train = command(dir.path(), &format!("{TRAIN} -c f.toml --label-smoothing 0.3 --out run"));
    let done = train.env("SMOOTHCNN_EPOCHS", "1").env("SMOOTHCNN_SEED", "7").assert().success();
    let said = stderr(&done);
    assert!(said.contains(&"f.toml: --epochs=3 --label-smoothing=0.2 --log-every=1 --lr=0.005".into()), "{said:?}");
    assert!(said.contains(&"environment: --epochs=1 --seed=7".into()), "{said:?}");
    let config: toml::Table = fs::read_to_string(dir.path().join("run/config.toml")).unwrap().parse().unwrap();
    assert_eq!((config["epochs"].as_integer(), config["seed"].as_integer()), (Some(1), Some(7)));
    assert_eq!(config["label-smoothing"].as_float(), Some(0.3));
    assert_eq!(config["optimizer"]["lr"].as_float(), Some(0.005));
    // A run that goes on takes what may change, and refuses the rest, as from its line.
    fs::write(dir.path().join("more.toml"), "epochs = 2\n").unwrap();
    run(dir.path(), "train --resume run -c more.toml").success();
    let refused = run(dir.path(), "train --resume run -c f.toml");
    assert_eq!(refused.get_output().status.code(), Some(2));
    assert!(stderr(&refused).last().unwrap().contains("--label-smoothing"), "{:?}", stderr(&refused));
}

#[test]
fn what_is_wrong_in_them_is_named() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("f.toml"), "epoch = 3\n").unwrap();
    assert_fails(run(dir.path(), "train -c f.toml"), 4, &["f.toml", "epoch", "such as epochs"]);
    assert_fails(run(dir.path(), "train -c nowhere.toml"), 4, &["nowhere.toml", "no such file"]);
    let mut typo = command(dir.path(), "train");
    assert_fails(typo.env("SMOOTHCNN_EPOCH", "3").assert(), 2, &["SMOOTHCNN_EPOCH", "SMOOTHCNN_EPOCHS"]);
    let set: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(set, ["f.toml"], "nothing was begun");
}

/// The runs of a sweep get their flags by their line: what is in the environment is in the plan already.
#[test]
fn a_sweep_hands_no_variable_on() {
    let dir = tempdir().unwrap();
    let sweep =
        "sweep --device cpu --limit-train 80 --limit-test 40 --label-smoothing 0,0.1 --label-noise 0 --seeds 1 --out s";
    command(dir.path(), sweep).env("SMOOTHCNN_EPOCHS", "1").assert().success();
    assert!(dir.path().join("s/report.html").exists());
}
