//! `report`, and the page that every run leaves.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use super::{TRAIN, assert_fails, metrics, number, pictures, run, stderr, stdout};

fn page(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// Catches a page of other weights, images or classes than those that the run measured, and one that depends on who
/// writes it.
#[test]
fn a_run_leaves_a_page_and_report_writes_the_same() {
    let dir = tempdir().unwrap();
    let kinds = [
        "",
        "--val-split 0.2 --patience 1 --best-by ece",
        "--class-mask 0,1,2,3,4",
        "--ignore-index 3 --label-noise 0.2",
    ];
    for (i, flags) in kinds.iter().enumerate() {
        let done = run(dir.path(), &format!("{TRAIN} --epochs 2 --out run{i} {flags}")).success();
        let said = format!("report in run{i}/report.html");
        assert!(stderr(&done).contains(&said), "{flags}");
        assert_eq!(stderr(&done).last(), Some(&format!("next: smoothcnn eval --model run{i}")));
        let out = dir.path().join(format!("run{i}"));
        let of_training = page(&out.join("report.html"));
        let line = metrics(&out, "test").pop().or_else(|| metrics(&out, "epoch").pop()).unwrap();
        let held_out = line["kind"] == "test";
        let [accuracy, nll] = ["accuracy", "nll"]
            .map(|name| number(&line, &if held_out { name.to_owned() } else { format!("test_{name}") }));
        assert!(of_training.contains(&format!("{:.1}\u{a0}% right", 100.0 * accuracy)), "{flags}");
        assert!(of_training.contains(&format!("{nll:.4}")), "{flags}");
        let others = ["<script", "href=", "src=\"http", "url("];
        assert!(!others.iter().any(|other| of_training.contains(other)), "{flags}: all is in the page");
        fs::remove_file(out.join("report.html")).unwrap();
        let again = run(dir.path(), &format!("report --device cpu --batch-size 32 run{i}")).success();
        assert_eq!(stdout(&again), format!("run{i}/report.html\n"));
        assert!(page(&out.join("report.html")) == of_training, "run{i}: another page");
    }
}

/// Catches a comparison that says more than the answers do, and a file of the user's that is replaced.
#[test]
fn runs_stand_side_by_side() {
    let dir = tempdir().unwrap();
    for (name, flags) in [("a", "--epochs 1"), ("b", "--epochs 3 --label-smoothing 0.3"), ("c", "--limit-test 30")] {
        run(dir.path(), &format!("{TRAIN} --epochs 1 --out {name} {flags}")).success();
    }
    run(dir.path(), "report --device cpu a b c").success();
    let page = page(&dir.path().join("comparison.html"));
    assert!(page.contains("label-smoothing") && page.contains("epochs") && !page.contains("batch-size"));
    assert!(page.contains("on the same 40 test images") && page.contains("Not the same test images as a"), "{page}");
    // It is the program's own, and may be replaced; another file may not.
    run(dir.path(), "report --device cpu b a").success();
    fs::write(dir.path().join("comparison.html"), "mine").unwrap();
    let refused = run(dir.path(), "report --device cpu a b");
    assert_fails(refused, 2, &["comparison.html", "found a file that smoothcnn did not write", "--out"]);
    assert_eq!(fs::read_to_string(dir.path().join("comparison.html")).unwrap(), "mine");
    run(dir.path(), "report --device cpu a b --out other.html").success();
    assert!(dir.path().join("other.html").exists());
}

/// Catches names that become part of the page, mistakes without their files, and a temperature that is not applied.
#[test]
fn a_page_has_names_pictures_and_the_temperature() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    pictures::digits(&data, 60, 40);
    for set in ["train", "test"] {
        fs::rename(data.join(set).join("digit 3"), data.join(set).join("<i>three")).unwrap();
    }
    run(dir.path(), "train --device cpu --data ./data --epochs 1 --out run").success();
    let before = page(&dir.path().join("run/report.html"));
    assert!(before.contains("&lt;i&gt;three") && !before.contains("<i>three"), "names are escaped");
    assert!(before.contains("data:image/png;base64,") && before.contains(".png</small>"), "mistakes with their files");
    assert!(!before.contains("calibrated: ECE"));
    fs::write(dir.path().join("run/temperature.toml"), "temperature = 2.5\n").unwrap();
    run(dir.path(), "report --device cpu run").success();
    let after = page(&dir.path().join("run/report.html"));
    assert!(after.contains("With the temperature 2.5000") && after.contains("calibrated: ECE"), "{after}");
}

#[test]
fn what_is_no_run_is_refused() {
    let dir = tempdir().unwrap();
    assert_fails(run(dir.path(), "report nowhere"), 4, &["nowhere", "expected the folder of a run"]);
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    fs::remove_file(dir.path().join("run/model.safetensors")).unwrap();
    fs::remove_file(dir.path().join("run/checkpoint.safetensors")).unwrap();
    assert_fails(run(dir.path(), "report run"), 4, &["run: found a folder", "model.safetensors"]);
    let data = dir.path().join("data");
    pictures::digits(&data, 60, 40);
    run(dir.path(), "train --device cpu --data ./data --epochs 1 --out own").success();
    fs::rename(&data, dir.path().join("moved")).unwrap();
    assert_fails(run(dir.path(), "report own"), 4, &["data"]);
    run(dir.path(), "report --device cpu own --data-dir moved").success();
    fs::remove_dir_all(dir.path().join("moved/test/digit 1")).unwrap();
    let changed = run(dir.path(), "report --device cpu own --data-dir moved");
    assert_fails(changed, 4, &["the data has changed", "--allow-changed-data"]);
    run(dir.path(), "report --device cpu own --data-dir moved --allow-changed-data").success();
}
