//! `calibrate`, what `eval` makes of its temperature, and the measures and intervals that `eval` prints.

use std::path::Path;

use serde_json::Value;
use smoothcnn::backend::reference::ReferenceTrainer;
use smoothcnn::backend::{Setup, Trainer};
use smoothcnn::data::Dataset;
use smoothcnn::data::digits::{Digits, MEAN_AND_STD};
use smoothcnn::loss::smoothing::{Smoothing, Variant};
use smoothcnn::measure::cross_fit::cross_fit;
use smoothcnn::measure::perfect::Perfection;
use smoothcnn::measure::scaling::Method;
use smoothcnn::measure::selective::Rankings;
use smoothcnn::measure::temperature::{apply, fit, interval};
use smoothcnn::measure::{evaluate, predictions};
use smoothcnn::network::Network;
use smoothcnn::optimizer::{Adam, Optimizer};
use smoothcnn::train::checkpoint;

use super::{command, number};

/// The images after the first 140 are new to the model.
const TRAIN: &str = "--data digits --device cpu --limit-train 140 --limit-test 60";

/// Runs the program in `folder` and gives its exit code, standard output and standard error.
fn run(folder: &Path, line: &str) -> (i32, String, String) {
    let output = command(folder, line).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(folder: &Path, line: &str) -> Value {
    let (code, out, err) = run(folder, &format!("{line} --json"));
    assert_eq!((code, out.lines().count()), (0, 1), "{line}: {out}{err}");
    serde_json::from_str(&out).unwrap()
}

fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((found - expected).abs() <= tolerance, "{what}: found {found}, expected {expected}");
}

/// Training and test images, and the logits of the trained model for images of either.
fn logits(folder: &Path, images: &Dataset) -> Vec<f64> {
    let net = Network::seed(images.shape, images.classes).unwrap();
    let expected: Vec<_> = net.parameters.iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
    let (tensors, _) = checkpoint::load(&folder.join("run/model.safetensors"), &expected).unwrap();
    let mut params = vec![0f32; net.flat_len()];
    for (parameter, values) in net.parameters.iter().zip(tensors) {
        for (to, from) in params[parameter.range()].iter_mut().zip(values) {
            *to = from as f32;
        }
    }
    let setup = Setup {
        seed: 0,
        net: &net,
        batch_size: 50,
        loss: Smoothing::NONE.into(),
        optimizer: Optimizer::Adam(Adam::default()),
        recipe: Default::default(),
        normalisation: vec![[MEAN_AND_STD.0, MEAN_AND_STD.1]],
        augment: smoothcnn::ops::augment::Augment::NONE,
        train: images,
        test: images,
    };
    ReferenceTrainer::<f32>::new(setup, &params).test_logits().unwrap()
}

/// Catches a fit on other images than the last of the training set, numbers that are not those of the sets they are
/// given for, and an evaluation that divides by something else than what was fitted.
#[test]
fn what_is_fitted_and_what_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let train = format!("train {TRAIN} --epochs 4 --batch-size 32 --lr 0.003 --label-smoothing 0.2 --out run");
    assert_eq!(run(folder, &train).0, 0);

    let model = "--model run/model.safetensors --device cpu";
    let fresh = "--limit-train 240";
    let found = json(folder, &format!("calibrate {model} {fresh} --val-images 100 --batch-size 37"));
    let (train, test) = Digits { train: 240, test: 60, ..Digits::default() }.generate();
    let pixels = train.pixels();
    let last = |n: usize| Dataset {
        images: train.images[(240 - n) * pixels..].to_vec(),
        labels: train.labels[240 - n..].to_vec(),
        files: vec![],
        ..train
    };
    let validation = last(100);
    let (of_validation, of_test) = (logits(folder, &validation), logits(folder, &test));
    let expected = fit(&of_validation, &validation.labels, 10).unwrap();
    let t = number(&found, "temperature");
    close(t / expected.value, 1.0, 1e-4, "temperature");
    assert!((t - 1.0).abs() > 0.01, "{t}: this model should need a temperature, or the test says nothing");
    assert_eq!(found["end"], "minimum");
    let ends = interval(&of_validation, &validation.labels, 10, expected.value);
    for (found, expected) in found["interval"].as_array().unwrap().iter().zip(ends) {
        close(found.as_f64().unwrap() / expected, 1.0, 1e-3, "interval");
    }
    let crossed = cross_fit(Method::Temperature, &of_validation, &validation.labels, 10).unwrap().nll;
    close(number(&found, "nll_cross_fitted"), crossed, 1e-4, "cross-fitted");
    assert!(crossed > expected.nll_after);
    for (key, logits, labels) in [("validation", &of_validation, &validation.labels), ("test", &of_test, &test.labels)]
    {
        let set = &found[key];
        let before = evaluate(logits, labels, 10, Smoothing::NONE);
        let after = evaluate(&apply(logits, t), labels, 10, Smoothing::NONE);
        assert_eq!(number(set, "images"), labels.len() as f64);
        for (name, value) in
            [("nll_before", before.nll), ("nll_after", after.nll), ("ece_before", before.ece), ("ece_after", after.ece)]
        {
            close(number(set, name), value, 1e-5, &format!("{key} {name}"));
        }
    }
    assert!(number(&found["validation"], "nll_after") < number(&found["validation"], "nll_before"));

    // The file, and what eval makes of it and of the number in it.
    assert_eq!(found["file"], "run/temperature.toml");
    let text = std::fs::read_to_string(folder.join("run/temperature.toml")).unwrap();
    // The weights alone, away from their run, answer as the run does.
    std::fs::copy(folder.join("run/model.safetensors"), folder.join("alone.safetensors")).unwrap();
    let answers = |model: &str| run(folder, &format!("predict --device cpu --limit-test 20 --model {model}")).1;
    assert_eq!(answers("alone.safetensors"), answers("run"));
    assert_ne!(answers("alone.safetensors"), answers("alone.safetensors --temperature 1"));
    let file: toml::Table = text.parse().unwrap();
    assert_eq!((file["temperature"].as_float(), file["val-images"].as_integer()), (Some(t), Some(100)));
    let plain = json(folder, &format!("eval {model}"));
    let by_file = json(folder, &format!("eval {model} --temperature run/temperature.toml --logits logits.safetensors"));
    let by_number = json(folder, &format!("eval {model} --temperature {t}"));
    assert_eq!(by_file, by_number);
    assert!(plain.get("temperature").is_none() && number(&by_file, "temperature") == t);
    assert_eq!(number(&plain, "accuracy"), number(&by_file, "accuracy"));
    for (report, when) in [(&plain, "before"), (&by_file, "after")] {
        for key in ["nll", "ece"] {
            // Batches of other sizes round otherwise.
            let expected = number(&found["test"], &format!("{key}_{when}"));
            close(number(report, key), expected, 1e-5, &format!("{key} {when}"));
        }
    }
    // The logits on file are those of the model, whatever they are measured at.
    let (saved, _) = checkpoint::load(&folder.join("logits.safetensors"), &[("logits".into(), vec![60, 10])]).unwrap();
    for (saved, expected) in saved[0].iter().zip(&of_test) {
        close(*saved, *expected, 1e-4, "logit");
    }

    // A tenth of the training set is the default, and another file is a matter of asking.
    let tenth = json(folder, &format!("calibrate {model} {fresh} --out other.toml"));
    assert_eq!(number(&tenth["validation"], "images"), 24.0);
    assert_eq!(tenth["file"], "other.toml");
    assert!(folder.join("other.toml").exists());
    assert_eq!(std::fs::read_to_string(folder.join("run/temperature.toml")).unwrap(), text);
    let (code, out, _) = run(folder, &format!("calibrate {model} {fresh} --out other.toml"));
    assert!(code == 0 && out.contains("test (report only)"), "{out}");

    for (line, code, says) in [
        (
            "calibrate --limit-train 240 --val-images 241",
            2,
            "--val-images: found 241, expected at most the 240 training images",
        ),
        ("calibrate --limit-train 240 --val-images 0", 2, "at least 1"),
        ("eval --temperature -1", 2, "--temperature: found -1, expected a temperature from 0.001 to 1000"),
        ("eval --temperature none.toml", 4, "none.toml: "),
        ("eval --temperature run/config.toml", 4, "temperature"),
    ] {
        let (found, out, err) = run(folder, &format!("{line} {model}"));
        assert!(found == code && out.is_empty() && err.contains(says), "{line}: {found} {out}{err}");
    }
    // That the images must be new to the model is for the user to see to: the help has to say so.
    assert!(run(folder, "calibrate --help").1.contains("makes the fit optimistic"));
    measures(folder, model, &of_test, &test.labels);
}

/// Catches keys that are missing or hold another measure, and intervals of other numbers than those reported.
fn measures(folder: &Path, model: &str, logits: &[f64], labels: &[u32]) {
    let smoothing = Smoothing::new(Variant::Uniform, 0.2, 10).unwrap();
    let expected = serde_json::to_value(evaluate(logits, labels, 10, smoothing)).unwrap();
    let found = json(folder, &format!("eval {model} --bootstrap 200"));
    let expected = expected.as_object().unwrap();
    assert_eq!(expected.len(), 16);
    for (key, value) in expected {
        close(number(&found, key), value.as_f64().unwrap(), 1e-5, key);
    }
    let perfection = Perfection::of(&predictions(logits, labels, 10, Smoothing::NONE));
    close(number(&found, "ece_debiased"), perfection.ece_debiased, 1e-4, "ece_debiased");
    close(number(&found, "smece"), perfection.smece, 1e-4, "smece");
    close(number(&found, "calibrated_p"), perfection.calibrated_p, 0.01, "calibrated_p");
    let rankings = Rankings::of(logits, labels, 10);
    close(number(&found, "aurc_max_logit"), rankings.aurc_max_logit, 1e-5, "aurc_max_logit");
    close(number(&found, "aurc_normalised"), rankings.aurc_normalised.unwrap(), 1e-5, "aurc_normalised");
    assert_eq!(number(&found, "bootstrap"), 200.0);
    for key in ["accuracy", "nll"] {
        let (interval, value) = (&found[format!("{key}_interval")], number(&found, key));
        let (low, high) = (number(interval, "low"), number(interval, "high"));
        assert!(low < value && value < high && high - low < value, "{key}: {value} in {interval}");
    }
    // A resample's calibration error is on average above the set's: only the upper end is sure.
    assert!(number(&found["ece_interval"], "high") > number(&found, "ece"));
    assert_eq!(found, json(folder, &format!("eval {model} --bootstrap 200")));
    let plain = json(folder, &format!("eval {model}"));
    assert!(plain.get("bootstrap").is_none() && plain.get("ece_interval").is_none());

    let (_, text, _) = run(folder, &format!("eval {model} --bootstrap 200"));
    assert_eq!(text.lines().filter(|line| line.contains("(95 %: ")).count(), 3, "{text}");
    let aurc = text.lines().find(|line| line.starts_with("aurc ")).unwrap();
    let verdict = if perfection.could_be() { "calibrated       yes" } else { "calibrated       no" };
    assert!(text.lines().any(|line| line.starts_with(verdict)), "{text}");
    close(aurc[16..].trim().parse().unwrap(), number(&found, "aurc"), 1e-6, "aurc in text");
}

/// Catches weights that are not applied by one of those that answer, are lost in an export, or are written where they
/// do not help.
#[test]
fn vector_scaling_is_written_where_it_helps_and_applied_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let data = "--data digits --device cpu --limit-train 800 --limit-test 200 --val-split 0.4 --epochs 1";
    // A network that sees one class everywhere: its bias is what has to be mended.
    let skewed = format!("train {data} --class-weights 40,1,1,1,1,1,1,1,1,1 --out skewed");
    assert_eq!(run(folder, &skewed).0, 0);
    let (code, out, err) = run(folder, "calibrate skewed --device cpu --method vector");
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("vector scaling (weights ") && out.contains(" with a temperature, "), "{out}");
    let found = json(folder, "calibrate skewed --device cpu --method vector");
    assert!(number(&found, "nll_cross_fitted") < number(&found, "nll_of_temperature"), "{found}");
    assert_eq!((&found["method"], found["biases"].as_array().unwrap().len()), (&"vector".into(), 10));
    assert!(found["biases"][0].as_f64().unwrap() < -0.5, "{found}");
    let file: toml::Table = std::fs::read_to_string(folder.join("skewed/temperature.toml")).unwrap().parse().unwrap();
    let after = number(&found["validation"], "nll_after");
    close(file["nll-after"].as_float().unwrap(), after, 1e-12, "the file's nll");

    let eval = "eval --model skewed --device cpu";
    let [plain, scaled] =
        ["", " --temperature skewed/temperature.toml"].map(|flag| json(folder, &format!("{eval}{flag}")));
    close(number(&scaled, "nll"), number(&found["test"], "nll_after"), 1e-5, "nll");
    assert!(number(&scaled, "accuracy") > number(&plain, "accuracy"), "answers change, and for the better");
    assert_eq!(scaled["vector_scaling"]["weights"], found["weights"]);
    assert!(scaled.get("temperature").is_none());
    let answers = |model: &str| run(folder, &format!("predict --device cpu --limit-test 20 --model {model}"));
    let (_, of_run, notes) = answers("skewed");
    assert!(notes.contains("model: vector scaling (weights "), "{notes}");
    assert_ne!(of_run, answers("skewed --temperature 1").1);
    let best = run_folder_file(folder);
    std::fs::copy(folder.join("skewed").join(best), folder.join("alone.safetensors")).unwrap();
    assert_eq!(answers("alone.safetensors").1, of_run);
    assert_eq!(run(folder, "export pytorch skewed --out module").0, 0);
    assert_eq!(answers("module/model.safetensors").1, of_run);
    assert_eq!(run(folder, "export hf skewed --out hub").0, 0);
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("hub/config.json")).unwrap()).unwrap();
    assert_eq!(config["vector_scaling"]["biases"], found["biases"]);

    // Of other classes, it is no scaling of this model; and a temperature takes its place.
    let other = "temperature = 1.0\nweights = [1.0, 1.0]\nbiases = [0.0, 0.0]\n";
    std::fs::write(folder.join("other.toml"), other).unwrap();
    for command in ["eval", "predict"] {
        let (code, _, err) = run(folder, &format!("{command} --model skewed --device cpu --temperature other.toml"));
        assert!(code == 1 && err.contains("2 weights and 2 biases, expected one of each for the 10 classes"), "{err}");
    }
    let temperature = json(folder, "calibrate skewed --device cpu");
    assert_eq!(json(folder, "calibrate --model skewed --device cpu"), temperature);
    let (code, _, err) = run(folder, "calibrate --model skewed --device cpu --limit-train 800");
    assert!(code == 1 && err.contains("the first 800 were its own"), "{err}");
    assert!(answers("skewed").2.contains("model: temperature "));
    assert!(!std::fs::read_to_string(folder.join("skewed/temperature.toml")).unwrap().contains("biases"));

    // Few images and nothing to mend: refused, and nothing changes.
    assert_eq!(run(folder, "train --data digits --device cpu --limit-train 120 --val-split 0.3 --out few").0, 0);
    let (code, out, err) = run(folder, "calibrate few --device cpu --method vector");
    assert!(code == 1 && out.is_empty() && err.contains("--method temperature writes"), "{code} {out}{err}");
    assert!(!folder.join("few/temperature.toml").exists());
}

/// Whose weights answer for the run.
fn run_folder_file(folder: &Path) -> &'static str {
    if folder.join("skewed/best.safetensors").exists() { "best.safetensors" } else { "model.safetensors" }
}
