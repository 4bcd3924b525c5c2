//! Bad input: one line that names the file or the flag, what was found and what was expected; the documented exit code;
//! and nothing written.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use smoothcnn::network::Network;
use smoothcnn::train::checkpoint::{self, Dtype, Metadata, Tensor};
use tempfile::tempdir;

use super::{TRAIN, TRAIN_SEED, assert_fails, command, run, snapshot, stderr};

/// Runs `args` in `dir`, which must fail and change nothing there.
pub fn refused(dir: &Path, args: &str, code: i32, parts: &[&str]) {
    let before = snapshot(dir);
    assert_fails(run(dir, args), code, parts);
    assert!(snapshot(dir) == before, "{args}: something was written");
}

/// Catches a flag's value that is taken in silence, corrected in silence, or refused without its name.
#[test]
fn flags_out_of_range() {
    let dir = tempdir().unwrap();
    let smoothing = "--label-smoothing";
    for (flags, parts) in [
        ("--label-smoothing 1", &[smoothing, "found 1,", "[0, 1)"][..]),
        ("--label-smoothing -0.1", &[smoothing, "found -0.1", "[0, 1)"]),
        ("--label-smoothing NaN", &[smoothing, "found NaN", "[0, 1)"]),
        ("--label-smoothing inf", &[smoothing, "found inf", "[0, 1)"]),
        (
            "--label-smoothing 0.9 --smoothing-variant off-target",
            &[smoothing, "found 0.9", "less than 0.9", "10 classes"],
        ),
        ("--lr -1", &["--lr", "found -1", "at least 0"]),
        ("--lr NaN", &["--lr", "found NaN", "at least 0"]),
        ("--lr inf", &["--lr", "found inf", "at least 0"]),
        ("--weight-decay -0.5", &["--weight-decay", "found -0.5", "at least 0"]),
        ("--opt sgd --momentum NaN", &["--momentum", "found NaN", "at least 0"]),
        ("--std 0", &["--std", "found 0", "above 0"]),
        ("--std -1", &["--std", "found -1", "above 0"]),
        ("--std NaN", &["--std", "found NaN", "above 0"]),
        ("--mean inf", &["--mean", "found inf"]),
        ("--mean 0.1,0.2", &["--mean", "found 2 values", "1 channels"]),
        ("--adapter 0", &["--adapter", "\"0\"", "--device cpu"]),
        ("--dtype f64 --adapter 0", &["--dtype f64", "--device cpu"]),
    ] {
        refused(dir.path(), &format!("{TRAIN} {flags}"), 2, parts);
    }
}

/// Catches a flag that clap lets through, or whose refusal does not show the value. clap's refusals span lines.
#[test]
fn flags_that_make_no_sense() {
    let dir = tempdir().unwrap();
    for (args, parts) in [
        ("train --epochs 0", ["--epochs", "at least 1"]),
        ("train --batch-size 0", ["--batch-size", "at least 1"]),
        ("train --batch-size -3", ["-3", "Usage"]),
        ("train --limit-train 0", ["--limit-train", "at least 1"]),
        ("train --log-every 0", ["--log-every", "at least 1"]),
        ("train --epochs 1.5", ["--epochs", "1.5"]),
        ("train --lr fast", ["--lr", "fast"]),
        ("train --opt rmsprop", ["--opt", "rmsprop"]),
        ("train --data cifar", ["--data", "cifar"]),
        ("train --resume a --out b", ["--resume", "--out"]),
        ("eval", ["--model", "required"]),
        ("eval --model m --batch-size 0", ["--batch-size", "at least 1"]),
        ("data preview", ["--output", "required"]),
        ("data preview -o x.png --columns 0", ["--columns", "at least 1"]),
        ("fly", ["fly", "unrecognized"]),
    ] {
        let failed = run(dir.path(), args).code(2);
        let said = stderr(&failed).join("\n");
        assert!(parts.iter().all(|part| said.contains(part)), "{args}: {said}");
        assert!(!said.contains("panicked"), "{args}: {said}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{args}");
    }
}

/// Catches sizes that overflow, reach the compiler, or are taken for others.
#[test]
fn plans_of_nonsense() {
    let dir = tempdir().unwrap();
    let most = usize::MAX;
    for input in ["28", "1x28", "1x28x28x1", "axbxc", "1x-28x28", "1x28x28.5", "x", "0x28x28", "1x99999x28"] {
        refused(dir.path(), &format!("plan --input {input}"), 2, &["--input", &format!("{input:?}"), "expected"]);
    }
    refused(dir.path(), "plan --input 1x3x3", 2, &["pool2", "needs"]);
    refused(dir.path(), "plan --classes 1", 2, &["--classes", "found 1,", "expected 2"]);
    refused(dir.path(), &format!("plan --classes {most}"), 2, &["--classes", "expected 2"]);
    refused(dir.path(), "plan --label-smoothing 2", 2, &["--label-smoothing", "found 2,"]);
    let flags = ["--batch-size 4294967295".into(), format!("--train-images {most}"), format!("--test-images {most}")];
    for flags in flags {
        refused(dir.path(), &format!("plan {flags}"), 1, &["buffer ", "elements"]);
    }
    refused(dir.path(), "plan --input 65536x65536x65536", 1, &["buffer ", "elements"]);
}

/// Catches a GPU that is asked for and silently replaced, and a wrong exit code.
#[test]
fn devices_that_do_not_exist() {
    let dir = tempdir().unwrap();
    let train = TRAIN.replace("--device cpu", "");
    for (args, variables, parts) in [
        (format!("{train} --adapter imaginary"), [].as_slice(), ["--adapter", "imaginary"].as_slice()),
        (format!("{train} --adapter 99"), &[], &["--adapter", "99"]),
        (format!("{train} --device gpu --adapter imaginary"), &[], &["--adapter", "imaginary"]),
        (format!("{train} --device gpu"), &[("WGPU_ADAPTER_NAME", "imaginary")], &["WGPU_ADAPTER_NAME", "imaginary"]),
        ("check --adapter imaginary".into(), &[], &["--adapter", "imaginary"]),
    ] {
        let failed = command(dir.path(), &args).envs(variables.iter().copied()).output().unwrap();
        assert_fails(assert_cmd::assert::Assert::new(failed), 3, parts);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{args}");
    }
}

fn idx(magic: u32, dims: &[u32], data: &[u8]) -> Vec<u8> {
    let words = [magic].into_iter().chain(dims.iter().copied());
    words.flat_map(u32::to_be_bytes).chain(data.iter().copied()).collect()
}

fn images(n: u32) -> Vec<u8> {
    let pixels: Vec<u8> = (0..n * 64).map(|i| (i * 7) as u8).collect();
    idx(0x0803, &[n, 8, 8], &pixels)
}

fn labels(labels: &[u8]) -> Vec<u8> {
    idx(0x0801, &[labels.len() as u32], labels)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const FILES: [&str; 4] = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
];

/// A small good data set in `dir/data`.
fn write_data(dir: &Path) {
    let data = dir.join("data");
    fs::create_dir(&data).unwrap();
    for (name, bytes) in FILES.iter().zip([images(6), labels(&[0, 1, 2, 3, 4, 9]), images(3), labels(&[5, 6, 7])]) {
        fs::write(data.join(name), gzip(&bytes)).unwrap();
    }
}

/// Catches damaged data that is read, half read, or refused without the file's name; and a run that was begun for it.
#[test]
fn data_that_is_missing_or_damaged() {
    let dir = tempdir().unwrap();
    let [train_images, train_labels, test_images, test_labels] = FILES;
    let mnist = "train --device cpu --data mnist --data-dir data --epochs 1";
    refused(dir.path(), mnist, 4, &["data", "train-images-idx3-ubyte", "found none"]);
    write_data(dir.path());
    // The tables below are worth something only if the data is good without their damage.
    run(dir.path(), &format!("{mnist} --out good")).success();

    let whole = gzip(&images(6));
    let mut wrong_sum = whole.clone();
    let end = wrong_sum.len();
    wrong_sum[end - 8] ^= 1;
    for (file, bytes, parts) in [
        (train_images, whole[..end - 20].to_vec(), &["truncated or corrupt gzip"][..]),
        (train_images, whole[..end - 3].to_vec(), &["truncated or corrupt gzip"]),
        (train_images, wrong_sum, &["truncated or corrupt gzip"]),
        (train_images, vec![], &["ends after 0 bytes", "expected"]),
        (train_images, labels(&[1; 6]), &["0x00000801", "expected 0x00000803"]),
        (test_labels, images(3), &["0x00000803", "expected 0x00000801"]),
        (train_images, b"<html>Not found</html>".to_vec(), &["0x3c68746d", "expected 0x00000803"]),
        (train_images, images(6)[..200].to_vec(), &["184 bytes", "expected 6 x 8 x 8 = 384"]),
        (train_images, images(5), &["6 labels", "expected 5"]),
        (train_labels, labels(&[0; 7]), &["7 labels", "expected 6"]),
        (train_labels, labels(&[0, 1, 2, 10, 4, 5]), &["index 3", "is 10", "below 10"]),
        (test_labels, labels(&[0, 255, 1]), &["index 1", "is 255", "below 10"]),
        (test_images, idx(0x0803, &[3, 4, 4], &[0; 48]), &["4x4", "expected 8x8"]),
        (train_images, idx(0x0803, &[0, 8, 8], &[]), &["no images"]),
    ] {
        let path = dir.path().join("data").join(file);
        let good = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        // Where counts disagree, the labels' file is named, whichever is to blame.
        let named = if parts[0] == "6 labels" { train_labels } else { file };
        let parts: Vec<_> = parts.iter().copied().chain([named]).collect();
        refused(dir.path(), mnist, 4, &parts);
        refused(dir.path(), "data preview --data mnist -o sheet.png", 4, &parts);
        refused(dir.path(), "eval --device cpu --data mnist --model good/model.safetensors", 4, &parts);
        fs::write(&path, good).unwrap();
    }
    fs::remove_file(dir.path().join("data").join(test_labels)).unwrap();
    refused(dir.path(), mnist, 4, &["data", "t10k-labels-idx1-ubyte"]);
}

/// The seed network's first weights, as tensors.
fn tensors() -> Vec<Tensor<'static>> {
    let net = Network::seed([1, 28, 28], 10).unwrap();
    let flat = net.initial_parameters(0);
    let tensor = |p: &smoothcnn::network::NamedParameter| Tensor {
        name: p.name.clone(),
        shape: p.shape.clone(),
        data: flat[p.range()].iter().map(|&v| v.into()).collect(),
    };
    net.parameters.iter().map(tensor).collect()
}

/// Catches weights that are loaded although they are not the network's, or refused without the tensor's name.
#[test]
fn weights_that_do_not_fit() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    let save =
        |tensors: &[Tensor], metadata: Metadata| checkpoint::save(&path, tensors, Dtype::F32, &metadata).unwrap();
    let both =
        ["eval --device cpu --limit-test 10 --model w.safetensors", &format!("{TRAIN_SEED} --init w.safetensors")];
    let check = |commands: &[&str], code: i32, parts: &[&str]| {
        let parts: Vec<_> = parts.iter().copied().chain(["w.safetensors"]).collect();
        commands.iter().for_each(|args| refused(dir.path(), args, code, &parts));
    };

    check(&both, 4, &["no such file"]);
    save(&tensors(), Metadata::new());
    run(dir.path(), both[0]).success();
    // As another program writes it: without a seal.
    let mut whole = fs::read(&path).unwrap();
    let seal = whole.windows(8).position(|bytes| bytes == b"\"sha256\"").unwrap();
    whole[seal + 1] = b'S';
    fs::write(&path, &whole).unwrap();
    run(dir.path(), both[0]).success();
    for (bytes, parts) in [
        (whole[..whole.len() / 2].to_vec(), &["no whole safetensors file"][..]),
        (whole[..7].to_vec(), &["found 7 bytes", "no whole safetensors file"]),
        (vec![], &["found 0 bytes"]),
        (b"PK\x03\x04 as torch.save writes".to_vec(), &["no whole safetensors file"]),
        // The last tensor of the network is its last bias.
        ([&whole[..whole.len() - 4], &f32::NAN.to_le_bytes()].concat(), &["tensor fc2.bias", "found NaN", "finite"]),
        ([&whole[..whole.len() - 4], &f32::INFINITY.to_le_bytes()].concat(), &["tensor fc2.bias", "found inf"]),
    ] {
        fs::write(&path, bytes).unwrap();
        check(&both, 4, parts);
    }

    let damaged = |damage: fn(&mut Vec<Tensor>)| {
        let mut tensors = tensors();
        damage(&mut tensors);
        tensors
    };
    for (damage, parts) in [
        ((|t| drop(t.remove(2))) as fn(&mut Vec<Tensor>), &["no tensor conv2.weight", "[64, 32, 3, 3]"][..]),
        (
            |t| t.push(Tensor { name: "fc3.bias".into(), shape: vec![1], data: vec![0.0].into() }),
            &["fc3.bias", "expected only"],
        ),
        (|t| t[4].shape.reverse(), &["tensor fc1.weight", "found shape [3136, 128]", "expected [128, 3136]"]),
    ] {
        save(&damaged(damage), Metadata::new());
        check(&both, 4, parts);
    }

    // Only eval reads what training left in the metadata.
    for (key, value) in [
        ("mean", "grey"),
        ("mean", "NaN"),
        ("std", ""),
        ("std", "0"),
        ("label_smoothing", "much"),
        ("label_smoothing", "1.5"),
        ("smoothing_variant", "sideways"),
        ("smoothing_prior", "1,2"),
        ("class_mask", "1,12"),
        ("ignore_index", "none"),
    ] {
        save(&tensors(), Metadata::from([(key.into(), value.into())]));
        check(&both[..1], 4, &[&format!("metadata {key}"), &format!("{value:?}")]);
    }
}

/// Catches output that is lost without a word, or a wrong exit code for what the system refuses.
#[test]
fn places_that_cannot_be_written() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("file"), "not a folder").unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    checkpoint::save(&dir.path().join("w.safetensors"), &tensors(), Dtype::F32, &Metadata::new()).unwrap();
    let eval = "eval --device cpu --limit-test 10 --model w.safetensors";
    for (args, named) in [
        (format!("{TRAIN} --out file"), "file: "),
        (format!("{TRAIN} --out file/run"), "file/run: "),
        (format!("{eval} --logits file/logits"), "file/logits: "),
        (format!("{eval} --logits folder"), "folder: "),
        (format!("{eval} --logits nowhere/logits"), "nowhere/logits: "),
        ("data preview --limit-train 10 -o file/sheet.png".into(), "file/sheet.png: "),
    ] {
        refused(dir.path(), &args, 1, &[named]);
    }
    if cfg!(target_os = "linux") {
        refused(dir.path(), &format!("{TRAIN} --out /proc/nowhere/run"), 1, &["/proc/nowhere/run: "]);
    }
}

/// Catches a folder that is taken for a run, or a damaged run that is resumed.
#[test]
fn folders_that_hold_no_run() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    refused(dir.path(), "train --device cpu --resume nowhere", 4, &["nowhere/config.toml", "expected"]);
    refused(dir.path(), "train --device cpu --resume empty", 4, &["empty/config.toml", "expected"]);

    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    let out = dir.path().join("run");
    let resume = "train --device cpu --resume run --epochs 2";
    let whole = fs::read(out.join("checkpoint.safetensors")).unwrap();
    for (file, bytes, parts) in [
        ("config.toml", b"epochs = 3\n".to_vec(), &["missing field"][..]),
        ("config.toml", b"<html>".to_vec(), &[]),
        ("checkpoint.safetensors", whole[..1000].to_vec(), &["no whole safetensors file"]),
        // A model is not a checkpoint.
        (
            "checkpoint.safetensors",
            fs::read(out.join("model.safetensors")).unwrap(),
            &["format_version", "found none", "expected \"2\""],
        ),
    ] {
        let good = fs::read(out.join(file)).unwrap();
        fs::write(out.join(file), bytes).unwrap();
        let named = format!("run/{file}: ");
        let parts: Vec<_> = parts.iter().copied().chain([named.as_str()]).collect();
        refused(dir.path(), resume, 4, &parts);
        fs::write(out.join(file), good).unwrap();
    }
    run(dir.path(), resume).success();
}
