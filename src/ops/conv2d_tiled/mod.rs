//! Conv2d in register tiles, and with it what follows: batch norm, the addition of a residual block, ReLU and, behind a
//! batch norm, a 2x2 pooling. Formulas: [`super::conv2d`], [`super::batch_norm2d`].
//!
//! In training the convolution stores its sums z, and while they are in registers it measures them: each workgroup has
//! the mean of its part of a channel, and the squared distances from that. One pass joins the parts, another one
//! normalises, adds, rectifies and pools. In inference all of that is done to the sums in registers.
//!
//! Backward, one pass sums the gradient and its products with xhat, another one gives dz and what goes to the tensor
//! that was added, and two give the gradients of the weight (in parts) and of the input, to which it adds what another
//! reader of that tensor gave.
//!
//! Everything has its channels last, four of them a vector, rounded up with zeros: `[n, height, width, channels / 4]`.

mod cases;
mod norm;
mod stage;

pub use cases::{AVERAGES, CASES};
pub use norm::{NormAt, Tail, to_last, to_planes};
pub use stage::{Tiled, matches};

use super::WORKGROUP;
use super::conv2d::Conv2d;
use super::stage::{Places, Segment};
use crate::Result;
use crate::plan::shaders::{CONV2D_TILED, CONV2D_TILED_LANES, Shader};
use crate::plan::tuning::{Tiles, Tuning};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// Rows and columns of a thread's tile.
const TILE: usize = 4;

/// Words of a part of the statistics of four channels, `Part` in the shader.
const PART: usize = 12;

/// Threads that a weight's gradient aims at: for each of [`Tiles::workgroups`], and where a processor does the work of
/// some threads, in all.
const SPLIT_THREADS: usize = 16;
const SPLIT_LANES: usize = 1024;

/// About so many parts, and less than twice as many: the optimizer adds them one after the other.
const MAX_SPLITS: usize = 128;

/// A convolution that these kernels compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dTiled {
    /// Its dimensions.
    pub conv: Conv2d,
    tuning: Tuning,
}

/// The copies of a weight, in the orders in which the passes read it.
#[derive(Clone, Copy, Debug)]
pub struct PackedWeight {
    /// [`Conv2dTiled::packed_len`]: for forward.
    pub forward: Slice,
    /// [`Conv2dTiled::packed_back_len`]: for the gradient of the input, if it is wanted.
    pub back: Option<Slice>,
}

/// What follows a convolution's sums in inference.
#[derive(Clone, Copy, Debug)]
pub struct InferenceTail {
    /// What normalises, or adds the bias.
    pub table: Slice,
    /// What is added.
    pub skip: Option<Slice>,
    /// Whether ReLU follows.
    pub relu: bool,
    /// Whether a 2x2 pooling follows that.
    pub pools: bool,
}

uniform! {
    /// `Conv2dTiled` in `shaders/common/conv2d_tiled.wgsl`.
    struct Dims {
        c_in: u32, h_in: u32, w_in: u32,
        c_out: u32, h_out: u32, w_out: u32,
        tiles_h: u32, tiles_w: u32,
        padding_h: u32, padding_w: u32,
        stride: u32,
        relu: u32, adds: u32, pools: u32,
        bias: u32,
        split: u32, splits: u32,
    }
}

/// Channels in vectors of four.
pub(crate) fn blocks(channels: usize) -> usize {
    channels.div_ceil(4)
}

/// Elements of an image of `[channels, height, width]` with its channels last.
pub fn last_len([channels, h, w]: [usize; 3]) -> usize {
    blocks(channels) * 4 * h * w
}

impl Conv2dTiled {
    /// The convolution, if these kernels compute it: one group, 3x3 with a padding of at most 1 or 1x1 without one, a
    /// stride of 1 or 2, output channels in fours.
    pub fn new(conv: &Conv2d) -> Option<Self> {
        let kernel = match conv.kernel {
            [3, 3] => conv.padding.iter().all(|&p| p <= 1),
            [1, 1] => conv.padding == [0, 0],
            _ => false,
        };
        let fits = kernel && [[1, 1], [2, 2]].contains(&conv.stride) && conv.is_dense() && conv.c_out.is_multiple_of(4);
        fits.then_some(Self { conv: *conv, tuning: Tuning::default() })
    }

    /// The same, its kernels in these forms.
    pub fn tuned(self, tuning: Tuning) -> Self {
        Self { tuning, ..self }
    }

    /// The output's channels, height, width.
    pub fn output(&self) -> [usize; 3] {
        let [h, w] = self.conv.output_plane();
        [self.conv.c_out, h, w]
    }

    fn taps(&self) -> usize {
        self.conv.kernel.iter().product()
    }

    fn by_two(&self) -> bool {
        self.conv.stride == [2, 2]
    }

    /// Elements of the packed weight.
    pub fn packed_len(&self) -> usize {
        self.conv.input[0].next_multiple_of(4) * self.taps() * self.conv.c_out.next_multiple_of(8)
    }

    /// Elements of the weight as packed for the gradient of the input.
    pub fn packed_back_len(&self) -> usize {
        self.conv.c_out * self.taps() * self.conv.input[0].next_multiple_of(8)
    }

    /// Elements of the weight and of the bias.
    fn parameters(&self) -> usize {
        self.conv.weight_len() + if self.conv.bias { self.conv.c_out } else { 0 }
    }

    /// Elements of the partial sums of the gradients of weight and bias, for a batch of up to `n`.
    pub fn partials_len(&self, n: usize) -> usize {
        self.splits(n).0 * self.parameters()
    }

    /// How many splits there are, and how many rows of the output each owns, image after image.
    pub fn splits(&self, n: usize) -> (usize, usize) {
        let all = n * self.output()[1];
        let threads = match self.tuning.conv_backward {
            Tiles::Lanes => SPLIT_LANES,
            tiles => SPLIT_THREADS * tiles.workgroups(),
        };
        let rows = (all / threads.div_ceil(self.split_threads()).min(MAX_SPLITS)).max(1);
        (all.div_ceil(rows), rows)
    }

    /// Threads of one split of the weight's gradient.
    fn split_threads(&self) -> usize {
        let (inputs, outputs) = (blocks(self.conv.input[0]), blocks(self.conv.c_out));
        match (self.taps(), self.tuning.conv_backward) {
            (1, _) => inputs * outputs,
            (_, Tiles::Lanes) => inputs * outputs.div_ceil(2),
            _ => 3 * inputs * outputs,
        }
    }

    /// Words of the parts of the statistics of the output of a batch of up to `n`.
    pub fn parts_len(&self, n: usize) -> usize {
        PART * blocks(self.conv.c_out) * self.tiles(n, self.output(), [0; 2]).1
    }

    /// Tiles along a plane's height and width, and the groups of them that a batch has. `before` is how much of a
    /// plane's first tiles is outside.
    fn tiles(&self, n: usize, [_, h, w]: [usize; 3], before: [usize; 2]) -> ([usize; 2], usize) {
        let tiles = [(h + before[0]).div_ceil(TILE), (w + before[1]).div_ceil(TILE)];
        (tiles, (n * tiles[0] * tiles[1]).div_ceil(WORKGROUP))
    }

    /// What the optimizer does for the weight and for the bias, which begin at `params`, for a batch of up to `n`.
    pub fn segments(&self, n: usize, params: &[usize], at: Places) -> Vec<Segment> {
        let weights = self.conv.weight_len();
        let of_weight = Segment {
            first: word(params[0]),
            len: word(weights),
            partials: word(at.partials),
            splits: word(self.splits(n).0),
            stride: word(self.parameters()),
            c_in: word(self.conv.input[0]),
            packed: word(at.packed),
            packed_back: at.packed_back.map_or(Segment::NONE, word),
            taps: word(self.taps()),
            ..Segment::default()
        };
        let of_bias = |&first: &usize| Segment {
            first: word(first),
            len: word(self.conv.c_out),
            partials: word(at.partials + weights),
            c_in: 0,
            ..of_weight
        };
        std::iter::once(of_weight).chain(params.get(1).filter(|_| self.conv.bias).map(of_bias)).collect()
    }

    fn shader(tiles: Tiles) -> &'static Shader {
        match tiles {
            Tiles::Lanes => &CONV2D_TILED_LANES,
            Tiles::Registers | Tiles::Workgroup | Tiles::WorkgroupFew | Tiles::WorkgroupMany => &CONV2D_TILED,
        }
    }

    fn dims(&self) -> Dims {
        let tiles = self.tiles(1, self.output(), [0; 2]).0;
        let of_shapes = Self::dims_of(self.conv.input, self.output(), self.conv.padding, tiles);
        Dims { stride: word(self.conv.stride[0]), bias: self.conv.bias.into(), ..of_shapes }
    }

    /// Of a pass with a stride of 1 that reads planes of `from` and gives planes of `to` (channels, height, width).
    fn dims_of(from: [usize; 3], to: [usize; 3], padding: [usize; 2], tiles: [usize; 2]) -> Dims {
        let ([c_in, h_in, w_in], [c_out, h_out, w_out]) = (from.map(word), to.map(word));
        let ([padding_h, padding_w], [tiles_h, tiles_w]) = (padding.map(word), tiles.map(word));
        let of_planes = Dims { c_in, h_in, w_in, c_out, h_out, w_out, ..Dims::default() };
        Dims { tiles_h, tiles_w, padding_h, padding_w, stride: 1, ..of_planes }
    }

    /// The pass for this kernel and stride.
    fn pass(&self, passes: [&'static str; 3]) -> &'static str {
        passes[if self.taps() == 1 { 2 } else { self.by_two().into() }]
    }

    /// Workgroups of a pass over so many groups of tiles of this many channels.
    fn groups(tiles: Tiles, groups: usize, channels: usize) -> usize {
        let blocks = blocks(channels);
        groups * if tiles == Tiles::Lanes { blocks.div_ceil(2) } else { blocks }
    }

    fn flops(&self, n: usize) -> u64 {
        self.conv.flops() * n as u64
    }

    /// Records the packing of the weight, for forward and for what backward there is.
    pub fn pack(&self, plan: &mut Plan, name: &str, w: Slice, at: &PackedWeight) -> Result<()> {
        let dims = Dims { split: word(self.taps()), ..self.dims() };
        let mut pack = |pass: &'static str, packed: &'static str, len: usize, to: Slice| {
            let shader = Self::shader(Tiles::Registers);
            let bindings = [("w", w), (packed, to)];
            plan.dispatch(format!("{name}.{pass}"), (shader, pass), dims, Grid::Threads(len / 4), 0, &bindings)
        };
        pack("pack", "packed", self.packed_len(), at.forward)?;
        at.back.map_or(Ok(()), |to| pack("pack_back", "packed_back", self.packed_back_len(), to))
    }

    /// Records the sums z of a batch of up to `n`, and the parts of their statistics.
    pub fn measured(&self, plan: &mut Plan, name: &str, n: usize, [x, packed, z, parts]: [Slice; 4]) -> Result<()> {
        let tiles = self.tuning.conv_forward;
        let groups = Self::groups(tiles, self.tiles(n, self.output(), [0; 2]).1, self.conv.c_out);
        plan.dispatch(
            format!("{name}.forward"),
            (Self::shader(tiles), self.pass(["measured", "measured_by_two", "measured_point"])),
            self.dims(),
            Grid::Workgroups(groups),
            self.flops(n),
            &[("x", x), ("taps", packed), ("y", z), ("parts", parts)],
        )
    }

    /// Records all that follows the sums too.
    pub fn answered(
        &self,
        plan: &mut Plan,
        name: &str,
        n: usize,
        [x, packed, y]: [Slice; 3],
        what: &InferenceTail,
    ) -> Result<()> {
        let tiles = self.tuning.conv_forward;
        let groups = Self::groups(tiles, self.tiles(n, self.output(), [0; 2]).1, self.conv.c_out);
        let (relu, adds, pools) = (what.relu.into(), what.skip.is_some().into(), what.pools.into());
        // What is not added is not read.
        let skip = what.skip.unwrap_or(x);
        plan.dispatch(
            format!("{name}.forward"),
            (Self::shader(tiles), self.pass(["answered", "answered_by_two", "answered_point"])),
            Dims { relu, adds, pools, ..self.dims() },
            Grid::Workgroups(groups),
            self.flops(n),
            &[("x", x), ("taps", packed), ("y", y), ("skip", skip), ("table", what.table)],
        )
    }

    /// Records the partial sums of the gradients of the weight and of the bias.
    pub fn weight(&self, plan: &mut Plan, name: &str, n: usize, [x, dz, partials]: [Slice; 3]) -> Result<()> {
        let (splits, split) = self.splits(n);
        let pass = if self.taps() == 1 { "weight_point" } else { "weight_rows" };
        plan.dispatch(
            format!("{name}.backward_weight"),
            (Self::shader(self.tuning.conv_backward), pass),
            Dims { split: word(split), splits: word(splits), ..self.dims() },
            Grid::Threads(splits * self.split_threads()),
            self.flops(n),
            &[("x", x), ("dz", dz), ("partials", partials)],
        )?;
        plan.loops(&[split, self.output()[2]]);
        Ok(())
    }

    /// Records the gradient of the input, to which `before` is added.
    pub fn gradient(
        &self,
        plan: &mut Plan,
        name: &str,
        n: usize,
        [dz, packed_back, dx]: [Slice; 3],
        before: Option<Slice>,
    ) -> Result<()> {
        let tiles = self.tuning.conv_backward;
        let point = self.taps() == 1;
        let (pass, padding, outside) = match (self.by_two(), point) {
            (false, true) => ("gradient_point", [0; 2], [0; 2]),
            (false, false) => ("gradient", self.conv.padding.map(|p| 2 - p), [0; 2]),
            (true, true) => ("gradient_point_by_two", [0; 2], [0; 2]),
            (true, false) => ("gradient_by_two", self.conv.padding, self.conv.padding.map(|p| 1 - p)),
        };
        let (of_plane, groups) = self.tiles(n, self.conv.input, outside);
        plan.dispatch(
            format!("{name}.backward_input"),
            (Self::shader(tiles), pass),
            Dims { adds: before.is_some().into(), ..Self::dims_of(self.output(), self.conv.input, padding, of_plane) },
            Grid::Workgroups(Self::groups(tiles, groups, self.conv.input[0])),
            self.flops(n),
            &[("x", dz), ("taps", packed_back), ("y", dx), ("before", before.unwrap_or(dz))],
        )
    }
}
