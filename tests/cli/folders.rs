//! Files and folders: those of others are left alone, those of a run have one user at a time, and what is written stays
//! whole.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use tempfile::tempdir;

use super::{TRAIN, assert_fails, command, metrics, run, snapshot, timeless};

/// Catches an entry that has a folder of the user's emptied, or that is not its plan's.
#[test]
fn an_entry_takes_no_folder_of_others() {
    let dir = tempdir().unwrap();
    run(dir.path(), "sweep plan --seeds 1 --label-smoothing 0 --limit-train 60 --limit-test 10 --out s").success();
    let plan = fs::read_to_string(dir.path().join("s/plan.json")).unwrap();
    let mut entry: serde_json::Value = serde_json::from_str::<Vec<_>>(&plan).unwrap().remove(0);
    let id = entry["id"].as_str().unwrap().to_owned();
    fs::create_dir_all(dir.path().join("precious")).unwrap();
    fs::write(dir.path().join("precious/thesis.tex"), "years of work").unwrap();
    let refused = |entry: &serde_json::Value, code: i32, parts: &[&str]| {
        fs::write(dir.path().join("e.json"), entry.to_string()).unwrap();
        fs::write(dir.path().join("s/plan.json"), format!("[{entry}]")).unwrap();
        let before = snapshot(dir.path());
        assert_fails(run(dir.path(), "train --device cpu --entry e.json"), code, parts);
        assert!(snapshot(dir.path()) == before, "something was written");
    };
    entry["out"] = "precious".into();
    refused(&entry, 2, &["found the folder precious", &id]);
    assert_fails(run(dir.path(), "sweep run s --device cpu"), 4, &["s/plan.json", "found the folder precious"]);
    // A folder that has the right name.
    fs::rename(dir.path().join("precious"), dir.path().join(&id)).unwrap();
    entry["out"] = id.clone().into();
    refused(&entry, 2, &["found thesis.tex there", "a new or an empty folder"]);
    // Another configuration under the same name.
    entry["out"] = format!("s/runs/{id}").into();
    entry["config"]["seed"] = 7.into();
    refused(&entry, 2, &["found an entry with the id", &id]);
    assert_eq!(fs::read_to_string(dir.path().join(&id).join("thesis.tex")).unwrap(), "years of work");
}

/// Catches a user's file that is replaced because it has the name of one of ours.
#[test]
fn a_folder_that_is_not_empty_is_not_taken() {
    let dir = tempdir().unwrap();
    let refused = |args: &str, parts: &[&str]| {
        let before = snapshot(dir.path());
        assert_fails(run(dir.path(), args), 2, parts);
        assert!(snapshot(dir.path()) == before, "{args}: something was written");
    };
    for name in ["config.toml", "notes.txt", "plan.json"] {
        fs::create_dir_all(dir.path().join("mine")).unwrap();
        fs::write(dir.path().join("mine").join(name), "mine").unwrap();
        refused(&format!("{TRAIN} --out mine"), &["mine: found ", name]);
        refused("sweep plan --seeds 1 --out mine", &["mine: found ", name]);
        fs::remove_dir_all(dir.path().join("mine")).unwrap();
    }
    fs::create_dir(dir.path().join("empty")).unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out empty")).success();
}

fn start(dir: &Path, args: &str) -> Child {
    command(dir, args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Each one's exit code and what it said.
fn ends(children: Vec<Child>) -> Vec<(i32, String)> {
    let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap());
    outputs.map(|o| (o.status.code().unwrap(), String::from_utf8_lossy(&o.stderr).into_owned())).collect()
}

/// Catches two runs that write into one folder: begun together, or resumed together.
#[test]
fn a_run_has_one_process_at_a_time() {
    for _ in 0..3 {
        let dir = tempdir().unwrap();
        let train = "train --device cpu --network small.toml --limit-train 200 --limit-test 40 --batch-size 8";
        for seed in [0, 1] {
            run(dir.path(), &format!("{train} --epochs 3 --seed {seed} --out alone{seed}")).success();
        }
        let both = [0, 1].map(|seed| start(dir.path(), &format!("{train} --epochs 3 --seed {seed} --out r")));
        let ended = ends(both.into());
        let first = ended.iter().position(|(code, _)| *code == 0).unwrap_or_else(|| panic!("{ended:?}"));
        let (code, said) = &ended[1 - first];
        // Most often while the other one trains; if not, when it is over.
        let refused =
            (*code == 1 && said.contains("r: in use by process ")) || (*code == 2 && said.contains("found a run"));
        assert!(refused, "{ended:?}");
        let model = |run: &str| fs::read(dir.path().join(run).join("model.safetensors")).unwrap();
        assert!(model("r") == model(&format!("alone{first}")), "the model of the other one, or of both");
        let config = fs::read_to_string(dir.path().join("r/config.toml")).unwrap();
        assert!(config.contains(&format!("seed = {first}")), "{config}");

        let resume = "train --device cpu --resume r --epochs 9";
        let ended = ends((0..3).map(|_| start(dir.path(), resume)).collect());
        assert!(ended.iter().any(|(code, _)| *code == 0), "{ended:?}");
        for (code, said) in ended {
            assert!(code == 0 || (code == 1 && said.contains("in use by process ")), "{code}: {said}");
        }
        let epochs = metrics(&dir.path().join("r"), "epoch");
        let found: Vec<_> = epochs.iter().map(|line| line["epoch"].as_u64().unwrap()).collect();
        assert_eq!(found, (1..=9).collect::<Vec<_>>());
        run(dir.path(), &format!("train --device cpu --resume alone{first} --epochs 9")).success();
        assert!(model("r") == model(&format!("alone{first}")));
    }
}

/// Catches a number that two runs get.
#[test]
fn runs_begun_together_get_numbers_of_their_own() {
    let dir = tempdir().unwrap();
    let runs = (0..6).map(|seed| start(dir.path(), &format!("{TRAIN} --epochs 1 --seed {seed}"))).collect();
    let ended = ends(runs);
    assert!(ended.iter().all(|(code, _)| *code == 0), "{ended:?}");
    let mut seeds: Vec<_> = (1..=6)
        .map(|i| {
            let config = fs::read_to_string(dir.path().join(format!("runs/train{i}/config.toml"))).unwrap();
            config.lines().find(|line| line.starts_with("seed = ")).unwrap().to_owned()
        })
        .collect();
    seeds.sort();
    assert_eq!(seeds, (0..6).map(|seed| format!("seed = {seed}")).collect::<Vec<_>>());
}

/// Catches a device or a pipe that becomes a file, and output that does not come through.
#[cfg(target_os = "linux")]
#[test]
fn outputs_go_to_pipes_and_devices() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    let predict = "predict --device cpu --limit-test 10 --model run/model.safetensors";
    let expected = super::stdout(&run(dir.path(), predict).success());
    for out in ["-", "/dev/stdout", "/proc/self/fd/1"] {
        let found = super::stdout(&run(dir.path(), &format!("{predict} --out {out}")).success());
        assert_eq!(found.trim_end(), expected.trim_end(), "{out}");
    }
    // Standard output is a file.
    let mut to_file = command(dir.path(), &format!("{predict} --out /dev/stdout"));
    assert!(to_file.stdout(fs::File::create(dir.path().join("answers")).unwrap()).status().unwrap().success());
    assert_eq!(fs::read_to_string(dir.path().join("answers")).unwrap().trim_end(), expected.trim_end());
    assert!(fs::symlink_metadata("/dev/stdout").unwrap().is_symlink());
    run(dir.path(), &format!("{predict} --out /dev/null")).success();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    let sheet = run(dir.path(), "data preview --limit-train 20 -o -").success();
    assert!(sheet.get_output().stdout.starts_with(b"\x89PNG"));
}

/// Catches a training that ends, or a line of its record that is lost, because its output cannot be written.
#[cfg(target_os = "linux")]
#[test]
fn full_output_does_not_end_a_training() {
    let dir = tempdir().unwrap();
    for json in ["", "--json"] {
        let mut full = command(dir.path(), &format!("{TRAIN} --epochs 2 --val-split 0.2 {json} --out run"));
        full.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
        let ended = full.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "{said}");
        assert_eq!(said.matches("standard output: ").count(), 1, "{said}");
        let out = dir.path().join("run");
        assert_eq!((metrics(&out, "epoch").len(), metrics(&out, "test").len()), (2, 1));
        assert!(out.join("model.safetensors").exists());
        fs::remove_dir_all(out).unwrap();
    }
}

/// Catches a model that is written after the test set is measured: what goes wrong there would lose it.
#[test]
fn the_model_is_written_before_the_test_set_is_measured() {
    let dir = tempdir().unwrap();
    run(dir.path(), "train --device cpu --limit-train 100 --val-split 0.2 --limit-test 500 --epochs 1 --out run")
        .success();
    let time = |file: &str| fs::metadata(dir.path().join("run").join(file)).unwrap().modified().unwrap();
    assert_eq!(metrics(&dir.path().join("run"), "test").len(), 1);
    assert!(time("model.safetensors") < time("metrics.jsonl"));
}

/// Catches a record that is lost, cut or damaged, and with it the run.
#[test]
fn a_record_that_is_lost_or_damaged_is_mended() {
    let dir = tempdir().unwrap();
    let train = format!("{TRAIN} --log-every 1");
    run(dir.path(), &format!("{train} --epochs 3 --out whole")).success();
    run(dir.path(), &format!("{train} --epochs 2 --out run")).success();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("run"));
    let record = out.join("metrics.jsonl");
    let good = fs::read(&record).unwrap();
    let lines: Vec<_> = good.split_inclusive(|&byte| byte == b'\n').collect();
    let checkpoint = fs::read(out.join("checkpoint.safetensors")).unwrap();
    for (damaged, said, steps) in [
        (None, &["no such file", "epochs [1, 2]"][..], 3),
        (Some(vec![]), &["epochs [1, 2]"], 3),
        // The line of the first epoch is no text; the last one is cut off.
        (
            Some([lines[0], lines[1], lines[2], b"\xff\xfe{\n", lines[4], &lines[5][..9]].concat()),
            &["1 damaged", "epochs [1, 2]"],
            7,
        ),
        (Some([&good[..], b"{\"kind\":\"step\",\"epo"].concat()), &[], 9),
    ] {
        match damaged {
            Some(bytes) => fs::write(&record, bytes).unwrap(),
            None => fs::remove_file(&record).unwrap(),
        }
        fs::write(out.join("checkpoint.safetensors"), &checkpoint).unwrap();
        let resumed = run(dir.path(), "train --device cpu --log-every 1 --resume run --epochs 3").success();
        let told = super::stderr(&resumed).join("\n");
        assert!(said.iter().all(|part| told.contains(part)), "{told}");
        assert_eq!(told.contains("metrics.jsonl"), !said.is_empty(), "{told}");
        assert_eq!(timeless(metrics(&whole, "epoch")), timeless(metrics(&out, "epoch")));
        assert_eq!(metrics(&out, "step").len(), steps);
        assert!(fs::read(out.join("model.safetensors")).unwrap() == fs::read(whole.join("model.safetensors")).unwrap());
    }
}

/// Catches weights that changed after they were written: they are finite, and nobody would know.
#[test]
fn a_bit_that_flips_in_a_file_is_noticed() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    for (file, args) in [
        ("checkpoint.safetensors", "train --device cpu --resume run --epochs 2"),
        ("model.safetensors", "eval --device cpu --limit-test 10 --model run/model.safetensors"),
    ] {
        let path = dir.path().join("run").join(file);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let zeros = [&whole[..whole.len() - 40_000], &vec![0; 40_000][..]].concat();
        for bytes in [flipped, zeros] {
            fs::write(&path, bytes).unwrap();
            let before = snapshot(dir.path());
            assert_fails(run(dir.path(), args), 4, &[file, "SHA-256"]);
            assert!(snapshot(dir.path()) == before);
        }
        fs::write(&path, whole).unwrap();
        run(dir.path(), args).success();
    }
}

/// Catches an error of many lines or of any length, or one that steers a terminal, by what a file contains.
#[test]
fn an_error_is_one_short_line() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    let config = dir.path().join("run/config.toml");
    let good = fs::read_to_string(&config).unwrap();
    for text in [
        good.replace("data = \"digits\"", &format!("data = \"\\u001B[2J{}\\n\\n\"", "x".repeat(5000))),
        good.replace("seed = 0", &format!("seed = \"\\u202Eevil\\r\\n{}\"", "y".repeat(3000))),
    ] {
        assert_ne!(text, good);
        fs::write(&config, text).unwrap();
        let failed = run(dir.path(), "train --device cpu --resume run --epochs 2").code(4);
        let lines = super::stderr(&failed);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(lines[0].chars().count() <= 420 && !lines[0].contains(['\u{1b}', '\u{202e}', '\r']), "{lines:?}");
    }
}

/// Catches a temperature that is put into a run which another process trains on, or over a file of the user's.
#[test]
fn calibrate_waits_for_nobody_and_replaces_nothing_of_others() {
    let dir = tempdir().unwrap();
    let train =
        "train --device cpu --limit-train 400 --limit-test 40 --val-split 0.2 --batch-size 8 --label-smoothing 0.2";
    run(dir.path(), &format!("{train} --epochs 2 --out run")).success();
    let calibrate = "calibrate --device cpu run";
    let mut training = start(dir.path(), "train --device cpu --resume run --epochs 100000");
    let config = dir.path().join("run/config.toml");
    while !fs::read_to_string(&config).unwrap().contains("epochs = 100000") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let holder = format!("run: in use by process {} on ", training.id());
    for args in [calibrate, "train --device cpu --resume run", "calibrate --device cpu --model run/model.safetensors"] {
        assert_fails(run(dir.path(), args), 1, &[&holder, "train --device cpu --resume run --epochs 100000"]);
    }
    training.kill().unwrap();
    training.wait().unwrap();
    run(dir.path(), calibrate).success();
    // Its own file is replaced, as is one in a folder of others only if it is such a file.
    run(dir.path(), calibrate).success();
    let out = super::stdout(&run(dir.path(), &format!("{calibrate} --out -")).success());
    assert!(out.starts_with("temperature = ") && out.parse::<toml::Table>().is_ok(), "{out}");
    fs::write(dir.path().join("run/temperature.toml"), "today = 21.5\n").unwrap();
    assert_fails(run(dir.path(), calibrate), 4, &["run/temperature.toml", "not of `smoothcnn calibrate`", "--out"]);
    assert_eq!(fs::read_to_string(dir.path().join("run/temperature.toml")).unwrap(), "today = 21.5\n");
}
