//! A tiled convolution as a stage: takes the place of a convolution, and of what follows it.

use super::norm::{NormAt, Tail, to_last, to_planes};
use super::{Conv2dTiled, InferenceTail, PackedWeight, last_len};
use crate::Result;
use crate::layer::{Mode, Saved};
use crate::ops::batch_norm2d::BatchNorm2d;
use crate::ops::conv2d::Conv2d;
use crate::ops::max_pool2d::MaxPool2d;
use crate::ops::relu::Relu;
use crate::ops::residual::Residual;
use crate::ops::stage::{ChannelsLast, Gradient, Places, Segment, Shares, Site, Stage, StageAt};
use crate::plan::{Plan, Slice};

/// A convolution with what follows it, and in which order its tensors are.
#[derive(Clone, Copy, Debug)]
pub struct Tiled {
    conv: Conv2dTiled,
    following: Tail,
    wants_dx: bool,
    last: ChannelsLast,
}

/// The stage of a convolution where [`Conv2dTiled::new`] takes it, and of what follows it, in this order: a batch norm,
/// an addition behind that, a ReLU; and in place of an addition a 2x2 pooling behind both.
pub fn matches(site: &Site) -> Option<(Box<dyn Stage>, usize)> {
    let mut ops = site.ops.iter().peekable();
    let conv = Conv2dTiled::new(ops.next()?.is::<Conv2d>()?)?.tuned(site.tuning);
    let norm = ops.next_if(|op| op.is::<BatchNorm2d>().is_some()).and_then(|op| op.is::<BatchNorm2d>()).copied();
    let adds = norm.is_some() && ops.next_if(|op| op.is::<Residual>().is_some()).is_some();
    let relu = ops.next_if(|op| op.is::<Relu>().is_some()).is_some();
    let fits = |pool: &MaxPool2d| pool.kernel == [2, 2] && pool.stride == [2, 2] && pool.padding == [0, 0];
    let pools = norm.is_some() && relu && !adds && ops.next_if(|op| op.is().is_some_and(fits)).is_some();
    let len = site.ops.len() - ops.len();
    let following = Tail { image: conv.output(), norm, adds, relu, pools };
    Some((Box::new(Tiled::new(conv, following, site.wants_dx)), len))
}

/// The input, where it comes in planes.
const IN_LAST: &str = "in_last";
/// The convolution's sums, where a batch norm follows.
const SUMS: &str = "sums";
/// What normalises.
const TABLE: &str = "table";
/// The output, where it is given in planes.
const OUT_LAST: &str = "out_last";

impl Tiled {
    /// A convolution with what follows it, its tensors in planes until the stage is [told otherwise](Stage::settle).
    pub fn new(conv: Conv2dTiled, following: Tail, wants_dx: bool) -> Self {
        Self { conv, following, wants_dx, last: ChannelsLast::default() }
    }

    /// How many splits the weight's gradient has, and how many rows of the output each owns.
    pub fn splits(&self, n: usize) -> (usize, usize) {
        self.conv.splits(n)
    }

    fn y_len(&self, n: usize) -> usize {
        n * last_len(self.following.output())
    }

    fn z_len(&self, n: usize) -> usize {
        n * last_len(self.following.image)
    }

    fn x_len(&self, n: usize) -> usize {
        n * last_len(self.conv.conv.input)
    }

    /// What a forward pass leaves, if it does.
    fn kept(&self, at: &StageAt, name: &str) -> Option<Slice> {
        self.saved(at.n).iter().position(|saved| saved.name == name).map(|i| at.saved[i])
    }

    /// The input with its channels last.
    fn x(&self, at: &StageAt) -> Slice {
        self.kept(at, IN_LAST).unwrap_or(at.x)
    }

    /// The output with its channels last.
    fn y(&self, at: &StageAt) -> Slice {
        self.kept(at, OUT_LAST).unwrap_or(at.y)
    }

    /// What normalises.
    fn table(&self, at: &StageAt) -> Slice {
        self.kept(at, TABLE).expect("always kept")
    }

    fn conv_bias(&self, at: &StageAt) -> Option<Slice> {
        self.conv.conv.bias.then(|| at.params[1])
    }

    fn norm(&self, at: &StageAt) -> Option<NormAt> {
        self.following.norm?;
        let of_norm = if self.conv.conv.bias { 2 } else { 1 };
        Some(NormAt {
            weight: at.params[of_norm],
            bias: at.params[of_norm + 1],
            running_mean: at.buffers[0],
            running_var: at.buffers[1],
            conv_bias: self.conv_bias(at),
        })
    }
}

impl Stage for Tiled {
    fn channels_last(&self) -> ChannelsLast {
        ChannelsLast { x: true, skip: true, y: true }
    }

    fn settle(&mut self, last: ChannelsLast) {
        self.last = last;
    }

    fn gives_gradient(&self) -> Gradient {
        let [_, h, w] = self.conv.conv.input;
        if self.last.x { Gradient::ChannelsLast(h * w) } else { Gradient::Plain }
    }

    fn takes_gradient(&self) -> Gradient {
        let [_, h, w] = self.following.output();
        if self.last.y { Gradient::ChannelsLast(h * w) } else { Gradient::Plain }
    }

    fn skip_gradient(&self) -> Gradient {
        let [_, h, w] = self.following.output();
        if self.last.skip { Gradient::ChannelsLast(h * w) } else { Gradient::Plain }
    }

    fn adds_gradient(&self) -> bool {
        self.last.x
    }

    fn saved(&self, n: usize) -> Vec<Saved> {
        let part = |wanted, name, len| Some(Saved { name, len, numbers: true }).filter(|_| wanted);
        let parts = [
            part(!self.last.x, IN_LAST, self.x_len(n)),
            part(self.following.norm.is_some(), SUMS, self.z_len(n)),
            part(true, TABLE, self.following.table_len()),
            part(!self.last.y, OUT_LAST, self.y_len(n)),
        ];
        parts.into_iter().flatten().collect()
    }

    fn shares(&self, n: usize) -> Shares {
        let packed_back = if self.wants_dx { self.conv.packed_back_len() } else { 0 };
        Shares { partials: self.conv.partials_len(n), packed: self.conv.packed_len(), packed_back }
    }

    fn segments(&self, n: usize, params: &[usize], at: Places) -> Vec<Segment> {
        self.conv.segments(n, params, at)
    }

    fn pack(&self, plan: &mut Plan, at: &StageAt) -> Result<()> {
        self.conv.pack(plan, at.name, at.params[0], &PackedWeight { forward: at.packed, back: at.packed_back })
    }

    fn forward(&self, plan: &mut Plan, at: &StageAt) -> Result<()> {
        let StageAt { name, n, .. } = *at;
        let (x, y, table) = (self.x(at), self.y(at), self.table(at));
        if !self.last.x {
            to_last(plan, &format!("{name}.in"), n, self.conv.conv.input, [at.x, x])?;
        }
        let mut skip = at.skip.filter(|_| self.following.adds);
        if let Some(planes) = skip.filter(|_| !self.last.skip) {
            let last = plan.buffer(format!("{name}.skip"), self.y_len(n))?;
            to_last(plan, &format!("{name}.skip"), n, self.following.image, [planes, last])?;
            skip = Some(last);
        }
        let norm = self.norm(at);
        match norm.as_ref().zip(self.kept(at, SUMS)).filter(|_| at.mode == Mode::Training) {
            Some((norm, z)) => {
                let parts = plan.buffer(format!("{name}.parts"), self.conv.parts_len(n))?;
                self.conv.measured(plan, name, n, [x, at.packed, z, parts])?;
                self.following.of_batch(plan, name, n, [parts, table], norm)?;
                self.following.apply(plan, name, n, [z, table, y], skip)?;
            }
            None => {
                self.following.of_running(plan, name, table, norm.as_ref(), self.conv_bias(at))?;
                let Tail { relu, pools, .. } = self.following;
                self.conv.answered(plan, name, n, [x, at.packed, y], &InferenceTail { table, skip, relu, pools })?;
            }
        }
        if self.last.y { Ok(()) } else { to_planes(plan, name, n, self.following.output(), [y, at.y]) }
    }

    fn backward(&self, plan: &mut Plan, at: &StageAt, dy: Slice, dx: Option<Slice>) -> Result<()> {
        let StageAt { name, n, .. } = *at;
        let (x, y, table) = (self.x(at), self.y(at), self.table(at));
        let last = |plan: &mut Plan, what: &str, len: usize| plan.buffer(format!("{name}.{what}.grad_last"), len);
        let mut dy = dy;
        if !self.last.y {
            let to = last(plan, "out", self.y_len(n))?;
            to_last(plan, &format!("{name}.out.grad"), n, self.following.output(), [dy, to])?;
            dy = to;
        }
        // What is added gets the gradient as it is behind the ReLU.
        let mut dskip = at.dskip.filter(|_| self.last.skip);
        if at.dskip.is_some() && dskip.is_none() {
            dskip = Some(last(plan, "skip", self.z_len(n))?);
        }
        let dz = match self.kept(at, SUMS) {
            Some(z) => {
                let dz = last(plan, "sums", self.z_len(n))?;
                let of_norm = if self.conv.conv.bias { 2 } else { 1 };
                let grads = [at.grads[of_norm], at.grads[of_norm + 1]];
                self.following.backward(plan, name, n, [z, table, y, dy, dz], grads, dskip)?;
                dz
            }
            None if self.following.relu => {
                let to = last(plan, "sums", self.z_len(n))?;
                self.following.masked(plan, name, n, [y, dy, to])?;
                to
            }
            None => dy,
        };
        if let (Some(planes), Some(dskip)) = (at.dskip.filter(|_| !self.last.skip), dskip) {
            to_planes(plan, &format!("{name}.skip.grad"), n, self.following.image, [dskip, planes])?;
        }
        self.conv.weight(plan, name, n, [x, dz, at.partials])?;
        let (Some(dx), Some(packed_back)) = (dx, at.packed_back) else { return Ok(()) };
        if self.last.x {
            return self.conv.gradient(plan, name, n, [dz, packed_back, dx], at.before);
        }
        let to = last(plan, "in", self.x_len(n))?;
        self.conv.gradient(plan, name, n, [dz, packed_back, to], None)?;
        to_planes(plan, &format!("{name}.in.grad"), n, self.conv.conv.input, [to, dx])
    }
}
