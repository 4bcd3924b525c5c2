//! A pooling on the fast CPU path, where no convolution takes it along. In planes these are spread over the threads;
//! pixel by pixel, images are, and the channels of a window's element are compared side by side.

use std::ops::Range;

use rayon::prelude::*;

use super::MaxPool2d;
use super::fast_vectors::{self, Backward, Forward};
use crate::layer::{Aligned, ImageLayout, Mode, Node, NodeBatch, NodeBytes, NodeGradients, grow};
use crate::real::Real;

/// A pooling, and where its maxima were.
pub struct Pool<T> {
    dims: MaxPool2d,
    lanes: usize,
    argmax: Vec<u32>,
    /// The same in vectors.
    in_vectors: Aligned<T>,
}

impl<T> Pool<T> {
    /// The node of a pooling, on a machine with so many values in a vector.
    pub fn new(dims: &MaxPool2d, lanes: usize) -> Self {
        Self { dims: *dims, lanes, argmax: vec![], in_vectors: Aligned::default() }
    }
}

impl<T: Real> Node<T> for Pool<T> {
    fn prefers(&self) -> Option<ImageLayout> {
        let stride = self.dims.input[0].next_multiple_of(self.lanes);
        Some(ImageLayout::pixels(self.dims.input, [0, 0], stride, 0))
    }

    fn give(&mut self, _layout: &ImageLayout) -> bool {
        true
    }

    fn forward(&mut self, batch: NodeBatch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { n, arch, from, to, x, .. } = batch;
        let Self { dims, lanes, .. } = *self;
        let len = dims.output_len();
        if fast_vectors::takes(&dims, lanes, [&from, &to]) {
            let len = len / dims.input[0] * from.column_stride;
            self.in_vectors.grow(n * len);
            let argmax = self.in_vectors.par_chunks_mut(len);
            let images = y.par_chunks_mut(to.len).zip(x.par_chunks(from.len)).zip(argmax);
            return images.for_each_init(Aligned::default, |row, ((y, x), argmax)| {
                arch.dispatch(Forward { dims: &dims, x, from: &from, y, to: &to, argmax, row });
            });
        }
        grow(&mut self.argmax, n * len);
        let argmax = &mut self.argmax[..n * len];
        if [from, to] == [self.dims.input, self.dims.output_dims()].map(ImageLayout::planes) {
            return forward(&self.dims, x, y, argmax);
        }
        let images = y.par_chunks_mut(to.len).zip(x.par_chunks(from.len)).zip(argmax.par_chunks_mut(len));
        images.for_each_init(Vec::new, |best, ((y, x), argmax)| {
            arch.dispatch(
                #[inline(always)]
                || forward_pixels(&self.dims, [&from, &to], x, y, argmax, best),
            );
        });
    }

    fn backward(&self, batch: NodeBatch<T>, _y: &[T], dy: &[T], NodeGradients { dx, .. }: NodeGradients<T>) {
        let NodeBatch { n, arch, from, to, .. } = batch;
        let (Self { dims, lanes, .. }, len, Some(dx)) = (self, self.dims.output_len(), dx) else { return };
        if fast_vectors::takes(dims, *lanes, [&from, &to]) {
            let argmax = self.in_vectors.par_chunks(len / dims.input[0] * from.column_stride);
            let images = dx.par_chunks_mut(from.len).zip(dy.par_chunks(to.len)).zip(argmax);
            return images.for_each_init(Aligned::default, |row, ((dx, dy), argmax)| {
                arch.dispatch(Backward { dims, dx, from: &from, dy, to: &to, argmax, row });
            });
        }
        let argmax = &self.argmax[..n * len];
        if [from, to] == [self.dims.input, self.dims.output_dims()].map(ImageLayout::planes) {
            return backward(&self.dims, argmax, dy, dx);
        }
        let images = dx.par_chunks_mut(from.len).zip(dy.par_chunks(to.len)).zip(argmax.par_chunks(len));
        images.for_each(|((dx, dy), argmax)| backward_pixels(&self.dims, [&from, &to], argmax, dy, dx));
    }

    fn bytes(&self) -> NodeBytes {
        let [channels, ..] = self.dims.input;
        let in_vectors = self.dims.output_len() / channels * channels.next_multiple_of(self.lanes) * size_of::<T>();
        NodeBytes { image: in_vectors.max(self.dims.output_len() * size_of::<u32>()), ..NodeBytes::default() }
    }
}

impl MaxPool2d {
    /// The rows (axis 0) or columns (axis 1) of the image that window `i` covers.
    #[inline(always)]
    fn covered(&self, axis: usize, i: usize) -> Range<usize> {
        let (start, padding) = (i * self.stride[axis], self.padding[axis]);
        start.saturating_sub(padding)..(start + self.kernel[axis] - padding).min(self.input[axis + 1])
    }
}

/// One image in any layouts. `argmax` is `[row][column][channel]`, each `row * w + column` in its plane. A NaN wins its
/// window, as in PyTorch.
#[inline(always)]
fn forward_pixels<T: Real>(
    d: &MaxPool2d,
    [from, to]: [&ImageLayout; 2],
    x: &[T],
    y: &mut [T],
    argmax: &mut [u32],
    best: &mut Vec<T>,
) {
    let [channels, _, w] = d.input;
    let columns = d.output_plane()[1];
    best.resize(channels, T::zero());
    let best = &mut best[..channels];
    for (at, argmax) in argmax.chunks_mut(channels).enumerate() {
        let [i, j] = [at / columns, at % columns];
        let [down, across] = [d.covered(0, i), d.covered(1, j)];
        let first = [down.start, across.start];
        for row in down {
            for column in across.clone() {
                let place = (row * w + column) as u32;
                let values = &x[from.at(0, row, column)..];
                let mut compare = |c: usize, value: T| {
                    let wins = [row, column] == first || value > best[c] || value.is_nan() && !best[c].is_nan();
                    best[c] = if wins { value } else { best[c] };
                    argmax[c] = if wins { place } else { argmax[c] };
                };
                match from.channel_stride {
                    1 => values[..channels].iter().enumerate().for_each(|(c, &value)| compare(c, value)),
                    stride => (0..channels).for_each(|c| compare(c, values[c * stride])),
                }
            }
        }
        let y = &mut y[to.at(0, i, j)..];
        match to.channel_stride {
            1 => y[..channels].copy_from_slice(best),
            stride => best.iter().enumerate().for_each(|(c, &value)| y[c * stride] = value),
        }
    }
}

/// The same backward.
fn backward_pixels<T: Real>(d: &MaxPool2d, [from, to]: [&ImageLayout; 2], argmax: &[u32], dy: &[T], dx: &mut [T]) {
    let [channels, _, w] = d.input;
    let columns = d.output_plane()[1];
    dx.fill(T::zero());
    for (at, argmax) in argmax.chunks(channels).enumerate() {
        let dy = &dy[to.at(0, at / columns, at % columns)..];
        for (c, &place) in argmax.iter().enumerate() {
            let place = place as usize;
            dx[from.at(c, place / w, place % w)] += dy[c * to.channel_stride];
        }
    }
}

/// `x [n, channels, h, w]` to `y` and `argmax`, both `[n, channels, rows, columns]`; an argmax is `row * w + column` in
/// its plane. A NaN wins its window, as in PyTorch.
fn forward<T: Real>(d: &MaxPool2d, x: &[T], y: &mut [T], argmax: &mut [u32]) {
    let [_, h, w] = d.input;
    let [rows, columns] = d.output_plane();
    let planes = x.par_chunks(h * w).zip(y.par_chunks_mut(rows * columns)).zip(argmax.par_chunks_mut(rows * columns));
    planes.for_each(|((x, y), argmax)| {
        for i in 0..rows {
            for j in 0..columns {
                let [down, across] = [d.covered(0, i), d.covered(1, j)];
                let mut best = down.start * w + across.start;
                for row in down {
                    for at in row * w + across.start..row * w + across.end {
                        if x[at] > x[best] || x[at].is_nan() && !x[best].is_nan() {
                            best = at;
                        }
                    }
                }
                y[i * columns + j] = x[best];
                argmax[i * columns + j] = best as u32;
            }
        }
    });
}

/// `argmax`, `dy [n, channels, rows, columns]` to `dx [n, channels, h, w]`.
fn backward<T: Real>(d: &MaxPool2d, argmax: &[u32], dy: &[T], dx: &mut [T]) {
    let [_, h, w] = d.input;
    let positions: usize = d.output_plane().iter().product();
    let planes = dx.par_chunks_mut(h * w).zip(dy.par_chunks(positions)).zip(argmax.par_chunks(positions));
    planes.for_each(|((dx, dy), argmax)| {
        dx.fill(T::zero());
        for (&dy, &at) in dy.iter().zip(argmax) {
            dx[at as usize] += dy;
        }
    });
}
