//! `bench`: what it measures, keeps, compares and tabulates; `bench --full`: the one file.

use std::fs;

use serde_json::{Value, json};
use tempfile::tempdir;

use super::{assert_fails, json_lines, number, run, stderr, stdout};

const BENCH: &str = "bench --device cpu --input 1x8x8,3x4x4 -b 4,8 --seconds 0.1";

/// Catches a configuration that is left out, a rate that no window measured, and a saved file that cannot be read back.
#[test]
fn every_configuration_is_measured_kept_and_compared() {
    let dir = tempdir().unwrap();
    let done = run(dir.path(), &format!("{BENCH} --json --save then.json")).success();
    let report = &json_lines(&stdout(&done))[0];
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 8);
    for result in results {
        let [median, worst, best] = [0, 1, 2].map(|i| result["images_per_second"][i].as_f64().unwrap());
        assert!(0.0 < worst && worst <= median && median <= best, "{result}");
        // The answer was checked, in f32: something of the tolerance is used, and not all of it.
        let used = number(result, "tolerance_used");
        assert!(0.0 < used && used <= 100.0, "{result}");
    }
    let kept: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("then.json")).unwrap()).unwrap();
    assert_eq!(&kept, report);

    let compared = stdout(&run(dir.path(), &format!("{BENCH} --compare then.json")).success());
    assert_eq!(compared.matches("x of the earlier ").count(), 8, "{compared}");

    let table = stdout(&run(dir.path(), "bench --table then.json then.json").success());
    let rows: Vec<_> = table.lines().collect();
    assert_eq!((rows.len(), rows[1]), (10, "|---|---:|---:|"));
    assert!(rows[2].starts_with("| train, 1x8x8, batch 4 | "), "{table}");
}

/// Catches a cost that is not said, and one where nobody asked.
#[test]
fn what_augmentation_costs_is_measured_where_it_is_asked_for() {
    let dir = tempdir().unwrap();
    let bench = "bench --device cpu --input 1x8x8 -b 4 --seconds 0.1";
    let text = stdout(&run(dir.path(), &format!("{bench} --augment light")).success());
    assert!(text.contains("; augmentation: "), "{text}");
    let report = &json_lines(&stdout(&run(dir.path(), &format!("{bench} --augment light --json")).success()))[0];
    assert!(number(&report["results"][0], "augment_cost") > -1.0 && report["results"][1].get("augment_cost").is_none());
    let plain = stdout(&run(dir.path(), bench).success());
    assert!(!plain.contains("augmentation"), "{plain}");
    assert_fails(run(dir.path(), "bench --device cpu --augment heavy"), 2, &["--augment", "heavy"]);
}

/// Catches a comparison with something that is no report, and seconds in which nothing can be measured.
#[test]
fn what_makes_no_sense_is_refused() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("other.json"), "{}").unwrap();
    for (args, code, parts) in [
        ("--device cpu --compare other.json", 4, ["other.json", "--save"]),
        ("--device cpu --compare nowhere.json", 4, ["nowhere.json", "--save"]),
        ("--table other.json", 4, ["other.json", "--save"]),
        ("--device cpu --table other.json", 2, ["--device", "--table"]),
        ("--device cpu --seconds 0", 2, ["--seconds", "above 0"]),
        ("--device cpu --full", 2, ["--full", "--save"]),
        ("--device cpu --full --save f.json --json", 2, ["--json", "--full"]),
        ("--device cpu --full --save f.json --kernels reference", 2, ["--kernels", "--full"]),
        ("--device cpu --input 8x8", 2, ["--input", "1x28x28"]),
    ] {
        assert_fails(run(dir.path(), &format!("bench {args}")), code, &parts);
    }
}

/// The whole of it on `device`, as short as it can be; its file.
fn full(dir: &std::path::Path, device: &str) -> Value {
    let sizes = "--input 1x8x8,3x4x4 -b 4 --seconds 0.05";
    let done = run(dir, &format!("bench --full --save full.json --device {device} {sizes}")).success();
    let (said, answer) = (stderr(&done).join("\n"), stdout(&done));
    for part in ["3 of 5: two trainings", "4 of 5", "5 of 5: images a second, 3x4x4 batch 4", "full.json"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(answer.contains("the same bits") && answer.contains("train 3x4x4 batch 4: "), "{answer}");
    serde_json::from_str(&fs::read_to_string(dir.join("full.json")).unwrap()).unwrap()
}

/// What every device's file has.
fn assert_whole(file: &Value) {
    assert_eq!(file["format"], "smoothcnn bench --full, 1");
    assert_eq!((&file["left_out"], &file["failed"]), (&json!([]), &json!([])), "{file}");
    assert_eq!(file["bench"]["found"]["results"].as_array().unwrap().len(), 4, "{file}");
    let twice = &file["determinism"]["found"];
    assert_eq!((&twice["equal"], &twice["hashes"][0]), (&json!(true), &twice["hashes"][1]));
    assert_eq!(twice["hashes"][0].as_str().unwrap().len(), 64);
    // So little time is not enough to learn; what was seen of it is there.
    let learning = &file["accuracy"]["found"];
    assert_eq!(learning["train_images"], 10_000);
    let epochs = learning["epochs"].as_array().unwrap();
    let best = epochs.iter().map(|epoch| number(epoch, "accuracy")).fold(0.0, f64::max);
    assert_eq!(learning["reached_after"].is_null(), best < 0.99, "{learning}");
    for part in ["determinism", "accuracy", "bench"] {
        assert!(file[part]["error"].is_null() && number(&file[part], "seconds") > 0.0, "{part}");
    }
}

/// Catches a part that is missing, an error that nobody sees, and a file that `--table` does not take.
#[test]
fn one_file_has_all_of_the_cpu_path() {
    let dir = tempdir().unwrap();
    let file = full(dir.path(), "cpu");
    assert_whole(&file);
    assert!(file["check"].is_null() && file["autotune"].is_null() && file["adapter"].is_null(), "{file}");
    assert_eq!(file["device"], "cpu");
    // Its bench can be compared and tabulated.
    let table = stdout(&run(dir.path(), "bench --table full.json").success());
    assert_eq!(table.lines().count(), 6, "{table}");
}

/// The same on the best adapter there is, with every kernel checked and every form timed: two minutes on a software
/// driver, so that `SMOOTHCNN_THOROUGH` asks for it. `tests/gpu` checks and times the same.
#[test]
fn one_file_has_all_of_an_adapter() {
    if std::env::var_os("SMOOTHCNN_THOROUGH").is_none_or(|value| value.is_empty()) {
        return println!("left out: SMOOTHCNN_THOROUGH is not set");
    }
    let dir = tempdir().unwrap();
    let file = full(dir.path(), "gpu");
    assert_whole(&file);
    let check = &file["check"]["found"];
    assert_eq!(check["failures"], json!([]));
    assert!(check["ops"].as_array().unwrap().len() > 10, "{check}");
    assert!(!file["autotune"]["found"]["fastest"].is_null(), "{file}");
    assert!(number(&file["adapter"], "invocations") >= 64.0, "{file}");
}
