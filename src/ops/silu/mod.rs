//! SiLU, as `torch.nn.SiLU` (also called swish): `y = x s(x)`, `dx = dy s(x) (1 + x (1 - s(x)))`, with the logistic
//! function `s(x) = 1 / (1 + exp(-x))`.

mod cases;
mod fast;
mod record;

use std::sync::Arc;

use rayon::prelude::*;

use super::elementwise::Elementwise;
use super::{ELEMENTS, Entry};
use crate::layer::{Backward, Fit, Following, Forward, Layer, Misfit, Node, Op, Shape, Twin};
use crate::real::Real;

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "silu",
    summary: "`torch.nn.SiLU`",
    shaders: &[&record::SHADER],
    read: |settings, _| super::plain(settings, Layer::silu()),
    cases: cases::all,
    draw: cases::draw,
    golden: Some(cases::golden),
};

/// `torch.nn.SiLU`, as its author writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings;

/// SiLU over images of this shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silu(Shape);

impl Layer {
    /// `torch.nn.SiLU`.
    pub fn silu() -> Self {
        Self::new(Settings)
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "silu"
    }

    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        Ok(Arc::new(Silu(input)))
    }
}

/// The logistic function.
fn sigmoid<T: Real>(x: T) -> T {
    T::one() / (T::one() + (-x).exp())
}

impl<T: Real> Twin<T> for Silu {
    fn forward(&self, pass: Forward<T>) {
        let elements = pass.y.par_iter_mut().with_min_len(ELEMENTS).zip(pass.x);
        elements.for_each(|(y, &x)| *y = x * sigmoid(x));
    }

    fn backward(&self, pass: Backward<T>) {
        let Some(dx) = pass.dx else { return };
        let elements = dx.par_iter_mut().with_min_len(ELEMENTS).zip(pass.x).zip(pass.dy);
        elements.for_each(|((dx, &x), &dy)| *dx = dy * sigmoid(x) * (T::one() + x * sigmoid(-x)));
    }

    fn fast(&self, following: &Following) -> Option<(Box<dyn Node<T>>, usize)> {
        Some((Box::new(Elementwise { function: *self, shape: self.0, lanes: following.lanes::<T>() }), 0))
    }
}
