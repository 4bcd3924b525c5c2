//! Trainings that end before their time.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::tempdir;

use super::{TRAIN, assert_fails, command, metrics, run};

/// Waits until metrics.jsonl of `run` has a line with `text`.
fn wait_for(run: &Path, text: &str, child: &mut Child) {
    let began = Instant::now();
    while !std::fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|lines| lines.contains(text)) {
        assert!(began.elapsed() < Duration::from_secs(60), "no {text} after a minute");
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Catches a Ctrl-C that kills without a word, or leaves a model that was not trained to the end, or an epoch that
/// cannot be resumed.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_run_that_can_be_resumed() {
    // In the first epoch; after it.
    for (images, wait, resumable) in [(10_000, r#""kind":"step""#, false), (16, r#""epoch":2"#, true)] {
        let dir = tempdir().unwrap();
        let out = dir.path().join("run");
        let args = format!(
            "train --device cpu --limit-train {images} --limit-test 10 --batch-size 8 --epochs 100000 --log-every 1 \
             --out run"
        );
        let mut child = command(dir.path(), &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(&out, wait, &mut child);
        let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(130), "{said}");
        assert_eq!(said.matches("smoothcnn: interrupted").count(), 1, "{said}");
        assert!(!out.join("model.safetensors").exists());

        let done = metrics(&out, "epoch").len();
        assert_eq!(done > 0, resumable, "{done} epochs done");
        assert_eq!(said.contains("smoothcnn train --resume run"), resumable, "{said}");
        let resume = format!("train --device cpu --resume run --epochs {}", done + 1);
        if resumable {
            run(dir.path(), &resume).success();
            assert_eq!(metrics(&out, "epoch").len(), done + 1);
            assert!(out.join("model.safetensors").is_file());
        } else {
            assert_fails(run(dir.path(), &resume), 4, &["checkpoint.safetensors", "no such file"]);
        }
    }
}

/// Catches a loss that is not a number and goes unnoticed: in a step, or after an epoch's last step.
#[test]
fn a_run_that_diverges_ends_with_what_to_do() {
    for (limit, step) in [(96, "step 2"), (32, "step 1")] {
        let train = TRAIN.replace("--limit-train 80", &format!("--limit-train {limit}"));
        assert_ne!(train, TRAIN);
        for dtype in ["f32", "f64"] {
            let lr = if dtype == "f32" { "1e30" } else { "1e250" };
            let dir = tempdir().unwrap();
            let failed = run(dir.path(), &format!("{train} --epochs 3 --dtype {dtype} --lr {lr} --out run"));
            assert_fails(failed, 1, &["the loss is ", "epoch 1,", step, &format!("lower --lr (it is {lr})")]);
            for file in ["model.safetensors", "checkpoint.safetensors"] {
                assert!(!dir.path().join("run").join(file).exists(), "{file}");
            }
        }
    }
}
