//! The addition in a plan.

use super::Residual;
use crate::Result;
use crate::layer::{At, Exported, Op, Rounding, Shape};
use crate::plan::shaders::{Shader, shader};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// `shaders/residual.wgsl`
pub static SHADER: Shader = shader!("residual");

uniform! {
    /// `Residual` in `shaders/residual.wgsl`.
    struct Dims {
        features: u32,
    }
}

impl Op for Residual {
    fn input(&self) -> Shape {
        self.0
    }

    fn output(&self) -> Shape {
        self.0
    }

    fn adds(&self) -> bool {
        true
    }

    fn rounding(&self, _n: usize) -> Rounding {
        Rounding { ulps: 1.0, ..Rounding::default() }
    }

    fn exported(&self) -> Option<Exported> {
        Some(Exported::new("", "Add", vec![]))
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        let skip = at.skip.expect("an addition has two inputs");
        add(plan, &format!("{}.forward", at.name), at.n, self.0.len(), [at.x, skip, at.y])
    }

    /// Where both inputs' gradients are the output's, only a copy is left to do.
    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        let Some(dx) = dx else { return Ok(()) };
        plan.dispatch(
            format!("{}.backward", at.name),
            (&SHADER, "backward"),
            Dims { features: word(self.0.len()) },
            Grid::Threads(at.n * self.0.len()),
            0,
            &[("dy", dy), ("dx", dx)],
        )
    }
}

/// Records `sum = a + b`, `[n, features]`.
///
/// # Errors
/// As [`Plan::dispatch`].
pub fn add(plan: &mut Plan, label: &str, n: usize, features: usize, [a, b, sum]: [Slice; 3]) -> Result<()> {
    plan.dispatch(
        label.to_owned(),
        (&SHADER, "forward"),
        Dims { features: word(features) },
        Grid::Threads(n * features),
        0,
        &[("x", a), ("skip", b), ("y", sum)],
    )
}
