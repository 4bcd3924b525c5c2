//! Built-in data: drawings of the ten digits in a handwritten style, 28x28 grey, made from a seed.
//!
//! Each image starts from one of several stroke skeletons of its digit. Its control points are jittered, joined by
//! splines, bent by a smooth random field, rotated, slanted, stretched and moved, then drawn with a pen whose width
//! varies along the stroke, with soft edges and noise.
//!
//! The bytes are the same on every machine: the arithmetic is `+ - * /` and square roots, which IEEE 754 rounds
//! correctly everywhere, and sines and cosines come from the `libm` crate instead of the platform's library.

use std::f64::consts::{PI, TAU};
use std::path::Path;

use rayon::prelude::*;

use super::Dataset;
use super::format::{Format, Loaded, ReadProgress, Reading};
use crate::Result;
use crate::rng::Philox;

/// Height and width of an image, in pixels.
pub const SIDE: usize = 28;
/// How many digits there are.
pub const CLASSES: usize = 10;
/// Mean and standard deviation of the default training set's pixels, scaled to 0..1.
pub const MEAN_AND_STD: (f64, f64) = (0.1127, 0.2525);

/// The skeletons of each digit. Coordinates are percent of the digit's height: x to the right, y down, a spline
/// through the points of a stroke. `|` after a point is a corner (the pen stops there), `/` lifts the pen.
const SKELETONS: [&[&str]; CLASSES] = [
    // 0: round with overlapping ends; narrow; begun inside, with a crossing at the top.
    &[
        "40,1 14,11 0,48 12,87 36,100 60,87 70,50 58,13 34,0 22,4",
        "46,5 25,3 9,40 14,84 34,100 54,84 60,40 48,8 36,1",
        "42,20 32,3 9,25 4,62 24,97 52,92 66,55 58,18 38,3 20,12",
    ],
    // 1: bare stick; with a flag; with a flag and a foot; a stick that curves.
    &[
        "32,0 34,50 32,100",
        "17,22 40,0 | 40,50 38,100",
        "14,22 40,0 | 40,100 / 12,100 68,98",
        "40,0 33,35 30,70 32,100",
    ],
    // 2: pointed; looped at the foot; wavy base; flat top.
    &[
        "4,26 18,5 42,0 61,18 54,44 30,74 2,100 | 36,98 70,100",
        "5,22 24,2 52,6 60,32 38,70 14,97 0,90 14,80 40,92 72,97",
        "8,20 34,0 62,22 48,55 5,98 | 24,90 48,98 72,90",
        "6,8 40,2 60,14 52,40 8,94 | 10,98 66,96",
    ],
    // 3: round; flat-topped; with a loop in the middle.
    &[
        "5,12 30,0 58,13 52,36 25,46 | 54,54 66,77 42,100 2,90",
        "6,3 60,2 | 28,40 | 56,48 66,74 42,100 2,92",
        "5,10 34,0 60,16 46,40 24,48 20,42 34,42 60,58 58,88 30,100 0,86",
    ],
    // 4: open; closed; open and round; open, in one go.
    &[
        "10,0 2,56 | 70,54 / 50,12 48,100",
        "50,0 1,66 | 74,64 / 50,0 50,100",
        "10,2 4,34 20,52 44,48 58,36 / 62,2 56,50 52,100",
        "16,4 6,44 20,54 56,46 | 62,2 | 56,50 54,100",
    ],
    // 5: in one go; like an S; with a separate bar.
    &[
        "62,0 14,2 | 8,43 | 34,36 62,54 60,82 34,100 0,92",
        "64,3 32,4 13,20 20,42 50,52 62,76 40,99 2,92",
        "15,7 9,46 | 38,39 64,64 46,95 2,95 / 15,6 68,0",
    ],
    // 6: curved; straight-backed with a small bowl; wide with a curl.
    &[
        "54,0 26,20 5,56 9,87 32,100 58,85 54,60 32,53 9,70",
        "32,0 12,45 4,78 22,100 48,96 58,77 42,60 20,65 6,82",
        "62,8 42,0 14,24 2,64 20,97 50,95 62,72 42,54 16,68 14,82",
    ],
    // 7: plain; with a bar; with a hook on the left; round-shouldered.
    &[
        "2,5 66,3 | 44,46 26,100",
        "2,5 66,3 | 44,46 28,100 / 18,52 62,48",
        "4,20 4,4 | 66,2 | 42,44 30,100",
        "2,12 24,3 56,4 60,18 40,52 30,100",
    ],
    // 8: in one go from the top right; two circles; begun and ended at an open top.
    &[
        "56,12 34,0 11,14 20,40 50,58 62,80 36,100 6,82 18,58 48,40 59,20 46,3",
        "35,45 12,32 14,9 35,0 56,9 58,32 35,45 / 35,45 8,60 6,86 35,100 64,86 62,60 35,45",
        "58,10 32,2 10,20 34,46 60,70 40,98 10,86 24,56 68,4",
    ],
    // 9: straight tail; hooked tail; a circle with a stick; curved, like a turned 6.
    &[
        "58,18 36,1 10,14 7,40 28,52 52,36 60,10 | 56,54 50,100",
        "60,14 36,0 8,18 14,46 42,48 60,16 | 62,64 42,99 10,92",
        "54,20 34,2 8,16 8,40 30,50 52,36 54,16 / 58,2 55,100",
        "56,30 48,4 24,2 6,24 18,46 42,44 56,22 | 50,66 14,100",
    ],
];

/// The built-in data set: how many images, and the seed they are made from.
///
/// Image `i` of a split depends on the seed, the split and `i` alone: a larger set begins with the smaller one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digits {
    /// Training images.
    pub train: usize,
    /// Test images.
    pub test: usize,
    /// Chooses every image and the order of the labels.
    pub seed: u64,
}

impl Default for Digits {
    /// 10,000 training images and 2,000 test images of a fixed seed.
    fn default() -> Self {
        Self { train: 10_000, test: 2_000, seed: 2016 }
    }
}

impl Digits {
    /// Draws the training and the test images: two sets `[n, 1, 28, 28]`, background 0, full ink 255, each class
    /// as often as any other up to one, in shuffled order. The two sets share no random stream.
    pub fn generate(&self) -> (Dataset, Dataset) {
        let skeletons: Vec<Vec<Skeleton>> =
            SKELETONS.iter().map(|variants| variants.iter().map(|text| parse(text)).collect()).collect();
        (self.split(&skeletons, 0, self.train), self.split(&skeletons, 1, self.test))
    }

    fn split(&self, skeletons: &[Vec<Skeleton>], split: u64, n: usize) -> Dataset {
        // Streams are told apart by their top bits: split (0 or 1), then labels (0) or images (1).
        let stream = |kind: u64, index: usize| Philox::new(self.seed, split << 63 | kind << 62 | index as u64);
        // Every ten images are a permutation of the ten classes, so that any length is balanced.
        let mut labels: Vec<u32> = (0..n.div_ceil(CLASSES))
            .flat_map(|block| {
                let mut classes: [u32; CLASSES] = std::array::from_fn(|class| class as u32);
                stream(0, block).shuffle(&mut classes);
                classes
            })
            .collect();
        labels.truncate(n);
        let mut images = vec![0; n * SIDE * SIDE];
        images.par_chunks_mut(SIDE * SIDE).zip(&labels).enumerate().for_each(|(i, (image, &label))| {
            let mut rng = stream(1, i);
            let variants = &skeletons[label as usize];
            let skeleton = &variants[rng.below(variants.len() as u32) as usize];
            draw(&trace(skeleton, &mut rng), &mut rng, image);
        });
        Dataset { shape: [1, SIDE, SIDE], classes: CLASSES, images, labels, files: vec![] }
    }
}

/// The digits as a format.
pub struct Builtin;

impl Format for Builtin {
    fn name(&self) -> &'static str {
        "digits"
    }

    fn about(&self) -> &'static str {
        "Built in: drawn by the program, 28x28, ten classes"
    }

    fn is_built_in(&self) -> bool {
        true
    }

    fn read(&self, _dir: &Path, how: &Reading, _: ReadProgress) -> Result<Loaded> {
        // A larger set begins with the smaller one: only what is kept is drawn.
        let all = Digits::default();
        let kept = |limit: Option<usize>, n: usize| limit.map_or(n, |limit| limit.min(n));
        let (train, test) = (kept(how.limit_train, all.train), kept(how.limit_test, all.test));
        let sets = Digits { train, test, ..all }.generate();
        let names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        Ok(Loaded::published(sets, &names, &[[MEAN_AND_STD.0, MEAN_AND_STD.1]]))
    }

    fn check_places(&self, _dir: &Path, _train: &Dataset) -> Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct Point {
    x: f64,
    y: f64,
}

/// The strokes of a skeleton; a stroke's parts between corners; a part's control points. Heights are 1.
type Skeleton = Vec<Vec<Vec<Point>>>;
/// Strokes as chains of short straight lines.
type Polylines = Vec<Vec<Point>>;

/// Reads the notation of [`SKELETONS`].
fn parse(text: &str) -> Skeleton {
    let number = |text: &str| f64::from(text.parse::<i32>().expect("skeletons are written in whole percent")) / 100.0;
    let point = |text: &str| {
        let (x, y) = text.split_once(',').expect("a point is x,y");
        Point { x: number(x), y: number(y) }
    };
    text.split('/').map(|s| s.split('|').map(|p| p.split_whitespace().map(point).collect()).collect()).collect()
}

/// Close to a standard normal: the sum of four uniform numbers, scaled. Never beyond 3.47, so there are no outliers.
fn normal(rng: &mut Philox) -> f64 {
    let sum = rng.range(-1.0, 1.0) + rng.range(-1.0, 1.0) + rng.range(-1.0, 1.0) + rng.range(-1.0, 1.0);
    // Each has variance 1/3, the sum 4/3.
    sum * 0.75_f64.sqrt()
}

/// The point at `t` in 0..=1 between `p[1]` and `p[2]` of a uniform Catmull-Rom spline through the four points
/// (Catmull and Rom, "A class of local interpolating splines", 1974).
fn catmull_rom(p: [Point; 4], t: f64) -> Point {
    let blend = |a: f64, b: f64, c: f64, d: f64| {
        0.5 * (2.0 * b + t * ((c - a) + t * ((2.0 * a - 5.0 * b + 4.0 * c - d) + t * (3.0 * (b - c) + d - a))))
    };
    Point { x: blend(p[0].x, p[1].x, p[2].x, p[3].x), y: blend(p[0].y, p[1].y, p[2].y, p[3].y) }
}

/// A spline through `points`, as straight pieces. The ends continue as if mirrored, so two points give a line.
fn flatten(points: &[Point], out: &mut Vec<Point>) {
    const PIECES: usize = 6;
    let last = points.len() - 1;
    let beyond = |end: Point, inner: Point| Point { x: 2.0 * end.x - inner.x, y: 2.0 * end.y - inner.y };
    for i in 0..last {
        let before = if i == 0 { beyond(points[0], points[1]) } else { points[i - 1] };
        let after = if i + 1 == last { beyond(points[last], points[last - 1]) } else { points[i + 2] };
        for piece in 0..=PIECES {
            let t = piece as f64 / PIECES as f64;
            out.push(catmull_rom([before, points[i], points[i + 1], after], t));
        }
    }
}

/// One writer's version of a skeleton, in pixels of the image.
fn trace(skeleton: &Skeleton, rng: &mut Philox) -> Polylines {
    // How careless the writer is: most are tidy, a few are not.
    let carelessness = 0.6 + 1.0 * rng.uniform() * rng.uniform();

    // 1. Jitter of the control points. Neighbouring parts of a stroke share their corner.
    let jitter = 0.028 * carelessness;
    let mut lines: Polylines = Vec::with_capacity(skeleton.len());
    for stroke in skeleton {
        let mut line = Vec::with_capacity(80);
        let mut corner = None;
        for part in stroke {
            let moved = part.iter().map(|p| Point { x: p.x + jitter * normal(rng), y: p.y + jitter * normal(rng) });
            let points: Vec<Point> = corner.into_iter().chain(moved).collect();
            flatten(&points, &mut line);
            corner = points.last().copied();
        }
        lines.push(line);
    }

    // 2. Elastic deformation: a displacement made of a few plane waves of about one period over the digit.
    let amplitude = 0.025 * carelessness;
    for _ in 0..3 {
        let (fx, fy) = (rng.range(-1.2, 1.2), rng.range(-1.2, 1.2));
        let (phase_x, phase_y) = (rng.range(0.0, TAU), rng.range(0.0, TAU));
        let (ax, ay) = (amplitude * normal(rng), amplitude * normal(rng));
        for p in lines.iter_mut().flatten() {
            let angle = TAU * (fx * p.x + fy * p.y);
            (p.x, p.y) = (p.x + ax * libm::sin(angle + phase_x), p.y + ay * libm::sin(angle + phase_y));
        }
    }

    // 3. Aspect, slant, rotation: x' = aspect x - slant y, then a turn by `angle`.
    let aspect = 1.0 + 0.15 * normal(rng);
    let slant = 0.05 + 0.17 * normal(rng);
    let angle = PI / 180.0 * 7.0 * normal(rng);
    let (sin, cos) = (libm::sin(angle), libm::cos(angle));
    for p in lines.iter_mut().flatten() {
        let (x, y) = (aspect * p.x - slant * p.y, p.y);
        *p = Point { x: cos * x - sin * y, y: sin * x + cos * y };
    }

    // 4. Size and place: the longer side of the bounding box takes `size` pixels, its centre is near the middle.
    let mut low = Point { x: f64::INFINITY, y: f64::INFINITY };
    let mut high = Point { x: f64::NEG_INFINITY, y: f64::NEG_INFINITY };
    for p in lines.iter().flatten() {
        low = Point { x: low.x.min(p.x), y: low.y.min(p.y) };
        high = Point { x: high.x.max(p.x), y: high.y.max(p.y) };
    }
    let size = rng.range(15.0, 21.0);
    let scale = size / (high.x - low.x).max(high.y - low.y);
    // At most this far from the middle, so that the strokes stay on the paper.
    let room = 0.5 * (SIDE as f64 - 2.0 - size);
    let middle = 0.5 * SIDE as f64;
    let (cx, cy) = (middle + (1.5 * normal(rng)).clamp(-room, room), middle + (1.5 * normal(rng)).clamp(-room, room));
    for p in lines.iter_mut().flatten() {
        p.x = cx + scale * (p.x - 0.5 * (low.x + high.x));
        p.y = cy + scale * (p.y - 0.5 * (low.y + high.y));
    }
    lines
}

/// Draws the lines into `image` (all zero at first) with a pen of varying width, and adds noise.
fn draw(lines: &Polylines, rng: &mut Philox, image: &mut [u8]) {
    let mut ink = [0.0_f64; SIDE * SIDE];
    // The pen, in pixels: its radius, how much the pressure changes it, the width of the soft edge.
    let radius = rng.range(0.7, 1.5);
    let pressure = rng.range(0.0, 0.3);
    let edge = rng.range(1.0, 2.0);
    for line in lines {
        // A slow wave of pressure: a period of 10 to 30 pixels along the stroke.
        let wave = TAU / rng.range(10.0, 30.0);
        let mut phase = rng.range(0.0, TAU);
        let mut start_radius = radius * (1.0 + pressure * libm::sin(phase));
        for pair in line.windows(2) {
            let (dx, dy) = (pair[1].x - pair[0].x, pair[1].y - pair[0].y);
            phase += wave * (dx * dx + dy * dy).sqrt();
            let end_radius = radius * (1.0 + pressure * libm::sin(phase));
            stamp(&mut ink, [pair[0], pair[1]], [start_radius, end_radius], edge);
            start_radius = end_radius;
        }
    }
    let darkness = rng.range(190.0, 255.0);
    let noise = rng.range(0.0, 12.0);
    for (byte, ink) in image.iter_mut().zip(ink) {
        // Grain: the sum of the four bytes of a word, with mean 510 and variance 4 (256^2 - 1) / 12.
        let grain = rng.next_u32().to_le_bytes().iter().map(|&b| f64::from(b)).sum::<f64>();
        // Casting to u8 cuts off at 0 and 255.
        *byte = (darkness * ink + noise * (grain - 510.0) / 147.8 + 0.5) as u8;
    }
}

/// Lays one straight piece of a stroke, its radius going from `radii[0]` to `radii[1]`, over what is there. Coverage
/// is a smooth step of the distance d to the piece, from 1 at d = radius - edge/2 to 0 at d = radius + edge/2.
fn stamp(ink: &mut [f64; SIDE * SIDE], [a, b]: [Point; 2], radii: [f64; 2], edge: f64) {
    let reach = radii[0].max(radii[1]) + 0.5 * edge;
    // The pixels whose centres (at whole numbers and a half) may be within reach. The casts cut off below 0.
    let range = |p: f64, q: f64| (p.min(q) - reach) as usize..((p.max(q) + reach + 1.0) as usize).min(SIDE);
    let (dx, dy) = (b.x - a.x, b.y - a.y);
    let length2 = dx * dx + dy * dy;
    for row in range(a.y, b.y) {
        for column in range(a.x, b.x) {
            let (px, py) = (column as f64 + 0.5 - a.x, row as f64 + 0.5 - a.y);
            // The nearest point of the piece is a + t (b - a).
            let t = if length2 > 0.0 { ((px * dx + py * dy) / length2).clamp(0.0, 1.0) } else { 0.0 };
            let (ex, ey) = (px - t * dx, py - t * dy);
            let distance = (ex * ex + ey * ey).sqrt();
            let radius = radii[0] + t * (radii[1] - radii[0]);
            let u = ((radius - distance) / edge + 0.5).clamp(0.0, 1.0);
            let coverage = u * u * (3.0 - 2.0 * u);
            let pixel = &mut ink[row * SIDE + column];
            *pixel = pixel.max(coverage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> (Dataset, Dataset) {
        Digits { train: 203, test: 55, seed: 7 }.generate()
    }

    /// FNV-1a, 64 bits.
    fn hash<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u64 {
        bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    }

    #[test]
    fn sizes_and_ranges() {
        let (train, test) = small();
        for (data, n) in [(&train, 203), (&test, 55)] {
            assert_eq!((data.len(), data.shape, data.classes), (n, [1, 28, 28], 10));
            assert_eq!(data.images.len(), n * 28 * 28);
            assert!(data.labels.iter().all(|&label| label < 10));
        }
        let (none, _) = Digits { train: 0, test: 0, seed: 7 }.generate();
        assert!(none.is_empty());
    }

    /// The bytes do not change: not between runs, machines or versions. Recorded on x86-64 Linux.
    #[test]
    fn bytes_are_the_recorded_ones() {
        let (train, test) = small();
        assert_eq!((train.clone(), test.clone()), small());
        assert_eq!(train.labels[..10], [1, 4, 5, 8, 3, 2, 7, 0, 6, 9]);
        assert_eq!([hash(&train.images), hash(&test.images)], [0x7834_f193_54a6_99b9, 0xeaa5_11cd_40cd_5f1c]);
    }

    #[test]
    fn a_larger_set_begins_with_the_smaller() {
        let (small, _) = small();
        let (mut large, _) = Digits { train: 407, test: 0, seed: 7 }.generate();
        large.truncate(203);
        assert_eq!(small, large);
    }

    #[test]
    fn classes_are_balanced() {
        let (train, test) = small();
        for data in [train, test] {
            let mut counts = [0; CLASSES];
            data.labels.iter().for_each(|&label| counts[label as usize] += 1);
            let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(high - low <= 1, "{counts:?}");
        }
    }

    #[test]
    fn splits_and_seeds_differ() {
        let (train, test) = small();
        for i in 0..test.len() {
            assert!((0..train.len()).all(|j| train.image(j) != test.image(i)));
        }
        let (other, _) = Digits { train: 203, test: 0, seed: 8 }.generate();
        assert_ne!(train.images, other.images);
        assert_ne!(train.labels, other.labels);
    }

    /// Every image has strokes: some pixels well above the noise, but far from all of them.
    #[test]
    fn every_image_has_ink() {
        let (train, test) = Digits { train: 2000, test: 500, seed: 1 }.generate();
        for data in [train, test] {
            for i in 0..data.len() {
                let ink = data.image(i).iter().filter(|&&byte| byte > 96).count();
                assert!((12..320).contains(&ink), "image {i}, a {}: {ink} pixels of ink", data.labels[i]);
            }
        }
    }

    #[test]
    fn the_stated_mean_and_deviation_are_those_of_the_training_set() {
        let (train, _) = Digits::default().generate();
        let n = train.images.len() as f64;
        let values = || train.images.iter().map(|&byte| f64::from(byte) / 255.0);
        let mean = values().sum::<f64>() / n;
        let std = (values().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt();
        assert!((mean - MEAN_AND_STD.0).abs() < 5e-5 && (std - MEAN_AND_STD.1).abs() < 5e-5, "{mean} {std}");
    }
}
