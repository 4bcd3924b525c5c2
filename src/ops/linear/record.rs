//! The passes of a fully connected layer in a plan.

use super::Linear;
use crate::Result;
use crate::layer::{At, Exported, OnnxValue, Op, Parameter, Rounding, Shape};
use crate::plan::shaders::{Shader, shader};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// `shaders/linear.wgsl`
pub static SHADER: Shader = shader!("linear");

uniform! {
    /// `Linear` in `shaders/linear.wgsl`.
    struct Dims {
        inputs: u32,
        outputs: u32,
    }
}

impl Linear {
    fn dims(&self) -> Dims {
        Dims { inputs: word(self.inputs), outputs: word(self.outputs) }
    }
}

impl Op for Linear {
    fn input(&self) -> Shape {
        Shape::Features(self.inputs)
    }

    fn output(&self) -> Shape {
        Shape::Features(self.outputs)
    }

    fn parameters(&self) -> Vec<Parameter> {
        Parameter::weight_and_bias(vec![self.outputs, self.inputs], self.init)
    }

    fn flops(&self) -> u64 {
        self.flops()
    }

    fn rounding(&self, n: usize) -> Rounding {
        Rounding { terms: [self.inputs + 1, self.outputs, n], ..Rounding::default() }
    }

    fn exported(&self) -> Option<Exported> {
        let torch = format!("nn.Linear({}, {})", self.inputs, self.outputs);
        Some(Exported::new(torch, "Gemm", vec![("transB", OnnxValue::Int(1))]))
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        plan.dispatch(
            format!("{}.forward", at.name),
            (&SHADER, "forward"),
            self.dims(),
            Grid::Threads(at.n * self.outputs),
            self.flops() * at.n as u64,
            &[("x", at.x), ("w", at.params[0]), ("b", at.params[1]), ("y", at.y)],
        )?;
        plan.loops(&[self.inputs]);
        Ok(())
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        let At { name, n, .. } = *at;
        plan.dispatch(
            format!("{name}.backward_weight"),
            (&SHADER, "backward_weight"),
            self.dims(),
            Grid::Threads(self.weight_len()),
            self.flops() * n as u64,
            &[("x", at.x), ("dy", dy), ("dw", at.grads[0])],
        )?;
        plan.loops(&[n]);
        plan.dispatch(
            format!("{name}.backward_bias"),
            (&SHADER, "backward_bias"),
            self.dims(),
            Grid::Threads(self.outputs),
            (self.outputs * n) as u64,
            &[("dy", dy), ("db", at.grads[1])],
        )?;
        plan.loops(&[n]);
        let Some(dx) = dx else { return Ok(()) };
        plan.dispatch(
            format!("{name}.backward_input"),
            (&SHADER, "backward_input"),
            self.dims(),
            Grid::Threads(n * self.inputs),
            self.flops() * n as u64,
            &[("w", at.params[0]), ("dy", dy), ("dx", dx)],
        )?;
        plan.loops(&[self.outputs]);
        Ok(())
    }
}
