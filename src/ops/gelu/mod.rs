//! GELU, as `torch.nn.GELU`: `y = x P(x)`, `dx = dy (P(x) + x P'(x))`, where `P(x)` is the share of a standard normal's
//! draws below `x`.
//!
//! ```text
//! P(x) = (1 + erf(x / sqrt 2)) / 2                   P'(x) = exp(-x^2 / 2) / sqrt(2 pi)
//!
//! approximate = "tanh", with u = sqrt(2/pi) (x + 0.044715 x^3):
//! P(x) = (1 + tanh u) / 2                            P'(x) = (1 - tanh(u)^2) / 2 * sqrt(2/pi) (1 + 3 * 0.044715 x^2)
//! ```
//!
//! The kernel has no `erf`, and takes a polynomial for it, whose error `shaders/gelu.wgsl` states.

mod cases;
mod fast;
mod record;

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
use std::sync::Arc;

use rayon::prelude::*;
use serde::Deserialize;

use super::elementwise::Elementwise;
use super::{ELEMENTS, Entry};
use crate::layer::{Backward, Fit, Following, Forward, Layer, Misfit, Node, Op, Shape, Twin};
use crate::real::Real;

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "gelu",
    summary: "`torch.nn.GELU`: exact, or by tanh",
    shaders: &[&record::SHADER],
    read: |settings, _| Settings::deserialize(settings).map(Layer::new),
    cases: cases::all,
    draw: cases::draw,
    golden: Some(cases::golden),
};

/// `torch.nn.GELU`, as its author writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What is computed in place of the formula.
    pub approximate: Approximate,
}

/// PyTorch's words for the two forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Approximate {
    /// Nothing: the formula itself.
    #[default]
    None,
    /// A tanh in place of `erf`.
    Tanh,
}

/// GELU over images of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gelu {
    shape: Shape,
    approximate: Approximate,
}

impl Layer {
    /// `torch.nn.GELU`, in its exact form.
    pub fn gelu() -> Self {
        Self::new(Settings::default())
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "gelu"
    }

    fn fit(&self, shape: Shape) -> Result<Arc<dyn Op>, Misfit> {
        Ok(Arc::new(Gelu { shape, approximate: self.approximate }))
    }
}

/// `sqrt(2/pi)`.
const SCALE: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
/// What the cube weighs in the form with tanh.
const CUBE: f64 = 0.044715;

impl Gelu {
    /// `P(x)` and `P'(x)`. In f64 whatever `T` is: near -5 little is left of `1 + erf`.
    fn share_below<T: Real>(&self, x: T) -> [T; 2] {
        let x = x.wide();
        let both = match self.approximate {
            // 1 + erf(z) = erfc(-z), which keeps its digits where erf is near -1.
            Approximate::None => {
                [libm::erfc(-x * FRAC_1_SQRT_2) / 2.0, (-x * x / 2.0).exp() * (FRAC_2_SQRT_PI * FRAC_1_SQRT_2 / 2.0)]
            }
            Approximate::Tanh => {
                let tanh = (SCALE * (x + CUBE * x * x * x)).tanh();
                [(1.0 + tanh) / 2.0, (1.0 - tanh * tanh) / 2.0 * SCALE * (1.0 + 3.0 * CUBE * x * x)]
            }
        };
        both.map(T::of)
    }
}

impl<T: Real> Twin<T> for Gelu {
    fn forward(&self, pass: Forward<T>) {
        let elements = pass.y.par_iter_mut().with_min_len(ELEMENTS).zip(pass.x);
        elements.for_each(|(y, &x)| *y = x * self.share_below(x)[0]);
    }

    fn backward(&self, pass: Backward<T>) {
        let Some(dx) = pass.dx else { return };
        let elements = dx.par_iter_mut().with_min_len(ELEMENTS).zip(pass.x).zip(pass.dy);
        elements.for_each(|((dx, &x), &dy)| {
            let [share, slope] = self.share_below(x);
            *dx = dy * (share + x * slope);
        });
    }

    fn fast(&self, following: &Following) -> Option<(Box<dyn Node<T>>, usize)> {
        let (shape, lanes) = (self.shape, following.lanes::<T>());
        match self.approximate {
            // The polynomial is as exact as f32, and no more.
            Approximate::None if size_of::<T>() > 4 => None,
            Approximate::None => Some((Box::new(Elementwise { function: fast::Exact, shape, lanes }), 0)),
            Approximate::Tanh => Some((Box::new(Elementwise { function: fast::ByTanh, shape, lanes }), 0)),
        }
    }
}
