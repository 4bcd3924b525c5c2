//! Conv2d (3x3, stride 1), ReLU and MaxPool2d (2x2, stride 2) as one operation: the convolution's output never exists.
//!
//! ```text
//! v[a,b]     = b[o] + sum over c,p,q of  w[o,c,p,q] * x[n, c, 2i+a+p-pad, 2j+b+q-pad]     a, b in {0, 1}
//! y[n,o,i,j] = max(0, max over a,b of v[a,b]); the first maximum wins a tie, and the first NaN wins all
//! dv[a,b]    = dy[n,o,i,j] at that maximum if it is above 0; 0 elsewhere
//! ```
//!
//! Backward, the passes are Conv2d's over `dv`, which is unfolded from `dy` and a byte a window while it is loaded.
//! Between two such blocks activations have their channels last, so that four are one load. In halves
//! ([`Storage::F16`]) two channels of one position are a word, in either layout: `[n, c / 2, height, width]` in planes.

mod cases;
mod stage;

pub use cases::CASES;
pub use stage::matches;

use super::WORKGROUP;
use super::conv2d::Conv2d;
use super::max_pool2d::MaxPool2d;
use super::stage::{Bytes, Layout, Places, Segment};
use crate::Result;
use crate::plan::Storage;
use crate::plan::shaders::{
    CONV2D_POOL, CONV2D_POOL_F16, CONV2D_POOL_LANES, CONV2D_POOL_LANES_F16, CONV2D_POOL_TILED, CONV2D_POOL_TILED_F16,
    Shader,
};
use crate::plan::tuning::{LANES, Tiles, Tuning};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// Threads that the split of a weight gradient aims at, for each of [`Tiles::workgroups`]: in the form for hardware a
/// part has some four times as many as are counted here.
const SPLIT_THREADS: usize = 16;

/// About so many parts, and less than twice as many: the optimizer adds them one after the other.
const MAX_SPLITS: usize = 256;

/// Windows that a thread owns of `y` or `dx`, as `WINDOWS` in the shader.
const WINDOWS: usize = 4;

/// Rows of windows that a subgroup owns in [`Tiles::Lanes`], and how many of each, as in the shader.
const ROWS: usize = 2;
const COLUMNS: usize = 7;

/// Where a block's input is.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// The batch, in floating point.
    Tensor(Slice),
    /// The data set, for [`Layout::Bytes`].
    Bytes(Bytes),
}

impl Input {
    /// Adds what a pass binds; a tensor under `name`.
    fn bind(self, name: &'static str, bindings: &mut Vec<(&'static str, Slice)>) {
        match self {
            Self::Tensor(x) => bindings.push((name, x)),
            Self::Bytes(Bytes { images, order, normalisation }) => {
                bindings.extend([("images", images), ("order", order), ("normalisation", normalisation)]);
            }
        }
    }
}

/// A block over one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dPool {
    conv: Conv2d,
    wants_dx: bool,
    pooled: [usize; 2],
    /// How `x` is laid out, and `dx`.
    pub x: Layout,
    /// How `y` is laid out. Codes and `dy` always have their channels last.
    pub y: Layout,
    /// In what `y` is stored, and `x` where a block gives it ([`Layout::ChannelsLast`]).
    pub stored: Storage,
    tuning: Tuning,
}

/// The block's buffers in a plan.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// Input, `[n, c_in, height, width]` by its layout.
    pub x: Input,
    /// OIHW.
    pub w: Slice,
    /// `[c_out]`.
    pub b: Slice,
    /// [`Conv2dPool::packed_len`]: the weight, in the order in which forward reads it.
    pub packed: Slice,
    /// [`Conv2dPool::packed_back_len`]: the same for backward, if the gradient of the input is wanted.
    pub packed_back: Option<Slice>,
    /// Output, `[n, c_out, height, width]` by its layout.
    pub y: Slice,
    /// [`Conv2dPool::codes_len`] an image: which element of its window was the maximum.
    pub codes: Slice,
    /// [`Conv2dPool::partials_len`]: for each split, its part of the weight's gradient and of the bias's.
    pub partials: Slice,
}

impl Conv2dPool {
    /// The block, if these kernels compute it: one group, a 3x3 kernel at stride 1 and dilation 1 with a padding of at
    /// most 2 (1, if the gradient of its input is wanted), 2x2 windows that do not overlap and have no padding, output
    /// channels in fours, with a bias.
    pub fn new(conv: &Conv2d, pool: &MaxPool2d, wants_dx: bool, x: Layout, y: Layout) -> Option<Self> {
        let windows = pool.kernel == [2, 2] && pool.stride == [2, 2] && pool.padding == [0, 0];
        let kernels = conv.kernel == [3, 3] && conv.stride == [1, 1] && conv.is_dense() && windows;
        let padding = if wants_dx { conv.padding == [1, 1] } else { conv.padding.iter().all(|&p| p <= 2) };
        let fits = kernels
            && padding
            && conv.c_out.is_multiple_of(4)
            && conv.bias
            // Only a block gives its channels last, and its parameters want a gradient.
            && (x != Layout::ChannelsLast || wants_dx && conv.input[0].is_multiple_of(4))
            // Nobody wants the gradient of bytes, and nobody stores any.
            && !(x == Layout::Bytes && wants_dx)
            && y != Layout::Bytes;
        fits.then(|| Self {
            conv: *conv,
            wants_dx,
            pooled: pool.output_plane(),
            x,
            y,
            stored: Storage::F32,
            tuning: Tuning::default(),
        })
    }

    /// The same block, its kernels in these forms.
    pub fn tuned(self, tuning: Tuning) -> Self {
        Self { tuning, ..self }
    }

    /// The output's channels, height, width.
    pub fn output(&self) -> [usize; 3] {
        [self.conv.c_out, self.pooled[0], self.pooled[1]]
    }

    fn windows(&self) -> usize {
        self.pooled.iter().product()
    }

    /// Elements of the packed weight.
    pub fn packed_len(&self) -> usize {
        self.conv.input[0] * 9 * self.conv.c_out.next_multiple_of(8)
    }

    /// Elements of the weight as packed for backward.
    pub fn packed_back_len(&self) -> usize {
        self.conv.c_out * 9 * self.conv.input[0].next_multiple_of(8)
    }

    /// Words of an image's codes.
    pub fn codes_len(&self) -> usize {
        self.windows() * self.conv.c_out / 4
    }

    /// Elements of the partial sums of the gradients of weight and bias, for a batch of up to `n`.
    pub fn partials_len(&self, n: usize) -> usize {
        self.splits(n).0 * (self.conv.weight_len() + self.conv.c_out)
    }

    /// How many splits there are, and how many rows of windows each owns, image after image.
    pub fn splits(&self, n: usize) -> (usize, usize) {
        let all = n * self.pooled[0];
        // Rather too many parts than too few: in the form for hardware a part is at least a workgroup.
        let threads = SPLIT_THREADS * self.tuning.conv_backward.workgroups();
        let rows = (all / threads.div_ceil(self.split_threads()).min(MAX_SPLITS)).max(1);
        (all.div_ceil(rows), rows)
    }

    /// What the optimizer does for the weight and for the bias, which begin at `weight` and `bias`, for a batch of up
    /// to `n`.
    pub fn segments(&self, n: usize, [weight, bias]: [usize; 2], at: Places) -> [Segment; 2] {
        let weights = self.conv.weight_len();
        let of_weight = Segment {
            first: word(weight),
            len: word(weights),
            partials: word(at.partials),
            splits: word(self.splits(n).0),
            stride: word(weights + self.conv.c_out),
            c_in: word(self.conv.input[0]),
            packed: word(at.packed),
            packed_back: at.packed_back.map_or(Segment::NONE, word),
            taps: 9,
            ..Segment::default()
        };
        let (first, len, partials) = (word(bias), word(self.conv.c_out), word(at.partials + weights));
        [of_weight, Segment { first, len, partials, c_in: 0, ..of_weight }]
    }

    /// Threads of one split of the weight's gradient, in the form that is chosen.
    fn weight_threads(&self) -> usize {
        match self.tuning.conv_backward {
            Tiles::Workgroup | Tiles::WorkgroupFew | Tiles::WorkgroupMany => {
                let c_in = self.conv.input[0];
                let parts = if self.x == Layout::ChannelsLast { c_in.div_ceil(8) } else { c_in };
                self.conv.c_out.div_ceil(32) * parts * WORKGROUP
            }
            Tiles::Registers => self.split_threads(),
            Tiles::Lanes => {
                let blocks = self.conv.c_out / 4;
                self.split_threads() / blocks * blocks.next_multiple_of(LANES)
            }
        }
    }

    /// The least threads of one split of the weight's gradient.
    fn split_threads(&self) -> usize {
        let c_in = self.conv.input[0];
        self.conv.c_out / 4 * if self.x == Layout::ChannelsLast { c_in / 4 } else { c_in }
    }
}

uniform! {
    /// `Conv2dPool` in `shaders/conv2d_pool.wgsl`.
    struct Dims {
        c_in: u32, h_in: u32, w_in: u32,
        c_out: u32, h_out: u32, w_out: u32,
        padding_h: u32, padding_w: u32,
        x_channel: u32, x_position: u32,
        y_channel: u32, y_position: u32,
        split: u32,
        splits: u32,
    }
}

/// Strides from one channel (or the channels of one word) and from one position to the next.
fn strides(layout: Layout, [channels, h, w]: [usize; 3], stored: Storage) -> [u32; 2] {
    match layout {
        Layout::Planes | Layout::Bytes => [word(h * w), 1],
        Layout::ChannelsLast => [1, word(channels / stored.per_word())],
    }
}

/// Threads that own `channels` of so many windows of `y` or `dx`.
fn tile_threads(tiles: Tiles, windows: usize, channels: usize) -> usize {
    match tiles {
        Tiles::Registers => windows.div_ceil(WINDOWS) * channels.div_ceil(8),
        Tiles::Workgroup | Tiles::WorkgroupFew | Tiles::WorkgroupMany => {
            // As `area` in the shader.
            let pairs = if channels <= 32 { 4 } else { 8 };
            windows.div_ceil(2 * WORKGROUP / pairs) * channels.div_ceil(8 * pairs) * WORKGROUP
        }
        Tiles::Lanes => windows.div_ceil(LANES) * channels.div_ceil(4 * LANES) * LANES,
    }
}

/// Whether a pass from channels last takes smaller parts, because the large ones are so few workgroups.
fn in_small_parts(tiles: Tiles, groups: usize) -> bool {
    match tiles {
        Tiles::Workgroup | Tiles::WorkgroupFew | Tiles::WorkgroupMany => groups < tiles.workgroups(),
        Tiles::Registers | Tiles::Lanes => false,
    }
}

/// Those of the smaller parts of [`Tiles::Workgroup`], as `area_small` in the shader.
fn small_threads(windows: usize, channels: usize) -> usize {
    windows.div_ceil(16) * channels.div_ceil(32) * WORKGROUP
}

/// Threads that own `channels` of a plane of windows of each of `n` images in [`Tiles::Lanes`], strip by strip.
fn strip_threads(n: usize, plane: [usize; 2], channels: usize) -> usize {
    (n * plane[0]).div_ceil(ROWS) * plane[1].div_ceil(COLUMNS) * channels.div_ceil(4 * LANES) * LANES
}

impl Conv2dPool {
    fn dims(&self, n: usize) -> Dims {
        let [c_in, h_in, w_in] = self.conv.input.map(word);
        let [c_out, h_out, w_out] = self.output().map(word);
        let [padding_h, padding_w] = self.conv.padding.map(word);
        // Also those of dx, which stays in f32.
        let [x_channel, x_position] = strides(self.x, self.conv.input, Storage::F32);
        let [y_channel, y_position] = strides(self.y, self.output(), self.stored);
        let (splits, split) = self.splits(n);
        Dims {
            c_in,
            h_in,
            w_in,
            c_out,
            h_out,
            w_out,
            padding_h,
            padding_w,
            x_channel,
            x_position,
            y_channel,
            y_position,
            split: word(split),
            splits: word(splits),
        }
    }

    fn shader(&self, tiles: Tiles) -> &'static Shader {
        match (tiles, self.stored) {
            (Tiles::Registers, Storage::F32) => &CONV2D_POOL,
            (Tiles::Registers, Storage::F16) => &CONV2D_POOL_F16,
            (Tiles::Lanes, Storage::F32) => &CONV2D_POOL_LANES,
            (Tiles::Lanes, Storage::F16) => &CONV2D_POOL_LANES_F16,
            (Tiles::Workgroup | Tiles::WorkgroupFew | Tiles::WorkgroupMany, Storage::F32) => &CONV2D_POOL_TILED,
            (Tiles::Workgroup | Tiles::WorkgroupFew | Tiles::WorkgroupMany, Storage::F16) => &CONV2D_POOL_TILED_F16,
        }
    }

    /// Operations of one pass over a batch of `n`: those of the positions that some window covers.
    fn flops(&self, n: usize) -> u64 {
        8 * (n * self.windows() * self.conv.c_out * self.conv.fan_in()) as u64
    }

    /// Records the packing of the weight, for forward and for what backward there is.
    pub fn pack(&self, plan: &mut Plan, name: &str, n: usize, at: &Buffers) -> Result<()> {
        plan.dispatch(
            format!("{name}.pack"),
            (self.shader(Tiles::Registers), "pack"),
            self.dims(n),
            Grid::Threads(self.packed_len() / 4),
            0,
            &[("w", at.w), ("packed", at.packed)],
        )?;
        let Some(packed_back) = at.packed_back else { return Ok(()) };
        plan.dispatch(
            format!("{name}.pack_back"),
            (self.shader(Tiles::Registers), "pack_back"),
            self.dims(n),
            Grid::Threads(self.packed_back_len() / 4),
            0,
            &[("w", at.w), ("packed_back", packed_back)],
        )
    }

    /// Records the forward pass over a batch of up to `n`. The weight has been packed.
    pub fn forward(&self, plan: &mut Plan, name: &str, n: usize, at: &Buffers) -> Result<()> {
        let windows = n * self.windows();
        let threads = match (self.tuning.conv_forward, self.x) {
            (Tiles::Lanes, Layout::ChannelsLast) => strip_threads(n, self.pooled, self.conv.c_out),
            (tiles, _) => tile_threads(tiles, windows, self.conv.c_out),
        };
        let few = in_small_parts(self.tuning.conv_forward, threads / WORKGROUP);
        let (pass, x) = match self.x {
            Layout::Planes => ("forward_planes", "x"),
            Layout::ChannelsLast if few => ("forward_small", "x_last"),
            Layout::ChannelsLast => ("forward", "x_last"),
            Layout::Bytes => ("forward_bytes", ""),
        };
        let threads = if pass == "forward_small" { small_threads(windows, self.conv.c_out) } else { threads };
        let mut bindings = vec![("b", at.b), ("taps", at.packed), ("y", at.y), ("codes", at.codes)];
        at.x.bind(x, &mut bindings);
        plan.dispatch(
            format!("{name}.forward"),
            (self.shader(self.tuning.conv_forward), pass),
            self.dims(n),
            Grid::Threads(threads),
            self.flops(n),
            &bindings,
        )?;
        self.count_bytes(plan, n);
        Ok(())
    }

    /// The data set is bound whole, but only the batch's images are read.
    fn count_bytes(&self, plan: &mut Plan, n: usize) {
        if let (Layout::Bytes, Some(dispatch)) = (self.x, plan.dispatches.last_mut()) {
            let whole = ["images", "order"].map(|name| {
                let storage = |b: &&crate::plan::shaders::Binding| {
                    matches!(b.kind, crate::plan::shaders::BindingKind::Storage { .. })
                };
                let at = dispatch.entry.bindings.iter().filter(storage).position(|binding| binding.name == name);
                at.map_or(0, |at| dispatch.slices[at].bytes)
            });
            let read = n * (self.conv.input.iter().product::<usize>() + 4);
            dispatch.bytes = dispatch.bytes - whole.iter().sum::<u64>() + read as u64;
        }
    }

    /// Records `dy`, plane by plane, to `dy_last`, channels last.
    pub fn channels_last(&self, plan: &mut Plan, name: &str, n: usize, dy: Slice, dy_last: Slice) -> Result<()> {
        plan.dispatch(
            format!("{name}.channels_last"),
            (self.shader(Tiles::Registers), "channels_last"),
            self.dims(n),
            Grid::Threads(n * self.windows() * self.conv.c_out),
            0,
            &[("dy_planes", dy), ("dy_last", dy_last)],
        )
    }

    /// Records the partial sums of the gradients of weight and bias, and the gradient of the input to `dx` if it is
    /// wanted; then the weight has been packed.
    pub fn backward(
        &self,
        plan: &mut Plan,
        name: &str,
        n: usize,
        at: &Buffers,
        dy: Slice,
        dx: Option<Slice>,
    ) -> Result<()> {
        let x = match self.x {
            Layout::Planes | Layout::Bytes => "x",
            Layout::ChannelsLast => "x_last",
        };
        let mut bindings = vec![("codes_in", at.codes), ("dy", dy), ("partials", at.partials)];
        at.x.bind(x, &mut bindings);
        let of_weight = (self.splits(n).0 * self.weight_threads()).div_ceil(WORKGROUP);
        let (pass, groups) = match dx {
            None if self.x == Layout::Bytes => ("backward_weight_bytes", of_weight),
            None => ("backward_weight_planes", of_weight),
            Some(dx) => {
                bindings.extend(at.packed_back.map(|taps| ("taps", taps)));
                bindings.push(("dx", dx));
                let [c_in, h, w] = self.conv.input;
                let plane = [h.div_ceil(2), w.div_ceil(2)];
                let windows = n * plane[0] * plane[1];
                let of_input = match self.tuning.conv_backward {
                    Tiles::Lanes => strip_threads(n, plane, c_in),
                    tiles => tile_threads(tiles, windows, c_in),
                }
                .div_ceil(WORKGROUP);
                let few = in_small_parts(self.tuning.conv_backward, of_input);
                let (pass, of_input) = match self.x {
                    Layout::Planes => ("backward_planes", of_input),
                    _ if few => ("backward_small", small_threads(windows, c_in) / WORKGROUP),
                    _ => ("backward", of_input),
                };
                (pass, of_weight + of_input)
            }
        };
        let flops = self.flops(n) * if dx.is_some() { 2 } else { 1 };
        let label = if dx.is_some() { "backward" } else { "backward_weight" };
        plan.dispatch(
            format!("{name}.{label}"),
            (self.shader(self.tuning.conv_backward), pass),
            self.dims(n),
            Grid::Workgroups(groups),
            flops,
            &bindings,
        )?;
        self.count_bytes(plan, n);
        Ok(())
    }
}
