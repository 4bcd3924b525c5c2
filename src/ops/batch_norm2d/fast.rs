//! A batch norm on the fast CPU path, with the addition of a residual block and the ReLU that follow it: as a node of
//! its own, and as the parts that a convolution's node calls ([`crate::ops::conv2d::fast`]). Formulas: [`super`].
//!
//! Inputs lie pixel by pixel, in vectors of channels, an image after another. Mean and squared distances are those of
//! each image, which are then joined in their order (Chan et al. 1983): the batch is read once for them, and the
//! threads decide no bit. The ReLU's backward pass, the addition's and both sums are one pass.

use std::sync::Arc;

use pulp::Arch;
use rayon::prelude::*;

use super::BatchNorm2d;
use super::fast_image::{Added, Apply, Input, Lies, Measure, OutputGradient, Relued, Sums};
use crate::layer::{Following, ImageLayout, Mode, Node, NodeBatch, NodeBytes, NodeGradients, Op, grow};
use crate::real::Real;

/// The node, and how many layers it takes along.
pub fn node<T: Real>(dims: &BatchNorm2d, following: &Following) -> (Box<dyn Node<T>>, usize) {
    let (norm, taken) = Norm::new(dims, following.ops, following.lanes::<T>());
    (Box::new(Alone(norm)), taken)
}

/// A batch norm and what is taken along.
pub struct Norm<T> {
    dims: BatchNorm2d,
    relu: Relued,
    lanes: usize,
    /// Mean, then 1 / standard deviation, of each channel, filled up to whole vectors.
    statistics: Vec<T>,
    /// Of each image, mean and sum of squared distances of each channel.
    images: Vec<T>,
    /// Weight, then bias, of each channel, filled up likewise.
    scale: Vec<T>,
}

impl<T: Real> Norm<T> {
    /// The norm with the layers behind it that it takes along, and how many these are.
    pub fn new(dims: &BatchNorm2d, following: &[Arc<dyn Op>], lanes: usize) -> (Self, usize) {
        let (relu, taken) = Relued::of(following);
        (Self { dims: *dims, relu, lanes, statistics: vec![], images: vec![], scale: vec![] }, taken)
    }

    fn padded(&self) -> usize {
        self.dims.image[0].next_multiple_of(self.lanes)
    }

    /// How its input lies.
    pub fn layout(&self) -> ImageLayout {
        ImageLayout::pixels(self.dims.image, [0, 0], self.padded(), 0)
    }

    /// Whether images of this layout are read and written in vectors.
    pub fn lies(&self, layout: ImageLayout) -> Lies {
        let stride = layout.column_stride;
        let in_vectors = layout.channel_stride == 1 && stride.is_multiple_of(self.lanes) && stride >= self.padded();
        Lies { layout, in_vectors }
    }

    /// Numbers that an image of a batch takes, beside what it is normalised from and to.
    pub fn numbers_an_image(&self) -> usize {
        4 * self.padded()
    }

    /// Takes over weight and bias.
    pub fn pack(&mut self, params: &[&[T]]) {
        let padded = self.padded();
        fill(&mut self.scale, padded, [params[0], params[1]]);
    }

    /// Whether a ReLU is taken along.
    pub fn has_relu(&self) -> bool {
        self.relu != Relued::No
    }

    /// Weight and bias of a convolution `w [c_out, ...]`, `b [c_out]` (or none) that gives what the norm by the running
    /// statistics makes of its output: `w' = f w`, `b' = bias + f (b - mean)` with `f = weight / sqrt(var + eps)`.
    pub fn fold(&self, params: &[&[T]], buffers: &[&[T]], w: &[T], b: &[T]) -> [Vec<T>; 2] {
        let channels = self.dims.image[0];
        let wide = |of: &[T], c: usize| of[c].wide();
        let factor = |c: usize| wide(params[0], c) / (wide(buffers[1], c) + self.dims.eps).sqrt();
        let factors: Vec<f64> = (0..channels).map(factor).collect();
        let own = |c: usize| b.get(c).map_or(0.0, |b| b.wide());
        let bias = |c: usize| T::of(wide(params[1], c) + factors[c] * (own(c) - wide(buffers[0], c)));
        let rows = w.chunks(w.len() / channels).zip(&factors);
        let folded = rows.flat_map(|(row, factor)| row.iter().map(move |w| T::of(w.wide() * factor))).collect();
        [folded, (0..channels).map(bias).collect()]
    }

    /// Normalises by the running statistics from now on.
    pub fn use_running(&mut self, buffers: &[&mut [T]]) {
        let inv = |&var: &T| T::one() / (var + T::of(self.dims.eps)).sqrt();
        let inv: Vec<T> = buffers[1].iter().map(inv).collect();
        let padded = self.padded();
        fill(&mut self.statistics, padded, [&*buffers[0], &inv]);
    }

    /// Where the statistics of `n` images go, those of each side by side.
    pub fn measured(&mut self, n: usize) -> &mut [T] {
        let len = n * 2 * self.padded();
        grow(&mut self.images, len);
        &mut self.images[..len]
    }

    /// One image's statistics.
    pub fn measure(arch: Arch, x: &[T], found: &mut [T]) {
        arch.dispatch(Measure { x, found });
    }

    /// Joins the images' means and squared distances; normalises by what they give from now on.
    pub fn join(&mut self, n: usize, running: &mut [&mut [T]]) {
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

    /// Normalises one image.
    pub fn apply(&self, arch: Arch, x: &[T], added: Option<Added<T>>, y: &mut [T], to: Lies, row: &mut Vec<T>) {
        let Self { statistics, scale, relu, .. } = self;
        let relu = *relu != Relued::No;
        arch.dispatch(Apply { statistics, scale, relu, x, from: self.layout(), added, y, to, row });
    }

    /// The gradients of weight and bias to `grads`, and that of what is added; what [`Self::input_gradient`] needs.
    pub fn factors(
        &self,
        arch: Arch,
        n: usize,
        x: &[T],
        given: OutputGradient<T>,
        dskip: Option<(&mut [T], Lies)>,
        grads: &mut [&mut [T]],
    ) -> Vec<T> {
        let padded = self.padded();
        let [channels, h, w] = self.dims.image;
        let (from, Self { statistics, scale, relu, .. }) = (self.layout(), self);
        let mut sums = vec![T::zero(); n * 2 * padded];
        let images = sums.par_chunks_mut(2 * padded).zip(x.par_chunks(from.len)).enumerate();
        let sum = |k: usize, found: &mut [T], x: &[T], row: &mut Vec<T>, dskip: Option<(&mut [T], Lies)>| {
            arch.dispatch(Sums { statistics, scale, relu: *relu, x, from, given: given.image(k), found, dskip, row });
        };
        match dskip {
            Some((dskip, lies)) => {
                let images = images.zip(dskip.par_chunks_mut(lies.layout.len));
                images.for_each_init(Vec::new, |row, ((k, (found, x)), dskip)| {
                    sum(k, found, x, row, Some((dskip, lies)));
                });
            }
            None => images.for_each_init(Vec::new, |row, (k, (found, x))| sum(k, found, x, row, None)),
        }
        let (total, others) = sums.split_at_mut(2 * padded);
        for part in others.chunks(2 * padded) {
            total.iter_mut().zip(part).for_each(|(total, &part)| *total += part);
        }
        let [dweight, dbias] = grads else { unreachable!("a weight and a bias") };
        dbias.copy_from_slice(&total[..channels]);
        dweight.copy_from_slice(&total[padded..][..channels]);
        let m = T::of((n * h * w) as f64);
        // Weight times 1 / standard deviation; this times the means of dy and of dy xhat.
        let mut factors = vec![T::zero(); 3 * padded];
        for c in 0..channels {
            factors[c] = self.scale[c] * statistics[padded + c];
            factors[padded + c] = factors[c] * (total[c] / m);
            factors[2 * padded + c] = factors[c] * (total[padded + c] / m);
        }
        factors
    }

    /// One image's gradient of the input, to pixels that lie as `to` says.
    #[expect(clippy::too_many_arguments, reason = "what it reads, and where it writes")]
    pub fn input_gradient(
        &self,
        arch: Arch,
        factors: &[T],
        x: &[T],
        given: OutputGradient<T>,
        dx: &mut [T],
        to: Lies,
        row: &mut Vec<T>,
    ) {
        let (from, Self { statistics, scale, relu, .. }) = (self.layout(), self);
        arch.dispatch(Input { statistics, scale, factors, relu: *relu, x, from, given, dx, to, row });
    }
}

/// Each channel's two numbers, filled up with zeros.
pub fn fill<T: Real>(to: &mut Vec<T>, padded: usize, numbers: [&[T]; 2]) {
    to.clear();
    to.resize(2 * padded, T::zero());
    for (to, numbers) in to.chunks_mut(padded).zip(numbers) {
        to[..numbers.len()].copy_from_slice(numbers);
    }
}

/// A batch norm whose input no convolution before it computes.
struct Alone<T>(Norm<T>);

impl<T: Real> Node<T> for Alone<T> {
    fn reads(&self) -> Option<ImageLayout> {
        Some(self.0.layout())
    }

    fn prefers_added(&self) -> Option<ImageLayout> {
        Some(self.0.layout())
    }

    fn give(&mut self, _layout: &ImageLayout) -> bool {
        true
    }

    fn pack(&mut self, params: &[&[T]], _buffers: &[&[T]], _mode: Mode) {
        self.0.pack(params);
    }

    fn forward(&mut self, batch: NodeBatch<T>, mode: Mode, buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { n, arch, from, to, x, skip, .. } = batch;
        let norm = &mut self.0;
        match mode {
            Mode::Training => {
                let measured = norm.measured(n);
                let each = measured.len() / n;
                let images = measured.par_chunks_mut(each).zip(x.par_chunks(from.len));
                images.for_each(|(found, x)| Norm::measure(arch, x, found));
                norm.join(n, buffers);
            }
            Mode::Inference => norm.use_running(buffers),
        }
        let norm = &*norm;
        let added = skip.map(|(values, layout)| Added { values, lies: norm.lies(layout) });
        let to = norm.lies(to);
        let images = y.par_chunks_mut(to.layout.len).zip(x.par_chunks(from.len)).enumerate();
        images.for_each_init(Vec::new, |row, (k, (y, x))| {
            norm.apply(arch, x, added.map(|added| added.image(k)), y, to, row);
        });
    }

    fn backward(&self, batch: NodeBatch<T>, y: &[T], dy: &[T], grads: NodeGradients<T>) {
        let NodeBatch { n, arch, from, to, x, skip, .. } = batch;
        let NodeGradients { dx, dskip, params, .. } = grads;
        let norm = &self.0;
        let given = OutputGradient { y, dy, lies: norm.lies(to) };
        let dskip = dskip.zip(skip).map(|(dskip, (_, layout))| (dskip, norm.lies(layout)));
        let factors = norm.factors(arch, n, x, given, dskip, params);
        let Some(dx) = dx else { return };
        let lies = norm.lies(from);
        let images = dx.par_chunks_mut(from.len).zip(x.par_chunks(from.len)).enumerate();
        images.for_each_init(Vec::new, |row, (k, (dx, x))| {
            norm.input_gradient(arch, &factors, x, given.image(k), dx, lies, row);
        });
    }

    fn bytes(&self) -> NodeBytes {
        NodeBytes { image: self.0.numbers_an_image() * size_of::<T>(), ..NodeBytes::default() }
    }
}
