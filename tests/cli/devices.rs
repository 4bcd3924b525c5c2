//! Which device is taken, and what is said where one does not open.

use std::path::Path;

use tempfile::tempdir;

use super::{TRAIN, assert_fails, command, run, skip, stderr, stdout};

/// Mesa's driver for AMD's GPUs, which lists a GPU without there being one, and cannot open it.
const LISTED: &str = "/usr/share/vulkan/icd.d/radeon_icd.x86_64.json";
const SOFTWARE: &str = "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json";

/// Catches an adapter that is listed, cannot be opened, and ends a run that could do without it.
#[test]
fn an_adapter_that_cannot_be_opened_is_left_out() {
    if !Path::new(LISTED).exists() || !Path::new(SOFTWARE).exists() {
        return skip::skipped("Mesa's drivers are not here: apt install mesa-vulkan-drivers");
    }
    let dir = tempdir().unwrap();
    let both = format!("{LISTED}:{SOFTWARE}");
    let with = |drivers: &str, args: &str| {
        let mut command = command(dir.path(), args);
        command.env("RADV_FORCE_FAMILY", "NAVI21").env("VK_DRIVER_FILES", drivers);
        assert_cmd::assert::Assert::new(command.output().unwrap())
    };
    if !stdout(&with(LISTED, "devices").success()).contains("RADV NAVI21") {
        return skip::skipped("this Mesa lists no GPU that is not there");
    }
    let text = stdout(&with(&both, "devices").success());
    let auto = "--device auto: CPU path: no hardware GPU can be opened";
    assert!(text.contains("cannot be opened: ") && text.contains(auto), "{text}");

    let train = TRAIN.replace("--device cpu ", "");
    for (drivers, device, taken) in
        [(LISTED, "auto", "CPU path: no hardware GPU can be opened"), (&both, "gpu", "the best adapter here")]
    {
        let out = with(drivers, &format!("{train} --epochs 1 --device {device} --out {device}")).success();
        let lines = stderr(&out);
        let count =
            |part: &str| lines.iter().filter(|line| line.starts_with("device: ") && line.contains(part)).count();
        assert_eq!((count("cannot be opened: "), count(taken)), (1, 1), "{lines:#?}");
        assert!(dir.path().join(device).join("model.safetensors").is_file());
    }
    let gpu = with(LISTED, &format!("{train} --device gpu --out none"));
    assert_fails(gpu, 3, &["--device gpu: no adapter can be opened", "RADV NAVI21", "VK_DRIVER_FILES"]);
    // What was asked for by name is not replaced.
    let named = with(&both, &format!("{train} --adapter navi21 --out none"));
    assert_fails(named, 3, &["--adapter \"navi21\"", "cannot be opened"]);
    assert!(!dir.path().join("none").exists());
}

/// Catches a variable that is misspelt and then counts for nothing.
#[test]
fn variables_that_mean_nothing_are_refused() {
    let dir = tempdir().unwrap();
    let train = TRAIN.replace("--device cpu ", "");
    for args in [&train[..], "devices", "check"] {
        for (name, value) in [("WGPU_BACKEND", "vulcan"), ("WGPU_POWER_PREF", "lowest")] {
            let mut command = command(dir.path(), args);
            let failed = command.env(name, value).output().unwrap();
            assert_fails(assert_cmd::assert::Assert::new(failed), 2, &[name, value, "expected "]);
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Catches a listing that does not say what a run without flags would take.
#[test]
fn devices_says_what_auto_takes() {
    let dir = tempdir().unwrap();
    let text = stdout(&run(dir.path(), "devices").success());
    let auto = text.lines().find_map(|line| line.strip_prefix("--device auto: ")).unwrap();
    let said = stderr(&run(dir.path(), &format!("{} --epochs 1", TRAIN.replace("--device cpu ", ""))).success());
    assert!(said.iter().any(|line| line.starts_with(&format!("device: {auto}"))), "{auto}: {said:#?}");
}

/// Catches a rate at which the second moment overflows, and which ends as bad data when the checkpoint is refused.
#[test]
fn moments_that_overflow_have_an_error_of_their_own() {
    let dir = tempdir().unwrap();
    let failed = run(dir.path(), &format!("{TRAIN} --epochs 1 --lr 1e6 --out run"));
    assert_fails(failed, 1, &["is not finite after epoch 1, step ", "lower --lr (it is 1000000.0)"]);
    assert!(!dir.path().join("run/checkpoint.safetensors").exists());
}
