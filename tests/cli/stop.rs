//! Trainings that end before their time.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::tempdir;

use super::{TRAIN, assert_fails, command, metrics, run, timeless};

/// Waits until metrics.jsonl of `run` has a line with `text`.
pub fn wait_for(run: &Path, text: &str, child: &mut Child) {
    let began = Instant::now();
    while !std::fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|lines| lines.contains(text)) {
        assert!(began.elapsed() < Duration::from_secs(60), "no {text} after a minute");
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal.
#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Catches a signal that kills without a word, or leaves a model that was not trained to the end, or whose run goes on
/// to other bits than if nothing had happened: stopped within an epoch, its first one included, or after some.
#[cfg(unix)]
#[test]
fn a_signal_ends_a_run_that_goes_on_to_the_same_bits() {
    for (flags, name, code, epochs, wait) in [
        ("--limit-train 1600", "-INT", 130, 2, r#""step":20,"#),
        ("--limit-train 1600", "-TERM", 143, 2, r#""step":220,"#),
        ("--limit-train 100 --val-split 0.2 --label-noise 0.2 --dtype f64", "-HUP", 129, 12, r#""epoch":2,"#),
        ("--limit-train 160 --kernels reference --opt sgd --lr 0.01", "-TERM", 143, 1, r#""step":9,"#),
    ] {
        let dir = tempdir().unwrap();
        let train = format!(
            "train --device cpu --network lenet5 {flags} --limit-test 10 --batch-size 8 --epochs {epochs} --log-every 1"
        );
        run(dir.path(), &format!("{train} --out whole")).success();
        // What is printed is what a shell takes, whatever the folder is called.
        let out_name = "a run";
        let (whole, out) = (dir.path().join("whole"), dir.path().join(out_name));
        let mut stopped = command(dir.path(), &train);
        stopped.args(["--out", out_name]);
        let mut child = stopped.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(&out, wait, &mut child);
        signal(&child, name);
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert_eq!(said.matches("smoothcnn: interrupted by ").count(), 1, "{said}");
        let kernels = if flags.contains("--kernels reference") { " --kernels reference" } else { "" };
        let again = format!("`smoothcnn train --resume '{out_name}' --device cpu{kernels} --log-every 1`");
        assert!(said.contains(&again), "{said}");
        assert!(!out.join("model.safetensors").exists());
        let steps = metrics(&out, "step").len();
        assert!(steps < metrics(&whole, "step").len(), "it was stopped too late");

        let line = again.trim_matches('`').replacen("smoothcnn", env!("CARGO_BIN_EXE_smoothcnn"), 1);
        assert!(Command::new("sh").args(["-c", &line]).current_dir(dir.path()).output().unwrap().status.success());
        let bytes = |run: &Path| std::fs::read(run.join("model.safetensors")).unwrap();
        assert!(bytes(&whole) == bytes(&out), "{flags}: stopped after {steps} steps, the models differ");
        assert_eq!(timeless(metrics(&whole, "epoch")), timeless(metrics(&out, "epoch")), "{flags}");
        assert_eq!(metrics(&whole, "step"), metrics(&out, "step"), "{flags}");
        assert_eq!(metrics(&whole, "test"), metrics(&out, "test"), "{flags}");
    }
}

/// A data set that takes about a second to read: 160 MB of black images, compressed.
#[cfg(target_os = "linux")]
fn write_slow_data(dir: &Path) {
    use std::io::Write;
    std::fs::create_dir(dir).unwrap();
    let file = |name: &str, magic: u32, dims: &[u32], bytes: &mut dyn Iterator<Item = Vec<u8>>| {
        let file = std::fs::File::create(dir.join(format!("{name}.gz"))).unwrap();
        let mut file = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        [magic].iter().chain(dims).for_each(|word| file.write_all(&word.to_be_bytes()).unwrap());
        bytes.for_each(|bytes| file.write_all(&bytes).unwrap());
        file.finish().unwrap();
    };
    for (part, n) in [("train", 40_000), ("t10k", 10)] {
        file(&format!("{part}-images-idx3-ubyte"), 0x0803, &[n, 64, 64], &mut (0..n).map(|_| vec![0; 64 * 64]));
        file(&format!("{part}-labels-idx1-ubyte"), 0x0801, &[n], &mut (0..n).map(|i| vec![(i % 10) as u8]));
    }
}

/// Waits until the program has its handlers in place.
#[cfg(target_os = "linux")]
fn wait_for_handlers(child: &Child) {
    let began = Instant::now();
    let caught = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default().trim().to_owned();
        // SIGHUP, SIGINT and SIGTERM are 1, 2 and 15.
        u64::from_str_radix(&mask, 16).is_ok_and(|mask| mask & 0x4003 == 0x4003)
    };
    while !caught() {
        assert!(began.elapsed() < Duration::from_secs(60), "no handlers after a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How many hundredths of a second the program has computed, all threads added up.
#[cfg(target_os = "linux")]
fn ticks(child: &Child) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    // The name in brackets may have spaces; behind it the user's time is the 12th field.
    let fields = &stat[stat.rfind(')').unwrap() + 2..];
    fields.split(' ').nth(11).unwrap().parse().unwrap()
}

/// Catches a signal that is lost while nothing is there to be brought to an end, and a second one that is not the end.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_counts_in_every_phase_and_a_second_one_at_once() {
    let dir = tempdir().unwrap();
    write_slow_data(&dir.path().join("data"));
    for args in ["train --device cpu --data mnist --out other", "data preview --data mnist -o other"] {
        for (name, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
            let mut child = command(dir.path(), args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            wait_for_handlers(&child);
            signal(&child, name);
            assert_eq!(child.wait().unwrap().code(), Some(code), "{args}");
            assert!(!dir.path().join("other").exists());
        }
    }
    // One step of this takes long: the second signal does not wait for it.
    let long = "train --device cpu --kernels reference --dtype f64 --limit-train 4000 --batch-size 4000 --limit-test 10 --out long";
    let mut child = command(dir.path(), long).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !dir.path().join("long/metrics.jsonl").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    // What the run does between that file and its first step takes less than this.
    let begun = ticks(&child);
    while ticks(&child) < begun + 100 {
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&child, "-TERM");
    std::thread::sleep(Duration::from_millis(100));
    assert!(child.try_wait().unwrap().is_none(), "the step is brought to its end");
    signal(&child, "-TERM");
    let began = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(began.elapsed() < Duration::from_secs(2));
}

/// Catches a run that ends with its terminal though it was started with nohup.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_was_ignored_from_the_start_stays_so() {
    let dir = tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_smoothcnn");
    let args =
        "train --device cpu --limit-train 3000 --limit-test 10 --batch-size 32 --log-every 1 --epochs 1 --out run";
    let line = format!("trap '' HUP; exec {program} {args}");
    let mut child =
        Command::new("sh").args(["-c", &line]).current_dir(dir.path()).stdout(Stdio::null()).spawn().unwrap();
    wait_for(&dir.path().join("run"), r#""step":5,"#, &mut child);
    signal(&child, "-HUP");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Catches a run that was killed in its first epoch and can neither be resumed nor begun again.
#[cfg(unix)]
#[test]
fn a_run_killed_in_its_first_epoch_is_begun_again() {
    let dir = tempdir().unwrap();
    let train = "train --device cpu --network lenet5 --limit-train 2000 --limit-test 10 --batch-size 8 --epochs 1 --log-every 1 --label-noise 0.1";
    run(dir.path(), &format!("{train} --out whole")).success();
    let bytes = |run: &str| std::fs::read(dir.path().join(run).join("model.safetensors")).unwrap();
    for again in ["train --device cpu --log-every 1 --resume run".to_owned(), format!("{train} --out run")] {
        let mut killed = command(dir.path(), &format!("{train} --out run"));
        let mut child = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let out = dir.path().join("run");
        wait_for(&out, r#""step":5,"#, &mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        // What a writer that was killed leaves.
        std::fs::write(out.join(".checkpoint.safetensors.Ab3dE6.tmp"), "x").unwrap();
        run(dir.path(), &again).success();
        assert!(bytes("whole") == bytes("run"), "{again}");
        assert_eq!(metrics(&dir.path().join("whole"), "step"), metrics(&out, "step"));
        assert!(super::snapshot(&out).keys().all(|name| !name.ends_with(".tmp")), "{:?}", super::snapshot(&out).keys());
        std::fs::remove_dir_all(out).unwrap();
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

/// Catches a device that goes away and takes the run with it, or is not the same run afterwards.
#[test]
fn a_device_that_is_lost_is_opened_again_and_the_bits_are_the_same() {
    let dir = tempdir().unwrap();
    let train = "train --device gpu --autotune off --network small.toml --limit-train 80 --val-split 0.2 --best-by ece --limit-test 20 --batch-size 8 --epochs 3 --log-every 1";
    run(dir.path(), &format!("{train} --out whole")).success();
    let whole = dir.path().join("whole");
    let model =
        |run: &Path| ["model", "best"].map(|name| std::fs::read(run.join(format!("{name}.safetensors"))).unwrap());
    // In the first epoch, which is begun again; in the second, after a checkpoint.
    for (step, name) in [("4", "first"), ("13", "second")] {
        let mut lost = command(dir.path(), &format!("{train} --out {name}"));
        let ended = lost.env("SMOOTHCNN_LOSE_DEVICE_AFTER_STEP", step).output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(0), "{said}");
        assert_eq!(said.matches("the GPU device was lost: ").count(), 1, "{said}");
        let out = dir.path().join(name);
        assert!(model(&whole) == model(&out), "step {step}: the models differ");
        assert_eq!(timeless(metrics(&whole, "epoch")), timeless(metrics(&out, "epoch")));
        assert_eq!(metrics(&whole, "step"), metrics(&out, "step"));
        assert_eq!(metrics(&whole, "test"), metrics(&out, "test"));
    }
}
