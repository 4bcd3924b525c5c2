//! LeakyReLU's passes in a plan.

use super::LeakyRelu;
use crate::Result;
use crate::layer::{At, Exported, Inputs, OnnxValue, Op, Rounding, Shape};
use crate::plan::shaders::{Shader, shader};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// `shaders/leaky_relu.wgsl`
pub static SHADER: Shader = shader!("leaky_relu");

uniform! {
    /// `LeakyRelu` in `shaders/leaky_relu.wgsl`.
    struct Dims {
        features: u32,
        slope: f32,
    }
}

impl LeakyRelu {
    fn record(&self, plan: &mut Plan, at: &At, pass: &str, bindings: &[(&str, Slice)]) -> Result<()> {
        let features = self.shape.len();
        let dims = Dims { features: word(features), slope: self.slope as f32 };
        plan.dispatch(format!("{}.{pass}", at.name), (&SHADER, pass), dims, Grid::Threads(at.n * features), 0, bindings)
    }
}

impl Op for LeakyRelu {
    fn input(&self) -> Shape {
        self.shape
    }

    fn output(&self) -> Shape {
        self.shape
    }

    fn rounding(&self, _n: usize) -> Rounding {
        Rounding { terms: [1, 1, 0], ..Rounding::default() }
    }

    fn inputs(&self) -> Inputs {
        Inputs::Zeros
    }

    fn exported(&self) -> Option<Exported> {
        let torch = format!("nn.LeakyReLU({:?})", self.slope);
        Some(Exported::new(torch, "LeakyRelu", vec![("alpha", OnnxValue::Float(self.slope as f32))]))
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        self.record(plan, at, "forward", &[("x", at.x), ("y", at.y)])
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        dx.map_or(Ok(()), |dx| self.record(plan, at, "backward", &[("x", at.x), ("dy", dy), ("dx", dx)]))
    }
}
