//! Flatten: channels, then rows, then columns, as `torch.nn.Flatten`. Images already lie so: nothing is computed.

use std::sync::Arc;

use super::{Case, Entry};
use crate::Result;
use crate::layer::{At, Backward, Exported, Fit, Forward, Layer, Misfit, OnnxValue, Op, Rounding, Shape, Twin};
use crate::plan::{Plan, Slice};
use crate::real::Real;
use crate::rng::Philox;

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "flatten",
    summary: "`torch.nn.Flatten`: a change of shape, and no work",
    shaders: &[],
    read: |settings, _| super::plain(settings, Layer::flatten()),
    cases: || vec![Case { n: 3, input: Shape::Image([2, 3, 5]), layer: Layer::flatten() }],
    draw: |_: &mut Philox, _: Shape| Some(Layer::flatten()),
    golden: None,
};

/// `torch.nn.Flatten`, as its author writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings;

/// Flatten over images of this shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flatten(pub Shape);

impl Layer {
    /// `torch.nn.Flatten`.
    pub fn flatten() -> Self {
        Self::new(Settings)
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "flatten"
    }

    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        Ok(Arc::new(Flatten(input)))
    }
}

impl Op for Flatten {
    fn input(&self) -> Shape {
        self.0
    }

    fn output(&self) -> Shape {
        Shape::Features(self.0.len())
    }

    fn is_view(&self) -> bool {
        true
    }

    fn rounding(&self, _n: usize) -> Rounding {
        Rounding::default()
    }

    fn exported(&self) -> Option<Exported> {
        Some(Exported::new("nn.Flatten()", "Flatten", vec![("axis", OnnxValue::Int(1))]))
    }

    fn record_forward(&self, _plan: &mut Plan, _at: &At) -> Result<()> {
        Ok(())
    }

    fn record_backward(&self, _plan: &mut Plan, _at: &At, _dy: Slice, _dx: Option<Slice>) -> Result<()> {
        Ok(())
    }
}

impl<T: Real> Twin<T> for Flatten {
    fn forward(&self, pass: Forward<T>) {
        pass.y.copy_from_slice(pass.x);
    }

    fn backward(&self, pass: Backward<T>) {
        if let Some(dx) = pass.dx {
            dx.copy_from_slice(pass.dy);
        }
    }
}
