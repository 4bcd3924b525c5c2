//! Linear (fully connected), as `torch.nn.Linear`.
//!
//! ```text
//! y[n,o]  = b[o] + sum over i of w[o,i] * x[n,i]
//! dx[n,i] = sum over o of w[o,i] * dy[n,o]
//! dw[o,i] = sum over n of dy[n,o] * x[n,i]
//! db[o]   = sum over n of dy[n,o]
//! ```

use super::AffineBuffers;
use crate::Result;
use crate::plan::shaders::LINEAR;
use crate::plan::{Grid, Plan, Slice, uniform, word};

/// The dimensions of a fully connected layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Features in.
    pub inputs: usize,
    /// Features out.
    pub outputs: usize,
}

impl Linear {
    /// Elements of the weight, `[outputs, inputs]`.
    pub fn weight_len(&self) -> usize {
        self.inputs * self.outputs
    }

    /// Floating-point operations (two for each multiply-add) of one pass over one image.
    pub fn flops(&self) -> u64 {
        2 * self.weight_len() as u64
    }
}

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

    /// Records the forward pass over a batch of up to `n`.
    pub fn forward(&self, plan: &mut Plan, name: &str, n: usize, at: &AffineBuffers) -> Result<()> {
        plan.dispatch(
            format!("{name}.forward"),
            (&LINEAR, "forward"),
            self.dims(),
            Grid::Threads(n * self.outputs),
            self.flops() * n as u64,
            &[("x", at.x), ("w", at.w), ("b", at.b), ("y", at.y)],
        )?;
        plan.loops(&[self.inputs]);
        Ok(())
    }

    /// Records the gradient of the input.
    pub fn backward_input(
        &self,
        plan: &mut Plan,
        name: &str,
        n: usize,
        at: &AffineBuffers,
        dy: Slice,
        dx: Slice,
    ) -> Result<()> {
        plan.dispatch(
            format!("{name}.backward_input"),
            (&LINEAR, "backward_input"),
            self.dims(),
            Grid::Threads(n * self.inputs),
            self.flops() * n as u64,
            &[("w", at.w), ("dy", dy), ("dx", dx)],
        )?;
        plan.loops(&[self.outputs]);
        Ok(())
    }

    /// Records the gradients of the weight and of the bias.
    pub fn backward_weight(&self, plan: &mut Plan, name: &str, n: usize, at: &AffineBuffers, dy: Slice) -> Result<()> {
        plan.dispatch(
            format!("{name}.backward_weight"),
            (&LINEAR, "backward_weight"),
            self.dims(),
            Grid::Threads(self.weight_len()),
            self.flops() * n as u64,
            &[("x", at.x), ("dy", dy), ("dw", at.dw)],
        )?;
        plan.loops(&[n]);
        plan.dispatch(
            format!("{name}.backward_bias"),
            (&LINEAR, "backward_bias"),
            self.dims(),
            Grid::Threads(self.outputs),
            (self.outputs * n) as u64,
            &[("dy", dy), ("db", at.db)],
        )?;
        plan.loops(&[n]);
        Ok(())
    }
}
