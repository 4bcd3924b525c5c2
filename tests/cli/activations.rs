//! `--activations`: who takes it, who refuses it, and what a run remembers of it.

use std::fs;

use tempfile::tempdir;

use super::{TRAIN, assert_fails, json_lines, metrics, number, run, snapshot, stdout};

/// [`TRAIN`], on the best adapter there is.
fn on_gpu(flags: &str) -> String {
    format!("{} {flags}", TRAIN.replace("--device cpu", "--device gpu --autotune off"))
}

/// Catches halves that are promised where nobody stores any.
#[test]
fn only_the_fused_kernels_of_a_gpu_store_halves() {
    let dir = tempdir().unwrap();
    for (args, found) in [
        (format!("{TRAIN} --activations f16"), "the CPU path"),
        (on_gpu("--activations f16 --kernels reference").replace(" --autotune off", ""), "--kernels reference"),
        (format!("{TRAIN} --activations f16 --dtype f64"), "--dtype f64"),
        ("plan --activations f16 --kernels reference".into(), "--kernels reference"),
        ("bench --device cpu --activations f16".into(), "the CPU path"),
    ] {
        assert_fails(run(dir.path(), &args), 2, &["--activations f16: found ", found, ", expected "]);
    }
    assert!(snapshot(dir.path()).is_empty());
}

/// Catches a resumed run that goes on in f32, one that differs from a whole one, and a configuration of an earlier
/// version that is refused or read as anything but f32.
#[test]
fn a_resumed_run_keeps_its_activations() {
    let dir = tempdir().unwrap();
    let path = |run: &str| dir.path().join(run);
    let model = |run: &str| fs::read(path(run).join("model.safetensors")).unwrap();
    let config = |run: &str| fs::read_to_string(path(run).join("config.toml")).unwrap();
    run(dir.path(), &on_gpu("--epochs 2 --activations f16 --out whole")).success();
    run(dir.path(), &on_gpu("--epochs 1 --activations f16 --out parts")).success();
    run(dir.path(), "train --device gpu --resume parts --epochs 2").success();
    assert!(model("whole") == model("parts"), "the models differ");
    assert!(config("whole").contains("activations = \"f16\""), "{}", config("whole"));
    assert_eq!(config("whole"), config("parts"));
    assert_fails(
        run(dir.path(), "train --device cpu --resume parts --epochs 3"),
        2,
        &["--activations f16", "the CPU path"],
    );

    run(dir.path(), &on_gpu("--epochs 2 --out f32")).success();
    run(dir.path(), &on_gpu("--epochs 1 --out old")).success();
    assert!(!config("old").contains("activations"), "an earlier version's, as it was: {}", config("old"));
    run(dir.path(), "train --device gpu --resume old --epochs 2").success();
    assert!(model("f32") == model("old"), "the models differ");
    assert!(model("f32") != model("whole"), "halves changed nothing");
    let loss = |run: &str| number(metrics(&path(run), "epoch").last().unwrap(), "train_loss");
    assert!((loss("f32") - loss("whole")).abs() < 0.01, "{} and {}", loss("f32"), loss("whole"));
}

/// Catches a plan or a bench that counts halves as whole words, or that leaves a tensor out.
#[test]
fn plan_and_bench_show_what_halves_save() {
    let dir = tempdir().unwrap();
    let [wide, narrow] = ["f32", "f16"].map(|activations| {
        let done = run(dir.path(), &format!("plan -b 10 --json --activations {activations}")).success();
        json_lines(&stdout(&done)).remove(0)
    });
    let buffer = |plan: &serde_json::Value, name: &str| -> f64 {
        let buffers = plan["buffers"].as_array().unwrap();
        number(buffers.iter().find(|buffer| buffer["name"] == name).unwrap_or_else(|| panic!("no {name}")), "bytes")
    };
    let mut saved = 0.0;
    for (name, elements) in [("conv1+relu1+pool1", 32 * 14 * 14), ("conv2+relu2+pool2", 64 * 7 * 7), ("fc1+relu3", 128)]
    {
        let name = format!("{name}.out");
        let bytes = f64::from(10 * elements * 4);
        assert_eq!((buffer(&wide, &name), buffer(&narrow, &name)), (bytes, bytes / 2.0), "{name}");
        saved += bytes / 2.0;
    }
    assert_eq!(number(&wide, "total_bytes") - number(&narrow, "total_bytes"), saved);
    assert_eq!(buffer(&wide, "fc2.out"), buffer(&narrow, "fc2.out"), "logits stay as they are");

    let bench = "bench --device gpu --network small.toml --input 1x8x8 -b 4 --seconds 0.1 --activations";
    let [wide, narrow] = ["f32", "f16"].map(|activations| {
        let done = run(dir.path(), &format!("{bench} {activations} --json")).success();
        json_lines(&stdout(&done)).remove(0)
    });
    assert_eq!((wide.get("activations"), narrow["activations"].as_str()), (None, Some("f16")));
    let bytes = |report: &serde_json::Value| number(&report["results"][0], "plan_bytes");
    assert!(bytes(&narrow) < bytes(&wide), "{} and {}", bytes(&narrow), bytes(&wide));
}
