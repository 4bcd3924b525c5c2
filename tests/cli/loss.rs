//! The flags of the loss: each does something, is recorded, goes on after --resume, and is refused where it makes no
//! sense.

use std::fs;
use std::path::Path;

use smoothcnn::train::checkpoint::{self, Dtype, Metadata, Tensor};
use tempfile::{TempDir, tempdir};

use super::{TRAIN, assert_fails, json_lines, metrics, number, read_tensors, run, stderr, stdout};

/// An IDX file of bytes.
fn write_idx(path: &Path, dims: &[u32], bytes: &[u8]) {
    let header = [0, 0, 8, dims.len() as u8].into_iter().chain(dims.iter().flat_map(|d| d.to_be_bytes()));
    fs::write(path, header.chain(bytes.iter().copied()).collect::<Vec<_>>()).unwrap();
}

/// A folder with what the flags name: a prior, weights, votes of ten raters for each of 80 images, a teacher.
fn folder() -> TempDir {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("prior.txt"), "1 2 3 4 5\n6,7,8,9,10\n").unwrap();
    fs::write(dir.path().join("weights.txt"), "1 1 1 1 1 2 2 2 2 2").unwrap();
    let votes = |i: usize| (0..10).map(move |k| if k == i * 7 % 10 { 8 } else { u8::from(k == (i + 3) % 10) });
    write_idx(&dir.path().join("votes"), &[80, 10], &(0..80).flat_map(votes).collect::<Vec<_>>());
    run(dir.path(), &format!("{TRAIN} --epochs 1 --seed 9 --mean 0.4 --out teacher")).success();
    dir
}

/// Every form, by its flags.
const FORMS: [&str; 22] = [
    "",
    "--label-smoothing -0.2 --allow-negative-smoothing",
    "--smoothing-variant prior --smoothing-prior prior.txt",
    "--smoothing-variant prior --smoothing-prior unigram",
    "--smoothing-schedule warmup",
    "--smoothing-schedule warmup --smoothing-epochs 1",
    "--smoothing-schedule decay",
    "--class-weights weights.txt",
    "--class-weights 1,1,1,1,1,2,2,2,2,2 --class-weighting sample",
    "--ignore-index 3",
    "--class-mask 1,2,4,5",
    "--soft-labels votes",
    "--soft-labels votes --label-smoothing 0",
    "--teacher teacher/model.safetensors",
    "--teacher teacher/model.safetensors --distill-temperature 2 --distill-alpha 0.4 --smoothing-schedule decay",
    "--loss focal",
    "--loss focal --focal-gamma 0.5",
    "--loss confidence-penalty --confidence-beta 0.3",
    "--loss maxsup",
    "--loss maxsup --label-smoothing 0.3 --smoothing-schedule warmup",
    "--loss mbls --mbls-margin 0.1",
    "--loss mbls --mbls-margin 0.1 --mbls-lambda 0.5",
];

/// Catches a flag that is read and changes nothing, and one that a resumed run forgets: every form leaves other
/// weights, and the same as in one go where it is stopped between its epochs.
#[test]
fn every_form_trains_and_goes_on_where_it_stopped() {
    let dir = folder();
    let mut seen: Vec<(&str, Vec<u8>)> = vec![];
    for (i, flags) in FORMS.into_iter().enumerate() {
        let (whole, parts) = (format!("whole{i}"), format!("parts{i}"));
        run(dir.path(), &format!("{TRAIN} --epochs 2 --out {whole} {flags}")).success();
        let model = |run: &str| fs::read(dir.path().join(run).join("model.safetensors")).unwrap();
        // The length of a schedule follows from the run's epochs unless it is given.
        let length = match flags.contains("schedule") && !flags.contains("epochs") {
            true => "--smoothing-epochs 2",
            false => "",
        };
        run(dir.path(), &format!("{TRAIN} --epochs 1 --out {parts} {flags} {length}")).success();
        run(dir.path(), &format!("train --device cpu --resume {parts} --epochs 2")).success();
        assert!(model(&whole) == model(&parts), "{flags:?}: a resumed run is another one");
        let bytes: Vec<u8> = read_tensors(&dir.path().join(&whole).join("model.safetensors"))
            .0
            .into_values()
            .flat_map(|(_, _, bytes)| bytes)
            .collect();
        let same = seen.iter().find(|(_, other)| *other == bytes);
        assert!(same.is_none(), "{flags:?} gives the weights of {:?}", same.map(|(flags, _)| flags));
        seen.push((flags, bytes));
    }
}

/// Catches a form that the GPU path trains otherwise: after an epoch the figures are the CPU path's, up to rounding. A
/// flag for each kernel; that each form is right on each path is for the library's tests.
#[test]
fn the_gpu_trains_alike() {
    let dir = folder();
    let forms = [
        "--label-smoothing -0.2 --allow-negative-smoothing --ignore-index 3",
        "--smoothing-variant prior --smoothing-prior prior.txt --smoothing-schedule warmup --class-mask 1,2,4,5",
        "--class-weights weights.txt",
        "--soft-labels votes",
        "--teacher teacher/model.safetensors",
        "--loss focal",
        "--loss maxsup",
        "--loss mbls --mbls-margin 0.1",
    ];
    for (i, flags) in forms.into_iter().enumerate() {
        for device in ["cpu", "gpu"] {
            let train = TRAIN.replace("cpu", device);
            run(dir.path(), &format!("{train} --epochs 1 --out {device}{i} {flags}")).success();
        }
        let [cpu, gpu] =
            ["cpu", "gpu"].map(|device| metrics(&dir.path().join(format!("{device}{i}")), "epoch").remove(0));
        for key in ["train_loss", "train_nll", "train_excess_loss", "test_nll"] {
            match (cpu[key].as_f64(), gpu[key].as_f64()) {
                (Some(a), Some(b)) => assert!((a - b).abs() <= 2e-3, "{flags:?}: {key} {a} and {b}"),
                // There is no excess over a bound that is not there.
                (a, b) => assert!(a.is_none() && b.is_none() && flags.contains("negative"), "{flags:?}: {key}"),
            }
        }
    }
}

/// Catches an epsilon that is not named, or figures that do not belong together: the excess is the loss above the mean
/// entropy of the targets at their steps' epsilons, and plain cross-entropy's loss is the nll.
#[test]
fn epochs_name_their_epsilon_and_three_figures() {
    let dir = tempdir().unwrap();
    let flags = "--epochs 4 --label-smoothing 0.3 --smoothing-schedule decay --smoothing-epochs 3";
    let done = run(dir.path(), &format!("{TRAIN} {flags} --out run")).success();
    // Three steps an epoch: the last ones' times are 2, 5, 8 and 11 of 9.
    for (line, time) in metrics(&dir.path().join("run"), "epoch").iter().zip([2.0, 5.0, 8.0, 11.0]) {
        let e = 0.3 * (1.0 - f64::min(time, 9.0) / 9.0);
        assert!((number(line, "label_smoothing") - e).abs() < 1e-12, "{line}");
        let term = |q: f64| if q == 0.0 { 0.0 } else { -q * q.ln() };
        let entropy = |time: f64| {
            let e = 0.3 * (1.0 - time.min(9.0) / 9.0);
            term(1.0 - 0.9 * e) + 9.0 * term(e / 10.0)
        };
        let mean = (32.0 * entropy(time - 2.0) + 32.0 * entropy(time - 1.0) + 16.0 * entropy(time)) / 80.0;
        let least = number(line, "train_loss") - number(line, "train_excess_loss");
        assert!((least - mean).abs() < 1e-12, "{line}");
        let plain = (number(line, "train_loss") - number(line, "train_nll")).abs() < 1e-12;
        assert_eq!(plain, e == 0.0, "{line}");
        assert!(line.get("test_loss").is_none(), "a validation is unsmoothed: {line}");
    }
    let said = stderr(&done).join("\n");
    assert!(said.contains("label smoothing 0.3 uniform") && said.contains("falling to 0 over 3 epochs"), "{said}");
    assert!(
        stdout(&done).starts_with("epoch       e  train loss     nll  excess  test nll  accuracy     ece  images/s\n")
    );
}

/// Catches an ignored image that counts: in IDX files and in labels that replace them a number that is no class is
/// taken where it is ignored, and only there; and a training in which nothing counts that is taken for one.
#[test]
fn ignored_labels_count_for_nothing() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let images: Vec<u8> = (0..48 * 64u32).map(|i| (i * i % 251) as u8).collect();
    let labels: Vec<u8> = (0..48).map(|i| if i % 4 == 1 { 255 } else { i % 3 }).collect();
    for part in ["train", "t10k"] {
        write_idx(&data.join(format!("{part}-images-idx3-ubyte")), &[48, 8, 8], &images);
        write_idx(&data.join(format!("{part}-labels-idx1-ubyte")), &[48], &labels);
    }
    let train = "train --data mnist --device cpu --epochs 1 -b 12";
    assert_fails(run(dir.path(), &format!("{train} --out run")), 4, &["index 1 is 255", "below 10"]);
    let done = run(dir.path(), &format!("{train} --ignore-index 255 --val-split 0.25 --out run")).success();
    let said = stderr(&done).join("\n");
    assert!(said.contains("39 training (12 ignored), 9 validation and 36 test images"), "{said}");

    // The model knows what it was trained without, and a flag counts more.
    let model = "--data mnist --device cpu --model run/model.safetensors";
    let images = |flags: &str| {
        let done = run(dir.path(), &format!("eval {model} --json {flags}")).success();
        json_lines(&stdout(&done))[0]["images"].as_u64().unwrap()
    };
    assert_eq!((images(""), images("--ignore-index 255")), (36, 36));
    assert_fails(run(dir.path(), &format!("eval {model} --ignore-index 7")), 4, &["index 1 is 255", "below 10"]);
    run(dir.path(), "calibrate run --device cpu").success();
    // An image without a label has an answer all the same.
    let table = stdout(&run(dir.path(), &format!("predict {model}")).success());
    let labels: Vec<_> = table.lines().skip(1).map(|line| line.split(',').nth(1).unwrap()).collect();
    let expected = (0..48).map(|i| if i % 4 == 1 { String::new() } else { (i % 3).to_string() });
    assert_eq!(labels, expected.collect::<Vec<_>>());

    // A batch in which nothing counts has no loss, and with SGD it moves nothing; a training of such batches alone is
    // refused.
    let labels: Vec<u8> = (0..80).map(|i| if i < 32 { 200 } else { i % 10 }).collect();
    write_idx(&dir.path().join("late"), &[80], &labels);
    let flags = "--epochs 1 --ignore-index 200 --log-every 1 --no-shuffle --opt sgd";
    run(dir.path(), &format!("{TRAIN} {flags} --train-labels late --out late-run")).success();
    let losses = metrics(&dir.path().join("late-run"), "step").iter().map(|s| number(s, "loss")).collect::<Vec<_>>();
    assert!(losses[0] == 0.0 && losses[1] > 0.0 && losses[2] > 0.0, "{losses:?}");
    write_idx(&dir.path().join("nothing"), &[80], &[200; 80]);
    for more in ["", "--label-noise 1", "--val-split 0.5"] {
        let failed = run(dir.path(), &format!("{TRAIN} {flags} --train-labels nothing {more} --out idle"));
        assert_fails(failed, 2, &["--ignore-index", "none of 80 training images", "at least one"]);
    }
    for nothing in ["--class-weights 0,0,0,0,0,0,0,0,0,0", "--class-mask 3,4 --train-labels sevens"] {
        write_idx(&dir.path().join("sevens"), &[80], &[7; 80]);
        let failed = run(dir.path(), &format!("{TRAIN} {nothing} --out idle"));
        assert_fails(failed, 2, &["--class-mask or --class-weights", "expected at least one"]);
    }
    assert!(!dir.path().join("idle").exists());
}

/// Catches distributions that are another image's, in either kind of file: votes that all agree are labels.
#[test]
fn soft_labels_that_agree_are_labels() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --seed 3 --val-split 0.2 --out hard")).success();
    // The digits' labels, as the program has them.
    let labels = smoothcnn::data::digits::Digits { train: 100, ..Default::default() }.generate().0.labels;
    let one_hot: Vec<u8> = labels.iter().flat_map(|&y| (0..10).map(move |k| 9 * u8::from(k == y))).collect();
    write_idx(&dir.path().join("votes"), &[100, 10], &one_hot);
    let data = one_hot.iter().map(|&v| f64::from(v) / 9.0).collect();
    let tensor = Tensor { name: "soft".into(), shape: vec![100, 10], data };
    checkpoint::save(&dir.path().join("soft.safetensors"), &[tensor], Dtype::F32, &Metadata::new()).unwrap();
    let hard = metrics(&dir.path().join("hard"), "epoch").remove(0);
    for file in ["votes", "soft.safetensors"] {
        let args = format!("{TRAIN} --epochs 1 --seed 3 --val-split 0.2 --soft-labels {file} --out {file}-run");
        run(dir.path(), &args).success();
        let soft = metrics(&dir.path().join(format!("{file}-run")), "epoch").remove(0);
        for key in ["train_loss", "train_nll", "train_excess_loss", "val_nll"] {
            let (a, b) = (number(&hard, key), number(&soft, key));
            assert!((a - b).abs() < 1e-4, "{file}: {key} {a} and {b}");
        }
    }
}

/// Catches a teacher that is asked about other images, or about images normalised otherwise than it knows them: a
/// student that starts as its teacher and has only that to learn from is where it should be.
#[test]
fn a_teacher_has_nothing_to_teach_itself() {
    let dir = folder();
    // Only the teacher's mean is 0.4.
    let flags =
        "--teacher teacher/model.safetensors --init teacher/model.safetensors --distill-alpha 1 --val-split 0.2";
    run(dir.path(), &format!("{TRAIN} --epochs 1 --lr 0 --mean 0.4 {flags} --out same")).success();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --lr 0 {flags} --out other")).success();
    let loss = |run: &str| number(&metrics(&dir.path().join(run), "epoch")[0], "train_loss");
    assert!(loss("same").abs() < 1e-5 && loss("other") > 1e-5, "{} and {}", loss("same"), loss("other"));
}

/// Catches metrics over classes that took no part: of the others' images nothing is measured, and no answer is one of
/// them.
#[test]
fn a_class_mask_is_measured_as_a_smaller_problem() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --class-mask 3,7 --val-split 0.5 --out run")).success();
    let last = &metrics(&dir.path().join("run"), "test")[0];
    // Over two classes no confidence is below one half.
    assert!(number(last, "mean_confidence") > 0.5 && number(last, "images") == 8.0, "{last}");
    let eval = run(dir.path(), "eval --model run/model.safetensors --device cpu --limit-test 40 --json").success();
    let found = &json_lines(&stdout(&eval))[0];
    for key in ["images", "accuracy", "nll", "ece", "ece_classwise"] {
        assert!((number(found, key) - number(last, key)).abs() < 1e-6, "{key}: {found}, {last}");
    }
    // e = 0.1 over two classes.
    let entropy = -0.95 * f64::ln(0.95) - 0.05 * f64::ln(0.05);
    assert!((number(found, "loss") - number(found, "excess_loss") - entropy).abs() < 1e-12, "{found}");
    run(dir.path(), "calibrate run --device cpu").success();
}

/// Catches a run of before that cannot go on, or goes on otherwise: its config.toml says nothing of the loss or of the
/// kernels.
#[test]
fn an_older_configuration_is_plain_smoothing_on_the_usual_kernels() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 2 --out whole")).success();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    let path = dir.path().join("run/config.toml");
    let config = fs::read_to_string(&path).unwrap();
    assert!(!config.contains("[loss]"));
    let older = config.replace("kernels = \"fused\"\n", "");
    assert_ne!(older, config);
    fs::write(&path, older).unwrap();
    run(dir.path(), "train --device cpu --resume run --epochs 2").success();
    let model = |run: &str| fs::read(dir.path().join(run).join("model.safetensors")).unwrap();
    assert!(model("whole") == model("run"));
}

/// Catches a plan that knows fewer losses than training does, and one of other kernels than a loss needs, or without
/// its rows.
#[test]
fn every_form_has_a_plan() {
    let dir = folder();
    let images = 70;
    let plan = |flags: &str| {
        let done =
            run(dir.path(), &format!("plan --network small.toml --train-images {images} --json {flags}")).success();
        json_lines(&stdout(&done)).remove(0)
    };
    let plain = plan("");
    for flags in FORMS.into_iter().chain(["--class-weights balanced", "--soft-labels votes --kernels reference"]) {
        let plan = plan(flags);
        let general = ["prior", "class-weights", "class-mask", "soft-labels"].iter().any(|word| flags.contains(word));
        let shader = match flags {
            _ if flags.contains("maxsup") || flags.contains("mbls") => "logit_penalty",
            _ if flags.contains("--loss") => "comparator_loss",
            _ if flags.contains("--teacher") => "distillation_loss",
            _ if general => "weighted_loss",
            _ => "head",
        };
        let steps = plan["train"].as_array().unwrap();
        let kernels: Vec<_> = steps.iter().map(|step| step["kernel"].as_str().unwrap()).collect();
        let of_loss: Vec<_> = kernels
            .iter()
            .filter(|kernel| ["loss", "head", "penalty"].iter().any(|part| kernel.contains(part)))
            .collect();
        assert!(of_loss.len() == 1 && of_loss[0].starts_with(shader), "{flags}: {kernels:?}");
        assert_eq!(
            plan["infer"].as_array().unwrap().len() > plain["infer"].as_array().unwrap().len(),
            flags.contains("reference")
        );
        let rows = plan["buffers"].as_array().unwrap().iter().find(|buffer| buffer["name"] == "train.loss_rows");
        let has_rows = flags.contains("--soft-labels") || flags.contains("--teacher");
        assert_eq!(rows.map(|rows| number(rows, "bytes")), has_rows.then_some(f64::from(images * 10 * 4)), "{flags}");
    }
    assert_eq!(plan("--loss focal --focal-gamma 1.5")["loss"], "focal loss, gamma 1.5");
    assert_eq!(plan("--loss maxsup --label-smoothing 0.2")["loss"], "MaxSup, alpha 0.2");
    assert_eq!(plan("--loss mbls --mbls-margin 6")["loss"], "MbLS, lambda 0.1, margin 6");
    // What training refuses, and files that are too short for the images.
    for (flags, code, parts) in [
        ("--label-smoothing -0.1", 2, &["--label-smoothing", "found -0.1", "--allow-negative-smoothing"][..]),
        ("--loss focal --class-mask 1,2", 2, &["--class-mask", "--loss focal"]),
        ("--class-weights 1,2", 2, &["--class-weights", "found 2 weights", "expected 10"]),
        ("--classes 12 --soft-labels votes --train-images 9", 4, &["votes", "rows of 10", "expected 12"]),
        ("--soft-labels votes --train-images 81", 4, &["votes", "found 80 rows", "81 images"]),
        ("--soft-labels votes", 4, &["votes", "found 80 rows", "60000 images"]),
        ("--teacher none.safetensors", 4, &["none.safetensors", "no such file"]),
        ("--input 1x32x32 --teacher teacher/model.safetensors", 4, &["teacher", "fc1.weight", "expected [32, 512]"]),
    ] {
        assert_fails(run(dir.path(), &format!("plan --network small.toml {flags}")), code, parts);
    }
}

/// Catches combinations that are taken in silence: one line with the flag, what was found and what was expected.
#[test]
fn losses_that_make_no_sense_are_refused() {
    let dir = folder();
    fs::write(dir.path().join("short.txt"), "1 2 3").unwrap();
    fs::write(dir.path().join("words.txt"), "one two").unwrap();
    write_idx(&dir.path().join("sevens"), &[80], &[7; 80]);
    write_idx(&dir.path().join("few"), &[79, 10], &[1; 790]);
    write_idx(&dir.path().join("narrow"), &[80, 9], &[1; 720]);
    write_idx(&dir.path().join("empty"), &[80, 10], &[0; 800]);
    for (flags, code, parts) in [
        ("--label-smoothing -0.1", 2, &["--label-smoothing", "found -0.1", "--allow-negative-smoothing"][..]),
        ("--label-smoothing 1 --allow-negative-smoothing", 2, &["--label-smoothing", "found 1,", "below 1"]),
        ("--smoothing-variant prior", 2, &["--smoothing-variant", "found prior", "--smoothing-prior"]),
        ("--smoothing-prior unigram", 2, &["--smoothing-prior", "found unigram", "--smoothing-variant prior"]),
        ("--smoothing-variant prior --smoothing-prior none.txt", 4, &["none.txt", "expected 10 numbers"]),
        ("--smoothing-variant prior --smoothing-prior short.txt", 4, &["short.txt", "found 3", "expected 10"]),
        ("--smoothing-variant prior --smoothing-prior words.txt", 4, &["words.txt", "\"one\"", "expected 10"]),
        ("--smoothing-epochs 2", 2, &["--smoothing-epochs", "found 2", "--smoothing-schedule"]),
        ("--class-weighting sample", 2, &["--class-weighting", "found sample", "--class-weights"]),
        ("--class-weights 1,2", 2, &["--class-weights", "found 2 weights", "expected 10"]),
        ("--class-weights 1,1,1,1,1,1,1,1,1,-1", 2, &["--class-weights", "found -1 for class 9", "from 0 on"]),
        (
            "--class-weights balanced --train-labels sevens",
            2,
            &["--class-weights balanced", "no training image of class 0"],
        ),
        ("--class-mask 1,10", 2, &["--class-mask", "found class 10", "below 10"]),
        ("--class-mask 4", 2, &["--class-mask", "only class 4", "at least two"]),
        ("--loss focal --label-smoothing 0.1", 2, &["--label-smoothing", "--loss focal", "expected cross-entropy"]),
        ("--loss focal --class-mask 1,2", 2, &["--class-mask", "--loss focal", "expected cross-entropy"]),
        ("--loss confidence-penalty --soft-labels votes", 2, &["--soft-labels", "--loss confidence-penalty"]),
        ("--focal-gamma 2", 2, &["--focal-gamma", "found 2", "--loss focal"]),
        ("--loss focal --focal-gamma -1", 2, &["--focal-gamma", "found -1", "from 0 on"]),
        ("--loss focal --confidence-beta 1", 2, &["--confidence-beta", "found 1", "--loss confidence-penalty"]),
        ("--mbls-margin 6", 2, &["--mbls-margin", "found 6", "--loss mbls"]),
        ("--loss mbls --mbls-lambda -1", 2, &["--mbls-lambda", "found -1", "from 0 on"]),
        ("--loss mbls --label-smoothing 0.1", 2, &["--label-smoothing", "--loss mbls", "expected cross-entropy"]),
        ("--loss maxsup --label-smoothing 1", 2, &["--label-smoothing", "found 1", "[0, 1)"]),
        ("--loss maxsup --smoothing-variant off-target", 2, &["--smoothing-variant", "--loss maxsup"]),
        ("--soft-labels votes --label-noise 0.1", 2, &["--label-noise", "--soft-labels"]),
        ("--soft-labels votes --ignore-index 1", 2, &["--ignore-index", "--soft-labels"]),
        ("--teacher none.safetensors", 4, &["none.safetensors", "no such file"]),
        ("--distill-alpha 0.5", 2, &["--distill-alpha", "found 0.5", "--teacher"]),
        (
            "--teacher teacher/model.safetensors --distill-alpha 1.5",
            2,
            &["--distill-alpha", "found 1.5", "from 0 to 1"],
        ),
        ("--teacher teacher/model.safetensors --distill-temperature 0", 2, &["--distill-temperature", "above 0"]),
        ("--teacher teacher/model.safetensors --soft-labels votes", 2, &["--soft-labels", "--teacher"]),
        ("--teacher teacher/model.safetensors --loss focal", 2, &["--teacher", "--loss focal"]),
        ("--soft-labels nowhere", 4, &["nowhere", "no such file"]),
        ("--soft-labels few", 4, &["few", "found 79 rows", "80 images"]),
        ("--soft-labels narrow", 4, &["narrow", "rows of 9", "expected 10"]),
        ("--soft-labels empty", 4, &["empty", "row 0", "sum of 0"]),
        ("--soft-labels prior.txt", 4, &["prior.txt", "IDX counts"]),
    ] {
        assert_fails(run(dir.path(), &format!("{TRAIN} --epochs 1 --out run {flags}")), code, parts);
        assert!(!dir.path().join("run").exists(), "{flags}");
    }
}
