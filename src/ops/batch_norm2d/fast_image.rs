//! The passes of a batch norm's fast form over one image, a row of pixels after another. A group norm's
//! ([`crate::ops::group_norm`]) are the same: there the statistics are the image's own.

use std::sync::Arc;

use pulp::{Simd, WithSimd};

use crate::layer::{ImageLayout, Op};
use crate::ops::relu::Relu;
use crate::ops::residual::Residual;
use crate::real::{Real, lanes};

/// Whether a ReLU follows, and how the backward pass knows where it gave 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relued {
    /// None follows.
    No,
    /// By the normalised value, computed again: the same bits, and the output is not read.
    Alone,
    /// By the output: what was added is not at hand.
    WithAddition,
}

/// Images as the kernels read or write them.
#[derive(Clone, Copy, Debug)]
pub struct Lies {
    /// Where the numbers are.
    pub layout: ImageLayout,
    /// Whether whole vectors of channels lie side by side.
    pub in_vectors: bool,
}

/// What is added to the normalised images.
#[derive(Clone, Copy, Debug)]
pub struct Added<'a, T> {
    /// Of the batch, or of one image.
    pub values: &'a [T],
    /// How each image lies.
    pub lies: Lies,
}

impl Relued {
    /// What stands behind a norm that takes an addition and a ReLU along, and how many layers these are.
    pub fn of(following: &[Arc<dyn Op>]) -> (Self, usize) {
        let adds = following.first().is_some_and(|op| op.is::<Residual>().is_some());
        let relu = following.get(usize::from(adds)).is_some_and(|op| op.is::<Relu>().is_some());
        let of = match (relu, adds) {
            (false, _) => Self::No,
            (true, false) => Self::Alone,
            (true, true) => Self::WithAddition,
        };
        (of, usize::from(adds) + usize::from(relu))
    }
}

impl<T> Added<'_, T> {
    /// That of one image of the batch.
    #[must_use]
    pub fn image(&self, k: usize) -> Self {
        let len = self.lies.layout.len;
        Self { values: &self.values[k * len..][..len], ..*self }
    }
}

/// Output and its gradient, of the batch or of one image.
#[derive(Clone, Copy, Debug)]
pub struct OutputGradient<'a, T> {
    /// The output.
    pub y: &'a [T],
    /// Its gradient.
    pub dy: &'a [T],
    /// How each image of both lies.
    pub lies: Lies,
}

impl<T> OutputGradient<'_, T> {
    /// Those of one image of the batch.
    #[must_use]
    pub fn image(&self, k: usize) -> Self {
        let len = self.lies.layout.len;
        Self { y: &self.y[k * len..][..len], dy: &self.dy[k * len..][..len], ..*self }
    }
}

/// Row `i` of an image that lies in vectors, from its first vector on, and the vectors from a pixel to the next.
#[inline(always)]
fn row_of<'a, S: Simd, T: Real>(values: &'a [T], layout: &ImageLayout, i: usize) -> (&'a [T::Vector<S>], usize) {
    let lanes = const { lanes::<T, S>() };
    let (len, step) = (layout.dims[2] * layout.column_stride, layout.column_stride / lanes);
    (T::vectors::<S>(&values[layout.at(0, i, 0)..][..len]), step)
}

/// As [`row_of`], to write to.
#[inline(always)]
fn row_of_mut<'a, S: Simd, T: Real>(
    values: &'a mut [T],
    layout: &ImageLayout,
    i: usize,
) -> (&'a mut [T::Vector<S>], usize) {
    let lanes = const { lanes::<T, S>() };
    let (len, step) = (layout.dims[2] * layout.column_stride, layout.column_stride / lanes);
    (T::vectors_mut::<S>(&mut values[layout.at(0, i, 0)..][..len]), step)
}

/// Copies row `i` of an image that does not lie in vectors to `row`, pixel by pixel.
#[inline(always)]
fn read_row<T: Real>(image: &[T], layout: &ImageLayout, i: usize, padded: usize, row: &mut [T]) {
    for (j, row) in row.chunks_mut(padded).enumerate() {
        row.iter_mut().take(layout.dims[0]).enumerate().for_each(|(c, to)| *to = image[layout.at(c, i, j)]);
    }
}

/// The other way round.
#[inline(always)]
fn write_row<T: Real>(row: &[T], layout: &ImageLayout, i: usize, padded: usize, image: &mut [T]) {
    for (j, row) in row.chunks(padded).enumerate() {
        row.iter().take(layout.dims[0]).enumerate().for_each(|(c, &value)| image[layout.at(c, i, j)] = value);
    }
}

/// Room for a row in two parts; empty where nothing needs it.
#[inline(always)]
fn split_row<T>(row: &mut [T], len: usize) -> (&mut [T], &mut [T]) {
    row.split_at_mut(len.min(row.len()))
}

/// One image's mean and sum of squared distances, of each channel.
pub(crate) struct Measure<'a, T> {
    pub x: &'a [T],
    pub found: &'a mut [T],
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
pub(crate) struct Apply<'a, T> {
    pub statistics: &'a [T],
    pub scale: &'a [T],
    pub relu: bool,
    pub x: &'a [T],
    pub from: ImageLayout,
    pub added: Option<Added<'a, T>>,
    pub y: &'a mut [T],
    pub to: Lies,
    pub row: &'a mut Vec<T>,
}

impl<T: Real> WithSimd for Apply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { statistics, scale, relu, x, from, added, y, to, row } = self;
        let padded = statistics.len() / 2;
        let [mean, inv] = [0, padded].map(|at| T::vectors::<S>(&statistics[at..][..padded]));
        let [weight, bias] = [0, padded].map(|at| T::vectors::<S>(&scale[at..][..padded]));
        let [_, rows, columns] = from.dims;
        let (len, vectors) = (columns * padded, mean.len());
        // What is added, and what is written, where they do not lie in vectors.
        if !(to.in_vectors && added.is_none_or(|added| added.lies.in_vectors)) {
            row.resize(2 * len, T::zero());
        }
        let (row_added, row_y) = split_row(row, len);
        let zero = T::splat(simd, T::zero());
        for i in 0..rows {
            let (x, _) = row_of::<S, T>(x, &from, i);
            let added = added.map(|Added { values, lies }| {
                if lies.in_vectors {
                    return row_of::<S, T>(values, &lies.layout, i);
                }
                read_row(values, &lies.layout, i, padded, row_added);
                (T::vectors::<S>(&*row_added), vectors)
            });
            let (out, step) = match to.in_vectors {
                true => row_of_mut::<S, T>(y, &to.layout, i),
                false => (T::vectors_mut::<S>(row_y), vectors),
            };
            for k in 0..vectors {
                let (mean, inv, weight, bias) = (mean[k], inv[k], weight[k], bias[k]);
                for j in 0..columns {
                    let xhat = T::vmul(simd, T::vsub(simd, x[j * vectors + k], mean), inv);
                    let mut value = T::vmul_add(simd, weight, xhat, bias);
                    if let Some((added, step)) = added {
                        value = T::vadd(simd, value, added[j * step + k]);
                    }
                    out[j * step + k] = if relu { T::select_le(simd, [value, zero], zero, value) } else { value };
                }
            }
            if !to.in_vectors {
                write_row(row_y, &to.layout, i, padded, y);
            }
        }
    }
}

/// Row `i` of the output and of its gradient, and the vectors from a pixel to the next. `row` has room for both where
/// they do not lie in vectors.
#[inline(always)]
fn given_row<'a, S: Simd, T: Real>(
    given: &OutputGradient<'a, T>,
    relu: Relued,
    i: usize,
    padded: usize,
    row: &'a mut [T],
) -> ([&'a [T::Vector<S>]; 2], usize) {
    let OutputGradient { y, dy, lies: Lies { layout, in_vectors } } = *given;
    if in_vectors {
        let (dy, step) = row_of::<S, T>(dy, &layout, i);
        return ([row_of::<S, T>(y, &layout, i).0, dy], step);
    }
    let (row_y, row_dy) = row.split_at_mut(layout.dims[2] * padded);
    if relu == Relued::WithAddition {
        read_row(y, &layout, i, padded, row_y);
    }
    read_row(dy, &layout, i, padded, row_dy);
    ([T::vectors::<S>(row_y), T::vectors::<S>(row_dy)], padded / const { lanes::<T, S>() })
}

/// The gradient `dy` of what the ReLU got, whose output is `y` and which follows the normalised `xhat`.
#[inline(always)]
fn unless_cut<S: Simd, T: Real>(
    simd: S,
    relu: Relued,
    [weight, bias]: [T::Vector<S>; 2],
    [xhat, y, dy]: [T::Vector<S>; 3],
) -> T::Vector<S> {
    let zero = T::splat(simd, T::zero());
    match relu {
        Relued::No => dy,
        Relued::Alone => T::select_le(simd, [T::vmul_add(simd, weight, xhat, bias), zero], zero, dy),
        Relued::WithAddition => T::select_le(simd, [y, zero], zero, dy),
    }
}

/// One image's sums of the gradient, and of it times the normalised input; what is added has the gradient.
pub(crate) struct Sums<'a, T> {
    pub statistics: &'a [T],
    pub scale: &'a [T],
    pub relu: Relued,
    pub x: &'a [T],
    pub from: ImageLayout,
    pub given: OutputGradient<'a, T>,
    pub found: &'a mut [T],
    pub dskip: Option<(&'a mut [T], Lies)>,
    pub row: &'a mut Vec<T>,
}

impl<T: Real> WithSimd for Sums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { statistics, scale, relu, x, from, given, found, mut dskip, row } = self;
        let padded = found.len() / 2;
        let [mean, inv] = [0, padded].map(|at| T::vectors::<S>(&statistics[at..][..padded]));
        let (of_bias, of_weight) = found.split_at_mut(padded);
        let [of_bias, of_weight] = [of_bias, of_weight].map(|sums| T::vectors_mut::<S>(sums));
        let [_, rows, columns] = from.dims;
        let (len, vectors) = (columns * padded, mean.len());
        let [weight, bias] = [0, padded].map(|at| T::vectors::<S>(&scale[at..][..padded]));
        if !(given.lies.in_vectors && dskip.as_ref().is_none_or(|(_, lies)| lies.in_vectors)) {
            row.resize(3 * len, T::zero());
        }
        let (row, row_skip) = split_row(row, 2 * len);
        for i in 0..rows {
            let (x, _) = row_of::<S, T>(x, &from, i);
            let ([y, dy], step) = given_row::<S, T>(&given, relu, i, padded, row);
            let skip_in_vectors = dskip.as_ref().is_some_and(|(_, lies)| lies.in_vectors);
            let mut skip = match &mut dskip {
                Some((dskip, lies)) if lies.in_vectors => Some(row_of_mut::<S, T>(dskip, &lies.layout, i)),
                Some(_) => Some((T::vectors_mut::<S>(&mut *row_skip), vectors)),
                None => None,
            };
            for k in 0..vectors {
                let (mean, inv, scale) = (mean[k], inv[k], [weight[k], bias[k]]);
                let (mut sum, mut sum_xhat) = (of_bias[k], of_weight[k]);
                for j in 0..columns {
                    let at = j * step + k;
                    let xhat = T::vmul(simd, T::vsub(simd, x[j * vectors + k], mean), inv);
                    let gradient = unless_cut::<S, T>(simd, relu, scale, [xhat, y[at], dy[at]]);
                    sum = T::vadd(simd, sum, gradient);
                    sum_xhat = T::vmul_add(simd, gradient, xhat, sum_xhat);
                    if let Some((skip, step)) = &mut skip {
                        skip[j * *step + k] = gradient;
                    }
                }
                (of_bias[k], of_weight[k]) = (sum, sum_xhat);
            }
            if let (Some((dskip, lies)), false) = (&mut dskip, skip_in_vectors) {
                write_row(row_skip, &lies.layout, i, padded, dskip);
            }
        }
    }
}

/// One image's gradient of the input: `a dy - b - c xhat`, with `factors` a, b and c of each channel.
pub(crate) struct Input<'a, T> {
    pub statistics: &'a [T],
    pub scale: &'a [T],
    pub factors: &'a [T],
    pub relu: Relued,
    pub x: &'a [T],
    pub from: ImageLayout,
    pub given: OutputGradient<'a, T>,
    pub dx: &'a mut [T],
    pub to: Lies,
    pub row: &'a mut Vec<T>,
}

impl<T: Real> WithSimd for Input<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { statistics, scale, factors, relu, x, from, given, dx, to, row } = self;
        let padded = statistics.len() / 2;
        let [mean, inv] = [0, padded].map(|at| T::vectors::<S>(&statistics[at..][..padded]));
        let [factor, of_bias, of_weight] = [0, 1, 2].map(|part| T::vectors::<S>(&factors[part * padded..][..padded]));
        let [_, rows, columns] = from.dims;
        let (len, vectors) = (columns * padded, mean.len());
        let [weight, bias] = [0, padded].map(|at| T::vectors::<S>(&scale[at..][..padded]));
        if !(given.lies.in_vectors && to.in_vectors) {
            row.resize(3 * len, T::zero());
        }
        let (row, row_dx) = split_row(row, 2 * len);
        for i in 0..rows {
            let (x, _) = row_of::<S, T>(x, &from, i);
            let ([y, dy], step) = given_row::<S, T>(&given, relu, i, padded, row);
            let (out, out_step) = match to.in_vectors {
                true => row_of_mut::<S, T>(dx, &to.layout, i),
                false => (T::vectors_mut::<S>(&mut *row_dx), vectors),
            };
            for k in 0..vectors {
                let (mean, inv, own) = (mean[k], inv[k], [weight[k], bias[k]]);
                let (factor, of_bias, of_weight) = (factor[k], of_bias[k], of_weight[k]);
                for j in 0..columns {
                    let at = j * step + k;
                    let xhat = T::vmul(simd, T::vsub(simd, x[j * vectors + k], mean), inv);
                    let gradient = unless_cut::<S, T>(simd, relu, own, [xhat, y[at], dy[at]]);
                    let away = T::vsub(simd, T::vmul(simd, factor, gradient), of_bias);
                    out[j * out_step + k] = T::vsub(simd, away, T::vmul(simd, xhat, of_weight));
                }
            }
            if !to.in_vectors {
                write_row(row_dx, &to.layout, i, padded, dx);
            }
        }
    }
}
