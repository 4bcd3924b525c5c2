//! `bench`: what it measures, keeps, compares and tabulates.

use std::fs;

use tempfile::tempdir;

use super::{assert_fails, json_lines, number, run, stdout};

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
        ("--device cpu --input 8x8", 2, ["--input", "1x28x28"]),
    ] {
        assert_fails(run(dir.path(), &format!("bench {args}")), code, &parts);
    }
}
