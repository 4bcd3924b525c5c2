//! A tiled layer as a stage: takes the place of a fully connected layer, and of a ReLU that follows it.

use super::LinearTiled;
use crate::Result;
use crate::ops::linear::Linear;
use crate::ops::relu::{self, Relu};
use crate::ops::stage::{Gradient, Site, Stage, StageAt};
use crate::ops::{AffineBuffers, head::Head};
use crate::plan::{Plan, Slice, Storage};

/// A tiled layer, and what its neighbours want of it.
#[derive(Clone, Copy, Debug)]
struct Dense {
    tiled: LinearTiled,
    /// The last of its network, with few classes.
    last: bool,
    /// The form in which it gives the gradient of its input.
    gives: Gradient,
}

/// The stage of a fully connected layer, where [`LinearTiled::new`] takes it: the last one of a network of few classes,
/// or one whose outputs come in fours, because its gradient comes in rows of them.
pub fn matches(site: &Site) -> Option<(Box<dyn Stage>, usize)> {
    let [linear, above @ ..] = site.ops else { return None };
    let dims = linear.is::<Linear>()?;
    let tiled = LinearTiled { tiles: site.tuning.linear, ..LinearTiled::new(dims)? };
    let stage = |relu, last| Box::new(Dense { tiled: LinearTiled { relu, ..tiled }, last, gives: Gradient::Plain });
    match above.first() {
        None if Head::supports(dims) => Some((stage(false, true), 1)),
        _ if !dims.outputs.is_multiple_of(4) => None,
        Some(next) if next.is::<Relu>().is_some() => Some((stage(true, false), 2)),
        _ => Some((stage(false, false), 1)),
    }
}

fn buffers(at: &StageAt) -> AffineBuffers {
    let [w, b] = [0, 1].map(|i| at.params[i]);
    // Inference has no gradients.
    let [dw, db] = [0, 1].map(|i| at.grads.get(i).copied().unwrap_or(at.y));
    AffineBuffers { x: at.x, w, b, y: at.y, dw, db }
}

impl Stage for Dense {
    fn stored(&self) -> Storage {
        self.tiled.y
    }

    fn hand_over(&mut self, above: &mut dyn Stage) {
        if self.tiled.relu {
            above.give_gradient(Gradient::Masked);
        }
    }

    fn store_halves(&mut self, above: &mut dyn Stage) {
        if self.tiled.x == Storage::F16 && above.read_halves(false) {
            self.tiled.y = Storage::F16;
        }
    }

    /// The head of a network reads an image's halves in no order that a block gives.
    fn read_halves(&mut self, image: bool) -> bool {
        if self.last && image {
            return false;
        }
        self.tiled.x = Storage::F16;
        true
    }

    fn give_gradient(&mut self, form: Gradient) -> bool {
        match form {
            Gradient::Plain => {}
            Gradient::Masked => self.tiled.mask = true,
            Gradient::ChannelsLast(positions) => self.tiled.plane = positions,
        }
        self.gives = form;
        true
    }

    fn gives_gradient(&self) -> Gradient {
        self.gives
    }

    fn takes_gradient(&self) -> Gradient {
        if self.tiled.relu { Gradient::Masked } else { Gradient::Plain }
    }

    fn gradient_stride(&self, _len: usize) -> usize {
        self.tiled.dy_stride()
    }

    fn forward(&self, plan: &mut Plan, at: &StageAt) -> Result<()> {
        self.tiled.forward(plan, at.name, at.n, &buffers(at))
    }

    fn convert_gradient(&self, plan: &mut Plan, at: &StageAt, dy: Slice, to: Slice) -> Result<()> {
        relu::backward(plan, at.name, at.n, self.tiled.dims.outputs, [at.y, dy, to])
    }

    fn backward(&self, plan: &mut Plan, at: &StageAt, dy: Slice, dx: Option<Slice>) -> Result<()> {
        self.tiled.backward(plan, at.name, at.n, &buffers(at), dy, dx)
    }

    fn head(&self) -> Option<(&Linear, Storage)> {
        self.last.then_some((&self.tiled.dims, self.tiled.x))
    }
}
