//! What a training leaves behind, and that it is a function of its flags.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use assert_cmd::assert::OutputAssertExt;
use predicates::prelude::*;
use tempfile::tempdir;

use super::{
    TRAIN, TRAIN_SEED, assert_fails, command, json_lines, metrics, number, read_tensors, run, snapshot, stderr, stdout,
};

/// PyTorch's names and shapes of the seed network on 28x28.
const SEED_NETWORK: [(&str, &[usize]); 8] = [
    ("conv1.bias", &[32]),
    ("conv1.weight", &[32, 1, 3, 3]),
    ("conv2.bias", &[64]),
    ("conv2.weight", &[64, 32, 3, 3]),
    ("fc1.bias", &[128]),
    ("fc1.weight", &[128, 3136]),
    ("fc2.bias", &[10]),
    ("fc2.weight", &[10, 128]),
];

/// Trains in a folder of its own and gives the bytes of the model's tensors.
fn weights(args: &str, threads: Option<&str>) -> Vec<Vec<u8>> {
    let dir = tempdir().unwrap();
    let mut command = command(dir.path(), &format!("{TRAIN_SEED} --epochs 1 --out run {args}"));
    if let Some(threads) = threads {
        command.env("RAYON_NUM_THREADS", threads);
    }
    command.assert().success();
    read_tensors(&dir.path().join("run/model.safetensors")).0.into_values().map(|(_, _, bytes)| bytes).collect()
}

fn model(run: &Path) -> Vec<u8> {
    fs::read(run.join("model.safetensors")).unwrap()
}

/// Catches a file that is missing, a record that does not parse or does not add up, and results on the wrong stream.
#[test]
fn a_run_leaves_its_configuration_its_record_and_its_model() {
    let dir = tempdir().unwrap();
    let done = run(dir.path(), &format!("{TRAIN_SEED} --epochs 2 --log-every 1 --out run")).success();
    let out = dir.path().join("run");
    let files: Vec<_> = snapshot(&out).into_keys().collect();
    assert_eq!(
        files,
        [
            ".smoothcnn",
            "checkpoint.safetensors",
            "config.toml",
            "metrics.jsonl",
            "model.safetensors",
            "report.html",
            "results.csv"
        ]
    );

    let config: toml::Table = fs::read_to_string(out.join("config.toml")).unwrap().parse().unwrap();
    for (key, value) in [("epochs", 2), ("batch-size", 32), ("limit-train", 80), ("limit-test", 40), ("seed", 0)] {
        assert_eq!(config[key].as_integer(), Some(value), "{key}");
    }
    assert_eq!(config["optimizer"]["name"].as_str(), Some("adam"));

    let (steps, epochs) = (metrics(&out, "step"), metrics(&out, "epoch"));
    let counted: Vec<_> = steps.iter().map(|line| (line["epoch"].as_u64(), line["step"].as_u64())).collect();
    assert_eq!(counted, [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)].map(|(e, s)| (Some(e), Some(s))));
    assert_eq!(fs::read_to_string(out.join("metrics.jsonl")).unwrap().lines().count(), 8);
    for (i, line) in epochs.iter().enumerate() {
        assert_eq!((line["epoch"].as_u64(), line["step"].as_u64()), (Some(i as u64 + 1), Some(3 * i as u64 + 3)));
        // Each step counts with its images: 32, 32 and 16.
        for figure in ["loss", "nll"] {
            let of: Vec<_> = steps[3 * i..][..3].iter().map(|step| number(step, figure)).collect();
            let mean = (32.0 * of[0] + 32.0 * of[1] + 16.0 * of[2]) / 80.0;
            assert!((number(line, &format!("train_{figure}")) - mean).abs() < 1e-9, "{line}");
        }
        assert!(number(line, "test_nll") > 0.0, "{line}");
        for key in ["test_accuracy", "test_ece"] {
            assert!((0.0..=1.0).contains(&number(line, key)), "{line}");
        }
    }

    let (tensors, metadata) = read_tensors(&out.join("model.safetensors"));
    let found: Vec<_> = tensors.iter().map(|(name, (_, shape, _))| (name.as_str(), shape.as_slice())).collect();
    assert_eq!(found, SEED_NETWORK);
    assert!(tensors.values().all(|(dtype, ..)| dtype == "F32"));
    for (key, value) in [("format", "pt"), ("epoch", "2"), ("label_smoothing", "0.1"), ("smoothing_variant", "uniform")]
    {
        assert_eq!(metadata.get(key).map(String::as_str), Some(value), "{key}");
    }

    // A header and a line for each epoch.
    let results = stdout(&done);
    assert_eq!(results.lines().count(), 3, "{results}");
    let progress = stderr(&done).join("\n");
    assert!(predicate::str::contains("device: CPU path").eval(&progress), "{progress}");
    assert!(predicate::str::contains("421642 parameters, 80 training and 40 test images").eval(&progress));
    assert!(predicate::str::contains("run/model.safetensors").eval(&progress), "{progress}");
}

/// Catches text among the JSON, and a printed line that differs from the recorded one.
#[test]
fn json_output_is_the_recorded_epochs() {
    let dir = tempdir().unwrap();
    let done = run(dir.path(), &format!("{TRAIN} --epochs 2 --json --out run")).success();
    assert_eq!(json_lines(&stdout(&done)), metrics(&dir.path().join("run"), "epoch"));
}

/// Catches a result that depends on the number of threads, and a flag that is read but changes nothing.
#[test]
fn weights_are_a_function_of_the_flags_and_of_nothing_else() {
    let base = weights("", None);
    for threads in ["1", "2", "3"] {
        assert!(weights("", Some(threads)) == base, "{threads} threads give other weights");
    }
    let mut seen = vec![("", base)];
    for args in [
        "--seed 1",
        "--no-shuffle",
        "--opt sgd --lr 0.01",
        "--opt sgd --lr 0.01 --nesterov",
        "--opt sgd --lr 0.01 --momentum 0",
        "--opt adamw --weight-decay 0.1",
        "--opt muon",
        "--opt muon --momentum 0.8",
        "--weight-decay 0.1",
        "--label-smoothing 0",
        "--smoothing-variant off-target",
        "--lr 0.002",
        "--mean 0.5",
        "--std 0.5",
    ] {
        let found = weights(args, None);
        for (other, weights) in &seen {
            assert!(found != *weights, "{args:?} gives the weights of {other:?}");
        }
        seen.push((args, found));
    }
}

/// Catches a 64-bit run that computes or saves in 32 bits, or depends on the number of threads.
#[test]
fn f64_trains_and_saves_in_64_bits() {
    let f64s = weights("--dtype f64", Some("1"));
    assert!(weights("--dtype f64", Some("2")) == f64s);
    let f32s = weights("", None);
    for ((name, shape), (wide, narrow)) in SEED_NETWORK.iter().zip(f64s.iter().zip(&f32s)) {
        let wide: Vec<f64> = wide.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect();
        assert_eq!(wide.len(), shape.iter().product::<usize>(), "{name}");
        assert!(wide.iter().any(|&v| f64::from(v as f32) != v), "{name} is all of 32 bits");
        // The same training up to rounding: three steps of Adam with lr 1e-3 move no weight further than about 3e-3.
        let far = |(w, n): (&f64, f32)| (w - f64::from(n)).abs() > 7e-3;
        assert!(!wide.iter().zip(super::floats(narrow)).any(far), "{name}");
    }
}

/// Catches optimizer memory, update counts or orders that a resumed run does not take up where they were.
#[test]
fn a_resumed_run_equals_one_that_was_never_stopped() {
    for flags in ["", "--opt sgd --lr 0.01", "--dtype f64", "--kernels reference", "--dtype f64 --kernels fused"] {
        let dir = tempdir().unwrap();
        let train = format!("{TRAIN} {flags} --log-every 1");
        run(dir.path(), &format!("{train} --epochs 3 --out whole")).success();
        run(dir.path(), &format!("{train} --epochs 2 --out parts")).success();
        run(dir.path(), "train --device cpu --log-every 1 --resume parts --epochs 3").success();
        let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
        assert!(model(&whole) == model(&parts), "{flags:?}: the models differ");
        assert_eq!(super::timeless(metrics(&whole, "epoch")), super::timeless(metrics(&parts, "epoch")), "{flags:?}");
        assert_eq!(metrics(&whole, "step"), metrics(&parts, "step"), "{flags:?}");
        let config = |run: &Path| fs::read(run.join("config.toml")).unwrap();
        assert_eq!(config(&whole), config(&parts), "{flags:?}");
    }
}

/// Catches kernels that are not recorded, though they change the bits, or that a flag cannot choose anew.
#[test]
fn a_resumed_run_keeps_its_kernels_unless_told_otherwise() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --kernels reference --out run")).success();
    let config = || fs::read_to_string(dir.path().join("run/config.toml")).unwrap();
    assert!(config().contains("kernels = \"reference\""), "{}", config());
    let reference = model(&dir.path().join("run"));
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out other")).success();
    assert!(reference != model(&dir.path().join("other")), "nothing depends on the kernels");
    run(dir.path(), "train --device cpu --resume run --epochs 2").success();
    assert!(config().contains("kernels = \"reference\""), "{}", config());
    run(dir.path(), "train --device cpu --resume run --epochs 3 --kernels fused").success();
    assert!(config().contains("kernels = \"fused\""), "{}", config());
}

/// Catches a resumed run on a GPU that takes the form of kernels that suits the adapter, and not the one that it began
/// with.
#[test]
fn a_resumed_run_keeps_the_form_of_its_kernels() {
    let dir = tempdir().unwrap();
    let train = format!("{TRAIN} --device gpu --tiles workgroup").replace("--device cpu ", "");
    run(dir.path(), &format!("{train} --epochs 2 --out whole")).success();
    run(dir.path(), &format!("{train} --epochs 1 --out parts")).success();
    run(dir.path(), "train --device gpu --autotune off --resume parts --epochs 2").success();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    assert!(model(&whole) == model(&parts), "the models differ");
    let config = fs::read_to_string(parts.join("config.toml")).unwrap();
    assert!(config.contains("conv-forward = \"workgroup\"\nconv-backward = \"workgroup\""), "{config}");
    assert_eq!(config, fs::read_to_string(whole.join("config.toml")).unwrap());
}

/// Catches a resumed run that forgets how many epochs it was asked for, repeats what is done, or goes back in time.
#[test]
fn resuming_needs_no_epochs_and_refuses_fewer_than_are_done() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 2 --out run")).success();
    let out = dir.path().join("run");
    let before = snapshot(&out);
    assert_fails(
        run(dir.path(), "train --device cpu --resume run --epochs 1"),
        2,
        &["--epochs", "found 1", "expected at least the 2"],
    );
    assert!(snapshot(&out) == before);

    // As if it had been stopped before the model was written, in the middle of a line.
    fs::remove_file(out.join("model.safetensors")).unwrap();
    let cut = [&before["metrics.jsonl"][..], b"{\"kind\":\"step\",\"epo"].concat();
    fs::write(out.join("metrics.jsonl"), cut).unwrap();
    run(dir.path(), "train --device cpu --resume run").success().stdout("");
    assert!(snapshot(&out) == before, "the run is not what it was");
}

/// Catches a run that writes over another one.
#[test]
fn a_folder_with_a_run_is_refused_and_left_alone() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    let before = snapshot(dir.path());
    assert_fails(
        run(dir.path(), &format!("{TRAIN} --epochs 1 --out run --seed 3")),
        2,
        &["--out run", "found a run", "--resume run"],
    );
    assert!(snapshot(dir.path()) == before);
}

/// Catches a default folder that is not in the current one, or not free.
#[test]
fn without_out_a_run_takes_the_first_free_folder() {
    let dir = tempdir().unwrap();
    fs::create_dir_all(dir.path().join("runs/train2")).unwrap();
    for expected in ["runs/train1", "runs/train3"] {
        run(dir.path(), &format!("{TRAIN} --epochs 1")).success();
        assert!(dir.path().join(expected).join("model.safetensors").is_file(), "{expected}");
    }
    assert_eq!(fs::read_dir(dir.path().join("runs/train2")).unwrap().count(), 0);
}

/// Catches weights that are read but not used, or used in another order or precision.
#[test]
fn init_starts_from_saved_weights() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out first --seed 5")).success();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out second --lr 0 --init first/model.safetensors")).success();
    let tensors = |run: &str| read_tensors(&dir.path().join(run).join("model.safetensors")).0;
    assert!(tensors("first") == tensors("second"));
}

/// Catches a training that runs and does not learn: wrong labels, wrong gradients, a wrong test.
#[test]
fn it_learns_the_digits() {
    let dir = tempdir().unwrap();
    run(
        dir.path(),
        "train --device cpu --limit-train 1200 --limit-test 300 --batch-size 32 --epochs 2 --lr 2e-3 --out run",
    )
    .success();
    let epochs = metrics(&dir.path().join("run"), "epoch");
    let accuracy = number(&epochs[1], "test_accuracy");
    assert!(accuracy > 0.6, "{accuracy}");
    assert!(number(&epochs[1], "train_loss") < number(&epochs[0], "train_loss"));
}

/// Catches a training that panics, or ends without a model, because nobody reads what it prints.
#[test]
fn it_trains_on_when_nobody_reads() {
    let dir = tempdir().unwrap();
    let mut child = command(dir.path(), &format!("{TRAIN} --epochs 2 --out run"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(dir.path().join("run/model.safetensors").is_file());
}

/// Catches weights of other names that are refused, or put into the wrong layer, or understood without a word; a file
/// of a run that is no weights; and a misfit that is taken.
#[test]
fn init_understands_the_names_of_wrappers_and_of_sequences() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN_SEED} --val-split 0.2 --epochs 1 --out first --seed 5")).success();
    let first = read_tensors(&dir.path().join("first/model.safetensors")).0;
    // As PyTorch writes them: without a seal.
    let renamed = |file: &str, name: &dyn Fn(&str) -> String| {
        let views = first.iter().map(|(old, (_, shape, bytes))| {
            (name(old), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, &dir.path().join(file)).unwrap();
    };
    let sequence = [("conv1", "0"), ("conv2", "2"), ("fc1", "6"), ("fc2", "10")];
    let number = |name: &str| {
        let (layer, own) = name.split_once('.').unwrap();
        format!("{}.{own}", sequence.iter().find(|(known, _)| *known == layer).unwrap().1)
    };
    renamed("wrapped", &|name| format!("module._orig_mod.{name}"));
    renamed("sequence", &number);
    renamed("both", &|name| format!("model.{}", number(name)));
    renamed("odd", &|name| name.replace("conv1", "stem"));
    renamed("mixed", &|name| if name.starts_with("fc") { name.into() } else { format!("module.{name}") });
    renamed("swapped", &|name| number(name).replace("0.", "x.").replace("2.", "0.").replace("x.", "2."));
    let prefix = "init: wrapped: the prefix \"module._orig_mod.\" of its names is left out";
    let layers = "the layers 0, 2, 6, 10 of an nn.Sequential are conv1, conv2, fc1, fc2";
    let prefixed = format!("init: both: the prefix \"model.\" of its names is left out; {layers}");
    for (init, said) in [
        ("wrapped", prefix),
        ("sequence", &format!("init: sequence: {layers}")),
        ("both", &prefixed),
        ("first/model.safetensors", ""),
        ("first/best.safetensors", ""),
        ("first/checkpoint.safetensors", ""),
    ] {
        let done = run(dir.path(), &format!("{TRAIN_SEED} --epochs 1 --lr 0 --init {init} --out run")).success();
        assert!(first == read_tensors(&dir.path().join("run/model.safetensors")).0, "{init}: other weights");
        let root = format!("{}/", fs::canonicalize(dir.path()).unwrap().display());
        let lines: Vec<_> = stderr(&done).iter().map(|line| line.replace(&root, "")).collect();
        assert_eq!(lines.iter().find(|line| line.starts_with("init: ")).map_or("", |line| line), said);
        fs::remove_dir_all(dir.path().join("run")).unwrap();
    }
    for (init, parts) in [
        ("odd", ["no tensor conv1", "stem"]),
        ("mixed", ["prefixes \"\" and \"module.\"", "the same one"]),
        ("swapped", ["0.weight: found shape [64, 32, 3, 3]", "[32, 1, 3, 3]"]),
    ] {
        let failed = run(dir.path(), &format!("{TRAIN_SEED} --init {init} --out run"));
        assert_fails(failed, 4, &[&[init][..], &parts].concat());
    }
}
