//! Training steps under Vulkan's validation layer with its synchronisation checks: what a driver lets pass, and another
//! one may not.
//!
//! Where the layer is not installed (Debian: vulkan-validationlayers) the tests are skipped, but not if
//! `SMOOTHCNN_REQUIRE_ALL` is set. With `SMOOTHCNN_THOROUGH` every form is tried, which takes a minute.

#[path = "../common/skip.rs"]
mod skip;

use std::process::Command;

/// The layer's log of a `smoothcnn train`, or nothing if there is no layer.
fn train(args: &str, enables: &str) -> Option<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("layer.log");
    let settings = format!(
        "khronos_validation.enables = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT{enables}\n\
         khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG\n\
         khronos_validation.report_flags = error,warn,perf,info\n\
         khronos_validation.duplicate_message_limit = 10\n\
         khronos_validation.log_filename = {}\n",
        log.display()
    );
    std::fs::write(folder.path().join("vk_layer_settings.txt"), settings).expect("the settings");
    let output = Command::new(env!("CARGO_BIN_EXE_smoothcnn"))
        .current_dir(folder.path())
        .args("train --device gpu --limit-train 40 --limit-test 20 --epochs 1 --batch-size 16 --out run".split(' '))
        .args(args.split_whitespace())
        .env("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation")
        .env("VK_LAYER_SETTINGS_PATH", folder.path().join("vk_layer_settings.txt"))
        .env("XDG_CACHE_HOME", folder.path())
        // As a release does. With its debug information wgpu names a source language that Debian's layer does not know.
        .envs([("WGPU_DEBUG", "0"), ("WGPU_VALIDATION", "0")])
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{args}: {output:?}");
    let log = std::fs::read_to_string(log).unwrap_or_default();
    // What it says of itself when it is loaded with these checks.
    if !log.lines().any(|line| line.contains("Current Enables:") && line.contains("SYNCHRONIZATION_VALIDATION")) {
        skip::skipped("there is no validation layer: apt install vulkan-validationlayers");
        return None;
    }
    Some(log)
}

/// Whether what takes a minute is done as well.
fn thorough() -> bool {
    std::env::var_os("SMOOTHCNN_THOROUGH").is_some_and(|value| !value.is_empty())
}

fn with<'a>(log: &'a str, words: &[&str]) -> Vec<&'a str> {
    log.lines().filter(|line| words.iter().any(|word| line.contains(word))).collect()
}

/// Catches a barrier that is missing between two passes, and whatever else the specification forbids, in every form.
#[test]
fn a_training_has_nothing_that_the_layer_complains_of() {
    let forms = [
        "--tiles registers",
        "--kernels reference",
        "--tiles workgroup",
        "--tiles lanes",
        "--tiles lanes --activations f16",
        "--opt sgd --tiles registers",
    ];
    for form in if thorough() { &forms[..] } else { &forms[..1] } {
        if form.contains("lanes") && !lanes() {
            skip::skipped(&format!("{form}: this adapter has no subgroups of eight"));
            continue;
        }
        let Some(log) = train(form, "") else { return };
        let found = with(&log, &["Validation Error", "SYNC-HAZARD", "VUID-"]);
        assert!(found.is_empty(), "{form}: {} messages\n{}", found.len(), found.join("\n"));
    }
}

/// Catches a layer that is loaded but whose messages do not arrive: told to look for bad practice, it always finds
/// some in a program that trains.
#[test]
fn what_the_layer_says_arrives() {
    let best = ",VK_VALIDATION_FEATURE_ENABLE_BEST_PRACTICES_EXT";
    let Some(log) = train("--tiles registers", best) else { return };
    assert!(!with(&log, &["Validation Warning", "Validation Performance Warning"]).is_empty(), "{log}");
}

/// Whether the adapter runs the form for subgroups of eight.
fn lanes() -> bool {
    use smoothcnn::backend::gpu::Gpu;
    use smoothcnn::plan::tuning::Tiles;
    Gpu::open_best().is_ok_and(|gpu| gpu.runs(Tiles::Lanes))
}
