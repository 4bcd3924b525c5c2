//! A run and its model know their data: what they are asked about is that, it is named, and it is refused where it has
//! changed.

use std::fs;
use std::path::Path;

use assert_cmd::assert::Assert;
use tempfile::tempdir;

use super::{TRAIN, assert_fails, command, json_lines, read_tensors, run, snapshot, stderr, stdout};

fn idx(path: &Path, dims: &[u32], data: &[u8]) {
    let magic = 0x0800 | dims.len() as u32;
    let words = [magic].into_iter().chain(dims.iter().copied()).flat_map(u32::to_be_bytes);
    fs::write(path, words.chain(data.iter().copied()).collect::<Vec<_>>()).unwrap();
}

/// A data set of the MNIST family of 8x8 images that begin with those of a smaller one.
fn write_mnist(dir: &Path, [train, test]: [u32; 2]) {
    fs::create_dir_all(dir).unwrap();
    for (part, n, factor) in [("train", train, 7), ("t10k", test, 11)] {
        let pixels: Vec<u8> = (0..n * 64).map(|i| (i * factor % 251) as u8).collect();
        let labels: Vec<u8> = (0..n).map(|i| (i % 10) as u8).collect();
        idx(&dir.join(format!("{part}-images-idx3-ubyte")), &[n, 8, 8], &pixels);
        idx(&dir.join(format!("{part}-labels-idx1-ubyte")), &[n], &labels);
    }
}

/// What a command says of its data on standard error.
fn data_line(done: &Assert) -> String {
    let lines = stderr(done);
    lines.iter().find_map(|line| line.strip_prefix("data: ")).unwrap_or_else(|| panic!("{lines:?}")).to_owned()
}

/// Catches a model that is asked about another data set than its own, or about its own without a word of which it is;
/// and one that forgets it when it is moved.
#[test]
fn a_model_is_asked_about_its_own_data() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("mine");
    write_mnist(&data, [60, 30]);
    write_mnist(&dir.path().join("other"), [60, 31]);
    let train = "train --data mnist --data-dir mine --device cpu --epochs 1 -b 16 --limit-test 25";
    let done = run(dir.path(), &format!("{train} --val-split 0.2 --out run")).success();
    let place = data.display().to_string();
    assert_eq!(data_line(&done), format!("mnist in {place}, 60 training and 25 test images"));

    // The run's configuration and the model's metadata say the same.
    let config: toml::Table = fs::read_to_string(dir.path().join("run/config.toml")).unwrap().parse().unwrap();
    assert_eq!(config["data-dir"].as_str(), Some(&place[..]));
    let set = config["data-set"].as_table().unwrap();
    assert_eq!((set["train-images"].as_integer(), set["test-images"].as_integer()), (Some(60), Some(25)));
    assert_eq!((set["classes"].as_array().unwrap().len(), set["train-sha256"].as_str().unwrap().len()), (10, 64));
    assert_eq!(set["shape"].as_array().unwrap().iter().map(|n| n.as_integer().unwrap()).collect::<Vec<_>>(), [1, 8, 8]);
    for file in ["run/model.safetensors", "run/checkpoint.safetensors"] {
        let (_, metadata) = read_tensors(&dir.path().join(file));
        let of_model: serde_json::Value = serde_json::from_str(&metadata["data_set"]).unwrap();
        assert_eq!((of_model["data"].as_str(), of_model["dir"].as_str()), (Some("mnist"), Some(&place[..])));
        assert_eq!(of_model["images"], serde_json::to_value(set).unwrap());
    }

    // Asked from anywhere, and where only the model is left.
    let elsewhere = tempdir().unwrap();
    fs::copy(dir.path().join("run/model.safetensors"), elsewhere.path().join("m.safetensors")).unwrap();
    let eval = "eval --device cpu --model m.safetensors --json";
    let images = |args: &str| {
        let done = run(elsewhere.path(), &format!("{eval} {args}")).success();
        (json_lines(&stdout(&done))[0]["images"].as_u64().unwrap(), data_line(&done))
    };
    assert_eq!(images(""), (25, format!("mnist in {place}, 25 test images")));
    assert_eq!(images("--limit-test 7"), (7, format!("mnist in {place}, 7 test images")));
    assert_eq!(images("--limit-test 30").0, 30);
    assert_eq!(
        stdout(&run(elsewhere.path(), "predict --device cpu --model m.safetensors").success()).lines().count(),
        26
    );
    assert!(data_line(&run(dir.path(), "calibrate run --device cpu")).starts_with(&format!("mnist in {place}")));

    // It moved.
    fs::rename(&data, dir.path().join("moved")).unwrap();
    let moved = dir.path().join("moved");
    assert_fails(run(elsewhere.path(), eval), 4, &[&place, "train-images-idx3-ubyte"]);
    assert_eq!(
        images(&format!("--data-dir {}", moved.display())),
        (25, format!("mnist in {}, 25 test images", moved.display()))
    );
    assert!(data_line(&run(dir.path(), "calibrate run --device cpu --data-dir moved")).contains("moved"));
    run(dir.path(), "train --device cpu --resume run --epochs 2 --data-dir moved").success();
    let config: toml::Table = fs::read_to_string(dir.path().join("run/config.toml")).unwrap().parse().unwrap();
    assert_eq!(config["data-dir"].as_str(), Some(&moved.display().to_string()[..]));

    // Another set is a matter of asking.
    let done = run(dir.path(), "eval --device cpu --model run/model.safetensors --data fashion-mnist --data-dir other")
        .success();
    let line =
        format!("fashion-mnist in {}, 31 test images (the model is of mnist)", dir.path().join("other").display());
    assert_eq!(data_line(&done), line);
}

/// Catches a run of an earlier version whose model is measured on the built-in digits.
#[test]
fn a_model_without_a_word_has_its_run_beside_it() {
    let dir = tempdir().unwrap();
    write_mnist(&dir.path().join("data"), [60, 30]);
    run(dir.path(), "train --data mnist --device cpu --epochs 1 -b 16 --out run").success();
    let path = dir.path().join("run/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    // The key gets another name; the header keeps its length.
    let at = bytes.windows(10).position(|window| window == b"\"data_set\"").unwrap();
    let mut old = bytes.clone();
    old[at..at + 10].copy_from_slice(b"\"data_old\"");
    // And the seal, which the earlier version did not write.
    let at = bytes.windows(8).position(|window| window == b"\"sha256\"").unwrap();
    old[at + 1] = b'S';
    fs::write(&path, old).unwrap();
    let config = dir.path().join("run/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.split("[data-set]").next().unwrap()).unwrap();
    let done = run(dir.path(), "eval --device cpu --model run/model.safetensors").success();
    assert!(data_line(&done).starts_with("mnist in "), "{:?}", stderr(&done));
}

/// Catches images that changed under a run: fewer of them, others, or other labels, of either part.
#[test]
fn data_that_changed_is_refused_unless_told_to_go_on() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    write_mnist(&data, [60, 30]);
    run(dir.path(), "train --data mnist --device cpu --epochs 1 -b 16 --val-split 0.2 --out run").success();
    let resume = "train --device cpu --resume run --epochs 2";
    let eval = "eval --device cpu --model run/model.safetensors";
    let calibrate = "calibrate run --device cpu";
    let labels = |part: &str, n: u32| idx(&data.join(format!("{part}-labels-idx1-ubyte")), &[n], &vec![3; n as usize]);
    type Change<'a> = &'a dyn Fn();
    let changes: [(Change, &[&str], [&str; 2]); 4] = [
        (&|| write_mnist(&data, [20, 30]), &[resume, calibrate], ["found 20 training images", "expected 60 training"]),
        (&|| write_mnist(&data, [61, 30]), &[resume, calibrate], ["found 61 training images", "expected 60 training"]),
        (&|| labels("train", 60), &[resume, calibrate], ["found 60 training images of 1x8x8", "SHA-256"]),
        (&|| labels("t10k", 30), &[resume, calibrate, eval], ["found 30 test images", "SHA-256"]),
    ];
    for (change, commands, parts) in changes {
        change();
        let before = snapshot(dir.path());
        for command in commands {
            let parts = ["data: the data has changed", parts[0], parts[1], "--allow-changed-data"];
            assert_fails(run(dir.path(), command), 4, &parts);
        }
        assert!(snapshot(dir.path()) == before);
        write_mnist(&data, [60, 30]);
    }
    labels("t10k", 30);
    for command in [resume, eval] {
        run(dir.path(), &format!("{command} --allow-changed-data")).success();
    }
    // Whether these few images have a temperature is another matter.
    assert!(data_line(&run(dir.path(), &format!("{calibrate} --allow-changed-data"))).contains("30 test images"));
    // From here on it is the run's.
    run(dir.path(), "train --device cpu --resume run --epochs 3").success();
}

/// Catches an entry of a sweep that goes on with other images, and a name of an entry that depends on what the images
/// are.
#[test]
fn an_entry_knows_its_data_and_keeps_its_name() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    write_mnist(&data, [60, 30]);
    let grid = "sweep plan --data mnist --epochs 1 -b 16 --label-smoothing 0.1 --seeds 1 --out s";
    run(dir.path(), grid).success();
    let plan = fs::read_to_string(dir.path().join("s/plan.json")).unwrap();
    assert!(plan.contains(&format!("\"data-dir\":{:?}", data.display().to_string())), "{plan}");
    assert!(!plan.contains("sha256") && !plan.contains("data-set"), "{plan}");
    run(dir.path(), "train --entry s/plan.json --device cpu").success();
    run(dir.path(), grid).success();
    assert_eq!(fs::read_to_string(dir.path().join("s/plan.json")).unwrap(), plan);
}

/// Catches side files that are paired with other images because a part of the published set is missing.
#[test]
fn side_files_go_by_their_place_in_the_published_set() {
    let dir = tempdir().unwrap();
    let records =
        |n: usize| -> Vec<u8> { (0..n).flat_map(|i| [vec![(i % 10) as u8], vec![7; 3072]].concat()).collect() };
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let batch = gzip(&records(10_000));
    let path = |i: usize| dir.path().join(format!("data_batch_{i}.bin.gz"));
    (1..=5).for_each(|i| fs::write(path(i), &batch).unwrap());
    fs::write(dir.path().join("test_batch.bin"), records(20)).unwrap();
    idx(&dir.path().join("labels"), &[80], &[1; 80]);
    idx(&dir.path().join("votes"), &[80, 10], &[1; 800]);
    let train = "train --data cifar-10 --data-dir . --device cpu --epochs 1 -b 40 --limit-train 80";
    for flag in ["--train-labels labels", "--soft-labels votes"] {
        run(dir.path(), &format!("{train} {flag} --out whole{}", &flag[..4])).success();
    }
    for (i, bytes) in [(3, None), (5, None), (2, Some(gzip(&records(9_999))))] {
        match &bytes {
            None => fs::remove_file(path(i)).unwrap(),
            Some(bytes) => fs::write(path(i), bytes).unwrap(),
        }
        for flag in ["--train-labels labels", "--soft-labels votes"] {
            let expected = if bytes.is_none() { "found no data_batch_" } else { "found 49999 training images" };
            let failed = run(dir.path(), &format!("{train} {flag} --out part"));
            assert_fails(failed, 4, &[expected, "--train-labels and --soft-labels go by their place"]);
        }
        // What needs no place takes what there is.
        run(dir.path(), &format!("{train} --out part{i}")).success();
        fs::write(path(i), &batch).unwrap();
    }
    assert!(!dir.path().join("part").exists());
}

/// Catches noise that is spent on labels that do not count, that brings such a label back or makes one, and a split
/// that holds out of them.
#[test]
fn mask_and_ignored_labels_come_before_split_and_noise() {
    let dir = tempdir().unwrap();
    let labels: Vec<u8> = (0..80).map(|i| if i % 8 == 0 { 200 } else { i % 10 }).collect();
    idx(&dir.path().join("labels"), &[80], &labels);
    let flags = "--epochs 1 --train-labels labels --ignore-index 200 --class-mask 1,3,5,6";
    let counts = |i: usize| labels[i] != 200 && [1, 3, 5, 6].contains(&labels[i]);
    let eligible = (0..80).filter(|&i| counts(i)).count();
    let flipped = |out: &str| -> Vec<usize> {
        let text = fs::read_to_string(dir.path().join(out).join("flipped.txt")).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    run(dir.path(), &format!("{TRAIN} {flags} --label-noise 0.5 --out noisy")).success();
    let found = flipped("noisy");
    assert_eq!(found.len(), (0.5 * eligible as f64).round() as usize);
    assert!(found.iter().all(|&i| counts(i)), "{found:?}");
    // Every label that counts flips to another that counts: their number stays.
    let done = run(dir.path(), &format!("{TRAIN} {flags} --label-noise 1 --val-split 0.25 --out split")).success();
    let said = stderr(&done).join("\n");
    let held_out: usize =
        [1, 3, 5, 6].map(|class| (0..80).filter(|&i| labels[i] == class).count()).map(|n| (n + 2) / 4).iter().sum();
    let kept = eligible - held_out;
    assert_eq!(flipped("split").len(), kept, "{said}");
    let line = format!("{} training ({} ignored), {held_out} validation", 80 - held_out, 80 - eligible);
    assert!(said.contains(&line), "{line}: {said}");
}

/// Catches paths that are no UTF-8 and end in a panic: they work, or are refused where a file of text would have to
/// hold them.
#[cfg(target_os = "linux")]
#[test]
fn paths_need_not_be_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempdir().unwrap();
    let odd = |name: &[u8]| OsStr::from_bytes(&[name, &b"\xff"[..]].concat()).to_owned();
    let start = |args: &str, flag: &str, name: &OsStr| {
        let mut command = command(dir.path(), args);
        if !flag.is_empty() {
            command.arg(flag);
        }
        Assert::new(command.arg(name).output().unwrap())
    };
    start(&format!("{TRAIN} --epochs 1"), "--out", &odd(b"run")).success();
    start("train --device cpu --epochs 2", "--resume", &odd(b"run")).success();
    let model = Path::new(&odd(b"run")).join("model.safetensors");
    start("eval --device cpu --logits l", "--model", model.as_os_str()).success();
    start("predict --device cpu", "--model", model.as_os_str()).success();
    start("data preview --limit-train 10", "--output", &odd(b"sheet")).success();
    write_mnist(&dir.path().join(odd(b"data")), [60, 30]);
    for (args, flag) in [
        ("train --data mnist --device cpu", "--data-dir"),
        (TRAIN, "--init"),
        (TRAIN, "--train-labels"),
        (TRAIN, "--soft-labels"),
        (TRAIN, "--teacher"),
        ("sweep plan", "--out"),
    ] {
        assert_fails(start(args, flag, &odd(b"data")), 2, &[flag, "\\xFF", "expected a path in UTF-8"]);
    }
    assert_fails(start("calibrate --device cpu", "", &odd(b"run")), 4, &["--val-split"]);
    start("calibrate --device cpu --limit-train 160", "--model", model.as_os_str()).code(0);
}

/// Catches a pipe, a device or a folder that is waited for or read for ever where a file is expected.
#[cfg(target_os = "linux")]
#[test]
fn only_regular_files_are_read() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    run(dir.path(), "sweep plan --seeds 1 --label-smoothing 0 --out s").success();
    let special = [("pipe", "a pipe"), ("/dev/zero", "a device"), ("folder", "a folder")];
    assert!(std::process::Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap().success());
    fs::create_dir(dir.path().join("folder")).unwrap();
    let model = "eval --device cpu --model run/model.safetensors";
    for (name, kind) in special {
        for args in [
            format!("{TRAIN} --train-labels {name}"),
            format!("{TRAIN} --soft-labels {name}"),
            format!("{TRAIN} --init {name}"),
            format!("{TRAIN} --teacher {name}"),
            format!("{TRAIN} --class-weights {name}"),
            format!("{TRAIN} --smoothing-variant prior --smoothing-prior {name}"),
            format!("eval --device cpu --model {name}"),
            format!("{model} --temperature {name}"),
            format!("calibrate --device cpu --model {name}"),
            format!("train --device cpu --entry {name}"),
            format!("bench --device cpu --compare {name}"),
            format!("bench --table {name}"),
        ] {
            assert_fails(run(dir.path(), &args), 4, &[&format!("found {kind}, expected ")]);
        }
        for (file, command) in [
            ("run/config.toml", "train --device cpu --resume run --epochs 2"),
            ("run/checkpoint.safetensors", "train --device cpu --resume run --epochs 2"),
            ("s/plan.json", "sweep run s --device cpu"),
        ] {
            let path = dir.path().join(file);
            let good = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink(dir.path().join(name), &path).unwrap();
            assert_fails(run(dir.path(), command), 4, &[file, &format!("found {kind}, expected ")]);
            fs::remove_file(&path).unwrap();
            fs::write(&path, good).unwrap();
        }
    }
    let mut from_zero = command(dir.path(), "train --device cpu --entry -");
    from_zero.stdin(fs::File::open("/dev/zero").unwrap());
    assert_fails(Assert::new(from_zero.output().unwrap()), 4, &["-: ", "expected an entry"]);
}
