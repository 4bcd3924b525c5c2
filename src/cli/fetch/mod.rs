//! `smoothcnn data fetch`: which sets there are, and where they are published.

mod download;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use smoothcnn::error::escaped;
use smoothcnn::{Result, memory};

use super::common;
use download::{Download, Outcome, Patience, Published, is_whole};

/// Download a published data set: mnist, fashion-mnist, cifar-10 or cifar-100.
///
/// Each file is checked against the SHA-256 of the published one, and is there whole or not at all. What ended early
/// goes on from where it was (`NAME.part`). Files that are there already are kept, and none is replaced.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// mnist, fashion-mnist, cifar-10 or cifar-100
    #[arg(value_name = "NAME", value_parser = set)]
    set: &'static Set,
    /// Folder for the files, where `--data NAME --data-dir DIR` finds them [default: data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Take the files from this address, which holds them under their published names [default: the publishers']
    #[arg(long, value_name = "URL", value_parser = address)]
    url: Option<String>,
}

/// A published set.
#[derive(Debug)]
struct Set {
    name: &'static str,
    /// Within the data folder, where the files of two sets have the same names.
    folder: &'static str,
    /// Addresses with all of the files, the first to ask first.
    mirrors: &'static [&'static str],
    files: &'static [Published],
}

const fn published(name: &'static str, bytes: u64, sha256: &'static str) -> Published {
    Published { name, bytes, sha256 }
}

/// The folders are torchvision's, and so are the mirrors of MNIST.
static SETS: [Set; 4] = [
    Set {
        name: "mnist",
        folder: "MNIST/raw",
        mirrors: &[
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ],
        files: &[
            published(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            published(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            published(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            published(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ],
    },
    Set {
        name: "fashion-mnist",
        folder: "FashionMNIST/raw",
        mirrors: &["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"],
        files: &[
            published(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            published(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            published(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            published(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ],
    },
    Set {
        name: "cifar-10",
        folder: "",
        mirrors: &["https://www.cs.toronto.edu/~kriz/"],
        files: &[published(
            "cifar-10-binary.tar.gz",
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )],
    },
    Set {
        name: "cifar-100",
        folder: "",
        mirrors: &["https://www.cs.toronto.edu/~kriz/"],
        files: &[published(
            "cifar-100-binary.tar.gz",
            168_513_733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        )],
    },
];

fn set(text: &str) -> Result<&'static Set, String> {
    SETS.iter().find(|set| set.name == text).ok_or_else(|| {
        let names: Vec<_> = SETS.iter().map(|set| set.name).collect();
        format!("found {text:?}, expected one of {}", names.join(", "))
    })
}

fn address(text: &str) -> Result<String, String> {
    match text.starts_with("http://") || text.starts_with("https://") {
        true => Ok(text.into()),
        false => Err(format!("found {text:?}, expected http://… or https://…")),
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<u8> {
    let Args { set, data_dir, url } = args;
    let dir = data_dir.clone().unwrap_or("data".into());
    let given = url.as_deref().map(|url| [url]);
    let mirrors = given.as_ref().map_or(set.mirrors, |url| &url[..]);
    // Who has the files in the folder itself needs no second copy.
    let is_there = |file: &Published| is_whole(&dir.join(file.name), file);
    let mut in_dir = true;
    for file in set.files {
        in_dir = in_dir && is_there(file)?;
    }
    let folder = if in_dir { dir.clone() } else { dir.join(set.folder) };
    let patience = Patience::default();
    for file in set.files {
        let bar = ProgressBar::with_draw_target(Some(file.bytes), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}");
        bar.set_style(style.expect("the template is well formed").progress_chars("=> "));
        bar.set_message(file.name);
        let said = |line: &str| {
            bar.suspend(|| common::note(format_args!("data: {}", escaped(line))));
        };
        let download = Download { file, mirrors, folder: &folder, patience: &patience };
        let is_begun = Cell::new(false);
        let progress = |done| {
            bar.set_position(done);
            // What an earlier download left says nothing about the speed of this one.
            if !is_begun.replace(true) {
                bar.reset_eta();
            }
        };
        let outcome = download.run(&progress, &said);
        bar.finish_and_clear();
        let path = folder.join(file.name).display().to_string();
        common::print(match outcome? {
            Outcome::AlreadyThere => format!("{path}: already there"),
            Outcome::Fetched => format!("{path}: fetched, {}", memory::bytes(file.bytes)),
        })?;
    }
    let dir = data_dir.map_or(String::new(), |dir| format!(" --data-dir {}", common::quoted(dir)));
    common::note(format_args!("data: `smoothcnn train --data {}{dir}` reads it", set.name));
    Ok(0)
}
