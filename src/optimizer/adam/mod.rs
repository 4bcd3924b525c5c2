//! Adam and AdamW: `torch.optim.Adam`, `torch.optim.AdamW`. Formulas: [`super`].

pub mod fast;
pub mod reference;

use super::update::{Extent, Slots};
use crate::Result;
use crate::plan::shaders::ADAM;
use crate::plan::{Plan, Slice, uniform};

/// The first and the second moment.
pub const SLOTS: &[&str] = &["exp_avg", "exp_avg_sq"];

/// What Adam and AdamW have in common.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the denominator, after the square root.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Self { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 }
    }
}

uniform! {
    /// `Adam` in `shaders/adam.wgsl`.
    struct Dims {
        begin: u32,
        len: u32,
        decayed: u32,
        segments: u32,
        parted: u32,
        beta2: f32,
        one_minus_beta2: f32,
        eps: f32,
    }
}

/// Both moments of all parameters.
pub(super) fn moments<T>(slots: &mut Slots<T>) -> [&mut [T]; 2] {
    let [first, second] = &mut slots[..] else { unreachable!("Adam has two slots") };
    [first, second]
}

impl Adam {
    pub(super) fn record(&self, plan: &mut Plan, extent: Extent, bindings: &[(&str, Slice)]) -> Result<()> {
        let Extent { begin, len, decayed, segments, parted } = extent;
        let [beta2, one_minus_beta2, eps] = [self.betas[1], 1.0 - self.betas[1], self.eps].map(|v| v as f32);
        let dims = Dims { begin, len, decayed, segments, parted, beta2, one_minus_beta2, eps };
        plan.dispatch("adam.update", (&ADAM, "update"), dims, extent.grid(), 0, bindings)
    }
}
