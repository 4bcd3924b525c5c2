//! What the commands share: devices as flags, and printing.

use std::io::Write;
use std::sync::OnceLock;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use smoothcnn::backend::device::Device;
use smoothcnn::backend::gpu::DeviceKind;
use smoothcnn::compile::fuse::Kernels;
use smoothcnn::parse::to_json;
use smoothcnn::plan::tuning::{Autotune, Tiles};
use smoothcnn::train::config::MOST;
use smoothcnn::{Error, Result};

/// Prints a line of results. A reader that went away (`| head`) is no error: the program ends quietly.
pub fn print(line: impl std::fmt::Display) -> Result<()> {
    if !print_if_read(line)? {
        std::process::exit(0);
    }
    Ok(())
}

/// Prints a line of results. `Ok(false)` where the reader went away, for a command whose work goes on without it.
pub fn print_if_read(line: impl std::fmt::Display) -> Result<bool> {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(source) => Err(Error::Io { path: "standard output".into(), source }),
    }
}

/// Prints a line of progress on standard error. That nobody reads it is no reason to stop.
pub fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// How far the reading of many files is, on a terminal.
#[derive(Default)]
pub struct ReadingBar(OnceLock<ProgressBar>);

impl ReadingBar {
    /// So many of all files are read. Hidden where standard error is no terminal.
    pub fn show(&self, done: usize, all: usize) {
        let bar = self.0.get_or_init(|| {
            let bar = ProgressBar::with_draw_target(Some(all as u64), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("reading files [{bar:30}] {pos}/{len} eta {eta}");
            bar.set_style(style.expect("the template is well formed").progress_chars("=> "));
            bar
        });
        // Each set is read by itself.
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        if done == all {
            bar.finish_and_clear();
        }
    }
}

/// Prints a value as one line of JSON. What is not a number is written as null.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    print(to_json(value))
}

/// Flags that choose what to compute on.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceArgs {
    /// What to compute on: auto takes a hardware GPU if there is one, else the CPU path
    #[arg(long, value_enum, default_value = "auto")]
    pub device: DeviceKind,
    /// A certain adapter: its index in `smoothcnn devices`, or a part of its name
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Kernels: fused layers, or the plain ones that they are held against [default: fused]
    #[arg(long, value_enum)]
    pub kernels: Option<Kernels>,
    /// On a GPU, the form of the fused kernels [default: what suits the adapter]
    #[arg(long, value_enum)]
    pub tiles: Option<Tiles>,
    /// On a GPU, time the forms of the kernels before a network's first training, and keep the choice [default: on for
    /// hardware, off for software drivers, whose fastest form is known]
    #[arg(long, value_enum)]
    pub autotune: Option<Autotune>,
}

impl DeviceArgs {
    /// What the flags ask for.
    pub fn device(&self) -> Device {
        let Self { device, adapter, kernels, tiles, autotune } = self.clone();
        Device { kind: device, adapter, kernels, tiles, autotune }
    }

    /// The same again, for another process.
    pub fn flags(&self) -> Vec<String> {
        let name = |value: &clap::builder::PossibleValue| value.get_name().to_owned();
        let mut flags = vec!["--device".to_owned()];
        flags.extend(self.device.to_possible_value().as_ref().map(name));
        if let Some(adapter) = &self.adapter {
            flags.extend(["--adapter".to_owned(), adapter.clone()]);
        }
        if let Some(kernels) = self.kernels.and_then(|kernels| kernels.to_possible_value()) {
            flags.extend(["--kernels".to_owned(), name(&kernels)]);
        }
        if let Some(tiles) = self.tiles.and_then(|tiles| tiles.to_possible_value()) {
            flags.extend(["--tiles".to_owned(), name(&tiles)]);
        }
        if let Some(autotune) = self.autotune.and_then(|autotune| autotune.to_possible_value()) {
            flags.extend(["--autotune".to_owned(), name(&autotune)]);
        }
        flags
    }
}

/// A word of a command line, as a shell reads it.
pub fn quoted(word: impl AsRef<std::ffi::OsStr>) -> String {
    let word = word.as_ref().to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// For flags that count something, or nothing.
pub fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n <= MOST => Ok(n),
        _ => Err(format!("found {text:?}, expected a whole number of at most {MOST}")),
    }
}

/// For flags that count something.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=MOST).contains(&n) => Ok(n),
        _ => Err(format!("found {text:?}, expected a whole number of at least 1 and at most {MOST}")),
    }
}

/// For shares that are neither nothing nor all.
pub fn between_0_and_1(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err(format!("found {text:?}, expected a number between 0 and 1")),
    }
}

/// An image's shape from `--input`.
pub fn input_shape(text: &str) -> Result<[usize; 3]> {
    let expected = "channels x height x width, each from 1 to 65536: 1x28x28";
    let wrong = || Error::Usage(format!("--input: found {text:?}, expected {expected}"));
    let size = |part: &str| part.parse().ok().filter(|size| (1..=1 << 16).contains(size));
    let sizes: Vec<usize> = text.split('x').map(size).collect::<Option<_>>().ok_or_else(wrong)?;
    sizes.try_into().map_err(|_| wrong())
}
