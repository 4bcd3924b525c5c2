//! Convolution in groups for the fast path: as many groups together as fill vectors, each such part a convolution of
//! its own ([`super::fast_direct`]) over its channels of the same images. Between the groups of a part the weight is
//! 0: the lanes of a vector that holds several groups would have nothing else to do.

use pulp::Arch;

use super::Conv2d;
use super::fast_direct::Direct;
use super::fast_images::{After, Convolve, Room, in_vectors, padded};
use crate::layer::{ImageLayout, Mode};
use crate::real::Real;

/// The method.
#[derive(Clone, Debug)]
pub struct Grouped<T> {
    dims: Conv2d,
    lanes: usize,
    input: ImageLayout,
    gradient: ImageLayout,
    parts: Vec<Direct<T>>,
    /// Groups of a part.
    groups: usize,
}

/// A layout of some of its channels, from `first` on.
fn some(layout: &ImageLayout, first: usize, channels: usize) -> ImageLayout {
    let [_, h, w] = layout.dims;
    ImageLayout { dims: [channels, h, w], origin: layout.origin + first * layout.channel_stride, ..*layout }
}

impl<T: Real> Grouped<T> {
    /// The method for this convolution.
    pub fn new(dims: Conv2d, lanes: usize) -> Self {
        // The fewest groups that are whole vectors of input and output channels; else all of them.
        let fills = |groups: &usize| {
            let whole = dims.channels_of_group().iter().all(|channels| (channels * groups).is_multiple_of(lanes));
            dims.groups.is_multiple_of(*groups) && whole
        };
        let groups = (1..dims.groups).find(fills).unwrap_or(dims.groups);
        let [inputs, outputs] = dims.channels_of_group().map(|channels| channels * groups);
        let input = ImageLayout::pixels(dims.input, dims.padding, padded(dims.input[0], lanes), 0);
        let part = Conv2d { input: [inputs, dims.input[1], dims.input[2]], c_out: outputs, groups: 1, ..dims };
        let mut gradient = Direct::<T>::new(part, true, lanes).gradient();
        let border = gradient.border();
        gradient =
            ImageLayout::pixels([dims.c_out, gradient.dims[1], gradient.dims[2]], border, padded(dims.c_out, lanes), 0);
        let mut grouped = Self { dims, lanes, input, gradient, parts: vec![], groups };
        grouped.parts = (0..dims.groups / groups)
            .map(|at| Direct::part(part, lanes, &some(&gradient, at * outputs, outputs)))
            .collect();
        assert!(grouped.read(&input), "its own layout");
        grouped
    }

    /// Input and output channels of a part.
    fn channels(&self) -> [usize; 2] {
        self.dims.channels_of_group().map(|channels| channels * self.groups)
    }

    /// Calls `each(place in the weight of part `at`, place in the whole weight)` for all weights of the part's groups.
    fn for_each_weight(&self, at: usize, mut each: impl FnMut(usize, usize)) {
        let [inputs, outputs] = self.dims.channels_of_group();
        let taps = self.dims.kernel[0] * self.dims.kernel[1];
        let [all_inputs, all_outputs] = self.channels();
        for o in 0..all_outputs {
            let own = (o * all_inputs + o / outputs * inputs) * taps;
            let whole = (at * all_outputs + o) * inputs * taps;
            (0..inputs * taps).for_each(|i| each(own + i, whole + i));
        }
    }

    /// Elements of a part's weight.
    fn part_len(&self) -> usize {
        let [inputs, outputs] = self.channels();
        inputs * outputs * self.dims.kernel[0] * self.dims.kernel[1]
    }
}

impl<T: Real> Convolve<T> for Grouped<T> {
    fn input(&self) -> ImageLayout {
        self.input
    }

    fn read(&mut self, layout: &ImageLayout) -> bool {
        let wide = layout.border().iter().zip(self.dims.padding).all(|(&border, padding)| border >= padding);
        let takes = wide && in_vectors(layout, self.dims.input[0], self.lanes);
        if takes {
            self.input = *layout;
            let [inputs, _] = self.channels();
            let parts = self.parts.iter_mut().enumerate();
            parts.for_each(|(at, part)| part.read_some(some(layout, at * inputs, inputs)));
        }
        takes
    }

    fn gradient(&self) -> ImageLayout {
        self.gradient
    }

    fn together(&self) -> usize {
        1
    }

    fn pack(&mut self, w: &[T], b: &[T], mode: Mode) {
        let [_, outputs] = self.channels();
        for at in 0..self.parts.len() {
            let mut weight = vec![T::zero(); self.part_len()];
            self.for_each_weight(at, |own, whole| weight[own] = w[whole]);
            let bias = if b.is_empty() { b } else { &b[at * outputs..][..outputs] };
            self.parts[at].pack(&weight, bias, mode);
        }
    }

    fn forward(&self, arch: Arch, x: &[T], y: &mut [T], to: &ImageLayout, after: After<T>, room: &mut Room<T>) {
        let [_, outputs] = self.channels();
        for (at, part) in self.parts.iter().enumerate() {
            let of = |layout: &ImageLayout| some(layout, at * outputs, outputs);
            let (to, lies) = (of(to), after.added.map(|(_, lies)| of(lies)));
            let added = after.added.zip(lies.as_ref()).map(|((added, _), lies)| (added, lies));
            part.forward(arch, x, y, &to, After { added, ..after }, room);
        }
    }

    fn sums_len(&self) -> usize {
        self.parts.iter().map(Convolve::sums_len).sum()
    }

    fn add_weight(&self, arch: Arch, x: &[T], dy: &[T], sums: &mut [T], room: &mut Room<T>) {
        let len = sums.len() / self.parts.len();
        let parts = self.parts.iter().zip(sums.chunks_mut(len));
        parts.for_each(|(part, sums)| part.add_weight(arch, x, dy, sums, room));
    }

    fn unpack(&self, arch: Arch, sums: &[T], dw: &mut [T], room: &mut Room<T>) {
        let mut own = vec![T::zero(); self.part_len()];
        for (at, (part, sums)) in self.parts.iter().zip(sums.chunks(sums.len() / self.parts.len())).enumerate() {
            part.unpack(arch, sums, &mut own, room);
            self.for_each_weight(at, |from, to| dw[to] = own[from]);
        }
    }

    fn input_gradient(&self, arch: Arch, dy: &[T], dx: &mut [T], adds: bool, room: &mut Room<T>) {
        self.parts.iter().for_each(|part| part.input_gradient(arch, dy, dx, adds, room));
    }

    fn room_bytes(&self) -> usize {
        self.parts.iter().map(Convolve::room_bytes).max().unwrap_or(0)
    }

    fn packed_bytes(&self) -> usize {
        self.parts.iter().map(Convolve::packed_bytes).sum()
    }
}
