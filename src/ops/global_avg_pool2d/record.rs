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
    struct Dims {
        channels: u32,
        plane: u32,
        share: f32,
    }
}

impl GlobalAvgPool2d {
    fn dims(&self) -> Dims {
        let share = (1.0 / self.plane() as f64) as f32;
        Dims { channels: word(self.0[0]), plane: word(self.plane()), share }
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
        let threads = Grid::Threads(at.n * self.0[0]);
        let bindings = [("x", at.x), ("y", at.y)];
        plan.dispatch(format!("{}.forward", at.name), (&SHADER, "forward"), self.dims(), threads, 0, &bindings)?;
        plan.loops(&[self.plane()]);
        Ok(())
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        let Some(dx) = dx else { return Ok(()) };
        let threads = Grid::Threads(at.n * self.input().len());
        let bindings = [("dy", dy), ("dx", dx)];
        plan.dispatch(format!("{}.backward", at.name), (&SHADER, "backward"), self.dims(), threads, 0, &bindings)
    }
}
