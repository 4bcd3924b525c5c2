//! Labelled images, as bytes: the built-in digits, IDX files (MNIST, Fashion-MNIST), CIFAR-10's binary files.

pub mod cifar;
pub mod digits;
pub mod idx;
pub mod labels;

/// Labelled images of one shape, as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Channels, height, width of each image.
    pub shape: [usize; 3],
    /// How many classes there are; every label is below it, or [`crate::ops::IGNORED`].
    pub classes: usize,
    /// `[images, channels, height, width]`, 0..=255.
    pub images: Vec<u8>,
    /// `[images]`.
    pub labels: Vec<u32>,
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
        Self { images, labels, ..*self }
    }

    /// Keeps the first `n` images (all of them if there are fewer).
    pub fn truncate(&mut self, n: usize) {
        let n = n.min(self.len());
        self.images.truncate(n * self.pixels());
        self.labels.truncate(n);
    }
}
