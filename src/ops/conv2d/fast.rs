//! A convolution with the ReLU and the pooling that follow it, as a node of the fast path: [`super::fast_block`] says
//! how its numbers lie, [`super::fast_forward`] and [`super::fast_backward`] compute one image.

use rayon::prelude::*;

use super::Conv2d;
use super::fast_backward::ConvSums;
use super::fast_block::{ConvBlock, Packed};
use super::fast_dense;
use super::fast_images::{After, Convolve, Room, add_all, chunks};
use super::fast_terms::{Image, Terms};
use super::winograd::Winograd;
use crate::layer::{
    Aligned, Following, ImageLayout, Mode, Node, NodeBatch, NodeBytes, NodeGradients, PerThread, chunk_len, grow,
};
use crate::ops::max_pool2d::MaxPool2d;
use crate::ops::relu::Relu;
use crate::real::Real;

/// The node of a convolution, with the ReLU and the pooling that follow it, in either order; how many layers it takes
/// along.
pub fn node<T: Real>(dims: &Conv2d, following: &Following) -> (Box<dyn Node<T>>, usize) {
    let (mut relu, mut pool, mut taken) = (false, None, 0);
    for op in following.ops {
        match (op.is::<Relu>(), op.is::<MaxPool2d>()) {
            (Some(_), _) => relu = true,
            (_, Some(dims)) if pool.is_none() && ConvBlock::takes(dims) => pool = Some(*dims),
            _ => break,
        }
        taken += 1;
    }
    if taken == 0 {
        return fast_dense::node(dims, following);
    }
    let lanes = following.lanes::<T>();
    let stage = ConvBlock::new(*dims, relu, pool, following.wants_dx, lanes);
    let winograd = Winograd::<T>::takes(dims, lanes).then(|| Winograd::new(dims, lanes));
    let winograd = winograd.and_then(|mut winograd| winograd.read(&stage.input).then_some(winograd));
    (Box::new(Convolution { stage, winograd, packed: Packed::default(), argmax: vec![] }), taken)
}

/// A stage with its packed parameters and where each window's maximum was.
struct Convolution<T> {
    stage: ConvBlock,
    /// The forward pass with fewer products. Backward there is nothing to be saved: most outputs have no gradient.
    winograd: Option<Winograd<T>>,
    packed: Packed<T>,
    argmax: Vec<u8>,
}

/// What these nodes use one after another.
#[derive(Debug, Default)]
struct Work<T> {
    threads: PerThread<Own<T>>,
    /// The sums of each chunk of images.
    chunks: Vec<ConvSums<T>>,
}

/// What a thread needs for a chunk of images.
#[derive(Debug, Default)]
struct Own<T> {
    band: Aligned<T>,
    room: Room<T>,
    terms: Terms<T>,
}

impl<T: Real> Node<T> for Convolution<T> {
    fn reads(&self) -> Option<ImageLayout> {
        Some(self.stage.input)
    }

    fn give(&mut self, layout: &ImageLayout) -> bool {
        self.stage.output = *layout;
        true
    }

    fn pack(&mut self, params: &[&[T]], _buffers: &[&[T]], mode: Mode) {
        let (weight, bias) = (params[0], params.get(1).copied().unwrap_or_default());
        match &mut self.winograd {
            Some(winograd) => winograd.pack(weight, bias, Mode::Inference),
            None => self.stage.pack_forward(weight, bias, &mut self.packed),
        }
        if mode == Mode::Training {
            self.stage.pack_backward(weight, &mut self.packed);
        }
    }

    fn forward(&mut self, batch: NodeBatch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { n, arch, from, to, x, scratch, .. } = batch;
        let Self { stage, winograd, packed, argmax } = self;
        let winograd = winograd.as_ref();
        let chunk_len = chunk_len(n);
        let threads = scratch.of::<Work<T>>().threads.fit();
        grow(argmax, n * stage.argmax_len());
        x.par_chunks(from.len * chunk_len)
            .zip(y.par_chunks_mut(to.len * chunk_len))
            .zip(argmax.par_chunks_mut(stage.argmax_len() * chunk_len))
            .with_max_len(1)
            .for_each(|((x, y), argmax)| {
                let Own { band, room, .. } = &mut *threads.own();
                let mut outputs = y.chunks_mut(to.len).zip(argmax.chunks_mut(stage.argmax_len()));
                let Some(winograd) = winograd else {
                    band.grow(stage.band_len());
                    let band = &mut band[..stage.band_len()];
                    let images = x.chunks(from.len).zip(outputs);
                    return images.for_each(|(x, (y, argmax))| stage.forward(arch, packed, x, y, argmax, band));
                };
                let layout = winograd.in_whole_tiles();
                for x in x.chunks(from.len * winograd.together()) {
                    band.grow(x.len() / from.len * layout.len);
                    let band = &mut band[..x.len() / from.len * layout.len];
                    winograd.forward(arch, x, band, &layout, After::default(), room);
                    for (z, (y, argmax)) in band.chunks_mut(layout.len).zip(&mut outputs) {
                        stage.pool(arch, z, &layout, y, argmax);
                    }
                }
            });
    }

    fn backward(&self, batch: NodeBatch<T>, y: &[T], dy: &[T], to: NodeGradients<T>) {
        let NodeGradients { dx, params: grads, .. } = to;
        let NodeBatch { n, arch, from, to, x, scratch, .. } = batch;
        let Self { stage, packed, argmax, .. } = self;
        let chunk_len = chunk_len(n);
        let Work { threads, chunks: all } = scratch.of::<Work<T>>();
        let (threads, chunks) = (threads.fit(), chunks(all, n.div_ceil(chunk_len)));
        let argmax = &argmax[..n * stage.argmax_len()];
        let work = |at: usize, sums: &mut ConvSums<T>, dx: &mut [T]| {
            let terms = &mut threads.own().terms;
            stage.clear(sums, terms);
            // Empty if it is not wanted.
            let mut dx = dx.chunks_mut(from.len);
            for k in at * chunk_len..n.min((at + 1) * chunk_len) {
                let [x, y, dy] =
                    [(x, from.len), (y, to.len), (dy, to.len)].map(|(values, len)| &values[k * len..][..len]);
                let argmax = &argmax[k * stage.argmax_len()..][..stage.argmax_len()];
                let dx = dx.next().unwrap_or_default();
                stage.backward(arch, packed, Image { x, y, argmax, dy, dx }, sums, terms);
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
        stage.unpack(&total.dw, grads[0]);
        if let Some(db) = grads.get_mut(1) {
            db.copy_from_slice(&total.db[..db.len()]);
        }
    }

    fn bytes(&self) -> NodeBytes {
        let size = size_of::<T>();
        let winograd = self.winograd.as_ref();
        let whole = winograd.map_or(0, |winograd| winograd.together() * winograd.in_whole_tiles().len * size);
        let band = (self.stage.band_len() * size).max(whole + winograd.map_or(0, Convolve::room_bytes));
        NodeBytes {
            image: self.stage.argmax_len(),
            thread: band + self.stage.terms_bytes::<T>(),
            chunk: self.stage.sums_bytes::<T>(),
            always: winograd.map_or(0, Convolve::packed_bytes),
        }
    }
}
