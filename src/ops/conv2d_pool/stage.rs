//! The block as a stage: takes the place of a convolution, a ReLU and a pooling.

use super::{Buffers, Conv2dPool, Input};
use crate::Result;
use crate::layer::Saved;
use crate::ops::conv2d::Conv2d;
use crate::ops::max_pool2d::MaxPool2d;
use crate::ops::relu::Relu;
use crate::ops::stage::{Gradient, Layout, Places, Segment, Shares, Site, Stage, StageAt};
use crate::plan::{Plan, Slice, Storage};

/// The block of a convolution, a ReLU and a pooling, where [`Conv2dPool::new`] takes them.
pub fn matches(site: &Site) -> Option<(Box<dyn Stage>, usize)> {
    let [conv, relu, pool, ..] = site.ops else { return None };
    let (conv, _, pool) = (conv.is::<Conv2d>()?, relu.is::<Relu>()?, pool.is::<MaxPool2d>()?);
    let x = match site.below {
        None => site.batch,
        Some(below) if below.can_give(Layout::ChannelsLast) && conv.input[0].is_multiple_of(4) => Layout::ChannelsLast,
        Some(_) => Layout::Planes,
    };
    let block = Conv2dPool::new(conv, pool, site.wants_dx, x, Layout::Planes)?;
    Some((Box::new(block.tuned(site.tuning)), 3))
}

impl Conv2dPool {
    fn positions(&self) -> usize {
        let [_, rows, columns] = self.output();
        rows * columns
    }

    fn buffers(&self, at: &StageAt) -> Buffers {
        Buffers {
            x: if self.x == Layout::Bytes { Input::Bytes(at.bytes) } else { Input::Tensor(at.x) },
            w: at.params[0],
            b: at.params[1],
            packed: at.packed,
            packed_back: at.packed_back,
            y: at.y,
            codes: at.saved[0],
            partials: at.partials,
        }
    }
}

impl Stage for Conv2dPool {
    fn reads(&self) -> Layout {
        self.x
    }

    fn can_give(&self, layout: Layout) -> bool {
        layout != Layout::Bytes
    }

    fn stored(&self) -> Storage {
        self.stored
    }

    fn hand_over(&mut self, above: &mut dyn Stage) {
        if self.can_give(above.reads()) {
            self.y = above.reads();
        }
        above.give_gradient(self.takes_gradient());
    }

    fn store_halves(&mut self, above: &mut dyn Stage) {
        if above.read_halves(true) {
            self.stored = Storage::F16;
        }
    }

    /// One shader has one kind of storage: it reads halves if it gives some.
    fn read_halves(&mut self, _image: bool) -> bool {
        self.x == Layout::ChannelsLast && self.stored == Storage::F16
    }

    fn gives_gradient(&self) -> Gradient {
        match self.x {
            Layout::ChannelsLast => Gradient::ChannelsLast(self.conv.input[1] * self.conv.input[2]),
            Layout::Planes | Layout::Bytes => Gradient::Plain,
        }
    }

    fn takes_gradient(&self) -> Gradient {
        Gradient::ChannelsLast(self.positions())
    }

    fn saved(&self, n: usize) -> Vec<Saved> {
        vec![Saved { name: "codes", len: n.saturating_mul(self.codes_len()), numbers: false }]
    }

    fn shares(&self, n: usize) -> Shares {
        let packed_back = if self.wants_dx { self.packed_back_len() } else { 0 };
        Shares { partials: self.partials_len(n), packed: self.packed_len(), packed_back }
    }

    fn segments(&self, n: usize, params: &[usize], at: Places) -> Vec<Segment> {
        self.segments(n, [params[0], params[1]], at).into()
    }

    fn pack(&self, plan: &mut Plan, at: &StageAt) -> Result<()> {
        self.pack(plan, at.name, at.n, &self.buffers(at))
    }

    fn forward(&self, plan: &mut Plan, at: &StageAt) -> Result<()> {
        self.forward(plan, at.name, at.n, &self.buffers(at))
    }

    fn convert_gradient(&self, plan: &mut Plan, at: &StageAt, dy: Slice, to: Slice) -> Result<()> {
        self.channels_last(plan, at.name, at.n, dy, to)
    }

    fn backward(&self, plan: &mut Plan, at: &StageAt, dy: Slice, dx: Option<Slice>) -> Result<()> {
        self.backward(plan, at.name, at.n, &self.buffers(at), dy, dx)
    }
}
