//! SiLU's passes in a plan.

use super::{Silu, sigmoid};
use crate::Result;
use crate::layer::{At, Backward, Exported, Forward, OnnxInput, OnnxOperator, Op, Rounding, Shape};
use crate::plan::shaders::{Shader, shader};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// `shaders/silu.wgsl`
pub static SHADER: Shader = shader!("silu" with "sigmoid");

uniform! {
    /// `Silu` in `shaders/silu.wgsl`.
    struct Dims {
        features: u32,
    }
}

impl Silu {
    fn record(&self, plan: &mut Plan, at: &At, pass: &str, bindings: &[(&str, Slice)]) -> Result<()> {
        let features = self.0.len();
        let dims = Dims { features: word(features) };
        plan.dispatch(format!("{}.{pass}", at.name), (&SHADER, pass), dims, Grid::Threads(at.n * features), 0, bindings)
    }
}

impl Op for Silu {
    fn input(&self) -> Shape {
        self.0
    }

    fn output(&self) -> Shape {
        self.0
    }

    fn rounding(&self, _n: usize) -> Rounding {
        Rounding { terms: [1, 1, 0], ulps: 8.0 }
    }

    /// What rounding does to an exponent is as large as the exponent.
    fn forward_terms(&self, pass: Forward<f64>) -> bool {
        for (y, &x) in pass.y.iter_mut().zip(pass.x) {
            *y = x.abs() * sigmoid(x) * (1.0 + x.abs());
        }
        true
    }

    fn backward_terms(&self, pass: Backward<f64>) -> bool {
        for ((dx, &x), &dy) in pass.dx.into_iter().flatten().zip(pass.x).zip(pass.dy) {
            *dx = dy.abs() * sigmoid(x) * (1.0 + x.abs() * sigmoid(-x)) * (1.0 + x.abs());
        }
        true
    }

    fn exported(&self) -> Option<Exported> {
        let sigmoid = OnnxOperator::new("Sigmoid", vec![OnnxInput::Last], vec![]);
        let product = OnnxOperator::new("Mul", vec![OnnxInput::Last, OnnxInput::First], vec![]);
        Some(Exported { torch: "nn.SiLU()".into(), onnx: vec![sigmoid, product] })
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        self.record(plan, at, "forward", &[("x", at.x), ("y", at.y)])
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        dx.map_or(Ok(()), |dx| self.record(plan, at, "backward", &[("x", at.x), ("dy", dy), ("dx", dx)]))
    }
}
