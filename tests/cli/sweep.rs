//! A grid of runs: what it leaves, and that nothing is done twice or otherwise.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::tempdir;

use super::{TRAIN, assert_fails, command, json_lines, number, run, snapshot, stdout};

/// Eight runs of a moment each.
const GRID: &str = "--device cpu --network small.toml --limit-test 40 --batch-size 32 --limit-train 80 --epochs 2 \
                    --label-smoothing 0,0.1 --label-noise 0,0.3 --seeds 2 --out s";

/// results.csv, without what a clock measured.
fn results(sweep: &Path) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_path(sweep.join("results.csv")).unwrap();
    let mut rows: Vec<Vec<String>> =
        reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
    let clock = rows[0].iter().position(|name| name == "seconds").unwrap();
    rows.iter_mut().for_each(|row| drop(row.remove(clock)));
    rows
}

/// Catches a run that is missing, trained twice, or not what its configuration says, and a report without its parts.
#[test]
fn a_sweep_ends_in_a_table_and_a_report_and_does_nothing_twice() {
    let dir = tempdir().unwrap();
    let done = run(dir.path(), &format!("sweep {GRID}")).success();
    let said = stdout(&done);
    for part in
        ["1 less overfitting", "beside: better than no smoothing", "undecided", "noise 0.3: use e = ", "predicted"]
    {
        assert!(said.contains(part), "{said}");
    }
    let sweep = dir.path().join("s");
    let rows = results(&sweep);
    assert_eq!(rows.len(), 1 + 8);
    let column = |name: &str| rows[0].iter().position(|found| found == name).unwrap();
    let grid: Vec<[&str; 3]> = rows[1..]
        .iter()
        .map(|row| ["label_noise", "label_smoothing", "seed"].map(|name| row[column(name)].as_str()))
        .collect();
    let expected = ["0", "0.3"].map(|noise| ["0", "0.1"].map(|e| ["0", "1"].map(|seed| [noise, e, seed])).concat());
    assert_eq!(grid, expected.concat());
    for row in &rows[1..] {
        assert_eq!(row[column("memorised")].is_empty(), row[column("label_noise")] == "0", "{row:?}");
        assert!(row[column("test_nll")].parse::<f64>().unwrap() > 0.0, "{row:?}");
    }
    // Each folder answers with the weights that were measured.
    for row in &rows[1..] {
        let asked =
            run(dir.path(), &format!("eval --model s/runs/{} --device cpu --json", row[column("id")])).success();
        let measured: f64 = row[column("test_nll")].parse().unwrap();
        assert!((number(&json_lines(&stdout(&asked))[0], "nll") - measured).abs() < 1e-6, "{row:?}");
    }
    let page = fs::read_to_string(sweep.join("report.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("better calibration"));
    // Six curves; two reliability diagrams for each noise and epsilon; two projections for each epsilon.
    let effects = page.matches("<svg class=\"effect\"").count();
    assert!(effects > 8, "each claim has its picture");
    assert_eq!(page.matches("<svg").count() - effects, 6 + 8 + 4);
    assert!(fs::read_to_string(sweep.join("curves.svg")).unwrap().starts_with("<svg"));

    // What is there is left as it is, and a larger grid trains what it adds.
    let before = snapshot(&sweep.join("runs"));
    run(dir.path(), &format!("sweep {GRID}")).success();
    assert_eq!(snapshot(&sweep.join("runs")), before);
    run(dir.path(), &format!("sweep {}", GRID.replace("--label-noise 0,0.3", "--label-noise 0,0.3,0.5"))).success();
    let after = snapshot(&sweep.join("runs"));
    assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)));
    assert_eq!(results(&sweep).len(), 1 + 12);
    let again = run(dir.path(), "sweep collect s --json").success();
    let mut found = json_lines(&stdout(&again));
    assert_eq!((&found[0]["runs"], &found[0]["cross_fitted"]), (&12.into(), &true.into()));
    // Each of six cells has two seeds, asked together; a table has no answers.
    let ensembles = found[0]["ensembles"].take();
    assert_eq!(ensembles.as_array().unwrap().len(), 6);
    assert!(
        ensembles.as_array().unwrap().iter().all(|e| e["runs"] == 2 && number(e, "nll") <= number(e, "single_nll"))
    );
    found[0]["ensembles"] = json!([]);
    // The table alone tells the same, and nothing is written.
    let before = snapshot(&sweep);
    let told = json_lines(&stdout(&run(dir.path(), "sweep collect s/results.csv --json").success()));
    assert!(told.len() == found.len() && told.iter().zip(&found).all(|(a, b)| alike(a, b)), "{told:?}\n{found:?}");
    assert_eq!(snapshot(&sweep), before);
    fs::write(sweep.join("bad.csv"), "id,x\n1,2\n").unwrap();
    assert_fails(run(dir.path(), "sweep collect s/bad.csv"), 4, &["s/bad.csv: line 2, label_smoothing: found nothing"]);
}

/// Catches a loss that is trained otherwise than its flag says, or held against other runs than those of its seed.
#[test]
fn other_losses_stand_beside_smoothing() {
    let dir = tempdir().unwrap();
    let grid = GRID
        .replace("--label-noise 0,0.3", "--losses maxsup,mbls")
        .replace("--label-smoothing 0,0.1", "--label-smoothing 0,0.1,0.2");
    let said = stdout(&run(dir.path(), &format!("sweep {grid}")).success());
    assert!(said.contains("maxsup at e = ") && said.contains("noise 0: mbls, beside plain cross-entropy"), "{said}");
    let rows = results(&dir.path().join("s"));
    let column = |name: &str| rows[0].iter().position(|found| found == name).unwrap();
    let kinds: Vec<[&str; 2]> =
        rows[1..].iter().map(|row| ["loss_kind", "label_smoothing"].map(|name| row[column(name)].as_str())).collect();
    let expected = [
        ["cross-entropy", "0"],
        ["cross-entropy", "0.1"],
        ["cross-entropy", "0.2"],
        ["maxsup", "0.1"],
        ["maxsup", "0.2"],
        ["mbls", "0"],
    ];
    assert_eq!(kinds, expected.map(|kind| [kind; 2]).concat());
    let told = json_lines(&stdout(&run(dir.path(), "sweep collect s/results.csv --json").success())).remove(0);
    let found = json_lines(&stdout(&run(dir.path(), "sweep collect s --json").success())).remove(0);
    assert!(alike(&told["rivals"], &found["rivals"]));
    let rivals = found["rivals"].as_array().unwrap();
    assert_eq!((rivals.len(), &rivals[0]["loss"], &rivals[1]["loss"]), (2, &"maxsup".into(), &"mbls".into()));
    assert_eq!((found["runs"].as_u64(), rivals[1]["measured"][0]["above_none"]["n"].as_u64()), (Some(6), Some(2)));
    // One of its runs alone is the same as training it by its own flags.
    let alone = format!("{TRAIN} --epochs 2 --val-split 0.1 --seed 1");
    run(dir.path(), &format!("{alone} --loss maxsup --label-smoothing 0.2 --out alone")).success();
    let model = fs::read(dir.path().join("alone/model.safetensors")).unwrap();
    let id = &rows[10][column("id")];
    assert_eq!(fs::read(dir.path().join("s/runs").join(id).join("model.safetensors")).unwrap(), model);
    let bad = run(dir.path(), "sweep plan --losses maxsup --loss focal");
    bad.code(2);
}

/// Catches an entry that depends on the machine or the order, or a task of a job array that trains another one's run.
#[test]
fn entries_run_by_themselves_in_any_order() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("sweep {GRID}")).success();
    let expected = results(&dir.path().join("s"));

    let other = tempdir().unwrap();
    let planned = run(other.path(), &format!("sweep plan {}", GRID.replace("--device cpu ", ""))).success();
    assert_eq!(stdout(&planned), "8 runs in s/plan.json\n");
    assert_fails(run(other.path(), "sweep collect s"), 2, &["found no run that is done"]);
    for index in [7, 2, 5, 0, 1, 6, 3] {
        run(other.path(), &format!("train --entry s/plan.json --index {index} --device cpu")).success();
    }
    // The last one as HyperQueue gives it: the entry's own JSON.
    let plan: Vec<serde_json::Value> =
        serde_json::from_str(&fs::read_to_string(other.path().join("s/plan.json")).unwrap()).unwrap();
    fs::write(other.path().join("entry.json"), plan[4].to_string()).unwrap();
    let mut from_input = command(other.path(), "train --entry - --device cpu");
    from_input.stdin(fs::File::open(other.path().join("entry.json")).unwrap());
    assert!(from_input.output().unwrap().status.success());
    run(other.path(), "sweep collect s").success();
    assert_eq!(results(&other.path().join("s")), expected);
    run(other.path(), "sweep run s --device cpu").success();
}

/// Catches a run that is lost, half measured or trained otherwise because the sweep was killed.
#[cfg(unix)]
#[test]
fn a_sweep_that_was_killed_goes_on_to_the_same_results() {
    use std::os::unix::process::CommandExt;
    // What takes time is the checkpoint after each epoch. These are enough of them for a run to be caught between two.
    let grid =
        GRID.replace("small.toml", "seed").replace("--epochs 2", "--epochs 6").replace("--label-noise 0,0.3 ", "");
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("sweep {grid}")).success();
    let expected = results(&dir.path().join("s"));

    // With its runs, as a machine that goes down; and alone, which leaves its runs to themselves.
    for all in [true, false] {
        let dir = tempdir().unwrap();
        let sweep = dir.path().join("s");
        let mut starting = command(dir.path(), &format!("sweep {grid} --jobs 2"));
        starting.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = starting.spawn().unwrap();
        let began = Instant::now();
        let found = |counts: fn(&Path) -> bool| {
            let runs = fs::read_dir(sweep.join("runs")).into_iter().flatten().flatten();
            runs.filter(|run| counts(&run.path())).count()
        };
        let done = || found(|run| run.join("result.json").exists());
        let under_way =
            || found(|run| run.join("checkpoint.safetensors").exists() && !run.join("result.json").exists());
        // One is done, and another has begun.
        while done() == 0 || under_way() == 0 {
            assert!(began.elapsed() < Duration::from_secs(120), "nothing after two minutes");
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself after {} runs", done());
            std::thread::sleep(Duration::from_millis(2));
        }
        let id = child.id();
        let whom = if all { format!("-{id}") } else { id.to_string() };
        assert!(Command::new("kill").args(["-KILL", "--", &whom]).status().unwrap().success());
        child.wait().unwrap();
        assert!(done() < 4, "it was killed too late");
        run(dir.path(), &format!("sweep {grid}")).success();
        assert_eq!(results(&sweep), expected, "all: {all}");
    }
}

/// Whether two answers are the same but for the rounding of numbers: a table has some that are worked out from others.
fn alike(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (a, b) {
        (Number(a), Number(b)) => (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-9,
        (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Object(a), Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| alike(a, b)))
        }
        _ => a == b,
    }
}

/// Catches a report or a table that does not say which loss its runs had.
#[test]
fn the_loss_is_named() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("prior.txt"), "1 2 3 4 5 6 7 8 9 10").unwrap();
    let grid = GRID.replace("--label-noise 0,0.3 --seeds 2", "--seeds 1").replace("--epochs 2", "--epochs 1");
    let weights = "1,1,1,1,1,1,1,1,1,2";
    let flags = format!(
        "--smoothing-variant prior --smoothing-prior prior.txt --smoothing-schedule warmup --class-weights {weights} \
         --class-weighting sample --class-mask 1,2,3,4 --ignore-index 4"
    );
    run(dir.path(), &format!("sweep {grid} {flags}")).success();
    let details = format!(", class weights {weights} (sample), classes [1, 2, 3, 4] only, label 4 ignored");
    let page = fs::read_to_string(dir.path().join("s/report.html")).unwrap();
    for (name, value) in [
        ("loss", &format!("cross-entropy with label smoothing{details}")[..]),
        ("epsilon", "0, 0.1 (by the prior prior.txt, from 0 over 1 epochs)"),
        ("training", "1 epochs, batch size 32, Adam, weight decay 0, learning rate 0.001"),
    ] {
        assert!(page.contains(&format!("<dt>{name}</dt><dd>{value}</dd>")), "{name}: {page}");
    }
    let rows = results(&dir.path().join("s"));
    let column = |name: &str| rows[0].iter().position(|found| found == name).unwrap();
    let found: Vec<_> = rows[1..].iter().map(|row| [&row[column("smoothing_variant")], &row[column("loss")]]).collect();
    let smoothed = format!("label smoothing 0.1 by the prior prior.txt, from 0 over 1 epochs{details}");
    let plain = format!("plain cross-entropy{details}");
    assert_eq!(found, [["prior", &plain[..]], ["prior", &smoothed[..]]]);

    let grid = grid.replace("0,0.1", "0").replace("--out s", "--out f").replace("small.toml", "mlp");
    run(dir.path(), &format!("sweep {grid} --loss focal")).success();
    let page = fs::read_to_string(dir.path().join("f/report.html")).unwrap();
    assert!(page.contains("<dt>loss</dt><dd>focal loss, gamma 2</dd>"), "{page}");
    assert!(page.contains("<dt>epsilon</dt><dd>none</dd>"), "{page}");
    assert!(page.contains("<dt>network</dt><dd>mlp</dd>"), "{page}");
}

/// Catches a sweep that goes on without a word about a run that failed, or that stops at it.
#[test]
fn a_run_that_fails_is_named_and_the_others_are_done() {
    let dir = tempdir().unwrap();
    let failed = run(dir.path(), &format!("sweep {GRID} --lr 1e30")).code(1);
    let said = super::stderr(&failed).join("\n");
    for part in ["smoothcnn: sweep: run ", "exit code 1", "the loss is ", ".log", "(7 others failed too)"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(said.matches("\nfailed: run ").count(), 7, "{said}");
    assert!(!dir.path().join("s/report.html").exists());

    // One whose folder cannot be made.
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("sweep plan {}", GRID.replace("--device cpu ", ""))).success();
    let plan = fs::read_to_string(dir.path().join("s/plan.json")).unwrap();
    let plan: Vec<serde_json::Value> = serde_json::from_str(&plan).unwrap();
    let first = dir.path().join(plan[0]["out"].as_str().unwrap());
    fs::create_dir_all(first.parent().unwrap()).unwrap();
    fs::write(&first, "in the way").unwrap();
    let sweep = format!("sweep {GRID}");
    let failed = run(dir.path(), &sweep).code(1);
    let said = super::stderr(&failed).join("\n");
    assert!(
        said.contains(&format!("smoothcnn: sweep: run {} ended with exit code 1: ", plan[0]["id"].as_str().unwrap())),
        "{said}"
    );
    assert_eq!(results(&dir.path().join("s")).len(), 1 + 7, "the others are done and reported");

    // A repetition begins with what was never tried: here, one whose result is damaged.
    let last = dir.path().join(plan[7]["out"].as_str().unwrap());
    let result = fs::read_to_string(last.join("result.json")).unwrap();
    let damaged = result.replacen("\"nll\":", "\"nll\":null,\"x\":", 1);
    assert_ne!(damaged, result);
    fs::write(last.join("result.json"), damaged).unwrap();
    let again = run(dir.path(), &format!("{sweep} --jobs 1")).code(1);
    let said = super::stderr(&again).join("\n");
    assert!(said.contains("counts as not done") && said.contains("2 of 8 runs to do"), "{said}");
    let (done, failed) = (said.find("1/2 runs").unwrap(), said.find("ended with exit code 1").unwrap());
    assert!(done < failed, "{said}");
    let log = fs::read_to_string(first.with_extension("log")).unwrap();
    assert_eq!(log.matches("smoothcnn: ").count(), 2, "every attempt is in the log: {log}");
    fs::remove_file(&first).unwrap();
    run(dir.path(), &sweep).success();
    assert_eq!(results(&dir.path().join("s")).len(), 1 + 8);
    assert!(!first.with_extension("failed").exists());
}

/// Catches runs that are left to themselves when their sweep ends, however it ends; and a signal that loses a run.
#[cfg(target_os = "linux")]
#[test]
fn runs_end_with_their_sweep() {
    let grid = GRID.replace("--epochs 2", "--epochs 400");
    for (signal, code) in [("-KILL", None), ("-TERM", Some(143)), ("-INT", Some(130)), ("-HUP", Some(129))] {
        let dir = tempdir().unwrap();
        let here = dir.path().canonicalize().unwrap();
        let of_sweep = || {
            let processes = fs::read_dir("/proc").unwrap().flatten();
            processes.filter(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == here)).count()
        };
        let mut starting = command(dir.path(), &format!("sweep {grid} --jobs 2"));
        let mut child = starting.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        let checkpoints = || {
            let runs = fs::read_dir(dir.path().join("s/runs")).into_iter().flatten().flatten();
            runs.filter(|run| run.path().join("checkpoint.safetensors").exists()).count()
        };
        while checkpoints() < 2 {
            assert!(began.elapsed() < Duration::from_secs(60), "no runs after a minute");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(of_sweep() >= 3, "the sweep and two runs");
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), code, "{signal}");
        let began = Instant::now();
        while of_sweep() > 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "{signal}: {} processes are left", of_sweep());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(checkpoints() >= 2, "they can go on");
        assert!(
            fs::read_dir(dir.path().join("s/runs"))
                .unwrap()
                .flatten()
                .all(|f| f.path().extension() != Some("failed".as_ref()))
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_written() {
    let dir = tempdir().unwrap();
    for (args, code, parts) in [
        ("sweep --val-split 0", 2, ["--val-split", "found 0"]),
        ("sweep --label-noise 2", 2, ["--label-noise", "found 2"]),
        ("sweep --label-smoothing 0,1", 2, ["--label-smoothing", "found 1"]),
        ("sweep --level 1", 2, ["--level", "found 1"]),
        ("sweep run nowhere", 4, ["nowhere/plan.json", "sweep plan"]),
        ("sweep collect nowhere", 4, ["nowhere/plan.json", "sweep plan"]),
        ("train --entry nowhere.json", 4, ["nowhere.json", "sweep plan"]),
    ] {
        assert_fails(run(dir.path(), args), code, &parts);
    }
    assert!(snapshot(dir.path()).is_empty());
    fs::write(dir.path().join("plan.json"), "[]").unwrap();
    assert_fails(
        run(dir.path(), "train --entry plan.json --index 0"),
        2,
        &["--entry plan.json", "0 entries", "--index 0"],
    );
    // A run that could not be measured is not trained first.
    run(dir.path(), "sweep plan --seeds 1 --label-smoothing 0 --out s").success();
    let plan = fs::read_to_string(dir.path().join("s/plan.json")).unwrap();
    let without = plan.replace("\"val-split\":0.1", "\"val-split\":0.0");
    assert_ne!(without, plan);
    fs::write(dir.path().join("s/plan.json"), without).unwrap();
    let before = snapshot(dir.path());
    let parts = ["--entry", "val-split of 0", "expected images held out"];
    assert_fails(run(dir.path(), "train --entry s/plan.json --device cpu"), 2, &parts);
    assert_eq!(snapshot(dir.path()), before);
    fs::write(dir.path().join("other.json"), "{}").unwrap();
    assert_fails(run(dir.path(), "train --entry other.json"), 4, &["other.json", "an entry"]);
}
