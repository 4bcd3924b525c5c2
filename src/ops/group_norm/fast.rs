//! A group norm on the fast CPU path, with the addition of a residual block and the ReLU that follow it. Formulas:
//! [`super`]. Inputs lie pixel by pixel, in vectors of channels; the passes over an image are those of a batch norm
//! ([`crate::ops::batch_norm2d::fast_image`]) with statistics of its own: mean and squared distances of each channel,
//! joined in their order.

use pulp::Arch;
use rayon::prelude::*;

use super::GroupNorm;
use crate::layer::{Following, ImageLayout, Mode, Node, NodeBatch, NodeBytes, NodeGradients, grow};
use crate::ops::batch_norm2d::fast::fill;
use crate::ops::batch_norm2d::fast_image::{Added, Apply, Input, Lies, Measure, OutputGradient, Relued, Sums};
use crate::real::Real;

/// The node, and how many layers it takes along.
pub fn node<T: Real>(dims: &GroupNorm, following: &Following) -> (Box<dyn Node<T>>, usize) {
    let (relu, taken) = Relued::of(following.ops);
    let lanes = following.lanes::<T>();
    (Box::new(Norm { dims: *dims, relu, lanes, statistics: vec![], scale: vec![] }), taken)
}

/// The norm and what is taken along.
struct Norm<T> {
    dims: GroupNorm,
    relu: Relued,
    lanes: usize,
    /// Of each image mean, then 1 / standard deviation, of each channel's group, filled up to whole vectors.
    statistics: Vec<T>,
    /// Weight, then bias, of each channel, filled up likewise.
    scale: Vec<T>,
}

impl<T: Real> Norm<T> {
    fn padded(&self) -> usize {
        self.dims.image[0].next_multiple_of(self.lanes)
    }

    fn layout(&self) -> ImageLayout {
        ImageLayout::pixels(self.dims.image, [0, 0], self.padded(), 0)
    }

    fn lies(&self, layout: ImageLayout) -> Lies {
        let stride = layout.column_stride;
        let in_vectors = layout.channel_stride == 1 && stride.is_multiple_of(self.lanes) && stride >= self.padded();
        Lies { layout, in_vectors }
    }

    /// From mean and squared distances of each channel to mean and 1 / standard deviation of its group.
    fn join(&self, statistics: &mut [T]) {
        let (means, squares) = statistics.split_at_mut(statistics.len() / 2);
        let [plane, m, eps] = [self.dims.plane() as f64, self.dims.group_len() as f64, self.dims.eps].map(T::of);
        let channels = self.dims.channels_of_group();
        let groups = means.chunks_exact_mut(channels).zip(squares.chunks_exact_mut(channels));
        for (means, squares) in groups.take(self.dims.num_groups) {
            let first = means[0];
            let mean = first + plane * means.iter().map(|&mean| mean - first).sum::<T>() / m;
            let of = |(&own, &squares): (&T, &T)| squares + plane * (own - mean) * (own - mean);
            let all = means.iter().zip(&*squares).map(of).sum::<T>();
            means.fill(mean);
            squares.fill(T::one() / (all / m + eps).sqrt());
        }
    }

    /// What an image's gradient is made of ([`Input`]): `inv weight`, then `inv` times the means of g and of g xhat,
    /// where g = weight dy. `sums`: of each channel, of dy and of dy xhat.
    fn factors(&self, sums: &[T], statistics: &[T]) -> Vec<T> {
        let padded = self.padded();
        let m = T::of(self.dims.group_len() as f64);
        let mut factors = vec![T::zero(); 3 * padded];
        let channels = self.dims.channels_of_group();
        for first in (0..self.dims.image[0]).step_by(channels) {
            let group = first..first + channels;
            let [of_g, of_both] =
                [0, padded].map(|at| group.clone().map(|c| self.scale[c] * sums[at + c]).sum::<T>() / m);
            for c in group {
                let inv = statistics[padded + c];
                (factors[c], factors[padded + c], factors[2 * padded + c]) =
                    (inv * self.scale[c], inv * of_g, inv * of_both);
            }
        }
        factors
    }

    /// One image's sums of dy and of dy xhat, of each channel; what is added has the gradient.
    fn sums(
        &self,
        arch: Arch,
        k: usize,
        x: &[T],
        given: OutputGradient<T>,
        dskip: Option<(&mut [T], Lies)>,
        (found, row): (&mut [T], &mut Vec<T>),
    ) {
        let Self { relu, scale, .. } = self;
        let (statistics, from) = (self.of_image(k), self.layout());
        arch.dispatch(Sums { statistics, scale, relu: *relu, x, from, given: given.image(k), found, dskip, row });
    }

    fn of_image(&self, k: usize) -> &[T] {
        &self.statistics[k * 2 * self.padded()..][..2 * self.padded()]
    }
}

impl<T: Real> Node<T> for Norm<T> {
    fn reads(&self) -> Option<ImageLayout> {
        Some(self.layout())
    }

    fn prefers_added(&self) -> Option<ImageLayout> {
        Some(self.layout())
    }

    fn give(&mut self, _layout: &ImageLayout) -> bool {
        true
    }

    fn pack(&mut self, params: &[&[T]], _buffers: &[&[T]], _mode: Mode) {
        let padded = self.padded();
        fill(&mut self.scale, padded, [params[0], params[1]]);
    }

    fn forward(&mut self, batch: NodeBatch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { n, arch, from, to, x, skip, .. } = batch;
        let each = 2 * self.padded();
        let mut all = std::mem::take(&mut self.statistics);
        grow(&mut all, n * each);
        let (added, to) = (skip.map(|(values, layout)| Added { values, lies: self.lies(layout) }), self.lies(to));
        let norm = &*self;
        let images = y.par_chunks_mut(to.layout.len).zip(x.par_chunks(from.len)).zip(all.par_chunks_mut(each));
        images.enumerate().for_each_init(Vec::new, |row, (k, ((y, x), statistics))| {
            arch.dispatch(Measure { x, found: &mut *statistics });
            norm.join(statistics);
            let (relu, added) = (norm.relu != Relued::No, added.map(|added| added.image(k)));
            arch.dispatch(Apply { statistics, scale: &norm.scale, relu, x, from, added, y, to, row });
        });
        self.statistics = all;
    }

    fn backward(&self, batch: NodeBatch<T>, y: &[T], dy: &[T], grads: NodeGradients<T>) {
        let NodeBatch { n, arch, from, to, x, skip, .. } = batch;
        let NodeGradients { dx, dskip, params, .. } = grads;
        let (padded, channels) = (self.padded(), self.dims.image[0]);
        let given = OutputGradient { y, dy, lies: self.lies(to) };
        let mut sums = vec![T::zero(); n * 2 * padded];
        let images = sums.par_chunks_mut(2 * padded).zip(x.par_chunks(from.len)).enumerate();
        match dskip.zip(skip) {
            Some((dskip, (_, layout))) => {
                let lies = self.lies(layout);
                let images = images.zip(dskip.par_chunks_mut(layout.len));
                images.for_each_init(Vec::new, |row, ((k, (found, x)), dskip)| {
                    self.sums(arch, k, x, given, Some((dskip, lies)), (found, row));
                });
            }
            None => images.for_each_init(Vec::new, |row, (k, (found, x))| {
                self.sums(arch, k, x, given, None, (found, row));
            }),
        }
        let [dweight, dbias] = params else { unreachable!("a weight and a bias") };
        for (sums, grads) in [(0, &mut *dbias), (padded, &mut *dweight)].map(|(at, grads)| (&sums[at..], grads)) {
            grads.fill(T::zero());
            for image in sums.chunks(2 * padded) {
                grads.iter_mut().zip(&image[..channels]).for_each(|(sum, &part)| *sum += part);
            }
        }
        let (Some(dx), lies) = (dx, self.lies(from)) else { return };
        let images = dx.par_chunks_mut(from.len).zip(x.par_chunks(from.len)).zip(sums.par_chunks(2 * padded));
        images.enumerate().for_each_init(Vec::new, |row, (k, ((dx, x), sums))| {
            let (statistics, given) = (self.of_image(k), given.image(k));
            let (factors, Self { relu, scale, .. }) = (&self.factors(sums, statistics), self);
            arch.dispatch(Input { statistics, scale, factors, relu: *relu, x, from, given, dx, to: lies, row });
        });
    }

    fn bytes(&self) -> NodeBytes {
        NodeBytes { image: 4 * self.padded() * size_of::<T>(), ..NodeBytes::default() }
    }
}
