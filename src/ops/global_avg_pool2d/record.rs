//! The pooling's passes in a plan.

use super::GlobalAvgPool2d;
use crate::Result;
use crate::layer::{At, Exported, Op, Rounding, Shape};
use crate::plan::shaders::{Shader, shader};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// `shaders/global_avg_pool2d.wgsl`
pub static SHADER: Shader = shader!("global_avg_pool2d");

uniform! {
    /// `GlobalAvgPool2d` in `shaders/global_avg_pool2d.wgsl`.
    pub(super) struct Dims {
        channels: u32,
        plane: u32,
        share: f32,
    }
}

impl GlobalAvgPool2d {
    pub(super) fn dims(&self) -> Dims {
        let share = (1.0 / self.plane() as f64) as f32;
        Dims { channels: word(self.0[0]), plane: word(self.plane()), share }
    }

    pub(super) fn forward_planes(&self, plan: &mut Plan, name: &str, n: usize, [x, y]: [Slice; 2]) -> Result<()> {
        let threads = Grid::Threads(n * self.0[0]);
        let bindings = [("x", x), ("y", y)];
        plan.dispatch(format!("{name}.forward"), (&SHADER, "forward"), self.dims(), threads, 0, &bindings)?;
        plan.loops(&[self.plane()]);
        Ok(())
    }

    pub(super) fn backward_planes(&self, plan: &mut Plan, name: &str, n: usize, [dy, dx]: [Slice; 2]) -> Result<()> {
        let threads = Grid::Threads(n * self.input().len());
        let bindings = [("dy", dy), ("dx", dx)];
        plan.dispatch(format!("{name}.backward"), (&SHADER, "backward"), self.dims(), threads, 0, &bindings)
    }
}

impl Op for GlobalAvgPool2d {
    fn input(&self) -> Shape {
        Shape::Image(self.0)
    }

    fn output(&self) -> Shape {
        Shape::Image([self.0[0], 1, 1])
    }

    fn rounding(&self, _n: usize) -> Rounding {
        Rounding { terms: [self.plane(), 1, 0], ..Rounding::default() }
    }

    fn exported(&self) -> Option<Exported> {
        Some(Exported::new("nn.AdaptiveAvgPool2d(1)", "GlobalAveragePool", vec![]))
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        self.forward_planes(plan, at.name, at.n, [at.x, at.y])
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        dx.map_or(Ok(()), |dx| self.backward_planes(plan, at.name, at.n, [dy, dx]))
    }
}
