//! Images held out choose the best epoch, and the test set is measured with its weights.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tempfile::tempdir;

use super::refuse::refused;
use super::stop::wait_for;
use super::{
    TRAIN, TRAIN_SEED, command, json_lines, metrics, number, read_tensors, run, snapshot, stderr, stdout, timeless,
};

/// Its best epoch is not the last one, by any measure; two are equal by accuracy.
const EPOCHS: usize = 8;
const TRAIN_HELD_OUT: &str = "train --device cpu --network small.toml --limit-train 80 --limit-test 40 --batch-size 16 \
                              --val-split 0.25 --lr 0.02 --log-every 1";
/// For a larger network, slow enough to be killed where it is meant.
const HELD_OUT: &str = "--val-split 0.25 --lr 0.005 --log-every 1";

fn bytes(run: &Path, name: &str) -> Vec<u8> {
    fs::read(run.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The first of the best lines.
fn best(lines: &[Value], key: &str, sign: f64) -> usize {
    let value = |i: usize| sign * number(&lines[i], key);
    1 + (1..lines.len()).fold(0, |best, i| if value(i) < value(best) { i } else { best })
}

/// Holds two finished runs to each other: the weights and all of the record that no clock measured.
fn assert_same(whole: &Path, other: &Path, what: &str) {
    for name in ["model.safetensors", "best.safetensors", "config.toml"] {
        assert!(bytes(whole, name) == bytes(other, name), "{what}: {name} differs");
    }
    assert_eq!(timeless(metrics(whole, "epoch")), timeless(metrics(other, "epoch")), "{what}");
    for kind in ["step", "test"] {
        assert_eq!(metrics(whole, kind), metrics(other, kind), "{what}");
    }
}

/// Catches an epoch that is not the first of the best, weights of another one, and a choice that changes the training.
#[test]
fn the_best_epoch_is_kept_and_measured() {
    let dir = tempdir().unwrap();
    let train = |flags: &str| run(dir.path(), &format!("{TRAIN_HELD_OUT} {flags}")).success();
    let mut last = vec![];
    for (flags, key, sign) in [
        ("", "val_nll", 1.0),
        ("--best-by nll", "val_nll", 1.0),
        ("--best-by accuracy", "val_accuracy", -1.0),
        ("--best-by ece", "val_ece", 1.0),
        ("--best-by refined-nll", "val_refined_nll", 1.0),
    ] {
        let out = dir.path().join("run");
        let done = train(&format!("{flags} --epochs {EPOCHS} --out run"));
        let lines = metrics(&out, "epoch");
        let epoch = best(&lines, key, sign);
        assert_eq!(lines.iter().all(|line| line.get("val_refined_nll").is_some()), key == "val_refined_nll");
        assert!(epoch < EPOCHS, "{flags}: the last epoch is the best, which shows nothing");
        let (weights, metadata) = read_tensors(&out.join("best.safetensors"));
        assert_eq!(metadata["epoch"], epoch.to_string(), "{flags}");
        train(&format!("--epochs {epoch} --out short"));
        assert!(weights == read_tensors(&dir.path().join("short/model.safetensors")).0, "{flags}: other weights");
        last.push(bytes(&out, "model.safetensors"));

        // The record, what is said, and what the folder answers.
        let tests = metrics(&out, "test");
        let by = flags.strip_prefix("--best-by ").unwrap_or("nll");
        assert_eq!((tests.len(), &tests[0]["epoch"], &tests[0]["epochs"]), (1, &epoch.into(), &EPOCHS.into()));
        assert_eq!(tests[0]["best_by"], by, "{flags}");
        let said = stderr(&done).join("\n");
        assert!(said.contains(&format!("the best epoch is {epoch}, by a val {by} of ")), "{said}");
        let asked = run(dir.path(), "eval --model run --device cpu --batch-size 16 --json").success();
        assert_eq!(json_lines(&stdout(&asked))[0]["nll"], tests[0]["nll"], "{flags}");
        let first = &stderr(&asked)[0];
        assert_eq!(first, &format!("model: run/best.safetensors, the weights of epoch {epoch}"));
        fs::remove_dir_all(&out).unwrap();
        fs::remove_dir_all(dir.path().join("short")).unwrap();
    }
    assert!(last.windows(2).all(|pair| pair[0] == pair[1]), "the choice changes what is trained");
}

/// Catches a folder whose weights are not found, or found in the wrong order.
#[test]
fn a_folder_answers_with_its_best_else_its_last_weights() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN_HELD_OUT} --epochs 2 --out run")).success();
    let out = dir.path().join("run");
    for name in ["best.safetensors", "model.safetensors", "checkpoint.safetensors"] {
        let asked = run(dir.path(), "predict --model run --device cpu --out answers.csv").success();
        let said = &stderr(&asked)[0];
        assert!(said.starts_with(&format!("model: run/{name}, the weights of epoch ")), "{said}");
        fs::remove_file(out.join(name)).unwrap();
    }
    refused(dir.path(), "predict --model run --device cpu", 4, &["run: found a folder", "best.safetensors"]);
}

/// Catches a flag that is taken and has no effect.
#[test]
fn without_images_held_out_nothing_can_choose() {
    let dir = tempdir().unwrap();
    refused(dir.path(), &format!("{TRAIN} --best-by ece --out run"), 2, &["--best-by: found ece", "--val-split"]);
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    assert!(!dir.path().join("run/best.safetensors").exists());
    let config = fs::read_to_string(dir.path().join("run/config.toml")).unwrap();
    assert!(!config.contains("best-by"), "{config}");
}

/// Catches an epoch that is chosen all the same, and a choice that changes what is trained.
#[test]
fn the_last_epoch_answers_where_nothing_is_to_choose() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN_HELD_OUT} --epochs {EPOCHS} --out chosen")).success();
    let train = format!("{TRAIN_HELD_OUT} --best-by last");
    refused(dir.path(), &format!("{train} --patience 2 --out run"), 2, &["--patience: found 2 and --best-by last"]);
    // It goes on in the same way.
    run(dir.path(), &format!("{train} --epochs 3 --out run")).success();
    run(dir.path(), &format!("train --device cpu --resume run --epochs {EPOCHS}")).success();
    let (out, chosen) = (dir.path().join("run"), dir.path().join("chosen"));
    assert!(!out.join("best.safetensors").exists());
    assert!(bytes(&out, "model.safetensors") == bytes(&chosen, "model.safetensors"));
    // The line of the first three epochs' end is written over: they were not the last.
    let tests = metrics(&out, "test");
    assert_eq!((tests.len(), &tests[0]["epoch"], &tests[0]["best_by"]), (1, &EPOCHS.into(), &"last".into()));
    let asked = run(dir.path(), "eval --model run --device cpu --batch-size 16 --json").success();
    assert_eq!(json_lines(&stdout(&asked))[0]["nll"], tests[0]["nll"]);
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("the last one (--best-by last), measured on the test set once"));
}

/// Catches a run that goes on with the wrong best epoch: with its file gone, of an earlier epoch, or of one that is
/// lost.
#[test]
fn a_run_that_goes_on_has_the_best_weights_of_one_that_was_never_stopped() {
    let dir = tempdir().unwrap();
    let train = |epochs: usize, out: &str| {
        run(dir.path(), &format!("{TRAIN_HELD_OUT} --epochs {epochs} --out {out}")).success();
    };
    train(EPOCHS, "whole");
    train(1, "first");
    let whole = dir.path().join("whole");
    let parts = dir.path().join("parts");
    let epoch = best(&metrics(&whole, "epoch"), "val_nll", 1.0);
    for done in [epoch - 1, epoch, epoch + 1] {
        for found in [None, Some("first"), Some("whole")] {
            train(done, "parts");
            fs::remove_file(parts.join("best.safetensors")).unwrap();
            if let Some(found) = found {
                fs::copy(dir.path().join(found).join("best.safetensors"), parts.join("best.safetensors")).unwrap();
            }
            run(dir.path(), &format!("train --log-every 1 --resume parts --epochs {EPOCHS}")).success();
            assert_same(&whole, &parts, &format!("after {done} epochs, with the best of {found:?}"));
            fs::remove_dir_all(&parts).unwrap();
        }
    }
}

/// Catches a kill that leaves a best epoch whose weights are lost, or that changes which one it is.
#[cfg(unix)]
#[test]
fn a_killed_run_has_the_best_weights_of_one_that_was_never_killed() {
    let dir = tempdir().unwrap();
    let train = format!("{TRAIN_SEED} {HELD_OUT} --batch-size 4 --epochs {EPOCHS}").replace("--batch-size 32 ", "");
    run(dir.path(), &format!("{train} --out whole")).success();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("run"));
    for (at, delay) in [("\"step\":20,", 0), ("\"epoch\":2,", 3), ("\"step\":45,", 1), ("\"epoch\":4,", 7)] {
        let mut killed = command(dir.path(), &format!("{train} --out run"));
        let mut child = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for(&out, at, &mut child);
        std::thread::sleep(std::time::Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        run(dir.path(), "train --log-every 1 --resume run").success();
        assert_same(&whole, &out, at);
        assert!(snapshot(&out).keys().all(|name| !name.ends_with(".tmp")));
        fs::remove_dir_all(&out).unwrap();
    }
}

/// Catches a run that ends too early or too late, without saying so, or with other weights; and one that ends anew when
/// it goes on.
#[test]
fn patience_ends_a_run_that_gets_no_better() {
    let dir = tempdir().unwrap();
    let train = |flags: &str| run(dir.path(), &format!("{TRAIN_HELD_OUT} --best-by ece {flags}")).success();
    train(&format!("--epochs {EPOCHS} --out whole"));
    let (whole, out) = (dir.path().join("whole"), dir.path().join("run"));
    let epoch = best(&metrics(&whole, "epoch"), "val_ece", 1.0);
    let ended = epoch + 2;
    assert!(ended < EPOCHS, "it does not end early, which shows nothing");
    let done = stderr(&train(&format!("--epochs {EPOCHS} --patience 2 --out run"))).join("\n");
    let why = format!(
        "ended by --patience 2 after epoch {ended} of {EPOCHS}: the last 2 have no better val ece than epoch {epoch}"
    );
    assert!(done.contains(&why), "{done}");
    assert_eq!(metrics(&out, "epoch").len(), ended);
    let last = &metrics(&out, "test")[0];
    assert_eq!(
        (&last["epoch"], &last["epochs"], &last["ended_by"]),
        (&epoch.into(), &ended.into(), &"patience".into())
    );
    assert_eq!(metrics(&whole, "test")[0]["ended_by"], "epochs");
    assert_eq!(read_tensors(&out.join("model.safetensors")).1["epoch"], ended.to_string());
    train(&format!("--epochs {ended} --out short"));
    assert!(bytes(&out, "model.safetensors") == bytes(&dir.path().join("short"), "model.safetensors"));

    // It is over, and says so; with more epochs as well, and where it was stopped on the way there.
    let before = snapshot(&out);
    let again = stderr(&run(dir.path(), "train --resume run").success()).join("\n");
    assert!(again.contains("finished before: ") && again.contains(&why), "{again}");
    assert!(snapshot(&out) == before);
    let cut = format!("{TRAIN_HELD_OUT} --best-by ece --patience 2 --epochs {} --out cut", epoch + 1);
    run(dir.path(), &cut).success();
    run(dir.path(), &format!("train --log-every 1 --resume cut --epochs {EPOCHS}")).success();
    assert_same(&out, &dir.path().join("cut"), "patience");

    // With more patience it goes on to the end of one that had it from the start; without any, too.
    run(dir.path(), "train --log-every 1 --resume run --patience 0").success();
    assert_same(&whole, &out, "without patience");
    refused(dir.path(), &format!("{TRAIN} --patience 3"), 2, &["--patience: found 3", "--val-split"]);
}

/// Catches a checkpoint that is missing where it is due, or at the end, and a run that goes on from an older one to
/// other bits.
#[cfg(unix)]
#[test]
fn checkpoints_as_often_as_asked_and_at_the_end() {
    let dir = tempdir().unwrap();
    // Plain loops: slow enough to be killed where it is meant.
    let train = format!(
        "train --device cpu --network lenet5 --kernels reference --limit-train 80 --limit-test 40 --batch-size 8 \
         {HELD_OUT} --epochs {EPOCHS}"
    );
    run(dir.path(), &format!("{train} --out whole")).success();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("run"));
    let done = |out: &Path| {
        out.join("checkpoint.safetensors")
            .exists()
            .then(|| read_tensors(&out.join("checkpoint.safetensors")).1["epoch"].clone())
    };
    for (every, at, expected) in [(3, "\"step\":51,", Some("6")), (3, "\"step\":17,", None), (0, "\"step\":43,", None)]
    {
        let mut killed = command(dir.path(), &format!("{train} --checkpoint-every {every} --out run"));
        let mut child = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for(&out, at, &mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(done(&out).as_deref(), expected, "every {every}");
        run(dir.path(), "train --log-every 1 --resume run --checkpoint-every 1").success();
        assert_same(&whole, &out, &format!("every {every}"));
        fs::remove_dir_all(&out).unwrap();
    }
    run(dir.path(), &format!("{train} --checkpoint-every 0 --out run")).success();
    assert_eq!(done(&out), done(&whole));
    run(dir.path(), &format!("train --log-every 1 --resume run --epochs {}", EPOCHS + 1)).success();
    assert_eq!(metrics(&out, "epoch").len(), EPOCHS + 1);
}
