//! Linear (fully connected), as `torch.nn.Linear`.
//!
//! ```text
//! y[n,o]  = b[o] + sum over i of w[o,i] * x[n,i]
//! dx[n,i] = sum over o of w[o,i] * dy[n,o]
//! dw[o,i] = sum over n of dy[n,o] * x[n,i]
//! db[o]   = sum over n of dy[n,o]
//! ```

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
