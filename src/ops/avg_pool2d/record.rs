//! The pooling's passes in a plan.

use super::AvgPool2d;
use crate::Result;
use crate::layer::{At, Exported, OnnxValue, Op, Rounding, Shape};
use crate::plan::shaders::{Shader, shader};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// `shaders/avg_pool2d.wgsl`
pub static SHADER: Shader = shader!("avg_pool2d");

uniform! {
    /// `AvgPool2d` in `shaders/avg_pool2d.wgsl`.
    struct Dims {
        channels: u32, h_in: u32, w_in: u32,
        h_out: u32, w_out: u32,
        kernel_h: u32, kernel_w: u32,
        stride_h: u32, stride_w: u32,
        share: f32,
    }
}

impl AvgPool2d {
    fn dims(&self) -> Dims {
        let [channels, h_in, w_in] = self.input.map(word);
        let [h_out, w_out] = self.output.map(word);
        let [kernel_h, kernel_w] = self.kernel.map(word);
        let [stride_h, stride_w] = self.stride.map(word);
        let share = (1.0 / self.window() as f64) as f32;
        Dims { channels, h_in, w_in, h_out, w_out, kernel_h, kernel_w, stride_h, stride_w, share }
    }
}

impl Op for AvgPool2d {
    fn input(&self) -> Shape {
        Shape::Image(self.input)
    }

    fn output(&self) -> Shape {
        let [rows, columns] = self.output;
        Shape::Image([self.input[0], rows, columns])
    }

    fn rounding(&self, _n: usize) -> Rounding {
        let windows = self.kernel[0].div_ceil(self.stride[0]) * self.kernel[1].div_ceil(self.stride[1]);
        Rounding { terms: [self.window(), windows, 0], ..Rounding::default() }
    }

    fn exported(&self) -> Option<Exported> {
        let Self { kernel: [h, w], stride: [down, right], .. } = *self;
        let torch = format!("nn.AvgPool2d(({h}, {w}), stride=({down}, {right}))");
        let attributes =
            vec![("kernel_shape", OnnxValue::sizes(&self.kernel)), ("strides", OnnxValue::sizes(&self.stride))];
        Some(Exported::new(torch, "AveragePool", attributes))
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        plan.dispatch(
            format!("{}.forward", at.name),
            (&SHADER, "forward"),
            self.dims(),
            Grid::Threads(at.n * Op::output(self).len()),
            0,
            &[("x", at.x), ("y", at.y)],
        )?;
        plan.loops(&self.kernel);
        Ok(())
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        let Some(dx) = dx else { return Ok(()) };
        plan.dispatch(
            format!("{}.backward", at.name),
            (&SHADER, "backward"),
            self.dims(),
            Grid::Threads(at.n * Op::input(self).len()),
            0,
            &[("dy", dy), ("dx", dx)],
        )?;
        plan.loops(&[self.kernel[0].div_ceil(self.stride[0]), self.kernel[1].div_ceil(self.stride[1])]);
        Ok(())
    }
}
