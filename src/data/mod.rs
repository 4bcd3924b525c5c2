//! Labelled images, as bytes: the built-in digits, published sets in their own files, and pictures of a user's own.

#[cfg(feature = "pictures")]
mod cache;
mod cifar;
pub mod cifar_10;
pub mod cifar_100;
pub mod corrupt;
pub mod digits;
pub mod fashion_mnist;
#[cfg(feature = "pictures")]
pub mod folder;
pub mod format;
pub mod idx;
mod idx_files;
pub mod idx_folder;
pub mod labels;
pub mod mnist;
#[cfg(feature = "pictures")]
pub mod npz;
#[cfg(feature = "pictures")]
pub mod picture;
#[cfg(feature = "pictures")]
mod pictures;
#[cfg(feature = "pictures")]
mod reader;
pub mod record;
pub mod sheet;
pub mod source;
#[cfg(feature = "pictures")]
pub mod table;

use sha2::{Digest, Sha256};

use crate::ops::IGNORED;
use crate::parse::hex;

/// Labelled images of one shape, as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataset {
    /// Channels, height, width of each image.
    pub shape: [usize; 3],
    /// How many classes there are; every label is below it, or [`crate::ops::IGNORED`].
    pub classes: usize,
    /// `[images, channels, height, width]`, 0..=255.
    pub images: Vec<u8>,
    /// `[images]`.
    pub labels: Vec<u32>,
    /// `[images]`: the file that each is from, within the data; empty where images have no files of their own.
    pub files: Vec<String>,
}

impl Dataset {
    /// How many images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Bytes in one image: channels * height * width.
    pub fn pixels(&self) -> usize {
        self.shape.iter().product()
    }

    /// The bytes of image `i`.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.images[i * self.pixels()..][..self.pixels()]
    }

    /// The images `indices`, in their order.
    pub fn subset(&self, indices: &[u32]) -> Self {
        let images = indices.iter().flat_map(|&i| self.image(i as usize)).copied().collect();
        let labels = indices.iter().map(|&i| self.labels[i as usize]).collect();
        let files = indices.iter().filter_map(|&i| self.files.get(i as usize)).cloned().collect();
        Self { images, labels, files, ..*self }
    }

    /// The same images, with left and right in each other's place.
    pub fn mirrored(&self) -> Self {
        let images = self.images.chunks(self.shape[2].max(1)).flat_map(|row| row.iter().rev()).copied().collect();
        Self { images, labels: self.labels.clone(), files: self.files.clone(), ..*self }
    }

    /// The indices of the images whose label is not ignored.
    pub fn labelled_indices(&self) -> Vec<u32> {
        (0..self.len() as u32).filter(|&i| self.labels[i as usize] != IGNORED).collect()
    }

    /// The images whose label is not ignored.
    pub fn labelled(&self) -> Self {
        self.subset(&self.labelled_indices())
    }

    /// The SHA-256, in hexadecimal digits, of the first `n` images: of the line `n channels height width`, of their
    /// bytes, and of their labels, a byte each (four, the lowest first, with more than 256 classes). `ignored` is the
    /// label, as the file has it, that has become
    /// [`IGNORED`]: what is ignored makes no difference.
    pub fn sha256(&self, n: usize, ignored: Option<i64>) -> String {
        let n = n.min(self.len());
        let [c, h, w] = self.shape;
        let mut hash = Sha256::new();
        hash.update(format!("{n} {c} {h} {w}\n"));
        hash.update(&self.images[..n * self.pixels()]);
        let bytes = if self.classes > 256 { 4 } else { 1 };
        let label = |&label: &u32| {
            let label = if label == IGNORED { ignored.unwrap_or(-1) as u32 } else { label };
            label.to_le_bytes().into_iter().take(bytes)
        };
        hash.update(self.labels[..n].iter().flat_map(label).collect::<Vec<_>>());
        hex(&hash.finalize())
    }

    /// Each channel's mean and standard deviation, of pixels scaled to 0..1. Sums of whole numbers: the same whatever
    /// the order.
    pub fn normalisation(&self) -> Vec<[f64; 2]> {
        let [c, h, w] = self.shape;
        let n = (self.len() * h * w) as f64;
        let channel = |channel: usize| {
            let (mut sum, mut squares) = (0_u128, 0_u128);
            for plane in self.images.chunks(h * w).skip(channel).step_by(c) {
                let (mut of_plane, mut squares_of_plane) = (0_u64, 0_u64);
                for &value in plane {
                    let value = u64::from(value);
                    of_plane += value;
                    squares_of_plane += value * value;
                }
                sum += u128::from(of_plane);
                squares += u128::from(squares_of_plane);
            }
            let (mean, square) = (sum as f64 / n, squares as f64 / n);
            // Images of one value have no deviation to divide by: 1 leaves them as they are.
            let std = (square - mean * mean).max(0.0).sqrt() / 255.0;
            [mean / 255.0, if std == 0.0 { 1.0 } else { std }]
        };
        (0..c).map(channel).collect()
    }

    /// Keeps the first `n` images (all of them if there are fewer).
    pub fn truncate(&mut self, n: usize) {
        let n = n.min(self.len());
        self.images.truncate(n * self.pixels());
        self.labels.truncate(n);
        self.files.truncate(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_what_the_files_have() {
        let data = |labels: &[u32], shape| Dataset {
            shape,
            classes: 3,
            images: (0..8).collect(),
            labels: labels.to_vec(),
            files: vec![],
        };
        let of = |labels: &[u32]| data(labels, [1, 2, 2]).sha256(2, None);
        // `printf '2 1 2 2\n\0\1\2\3\4\5\6\7\0\2' | sha256sum`
        assert_eq!(of(&[0, 2]), "c6554aa83c5999d9c677ee88f52a1d1df744b7f65b844fde4c6e0ec812d4963d");
        assert_ne!(of(&[0, 2]), of(&[0, 1]));
        assert_ne!(of(&[0, 2]), data(&[0, 2], [1, 1, 4]).sha256(2, None));
        assert_ne!(of(&[0, 2]), data(&[0, 2], [1, 2, 2]).sha256(1, None));
        assert_eq!(of(&[0, 2]), data(&[0, IGNORED], [1, 2, 2]).sha256(9, Some(2)));
    }
}
