//! GELU's passes in a plan.

use std::f64::consts::{FRAC_1_SQRT_2, TAU};

use super::{Approximate, CUBE, Gelu, SCALE};
use crate::Result;
use crate::layer::{At, Backward, Exported, Forward, OnnxInput, OnnxOperator, Op, Rounding, Shape};
use crate::plan::shaders::{Shader, shader};
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// `shaders/gelu.wgsl`
pub static SHADER: Shader = shader!("gelu" with "sigmoid");

uniform! {
    /// `Gelu` in `shaders/gelu.wgsl`.
    struct Dims {
        features: u32,
        approximate: u32,
    }
}

impl Gelu {
    fn record(&self, plan: &mut Plan, at: &At, pass: &str, bindings: &[(&str, Slice)]) -> Result<()> {
        let features = self.shape.len();
        let approximate = u32::from(self.approximate == Approximate::Tanh);
        let dims = Dims { features: word(features), approximate };
        plan.dispatch(format!("{}.{pass}", at.name), (&SHADER, pass), dims, Grid::Threads(at.n * features), 0, bindings)
    }
}

impl Op for Gelu {
    fn input(&self) -> Shape {
        self.shape
    }

    fn output(&self) -> Shape {
        self.shape
    }

    fn rounding(&self, _n: usize) -> Rounding {
        Rounding { terms: [1, 1, 0], ulps: 8.0 }
    }

    /// The formula adds 1 and `erf`, or tanh, which PyTorch does as it stands.
    fn forward_terms(&self, pass: Forward<f64>) -> bool {
        for (y, &x) in pass.y.iter_mut().zip(pass.x) {
            *y = x.abs();
        }
        true
    }

    /// Likewise. What rounding does to an exponent is as large as the exponent.
    fn backward_terms(&self, pass: Backward<f64>) -> bool {
        let slope = |x: f64| match self.approximate {
            Approximate::None => (-x * x / 2.0).exp() / TAU.sqrt() * (1.0 + x * x),
            Approximate::Tanh => SCALE * (1.0 + 3.0 * CUBE * x * x),
        };
        for ((dx, &x), &dy) in pass.dx.into_iter().flatten().zip(pass.x).zip(pass.dy) {
            *dx = dy.abs() * (1.0 + x.abs() * slope(x));
        }
        true
    }

    /// An operator of its own came later to ONNX than the version that is written.
    fn exported(&self) -> Option<Exported> {
        use OnnxInput::{First, Last, Number};
        let of = |name, second| OnnxOperator::new(name, vec![Last, second], vec![]);
        let number = |value: f64| Number(value as f32);
        let alone = |name| OnnxOperator::new(name, vec![Last], vec![]);
        Some(match self.approximate {
            Approximate::None => Exported {
                torch: "nn.GELU()".into(),
                onnx: vec![
                    of("Mul", number(FRAC_1_SQRT_2)),
                    alone("Erf"),
                    of("Add", number(1.0)),
                    of("Mul", First),
                    of("Mul", number(0.5)),
                ],
            },
            Approximate::Tanh => Exported {
                torch: "nn.GELU(approximate='tanh')".into(),
                onnx: vec![
                    of("Mul", First),
                    of("Mul", number(CUBE)),
                    of("Add", number(1.0)),
                    of("Mul", First),
                    of("Mul", number(SCALE)),
                    alone("Tanh"),
                    of("Add", number(1.0)),
                    of("Mul", First),
                    of("Mul", number(0.5)),
                ],
            },
        })
    }

    fn record_forward(&self, plan: &mut Plan, at: &At) -> Result<()> {
        self.record(plan, at, "forward", &[("x", at.x), ("y", at.y)])
    }

    fn record_backward(&self, plan: &mut Plan, at: &At, dy: Slice, dx: Option<Slice>) -> Result<()> {
        dx.map_or(Ok(()), |dx| self.record(plan, at, "backward", &[("x", at.x), ("dy", dy), ("dx", dx)]))
    }
}
