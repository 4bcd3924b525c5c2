//! Sizes and numbers from outside: bounded before anything is made; and what is computed and is no number is an error.

use std::fs;
use std::path::Path;
use std::process::Command;

use assert_cmd::assert::{Assert, OutputAssertExt};
use smoothcnn::network::Network;
use smoothcnn::train::checkpoint::{self, Dtype, Metadata, Tensor};
use tempfile::tempdir;

use super::{TRAIN, assert_fails, metrics, number, read_tensors, run, snapshot, stderr};

/// Runs `smoothcnn ARGS` in `dir` with so many KiB of addresses.
fn limited(dir: &Path, kibibytes: u64, args: &str) -> Assert {
    let program = env!("CARGO_BIN_EXE_smoothcnn");
    let mut command = Command::new("sh");
    command.current_dir(dir).args(["-c", &format!("ulimit -v {kibibytes}; exec {program} {args}")]);
    command.env("RAYON_NUM_THREADS", "2").env_remove("RUST_BACKTRACE").assert()
}

/// Catches a number that wraps, aborts or panics on its way in. clap's refusals span lines.
#[test]
fn counts_beyond_all_reason_are_refused() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("m.safetensors"), "none").unwrap();
    let before = snapshot(dir.path());
    for flags in [
        "train --device cpu -b",
        "train --device cpu --epochs",
        "train --device cpu --limit-train",
        "train --device cpu --limit-test",
        "train --device cpu --log-every",
        "train --device cpu --smoothing-schedule warmup --smoothing-epochs",
        "eval --model m.safetensors -b",
        "eval --model m.safetensors --bootstrap",
        "eval --model m.safetensors --limit-test",
        "calibrate --model m.safetensors --val-images",
        "sweep --seeds",
        "sweep --jobs",
        "bench -b",
        "plan -b",
        "data preview -o x.png --columns",
    ] {
        for count in ["18446744073709551615", "18446744073709551616", "9223372036854775808", "1099511627776"] {
            let failed = run(dir.path(), &format!("{flags} {count}")).code(2);
            let said = stderr(&failed).join("\n");
            assert!(said.contains(count) && !said.contains("panicked"), "{flags} {count}: {said}");
        }
    }
    assert_fails(run(dir.path(), &format!("{TRAIN} --seed 9223372036854775808")), 2, &["--seed", "at most"]);
    assert_fails(run(dir.path(), "sweep --seeds 4294967295"), 2, &["--seeds", "runs, expected at most 100000"]);
    assert_fails(run(dir.path(), "plan --input 1x65536x65536 -b 4294967295"), 1, &["buffer ", "elements"]);
    assert_fails(run(dir.path(), "plan --input 3x65536x65536 -b 2000000000 --kernels reference"), 1, &["buffer "]);
    assert!(snapshot(dir.path()) == before, "something was written");
}

/// Catches a schedule whose length in steps wraps, so that the full epsilon is there at once.
#[test]
fn a_schedule_of_ages_begins_at_its_beginning() {
    let dir = tempdir().unwrap();
    let flags = "--epochs 1 --smoothing-schedule warmup --smoothing-epochs 4294967295";
    run(dir.path(), &format!("{TRAIN} {flags} --out run")).success();
    assert!(number(&metrics(&dir.path().join("run"), "epoch")[0], "label_smoothing") < 1e-9);
}

/// Catches a batch above the set that is refused, takes its size in memory, or changes the bits.
#[test]
fn a_batch_above_the_set_is_the_set() {
    let dir = tempdir().unwrap();
    for device in ["cpu", "cpu --kernels reference", "gpu"] {
        let train = format!("train --device {device} --network small.toml --limit-train 60 --limit-test 70 --epochs 2");
        let model = |batch: &str| {
            let out = format!("{}-{batch}", device.replace(' ', ""));
            run(dir.path(), &format!("{train} -b {batch} --out {out}")).success();
            read_tensors(&dir.path().join(out).join("model.safetensors")).0
        };
        let whole = model("60");
        for batch in ["61", "8192", "4294967295"] {
            assert!(model(batch) == whole, "{device}: a batch of {batch} is another training");
        }
        let eval =
            format!("eval --device {device} --model {}-60/model.safetensors -b 4294967295", device.replace(' ', ""));
        run(dir.path(), &eval).success();
    }
}

/// Catches an allocation that fails, which ends a program without a line of its own.
#[cfg(target_os = "linux")]
#[test]
fn what_exceeds_the_memory_is_refused_with_what_fits() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let gzip = |dims: &[u32], bytes: &[u8]| {
        let magic = 0x0800 | dims.len() as u32;
        let header = [magic].into_iter().chain(dims.iter().copied()).flat_map(u32::to_be_bytes).collect::<Vec<_>>();
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, &[&header[..], bytes].concat()).unwrap();
        encoder.finish().unwrap()
    };
    for part in ["train", "t10k"] {
        let images = gzip(&[1, 1024, 1024], &vec![0; 1 << 20]);
        assert!(images.len() < 1200);
        fs::write(data.join(format!("{part}-images-idx3-ubyte.gz")), images).unwrap();
        fs::write(data.join(format!("{part}-labels-idx1-ubyte.gz")), gzip(&[1], &[1])).unwrap();
    }
    let parts = ["images of 1x1024x1024", "parameters need", "is available"];
    assert_fails(limited(dir.path(), 4_000_000, "train --data mnist --device cpu --out run"), 1, &parts);
    fs::write(dir.path().join("m.safetensors"), "none").unwrap();

    // The batch that it names does fit.
    let train = "train --device cpu --limit-train 3000 --limit-test 40 --epochs 1 --out run";
    let failed = limited(dir.path(), 500_000, &format!("{train} -b 3000"));
    let said = stderr(&failed).join("\n");
    assert_fails(failed, 1, &["batch size 3000: the CPU path needs", "is available", "--batch-size "]);
    assert!(!dir.path().join("run").exists());
    let fits = said.split("--batch-size ").nth(1).unwrap().split(' ').next().unwrap();
    limited(dir.path(), 500_000, &format!("{train} -b {fits}")).success();

    // A benchmark goes on with what fits.
    let bench = "bench --device cpu --seconds 0.05 --input 1x28x28 --batch-size 4294967295,8";
    let done = limited(dir.path(), 2_000_000, bench).success();
    let said = super::stdout(&done);
    assert!(said.contains("batch 4294967295: left out: needs") && said.contains("batch 8: "), "{said}");
}

/// Catches NaN on standard output, or a run called bad data, where what was computed is no number.
#[test]
fn what_is_no_number_ends_with_its_own_error() {
    let dir = tempdir().unwrap();
    let net = Network::seed([1, 28, 28], 10).unwrap();
    let tensors: Vec<_> = net
        .parameters
        .iter()
        .map(|p| Tensor { name: p.name.clone(), shape: p.shape.clone(), data: vec![1e30; p.len()].into() })
        .collect();
    checkpoint::save(&dir.path().join("m.safetensors"), &tensors, Dtype::F32, &Metadata::new()).unwrap();
    let before = snapshot(dir.path());
    let parts = ["image 0: the network's output 0 is ", "expected a finite number"];
    for command in ["eval --logits l", "predict --out p.csv", "calibrate --out t.toml"] {
        let args = format!("{command} --device cpu --limit-test 20 --model m.safetensors");
        assert_fails(run(dir.path(), &args), 1, &parts);
    }
    assert!(snapshot(dir.path()) == before, "something was written");
    // The loss, or the state that the epoch's last update left.
    let failed =
        run(dir.path(), "train --device cpu --limit-train 32 --limit-test 9 -b 32 --lr 1e38 --epochs 1").code(1);
    let said = stderr(&failed).join("\n");
    assert!(said.contains(" is ") && said.contains("--lr") && !said.contains("panicked"), "{said}");
}

/// Catches a fit that ends at the end of its range and is written all the same, or one on images that trained the
/// model.
#[test]
fn no_temperature_is_written_that_is_none() {
    let dir = tempdir().unwrap();
    let train = "train --device cpu --limit-test 20 -b 20 --limit-train 60 --epochs 1";
    run(dir.path(), &format!("{train} --out plain")).success();
    // A network that says 3 whatever it sees, about images of that class, and about images of another.
    let net = Network::seed([1, 28, 28], 10).unwrap();
    let tensor = |p: &smoothcnn::network::NamedParameter| {
        let mut data = vec![0.0; p.len()];
        if p.name == "fc2.bias" {
            data[3] = 2.0;
        }
        Tensor { name: p.name.clone(), shape: p.shape.clone(), data: data.into() }
    };
    let tensors: Vec<_> = net.parameters.iter().map(tensor).collect();
    checkpoint::save(&dir.path().join("three.safetensors"), &tensors, Dtype::F32, &Metadata::new()).unwrap();
    for label in [3, 5] {
        let data = dir.path().join(format!("of-{label}"));
        fs::create_dir(&data).unwrap();
        for part in ["train", "t10k"] {
            let images = [&[0, 0, 8, 3, 0, 0, 0, 20, 0, 0, 0, 28, 0, 0, 0, 28][..], &[9; 20 * 784]].concat();
            fs::write(data.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
            let labels = [&[0, 0, 8, 1, 0, 0, 0, 20][..], &[label; 20]].concat();
            fs::write(data.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
        }
    }
    let before = snapshot(dir.path());
    for (args, parts) in [
        (
            "calibrate --model plain/model.safetensors --device cpu",
            ["the last 6 of 60 training images", "the first 60 were its own"],
        ),
        (
            "calibrate --model plain/model.safetensors --device cpu --limit-train 63 --val-images 4",
            ["the last 4 of 63 training images", "the first 60 were its own"],
        ),
        (
            "calibrate --model plain/model.safetensors --device cpu --limit-train 30",
            ["the last 3 of 30", "were its own"],
        ),
    ] {
        assert_fails(run(dir.path(), args), 1, &parts);
    }
    for (label, found, why) in [(3, "found 0.001", "every answer is right"), (5, "found 1000", "no better than chance")]
    {
        let args = format!("calibrate --model three.safetensors --device cpu --data mnist --data-dir of-{label}");
        assert_fails(run(dir.path(), &args), 1, &["temperature: ", found, "none is written", why]);
    }
    assert!(snapshot(dir.path()) == before, "something was written");
}

/// Catches a number of threads that no machine has, or that is none, and threads that cannot be started.
#[test]
fn threads_are_counted_first() {
    let dir = tempdir().unwrap();
    for text in ["30000", "abc", "-1", "1.5", ""] {
        let mut train = super::command(dir.path(), &format!("{TRAIN} --epochs 1"));
        let failed = train.env("RAYON_NUM_THREADS", text).assert();
        assert_fails(failed, 2, &["RAYON_NUM_THREADS", &format!("found {text:?}"), "expected a whole number"]);
    }
    assert!(snapshot(dir.path()).is_empty());
    if cfg!(target_os = "linux") {
        // Stacks for a thousand threads are not to be had.
        let program = env!("CARGO_BIN_EXE_smoothcnn");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -v 300000; RAYON_NUM_THREADS=1000 exec {program} plan")]);
        assert_fails(command.assert(), 1, &["threads: found", "RAYON_NUM_THREADS=1"]);
    }
}
