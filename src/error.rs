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

    /// Something that was computed and is not a number.
    #[error("{what} is {found}, expected a finite number: {advice}")]
    NoNumber {
        /// What was computed.
        what: String,
        /// What it came to.
        found: f64,
        /// Why it may be so, or what to do.
        advice: String,
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

    /// A folder that another process works in.
    #[error("{}: in use by {holder}, expected to be alone there", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who works there.
        holder: String,
    },

    /// A signal asked for the end: Ctrl-C, or what a scheduler sends.
    #[error("interrupted by {}", signal_name(*.0))]
    Interrupted(
        /// The signal's number.
        u8,
    ),
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn signal_name(signal: u8) -> String {
    match signal {
        1 => "SIGHUP".into(),
        2 => "Ctrl-C".into(),
        15 => "SIGTERM".into(),
        other => format!("signal {other}"),
    }
}

/// The most characters of a message that are shown.
const MOST: usize = 400;

/// A text as it is shown on a line of a terminal: what would end the line, or tell the terminal to do something, is
/// escaped.
pub fn escaped(text: &str) -> String {
    let shown = text.chars().flat_map(|c| match c {
        // Also what changes the direction or ends a line without being a control character.
        '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            c.escape_unicode().collect()
        }
        c if c.is_control() => c.escape_debug().collect::<Vec<_>>(),
        c => vec![c],
    });
    shown.collect()
}

/// A message as it is shown: on one line ([`escaped`]), whatever a file or a driver put into it, and of at most 400
/// characters; of a longer one the middle is left out.
pub fn one_line(message: &str) -> String {
    let shown: Vec<char> = escaped(message).chars().collect();
    if shown.len() <= MOST {
        return shown.into_iter().collect();
    }
    // What is wrong stands at the beginning, what to do at the end. Only what others wrote should be so long.
    let (first, last) = (&shown[..MOST - 103], &shown[shown.len() - 100..]);
    first.iter().copied().chain(" … ".chars()).chain(last.iter().copied()).collect()
}

impl Error {
    /// The program's exit code: 2 usage, 3 no adapter, 4 data, 128 and the signal's number where one ended it (130 for
    /// Ctrl-C), 1 everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Layer { .. } => 2,
            Self::NoAdapter(_) => 3,
            Self::Data { .. } => 4,
            Self::Interrupted(signal) => 128 + signal,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_of_at_most_400_characters() {
        assert_eq!(one_line("plain: é"), "plain: é");
        assert_eq!(one_line("a\nb\r\u{1b}[31mc\u{202e}d\0"), "a\\nb\\r\\u{1b}[31mc\\u{202e}d\\0");
        let long = format!("begin {} end", "x\n".repeat(1000));
        let shown = one_line(&long);
        assert_eq!(shown.chars().count(), 400);
        assert!(shown.starts_with("begin x\\nx") && shown.ends_with("x\\n end") && shown.contains(" … "), "{shown}");
        let most = "é".repeat(400);
        assert_eq!(one_line(&most), most);
    }

    #[test]
    fn signals_have_the_shells_exit_codes() {
        for (signal, code, said) in [(2, 130, "Ctrl-C"), (15, 143, "SIGTERM"), (1, 129, "SIGHUP")] {
            let error = Error::Interrupted(signal);
            assert_eq!((error.exit_code(), error.to_string()), (code, format!("interrupted by {said}")));
        }
    }
}
