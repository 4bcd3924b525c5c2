//! The files of a split, read on every core.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::cache::{Cache, Kept};
use super::format::{Pictures, ReadProgress, Reading};
use super::picture;
use crate::{Error, Result, memory};

/// A file and its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Its path within the data, with `/` between its parts.
    pub file: String,
    /// Its class.
    pub label: u32,
}

/// So many of a long list are named.
const NAMED: usize = 5;

/// What reads the files of a split.
pub(super) struct Reader<'a> {
    pub root: &'a Path,
    pub path: &'a Path,
    pub how: &'a Reading,
    pub progress: ReadProgress<'a>,
    /// Whether the system failed to read a file. What failed may succeed the next time, and nothing of the file tells.
    pub failed: AtomicBool,
}

impl Reader<'_> {
    /// The images of a split called `name`, from those that were kept where nothing has changed. `of_train` is the
    /// shape of the training images, once they are read.
    pub fn split(&self, items: &[Item], name: &str, of_train: Option<[usize; 3]>) -> Result<Kept> {
        let Pictures { size, crop_mode, channels, .. } = self.how.pictures;
        let channels = of_train.map(|[channels, ..]| channels).or(channels);
        let files: Vec<&str> = items.iter().map(|item| &item.file[..]).collect();
        let settings = format!("{size:?} {crop_mode:?} {channels:?}");
        let cache = self.how.cache.as_ref().and_then(|folder| Cache::of(folder, self.root, &files, &settings));
        let kept = match cache.as_ref().and_then(Cache::read) {
            Some(kept) if kept.hashes.len() == items.len() => kept,
            _ => {
                let kept = self.read(&files, name, channels)?;
                if let (Some(cache), false) = (cache, self.failed.load(Ordering::Relaxed)) {
                    cache.write(&kept);
                }
                kept
            }
        };
        match of_train {
            Some(shape) if shape != kept.shape => {
                let [[_, h, w], [_, of_train_h, of_train_w]] = [kept.shape, shape];
                let found =
                    format!("found {name} pictures of {h}x{w}, and training pictures of {of_train_h}x{of_train_w}");
                Err(Error::data(self.path, format!("{found}; {SCALE}")))
            }
            _ => Ok(kept),
        }
    }

    fn read(&self, files: &[&str], name: &str, channels: Option<usize>) -> Result<Kept> {
        let headers: Vec<_> = files.par_iter().map(|file| self.header(file)).collect::<Result<_>>()?;
        let mut of_size = BTreeMap::new();
        for header in headers.iter().flatten() {
            *of_size.entry(header.size).or_insert(0) += 1;
        }
        let sizes = most_frequent(of_size);
        let [h, w] = match (self.how.pictures.size, &sizes[..]) {
            (Some(size), _) => size,
            // None is a picture; each is named.
            (None, []) => [1, 1],
            (None, [(size, _)]) => *size,
            (None, several) => {
                let list: Vec<_> = several.iter().map(|([h, w], n)| format!("{h}x{w} ({n})")).collect();
                let message = format!("found {name} pictures of {} sizes, {}; {SCALE}", several.len(), some(&list));
                return Err(Error::data(self.path, message));
            }
        };
        let grey = headers.iter().flatten().all(|header| header.grey);
        let shape = [channels.unwrap_or(if grey { 1 } else { 3 }), h, w];
        let pixels: usize = shape.iter().product();
        let needed = files.len() as u64 * pixels as u64;
        if let Some(available) = memory::available().filter(|available| needed > *available) {
            let [needed, available] = [needed, available].map(memory::bytes);
            let (n, [c, h, w]) = (files.len(), shape);
            let found = format!("found {n} pictures, {needed} as {c}x{h}x{w}, and {available} of memory are available");
            let path = self.path.display();
            return Err(Error::OverLimit(format!("{path}: {found}; --limit-train and a smaller --size take less")));
        }
        let mut images = vec![0; files.len() * pixels];
        let done = AtomicUsize::new(0);
        let read: Vec<_> = (images.par_chunks_mut(pixels).zip(files).zip(&headers))
            .map(|((image, file), header)| {
                let result = self.picture(image, file, header, shape);
                (self.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, files.len());
                result
            })
            .collect::<Result<_>>()?;
        let bad = (read.iter().enumerate()).filter_map(|(i, (_, why))| Some((i, why.clone()?))).collect();
        let hashes = read.iter().map(|(hash, _)| *hash).collect();
        let is_grey = |image: &[u8]| {
            let (red, others) = image.split_at(h * w);
            others.chunks(h * w).all(|plane| plane == red)
        };
        let mut shape = shape;
        // A palette of greys, or greys that were saved as colours: one plane of three says it all.
        if channels.is_none() && shape[0] == 3 && images.par_chunks(pixels).all(is_grey) {
            shape[0] = 1;
            images = images.chunks(h * w).step_by(3).flatten().copied().collect();
        }
        Ok(Kept { shape, images, hashes, bad, sizes })
    }

    /// A file's header; what is wrong with the file otherwise.
    fn header(&self, file: &str) -> Result<Result<picture::Header, String>> {
        Ok(self.bytes(file)?.and_then(|bytes| picture::header(&bytes)))
    }

    /// A file's bytes; what is wrong with it otherwise, where that is the file itself.
    fn bytes(&self, file: &str) -> Result<Result<Vec<u8>, String>> {
        match picture::bytes(&self.root.join(file)) {
            Ok(bytes) => Ok(Ok(bytes)),
            Err(Error::Data { message, .. }) => Ok(Err(message)),
            Err(Error::Io { source, .. }) => {
                self.failed.store(true, Ordering::Relaxed);
                Ok(Err(format!("found {source}, expected {}", picture::KINDS)))
            }
            Err(other) => Err(other),
        }
    }

    /// Writes a picture into its image's place. Gives the hash of its file, and what is wrong with it, if anything.
    fn picture(
        &self,
        image: &mut [u8],
        file: &str,
        header: &Result<picture::Header, String>,
        shape: [usize; 3],
    ) -> Result<([u8; 16], Option<String>)> {
        let bytes = match (self.bytes(file)?, header) {
            (Ok(bytes), Ok(_)) => bytes,
            (Err(why), _) => return Ok(([0; 16], Some(why))),
            (_, Err(why)) => return Ok(([0; 16], Some(why.clone()))),
        };
        let hash = Sha256::digest(&bytes);
        let hash = std::array::from_fn(|i| hash[i]);
        Ok(match picture::decode(&bytes, shape, self.how.pictures.crop_mode) {
            Ok(decoded) => {
                image.copy_from_slice(&decoded);
                (hash, None)
            }
            Err(why) => (hash, Some(why)),
        })
    }
}

/// What to do about pictures of several sizes.
const SCALE: &str = "expected one size, or --size HxW, which scales them";

/// Sizes and how many pictures have each, the most frequent first; of equals the smaller.
pub(super) fn most_frequent(sizes: BTreeMap<[usize; 2], usize>) -> Vec<([usize; 2], usize)> {
    let mut sizes: Vec<_> = sizes.into_iter().collect();
    sizes.sort_by_key(|(size, n)| (usize::MAX - n, *size));
    sizes
}

/// The first of a list, and how many more there are.
pub(super) fn some(all: &[String]) -> String {
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}, and {more} more"),
    }
}
