//! Dropout, as `torch.nn.Dropout`: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from
//! Overfitting".
//!
//! ```text
//! training    y = x / (1 - p) with probability 1 - p, else 0;    dx = dy / (1 - p) where y was kept, else 0
//! inference   y = x
//! ```
//!
//! Whether an element is dropped follows from the run's seed, the update, the layer and the element alone
//! ([`Random`]): the same on every device, in both passes, and in a run that was resumed.

mod cases;
mod record;

use std::sync::Arc;

use serde::Deserialize;

use super::Entry;
use crate::layer::{Backward, Fit, Forward, Layer, Misfit, Mode, Op, Random, Shape, Twin};
use crate::real::Real;

/// The registry's line.
pub const ENTRY: Entry = Entry {
    name: "dropout",
    summary: "`torch.nn.Dropout`: the same elements on every device",
    shaders: &[&record::SHADER],
    read: |settings, _| Settings::deserialize(settings).map(Layer::new),
    cases: cases::all,
    draw: cases::draw,
    // PyTorch draws other numbers.
    golden: None,
};

/// `torch.nn.Dropout`, as its author writes it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Settings {
    /// The probability that an element is dropped, in [0, 1).
    pub p: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { p: 0.5 }
    }
}

/// Dropout over images of a shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    shape: Shape,
    p: f64,
}

impl Layer {
    /// `torch.nn.Dropout(p)`.
    pub fn dropout(p: f64) -> Self {
        Self::new(Settings { p })
    }
}

impl Fit for Settings {
    fn kind(&self) -> &'static str {
        "dropout"
    }

    fn fit(&self, shape: Shape) -> Result<Arc<dyn Op>, Misfit> {
        if !(0.0..1.0).contains(&self.p) {
            return Err(Misfit { got: format!("a probability of {}", self.p), needs: "a number in [0, 1)".into() });
        }
        Ok(Arc::new(Dropout { shape, p: self.p }))
    }
}

impl Dropout {
    /// Random numbers below this drop their element.
    fn threshold(&self) -> u32 {
        (self.p * 2f64.powi(32)) as u32
    }

    /// `from` to `to`, element by element, what is kept times `1 / (1 - p)`.
    fn drop<T: Real>(&self, random: Random, from: &[T], to: &mut [T]) {
        let scale = T::of(1.0 / (1.0 - self.p));
        let before = random.before * self.shape.len();
        for (i, (to, &from)) in to.iter_mut().zip(from).enumerate() {
            *to = if random.word((before + i) as u32 as usize) < self.threshold() { T::zero() } else { from * scale };
        }
    }
}

impl<T: Real> Twin<T> for Dropout {
    fn forward(&self, pass: Forward<T>) {
        match pass.mode {
            Mode::Training => self.drop(pass.random, pass.x, pass.y),
            Mode::Inference => pass.y.copy_from_slice(pass.x),
        }
    }

    fn backward(&self, pass: Backward<T>) {
        if let Some(dx) = pass.dx {
            self.drop(pass.random, pass.dy, dx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a threshold on the wrong side, and masks that repeat from update to update.
    #[test]
    fn a_share_of_p_is_dropped_and_the_mean_stays() {
        let dropout = Dropout { shape: Shape::Features(10_000), p: 0.3 };
        let dropped = |step| {
            let mut y = vec![0.0; 10_000];
            dropout.drop(Random { seed: 1, step, layer: 2, before: 0 }, &vec![1.0; 10_000], &mut y);
            y
        };
        let y = dropped(5);
        let share = y.iter().filter(|&&v| v == 0.0).count() as f64 / 10_000.0;
        assert!((share - 0.3).abs() < 0.015, "{share}");
        assert!((y.iter().sum::<f64>() / 10_000.0 - 1.0).abs() < 0.03);
        assert_eq!(y, dropped(5));
        assert_ne!(y, dropped(6));
    }
}
