//! Sets in their authors' files, as a user names them.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use super::{assert_fails, run, stderr, stdout};

fn idx(path: &Path, dims: &[u32], data: &[u8]) {
    let words = [0x0800 | dims.len() as u32].into_iter().chain(dims.iter().copied()).flat_map(u32::to_be_bytes);
    fs::write(path, words.chain(data.iter().copied()).collect::<Vec<_>>()).unwrap();
}

/// EMNIST's letters: labels from 1.
fn write_letters(dir: &Path, name: &str) {
    fs::create_dir_all(dir).unwrap();
    for (part, n) in [("train", 78_u32), ("test", 52)] {
        let pixels: Vec<u8> = (0..n * 64).map(|i| (i * 7 % 251) as u8).collect();
        let labels: Vec<u8> = (0..n).map(|i| (1 + i % 26) as u8).collect();
        idx(&dir.join(format!("{name}-{part}-images-idx3-ubyte")), &[n, 8, 8], &pixels);
        idx(&dir.join(format!("{name}-{part}-labels-idx1-ubyte")), &[n], &labels);
    }
}

/// Catches labels that are shifted in one place only: in training, in a model's metadata, or where one is ignored.
#[test]
fn idx_files_of_any_classes_train_and_evaluate() {
    let dir = tempdir().unwrap();
    write_letters(&dir.path().join("emnist"), "emnist-letters");
    let info = run(dir.path(), "data info ./emnist").success();
    let said = stderr(&info);
    assert!(said.iter().any(|line| line.contains("26 labels from 1 to 26")), "{said:?}");
    let text = stdout(&info);
    assert!(text.starts_with("data       idx in ") && text.contains("images     1x8x8"), "{text}");
    assert!(text.lines().any(|line| line.split_whitespace().eq(["26", "3", "2"])), "{text}");
    run(dir.path(), "train --data ./emnist --device cpu --epochs 1 -b 16 --out run").success();
    let eval = "eval --device cpu --model run/model.safetensors --json";
    let images = |args: &str| {
        let done = run(dir.path(), &format!("{eval} {args}")).success();
        super::json_lines(&stdout(&done))[0]["images"].as_u64().unwrap()
    };
    assert_eq!(images(""), 52);
    // The label of the files, and not the class of that number, in images that are otherwise those of the model.
    assert_eq!(images("--ignore-index 26"), 50);
    let fewer =
        run(dir.path(), "train --data ./emnist --device cpu --epochs 1 -b 16 --ignore-index 1 --out fewer").success();
    // Three images of one label, and not those of the class with that number too.
    assert!(stderr(&fewer).iter().any(|line| line.contains("78 training (3 ignored)")), "{:?}", stderr(&fewer));
    assert_eq!(fs::read_to_string(dir.path().join("fewer/config.toml")).unwrap().matches("\"26\"").count(), 1);
    run(dir.path(), "eval --device cpu --model fewer").success();
    run(dir.path(), "train --device cpu --resume fewer --epochs 2").success();

    write_letters(&dir.path().join("emnist"), "emnist-digits");
    let parts = ["found the sets emnist-digits, emnist-letters, expected one", "chooses the first"];
    assert_fails(run(dir.path(), "data info ./emnist"), 4, &parts);
    run(dir.path(), "data info emnist/emnist-letters").success();
    assert_fails(run(dir.path(), "data info emnist/emnist-mnist"), 4, &["found nothing there", "npz"]);
    assert_fails(run(dir.path(), "train --data emnist/emnist-letters --train-labels x"), 4, &["published set"]);
}

/// Catches files of MNIST that another program renamed, and are not found, or are taken without a word.
#[test]
fn near_names_of_mnist_are_found_and_said() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    write_letters(&data, "x");
    for (part, as_part) in [("train", "train"), ("test", "t10k")] {
        for (kind, dimensions) in [("images", 3), ("labels", 1)] {
            let from = data.join(format!("x-{part}-{kind}-idx{dimensions}-ubyte"));
            fs::rename(from, data.join(format!("{as_part}-{kind}.idx{dimensions}-ubyte"))).unwrap();
        }
    }
    let info = run(dir.path(), "data info mnist");
    assert_fails(info, 4, &["train-labels.idx1-ubyte", "the label at index 9 is 10, expected below 10"]);
    idx(&data.join("train-labels.idx1-ubyte"), &[78], &[4; 78]);
    idx(&data.join("t10k-labels.idx1-ubyte"), &[52], &[4; 52]);
    let info = run(dir.path(), "data info mnist").success();
    let note = "data: train-images.idx3-ubyte is taken for train-images-idx3-ubyte, and 3 more so";
    assert_eq!(stderr(&info), [note]);
}

/// Catches a label byte that is taken for another, or for a pixel, where the set is trained on, known again or asked
/// about.
#[test]
fn cifar_100_trains_and_evaluates_out_of_its_archive() {
    let dir = tempdir().unwrap();
    let records = |n: u8| -> Vec<u8> { (0..n).flat_map(|i| [vec![i % 20, i % 100], vec![i; 3072]].concat()).collect() };
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(vec![], flate2::Compression::fast()));
    for (name, n) in [("train.bin", 200), ("test.bin", 100)] {
        let bytes = records(n);
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, format!("cifar-100-binary/{name}"), &bytes[..]).unwrap();
    }
    let archive = builder.into_inner().unwrap().finish().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    fs::write(dir.path().join("data/cifar-100-binary.tar.gz"), &archive).unwrap();
    let before = super::snapshot(&dir.path().join("data"));
    for (name, classes) in [("cifar-100", 100), ("cifar-100-coarse", 20)] {
        let train = format!("train --data {name} --device cpu --epochs 1 -b 50 --out {name}");
        run(dir.path(), &train).success();
        let config: toml::Table =
            fs::read_to_string(dir.path().join(name).join("config.toml")).unwrap().parse().unwrap();
        assert_eq!(config["data-set"]["classes"].as_array().unwrap().len(), classes);
        run(dir.path(), &format!("eval --device cpu --model {name}")).success();
    }
    let text = stdout(&run(dir.path(), "data info data/cifar-100-binary.tar.gz").success());
    assert!(text.starts_with("data       cifar-100 in ") && text.contains("worm  "), "{text}");
    assert!(text.contains("channel 0  mean 0.5071, std 0.2673"), "{text}");
    assert!(super::snapshot(&dir.path().join("data")) == before);
    fs::write(dir.path().join("data/cifar-100-binary.tar.gz"), &archive[..archive.len() / 2]).unwrap();
    let parts = ["cifar-100-binary.tar.gz: truncated or corrupt archive"];
    assert_fails(run(dir.path(), "data info cifar-100"), 4, &parts);
}

/// Catches shares of other images than those asked about, or of classes that took no part.
#[test]
fn people_are_compared_with_by_image() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    // Long enough to be surer of some images than of others, by more than the shares are rounded.
    let data = "--data digits --device cpu --limit-train 200 --limit-test 40 --batch-size 16 --lr 0.003";
    run(dir, &format!("train {data} --epochs 3 --out run")).success();
    let eval = |flags: &str| {
        let done = run(dir, &format!("eval --device cpu --model run --json {flags}")).success();
        super::json_lines(&stdout(&done))[0].clone()
    };
    // The network's own answers as shares: nothing is between them.
    run(dir, "predict --device cpu --model run --out answers.csv").success();
    let table = fs::read_to_string(dir.join("answers.csv")).unwrap();
    let counts: Vec<u8> = table
        .lines()
        .skip(1)
        .flat_map(|line| line.split(',').skip(4).map(|p| (p.parse::<f64>().unwrap() * 250.0).round() as u8))
        .collect();
    idx(&dir.join("people"), &[40, 10], &counts);
    let found = eval("--soft-labels people");
    let of = |key: &str| super::number(&found["soft_labels"], key);
    assert_eq!(of("images"), 40.0);
    assert!((-0.01..0.01).contains(&of("kl")) && of("total_variation") < 0.02, "{found}");
    assert!(of("rank_correlation") > 0.99, "{found}");
    // In another order they are of other images.
    let turned: Vec<u8> = counts.chunks(10).rev().flatten().copied().collect();
    idx(&dir.join("turned"), &[40, 10], &turned);
    let other = eval("--soft-labels turned");
    assert!(super::number(&other["soft_labels"], "kl") > of("kl") + 0.01, "{other}");
    let shown = stdout(&run(dir, "eval --device cpu --model run --soft-labels people").success());
    assert!(shown.contains("agreement with the people of --soft-labels\n  cross-entropy "), "{shown}");

    idx(&dir.join("short"), &[39, 10], &counts[..390]);
    let asked = "eval --device cpu --model run --soft-labels";
    assert_fails(run(dir, &format!("{asked} short")), 4, &["short: found 39 rows, expected one for each of 40 images"]);
    assert_fails(run(dir, &format!("{asked} none")), 4, &["none"]);

    // Of a model of some classes, only those count, and only their images.
    run(dir, &format!("train {data} --epochs 1 --class-mask 0,3,4 --out some")).success();
    let done = run(dir, "eval --device cpu --model some --json --soft-labels people").success();
    let some = &super::json_lines(&stdout(&done))[0];
    assert_eq!(some["soft_labels"]["images"], some["images"]);
    assert!(super::number(&some["soft_labels"], "entropy_of_model") <= 3f64.ln(), "{some}");
}
