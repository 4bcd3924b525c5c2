//! How the fast path convolves several images at once, whatever the method: [`super::fast_direct`],
//! [`super::winograd`]. The nodes that use it are in [`super::fast_dense`].

use pulp::Arch;
use rayon::prelude::*;

use crate::layer::{Aligned, ImageLayout, Mode};
use crate::real::Real;

/// A convolution of several images. All tensors lie pixel by pixel, channels filled up to whole vectors.
pub trait Convolve<T: Real>: Send + Sync {
    /// How it reads the input.
    fn input(&self) -> ImageLayout;

    /// Asks it to read the input so; whether it will.
    fn read(&mut self, layout: &ImageLayout) -> bool;

    /// How the backward pass reads the output's gradient: with zeros around it.
    fn gradient(&self) -> ImageLayout;

    /// How many images it is best given at once.
    fn together(&self) -> usize;

    /// Packs `w [c_out, c_in, kernel rows, kernel columns]` and `b [c_out]`, which is empty where there is no bias, for
    /// passes of this mode.
    fn pack(&mut self, w: &[T], b: &[T], mode: Mode);

    /// Images `x` to images `y`.
    fn forward(&self, arch: Arch, x: &[T], y: &mut [T], to: &ImageLayout, after: After<T>, room: &mut Room<T>);

    /// Length of the weight's gradient as [`Self::add_weight`] sums it.
    fn sums_len(&self) -> usize;

    /// Adds the images' part to the weight's gradient.
    fn add_weight(&self, arch: Arch, x: &[T], dy: &[T], sums: &mut [T], room: &mut Room<T>);

    /// The weight's gradient `[c_out, c_in, kernel rows, kernel columns]` of its sums.
    fn unpack(&self, arch: Arch, sums: &[T], dw: &mut [T], room: &mut Room<T>);

    /// The input's gradient, to be written to `dx` or added to it.
    fn input_gradient(&self, arch: Arch, dy: &[T], dx: &mut [T], adds: bool, room: &mut Room<T>);

    /// Bytes of [`Room`] at most.
    fn room_bytes(&self) -> usize;

    /// Bytes of the packed weight.
    fn packed_bytes(&self) -> usize;
}

/// What is done to the output while it is written: images are added, then a ReLU.
#[derive(Clone, Copy, Debug, Default)]
pub struct After<'a, T> {
    /// As many images as there are outputs, and how each lies.
    pub added: Option<(&'a [T], &'a ImageLayout)>,
    /// Whether there is a ReLU.
    pub relu: bool,
}

impl<T: Real> After<'_, T> {
    /// The value after the ReLU, if there is one.
    #[inline(always)]
    pub fn rectified(&self, value: T) -> T {
        if self.relu && value <= T::zero() { T::zero() } else { value }
    }

    /// The same to one image of the output in its place.
    pub fn finish(&self, arch: Arch, image: usize, y: &mut [T], to: &ImageLayout) {
        let Some((added, from)) = self.added else {
            return to.for_each(|_, at| y[at] = self.rectified(y[at]));
        };
        let added = &added[image * from.len..][..from.len];
        let [channels, rows, columns] = to.dims;
        if [from.channel_stride, to.channel_stride] != [1, 1] {
            return to.for_each(|[c, i, j], at| y[at] = self.rectified(y[at] + added[from.at(c, i, j)]));
        }
        arch.dispatch(
            #[inline(always)]
            || {
                for i in 0..rows {
                    for j in 0..columns {
                        let (y, added) = (&mut y[to.at(0, i, j)..], &added[from.at(0, i, j)..]);
                        for (y, &added) in y[..channels].iter_mut().zip(&added[..channels]) {
                            *y = self.rectified(*y + added);
                        }
                    }
                }
            },
        );
    }
}

/// Packs a bias, in room for `len`: zeros behind it, and everywhere where the convolution has none. The same place
/// holds a batch norm's in an answer, of which nothing may stay.
pub fn pack_bias<T: Real>(bias: &[T], len: usize, packed: &mut Aligned<T>) {
    packed.clear();
    packed.extend_from_slice(bias);
    packed.resize(len, T::zero());
}

/// What a thread needs while a chunk of images is in work.
#[derive(Clone, Debug, Default)]
pub struct Room<T> {
    /// Transformed inputs, or a row of outputs.
    pub a: Aligned<T>,
    /// Products, or transformed gradients.
    pub b: Aligned<T>,
    /// A tile at an image's edge.
    pub edge: Aligned<T>,
}

/// `count` of the chunks, of which there may be more.
pub fn chunks<C: Default>(chunks: &mut Vec<C>, count: usize) -> &mut [C] {
    if chunks.len() < count {
        chunks.resize_with(count, C::default);
    }
    &mut chunks[..count]
}

/// `channels` and the zeros behind them.
pub fn padded(channels: usize, lanes: usize) -> usize {
    channels.next_multiple_of(lanes)
}

/// Whether whole vectors of so many channels lie side by side.
pub fn in_vectors(layout: &ImageLayout, channels: usize, lanes: usize) -> bool {
    let stride = layout.column_stride;
    layout.channel_stride == 1 && stride.is_multiple_of(lanes) && stride >= padded(channels, lanes)
}

/// `sum[i] += part[i]`.
pub fn add<T: Real>(arch: Arch, sum: &mut [T], part: &[T]) {
    arch.dispatch(
        #[inline(always)]
        || sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += *part),
    );
}

/// As [`add`], of many parts in their order, spread over the threads.
pub fn add_all<'a, T: Real>(arch: Arch, sum: &mut [T], parts: impl Iterator<Item = &'a [T]> + Clone + Sync) {
    const AT_ONCE: usize = 1 << 13;
    sum.par_chunks_mut(AT_ONCE).enumerate().for_each(|(at, sum)| {
        for part in parts.clone() {
            add(arch, sum, &part[at * AT_ONCE..][..sum.len()]);
        }
    });
}
