//! Data of a user's own: folders, tables and archives of pictures.

use std::fs;
use std::path::Path;

use image::{DynamicImage, GrayImage, ImageFormat, RgbImage};
use smoothcnn::data::Dataset;
use smoothcnn::data::digits::Builtin;
use smoothcnn::data::format::{Format, Reading};

use super::{assert_fails, json_lines, run, stderr, stdout};

const TRAIN: &str = "train --device cpu --batch-size 32";

/// [`TRAIN`], twice through the images.
const TWICE: &str = "train --device cpu --batch-size 32 --epochs 2";

/// The built-in digits, cut, as pictures: `dir/SET/CLASS/NUMBER.KIND`, the kinds in turn.
pub fn digits(dir: &Path, train: usize, test: usize) -> [Dataset; 2] {
    let how = Reading { limit_train: Some(train), limit_test: Some(test), ..Reading::default() };
    let mut loaded = Builtin.read(dir, &how, &|_, _| {}).unwrap();
    loaded.train.truncate(train);
    loaded.test.truncate(test);
    for (name, set) in [("train", &loaded.train), ("test", &loaded.test)] {
        write(&dir.join(name), set);
    }
    [loaded.train, loaded.test]
}

pub fn write(dir: &Path, set: &Dataset) {
    let [_, h, w] = set.shape.map(|side| side as u32);
    for i in 0..set.len() {
        let folder = dir.join(format!("digit {}", set.labels[i]));
        fs::create_dir_all(&folder).unwrap();
        let grey = GrayImage::from_raw(w, h, set.image(i).to_vec()).unwrap();
        let kind = [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff][i % 3];
        let path = folder.join(format!("{i:05}.{}", kind.extensions_str()[0]));
        DynamicImage::ImageLuma8(grey).save_with_format(path, kind).unwrap();
    }
}

/// The weights of a run, without what its file says of it.
fn tensors(run: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = fs::read(run.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.to_owned(), tensor.data().to_vec())).collect();
    tensors.sort();
    tensors
}

fn result(assert: &assert_cmd::assert::Assert) -> serde_json::Value {
    json_lines(&stdout(assert)).pop().unwrap()
}

/// The figures of an epoch, without what a clock says.
fn figures(line: &serde_json::Value) -> Vec<String> {
    ["train_loss", "train_nll", "val_loss", "val_accuracy", "val_ece", "test_accuracy", "test_nll", "test_ece"]
        .iter()
        .filter_map(|name| Some(format!("{name} {}", line.get(name)?)))
        .collect()
}

/// The same images from pictures as from their own file train to the same bits, whatever the pictures' kind.
#[test]
fn pictures_train_as_their_own_file_does() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    digits(&dir.join("mine"), 200, 60);
    let own = "--mean 0.1 --std 0.3 --json";
    let limits = "--limit-train 200 --limit-test 60";
    let digits = result(&run(dir, &format!("{TWICE} {own} {limits} --out digits")).success());
    let assert = run(dir, &format!("{TWICE} {own} --data mine --out mine-run")).success();
    assert_eq!(figures(&result(&assert)), figures(&digits));
    assert!(!figures(&digits).is_empty());
    assert_eq!(tensors(&dir.join("mine-run")), tensors(&dir.join("digits")));
    let notes = stderr(&assert).join("\n");
    assert!(notes.contains(&format!("data: folder in {}", dir.join("mine").display())), "{notes}");
    let config = fs::read_to_string(dir.join("mine-run/config.toml")).unwrap();
    assert!(config.contains("data = \"folder\"") && config.contains("\"digit 3\""), "{config}");

    // Evaluated as it was trained, and on a folder of another layout, of colour pictures, of another size.
    let eval = |args: &str| run(dir, &format!("eval --device cpu --json --model {args}"));
    let own = result(&eval("mine-run/model.safetensors").success());
    assert_eq!(own["accuracy"], digits["test_accuracy"]);
    let test = dir.join("mine/test");
    for class in fs::read_dir(&test).unwrap() {
        let class = class.unwrap();
        for file in fs::read_dir(class.path()).unwrap() {
            let file = file.unwrap().path();
            let picture: RgbImage = image::open(&file).unwrap().into_rgb8();
            let big = image::imageops::resize(&picture, 56, 56, image::imageops::FilterType::Nearest);
            let to = dir.join("big").join(class.file_name());
            fs::create_dir_all(&to).unwrap();
            big.save(to.join(file.with_extension("png").file_name().unwrap())).unwrap();
        }
    }
    let other = eval("mine-run/model.safetensors --data big").success();
    assert!(stderr(&other).iter().any(|line| line.contains("60 test images (the model is of folder)")), "{other:?}");
    assert_eq!(result(&other)["images"], 60);
    assert_fails(eval("mine-run/model.safetensors --size 28"), 2, &["--size: found with the data that the model was"]);
}

/// A run is killed and goes on on the same pictures; on others it does not.
#[test]
fn a_run_on_pictures_goes_on_and_notices_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let [_, test] = digits(&dir.join("mine"), 120, 40);
    let train = format!("{TRAIN} --data mine --limit-train 64");
    run(dir, &format!("{train} --epochs 2 --out whole")).success();
    run(dir, &format!("{train} --epochs 1 --out part")).success();
    run(dir, "train --resume part --epochs 2").success();
    let model = |run: &str| fs::read(dir.join(run).join("model.safetensors")).unwrap();
    assert_eq!(model("part"), model("whole"));
    let results = |run: &str| fs::read_to_string(dir.join(run).join("results.csv")).unwrap();
    assert_eq!(results("part"), results("whole"));
    let lines: Vec<_> = results("part").lines().map(|line| line.split(',').count()).collect();
    assert!(lines.len() == 3 && lines.iter().all(|cells| *cells == lines[0]), "{}", results("part"));
    assert!(results("part").starts_with("epoch,step,") && results("part").contains(",test_accuracy,"));
    let fixed = ["--size cannot change in a run that goes on: found [14, 14], the run has none"];
    assert_fails(run(dir, "train --resume part --epochs 3 --size 14x14"), 2, &fixed);
    train_again_as_it_was(dir);
    fs::remove_file(dir.join("part/results.csv")).unwrap();
    run(dir, "train --resume part --epochs 2").success();
    assert_eq!(results("part"), results("whole"));
    // Nothing depends on what was kept.
    fs::remove_dir_all(dir.join(".cache")).unwrap();
    run(dir, "train --resume part --epochs 2").success();
    write(&dir.join("mine/val"), &test);
    let changed = ["the data has changed: found 40 validation images", "expected 0 validation images"];
    assert_fails(run(dir, "train --resume part --epochs 3"), 4, &changed);
    run(dir, &format!("{train} --epochs 2 --out with-val")).success();
    fs::remove_file(dir.join("mine/val/digit 0").join(first(&dir.join("mine/val/digit 0")))).unwrap();
    let changed = ["the data has changed: found 39 validation images", "expected 40 validation images"];
    assert_fails(run(dir, "train --resume with-val --epochs 3"), 4, &changed);
    run(dir, "train --resume with-val --epochs 3 --allow-changed-data").success();
}

/// A flag that says what the run has anyway is no change.
fn train_again_as_it_was(dir: &Path) {
    run(dir, "train --resume part --data mine --epochs 2").success();
    run(dir, &format!("{TRAIN} --data mine --epochs 1 --size 14x14 --skip-bad --out small")).success();
    run(dir, "train --resume small --size 14x14 --skip-bad --epochs 2").success();
}

fn first(folder: &Path) -> std::path::PathBuf {
    smoothcnn::fs::names(folder).unwrap().remove(0)
}

/// Every fault of the data is one line with the file, and nothing is written.
#[test]
fn faults_in_pictures_are_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    digits(&dir.join("mine"), 120, 40);
    let train = |args: &str| run(dir, &format!("{TWICE} --data {args}"));
    assert_fails(train("nothing/there"), 4, &["nothing/there: found nothing there, expected the name of a data set"]);
    fs::create_dir(dir.join("empty")).unwrap();
    assert_fails(train("./empty"), 4, &["empty: found nothing that is known as data"]);
    let bad = dir.join("mine/train/digit 4/bad.png");
    fs::write(&bad, b"\x89PNG\r\n\x1a\nno").unwrap();
    assert_fails(train("mine"), 4, &["digit 4/bad.png: found a damaged picture", "--skip-bad leaves out such files"]);
    let skipped = train("mine --skip-bad --out skipped").success();
    assert!(stderr(&skipped).iter().any(|line| line.starts_with("data: left out train/digit 4/bad.png: found")));
    let odd = GrayImage::new(20, 30);
    odd.save(&bad).unwrap();
    assert_fails(train("mine"), 4, &["found training pictures of 2 sizes, 28x28 (120), 30x20 (1)", "--size HxW"]);
    train("mine --size 14x14 --crop-mode border --channels 3 --out small").success();
    let config: toml::Table = fs::read_to_string(dir.join("small/config.toml")).unwrap().parse().unwrap();
    assert_eq!(config["data-set"]["shape"].to_string(), "[3, 14, 14]");
    assert_eq!(config["pictures"]["crop-mode"].as_str(), Some("border"));
    assert_fails(train("mine --channels 2"), 2, &["--channels: found 2, expected 1 (grey) or 3 (RGB)"]);
    assert_fails(train("mine --size 28 --test-split 0.5"), 2, &["--test-split: found 0.5", "a test set of 40 images"]);
    assert_fails(train("mine --ignore-index 3"), 2, &["--ignore-index: found 3 with data in the format folder"]);
    assert_fails(train("digits --size 28"), 2, &["--size: found with digits", "expected pictures"]);
    fs::write(dir.join("t.csv"), "file,label\nnone.png,a\n").unwrap();
    assert_fails(train("t.csv"), 4, &["t.csv: line 2: found none.png, which is not there"]);
    fs::write(dir.join("a.npz"), "no archive").unwrap();
    assert_fails(train("a.npz"), 4, &["a.npz: found", "expected a .npz archive"]);
    assert_eq!(fs::read_dir(dir.join("runs")).map_or(0, Iterator::count), 0);
}

/// What a folder has is said in numbers, with every file that is no picture.
#[test]
fn info_counts_and_lists() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let [train, test] = digits(&dir.join("mine"), 120, 40);
    fs::write(dir.join("mine/train/digit 4/bad.png"), "no picture").unwrap();
    GrayImage::new(20, 30).save(dir.join("mine/test/digit 4/odd.png")).unwrap();
    let assert = run(dir, "data info mine --size 28x28").success();
    let text = stdout(&assert);
    let has = |line: &str| assert!(text.lines().any(|found| found == line), "{text:?} lacks {line:?}");
    has("images     1x28x28 (channels, height, width)");
    has("pictures   161 files, height x width: 28x28 (160), 30x20 (1)");
    let count = |set: &Dataset, class| set.labels.iter().filter(|label| **label == class).count();
    has(&format!("{:<32} {:>10} {:>10}", "digit 3", count(&train, 3), count(&test, 3)));
    has(&format!("{:<32} {:>10} {:>10}", "all", 120, 41));
    has(&format!("SHA-256    {} (training set)", train.sha256(120, None)));
    let bad =
        "no picture: train/digit 4/bad.png: found another kind of file, expected a PNG, JPEG, WebP, BMP, GIF or TIFF";
    has(bad);
    let values: Vec<f64> = train.images.iter().map(|value| f64::from(*value) / 255.0).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let std = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    has(&format!("channel 0  mean {mean:.4}, std {std:.4}"));
    assert!(stdout(&run(dir, "data info digits").success()).contains("images     1x28x28"));
    run(dir, "data preview --data mine --size 28 --channels 3 --skip-bad -o sheet.png").success();
    assert_eq!(image::open(dir.join("sheet.png")).unwrap().color(), image::ColorType::Rgb8);
    assert_fails(run(dir, "data info digits --size 8"), 2, &["--size: found with digits"]);
}

/// A table says the order, so that the same images in the same order give the same bits as a folder.
#[test]
fn a_table_and_a_folder_are_the_same_data() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let sets = digits(&dir.join("mine"), 120, 40);
    let mut table = String::from("file\tlabel\tsplit\n");
    for (name, set) in ["train", "test"].iter().zip(&sets) {
        for i in 0..set.len() {
            let (kind, label) = (["png", "bmp", "tiff"][i % 3], set.labels[i]);
            let kind = if kind == "tiff" { ImageFormat::Tiff.extensions_str()[0] } else { kind };
            table += &format!("mine/{name}/digit {label}/{i:05}.{kind}\tdigit {label}\t{name}\n");
        }
    }
    fs::write(dir.join("table.tsv"), table).unwrap();
    run(dir, &format!("{TWICE} --data mine --out a")).success();
    run(dir, &format!("{TWICE} --data table.tsv --out b")).success();
    let record = |run: &str| {
        let config: toml::Table = fs::read_to_string(dir.join(run).join("config.toml")).unwrap().parse().unwrap();
        config["data-set"].clone()
    };
    assert_eq!(record("a"), record("b"));
    assert_eq!(tensors(&dir.join("a")), tensors(&dir.join("b")));
}
