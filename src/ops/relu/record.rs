//! ReLU's passes in a plan.

use super::Relu;
use crate::Result;
use crate::layer::{At, Exported, Inputs, Op, Rounding, Shape};
use crate::plan::shaders::{Shader, shader};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// `shaders/relu.wgsl`
pub static SHADER: Shader = shader!("relu");

uniform! {
    /// `Relu` in `shaders/relu.wgsl`.
    struct Dims {
        features: u32,
    }
}

impl Op for Relu {
    fn input(&self) -> Shape {
        self.0
    }

    fn output(&self) -> Shape {
        self.0
    }

    fn rounding(&self, _n: usize) -> Rounding {
        Rounding::default()
    }

    fn inputs(&self) -> Inputs {
        Inputs::Zeros
    }

    fn exported(&self) -> Option<Exported> {
        Some(Exported::new("nn.ReLU()", "Relu", vec![]))
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        let features = self.0.len();
        plan.dispatch(
            format!("{}.forward", at.name),
            (&SHADER, "forward"),
            Dims { features: word(features) },
            Grid::Threads(at.n * features),
            0,
            &[("x", at.x), ("y", at.y)],
        )
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        dx.map_or(Ok(()), |dx| backward(plan, at.name, at.n, self.0.len(), [at.y, dy, dx]))
    }
}

/// Records the output `y` and `dy` to `dx`, `[n, features]`.
///
/// # Errors
/// As [`Plan::dispatch`].
pub fn backward(plan: &mut Plan, name: &str, n: usize, features: usize, [y, dy, dx]: [Slice; 3]) -> Result<()> {
    plan.dispatch(
        format!("{name}.backward"),
        (&SHADER, "backward"),
        Dims { features: word(features) },
        Grid::Threads(n * features),
        0,
        &[("y_in", y), ("dy", dy), ("dx", dx)],
    )
}
