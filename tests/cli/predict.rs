//! A model's answers: about a data set, as a table, and about pictures.

use std::fs;

use smoothcnn::measure::conformal::{Calibration, Score};
use smoothcnn::train::conformal_file::ConformalFile;
use tempfile::tempdir;

use super::{TRAIN, assert_fails, json_lines, number, pictures, run, stderr, stdout};

/// Catches answers that are not those that `eval` measures, a temperature that changes an answer or is not applied, and
/// probabilities that are none.
#[test]
fn answers_are_those_that_eval_measures() {
    let dir = tempdir().unwrap();
    run(dir.path(), &format!("{TRAIN} --epochs 1 --out run")).success();
    let model = "--model run/model.safetensors --limit-test 40 --device cpu";
    let table = |extra: &str| -> Vec<Vec<f64>> {
        let done = run(dir.path(), &format!("predict {model} {extra}")).success();
        let text = stdout(&done);
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(
            reader.headers().unwrap().iter().take(5).collect::<Vec<_>>(),
            ["image", "label", "answer", "confidence", "p0"]
        );
        reader.deserialize().collect::<Result<_, _>>().unwrap()
    };
    for extra in ["", "--temperature 0.5"] {
        let rows = table(extra);
        assert_eq!(rows.len(), 40);
        let eval = run(dir.path(), &format!("eval {model} --json {extra}")).success();
        let measured = &json_lines(&stdout(&eval))[0];
        let right = rows.iter().filter(|row| row[1] == row[2]).count() as f64 / 40.0;
        assert_eq!(right, number(measured, "accuracy"), "{extra}");
        let nll = rows.iter().map(|row| -row[4 + row[1] as usize].ln()).sum::<f64>() / 40.0;
        assert!((nll - number(measured, "nll")).abs() < 1e-9, "{extra}: {nll} {measured}");
        for (i, row) in rows.iter().enumerate() {
            assert_eq!((row[0], row.len()), (i as f64, 14));
            assert!((row[4..].iter().sum::<f64>() - 1.0).abs() < 1e-12, "{row:?}");
            assert_eq!(row[3], row[4 + row[2] as usize], "{row:?}");
        }
    }
    let answers = |rows: Vec<Vec<f64>>| rows.iter().map(|row| row[2]).collect::<Vec<_>>();
    assert_eq!(answers(table("")), answers(table("--temperature 0.5")));
    run(dir.path(), &format!("predict {model} --out answers.csv")).success();
    assert_eq!(std::fs::read_to_string(dir.path().join("answers.csv")).unwrap().lines().count(), 41);
    assert_fails(run(dir.path(), &format!("predict {model} --temperature 0")), 2, &["--temperature", "found 0"]);
    assert_fails(run(dir.path(), "predict --model nowhere.safetensors --device cpu"), 4, &["nowhere.safetensors"]);
}

/// A model file alone answers pictures as its run answers the data set: the same classes with the same probabilities,
/// by name.
#[test]
fn pictures_are_answered_as_the_data_set_is() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let [_, test] = pictures::digits(&dir.join("mine"), 200, 60);
    run(dir, "train --device cpu --data mine --epochs 1 --batch-size 32 --out run").success();
    let table = stdout(&run(dir, "predict --model run --device cpu").success());
    let rows: Vec<Vec<String>> =
        table.lines().skip(1).map(|line| line.split(',').map(String::from).collect()).collect();
    // Away from its run, and from its data.
    fs::copy(dir.join("run/model.safetensors"), dir.join("alone.safetensors")).unwrap();
    fs::rename(dir.join("mine/test"), dir.join("unseen")).unwrap();
    fs::remove_dir_all(dir.join("run")).unwrap();
    fs::remove_dir_all(dir.join("mine")).unwrap();
    let predict = |args: &str| run(dir, &format!("predict --model alone.safetensors --device cpu {args}"));
    let assert = predict("unseen --json --topk 10").success();
    let lines = json_lines(&stdout(&assert));
    assert_eq!(lines.len(), 60);
    let notes = stderr(&assert).join("\n");
    assert!(notes.contains("model: alone.safetensors") && notes.contains("pictures: grey of 28x28, cut"), "{notes}");
    for line in &lines {
        let file = line["file"].as_str().unwrap();
        let index: usize = file.rsplit('/').next().unwrap().split('.').next().unwrap().parse().unwrap();
        assert!(file.starts_with(&format!("unseen/digit {}/", test.labels[index])), "{file}");
        let row = &rows[index];
        assert_eq!(line["class"], format!("digit {}", row[2]));
        assert_eq!(line["probability"].as_f64().unwrap().to_string(), row[3]);
        let top = line["top"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["class"]), (10, &line["class"]));
        let sorted: Vec<f64> = top.iter().map(|top| top["probability"].as_f64().unwrap()).collect();
        assert!(sorted.is_sorted_by(|a, b| a >= b) && (sorted.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{sorted:?}");
    }
    // A pattern that a shell would leave, a table, text.
    predict("unseen/digit*3/*.png --topk 2 --out x.csv").success();
    let table = fs::read_to_string(dir.join("x.csv")).unwrap();
    assert!(table.starts_with("file,class,probability,class2,probability2\nunseen/digit 3/"), "{table}");
    let text = stdout(&predict("unseen").success());
    assert_eq!(text.lines().count(), 60);
    let first = format!(
        "{}  {}  {:.4}",
        lines[0]["file"].as_str().unwrap(),
        lines[0]["class"].as_str().unwrap(),
        number(&lines[0], "probability")
    );
    assert_eq!(text.lines().next(), Some(&first[..]));
    // Sets of pictures are those of the same images in the data set.
    let weights = dir.join("alone.safetensors");
    let probabilities = |row: &[String]| row[4..14].iter().map(|p| p.parse().unwrap()).collect::<Vec<f64>>();
    let all: Vec<f64> = rows.iter().flat_map(|row| probabilities(row)).collect();
    let file = ConformalFile::new(&weights, &all, &test.labels, 10).unwrap();
    file.write(&weights).unwrap();
    let kept = Calibration::new(Score::Aps, &all, &test.labels, 10);
    let with_sets = json_lines(&stdout(&predict("unseen --json --coverage 0.7 --score aps").success()));
    for line in &with_sets {
        let name = line["file"].as_str().unwrap().rsplit('/').next().unwrap();
        let index: usize = name.split('.').next().unwrap().parse().unwrap();
        let expected = kept.set(&probabilities(&rows[index]), kept.threshold(0.7));
        let expected: Vec<String> = expected.iter().map(|class| format!("digit {class}")).collect();
        assert_eq!(line["set"], serde_json::json!(expected), "{name}");
    }
    let text = stdout(&predict("unseen --coverage 0.7").success());
    assert!(text.lines().all(|line| line.contains("  one of: digit ")), "{text}");
    let table = stdout(&predict("unseen --coverage 0.7 --out s.csv").success());
    assert!(
        table.is_empty() && fs::read_to_string(dir.join("s.csv")).unwrap().starts_with("file,class,probability,set\n")
    );
    // A temperature changes how sure it is, and nothing else.
    let flat = json_lines(&stdout(&predict("unseen --json --temperature 100").success()));
    assert!(lines.iter().zip(&flat).all(|(line, flat)| line["class"] == flat["class"]));
    assert!(flat.iter().all(|flat| number(flat, "probability") < 0.2));

    // Of many files each is answered, whatever the others are.
    fs::write(dir.join("unseen/digit 0/aa.png"), "no picture").unwrap();
    let assert = predict("unseen --json");
    assert_eq!(json_lines(&stdout(&assert)).len(), 60);
    assert_fails(
        assert,
        4,
        &["unseen/digit 0/aa.png: found another kind of file", "1 of 61 files could not be answered"],
    );
    assert_fails(predict("unseen/none.png"), 4, &["unseen/none.png: found nothing there"]);
    assert_fails(predict("unseen/x*.png"), 4, &["found no file that the pattern fits"]);
    assert_fails(predict("unseen --data digits"), 2, &["--data: found with pictures, which leaves it no effect"]);
    assert_fails(predict(""), 4, &["mine"]);
}

/// Catches sets that are not those of `calibrate`'s images, sets without the answer, and sets of other weights.
#[test]
fn sets_hold_what_calibrate_promises() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let train = "train --device cpu --limit-train 400 --limit-test 400 --epochs 2 --batch-size 32 --val-split 0.4";
    run(dir, &format!("{train} --out run")).success();
    let predict = |args: &str| run(dir, &format!("predict --device cpu {args}"));
    assert_fails(predict("--model run --coverage 0.9"), 4, &["run/conformal.json: found no such file", "calibrate"]);
    let told = json_lines(&stdout(&run(dir, "calibrate run --device cpu --json --coverage 0.8").success()));
    let sets = told[0]["sets"].as_array().unwrap();
    assert_eq!(sets.len(), 3);
    for (sets, score) in sets.iter().zip(["lac", "aps", "raps"]) {
        let of = &sets["plain"];
        assert_eq!((&sets["promised"], &of["score"]), (&0.8.into(), &score.into()));
        let table = stdout(&predict(&format!("--model run --coverage 0.8 --score {score}")).success());
        let mut reader = csv::Reader::from_reader(table.as_bytes());
        assert_eq!(reader.headers().unwrap().iter().next_back(), Some("set"));
        let (mut covered, mut size, mut images) = (0, 0, 0);
        for row in reader.records().map(Result::unwrap) {
            let set: Vec<&str> = row[row.len() - 1].split(';').collect();
            assert_eq!(set[0], &row[2], "the answer comes first");
            (covered, size, images) = (covered + usize::from(set.contains(&&row[1])), size + set.len(), images + 1);
        }
        assert_eq!(images, 400);
        assert!((covered as f64 / 400.0 - number(&of["all"], "coverage")).abs() < 1e-12, "{score}: {covered} {of}");
        assert!((size as f64 / 400.0 - number(&of["all"], "size")).abs() < 1e-12, "{score}: {size} {of}");
        // Of 160 images held out and 400 others: four deviations.
        assert!(covered as f64 / 400.0 > 0.8 - 4.0 * 0.4 * (1.0f64 / 160.0 + 1.0 / 400.0).sqrt(), "{score}: {covered}");
    }
    let text = stdout(&run(dir, "calibrate run --device cpu").success());
    assert!(text.contains("sets of classes") && text.contains("lac "), "{text}");
    for args in ["--model run --coverage 1", "--model run --coverage -0.1", "--model run --score aps"] {
        predict(args).code(2);
    }
    run(dir, "train --resume run --device cpu --epochs 3").success();
    let other = ["conformal.json: found scores of other weights", "calibrate"];
    assert_fails(predict("--model run --coverage 0.8 --temperature 1"), 4, &other);
    fs::write(dir.join("run/conformal.json"), "[]").unwrap();
    assert_fails(run(dir, "calibrate run --device cpu"), 4, &["conformal.json: found a file that is not of"]);
}

/// What `calibrate` left in a run is applied to the run's answers, and said.
#[test]
fn a_runs_temperature_is_applied_and_said() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    pictures::digits(&dir.join("mine"), 200, 60);
    run(dir, "train --device cpu --data mine --epochs 2 --batch-size 32 --val-split 0.3 --out run").success();
    let probability = |args: &str| {
        let assert = run(dir, &format!("predict --device cpu --json mine/test {args}")).success();
        (number(&json_lines(&stdout(&assert))[0], "probability"), stderr(&assert).join("\n"))
    };
    let (plain, notes) = probability("--model run");
    assert!(!notes.contains("temperature") && notes.contains("run/best.safetensors"), "{notes}");
    fs::write(dir.join("run/temperature.toml"), "temperature = 2.5").unwrap();
    let (scaled, notes) = probability("--model run");
    assert!(notes.contains("; temperature 2.5"), "{notes}");
    assert!(scaled < plain, "{scaled} {plain}");
    assert_eq!(probability("--model run/best.safetensors --temperature 2.5").0, scaled);
    assert_eq!(probability("--model run/best.safetensors").0, plain);
    // The same answer, whichever way the image is asked for.
    let of_data = |args: &str| {
        let assert = run(dir, &format!("predict --device cpu {args}")).success();
        let text = stdout(&assert);
        let row = text.lines().nth(1).unwrap().split(',').nth(3).unwrap().parse::<f64>().unwrap();
        (row, stderr(&assert).join("\n"))
    };
    let image = first_picture(dir);
    let (table, notes) = of_data("--model run");
    assert!(notes.contains("model: temperature 2.5000, which `calibrate` found"), "{notes}");
    let picture = run(dir, &format!("predict --device cpu --json --model run {image}")).success();
    assert!((number(&json_lines(&stdout(&picture))[0], "probability") - table).abs() < 1e-6, "{image}");
    assert!(of_data("--model run/best.safetensors").0 > table);
    // A temperature of other weights, as where the run went on, is not applied.
    let other = format!("temperature = 2.5\nweights-sha256 = \"{}\"", "0".repeat(64));
    fs::write(dir.join("run/temperature.toml"), other).unwrap();
    let parts = ["temperature.toml: found a temperature of other weights", "`smoothcnn calibrate`"];
    assert_fails(run(dir, "predict --device cpu --model run mine/test"), 4, &parts);
    assert_fails(run(dir, "export onnx run"), 4, &parts);
    assert_eq!(probability("--model run --temperature 1").0, plain);
    run(dir, "report --device cpu run").success();
    let page = fs::read_to_string(dir.join("run/report.html")).unwrap();
    assert!(page.contains("Without a temperature: found a temperature of other weights"), "{page}");
}

/// Catches a class whose name tells the terminal to do something, or breaks a line.
#[cfg(unix)]
#[test]
fn names_do_nothing_to_a_terminal() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    pictures::digits(&dir.join("mine"), 200, 60);
    for set in ["train", "test"] {
        let [from, to] = ["digit 3", "do\x1b[31mg\nnew"].map(|class| dir.join("mine").join(set).join(class));
        fs::rename(from, to).unwrap();
    }
    run(dir, "train --device cpu --data mine --epochs 1 --batch-size 32 --out run").success();
    for args in ["predict --device cpu --model run mine/test", "eval --device cpu --model run", "data info mine"] {
        let text = stdout(&run(dir, args).success());
        assert!(!text.contains('\x1b') && text.contains("do\\u{1b}"), "{args}: {text}");
    }
}

/// The picture of the first test image, as one word of a line.
fn first_picture(dir: &std::path::Path) -> String {
    let first = (0..10).map(|class| dir.join(format!("mine/test/digit {class}/00000.png"))).find(|path| path.is_file());
    fs::copy(first.unwrap(), dir.join("first.png")).unwrap();
    "first.png".into()
}
