//! `--tensorboard`, as TensorBoard itself reads it. It needs Python with tensorboard, which is another one than
//! `python3` where SMOOTHCNN_PYTHON says so.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use super::skip::skipped;
use super::{TRAIN, metrics, run};

const FILE: &str = "events.out.tfevents.smoothcnn";

/// What TensorBoard finds in the folder; none where it is not here.
fn scalars(folder: &Path) -> Option<Value> {
    let python = std::env::var_os("SMOOTHCNN_PYTHON").unwrap_or("python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/events.py");
    let Ok(found) = std::process::Command::new(python).arg(script).arg(folder).output() else {
        skipped("there is no python3");
        return None;
    };
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let text = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    if let Some(why) = text.strip_prefix("skipped: ") {
        skipped(why);
        return None;
    }
    Some(serde_json::from_str(&text).unwrap())
}

/// `[[step, value], …]` of these lines of the record; `step` where they have none.
fn of_record(lines: &[Value], key: &str, step: u64) -> Vec<(u64, f32)> {
    lines.iter().map(|line| (line["step"].as_u64().unwrap_or(step), line[key].as_f64().unwrap() as f32)).collect()
}

/// Catches a file that TensorBoard does not read, a number at another step than the record's, and what a resumed run
/// loses or has twice.
#[test]
fn tensorboard_reads_what_the_record_has() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("run");
    let train = format!("{TRAIN} --val-split 0.25 --log-every 1 --out run");
    run(dir.path(), &format!("{train} --epochs 2 --tensorboard")).success();
    // It goes on without being told.
    run(dir.path(), "train --resume run --epochs 4 --log-every 1").success();
    let Some(found) = scalars(&out) else { return };
    let (steps, epochs, test) = (metrics(&out, "step"), metrics(&out, "epoch"), metrics(&out, "test"));
    assert_eq!((epochs.len(), test.len()), (4, 1));
    for (tag, lines, key) in [
        ("loss/step", &steps, "loss"),
        ("nll/step", &steps, "nll"),
        ("loss/train", &epochs, "train_loss"),
        ("nll/val", &epochs, "val_nll"),
        ("accuracy/val", &epochs, "val_accuracy"),
        ("label_smoothing", &epochs, "label_smoothing"),
        ("accuracy/test", &test, "accuracy"),
    ] {
        let found: Vec<(u64, f32)> = serde_json::from_value(found[tag].clone()).unwrap();
        assert_eq!(found, of_record(lines, key, 8), "{tag}");
    }
}

#[test]
fn without_the_flag_there_is_no_such_file() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    assert!(!dir.path().join("run").join(FILE).exists());
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out with --tensorboard")).success();
    assert!(fs::metadata(dir.path().join("with").join(FILE)).unwrap().len() > 100);
}
