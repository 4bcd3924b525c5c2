//! Files that are whole or not there at all.

use std::fs::{self, File};
use std::io::{Error as IoError, ErrorKind, Result as IoResult, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, Result};

/// Writes `bytes` to `path` so that a reader, or whoever looks after a crash, finds the whole old file or the whole new
/// one: into a file beside it, synced to the disk, and then renamed over it.
///
/// Where `path` is a symbolic link to a file, that file is replaced and the link stays. A device or a pipe is no file
/// to be replaced: it is written to.
///
/// # Errors
///
/// [`Error::Io`] with `path`. Whatever was at `path` is then as it was, and no other file is left behind (but if it is
/// the sync of the folder that fails, after the rename, the new file is in place and whole).
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes).map_err(Error::io(path))
}

/// As [`write_atomic`]; `-` is standard output.
///
/// # Errors
///
/// As [`write_atomic`].
pub fn write_output(path: &Path, bytes: &[u8]) -> Result<()> {
    if !is_standard_output(path) {
        return write_atomic(path, bytes);
    }
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Error::io("standard output"))
}

/// Whether a path that a user gave for an output stands for standard output.
pub fn is_standard_output(path: &Path) -> bool {
    path == Path::new("-")
}

/// Gives a file that is `whole` its name, in the same folder, where nothing has that name; after a crash, too, it is
/// whole or not there.
///
/// # Errors
///
/// [`Error::Io`] with `path`, also where something is there; it stays as it was, and so does the other file.
pub fn put_in_place(whole: &Path, path: &Path) -> Result<()> {
    let put = || {
        File::options().write(true).open(whole)?.sync_all()?;
        if fs::symlink_metadata(path).is_ok() {
            return Err(IoError::new(ErrorKind::AlreadyExists, "found a file, expected none to be there"));
        }
        fs::rename(whole, path)?;
        sync_folder(folder_of(path))
    };
    put().map_err(Error::io(path))
}

fn write(path: &Path, bytes: &[u8]) -> IoResult<()> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(IoError::new(ErrorKind::IsADirectory, "found a folder, expected a file")),
        Ok(found) if !found.is_file() => File::options().write(true).open(path)?.write_all(bytes),
        Ok(_) if is_link => replace(&fs::canonicalize(path)?, bytes),
        Err(_) if is_link => {
            Err(IoError::new(ErrorKind::NotFound, "found a symbolic link to nothing, expected one to a file"))
        }
        _ => replace(path, bytes),
    }
}

fn replace(path: &Path, bytes: &[u8]) -> IoResult<()> {
    let name = path.file_name().ok_or_else(|| IoError::new(ErrorKind::InvalidInput, "expected a file's name"))?;
    // The same folder, because a rename is atomic only within one file system.
    let folder = folder_of(path);
    let (temporary, mut file) = create_temporary(folder, &name.to_string_lossy())?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    // Some systems do not rename what is open.
    drop(file);
    if let Err(error) = written.and_then(|()| fs::rename(&temporary, path)) {
        // What went wrong first is what is told.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_folder(folder)
}

/// A new file beside the one called `name`, that no other writer has, of this process or of another.
fn create_temporary(folder: &Path, name: &str) -> IoResult<(PathBuf, File)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [before, after] = temporary_name(name);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{before}{}-{number}{after}", std::process::id()));
        match File::options().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            // Of a killed writer that had the same number, or of a process on another machine.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// What the name of a temporary file of [`write_atomic`] begins and ends with. Only a writer that was killed leaves
/// one.
fn temporary_name(name: &str) -> [String; 2] {
    [format!(".{name}."), ".tmp".into()]
}

/// Whether `found` is the name of a temporary file for a file called `name`.
pub fn is_temporary(found: &str, name: &str) -> bool {
    let [before, after] = temporary_name(name);
    found.strip_prefix(&before).is_some_and(|rest| rest.ends_with(&after))
}

/// The folder that a path lies in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> IoResult<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems cannot sync a folder; the file itself is safe.
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> IoResult<()> {
    Ok(())
}

/// What says where files for the next start are kept: a folder, or `off` for nowhere.
pub const CACHE: &str = "SMOOTHCNN_CACHE";

/// The user's cache folder for this program: [`CACHE`], else by the platform's convention: `$XDG_CACHE_HOME` or
/// `~/.cache`, `~/Library/Caches`, `%LOCALAPPDATA%`. None of the files there is needed.
pub fn cache_folder() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os(CACHE).filter(|given| !given.is_empty()) {
        return (given != "off").then(|| given.into());
    }
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        variable("HOME").map(|home| home.join("Library/Caches"))
    } else {
        variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")))
    };
    base.map(|base| base.join("smoothcnn"))
}

/// Removes the file at `path`, if there is one.
///
/// # Errors
///
/// [`Error::Io`] with `path`.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::Io { path: path.into(), source: error }),
        _ => Ok(()),
    }
}

/// The names of what is in a folder, in order.
///
/// # Errors
///
/// [`Error::Io`] with the folder.
pub fn names(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(Error::io(folder))?;
    let names: std::io::Result<Vec<_>> = entries.map(|entry| Ok(PathBuf::from(entry?.file_name()))).collect();
    let mut names = names.map_err(Error::io(folder))?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_atomic_replaces_or_leaves_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        write_atomic(&path, b"old and longer").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");

        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        for path in [&taken, &folder.path().join("no/such/folder"), Path::new("/"), Path::new("..")] {
            let error = write_atomic(path, b"x").unwrap_err();
            assert!(matches!(&error, Error::Io { path: p, .. } if p == path), "{error:?}");
        }
        assert_eq!(names(folder.path()).unwrap(), [Path::new("f"), Path::new("taken")]);
    }

    #[test]
    fn what_is_put_in_place_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let [part, path] = ["f.part", "f"].map(|name| folder.path().join(name));
        fs::write(&part, "new").unwrap();
        fs::write(&path, "old").unwrap();
        let error = put_in_place(&part, &path).unwrap_err();
        assert!(matches!(&error, Error::Io { path: p, .. } if *p == path), "{error:?}");
        assert_eq!((fs::read(&path).unwrap(), fs::read(&part).unwrap()), (b"old".to_vec(), b"new".to_vec()));
        fs::remove_file(&path).unwrap();
        put_in_place(&part, &path).unwrap();
        assert_eq!(names(folder.path()).unwrap(), [Path::new("f")]);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn temporary_files_are_known_by_their_names() {
        assert!(is_temporary(".config.toml.Ab3dE6.tmp", "config.toml"));
        for other in [".config.toml", "config.toml.Ab3dE6.tmp", ".metrics.jsonl.Ab3dE6.tmp", ".config.toml.Ab3dE6.bak"]
        {
            assert!(!is_temporary(other, "config.toml"), "{other}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn files_get_the_usual_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (plain, atomic) = (folder.path().join("plain"), folder.path().join("atomic"));
        fs::write(&plain, b"x").unwrap();
        write_atomic(&atomic, b"x").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(plain), mode(atomic));
    }

    /// Catches a device or a pipe that becomes a regular file, and a link that is replaced.
    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_replaced() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let (file, link, pipe) = (folder.path().join("file"), folder.path().join("link"), folder.path().join("pipe"));
        fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_atomic(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_atomic(&pipe, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        write_atomic(Path::new("/dev/null"), b"gone").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());

        fs::remove_file(&file).unwrap();
        assert!(write_atomic(&link, b"x").unwrap_err().to_string().contains("a symbolic link to nothing"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
