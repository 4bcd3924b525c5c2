//! Hands damaged files to everything that reads one: no panic, no abort, no memory beyond the file's own size in order
//! of magnitude, and an error of one line that names the file.
//!
//!     cargo run --release --example fuzz -- 5000000 [SEED]
//!
//! Each is a valid file with some bytes changed, cut out, repeated or replaced by numbers that sizes are made of. A
//! failure leaves the file that it failed on, and says where.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use smoothcnn::bench::Report;
use smoothcnn::data::format::{Format, Reading};
use smoothcnn::data::idx_folder::IdxFolder;
use smoothcnn::data::{cifar_10, idx};
use smoothcnn::rng::Philox;
use smoothcnn::study::Outcome;
use smoothcnn::train::checkpoint::{self, Dtype, Metadata, Tensor};
use smoothcnn::{Error, Result};

/// A reader, and a file that it takes.
struct Target {
    name: &'static str,
    whole: Vec<u8>,
    read: fn(&Path) -> Result<()>,
}

fn idx_file(magic: u32, dims: &[u32]) -> Vec<u8> {
    let len = dims.iter().product::<u32>();
    let words = [magic].into_iter().chain(dims.iter().copied()).flat_map(u32::to_be_bytes);
    words.chain((0..len).map(|i| (i % 10) as u8)).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes what is written to it")
}

/// Weights of these names and shapes.
fn weights(folder: &Path, tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let tensor = |&(name, shape): &(&str, &[usize])| Tensor {
        name: name.into(),
        shape: shape.into(),
        data: vec![0.5; shape.iter().product()].into(),
    };
    let path = folder.join("whole");
    let metadata = Metadata::from([("epoch".into(), "3".into()), ("mean".into(), "0.1,0.2".into())]);
    let tensors: Vec<_> = tensors.iter().map(tensor).collect();
    checkpoint::save(&path, &tensors, Dtype::F32, &metadata).expect("it is valid");
    fs::read(path).expect("it was just written")
}

/// Without its seal, so that what lies behind the seal is reached.
fn unsealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let seal = bytes.windows(6).position(|bytes| bytes == b"sha256").expect("every file has one");
    bytes[seal] = b'S';
    bytes
}

fn cifar_dir(path: &Path) -> Result<()> {
    // The reader wants a folder; the file stands for both of its parts.
    let folder = path.with_extension("d");
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    for name in ["data_batch_1.bin", "test_batch.bin"] {
        fs::copy(path, folder.join(name)).map_err(Error::io(path))?;
    }
    cifar_10::load_dir(&folder).map(|_| ())
}

/// CIFAR-10 as it is published, with a record in each file.
fn cifar_archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(vec![]);
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(3073);
        let path = format!("cifar-10-batches-bin/{name}.bin");
        archive.append_data(&mut header, path, &[3; 3073][..]).expect("memory takes what is written to it");
    }
    archive.into_inner().expect("memory takes what is written to it")
}

/// A folder of IDX files in which the file `path` stands for those of these names.
fn idx_dir(path: &Path, names: &[&str]) -> Result<()> {
    let folder = path.with_extension("idx");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    for part in ["train", "test"] {
        let write =
            |name: &str, bytes| fs::write(folder.join(format!("{part}-{name}")), bytes).map_err(Error::io(path));
        write("images", idx_file(0x0804, &[3, 3, 2, 2]))?;
        write("labels", idx_file(0x0801, &[3]))?;
    }
    for name in names {
        fs::copy(path, folder.join(name)).map_err(Error::io(path))?;
    }
    IdxFolder.read(&folder, &Reading::default(), &|_, _| {}).map(|_| ())
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<()> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice::<T>(&bytes).map(|_| ()).map_err(|e| Error::data(path, e.to_string()))
}

fn targets(folder: &Path) -> Vec<Target> {
    let images = idx_file(0x0803, &[3, 4, 5]);
    let two = weights(folder, &[("w", &[2, 3]), ("b", &[4])]);
    let target = |name, whole, read| Target { name, whole, read };
    vec![
        target("images", images.clone(), |path| idx::read_images(path).map(|_| ())),
        target("images, gzip", gzip(&images), |path| idx::read_images(path).map(|_| ())),
        target("labels", idx_file(0x0801, &[30]), |path| idx::read_labels(path).map(|_| ())),
        target("counts", idx_file(0x0802, &[5, 10]), |path| idx::read_counts(path).map(|_| ())),
        target("weights", two.clone(), load),
        target("weights, unsealed", unsealed(two.clone()), load),
        target("metadata", unsealed(two), |path| checkpoint::load_metadata(path).map(|_| ())),
        target("matrix", unsealed(weights(folder, &[("m", &[3, 2])])), |path| {
            checkpoint::load_matrix(path).map(|_| ())
        }),
        target("cifar", vec![3; 2 * 3073], cifar_dir),
        target("cifar, archive", cifar_archive(), |path| cifar_10::load_dir(path).map(|_| ())),
        target("idx images", idx_file(0x0804, &[3, 3, 2, 2]), |path| idx_dir(path, &["train-images", "test-images"])),
        target("idx labels", idx_file(0x0801, &[3]), |path| idx_dir(path, &["train-labels"])),
        target("idx mapping", b"0 48\n1 65 97\n2 90\n".to_vec(), |path| idx_dir(path, &["mapping.txt"])),
        target("result", br#"{"id":"a","label_smoothing":0.1,"train":{"loss":1e0}}"#.to_vec(), json::<Outcome>),
        target("bench", br#"{"version":"0.1.0","device":"x","results":[]}"#.to_vec(), json::<Report>),
    ]
}

fn load(path: &Path) -> Result<()> {
    checkpoint::load(path, &[("w".to_owned(), vec![2, 3]), ("b".to_owned(), vec![4])]).map(|_| ())
}

/// What sizes, offsets and numbers go wrong with.
const WORDS: [&[u8]; 12] = [
    &[0xff; 8],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0; 8],
    &[0, 0, 0, 1],
    b"18446744073709551615",
    b"-1",
    b"1e999",
    b"null",
    b"[[[[[[[[",
    b"\\ud800",
    b"\x1f\x8b\x08",
];

fn damage(whole: &[u8], rng: &mut Philox) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..=rng.below(4) {
        if bytes.is_empty() {
            return bytes;
        }
        let at = rng.below(bytes.len() as u32) as usize;
        match rng.below(6) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.below(256) as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..(at + 1 + rng.below(8) as usize).min(bytes.len()))),
            4 => {
                let part = bytes[at..(at + 16).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let word = WORDS[rng.below(WORDS.len() as u32) as usize];
                let end = (at + word.len()).min(bytes.len());
                bytes.splice(at..end, word.iter().copied());
            }
        }
    }
    bytes
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number of executions, and a seed"));
    let (times, seed) = (args.next().unwrap_or(100_000), args.next().unwrap_or(0));
    // Memory, where there is such a place: a disk would be the slowest part.
    let base = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let folder = tempfile::tempdir_in(base).expect("a folder for the files");
    let targets = targets(folder.path());
    let path = folder.path().join("damaged");
    for Target { name, whole, read } in &targets {
        fs::write(&path, whole).expect("a small file");
        // A result and a report are long: theirs are only the beginning of one.
        assert!(read(&path).is_ok() || ["result", "bench"].contains(name), "{name}: the whole file is not taken");
    }
    let (mut taken, mut refused) = (0u64, 0u64);
    for i in 0..times {
        let mut rng = Philox::new(seed, i);
        // Large ones, and those of several files: one in a hundred.
        let is_rare = rng.below(100) == 0;
        let Target { name, whole, read } = loop {
            let target = &targets[rng.below(targets.len() as u32) as usize];
            if is_rare == (target.name.starts_with("cifar") || target.name.starts_with("idx")) {
                break target;
            }
        };
        fs::write(&path, damage(whole, &mut rng)).expect("a small file");
        let kept = |what: &str| -> ! {
            let kept = std::env::temp_dir().join("smoothcnn-fuzz");
            let _ = fs::copy(&path, &kept);
            panic!("{name}, execution {i} of seed {seed}: {what}; the file is kept as {}", kept.display());
        };
        match catch_unwind(AssertUnwindSafe(|| read(&path))) {
            Ok(Ok(())) => taken += 1,
            Ok(Err(error)) => {
                refused += 1;
                let line = smoothcnn::error::one_line(&error.to_string());
                if line.contains('\n') || !line.contains("/da") {
                    kept(&format!("the error {line:?} is not a line that names the file"));
                }
            }
            Err(_) => kept("a panic"),
        }
    }
    println!("{times} damaged files: {refused} refused, {taken} taken, no panic");
}
