//! Test images made worse, to see what a network does with images that are not as good as those trained on: noise,
//! blur, less contrast, a shift, each at five strengths. The strengths are those of CIFAR-10-C (Hendrycks and
//! Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations") where it has such
//! a corruption.
//!
//! What chance decides is a function of the image's place, the channel and pixel, and the corruption: the same images
//! are made every time, on every machine.

use std::f64::consts::TAU;

use serde::Serialize;

use super::Dataset;
use crate::rng::{Philox, Stream};

/// What is done to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Corruption {
    /// Normal noise on every value.
    Noise,
    /// A Gaussian blur.
    Blur,
    /// Every value nearer to the mean of its channel.
    Contrast,
    /// Moved by so many pixels to each side in one of four directions, with black behind.
    Shift,
}

/// The strongest.
pub const SEVERITIES: usize = 5;

impl Corruption {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Noise, Self::Blur, Self::Contrast, Self::Shift];

    /// As flags and tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Blur => "blur",
            Self::Contrast => "contrast",
            Self::Shift => "shift",
        }
    }

    /// How strong severity 1 to 5 is: the noise's standard deviation in units of white, the blur's in pixels, what is
    /// left of the contrast, the pixels of the shift.
    pub fn strength(self, severity: usize) -> f64 {
        let strengths = match self {
            Self::Noise => [0.04, 0.06, 0.08, 0.09, 0.10],
            Self::Blur => [0.4, 0.6, 0.7, 0.8, 1.0],
            Self::Contrast => [0.75, 0.5, 0.4, 0.3, 0.15],
            Self::Shift => [1.0, 2.0, 3.0, 4.0, 5.0],
        };
        strengths[severity.clamp(1, SEVERITIES) - 1]
    }

    /// The same images and labels, each image made worse by this at a severity from 1 to 5.
    pub fn apply(self, images: &Dataset, severity: usize) -> Dataset {
        let [channels, h, w] = images.shape;
        let strength = self.strength(severity);
        let mut found = images.clone();
        for (i, image) in found.images.chunks_mut((channels * h * w).max(1)).enumerate() {
            let mut random = Philox::of(0, Stream::Corrupt(i));
            match self {
                Self::Noise => noise(image, strength, &mut random),
                Self::Blur => image.chunks_mut(h * w).for_each(|plane| blur(plane, [h, w], strength)),
                Self::Contrast => image.chunks_mut(h * w).for_each(|plane| contrast(plane, strength)),
                Self::Shift => {
                    let [down, right] = [1 & random.next_u32(), 1 & random.next_u32()].map(|bit| bit == 1);
                    let by = [down, right].map(|forward| if forward { strength as i64 } else { -(strength as i64) });
                    image.chunks_mut(h * w).for_each(|plane| shift(plane, [h, w], by));
                }
            }
        }
        found
    }
}

fn byte(value: f64) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

fn noise(image: &mut [u8], deviation: f64, random: &mut Philox) {
    for pair in image.chunks_mut(2) {
        // Box and Muller 1958; the first number is never 0.
        let [a, b] = [random.next_u32(), random.next_u32()].map(|bits| (f64::from(bits) + 0.5) / 2f64.powi(32));
        let (radius, angle) = ((-2.0 * a.ln()).sqrt(), TAU * b);
        for (value, normal) in pair.iter_mut().zip([radius * angle.cos(), radius * angle.sin()]) {
            *value = byte(f64::from(*value) + 255.0 * deviation * normal);
        }
    }
}

/// A separable blur over four deviations to each side; beyond an edge is the edge's own value.
fn blur(plane: &mut [u8], [h, w]: [usize; 2], deviation: f64) {
    let reach = (4.0 * deviation).ceil() as i64;
    let weights: Vec<f64> = (-reach..=reach).map(|d| (-0.5 * (d as f64 / deviation).powi(2)).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut values: Vec<f64> = plane.iter().map(|&v| v.into()).collect();
    for [step_y, step_x] in [[0, 1], [1, 0]] {
        let from = values.clone();
        for (i, value) in values.iter_mut().enumerate() {
            let (y, x) = ((i / w) as i64, (i % w) as i64);
            let at = |d: i64| {
                let y = (y + d * step_y).clamp(0, h as i64 - 1) as usize;
                let x = (x + d * step_x).clamp(0, w as i64 - 1) as usize;
                from[y * w + x]
            };
            *value = (-reach..=reach).zip(&weights).map(|(d, weight)| weight * at(d)).sum::<f64>() / total;
        }
    }
    plane.iter_mut().zip(values).for_each(|(to, value)| *to = byte(value));
}

fn contrast(plane: &mut [u8], left: f64) {
    let mean = plane.iter().map(|&v| f64::from(v)).sum::<f64>() / plane.len() as f64;
    plane.iter_mut().for_each(|v| *v = byte(mean + left * (f64::from(*v) - mean)));
}

fn shift(plane: &mut [u8], [h, w]: [usize; 2], [down, right]: [i64; 2]) {
    let from = plane.to_vec();
    for (i, value) in plane.iter_mut().enumerate() {
        let (y, x) = ((i / w) as i64 - down, (i % w) as i64 - right);
        let inside = (0..h as i64).contains(&y) && (0..w as i64).contains(&x);
        *value = if inside { from[y as usize * w + x as usize] } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(values: impl Fn(usize) -> u8) -> Dataset {
        let shape = [2, 12, 10];
        let images = (0..3 * 240).map(values).collect();
        Dataset { shape, classes: 2, images, labels: vec![0, 1, 0], files: vec![] }
    }

    /// Catches noise of another size, the same noise for every image, and a severity that is not stronger.
    #[test]
    fn noise_is_normal_and_of_its_size() {
        let grey = Dataset { shape: [1, 100, 100], images: vec![128; 20_000], labels: vec![0; 2], ..images(|_| 0) };
        for severity in 1..=SEVERITIES {
            let found = Corruption::Noise.apply(&grey, severity);
            let errors: Vec<f64> = found.images.iter().map(|&v| (f64::from(v) - 128.0) / 255.0).collect();
            let mean = errors.iter().sum::<f64>() / errors.len() as f64;
            let deviation = (errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64).sqrt();
            assert!(mean.abs() < 0.003 && (deviation / Corruption::Noise.strength(severity) - 1.0).abs() < 0.02);
            let beyond = errors.iter().filter(|e| e.abs() > 2.0 * deviation).count() as f64 / errors.len() as f64;
            assert!((0.035..0.056).contains(&beyond), "{beyond} beyond two deviations, expected 0.0455");
            assert_ne!(found.images[..10_000], found.images[10_000..]);
            assert_eq!(found, Corruption::Noise.apply(&grey, severity));
        }
    }

    /// A white pixel in the middle spreads as the products of a Gaussian's weights, in its own channel and image only.
    #[test]
    fn a_blur_spreads_a_point_and_leaves_an_even_plane() {
        let found = Corruption::Blur.apply(&images(|i| if i == 6 * 10 + 5 { 255 } else { 0 }), 5);
        let weights: Vec<f64> = (-4..=4).map(|d| (-0.5 * f64::from(d * d)).exp()).collect();
        let total: f64 = weights.iter().sum();
        for y in 2..11i32 {
            for x in 1..10i32 {
                let expected = 255.0 * weights[(y - 2) as usize] * weights[(x - 1) as usize] / (total * total);
                assert_eq!(found.images[(y * 10 + x) as usize], byte(expected), "{y} {x}");
            }
        }
        assert!(found.images[120..].iter().all(|&v| v == 0));
        let even = images(|_| 77);
        assert_eq!(Corruption::Blur.apply(&even, 3), even);
    }

    #[test]
    fn contrast_draws_to_each_channels_own_mean() {
        let found = Corruption::Contrast.apply(&images(|i| if i % 240 < 120 { 100 * (i % 2) as u8 } else { 200 }), 2);
        assert_eq!((&found.images[..4], &found.images[120..124]), (&[25, 75, 25, 75][..], &[200; 4][..]));
        assert_eq!(found.labels, [0, 1, 0]);
    }

    /// Catches a shift that wraps round, and one that goes the same way for every image.
    #[test]
    fn a_shift_moves_all_channels_together_and_leaves_black() {
        let grey = Dataset { images: vec![9; 64 * 240], labels: vec![0; 64], ..images(|_| 0) };
        let found = Corruption::Shift.apply(&grey, 3);
        let mut ways = std::collections::BTreeSet::new();
        for image in found.images.chunks(240) {
            assert_eq!(image[..120], image[120..]);
            assert_eq!(image[..120].iter().filter(|&&v| v == 9).count(), (12 - 3) * (10 - 3));
            let corners = [0, 9, 110, 119].map(|i| image[i]);
            assert_eq!(corners.iter().filter(|&&v| v == 9).count(), 1);
            ways.insert(corners);
        }
        assert_eq!(ways.len(), 4);
        let mut numbered: Vec<u8> = (0..6).collect();
        shift(&mut numbered, [2, 3], [1, -1]);
        assert_eq!(numbered, [0, 0, 0, 1, 2, 0]);
    }
}
