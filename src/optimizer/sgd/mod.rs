//! Stochastic gradient descent: `torch.optim.SGD`. Formulas: [`super`].

pub mod fast;
pub mod reference;

use super::update::Extent;
use crate::Result;
use crate::plan::shaders::SGD;
use crate::plan::{Plan, Slice, uniform};

/// SGD's settings.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// Momentum; 0 for none.
    pub momentum: f64,
    /// Nesterov's form of momentum.
    pub nesterov: bool,
    /// Weight decay, as an L2 term in the gradient.
    pub weight_decay: f64,
}

uniform! {
    /// `Sgd` in `shaders/sgd.wgsl`.
    struct Dims {
        len: u32,
        decayed: u32,
        segments: u32,
        parted: u32,
        nesterov: u32,
    }
}

impl Sgd {
    /// The momentum, if there is one.
    pub fn slots(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &[] } else { &["momentum_buffer"] }
    }

    pub(super) fn record(&self, plan: &mut Plan, extent: Extent, bindings: &[(&str, Slice)]) -> Result<()> {
        let Extent { len, decayed, segments, parted, .. } = extent;
        let nesterov = self.nesterov.into();
        let pass = if self.slots().is_empty() { "update_plain" } else { "update" };
        let dims = Dims { len, decayed, segments, parted, nesterov };
        plan.dispatch("sgd.update", (&SGD, pass), dims, extent.grid(), 0, bindings)
    }
}
