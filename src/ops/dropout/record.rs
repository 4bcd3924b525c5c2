//! Dropout's passes in a plan.

use super::Dropout;
use crate::Result;
use crate::layer::{At, Exported, Mode, Op, Rounding, Shape};
use crate::plan::shaders::{Shader, shader};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// `shaders/dropout.wgsl`
pub static SHADER: Shader = shader!("dropout" with "random" & "part_block");

uniform! {
    /// `Dropout` in `shaders/dropout.wgsl`.
    struct Dims {
        features: u32,
        layer: u32,
        threshold: u32,
        scale: f32,
    }
}

impl Dropout {
    fn record(&self, plan: &mut Plan, at: &At, label: &str, pass: &str, [x, y]: [Slice; 2]) -> Result<()> {
        let features = self.shape.len();
        let dims = Dims {
            features: word(features),
            layer: word(at.layer),
            threshold: self.threshold(),
            scale: (1.0 / (1.0 - self.p)) as f32,
        };
        let threads = Grid::Threads(at.n * features);
        plan.dispatch(format!("{}.{label}", at.name), (&SHADER, pass), dims, threads, 0, &[("x", x), ("y", y)])
    }
}

impl Op for Dropout {
    fn input(&self) -> Shape {
        self.shape
    }

    fn output(&self) -> Shape {
        self.shape
    }

    fn rounding(&self, _n: usize) -> Rounding {
        Rounding { terms: [1, 1, 0], ..Rounding::default() }
    }

    fn exported(&self) -> Option<Exported> {
        Some(Exported { torch: format!("nn.Dropout({:?})", self.p), onnx: vec![] })
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        let pass = if at.mode == Mode::Training { "drop" } else { "keep" };
        self.record(plan, at, "forward", pass, [at.x, at.y])
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        dx.map_or(Ok(()), |dx| self.record(plan, at, "backward", "drop", [dy, dx]))
    }
}
