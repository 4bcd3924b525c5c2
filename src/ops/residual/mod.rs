//! The residual block (He et al. 2015): `y = branch(x) + shortcut(x)`, where the shortcut is `x` itself if it has no
//! layers. What adds is the operation here; the block's layers are layers of the network.
//!
//! ```text
//! y     = x + skip
//! dx    = dskip = dy
//! ```

mod cases;
mod fast;
mod record;

use std::sync::Arc;

pub use record::add;

use super::{Around, Entry};
use crate::layer::{Backward, Branches, Fit, Following, Forward, Layer, Misfit, Node, Op, Shape, Twin};
use crate::real::Real;

/// Its name, and in a file the key of its branch.
pub const NAME: &str = "residual";

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: NAME,
    summary: "a residual block: a stack of layers, and what they read added to what they give",
    shaders: &[&record::SHADER],
    read: |settings, Around { branch, shortcut, .. }| super::plain(settings, Layer::residual_with(branch, shortcut)),
    cases: cases::all,
    draw: cases::draw,
    golden: None,
};

/// A residual block as its author writes it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// At least one layer.
    pub branch: Vec<Layer>,
    /// None where the input itself is added.
    pub shortcut: Vec<Layer>,
}

/// The addition of two images, or vectors, of this shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residual(pub Shape);

impl Layer {
    /// A block that adds its input to what `branch` makes of it.
    pub fn residual(branch: Vec<Layer>) -> Self {
        Self::new(Settings { branch, shortcut: vec![] })
    }

    /// A block that adds what `shortcut` and `branch` make of its input: for a branch that changes the shape.
    pub fn residual_with(branch: Vec<Layer>, shortcut: Vec<Layer>) -> Self {
        Self::new(Settings { branch, shortcut })
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "res"
    }

    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        if self.branch.is_empty() {
            return Err(Misfit { got: "no layers".into(), needs: "at least one in its branch".into() });
        }
        let through = |layers: &[Layer]| -> Result<Shape, Misfit> {
            layers.iter().try_fold(input, |shape, layer| layer.fit(shape).map(|op| op.output()))
        };
        let [branch, shortcut] = [through(&self.branch)?, through(&self.shortcut)?];
        if branch != shortcut {
            let what = if self.shortcut.is_empty() { "its input" } else { "its shortcut" };
            return Err(Misfit {
                got: format!("{branch} from its branch and {shortcut} from {what}"),
                needs: "two of the same shape: a shortcut with a 1x1 convolution brings one to the other".into(),
            });
        }
        Ok(Arc::new(Residual(branch)))
    }

    fn branches(&self) -> Option<Branches<'_>> {
        Some(Branches { branch: &self.branch, shortcut: &self.shortcut })
    }
}

impl<T: Real> Twin<T> for Residual {
    fn forward(&self, pass: Forward<T>) {
        for ((y, &x), &skip) in pass.y.iter_mut().zip(pass.x).zip(pass.skip) {
            *y = x + skip;
        }
    }

    fn backward(&self, pass: Backward<T>) {
        if let Some(dx) = pass.dx {
            dx.copy_from_slice(pass.dy);
        }
    }

    fn fast(&self, _following: &Following) -> Option<(Box<dyn Node<T>>, usize)> {
        Some((Box::new(fast::Addition), 0))
    }
}
