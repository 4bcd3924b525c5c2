//! Files that spare the next start some work: compiled pipelines, and which form of the kernels was fastest. They lie
//! in the user's cache folder. None of them is needed: one that is missing, damaged, or of another version or device is
//! as good as none, and a folder that cannot be written to is no error.
//!
//! A file is: 8 bytes `smoothcn`, a hash of every shader, a hash of the contents, the contents. So nothing reaches a
//! driver but what this version wrote.

use std::path::Path;

use crate::fs::write_atomic;
use crate::ops;

const MAGIC: &[u8; 8] = b"smoothcn";

/// The contents of a file that [`write()`] wrote, if it is there, whole, and of these shaders.
pub fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let (head, contents) = bytes.split_at_checked(24)?;
    (head == header(contents)).then(|| contents.to_vec())
}

/// Keeps `contents` for the next start, if that is possible.
pub fn write(path: &Path, contents: &[u8]) {
    if let Some(folder) = path.parent() {
        // What goes wrong here shows below, and costs the next start some time at most.
        let _ = std::fs::create_dir_all(folder);
    }
    let mut bytes = header(contents).to_vec();
    bytes.extend_from_slice(contents);
    let _ = write_atomic(path, &bytes);
}

fn header(contents: &[u8]) -> [u8; 24] {
    let mut head = [0; 24];
    head[..8].copy_from_slice(MAGIC);
    head[8..16].copy_from_slice(&shaders().to_le_bytes());
    head[16..].copy_from_slice(&fnv1a(contents, SEED).to_le_bytes());
    head
}

/// A hash of the sources of every shader: with other kernels, other pipelines, and others are the fastest.
fn shaders() -> u64 {
    ops::shaders().fold(SEED, |hash, shader| fnv1a(shader.source().as_bytes(), hash))
}

/// Where a hash begins.
pub const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: against damage, not against malice.
pub fn fnv1a(bytes: &[u8], seed: u64) -> u64 {
    bytes.iter().fold(seed, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/folder/file");
        assert_eq!(read(&path), None);
        for contents in [&b""[..], b"pipelines"] {
            write(&path, contents);
            assert_eq!(read(&path).as_deref(), Some(contents));
        }
        let whole = std::fs::read(&path).unwrap();
        for n in 0..whole.len() {
            std::fs::write(&path, &whole[..n]).unwrap();
            assert_eq!(read(&path), None, "the first {n} bytes");
            let mut flipped = whole.clone();
            flipped[n] ^= 1;
            std::fs::write(&path, flipped).unwrap();
            assert_eq!(read(&path), None, "a bit of byte {n}");
        }
        // Where a file is in the way of the folder, nothing is kept, and nothing fails.
        write(&path.join("below/a/file"), b"x");
        assert_eq!(read(&path.join("below/a/file")), None);
    }
}
