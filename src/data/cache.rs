//! Images that one start leaves to the next, so that it need not read their pictures again.
//!
//! A file is the images' bytes, then what else is known of them as JSON, its length (8 bytes), the SHA-256 of all of
//! that, and 8 bytes `smoothcp`. Its name is a hash of what the images were made of: the files' names, lengths and
//! times of change, and the settings. So a change is another file, and an old one is never read. Any of them can be
//! deleted at any time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fs::write_atomic;
use crate::parse::{hex, to_json};

const MAGIC: &[u8; 8] = b"smoothcp";

/// Part of every name: with another one, images that were made differently are not found.
const VERSION: u32 = 1;

/// The most bytes that the folder keeps. What was used longest ago goes first.
const MOST: u64 = 8 << 30;

/// What the files' names end with.
const EXTENSION: &str = "images";

/// What is known of a split's pictures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Of each image: channels, height, width.
    pub shape: [usize; 3],
    /// `[files, channels, height, width]`; zeros for what is no picture.
    #[serde(skip)]
    pub images: Vec<u8>,
    /// The first half of the SHA-256 of each file.
    pub hashes: Vec<[u8; 16]>,
    /// The place of each file that is no picture, ascending, and why.
    pub bad: Vec<(usize, String)>,
    /// Each size, height and width, that pictures have, and how many have it; the most frequent first.
    pub sizes: Vec<([usize; 2], usize)>,
}

/// Where a split's images are kept.
pub(super) struct Cache(PathBuf);

impl Cache {
    /// The place in `folder` for these files of `root`, as they are now, under these settings. None where one of them
    /// cannot be asked for its time of change: then nothing tells whether it is the same.
    pub fn of(folder: &Path, root: &Path, files: &[&str], settings: &str) -> Option<Self> {
        let mut hash = Sha256::new();
        hash.update(format!("{VERSION}\n{settings}\n{}\n", root.to_str()?));
        for file in files {
            let metadata = fs::metadata(root.join(file)).ok()?;
            let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            hash.update(format!("{file}\n{} {}\n", metadata.len(), changed.as_nanos()));
        }
        let name = hex(&hash.finalize()[..16]);
        Some(Self(folder.join(name).with_extension(EXTENSION)))
    }

    /// What is kept, if it is there and whole.
    pub fn read(&self) -> Option<Kept> {
        let mut bytes = fs::read(&self.0).ok()?;
        let end = bytes.strip_suffix(MAGIC)?;
        let (body, seal) = end.split_at_checked(end.len().checked_sub(32)?)?;
        if Sha256::digest(body)[..] != *seal {
            return None;
        }
        let (body, length) = body.split_at_checked(body.len().checked_sub(8)?)?;
        let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
        let images = body.len().checked_sub(length)?;
        let mut kept: Kept = serde_json::from_slice(&body[images..]).ok()?;
        if kept.hashes.len() * kept.shape.iter().product::<usize>() != images {
            return None;
        }
        bytes.truncate(images);
        kept.images = bytes;
        // When it was used, for what is deleted first. It is no error that another user's file stays as it is.
        let _ = fs::File::options().append(true).open(&self.0).and_then(|file| file.set_modified(SystemTime::now()));
        Some(kept)
    }

    /// Keeps images, if that is possible; a start without them takes longer and is the same.
    pub fn write(&self, kept: &Kept) {
        let Some(folder) = self.0.parent() else { return };
        let json = to_json(kept);
        let size = kept.images.len() + json.len() + 48;
        if fs::create_dir_all(folder).is_err() || !make_room(folder, size as u64) {
            return;
        }
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(&kept.images);
        bytes.extend_from_slice(json.as_bytes());
        bytes.extend_from_slice(&(json.len() as u64).to_le_bytes());
        let seal = Sha256::digest(&bytes);
        bytes.extend_from_slice(&seal);
        bytes.extend_from_slice(MAGIC);
        let _ = write_atomic(&self.0, &bytes);
    }
}

/// Deletes what was used longest ago until `size` more bytes fit. Whether they do.
fn make_room(folder: &Path, size: u64) -> bool {
    make_room_below(folder, size, MOST)
}

fn make_room_below(folder: &Path, size: u64, most: u64) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let mut files: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == EXTENSION))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.metadata().ok()?.len(), entry.path())))
        .collect();
    files.sort();
    let mut used: u64 = files.iter().map(|(_, length, _)| length).sum();
    for (_, length, path) in files {
        if used + size <= most {
            break;
        }
        if fs::remove_file(path).is_ok() {
            used -= length;
        }
    }
    used + size <= most
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_folder_is_bounded_and_the_oldest_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, age: u64| {
            let path = dir.path().join(name);
            fs::write(&path, [0; 100]).unwrap();
            let then = SystemTime::now() - Duration::from_secs(age);
            fs::File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
        };
        file("a.images", 10);
        file("b.images", 30);
        file("c.images", 20);
        file("not-ours", 99);
        assert!(make_room_below(dir.path(), 100, 300));
        let left = || crate::fs::names(dir.path()).unwrap().iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(left(), ["a.images", "c.images", "not-ours"]);
        assert!(make_room_below(dir.path(), 100, 300));
        assert_eq!(left().len(), 3);
        assert!(!make_room_below(dir.path(), 400, 300));
        assert_eq!(left(), ["not-ours"]);
    }

    /// Every byte is covered: one that flips is noticed, and so is an end that is missing.
    #[test]
    fn what_is_damaged_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("p.png"), "p").unwrap();
        let cache = Cache::of(dir.path(), dir.path(), &["p.png"], "s").unwrap();
        assert_eq!(cache.read(), None);
        let bad = vec![(0, "why".into())];
        let kept =
            Kept { shape: [1, 2, 2], images: vec![1, 2, 3, 4], hashes: vec![[7; 16]], bad, sizes: vec![([2, 2], 1)] };
        cache.write(&kept);
        assert_eq!(cache.read().as_ref(), Some(&kept));
        let whole = fs::read(&cache.0).unwrap();
        for i in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[i] ^= 16;
            fs::write(&cache.0, bytes).unwrap();
            assert_eq!(cache.read(), None, "byte {i}");
            fs::write(&cache.0, &whole[..i]).unwrap();
            assert_eq!(cache.read(), None, "{i} bytes");
        }
        assert!(Cache::of(dir.path(), dir.path(), &["p.png"], "t").unwrap().0 != cache.0);
        assert!(Cache::of(dir.path(), dir.path(), &["q.png"], "s").is_none());
    }
}
