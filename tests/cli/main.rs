//! The program as a user runs it: what it writes, what it prints where, and how it fails.

mod activations;
mod bench;
mod best;
mod calibrate;
mod data;
mod devices;
mod eval;
mod export;
mod fetch;
mod folders;
mod given;
mod labels;
mod loss;
mod networks;
mod pictures;
mod predict;
mod recipe;
mod refuse;
mod report;
mod sets;
mod sizes;
mod sources;
mod stop;
mod sweep;
mod tensorboard;
mod tools;
mod train;

#[path = "../common/skip.rs"]
mod skip;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use assert_cmd::assert::{Assert, OutputAssertExt};
use serde_json::Value;
use smoothcnn::train::checkpoint::Metadata;

/// A training of the seed network that takes a moment: three batches, the last one smaller.
const TRAIN_SEED: &str = "train --device cpu --limit-test 40 --batch-size 32 --limit-train 80";

/// The same of a smaller network.
const TRAIN: &str = "train --device cpu --limit-test 40 --batch-size 32 --limit-train 80 --network small.toml";

/// `smoothcnn ARGS` in `dir`, ready to run. The words of `args` are separated by blanks; `small.toml` is the file
/// beside this one.
fn command(dir: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smoothcnn"));
    let small = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/small.toml");
    let words = args.split_whitespace().map(|word| if word == "small.toml" { small } else { word });
    command.current_dir(dir).args(words);
    for variable in ["WGPU_BACKEND", "WGPU_ADAPTER_NAME", "WGPU_POWER_PREF", "RAYON_NUM_THREADS", "RUST_BACKTRACE"] {
        command.env_remove(variable);
    }
    command.env(smoothcnn::fs::CACHE, dir.join(".cache"));
    command
}

/// Runs `smoothcnn ARGS` in `dir`.
fn run(dir: &Path, args: &str) -> Assert {
    command(dir, args).assert()
}

fn stdout(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// What the program wrote to standard error. Vulkan's loader and drivers write there too when adapters are listed:
/// without a desktop session, lines that begin with "error: XDG_RUNTIME_DIR".
fn stderr(assert: &Assert) -> Vec<String> {
    let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    text.lines().filter(|line| !line.starts_with("error: XDG_RUNTIME_DIR")).map(str::to_owned).collect()
}

/// Holds a failure to its form: the exit code, one line of the program's own with all of `parts`, and no panic. Apart
/// from that line, standard error has progress only.
fn assert_fails(assert: Assert, code: i32, parts: &[&str]) {
    let assert = assert.code(code);
    let lines = stderr(&assert);
    let (errors, progress): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with("smoothcnn: "));
    assert_eq!(errors.len(), 1, "{lines:#?}");
    for part in parts {
        assert!(errors[0].contains(part), "{:?} lacks {part:?}", errors[0]);
    }
    // What is too long is cut in the middle.
    assert!(!errors[0].contains(" … "), "too long: {:?}", errors[0]);
    let known = |line: &&String| {
        ["device: ", "data: ", "memory: ", "model: ", "loss: "].iter().any(|start| line.starts_with(start))
            || line.contains(" parameters, ")
    };
    assert!(progress.iter().all(known), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:#?}");
}

/// Every line of a file or of an output, as JSON.
fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The lines of a run's metrics.jsonl of this kind.
fn metrics(run: &Path, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    json_lines(&text).into_iter().filter(|line| line["kind"] == kind).collect()
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{key} is no number in {line}"))
}

/// The same lines without what a clock measured.
fn timeless(mut lines: Vec<Value>) -> Vec<Value> {
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        line.remove("seconds").unwrap();
        line.remove("images_per_second").unwrap();
    }
    lines
}

/// A tensor as it is in a file: number type, shape, bytes.
type Raw = (String, Vec<usize>, Vec<u8>);

/// A safetensors file, read by another reader than the program's own.
fn read_tensors(path: &Path) -> (BTreeMap<String, Raw>, Metadata) {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file
        .iter()
        .map(|(name, view)| (name.to_owned(), (view.dtype().to_string(), view.shape().to_vec(), view.data().to_vec())));
    (tensors.collect(), header.metadata().clone().unwrap_or_default().into_iter().collect())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// Every file below `dir`, with its bytes; folders have none.
fn snapshot(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            files.extend(snapshot(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
            files.insert(format!("{name}/"), vec![]);
        } else {
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
    files
}
