//! `eval` measures what training measured.

use std::fs;

use serde_json::Value;
use smoothcnn::backend::device::Device;
use smoothcnn::backend::gpu::DeviceKind;
use smoothcnn::data::Dataset;
use smoothcnn::data::corrupt::Corruption;
use smoothcnn::data::digits::Digits;
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::measure::evaluate;
use smoothcnn::train::model::{Inference, Model};
use tempfile::tempdir;

use super::{TRAIN, assert_fails, floats, json_lines, metrics, number, pictures, read_tensors, run, stdout};

/// Catches another set than the one named, images of another size, and images that are made worse by another strength
/// than the table says.
#[test]
fn eval_looks_beyond_the_test_set() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 2 --out run")).success();
    let eval = |args: &str| run(dir.path(), &format!("eval --device cpu --limit-test 40 --model run {args}"));
    let json = |args: &str| json_lines(&stdout(&eval(&format!("--json {args}")).success())).remove(0);
    // The same images cannot be told from themselves.
    let same = json("--ood digits");
    let scores = same["ood"]["scores"].as_array().unwrap();
    assert_eq!((scores.len(), &same["ood"]["images"]), (3, &40.into()));
    for score in scores {
        assert_eq!(number(score, "auroc"), 0.5, "{score}");
        assert!((0.95..=1.0).contains(&number(score, "fpr95")), "{score}");
    }
    assert_eq!((&json("")["ood"], &json("")["corruptions"]), (&Value::Null, &Value::Null));
    let found = json("--corruptions=noise,contrast");
    let found = found["corruptions"].as_array().unwrap();
    let names: Vec<_> =
        found.iter().map(|worse| (worse["corruption"].as_str().unwrap(), number(worse, "severity"))).collect();
    let of = |name| (1..=5).map(move |severity| (name, f64::from(severity)));
    assert_eq!(names, of("noise").chain(of("contrast")).collect::<Vec<_>>());
    // As the library makes and measures them.
    let (_, test) = Digits { train: 0, test: 40, ..Digits::default() }.generate();
    let model = Model::load(&dir.path().join("run/model.safetensors"), test.shape, 10).unwrap();
    let how = Inference { device: Device { kind: DeviceKind::Cpu, ..Device::default() }, ..Inference::default() };
    let usual = vec![[f64::NAN; 2]];
    for (corruption, at) in [(Corruption::Noise, 4), (Corruption::Contrast, 9)] {
        let logits = model.logits(&corruption.apply(&test, 5), &usual, &how, &|_| ()).unwrap();
        let expected = evaluate(&logits, &test.labels, 10, Smoothing::NONE);
        assert!((number(&found[at], "nll") - expected.nll).abs() < 1e-5, "{} {}", found[at], expected.nll);
        assert_eq!(number(&found[at], "error"), expected.error);
    }
    let all = json("--corruptions");
    assert_eq!(all["corruptions"].as_array().unwrap().len(), 20);
    let text = stdout(&eval("--ood digits --corruptions=blur").success());
    assert!(text.contains("images of another kind: ") && text.contains("test images made worse"), "{text}");
    let [train, test] = pictures::digits(&dir.path().join("mine"), 20, 10);
    assert_eq!(json("--ood mine")["ood"]["images"], 10);
    for (part, set) in [("train", train), ("test", test)] {
        let small = Dataset { shape: [1, 20, 20], images: vec![7; set.len() * 400], ..set };
        pictures::write(&dir.path().join("small").join(part), &small);
    }
    assert_fails(eval("--ood small"), 2, &["--ood: found images of 1x20x20, expected 1x28x28"]);
    eval("--ood-dir mine").code(2);
    eval("--corruptions=rain").code(2);
}

/// Catches an evaluation of other weights, other images, another normalisation or another loss than training's, and
/// logits that are not those it measured.
#[test]
fn eval_agrees_with_the_last_epoch_of_training() {
    let dir = tempdir().unwrap();
    let train = format!(
        "{TRAIN} --epochs 2 --out run --label-smoothing 0.2 --smoothing-variant off-target --mean 0.3 --std 0.4"
    );
    run(dir.path(), &train).success();
    let last = metrics(&dir.path().join("run"), "epoch").pop().unwrap();

    let eval = "eval --device cpu --limit-test 40 --model run/model.safetensors";
    let done = run(dir.path(), &format!("{eval} --json --batch-size 7 --logits logits.safetensors")).success();
    let [found] = &json_lines(&stdout(&done))[..] else { panic!("expected one line: {}", stdout(&done)) };
    assert_eq!(number(found, "accuracy"), number(&last, "test_accuracy"));
    assert_eq!(number(found, "images"), 40.0);
    for key in ["nll", "ece", "brier", "mean_confidence"] {
        let (found, trained) = (number(found, key), number(&last, &format!("test_{key}")));
        assert!((found - trained).abs() < 1e-6, "{key}: {found}, in training {trained}");
    }

    let (tensors, _) = read_tensors(&dir.path().join("logits.safetensors"));
    let (dtype, shape, bytes) = &tensors["logits"];
    assert_eq!((dtype.as_str(), &shape[..], tensors.len()), ("F32", &[40, 10][..], 1));
    let (_, test) = Digits { train: 0, test: 40, ..Digits::default() }.generate();
    let logits = floats(bytes);
    let right = logits.chunks(10).zip(&test.labels).filter(|(row, label)| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter().position(|&logit| logit == largest) == Some(**label as usize)
    });
    assert_eq!(right.count() as f64 / 40.0, number(found, "accuracy"));
    let wide: Vec<f64> = logits.iter().map(|&logit| logit.into()).collect();
    let smoothing = Smoothing { variant: Variant::OffTarget, epsilon: 0.2 };
    let expected = evaluate(&wide, &test.labels, 10, smoothing);
    assert!((number(found, "loss") - expected.loss).abs() < 1e-6, "{found}");
    assert!((number(found, "excess_loss") - expected.excess_loss).abs() < 1e-6, "{found}");

    // What training left in the file is a default: flags count.
    let plain = run(dir.path(), &format!("{eval} --json --label-smoothing 0")).success();
    let plain = &json_lines(&stdout(&plain))[0];
    assert!((number(plain, "loss") - number(plain, "nll")).abs() < 1e-12);
    assert!((number(plain, "loss") - number(found, "loss")).abs() > 1e-3);
    let moved = run(dir.path(), &format!("{eval} --json --mean 0.9")).success();
    assert_ne!(number(&json_lines(&stdout(&moved))[0], "loss"), number(found, "loss"));
}

/// Catches text that leaves a number out, and an evaluation in 64 bits that differs by more than rounding.
#[test]
fn eval_prints_text_and_computes_in_64_bits() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    let eval = "eval --device cpu --limit-test 40 --model run/model.safetensors";
    let text = stdout(&run(dir.path(), eval).success());
    // The classes come behind an empty line.
    let (text, _) = text.split_once("\n\n").unwrap();
    let names: Vec<_> = text.lines().map(|line| line[..16].trim()).collect();
    let earlier = ["loss", "nll", "accuracy", "error", "ece", "brier", "mean confidence"];
    let asked = ["ece, debiased", "smece"];
    let calibration = ["ece, equal mass", "ece, classwise", "mce", "conf. if right", "conf. if wrong", "above 0.99"];
    let last = ["aurc", "aurc, max logit", "aurc, normalised", "excess loss", "calibrated", "images"];
    assert_eq!(names, [&earlier[..], &asked, &calibration, &last].concat());
    let (answer, numbers): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("calibrated"));
    assert!(numbers.iter().all(|line| line[16..].trim().parse::<f64>().is_ok()), "{text}");
    let answer = answer[0][16..].trim();
    assert!(answer.starts_with("yes  (p = ") || answer.starts_with("no  (p = "), "{answer}");

    let loss = |flags: &str| {
        let done = run(dir.path(), &format!("{eval} --json {flags}")).success();
        number(&json_lines(&stdout(&done))[0], "loss")
    };
    let (narrow, wide) = (loss(""), loss("--dtype f64"));
    assert!(narrow != wide && (narrow - wide).abs() < 1e-5, "{narrow} {wide}");
    // Nothing is written that was not asked for.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// The classes' figures are those of the answers, by name, and every mistake is named with its file.
#[test]
fn eval_says_which_classes_are_confused() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let [_, test] = pictures::digits(&dir.join("mine"), 200, 60);
    run(dir, "train --device cpu --data mine --epochs 1 --batch-size 32 --out run").success();
    let answers = stdout(&run(dir, "predict --model run --device cpu").success());
    let answers: Vec<usize> =
        answers.lines().skip(1).map(|line| line.split(',').nth(2).unwrap().parse().unwrap()).collect();
    let count = |label: u32, answer: usize| {
        test.labels.iter().zip(&answers).filter(|(l, a)| **l == label && **a == answer).count()
    };
    let text = stdout(&run(dir, "eval --model run --device cpu --out details").success());
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let row: String = (0..10).map(|answer| format!(" {:>5}", count(3, answer))).collect();
    assert!(text.lines().any(|line| line == format!("digit 3{row}")), "{text}");
    let read = |name: &str| fs::read_to_string(dir.join("details").join(name)).unwrap();
    let confusion = read("confusion.csv");
    let expected: String = (0..10).map(|answer| format!(",{}", count(7, answer))).collect();
    assert!(confusion.lines().any(|line| line == format!("digit 7{expected}")), "{confusion}");
    let recall = count(7, 7) as f64 / test.labels.iter().filter(|label| **label == 7).count() as f64;
    let json = json_lines(&stdout(&run(dir, "eval --model run --device cpu --json").success())).remove(0);
    assert_eq!(
        (json["classes"][7]["class"].as_str(), number(&json["classes"][7], "recall")),
        (Some("digit 7"), recall)
    );
    assert_eq!(json["confusion"][7][3], count(7, 3));
    let surest = &json["mistakes"][0];
    let place = surest["index"].as_u64().unwrap() as usize;
    assert_eq!(surest["label"], format!("digit {}", test.labels[place]));
    assert_eq!(surest["answer"], format!("digit {}", answers[place]));
    assert!(surest["file"].as_str().unwrap().contains(&format!("{place:05}.")), "{surest}");
    let wrong: Vec<usize> = (0..60).filter(|&i| answers[i] != test.labels[i] as usize).collect();
    let mistakes = read("mistakes.csv");
    assert_eq!(mistakes.lines().count(), wrong.len() + 1);
    for i in wrong {
        let line = format!("{i},test/digit {0}/{i:05}.", test.labels[i]);
        assert!(mistakes.lines().any(|found| found.starts_with(&line)), "{line} {mistakes}");
    }
    // Written again into its own folder, into no other.
    run(dir, "eval --model run --device cpu --out details").success();
    fs::write(dir.join("details/thesis.tex"), "mine").unwrap();
    assert_fails(
        run(dir, "eval --model run --device cpu --out details"),
        2,
        &["--out: details: found a folder with thesis.tex"],
    );
    // What has the names of its files is not its own for that.
    fs::create_dir(dir.join("mine too")).unwrap();
    fs::write(dir.join("mine too/classes.csv"), "my own").unwrap();
    let mut eval = super::command(dir, "eval --model run --device cpu --out");
    let code = eval.arg("mine too").output().unwrap().status.code();
    assert_eq!((code, fs::read_to_string(dir.join("mine too/classes.csv")).unwrap()), (Some(2), "my own".into()));
    fs::write(dir.join("plain"), "").unwrap();
    let refused = ["--out: plain: found a file, expected a new or empty folder"];
    assert_fails(run(dir, "eval --model run --device cpu --out plain"), 2, &refused);
}

/// Catches a mistake whose number is its place among the images that count: it would be another image.
#[test]
fn a_mistake_keeps_its_number_whatever_counts() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    run(dir, "train --device cpu --limit-train 200 --limit-test 80 --batch-size 32 --epochs 1 --out run").success();
    run(dir, "train --device cpu --limit-train 200 --limit-test 80 --batch-size 32 --epochs 1 --class-mask 1,2,5,7,8 --out masked")
        .success();
    for (n, (model, flags)) in [("run", ""), ("run", "--ignore-index 3"), ("masked", "")].into_iter().enumerate() {
        run(dir, &format!("eval --device cpu --model {model} {flags} --out out{n}")).success();
        let answers = stdout(&run(dir, &format!("predict --device cpu --model {model} {flags}")).success());
        let answers: Vec<Vec<&str>> = answers.lines().skip(1).map(|line| line.split(',').collect()).collect();
        let mistakes = fs::read_to_string(dir.join(format!("out{n}/mistakes.csv"))).unwrap();
        assert!(mistakes.lines().count() > 4, "{mistakes}");
        for line in mistakes.lines().skip(1) {
            let cells: Vec<_> = line.split(',').collect();
            let row = &answers[cells[0].parse::<usize>().unwrap()];
            assert_eq!((row[1], row[2], row[3]), (cells[2], cells[3], cells[4]), "{flags}: {line}");
        }
    }
}

/// Catches a mean of something else than both images' logits, and a result that does not say so.
#[test]
fn tta_is_the_mean_of_an_image_and_its_mirror_image() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    let eval = "eval --device cpu --limit-test 40 --model run --dtype f64";
    let logits = |flags: &str| -> Vec<f64> {
        run(dir.path(), &format!("{eval} --logits logits.safetensors {flags}")).success();
        let (dtype, _, bytes) = read_tensors(&dir.path().join("logits.safetensors")).0.remove("logits").unwrap();
        assert_eq!(dtype, "F64");
        bytes.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let (plain, found) = (logits(""), logits("--tta flip"));
    let (_, test) = Digits { train: 0, test: 40, ..Digits::default() }.generate();
    let mirrored = test.mirrored();
    assert_eq!((mirrored.image(3)[27], &mirrored.labels), (test.image(3)[0], &test.labels));
    let model = smoothcnn::train::model::Model::load(&dir.path().join("run"), test.shape, test.classes).unwrap();
    let device =
        smoothcnn::backend::device::Device { kind: smoothcnn::backend::gpu::DeviceKind::Cpu, ..Default::default() };
    let precision = smoothcnn::backend::device::Precision::F64;
    let how = smoothcnn::train::model::Inference { device, precision, ..Default::default() };
    let other = model.logits(&mirrored, &[[f64::NAN; 2]], &how, &|_| ()).unwrap();
    for (i, found) in found.iter().enumerate() {
        assert!((found - 0.5 * (plain[i] + other[i])).abs() < 1e-12, "{i}");
    }
    assert!(plain.iter().zip(&found).any(|(a, b)| (a - b).abs() > 1e-3));
    assert!(
        stdout(&run(dir.path(), &format!("{eval} --tta flip")).success())
            .contains("tta              flip (mean of the logits)")
    );
    let done = run(dir.path(), &format!("{eval} --tta flip --json")).success();
    assert_eq!(json_lines(&stdout(&done))[0]["tta"], "flip");
    let done = run(dir.path(), &format!("{eval} --json")).success();
    assert_eq!(json_lines(&stdout(&done))[0].get("tta"), None);
    let csv = |flags: &str| {
        stdout(&run(dir.path(), &format!("predict --device cpu --limit-test 5 --model run {flags}")).success())
    };
    assert_ne!(csv("--tta flip"), csv(""));
}
