//! A model's answers as a table.

use tempfile::tempdir;

use super::{TRAIN, assert_fails, json_lines, number, run, stdout};

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
