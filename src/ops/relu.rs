//! ReLU: `y = max(x, 0)`, `dx = dy where y > 0, else 0` (PyTorch's gradient at 0 is 0).

use crate::Result;
use crate::plan::shaders::RELU;
use crate::plan::{Grid, Plan, Slice, uniform, word};

uniform! {
    /// `Relu` in `shaders/relu.wgsl`.
    struct Dims {
        features: u32,
    }
}

/// Records `x` to `y`, `[n, features]`.
pub fn forward(plan: &mut Plan, name: &str, n: usize, features: usize, x: Slice, y: Slice) -> Result<()> {
    plan.dispatch(
        format!("{name}.forward"),
        (&RELU, "forward"),
        Dims { features: word(features) },
        Grid::Threads(n * features),
        0,
        &[("x", x), ("y", y)],
    )
}

/// Records the output `y` and `dy` to `dx`.
pub fn backward(plan: &mut Plan, name: &str, n: usize, features: usize, [y, dy, dx]: [Slice; 3]) -> Result<()> {
    plan.dispatch(
        format!("{name}.backward"),
        (&RELU, "backward"),
        Dims { features: word(features) },
        Grid::Threads(n * features),
        0,
        &[("y_in", y), ("dy", dy), ("dx", dx)],
    )
}
