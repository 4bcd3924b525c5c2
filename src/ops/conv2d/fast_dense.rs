//! A convolution as a node of the fast path where nothing that is left out of the gradient follows it (a ReLU, a
//! pooling: [`super::fast`]): alone, or with the batch norm behind it, and with the addition and the ReLU behind that.
//!
//! With a batch norm the convolution's output is measured while it is in cache, an image after another. In the
//! backward pass its gradient is not written down for the whole batch: a few images' goes from the norm to the
//! convolution. For an answer the norm by its running statistics is part of the packed weight, and there is no pass
//! of its own.

use pulp::Arch;
use rayon::prelude::*;

use super::Conv2d;
use super::fast_depthwise::Depthwise;
use super::fast_direct::Direct;
use super::fast_grouped::Grouped;
use super::fast_images::{After, Convolve, Room, add, add_all, chunks};
use super::winograd::Winograd;
use crate::layer::{
    Aligned, Following, ImageLayout, MAX_CHUNKS, Mode, Node, NodeBatch, NodeBytes, NodeGradients, PerThread, chunk_len,
};
use crate::ops::batch_norm2d::BatchNorm2d;
use crate::ops::batch_norm2d::fast::Norm;
use crate::ops::batch_norm2d::fast_image::{Added, OutputGradient};
use crate::real::Real;

/// The node, and how many layers it takes along.
pub fn node<T: Real>(dims: &Conv2d, following: &Following) -> (Box<dyn Node<T>>, usize) {
    let lanes = following.lanes::<T>();
    let conv = convolve(dims, following.wants_dx, lanes);
    let dims = *dims;
    let Some((norm, taken)) = following.ops.first().and_then(|op| op.is::<BatchNorm2d>()).map(|norm| {
        let (norm, taken) = Norm::new(norm, &following.ops[1..], lanes);
        (norm, taken + 1)
    }) else {
        return (Box::new(Convolution { dims, conv }), 0);
    };
    (Box::new(Normed { dims, conv, norm, between: Aligned::default() }), taken)
}

/// The best method for a convolution.
fn convolve<T: Real>(dims: &Conv2d, wants_dx: bool, lanes: usize) -> Box<dyn Convolve<T>> {
    if Winograd::<T>::takes(dims, lanes) {
        return Box::new(Winograd::new(dims, lanes));
    }
    match dims.groups {
        1 => Box::new(Direct::new(*dims, wants_dx, lanes)),
        _ if Depthwise::<T>::takes(dims) => Box::new(Depthwise::new(*dims, lanes)),
        _ => Box::new(Grouped::new(*dims, lanes)),
    }
}

/// What these nodes use one after another.
#[derive(Debug, Default)]
struct Work<T> {
    threads: PerThread<Own<T>>,
    chunks: Vec<Sums<T>>,
}

/// What a thread needs for a chunk of images.
#[derive(Debug, Default)]
struct Own<T> {
    room: Room<T>,
    /// Some images' gradient, with a border of zeros.
    between: Aligned<T>,
    row: Vec<T>,
}

/// The sums of a chunk of images.
#[derive(Debug, Default)]
struct Sums<T> {
    /// As [`Convolve::add_weight`] sums it.
    dw: Aligned<T>,
    /// `[c_out]`, filled up.
    db: Aligned<T>,
}

/// A weight's sums of more bytes than this are not kept for [`MAX_CHUNKS`] chunks.
const LARGE_SUMS: usize = 1 << 18;

/// How many chunks of images are in work at once, at most: each has its own sums.
fn most_chunks<T: Real>(conv: &dyn Convolve<T>) -> usize {
    if conv.sums_len() * size_of::<T>() > LARGE_SUMS { MAX_CHUNKS / 4 } else { MAX_CHUNKS }
}

/// How many images make a chunk, by shapes and batch alone: what the convolution likes to have, where the batch is
/// large.
fn images_of_chunk<T: Real>(conv: &dyn Convolve<T>, n: usize) -> usize {
    chunk_len(n).max(n.div_ceil(most_chunks(conv))).max(conv.together().min(n.div_ceil(8)))
}

/// What both nodes do backward: all chunks of images, each of which `gradient` gives the output's gradient of.
struct Backward<'a, T> {
    conv: &'a dyn Convolve<T>,
    dims: &'a Conv2d,
    arch: Arch,
    from: ImageLayout,
    x: &'a [T],
    /// Whether the input's gradient is added to.
    adds: bool,
}

impl<T: Real> Backward<'_, T> {
    /// `gradient(image, room for a row, to)` writes one image's into a border of zeros.
    fn run(
        &self,
        n: usize,
        work: &mut Work<T>,
        dx: Option<&mut [T]>,
        grads: &mut [&mut [T]],
        gradient: impl Fn(usize, &mut Vec<T>, &mut [T]) + Sync,
    ) {
        let Self { conv, dims, arch, from, x, adds } = *self;
        let chunk_len = images_of_chunk(conv, n);
        let layout = conv.gradient();
        let chunks = chunks(&mut work.chunks, n.div_ceil(chunk_len));
        let threads = work.threads.fit();
        let work = |at: usize, Sums { dw, db }: &mut Sums<T>, dx: &mut [T]| {
            let Own { room, between, row } = &mut *threads.own();
            dw.clear();
            dw.resize(conv.sums_len(), T::zero());
            db.clear();
            db.resize(layout.column_stride, T::zero());
            between.grow(conv.together().min(chunk_len) * layout.len);
            between.chunks_exact_mut(layout.len).for_each(|image| layout.clear_border(image, T::zero()));
            let last = n.min((at + 1) * chunk_len);
            for first in (at * chunk_len..last).step_by(conv.together()) {
                let count = conv.together().min(last - first);
                let dy = &mut between[..count * layout.len];
                for (k, dy) in dy.chunks_mut(layout.len).enumerate() {
                    gradient(first + k, row, dy);
                    if dims.bias {
                        add_bias(arch, &layout, dy, db);
                    }
                }
                conv.add_weight(arch, &x[first * from.len..][..count * from.len], dy, dw, room);
                if !dx.is_empty() {
                    let dx = &mut dx[(first - at * chunk_len) * from.len..][..count * from.len];
                    conv.input_gradient(arch, dy, dx, adds, room);
                }
            }
        };
        let tasks = chunks.par_iter_mut().with_max_len(1);
        match dx {
            Some(dx) => {
                let dx = dx.par_chunks_mut(from.len * chunk_len);
                tasks.zip(dx).enumerate().for_each(|(at, (chunk, dx))| work(at, chunk, dx));
            }
            None => tasks.enumerate().for_each(|(at, chunk)| work(at, chunk, &mut [])),
        }
        let (total, parts) = chunks.split_first_mut().expect("a batch has at least one image");
        add_all(arch, &mut total.dw, parts.iter().map(|part| &part.dw[..]));
        add_all(arch, &mut total.db, parts.iter().map(|part| &part.db[..]));
        conv.unpack(arch, &total.dw, grads[0], &mut threads.own().room);
        if dims.bias {
            grads[1].copy_from_slice(&total.db[..dims.c_out]);
        }
    }
}

/// Adds an image's gradient to the bias's. The border is zero.
fn add_bias<T: Real>(arch: Arch, layout: &ImageLayout, dy: &[T], db: &mut [T]) {
    dy.chunks_exact(layout.column_stride).for_each(|pixel| add(arch, db, pixel));
}

/// A convolution alone.
struct Convolution<T> {
    dims: Conv2d,
    conv: Box<dyn Convolve<T>>,
}

impl<T: Real> Node<T> for Convolution<T> {
    fn reads(&self) -> Option<ImageLayout> {
        Some(self.conv.input())
    }

    fn takes(&mut self, layout: &ImageLayout) -> bool {
        self.conv.read(layout)
    }

    fn give(&mut self, _layout: &ImageLayout) -> bool {
        true
    }

    fn pack(&mut self, params: &[&[T]], _buffers: &[&[T]], mode: Mode) {
        self.conv.pack(params[0], params.get(1).copied().unwrap_or_default(), mode);
    }

    fn forward(&mut self, batch: NodeBatch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { n, arch, from, to, x, scratch, .. } = batch;
        let conv = &*self.conv;
        let chunk_len = images_of_chunk(conv, n);
        let threads = scratch.of::<Work<T>>().threads.fit();
        let tasks = x.par_chunks(from.len * chunk_len).zip(y.par_chunks_mut(to.len * chunk_len));
        tasks.with_max_len(1).for_each(|(x, y)| {
            conv.forward(arch, x, y, &to, After::default(), &mut threads.own().room);
        });
    }

    fn adds_gradient(&self) -> bool {
        true
    }

    fn backward(&self, batch: NodeBatch<T>, _y: &[T], dy: &[T], grads: NodeGradients<T>) {
        let NodeBatch { n, arch, from, to, x, scratch, .. } = batch;
        let conv = &*self.conv;
        let layout = conv.gradient();
        let [channels, rows, columns] = layout.dims;
        let backward = Backward { conv, dims: &self.dims, arch, from, x, adds: grads.adds };
        backward.run(n, scratch.of(), grads.dx, grads.params, |k, _, given| {
            let dy = &dy[k * to.len..][..to.len];
            for i in 0..rows {
                for j in 0..columns {
                    let (from, given) = (to.at(0, i, j), &mut given[layout.at(0, i, j)..][..channels]);
                    match to.channel_stride {
                        1 => given.copy_from_slice(&dy[from..][..channels]),
                        step => given.iter_mut().zip(dy[from..].iter().step_by(step)).for_each(|(to, &dy)| *to = dy),
                    }
                }
            }
        });
    }

    fn bytes(&self) -> NodeBytes {
        bytes(&*self.conv, 0)
    }
}

/// What a node takes: beside what the convolution needs so many numbers an image.
fn bytes<T: Real>(conv: &dyn Convolve<T>, image: usize) -> NodeBytes {
    let layout = conv.gradient();
    // Some images' gradients, or outputs, and some rows.
    let between = (conv.together() + 1) * layout.len;
    // For the caller there are always as many chunks.
    let of_chunk = |bytes: usize| (bytes * most_chunks(conv)).div_ceil(MAX_CHUNKS);
    NodeBytes {
        image: image * size_of::<T>(),
        thread: conv.room_bytes() + between * size_of::<T>(),
        chunk: of_chunk((conv.sums_len() + layout.column_stride) * size_of::<T>()),
        always: conv.packed_bytes(),
    }
}

/// A convolution with the batch norm behind it.
struct Normed<T> {
    dims: Conv2d,
    conv: Box<dyn Convolve<T>>,
    norm: Norm<T>,
    /// What the convolution gave.
    between: Aligned<T>,
}

impl<T: Real> Normed<T> {
    /// How many trained parameters the convolution has; the norm's stand behind them.
    fn own(&self) -> usize {
        1 + usize::from(self.dims.bias)
    }
}

impl<T: Real> Node<T> for Normed<T> {
    fn reads(&self) -> Option<ImageLayout> {
        Some(self.conv.input())
    }

    fn takes(&mut self, layout: &ImageLayout) -> bool {
        self.conv.read(layout)
    }

    fn prefers_added(&self) -> Option<ImageLayout> {
        Some(self.norm.layout())
    }

    fn give(&mut self, _layout: &ImageLayout) -> bool {
        true
    }

    fn pack(&mut self, params: &[&[T]], buffers: &[&[T]], mode: Mode) {
        let (of_conv, of_norm) = params.split_at(self.own());
        let (weight, bias) = (of_conv[0], of_conv.get(1).copied().unwrap_or_default());
        match mode {
            Mode::Training => {
                self.conv.pack(weight, bias, mode);
                self.norm.pack(of_norm);
            }
            Mode::Inference => {
                let [weight, bias] = self.norm.fold(of_norm, buffers, weight, bias);
                self.conv.pack(&weight, &bias, mode);
            }
        }
    }

    fn forward(&mut self, batch: NodeBatch<T>, mode: Mode, buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { n, arch, from, to, x, skip, scratch, .. } = batch;
        let Self { conv, norm, between, .. } = self;
        let conv = &**conv;
        let layout = norm.layout();
        let chunk_len = images_of_chunk(conv, n);
        let threads = scratch.of::<Work<T>>().threads.fit();
        let tasks = x.par_chunks(from.len * chunk_len).zip(y.par_chunks_mut(to.len * chunk_len));
        if mode == Mode::Inference {
            let relu = norm.has_relu();
            tasks.enumerate().with_max_len(1).for_each(|(at, (x, y))| {
                let added = skip.as_ref().map(|(values, lies)| (&values[at * chunk_len * lies.len..], lies));
                conv.forward(arch, x, y, &to, After { added, relu }, &mut threads.own().room);
            });
            return;
        }
        let added = skip.map(|(values, layout)| Added { values, lies: norm.lies(layout) });
        let to = norm.lies(to);
        between.grow(n * layout.len);
        let between = &mut between[..n * layout.len];
        let measured = norm.measured(n);
        let images = measured.len() / n;
        x.par_chunks(from.len * chunk_len)
            .zip(between.par_chunks_mut(layout.len * chunk_len))
            .zip(measured.par_chunks_mut(images * chunk_len))
            .with_max_len(1)
            .for_each(|((x, z), measured)| {
                let room = &mut threads.own().room;
                let groups = x.chunks(from.len * conv.together()).zip(z.chunks_mut(layout.len * conv.together()));
                for ((x, z), measured) in groups.zip(measured.chunks_mut(images * conv.together())) {
                    conv.forward(arch, x, z, &layout, After::default(), room);
                    for (z, measured) in z.chunks(layout.len).zip(measured.chunks_mut(images)) {
                        Norm::measure(arch, z, measured);
                    }
                }
            });
        norm.join(n, buffers);
        let norm = &*norm;
        let tasks = between.par_chunks(layout.len).zip(y.par_chunks_mut(to.layout.len));
        tasks.enumerate().for_each_init(Vec::new, |row, (k, (z, y))| {
            norm.apply(arch, z, added.map(|added| added.image(k)), y, to, row);
        });
    }

    fn adds_gradient(&self) -> bool {
        true
    }

    fn backward(&self, batch: NodeBatch<T>, y: &[T], dy: &[T], grads: NodeGradients<T>) {
        let NodeBatch { n, arch, from, to, x, skip, scratch, .. } = batch;
        let Self { conv, norm, between, .. } = self;
        let conv = &**conv;
        let layout = norm.layout();
        let z = &between[..n * layout.len];
        let (of_conv, of_norm) = grads.params.split_at_mut(self.own());
        let given = OutputGradient { y, dy, lies: norm.lies(to) };
        let dskip = grads.dskip.zip(skip).map(|(dskip, (_, layout))| (dskip, norm.lies(layout)));
        let factors = norm.factors(arch, n, z, given, dskip, of_norm);
        let lies = norm.lies(conv.gradient());
        let backward = Backward { conv, dims: &self.dims, arch, from, x, adds: grads.adds };
        backward.run(n, scratch.of(), grads.dx, of_conv, |k, row, dz| {
            let z = &z[k * layout.len..][..layout.len];
            norm.input_gradient(arch, &factors, z, given.image(k), dz, lies, row);
        });
    }

    fn bytes(&self) -> NodeBytes {
        bytes(&*self.conv, self.norm.layout().len + self.norm.numbers_an_image())
    }
}
