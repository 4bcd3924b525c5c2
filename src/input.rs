//! Files that a user names: regular ones only, and no more of them than is expected. A pipe may never end and a device
//! never does, so they are refused before anything is read.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::memory::available;
use crate::parse::hex;
use crate::{Error, Result};

/// The most that a file of text may hold: configurations, plans, reports.
pub const TEXT: u64 = 64 << 20;

/// The most that a file of weights may hold.
pub const WEIGHTS: u64 = 16 << 30;

/// Opens a regular file; `expected` says in a refusal what it should have been: `an IDX file`.
///
/// # Errors
/// [`Error::Data`] where there is no such file or it is something else, such as a folder, a pipe or a device;
/// [`Error::Io`] if the system cannot open it.
pub fn open(path: &Path, expected: &str) -> Result<File> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => Error::data(path, format!("no such file, expected {expected}")),
        _ => Error::io(path)(error),
    };
    // Asked before it is opened: opening a pipe waits for its other end.
    let kind = std::fs::metadata(path).map_err(failed)?.file_type();
    if !kind.is_file() {
        return Err(Error::data(path, format!("found {}, expected {expected}", name(kind))));
    }
    File::open(path).map_err(failed)
}

/// The bytes of a regular file of at most `most` bytes.
///
/// # Errors
/// As [`open`]; [`Error::Data`] for a larger file too; [`Error::OverLimit`] for one that the memory does not hold.
pub fn read(path: &Path, most: u64, expected: &str) -> Result<Vec<u8>> {
    let file = open(path, expected)?;
    let len = file.metadata().map_err(Error::io(path))?.len().min(most);
    // Asked of the system only where it may matter.
    if len > TEXT
        && let Some(available) = available()
        && len > available
    {
        let message = format!("found {len} bytes, and {available} bytes of memory are available");
        return Err(Error::OverLimit(format!("{}: {message}", path.display())));
    }
    let mut bytes = vec![];
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > most {
        return Err(Error::data(path, format!("found more than {most} bytes, expected {expected}")));
    }
    Ok(bytes)
}

/// The SHA-256 of a regular file, in hexadecimal digits.
///
/// # Errors
/// As [`open`].
pub fn sha256(path: &Path, expected: &str) -> Result<String> {
    let mut file = open(path, expected)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).map_err(Error::io(path))? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// The text of a regular file of at most [`TEXT`] bytes.
///
/// # Errors
/// As [`read`]; [`Error::Data`] for what is not UTF-8 too.
pub fn read_text(path: &Path, expected: &str) -> Result<String> {
    let not_text = |_| Error::data(path, format!("found bytes that are no UTF-8 text, expected {expected}"));
    String::from_utf8(read(path, TEXT, expected)?).map_err(not_text)
}

fn name(kind: std::fs::FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a pipe";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
        if kind.is_socket() {
            return "a socket";
        }
    }
    if kind.is_dir() { "a folder" } else { "no regular file" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path, most: u64) -> String {
        let error = read(path, most, "a list").unwrap_err();
        assert!(matches!(error, Error::Data { .. }), "{error:?}");
        error.to_string().split_once(": ").unwrap().1.to_owned()
    }

    #[test]
    fn regular_files_only_and_no_more_than_expected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(read(&path, 3, "a list").unwrap(), b"abc");
        assert_eq!(read_text(&path, "a list").unwrap(), "abc");
        assert_eq!(refused(&path, 2), "found more than 2 bytes, expected a list");
        assert_eq!(refused(dir.path(), 9), "found a folder, expected a list");
        assert_eq!(refused(&dir.path().join("none"), 9), "no such file, expected a list");
        std::fs::write(&path, b"\xff").unwrap();
        assert!(read_text(&path, "a list").is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn devices_and_pipes_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(refused(&pipe, 9), "found a pipe, expected a list");
        assert_eq!(refused(Path::new("/dev/zero"), 9), "found a device, expected a list");
        // A link is what it leads to.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        assert_eq!(refused(&link, 9), "found a device, expected a list");
    }
}
