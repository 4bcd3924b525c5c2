//! A folder that a command writes its own files to.

use std::path::Path;

use smoothcnn::fs::{is_temporary, names};
use smoothcnn::train::run_folder::{MARK, OwnFolder};
use smoothcnn::{Error, Result};

/// Takes the folder that `--out` names: a new one, an empty one, or one of an earlier time, which has its mark and none
/// but these files.
pub fn taken(path: &Path, files: &[&str]) -> Result<OwnFolder> {
    let refused =
        |found: &str| Error::Usage(format!("--out: {}: found {found}, expected a new or empty folder", path.display()));
    if path.exists() && !path.is_dir() {
        return Err(refused("a file"));
    }
    let found = if path.is_dir() { names(path)? } else { vec![] };
    // Of a command that was killed.
    let temporary = |name: &Path| files.iter().any(|file| is_temporary(&name.to_string_lossy(), file));
    let ours =
        |name: &Path| name == Path::new(MARK) || files.iter().any(|file| name == Path::new(file)) || temporary(name);
    match found.iter().find(|name| !ours(name)) {
        Some(other) => Err(refused(&format!("a folder with {}", other.display()))),
        None => OwnFolder::take(path, files),
    }
}
