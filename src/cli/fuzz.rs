//! Damaged files of settings, plans and records: a line that names the file, or a value that was checked, and never a
//! panic. `FUZZ_TIMES` files of each kind, 500 if it is not set.

use std::path::Path;

use clap::Parser;
use smoothcnn::parse::to_json;
use smoothcnn::rng::Philox;
use smoothcnn::study::entry::{self, SweepEntry};
use smoothcnn::train::config::read_config;
use smoothcnn::train::{Progress, saved, temperature_file};

use super::config::{RunArgs, Varied};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    run: RunArgs,
}

/// What numbers, names and structures go wrong with.
const WORDS: [&str; 14] = [
    "-1",
    "0",
    "1e999",
    "nan",
    "inf",
    "18446744073709551616",
    "\"",
    "[",
    "]",
    "}",
    "\n",
    "\u{202e}",
    "null",
    "\\ud800",
];

fn damage(whole: &str, rng: &mut Philox) -> Vec<u8> {
    let mut bytes = whole.as_bytes().to_vec();
    for _ in 0..=rng.below(3) {
        let at = rng.below(bytes.len().max(1) as u32) as usize;
        let end = (at + rng.below(12) as usize).min(bytes.len());
        match rng.below(5) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << rng.below(8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at.min(end)..end)),
            3 => {
                let part = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let word = WORDS[rng.below(WORDS.len() as u32) as usize];
                bytes.splice(at.min(end)..end, word.bytes());
            }
        }
    }
    bytes
}

#[test]
fn damaged_files_end_in_a_line_and_never_in_a_panic() {
    let times: u64 = std::env::var("FUZZ_TIMES").map_or(500, |times| times.parse().expect("a number"));
    let flags = "x --opt sgd --nesterov --val-split 0.1 --class-weights balanced --class-mask 1,2,3 --epochs 3";
    let run = Line::parse_from(flags.split(' ')).run;
    let config = run.config(Varied { label_smoothing: 0.1, label_noise: 0.2, seed: 3 }).unwrap();
    let toml = toml::to_string_pretty(&config).unwrap();
    let plan = format!("[{}]", to_json(&SweepEntry::new(Path::new("s"), config)));
    let record =
        "{\"kind\":\"step\",\"epoch\":1,\"step\":2,\"loss\":1.5,\"nll\":1.2}\n{\"kind\":\"epoch\",\"epoch\":1}\n";
    let scaling = "temperature = 1.5\nweights = [1.5, 0.5]\nbiases = [0.0, -1.0]\nend = \"minimum\"\nmodel = \"m\"\nversion = \"0.1.0\"\n";

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let progress = Progress { epochs: 1, ..Progress::default() };
    let epochs = [serde_json::json!({ "kind": "epoch", "epoch": 1 })];
    let mut refused = [0; 4];
    for i in 0..times {
        for (kind, whole) in [&toml[..], &plan, scaling, record].into_iter().enumerate() {
            let bytes = damage(whole, &mut Philox::new(kind as u64, i));
            std::fs::write(&path, &bytes).unwrap();
            let read = match kind {
                0 => read_config(&path).map(|_| ()),
                1 => entry::read(&path, Some(0)).and_then(|entry| entry.check()),
                2 => temperature_file::read(path.to_str().unwrap()).map(|_| ()),
                _ => {
                    // A record is never a reason not to go on.
                    std::fs::write(dir.path().join("metrics.jsonl"), &bytes).unwrap();
                    saved::record(dir.path(), &progress, &epochs, 5, &|_| ()).unwrap();
                    let mended = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
                    let lines: Vec<serde_json::Value> =
                        mended.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                    assert_eq!(lines.iter().filter(|line| line["kind"] == "epoch").count(), 1, "{mended}");
                    Ok(())
                }
            };
            if let Err(error) = read {
                let line = smoothcnn::error::one_line(&error.to_string());
                assert!(!line.contains(['\n', '\u{202e}']), "{kind} {i}: {line}");
                refused[kind] += 1;
            }
        }
    }
    assert!(refused[..3].iter().all(|&n| n > times / 2), "most of it is damaged: {refused:?} of {times}");
}
