//! What follows a tiled convolution, as passes in a plan.

use super::{PART, blocks};
use crate::Result;
use crate::ops::WORKGROUP;
use crate::ops::batch_norm2d::BatchNorm2d;
use crate::plan::shaders::CONV2D_TILED_NORM;
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// Parts of a sum over a batch, at most; and elements, or windows, of a part at least.
const PARTS: usize = 1024;
const SHARE: usize = 32;

/// Elements of a block of channels that a thread does one after the other: what normalises them is loaded once.
const POSITIONS: usize = 8;

uniform! {
    /// `Norm` in `shaders/conv2d_tiled_norm.wgsl`.
    struct Dims {
        channels: u32,
        h: u32, w: u32,
        parts: u32, share: u32,
        eps: f32, momentum: f32,
        relu: u32, adds: u32,
        positions: u32,
        bias: u32,
    }
}

/// What follows the sums z of a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    /// Channels, height, width of z.
    pub image: [usize; 3],
    /// A batch norm.
    pub norm: Option<BatchNorm2d>,
    /// The addition of another tensor.
    pub adds: bool,
    /// ReLU.
    pub relu: bool,
    /// A 2x2 pooling, behind a batch norm and a ReLU.
    pub pools: bool,
}

/// A batch norm's parameters and running statistics, and the bias of the convolution.
#[derive(Clone, Copy, Debug)]
pub struct NormAt {
    /// `[channels]`.
    pub weight: Slice,
    /// `[channels]`.
    pub bias: Slice,
    /// `[channels]`.
    pub running_mean: Slice,
    /// `[channels]`.
    pub running_var: Slice,
    /// `[channels]`, if the convolution has one.
    pub conv_bias: Option<Slice>,
}

impl Tail {
    /// Words of what normalises each channel.
    pub fn table_len(&self) -> usize {
        16 * blocks(self.image[0])
    }

    /// Channels, height, width of y.
    pub fn output(&self) -> [usize; 3] {
        let [channels, h, w] = self.image;
        if self.pools { [channels, h / 2, w / 2] } else { self.image }
    }

    fn dims(&self, n: usize) -> Dims {
        let [channels, h, w] = self.image.map(word);
        let (parts, share) = self.parts(n);
        let (eps, momentum) = self.norm.map_or((0.0, 0.0), |norm| (norm.eps as f32, norm.momentum as f32));
        Dims {
            channels,
            h,
            w,
            parts: word(parts),
            share: word(share),
            eps,
            momentum,
            relu: self.relu.into(),
            adds: self.adds.into(),
            positions: word(POSITIONS),
            bias: 0,
        }
    }

    /// Parts of the sums over a batch, for each block, and what each of them has: by shapes alone.
    fn parts(&self, n: usize) -> (usize, usize) {
        let [_, h, w] = self.output();
        let share = (n * h * w).div_ceil(PARTS).max(SHARE);
        ((n * h * w).div_ceil(share), share)
    }

    fn record(
        &self,
        plan: &mut Plan,
        label: String,
        pass: &'static str,
        dims: Dims,
        grid: Grid,
        bound: &[(&str, Slice)],
    ) -> Result<()> {
        plan.dispatch(label, (&CONV2D_TILED_NORM, pass), dims, grid, 0, bound)
    }

    /// Threads of a pass over planes of `h` x `w` elements.
    fn threads(&self, n: usize, h: usize, w: usize) -> Grid {
        Grid::Threads((n * h * w).div_ceil(POSITIONS) * blocks(self.image[0]))
    }

    /// Records what normalises a batch, from the parts of its statistics, and the running statistics.
    pub fn of_batch(
        &self,
        plan: &mut Plan,
        name: &str,
        n: usize,
        [parts, table]: [Slice; 2],
        at: &NormAt,
    ) -> Result<()> {
        let NormAt { weight, bias, running_mean, running_var, conv_bias } = *at;
        let running = [("running_mean", running_mean), ("running_var", running_var)];
        let given = [("weight", weight), ("bias", bias), ("conv_bias", conv_bias.unwrap_or(bias))];
        let bound = [&given[..], &running, &[("found", parts), ("channels", table)]].concat();
        let dims = Dims { bias: conv_bias.is_some().into(), ..self.dims(n) };
        let grid = Grid::Workgroups(blocks(self.image[0]));
        self.record(plan, format!("{name}.statistics"), "of_batch", dims, grid, &bound)?;
        plan.loops(&[(parts.bytes as usize / 4).div_ceil(PART * WORKGROUP * blocks(self.image[0]))]);
        Ok(())
    }

    /// Records what normalises in inference: the running statistics, or where there is no batch norm the convolution's
    /// bias.
    pub fn of_running(
        &self,
        plan: &mut Plan,
        name: &str,
        table: Slice,
        at: Option<&NormAt>,
        bias: Option<Slice>,
    ) -> Result<()> {
        let dims = Dims { bias: bias.is_some().into(), ..self.dims(1) };
        let conv_bias = |other: Slice| ("conv_bias", bias.unwrap_or(other));
        let grid = Grid::Threads(blocks(self.image[0]));
        let label = format!("{name}.table");
        let Some(&NormAt { weight, bias, running_mean, running_var, .. }) = at else {
            let nothing = plan.buffer(format!("{name}.no_bias"), self.image[0])?;
            return self.record(plan, label, "of_bias", dims, grid, &[conv_bias(nothing), ("channels", table)]);
        };
        let kept = [("kept_mean", running_mean), ("kept_var", running_var), ("channels", table)];
        let bound = [&kept[..], &[("weight", weight), ("bias", bias), conv_bias(bias)]].concat();
        self.record(plan, label, "of_running", dims, grid, &bound)
    }

    /// Records y from z.
    pub fn apply(
        &self,
        plan: &mut Plan,
        name: &str,
        n: usize,
        [z, table, y]: [Slice; 3],
        skip: Option<Slice>,
    ) -> Result<()> {
        let [_, h, w] = self.output();
        let mut bound = vec![("z", z), ("table", table), ("y", y)];
        let pass = if self.pools {
            "apply_pooled"
        } else {
            bound.push(("skip", skip.unwrap_or(z)));
            "apply"
        };
        self.record(plan, format!("{name}.apply"), pass, self.dims(n), self.threads(n, h, w), &bound)
    }

    /// Records the gradients of the batch norm's parameters, `grads`, dz, and that of what was added, `dskip`, if it is
    /// wanted.
    pub fn backward(
        &self,
        plan: &mut Plan,
        name: &str,
        n: usize,
        [z, table, y, dy, dz]: [Slice; 5],
        [dweight, dbias]: [Slice; 2],
        dskip: Option<Slice>,
    ) -> Result<()> {
        let [channels, h, w] = self.image;
        let (blocks, (parts, share)) = (blocks(channels), self.parts(n));
        let sums = plan.buffer(format!("{name}.sums"), 8 * blocks * parts)?;
        let shares = plan.buffer(format!("{name}.shares"), 8 * blocks)?;
        let mut given = vec![("z", z), ("table", table), ("dy", dy)];
        if !self.pools {
            // Without an addition the output is not read.
            given.push(("y_in", if self.adds { y } else { z }));
        }
        let label = |what: &str| format!("{name}.{what}");
        let pass = if self.pools { "reduce_backward_pooled" } else { "reduce_backward" };
        let bound = [&given[..], &[("sums", sums)]].concat();
        self.record(plan, label("reduce_backward"), pass, self.dims(n), Grid::Threads(blocks * parts), &bound)?;
        plan.loops(&[share]);
        let bound = [("found_sums", sums), ("shares", shares), ("dweight", dweight), ("dbias", dbias)];
        let grid = Grid::Workgroups(blocks);
        self.record(plan, label("finish_backward"), "finish_backward", self.dims(n), grid, &bound)?;
        let mut bound = [&given[..], &[("taken", shares), ("dz", dz)]].concat();
        let (pass, grid) = match (self.pools, dskip) {
            (true, _) => ("backward_pooled", self.threads(n, h.div_ceil(2), w.div_ceil(2))),
            (false, None) => ("backward", self.threads(n, h, w)),
            (false, Some(dskip)) => {
                bound.push(("dskip", dskip));
                ("backward_added", self.threads(n, h, w))
            }
        };
        self.record(plan, label("backward_norm"), pass, self.dims(n), grid, &bound)
    }

    /// Records, without a batch norm, the gradient through ReLU.
    pub fn masked(&self, plan: &mut Plan, name: &str, n: usize, [y, dy, dz]: [Slice; 3]) -> Result<()> {
        let [channels, h, w] = self.image;
        let grid = Grid::Threads(n * h * w * blocks(channels));
        let bound = [("y_in", y), ("dy", dy), ("dz", dz)];
        self.record(plan, format!("{name}.masked"), "masked", self.dims(n), grid, &bound)
    }
}

/// Records a change of the order of a tensor of images.
fn reorder(
    plan: &mut Plan,
    label: String,
    pass: &'static str,
    n: usize,
    image: [usize; 3],
    bound: &[(&str, Slice)],
) -> Result<()> {
    let [channels, h, w] = image;
    let dims = Dims { channels: word(channels), h: word(h), w: word(w), ..Dims::default() };
    plan.dispatch(label, (&CONV2D_TILED_NORM, pass), dims, Grid::Threads(n * h * w * blocks(channels)), 0, bound)
}

/// Records `to`, with its channels last, from planes.
///
/// # Errors
/// As [`Plan::dispatch`].
pub fn to_last(plan: &mut Plan, name: &str, n: usize, image: [usize; 3], [planes, to]: [Slice; 2]) -> Result<()> {
    reorder(plan, format!("{name}.to_last"), "to_last", n, image, &[("planes_in", planes), ("y", to)])
}

/// Records `to`, in planes, from channels last.
///
/// # Errors
/// As [`Plan::dispatch`].
pub fn to_planes(plan: &mut Plan, name: &str, n: usize, image: [usize; 3], [last, to]: [Slice; 2]) -> Result<()> {
    reorder(plan, format!("{name}.to_planes"), "to_planes", n, image, &[("y_in", last), ("planes", to)])
}
