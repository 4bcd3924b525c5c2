//! `plan`, `devices`, `data preview`, and the program's own help.

use std::io::Read;
use std::process::Stdio;

use predicates::prelude::*;
use tempfile::tempdir;

use super::{command, json_lines, number, run, stdout};

/// Catches a plan that counts wrong, or needs a device or a file.
#[test]
fn plan_counts_the_seed_network() {
    let dir = tempdir().unwrap();
    for (args, parameters) in [
        ("plan", 421_642),
        ("plan --input 1x28x28 --batch-size 1 --smoothing-variant off-target", 421_642),
        ("plan --input 1x112x112", 6_442_762),
    ] {
        let text = format!("{parameters} parameters");
        run(dir.path(), args).success().stdout(predicate::str::contains(text).and(predicate::str::contains("memory")));

        let done = run(dir.path(), &format!("{args} --json")).success();
        let [plan] = &json_lines(&stdout(&done))[..] else { panic!("expected one line") };
        assert_eq!(plan["parameters"].as_u64(), Some(parameters), "{args}");
        let buffers = plan["buffers"].as_array().unwrap();
        assert_eq!(buffers.iter().map(|buffer| number(buffer, "bytes")).sum::<f64>(), number(plan, "total_bytes"));
        let (train, infer) = (plan["train"].as_array().unwrap(), plan["infer"].as_array().unwrap());
        assert!(train.len() > infer.len() && !infer.is_empty(), "{args}");
        assert!(train.iter().chain(infer).all(|step| number(step, "bytes") > 0.0));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Catches an order that is left out of either form, and a wait whose reason is not told.
#[test]
fn plan_says_what_each_dispatch_waits_for() {
    let dir = tempdir().unwrap();
    let text = stdout(&run(dir.path(), "plan --order --tiles workgroup").success());
    assert!(text.contains("training step: 9 dispatches run in 9 waves, at least 9 in any order"), "{text}");
    let line = text.lines().find(|line| line.trim_start().starts_with("8 conv1+relu1+pool1.backward_weight")).unwrap();
    assert!(line.contains("conv2+relu2+pool2.backward (conv2+relu2+pool2.in.grad; other parts of grads)"), "{line}");
    assert!(line.contains("fc2.backward (only as wgpu waits for all of grads)"), "{line}");
    let json = &json_lines(&stdout(&run(dir.path(), "plan --json").success()))[0];
    assert_eq!(json["train"][1]["waits_for"][0]["label"], "conv1+relu1+pool1.forward", "{json}");
}

/// Catches a panic where the reader of a pipe went away.
#[test]
fn a_broken_pipe_ends_quietly() {
    let dir = tempdir().unwrap();
    for args in ["plan", "plan --json"] {
        let mut child = command(dir.path(), args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""), "{args}");
    }
}

/// Catches a listing that fails where there is no adapter, or forgets the CPU path.
#[test]
fn devices_lists_whatever_there_is() {
    let dir = tempdir().unwrap();
    run(dir.path(), "devices").success().stdout(predicate::str::contains("cpu: the CPU path"));
    for (i, device) in json_lines(&stdout(&run(dir.path(), "devices --json").success())).iter().enumerate() {
        assert_eq!(device["index"].as_u64(), Some(i as u64));
        assert!(device["name"].is_string(), "{device}");
    }
    let none = command(dir.path(), "devices").env("WGPU_BACKEND", "metal").output().unwrap();
    if cfg!(target_os = "linux") {
        assert!(none.status.success());
        assert!(String::from_utf8(none.stdout).unwrap().contains("no GPU adapter found"));
    }
}

/// Catches a picture that is not one, of another size, or empty.
#[test]
fn preview_writes_a_picture() {
    let dir = tempdir().unwrap();
    // 4294967295 columns are as many as there are images.
    for (columns, width) in [("3", 3), ("4294967295", 10)] {
        let args = format!("data preview --limit-train 100 --columns {columns} -o sheet.png");
        run(dir.path(), &args).success().stdout(predicate::str::starts_with("sheet.png: "));
        let sheet = image::open(dir.path().join("sheet.png")).unwrap().into_luma8();
        assert_eq!(sheet.dimensions(), (width * 28 * 2, 10 * 28 * 2));
        // Some ink in every picture.
        for (row, column) in (0..10).flat_map(|row| (0..width).map(move |column| (row, column))) {
            let inked = (0..56).any(|y| (0..56).any(|x| sheet.get_pixel(column * 56 + x, row * 56 + y).0[0] > 128));
            assert!(inked, "row {row}, column {column} is empty");
        }
    }
}

/// Catches a command without help, and help that speaks of flags which the command does not have. Another command's are
/// in backticks, with its name.
#[test]
fn every_command_explains_itself() {
    let dir = tempdir().unwrap();
    for command in [
        "",
        "train",
        "sweep",
        "sweep plan",
        "sweep run",
        "sweep collect",
        "eval",
        "predict",
        "calibrate",
        "check",
        "bench",
        "plan",
        "devices",
        "data",
        "data info",
        "data preview",
        "completions",
        "man",
    ] {
        let help = stdout(&run(dir.path(), &format!("{command} --help")).success());
        assert!(help.contains("Usage: smoothcnn"), "{command}");
        assert!(!help.contains("[`"), "{command}: a link of the documentation: {help}");
        let flags = |line: &str| -> Vec<String> {
            let words = line.split(|c: char| !c.is_ascii_lowercase() && c != '-');
            words.filter(|word| word.starts_with("--")).map(str::to_owned).collect()
        };
        // A flag's own line begins with it, after a short form or none.
        let own = help.lines().filter(|line| line.trim_start().starts_with('-')).flat_map(flags).collect::<Vec<_>>();
        let of_others = |line: &str| line.split('`').step_by(2).flat_map(flags).collect::<Vec<_>>();
        for flag in help.lines().filter(|line| !line.contains("[alias: ")).flat_map(of_others) {
            assert!(own.contains(&flag), "{command} has no {flag}: {help}");
        }
    }
    run(dir.path(), "--version").success().stdout(concat!("smoothcnn ", env!("CARGO_PKG_VERSION"), "\n"));
    run(dir.path(), "").code(2);
}

/// Catches completions that lack what is added to every command, or a whole command.
#[test]
fn completions_know_every_command_and_the_file_of_flags() {
    let dir = tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&run(dir.path(), &format!("completions {shell}")).success());
        for word in ["label-smoothing", "config", "tensorboard", "report", "fetch"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}
