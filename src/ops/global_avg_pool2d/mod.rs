//! The average of each channel, as `torch.nn.AdaptiveAvgPool2d(1)`: an image of one pixel.
//!
//! ```text
//! y[n,c]    = 1/k * sum over the k positions (i,j) of x[n,c,i,j]
//! dx[n,c,i,j] = dy[n,c] / k
//! ```

mod cases;
mod fast;
mod record;
mod stage;

pub use stage::matches;

use std::sync::Arc;

use super::Entry;
use crate::layer::{Backward, Fit, Following, Forward, Layer, Misfit, Node, Op, Shape, Twin};
use crate::real::Real;

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "global_avg_pool2d",
    summary: "`torch.nn.AdaptiveAvgPool2d(1)`: the average of each channel",
    shaders: &[&record::SHADER],
    read: |settings, _| super::plain(settings, Layer::global_avg_pool2d()),
    cases: cases::all,
    draw: cases::draw,
    golden: Some(cases::golden),
};

/// The pooling as its author writes it: it has no settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings;

/// The pooling over images of these channels, this height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GlobalAvgPool2d(pub [usize; 3]);

impl GlobalAvgPool2d {
    /// Positions of a channel.
    pub fn plane(&self) -> usize {
        self.0[1] * self.0[2]
    }
}

impl Layer {
    /// The average of each channel.
    pub fn global_avg_pool2d() -> Self {
        Self::new(Settings)
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "globalpool"
    }

    fn fit(&self, input: Shape) -> Result<Arc<dyn Op>, Misfit> {
        let image = input.image()?;
        if input.is_empty() {
            return Err(Misfit { got: format!("an empty image {input}"), needs: "at least one pixel".into() });
        }
        Ok(Arc::new(GlobalAvgPool2d(image)))
    }
}

impl<T: Real> Twin<T> for GlobalAvgPool2d {
    fn forward(&self, pass: Forward<T>) {
        let k = T::of(self.plane() as f64);
        for (y, x) in pass.y.iter_mut().zip(pass.x.chunks(self.plane())) {
            *y = x.iter().copied().sum::<T>() / k;
        }
    }

    fn backward(&self, pass: Backward<T>) {
        let (k, Some(dx)) = (T::of(self.plane() as f64), pass.dx) else { return };
        for (dx, &dy) in dx.chunks_mut(self.plane()).zip(pass.dy) {
            dx.fill(dy / k);
        }
    }

    fn fast(&self, following: &Following) -> Option<(Box<dyn Node<T>>, usize)> {
        Some((Box::new(fast::Average { dims: *self, lanes: following.lanes::<T>() }), 0))
    }
}
