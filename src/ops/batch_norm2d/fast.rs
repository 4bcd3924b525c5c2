//! A batch norm on the fast CPU path, with the addition of a residual block and the ReLU that follow it. Formulas:
//! [`super`].
//!
//! All tensors are read and written pixel by pixel, in vectors of channels, an image after another. Mean and squared
//! distances are those of each image, which are then joined in their order (Chan et al. 1983): the batch is read once
//! for them, and the threads decide no bit. The ReLU's backward pass, the addition's and both sums are one pass.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::BatchNorm2d;
use crate::layer::{Following, ImageLayout, Mode, Node, NodeBatch, NodeBytes, NodeGradients, grow};
use crate::ops::relu::Relu;
use crate::ops::residual::Residual;
use crate::real::{Real, lanes};

/// The node, and how many layers it takes along.
pub fn node<T: Real>(dims: &BatchNorm2d, following: &Following) -> (Box<dyn Node<T>>, usize) {
    let adds = following.ops.first().is_some_and(|op| op.is::<Residual>().is_some());
    let relu = following.ops.get(usize::from(adds)).is_some_and(|op| op.is::<Relu>().is_some());
    let lanes = following.lanes::<T>();
    let norm = Norm { dims: *dims, relu, lanes, statistics: vec![], images: vec![], scale: vec![] };
    (Box::new(norm), usize::from(adds) + usize::from(relu))
}

/// A batch norm and what is taken along.
struct Norm<T> {
    dims: BatchNorm2d,
    relu: bool,
    lanes: usize,
    /// Mean, then 1 / standard deviation, of each channel, filled up to whole vectors.
    statistics: Vec<T>,
    /// Of each image, mean and sum of squared distances of each channel; in the backward pass the two sums.
    images: Vec<T>,
    /// Weight, then bias, of each channel, filled up likewise.
    scale: Vec<T>,
}

/// Images as the kernels read or write them.
#[derive(Clone, Copy)]
struct Lies {
    layout: ImageLayout,
    /// Whether whole vectors of channels lie side by side.
    in_vectors: bool,
}

impl<T: Real> Norm<T> {
    fn padded(&self) -> usize {
        self.dims.image[0].next_multiple_of(self.lanes)
    }

    fn lies(&self, layout: ImageLayout) -> Lies {
        let stride = layout.column_stride;
        let in_vectors = layout.channel_stride == 1 && stride.is_multiple_of(self.lanes) && stride >= self.padded();
        Lies { layout, in_vectors }
    }

    /// Each channel's two numbers, filled up with zeros.
    fn fill(to: &mut Vec<T>, padded: usize, numbers: [&[T]; 2]) {
        to.clear();
        to.resize(2 * padded, T::zero());
        for (to, numbers) in to.chunks_mut(padded).zip(numbers) {
            to[..numbers.len()].copy_from_slice(numbers);
        }
    }

    /// Joins the images' means and squared distances.
    fn join(&mut self, n: usize, running: &mut [&mut [T]]) {
        let padded = self.padded();
        let [channels, h, w] = self.dims.image;
        let [plane, m] = [h * w, n * h * w].map(|count| T::of(count as f64));
        let [eps, momentum] = [self.dims.eps, self.dims.momentum].map(T::of);
        self.statistics.clear();
        self.statistics.resize(2 * padded, T::zero());
        for c in 0..channels {
            let images = || self.images.chunks(2 * padded).take(n).map(|image| (image[c], image[padded + c]));
            let first = self.images[c];
            let mean = first + plane * images().map(|(mean, _)| mean - first).sum::<T>() / m;
            let squares = images().map(|(of, squares)| squares + plane * (of - mean) * (of - mean)).sum::<T>();
            self.statistics[c] = mean;
            self.statistics[padded + c] = T::one() / (squares / m + eps).sqrt();
            let blend = |old: &mut T, new: T| *old += momentum * (new - *old);
            blend(&mut running[0][c], mean);
            blend(&mut running[1][c], squares / (m - T::one()));
        }
    }
}

impl<T: Real> Node<T> for Norm<T> {
    fn reads(&self) -> Option<ImageLayout> {
        Some(ImageLayout::pixels(self.dims.image, [0, 0], self.padded(), 0))
    }

    fn give(&mut self, _layout: &ImageLayout) -> bool {
        true
    }

    fn forward(&mut self, batch: NodeBatch<T>, mode: Mode, buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { n, arch, from, to, x, skip, params, .. } = batch;
        let padded = self.padded();
        let channels = self.dims.image[0];
        match mode {
            Mode::Training => {
                grow(&mut self.images, n * 2 * padded);
                let images = self.images.par_chunks_mut(2 * padded).zip(x.par_chunks(from.len));
                images.for_each(|(found, x)| arch.dispatch(Measure { x, found }));
                self.join(n, buffers);
            }
            Mode::Inference => {
                let inv = |&var: &T| T::one() / (var + T::of(self.dims.eps)).sqrt();
                let inv: Vec<T> = buffers[1].iter().map(inv).collect();
                Self::fill(&mut self.statistics, padded, [&buffers[0][..channels], &inv]);
            }
        }
        Self::fill(&mut self.scale, padded, [params[0], params[1]]);
        let (statistics, scale, relu) = (&self.statistics, &self.scale, self.relu);
        let skipped = skip.map(|(skip, layout)| (skip, self.lies(layout)));
        let to = self.lies(to);
        let images = y.par_chunks_mut(to.layout.len).zip(x.par_chunks(from.len)).enumerate();
        images.for_each_init(Vec::new, |row, (k, (y, x))| {
            let skip = skipped.map(|(skip, lies)| (&skip[k * lies.layout.len..][..lies.layout.len], lies));
            arch.dispatch(Apply { statistics, scale, relu, x, from, skip, y, to, row });
        });
    }

    fn backward(&self, batch: NodeBatch<T>, y: &[T], dy: &[T], grads: NodeGradients<T>) {
        let NodeBatch { n, arch, from, to, x, skip, params, .. } = batch;
        let padded = self.padded();
        let [channels, h, w] = self.dims.image;
        let NodeGradients { dx, dskip, params: of_params } = grads;
        let statistics = &self.statistics;
        let given = Given { y, dy, lies: self.lies(to), relu: self.relu };
        let mut sums = vec![T::zero(); n * 2 * padded];
        let images = sums.par_chunks_mut(2 * padded).zip(x.par_chunks(from.len)).enumerate();
        let sum = |k: usize, found: &mut [T], x: &[T], row: &mut Vec<T>, dskip: Option<(&mut [T], Lies)>| {
            arch.dispatch(Sums { statistics, x, from, given: given.image(k), found, dskip, row });
        };
        match (dskip, skip) {
            (Some(dskip), Some((_, layout))) => {
                let lies = self.lies(layout);
                images.zip(dskip.par_chunks_mut(layout.len)).for_each_init(
                    Vec::new,
                    |row, ((k, (found, x)), dskip)| {
                        sum(k, found, x, row, Some((dskip, lies)));
                    },
                );
            }
            _ => images.for_each_init(Vec::new, |row, (k, (found, x))| sum(k, found, x, row, None)),
        }
        let (total, others) = sums.split_at_mut(2 * padded);
        for part in others.chunks(2 * padded) {
            total.iter_mut().zip(part).for_each(|(total, &part)| *total += part);
        }
        let [dweight, dbias] = of_params else { unreachable!("a weight and a bias") };
        dbias.copy_from_slice(&total[..channels]);
        dweight.copy_from_slice(&total[padded..][..channels]);
        let Some(dx) = dx else { return };
        let m = T::of((n * h * w) as f64);
        // Weight times 1 / standard deviation; means of dy and of dy xhat.
        let mut factors = vec![T::zero(); 3 * padded];
        for c in 0..channels {
            factors[c] = params[0][c] * statistics[padded + c];
            factors[padded + c] = total[c] / m;
            factors[2 * padded + c] = total[padded + c] / m;
        }
        let images = dx.par_chunks_mut(from.len).zip(x.par_chunks(from.len)).enumerate();
        images.for_each_init(Vec::new, |row, (k, (dx, x))| {
            arch.dispatch(Input { statistics, factors: &factors, x, from, given: given.image(k), dx, row });
        });
    }

    fn bytes(&self) -> NodeBytes {
        NodeBytes { image: 4 * self.padded() * size_of::<T>(), ..NodeBytes::default() }
    }
}

/// Output and its gradient.
#[derive(Clone, Copy)]
struct Given<'a, T> {
    y: &'a [T],
    dy: &'a [T],
    lies: Lies,
    relu: bool,
}

impl<T: Real> Given<'_, T> {
    fn image(&self, k: usize) -> Self {
        let len = self.lies.layout.len;
        Self { y: &self.y[k * len..][..len], dy: &self.dy[k * len..][..len], ..*self }
    }

    /// Row `i` of the normalised value's gradient, pixel by pixel: 0 where the ReLU gave 0.
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, i: usize, padded: usize, row: &mut Vec<T>) {
        let Lies { layout, in_vectors } = self.lies;
        let [channels, _, columns] = layout.dims;
        row.resize(columns * padded, T::zero());
        if in_vectors {
            let zero = T::splat(simd, T::zero());
            for (j, row) in row.chunks_mut(padded).enumerate() {
                let at = layout.at(0, i, j);
                let [y, dy] = [self.y, self.dy].map(|values| T::vectors::<S>(&values[at..][..padded]));
                for ((to, y), dy) in T::vectors_mut::<S>(row).iter_mut().zip(y).zip(dy) {
                    *to = if self.relu { T::select_le(simd, [*y, zero], zero, *dy) } else { *dy };
                }
            }
            return;
        }
        for (j, row) in row.chunks_mut(padded).enumerate() {
            for (c, to) in row[..channels].iter_mut().enumerate() {
                let at = layout.at(c, i, j);
                *to = if self.relu && self.y[at] <= T::zero() { T::zero() } else { self.dy[at] };
            }
        }
    }
}

/// Writes row `i` of an image, given pixel by pixel.
#[inline(always)]
fn write_row<T: Real>(row: &[T], padded: usize, i: usize, Lies { layout, in_vectors }: Lies, image: &mut [T]) {
    let channels = layout.dims[0];
    for (j, row) in row.chunks(padded).enumerate() {
        match in_vectors {
            true => image[layout.at(0, i, j)..][..padded].copy_from_slice(row),
            false => row[..channels].iter().enumerate().for_each(|(c, &value)| image[layout.at(c, i, j)] = value),
        }
    }
}

/// One image's mean and sum of squared distances, of each channel.
struct Measure<'a, T> {
    x: &'a [T],
    found: &'a mut [T],
}

impl<T: Real> WithSimd for Measure<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let padded = self.found.len() / 2;
        let vectors = padded / const { lanes::<T, S>() };
        let x = T::vectors::<S>(self.x);
        let (means, squares) = self.found.split_at_mut(padded);
        let means = T::vectors_mut::<S>(means).iter_mut();
        let share = T::splat(simd, T::one() / T::of((x.len() / vectors) as f64));
        for (k, (mean, squares)) in means.zip(T::vectors_mut::<S>(squares)).enumerate() {
            let values = || x[k..].iter().step_by(vectors);
            let mut sum = T::splat(simd, T::zero());
            values().for_each(|&x| sum = T::vadd(simd, sum, x));
            let about = T::vmul(simd, sum, share);
            let (mut off, mut sum) = (T::splat(simd, T::zero()), T::splat(simd, T::zero()));
            for &x in values() {
                let distance = T::vsub(simd, x, about);
                off = T::vadd(simd, off, distance);
                sum = T::vmul_add(simd, distance, distance, sum);
            }
            // The distances add up to what rounding did to the mean.
            let correction = T::vmul(simd, off, share);
            *mean = T::vadd(simd, about, correction);
            *squares = T::vsub(simd, sum, T::vmul(simd, off, correction));
        }
    }
}

/// One image normalised, with what is added and the ReLU.
struct Apply<'a, T> {
    statistics: &'a [T],
    scale: &'a [T],
    relu: bool,
    x: &'a [T],
    from: ImageLayout,
    skip: Option<(&'a [T], Lies)>,
    y: &'a mut [T],
    to: Lies,
    row: &'a mut Vec<T>,
}

impl<T: Real> WithSimd for Apply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { statistics, scale, relu, x, from, skip, y, to, row } = self;
        let padded = statistics.len() / 2;
        let [mean, inv] = [0, padded].map(|at| T::vectors::<S>(&statistics[at..][..padded]));
        let [weight, bias] = [0, padded].map(|at| T::vectors::<S>(&scale[at..][..padded]));
        let [channels, rows, columns] = from.dims;
        let zero = T::splat(simd, T::zero());
        row.resize(columns * padded, T::zero());
        for i in 0..rows {
            let in_place = to.in_vectors;
            for j in 0..columns {
                let x = T::vectors::<S>(&x[from.at(0, i, j)..][..padded]);
                let mut added = [zero; 1];
                let pixel =
                    if in_place { &mut y[to.layout.at(0, i, j)..][..padded] } else { &mut row[j * padded..][..padded] };
                let pixel = T::vectors_mut::<S>(pixel);
                for k in 0..pixel.len() {
                    let xhat = T::vmul(simd, T::vsub(simd, x[k], mean[k]), inv[k]);
                    let mut value = T::vmul_add(simd, weight[k], xhat, bias[k]);
                    if let Some((skip, lies)) = skip {
                        let width = const { lanes::<T, S>() };
                        if lies.in_vectors {
                            added[0] = T::vectors::<S>(&skip[lies.layout.at(k * width, i, j)..][..width])[0];
                        } else {
                            let values = bytemuck::cast_slice_mut::<_, T>(&mut added);
                            for (c, to) in (k * width..channels.min((k + 1) * width)).zip(values) {
                                *to = skip[lies.layout.at(c, i, j)];
                            }
                        }
                        value = T::vadd(simd, value, added[0]);
                    }
                    pixel[k] = if relu { T::select_le(simd, [value, zero], zero, value) } else { value };
                }
            }
            if !in_place {
                write_row(row, padded, i, to, y);
            }
        }
    }
}

/// One image's sums of the gradient, and of it times the normalised input; what is added has the gradient.
struct Sums<'a, T> {
    statistics: &'a [T],
    x: &'a [T],
    from: ImageLayout,
    given: Given<'a, T>,
    found: &'a mut [T],
    dskip: Option<(&'a mut [T], Lies)>,
    row: &'a mut Vec<T>,
}

impl<T: Real> WithSimd for Sums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { statistics, x, from, given, found, mut dskip, row } = self;
        let padded = found.len() / 2;
        let [mean, inv] = [0, padded].map(|at| T::vectors::<S>(&statistics[at..][..padded]));
        let (of_bias, of_weight) = found.split_at_mut(padded);
        let [of_bias, of_weight] = [of_bias, of_weight].map(|sums| T::vectors_mut::<S>(sums));
        let [_, rows, columns] = from.dims;
        for i in 0..rows {
            given.row::<S>(simd, i, padded, row);
            for j in 0..columns {
                let x = T::vectors::<S>(&x[from.at(0, i, j)..][..padded]);
                let gradient = T::vectors::<S>(&row[j * padded..][..padded]);
                for k in 0..gradient.len() {
                    let xhat = T::vmul(simd, T::vsub(simd, x[k], mean[k]), inv[k]);
                    of_bias[k] = T::vadd(simd, of_bias[k], gradient[k]);
                    of_weight[k] = T::vmul_add(simd, gradient[k], xhat, of_weight[k]);
                }
            }
            if let Some((dskip, lies)) = &mut dskip {
                write_row(row, padded, i, *lies, dskip);
            }
        }
    }
}

/// One image's gradient of the input.
struct Input<'a, T> {
    statistics: &'a [T],
    factors: &'a [T],
    x: &'a [T],
    from: ImageLayout,
    given: Given<'a, T>,
    dx: &'a mut [T],
    row: &'a mut Vec<T>,
}

impl<T: Real> WithSimd for Input<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { statistics, factors, x, from, given, dx, row } = self;
        let padded = statistics.len() / 2;
        let [mean, inv] = [0, padded].map(|at| T::vectors::<S>(&statistics[at..][..padded]));
        let [scale, of_bias, of_weight] = [0, 1, 2].map(|part| T::vectors::<S>(&factors[part * padded..][..padded]));
        let [_, rows, columns] = from.dims;
        for i in 0..rows {
            given.row::<S>(simd, i, padded, row);
            for j in 0..columns {
                let at = from.at(0, i, j);
                let x = T::vectors::<S>(&x[at..][..padded]);
                let gradient = T::vectors::<S>(&row[j * padded..][..padded]);
                let dx = T::vectors_mut::<S>(&mut dx[at..][..padded]);
                for k in 0..dx.len() {
                    let xhat = T::vmul(simd, T::vsub(simd, x[k], mean[k]), inv[k]);
                    let away = T::vsub(simd, gradient[k], of_bias[k]);
                    let away = T::vsub(simd, away, T::vmul(simd, xhat, of_weight[k]));
                    dx[k] = T::vmul(simd, scale[k], away);
                }
            }
        }
    }
}
