//! What goes into a fused convolution and comes out of it: orders of an image's elements, codes of windows, a data set
//! in bytes.

use super::probe::Probe;
use crate::Result;
use crate::ops::conv2d_pool::Input;
use crate::ops::max_pool2d::MaxPool2d;
use crate::ops::stage::{Bytes, Layout};
use crate::plan::Storage;
use crate::rng::Philox;

/// `[n, channels, positions]` as `[n, positions, channels]`.
pub(super) fn channels_last<T: Copy>(values: &[T], channels: usize, positions: usize) -> Vec<T> {
    let image = |image: &[T]| {
        let at = |i: usize| image[i % channels * positions + i / channels];
        (0..channels * positions).map(at).collect::<Vec<_>>()
    };
    values.chunks(channels * positions).flat_map(image).collect()
}

pub(super) fn laid_out<T: Copy>(layout: Layout, values: &[T], channels: usize, positions: usize) -> Vec<T> {
    match layout {
        Layout::Planes | Layout::Bytes => values.to_vec(),
        Layout::ChannelsLast => channels_last(values, channels, positions),
    }
}

/// The same, `stored` in this way: in halves, two channels of a position are side by side.
pub(super) fn stored_as<T: Copy>(
    stored: Storage,
    layout: Layout,
    values: &[T],
    channels: usize,
    positions: usize,
) -> Vec<T> {
    match (stored, layout) {
        (Storage::F16, Layout::Planes) => channels_last(values, 2, positions),
        _ => laid_out(layout, values, channels, positions),
    }
}

/// The codes of 2x2 windows whose maxima are `y`, at `argmax`.
pub(super) fn code_words(pool: &MaxPool2d, y: &[f64], argmax: &[u32]) -> Vec<u32> {
    let [rows, columns] = pool.output_plane();
    let width = pool.input[2];
    let code = |(i, (&y, &at)): (usize, (&f64, &u32))| {
        let window = i % (rows * columns);
        let [row, column] = [at as usize / width, at as usize % width];
        let code = (row - window / columns * 2) * 2 + column - window % columns * 2;
        if y <= 0.0 { 4 } else { code as u8 }
    };
    let codes: Vec<u8> = y.iter().zip(argmax).enumerate().map(code).collect();
    let last = channels_last(&codes, pool.input[0], rows * columns);
    last.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// A data set in bytes, of more images than the batch has, whose normalised pixels are exact.
pub(super) struct DataSet {
    pub bytes: Vec<u8>,
    pub order: Vec<u32>,
    pub normalisation: Vec<[f32; 2]>,
    pub image: [usize; 3],
}

impl DataSet {
    /// Where the batch starts in the order.
    pub const FIRST: usize = 2;

    pub fn new(n: usize, image: [usize; 3], whole: bool) -> Self {
        let mut rng = Philox::new(17, 3);
        let images = Self::FIRST + n + 1;
        let (values, scale) = if whole { (7, 1.0) } else { (256, 1.0 / 64.0) };
        let bytes = (0..images * image.iter().product::<usize>()).map(|_| rng.below(values) as u8).collect();
        let mut order: Vec<u32> = (0..images as u32).collect();
        rng.shuffle(&mut order);
        let normalisation = (0..image[0]).map(|c| [scale, -3.0 + c as f32]).collect();
        Self { bytes, order, normalisation, image }
    }

    /// The pixels of the batch's `n` images, `[n, channels, height, width]`.
    pub fn batch(&self, n: usize) -> Vec<f32> {
        let [channels, h, w] = self.image;
        let pixels = channels * h * w;
        let image = |&i: &u32| self.bytes[i as usize * pixels..][..pixels].iter().enumerate();
        let normalised = |(i, &byte): (usize, &u8)| {
            let [scale, offset] = self.normalisation[i / (h * w)];
            f32::from(byte) * scale + offset
        };
        self.order[Self::FIRST..][..n].iter().flat_map(image).map(normalised).collect()
    }

    pub fn input(&self, probe: &mut Probe) -> Result<Input> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let words: Vec<u32> = bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok(Input::Bytes(Bytes {
            images: probe.words("images", &words)?,
            order: probe.words("order", &self.order)?,
            normalisation: probe.floats("normalisation", self.normalisation.as_flattened())?,
        }))
    }
}
