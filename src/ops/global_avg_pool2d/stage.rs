//! The pooling as a stage: above a convolution that gives its channels last, it reads them so.

use super::GlobalAvgPool2d;
use super::record::SHADER;
use crate::Result;
use crate::ops::stage::{ChannelsLast, Gradient, Site, Stage, StageAt};
use crate::plan::{Grid, Plan, Slice};

/// The pooling, and whether its input has its channels last.
#[derive(Clone, Copy, Debug)]
struct Average {
    dims: GlobalAvgPool2d,
    last: bool,
}

/// The stage of a pooling whose channels come in fours, where the stage below can give them last.
pub fn matches(site: &Site) -> Option<(Box<dyn Stage>, usize)> {
    let dims = *site.ops.first()?.is::<GlobalAvgPool2d>()?;
    let fits = dims.0[0].is_multiple_of(4) && site.below.is_some_and(|below| below.channels_last().y);
    fits.then(|| (Box::new(Average { dims, last: false }) as Box<dyn Stage>, 1))
}

impl GlobalAvgPool2d {
    fn last(&self, plan: &mut Plan, label: String, pass: &str, n: usize, bound: &[(&str, Slice)]) -> Result<()> {
        plan.dispatch(label, (&SHADER, pass), self.dims(), Grid::Threads(n * self.0[0] / 4), 0, bound)?;
        plan.loops(&[self.plane()]);
        Ok(())
    }

    /// Records the forward pass over `x`, with its channels last.
    ///
    /// # Errors
    /// As [`Plan::dispatch`].
    pub fn forward_last(&self, plan: &mut Plan, name: &str, n: usize, [x, y]: [Slice; 2]) -> Result<()> {
        self.last(plan, format!("{name}.forward"), "forward_last", n, &[("x_last", x), ("y", y)])
    }

    /// Records the gradient `dx`, with its channels last.
    ///
    /// # Errors
    /// As [`Plan::dispatch`].
    pub fn backward_last(&self, plan: &mut Plan, name: &str, n: usize, [dy, dx]: [Slice; 2]) -> Result<()> {
        self.last(plan, format!("{name}.backward"), "backward_last", n, &[("dy", dy), ("dx_last", dx)])
    }
}

impl Stage for Average {
    fn channels_last(&self) -> ChannelsLast {
        ChannelsLast { x: true, ..ChannelsLast::default() }
    }

    fn settle(&mut self, last: ChannelsLast) {
        self.last = last.x;
    }

    fn gives_gradient(&self) -> Gradient {
        if self.last { Gradient::ChannelsLast(self.dims.plane()) } else { Gradient::Plain }
    }

    fn forward(&self, plan: &mut Plan, at: &StageAt) -> Result<()> {
        match self.last {
            true => self.dims.forward_last(plan, at.name, at.n, [at.x, at.y]),
            false => self.dims.forward_planes(plan, at.name, at.n, [at.x, at.y]),
        }
    }

    fn backward(&self, plan: &mut Plan, at: &StageAt, dy: Slice, dx: Option<Slice>) -> Result<()> {
        let Some(dx) = dx else { return Ok(()) };
        match self.last {
            true => self.dims.backward_last(plan, at.name, at.n, [dy, dx]),
            false => self.dims.backward_planes(plan, at.name, at.n, [dy, dx]),
        }
    }
}
