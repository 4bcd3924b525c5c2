//! What is left of an output's gradient after the pooling and the ReLU: terms, where it is not zero.
//! [`super::fast_backward`] multiplies them.

use super::fast_block::ConvBlock;
use crate::layer::grow;
use crate::real::Real;

/// How many windows' terms are collected before they are used: few enough that they, and the part of the image that
/// they touch, stay in cache; enough that loading and storing `dw[o]` once for all of them is a small part of the work.
const WINDOWS_AT_ONCE: usize = 64;

/// A gradient and what it is to be multiplied with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Term<T> {
    pub at: u32,
    pub gradient: T,
}

/// What a thread collects of some rows of windows.
#[derive(Clone, Debug, Default)]
pub struct Terms<T> {
    /// The gradients of one window's channels, or of one channel's windows.
    pub(super) gradients: Vec<T>,
    /// Where the first element of each window has its own window in the input.
    pub(super) corners: Vec<u32>,
    /// `[c_out][window]`, with how many there are of each channel.
    pub(super) by_channel: Vec<Term<T>>,
    pub(super) channel_counts: Vec<u32>,
    /// `[window][element of the window][c_out]`, with how many there are of each element.
    pub(super) by_place: Vec<Term<T>>,
    pub(super) place_counts: Vec<u32>,
}

/// One image going through the backward pass.
pub struct Image<'a, T> {
    /// The stage's input.
    pub x: &'a [T],
    /// Its output.
    pub y: &'a [T],
    /// Where each window's maximum was.
    pub argmax: &'a [u8],
    /// The output's gradient.
    pub dy: &'a [T],
    /// The input's gradient, if it is wanted.
    pub dx: &'a mut [T],
}

impl ConvBlock {
    /// Rows of windows whose terms are collected at once.
    pub(super) fn rows_at_once(&self) -> usize {
        (WINDOWS_AT_ONCE / self.pool.output_plane()[1]).max(1)
    }

    /// At most so many bytes do [`Terms`] take.
    pub fn terms_bytes<T: Real>(&self) -> usize {
        let windows = self.rows_at_once() * self.pool.output_plane()[1];
        let terms = self.dims.c_out * windows * (1 + self.window());
        let counts = self.dims.c_out + windows * (1 + self.window());
        self.dims.c_out.max(windows) * size_of::<T>() + terms * size_of::<Term<T>>() + counts * size_of::<u32>()
    }
}

impl<T: Real> Terms<T> {
    /// Makes room for what is collected at once.
    pub(super) fn fit(&mut self, stage: &ConvBlock) {
        let c_out = stage.dims.c_out;
        let windows = stage.rows_at_once() * stage.pool.output_plane()[1];
        grow(&mut self.gradients, c_out.max(windows));
        grow(&mut self.corners, windows);
        grow(&mut self.by_channel, c_out * windows);
        grow(&mut self.channel_counts, c_out);
        if stage.wants_input_gradient {
            grow(&mut self.by_place, windows * stage.window() * c_out);
            grow(&mut self.place_counts, windows * stage.window());
        }
    }
}

/// Collects the terms of the windows in `rows`.
#[inline(always)]
pub(super) fn collect<T: Real>(
    stage: &ConvBlock,
    image: &Image<T>,
    db: &mut [T],
    terms: &mut Terms<T>,
    rows: std::ops::Range<usize>,
) {
    let (c_out, window, padded) = (stage.dims.c_out, stage.window(), stage.padded_c_out());
    let columns = stage.pool.output_plane()[1];
    let capacity = stage.rows_at_once() * columns;
    let places = places(stage);
    let wants_input_gradient = stage.wants_input_gradient;
    let argmax = &image.argmax[rows.start * columns * padded..];
    // As slices, so that the compiler sees that no store below changes where they are.
    let Terms { gradients, corners, by_channel, channel_counts, by_place, place_counts } = terms;
    let windows = || rows.clone().flat_map(|i| (0..columns).map(move |j| (i, j)));
    let corners = &mut corners[..rows.len() * columns];
    corners.iter_mut().zip(windows()).for_each(|(to, (i, j))| *to = corner(stage, i, j));
    let db = &mut db[..c_out];
    let (by_channel, channel_counts) = (&mut by_channel[..], &mut channel_counts[..c_out]);
    let (by_place, place_counts) = (&mut by_place[..], &mut place_counts[..]);
    channel_counts.fill(0);
    place_counts.fill(0);
    let mut add = |o: usize, at: usize, gradient: T| {
        let place = usize::from(argmax[at * padded + o]);
        db[o] += gradient;
        let count = &mut channel_counts[o];
        by_channel[o * capacity + *count as usize] = Term { at: corners[at] + places[place], gradient };
        *count += 1;
        if wants_input_gradient {
            let place = at * window + place;
            let count = &mut place_counts[place];
            by_place[place * c_out + *count as usize] = Term { at: o as u32, gradient };
            *count += 1;
        }
    };
    if stage.output.channel_stride == 1 {
        let gradients = &mut gradients[..c_out];
        for (at, (i, j)) in windows().enumerate() {
            let from = stage.output.at(0, i, j);
            read_gradients(stage.relu, &image.y[from..], &image.dy[from..], gradients);
            for_each_nonzero(
                gradients,
                #[inline(always)]
                |o, gradient| add(o, at, gradient),
            );
        }
        return;
    }
    // In planes the gradients of a channel lie side by side.
    assert!(stage.output.is_planes());
    let gradients = &mut gradients[..rows.len() * columns];
    for o in 0..c_out {
        let from = stage.output.at(o, rows.start, 0);
        read_gradients(stage.relu, &image.y[from..], &image.dy[from..], gradients);
        for_each_nonzero(
            gradients,
            #[inline(always)]
            |at, gradient| add(o, at, gradient),
        );
    }
}

/// The gradients of values that lie side by side, before the ReLU.
#[inline(always)]
fn read_gradients<T: Real>(relu: bool, y: &[T], dy: &[T], gradients: &mut [T]) {
    let (y, dy) = (&y[..gradients.len()], &dy[..gradients.len()]);
    if !relu {
        return gradients.copy_from_slice(dy);
    }
    let mask = |y: T, dy: T| if y <= T::zero() { T::zero() } else { dy };
    gradients.iter_mut().zip(y.iter().zip(dy)).for_each(|(gradient, (&y, &dy))| *gradient = mask(y, dy));
}

/// Calls `each` for every value that is not zero. Which ones these are is found out for many at once, in vectors: a
/// branch at each could not be foreseen.
#[inline(always)]
fn for_each_nonzero<T: Real>(values: &[T], mut each: impl FnMut(usize, T)) {
    for (part, values) in values.chunks(u64::BITS as usize).enumerate() {
        let mut bits = 0;
        for (bit, value) in values.iter().enumerate() {
            bits |= u64::from(*value != T::zero()) << bit;
        }
        while bits != 0 {
            let bit = bits.trailing_zeros() as usize;
            each(part * u64::BITS as usize + bit, values[bit]);
            bits &= bits - 1;
        }
    }
}

/// Where the first element of a window of the pooling has its own window in the input.
#[inline(always)]
pub(super) fn corner(stage: &ConvBlock, i: usize, j: usize) -> u32 {
    let [rows, columns] = stage.pool.stride;
    let [down, right] = stage.dims.stride;
    (i * rows * down * stage.input.row_stride + j * columns * right * stage.input.column_stride) as u32
}

/// From there to where each element of the window has its own.
#[inline(always)]
pub(super) fn places(stage: &ConvBlock) -> [u32; 256] {
    let mut places = [0; 256];
    for (at, place) in places.iter_mut().enumerate().take(stage.window()) {
        let (p, q) = (at / stage.pool.kernel[1], at % stage.pool.kernel[1]);
        let [down, right] = stage.dims.stride;
        *place = (p * down * stage.input.row_stride + q * right * stage.input.column_stride) as u32;
    }
    places
}
