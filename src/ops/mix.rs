//! For whoever trains on mixed images: mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019), as timm has them.
//!
//! Image k of a batch of n is mixed with image n - 1 - k, its partner, and its loss is
//!
//! ```text
//! loss[k] = s L(label of k) + (1 - s) L(label of the partner)      s: the share, of each batch its own
//! mixup     x = s x[k] + (1 - s) x[partner]                        s from Beta(alpha, alpha)
//! cutmix    a rectangle is the partner's                           s: the share of the pixels that are k's own
//! ```
//!
//! The rectangle has `sqrt(1 - l)` of the height and of the width, `l` from Beta(alpha, alpha), around any pixel; what
//! of it is beyond the edges is left out. Where both are asked for, each batch has one of the two, half the time each.
//! What is drawn is a pure function of the run's seed, the update and which of its batches it is.

use rayon::prelude::*;

use crate::Result;
use crate::layer::ImageLayout;
use crate::plan::shaders::MIX;
use crate::plan::{Grid, Plan, Slice, uniform, word};
use crate::real::Real;
use crate::rng::{Philox, Stream};

/// How images are mixed; the default is not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mix {
    /// Mixup's alpha; 0 for none.
    pub mixup: f64,
    /// Cutmix's alpha; 0 for none.
    pub cutmix: f64,
}

/// How the images of one batch are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixed {
    /// The share that an image's own label has in its loss.
    pub share: f64,
    /// The share that an image's own pixels have, outside the rectangle.
    pub pixels: f64,
    /// First row of the rectangle, and one past its last.
    pub rows: [usize; 2],
    /// First column of it, and one past its last.
    pub columns: [usize; 2],
}

uniform! {
    /// Which part of an update a batch is (`Part` in `shaders/common/part_block.wgsl`).
    pub struct PartBlock {
        /// Images of the update that came in batches before this one.
        before: u32,
        /// [`Mixed::share`].
        share: f32,
        /// [`Mixed::pixels`].
        pixels: f32,
        /// [`Mixed::rows`].
        top: u32,
        /// One past the last.
        bottom: u32,
        /// [`Mixed::columns`].
        left: u32,
        /// One past the last.
        right: u32,
    }
}

uniform! {
    /// `Dims` in `shaders/mix.wgsl`.
    struct Dims {
        plane: u32,
        width: u32,
        pixels: u32,
    }
}

impl Mixed {
    /// Not at all.
    pub const NONE: Self = Self { share: 1.0, pixels: 1.0, rows: [0; 2], columns: [0; 2] };

    /// As the device has it, of a batch with so many images of its update before it.
    pub fn block(&self, before: usize) -> PartBlock {
        let Self { share, pixels, rows, columns } = *self;
        let [[top, bottom], [left, right]] = [rows, columns].map(|ends| ends.map(word));
        PartBlock { before: word(before), share: share as f32, pixels: pixels as f32, top, bottom, left, right }
    }

    /// Mixes the batch `x [n, …]`, each image laid out so, in place.
    pub fn apply<T: Real>(&self, layout: ImageLayout, x: &mut [T]) {
        let n = x.len() / layout.len;
        let (first, last) = x.split_at_mut(n / 2 * layout.len);
        let pairs = first.par_chunks_mut(layout.len).zip(last.par_chunks_mut(layout.len).rev());
        pairs.for_each(|(one, other)| self.pair(layout, one, other));
    }

    /// Mixes an image and its partner.
    fn pair<T: Real>(&self, layout: ImageLayout, one: &mut [T], other: &mut [T]) {
        if self.pixels < 1.0 {
            let [own, rest] = [self.pixels, 1.0 - self.pixels].map(T::of);
            for (one, other) in one.iter_mut().zip(other) {
                (*one, *other) = (own * *one + rest * *other, own * *other + rest * *one);
            }
            return;
        }
        for channel in 0..layout.dims[0] {
            for row in self.rows[0]..self.rows[1] {
                for column in self.columns[0]..self.columns[1] {
                    let at = layout.at(channel, row, column);
                    std::mem::swap(&mut one[at], &mut other[at]);
                }
            }
        }
    }
}

impl Mix {
    /// Whether nothing is mixed.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// How batch `which`, from 0, of update `t` is mixed, of images of this shape.
    pub fn draw(&self, seed: u64, t: u64, which: usize, [_, h, w]: [usize; 3]) -> Mixed {
        if self.is_none() {
            return Mixed::NONE;
        }
        let mut rng = Philox::of_batch(seed, Stream::Mix, t, which);
        let cuts = match (self.mixup > 0.0, self.cutmix > 0.0) {
            (true, true) => rng.uniform() < 0.5,
            (mixes, _) => !mixes,
        };
        if !cuts {
            let share = beta(&mut rng, self.mixup);
            return Mixed { share, pixels: share, ..Mixed::NONE };
        }
        let side = (1.0 - beta(&mut rng, self.cutmix)).sqrt();
        let [rows, columns] = [h, w].map(|size| {
            let half = (size as f64 * side) as usize / 2;
            let middle = rng.below(word(size)) as usize;
            [middle.saturating_sub(half), (middle + half).min(size)]
        });
        let cut = (rows[1] - rows[0]) * (columns[1] - columns[0]);
        Mixed { share: 1.0 - cut as f64 / (h * w) as f64, pixels: 1.0, rows, columns }
    }
}

/// From Beta(alpha, alpha): one of two numbers of Gamma(alpha), over both. By their logarithms, which do not become 0
/// where alpha is small.
fn beta(rng: &mut Philox, alpha: f64) -> f64 {
    let [one, other] = [(), ()].map(|()| log_gamma_variate(rng, alpha));
    1.0 / (1.0 + libm::exp(other - one))
}

/// The logarithm of a number of Gamma(alpha): Marsaglia and Tsang 2000, "A simple method for generating gamma
/// variables". Of alpha below 1 by one of alpha + 1, times `u^(1 / alpha)`.
fn log_gamma_variate(rng: &mut Philox, alpha: f64) -> f64 {
    if alpha < 1.0 {
        // Not 0, of which there is no logarithm.
        let less = libm::log(1.0 - rng.uniform()) / alpha;
        return log_gamma_variate(rng, alpha + 1.0) + less;
    }
    let d = alpha - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = rng.normal();
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && libm::log(1.0 - rng.uniform()) < 0.5 * x * x + d - d * v + d * libm::log(v) {
            return libm::log(d * v);
        }
    }
}

/// Records the mixing of a batch of up to `n` images `x [n, channels, height, width]`, in place.
///
/// # Errors
/// As [`Plan::dispatch`].
pub fn record(plan: &mut Plan, n: usize, [channels, h, w]: [usize; 3], x: Slice) -> Result<()> {
    let dims = Dims { plane: word(h * w), width: word(w), pixels: word(channels * h * w) };
    let threads = Grid::Threads(n / 2 * channels * h * w);
    plan.dispatch("train.mix", (&MIX, "pairs"), dims, threads, 0, &[("x", x)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a share that is no Beta's: mean, variance and the mass below a tenth, of wide and of narrow ones.
    #[test]
    fn shares_are_those_of_beta() {
        // P(x < 0.1) by scipy.stats.beta(alpha, alpha).cdf(0.1).
        for (alpha, below) in [(0.2, 0.329_870), (1.0, 0.1), (0.5, 0.204_833), (2.0, 0.028), (8.0, 3.3624e-6)] {
            let mut rng = Philox::new(5, 77);
            let n = 50_000.0f64;
            let drawn: Vec<f64> = (0..50_000).map(|_| beta(&mut rng, alpha)).collect();
            let mean = drawn.iter().sum::<f64>() / n;
            let variance = drawn.iter().map(|v| (v - 0.5).powi(2)).sum::<f64>() / n;
            let expected = 0.25 / (2.0 * alpha + 1.0);
            assert!((mean - 0.5).abs() < 5.0 * (expected / n).sqrt(), "{alpha}: mean {mean}");
            assert!((variance / expected - 1.0).abs() < 0.03, "{alpha}: variance {variance}, expected {expected}");
            let found = drawn.iter().filter(|v| **v < 0.1).count() as f64 / n;
            assert!((found - below).abs() < 5.0 * (below / n).sqrt() + 1e-5, "{alpha}: {found} below 0.1");
        }
        // Hardly any is between the ends, and none is no number.
        let mut rng = Philox::new(5, 78);
        assert!((0..1000).map(|_| beta(&mut rng, 1e-3)).all(|v| (0.0..=1.0).contains(&v)));
        assert!((0..1000).map(|_| beta(&mut rng, 1e6)).all(|v| (v - 0.5).abs() < 0.01));
    }

    #[test]
    fn a_rectangle_is_inside_and_its_share_is_that_of_its_pixels() {
        let (mix, shape) = (Mix { mixup: 0.0, cutmix: 1.0 }, [3, 9, 7]);
        let drawn: Vec<Mixed> = (1..2000).map(|t| mix.draw(3, t, 0, shape)).collect();
        for mixed in &drawn {
            let [rows, columns] = [mixed.rows, mixed.columns].map(|[from, to]| to - from);
            assert!(mixed.rows[1] <= 9 && mixed.columns[1] <= 7 && mixed.pixels == 1.0);
            assert_eq!(mixed.share, 1.0 - (rows * columns) as f64 / 63.0);
        }
        // About any pixel, and the larger one as often as the smaller one; edges cut off a part.
        let mean = drawn.iter().map(|mixed| mixed.share).sum::<f64>() / drawn.len() as f64;
        assert!((0.55..0.8).contains(&mean), "{mean}");
        assert!([0, 8].iter().all(|&row| drawn.iter().any(|mixed| (mixed.rows[0]..mixed.rows[1]).contains(&row))));
        assert_eq!(drawn[4], mix.draw(3, 5, 0, shape));
        assert_ne!(drawn[..20], (1..21).map(|t| mix.draw(3, t, 1, shape)).collect::<Vec<_>>());
        assert_ne!(drawn[..20], (1..21).map(|t| mix.draw(4, t, 0, shape)).collect::<Vec<_>>());
        let both = Mix { mixup: 1.0, cutmix: 1.0 };
        let cuts = (1..2000).filter(|&t| both.draw(3, t, 0, shape).pixels == 1.0).count();
        assert!((900..1100).contains(&cuts), "{cuts}");
        assert_eq!(Mix::default().draw(3, 1, 0, shape), Mixed::NONE);
    }

    /// Catches a partner that is another's, an image in the middle that changes, and a border that does.
    #[test]
    fn partners_are_the_batch_backwards() {
        let layout = ImageLayout::planes([1, 2, 2]);
        let batch: Vec<f64> = (0..12).map(f64::from).collect();
        let mut found = batch.clone();
        Mixed { share: 0.75, pixels: 0.75, ..Mixed::NONE }.apply(layout, &mut found);
        assert_eq!(found, [2.0, 3.0, 4.0, 5.0, 4.0, 5.0, 6.0, 7.0, 6.0, 7.0, 8.0, 9.0]);
        found.clone_from(&batch);
        Mixed { share: 0.5, pixels: 1.0, rows: [0, 2], columns: [1, 2] }.apply(layout, &mut found);
        assert_eq!(found, [0.0, 9.0, 2.0, 11.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1.0, 10.0, 3.0]);
        let bordered = ImageLayout::pixels([1, 1, 1], [1, 1], 1, 0);
        let mut images = [[0.0; 9], [0.0; 9]];
        (images[0][4], images[1][4]) = (1.0, 2.0);
        Mixed { share: 0.5, pixels: 0.5, ..Mixed::NONE }.apply(bordered, images.as_flattened_mut());
        assert!(images.iter().all(|image| image.iter().sum::<f64>() == 1.5 && image[4] == 1.5));
    }
}
