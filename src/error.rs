//! The crate's one error type. Every message says what was found and what was expected, in one line.

use std::path::{Path, PathBuf};

/// Everything that can go wrong, each with the exit code the program ends with ([`Error::exit_code`]).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option, or a combination of options, that makes no sense.
    #[error("{0}")]
    Usage(String),

    /// A layer that does not fit what the layer before it gives.
    #[error("layer {layer}: got {got}, needs {needs}")]
    Layer {
        /// The layer's name, e.g. `fc1`.
        layer: String,
        /// What reached it.
        got: String,
        /// What it needs.
        needs: String,
    },

    /// A data or weights file that is missing, damaged, or not what it should be.
    #[error("{}: {message}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },

    /// A file or folder that could not be written or read for a reason of the system's.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// No adapter of the kind asked for.
    #[error("{0}")]
    NoAdapter(String),

    /// The work does not fit the device. Nothing was allocated.
    #[error("{0}")]
    OverLimit(String),

    /// A dispatch that does not match its shader: a defect of the program, found before anything runs.
    #[error("plan: {0}")]
    Plan(String),

    /// A result that is not what the oracle says.
    #[error("wrong result: {0}")]
    Check(String),

    /// The driver refused a call, or reported an error of its own.
    #[error("GPU error in {context}: {message}")]
    Gpu {
        /// What was being done.
        context: String,
        /// What wgpu or the driver said.
        message: String,
    },

    /// The device went away (driver reset, unplugged, time-out).
    #[error("the GPU device was lost: {0}; the last checkpoint, if any, is intact")]
    DeviceLost(String),

    /// The loss stopped being a number.
    #[error("the loss is {loss} at epoch {epoch}, step {step}: lower --lr (it is {lr:?}), or check the data")]
    NonFinite {
        /// Epoch, from 1.
        epoch: usize,
        /// Step, from 1, over the whole run.
        step: usize,
        /// The loss that was read back.
        loss: f64,
        /// The learning rate.
        lr: f64,
    },

    /// A parameter, or a number of the optimizer's memory, stopped being a number.
    #[error(
        "a parameter or the optimizer's memory is not finite after epoch {epoch}, step {step}: lower --lr (it is {lr:?})"
    )]
    Diverged {
        /// Epoch, from 1.
        epoch: usize,
        /// Step, from 1, over the whole run.
        step: usize,
        /// The learning rate.
        lr: f64,
    },

    /// Logits and labels that no temperature can be fitted to.
    #[error("temperature: {0}")]
    Fit(String),

    /// A picture that could not be drawn.
    #[error("report: {0}")]
    Report(String),

    /// A run of a sweep that failed.
    #[error("sweep: {0}")]
    Run(String),

    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The program's exit code: 2 usage, 3 no adapter, 4 data, 130 interrupted, 1 everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Layer { .. } => 2,
            Self::NoAdapter(_) => 3,
            Self::Data { .. } => 4,
            Self::Interrupted => 130,
            _ => 1,
        }
    }

    /// A [`Error::Data`].
    pub fn data(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Data { path: path.as_ref().to_owned(), message: message.into() }
    }

    /// A closure that turns an [`std::io::Error`] into [`Error::Io`] for `path`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.as_ref().to_owned(), source }
    }
}
