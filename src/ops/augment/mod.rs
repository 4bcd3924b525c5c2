//! For whoever trains on few pictures: what is changed of each training image, anew in each update.
//!
//! What is drawn is a pure function of the run's seed, the update and the image's place in its batch: the same on every
//! device, and in a run that goes on. Pixels are moved as bytes, before they are normalised:
//!
//! ```text
//! shift       output (i, j) is input (i + a, j + b), a and b each from -shift to shift; outside black, or reflected
//! rotate      by an angle from -rotate to rotate, and larger by a factor from 1 - scale to 1 + scale: one bilinear
//! scale       resample around the middle ([`affine`])
//! flip        left and right change places, half the time
//! contrast    v becomes 128 + c (v - 128) + 255 b: c from 1 - contrast to 1 + contrast, b from -brightness to
//! brightness  brightness; what is then below 0 or above 255 is these
//! cutout      a square of so many pixels around any pixel is grey (DeVries and Taylor 2017)
//! ```
//!
//! Angles, factors, contrasts and brightnesses are each one of 256 values, as far from each other. All of it is in
//! whole numbers: each device gives the same bytes.
//!
//! Off by default: a shifted digit is the same digit, but a flipped 2 is none, and a turned 6 is a 9.

pub mod affine;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::rng::{Philox, Stream};
use crate::{Error, Result, parse};

/// What a cut out pixel is.
pub const GREY: u8 = 128;

/// 1, where numbers are whole ones of 2^-14.
pub const ONE: i32 = 1 << 14;
/// How many values are drawn from.
pub const LEVELS: usize = 256;

/// Level `k` of a range, from -1 to 1.
fn level(k: usize) -> f64 {
    (2 * k) as f64 / (LEVELS - 1) as f64 - 1.0
}

/// What a shifted image shows where it has no pixels of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Border {
    /// Black.
    #[default]
    Zero,
    /// The pixels on the other side of its edge.
    Reflect,
}

/// What is done to training images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Augment {
    /// By up to so many pixels up, down, left and right.
    pub shift: usize,
    /// What is beyond the edge.
    pub border: Border,
    /// Whether half of them are mirrored.
    pub flip: bool,
    /// The side of the square that is cut out; 0 for none.
    pub cutout: usize,
    /// By up to so many degrees either way.
    #[serde(skip_serializing_if = "is_zero")]
    pub rotate: f64,
    /// Larger or smaller by up to this share.
    #[serde(skip_serializing_if = "is_zero")]
    pub scale: f64,
    /// Brighter or darker by up to this share of white.
    #[serde(skip_serializing_if = "is_zero")]
    pub brightness: f64,
    /// Of more or less contrast, by up to this share.
    #[serde(skip_serializing_if = "is_zero")]
    pub contrast: f64,
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// What happens to one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Rows and columns that it moves by, `shift` being none.
    shift: [usize; 2],
    flipped: bool,
    /// The middle of what is cut out.
    centre: [usize; 2],
    /// The levels of angle and factor.
    affine: [usize; 2],
    /// The levels of brightness and contrast.
    tone: [usize; 2],
}

/// The settings of angle, factor and tone as whole numbers of 2^-14, as the device has them too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AugmentTable {
    /// Cosine and sine of each level's angle.
    pub turns: Vec<[i32; 2]>,
    /// The share that scale has.
    pub scale: i32,
    /// That of brightness, times 255.
    pub brightness: i32,
    /// That of contrast.
    pub contrast: i32,
}

/// What a level is of `most`.
fn part(most: i32, level: usize) -> i32 {
    most * (2 * level as i32 - (LEVELS as i32 - 1)) / (LEVELS as i32 - 1)
}

impl Augment {
    /// Nothing.
    pub const NONE: Self = Self {
        shift: 0,
        border: Border::Zero,
        flip: false,
        cutout: 0,
        rotate: 0.0,
        scale: 0.0,
        brightness: 0.0,
        contrast: 0.0,
    };
    /// Shifts of up to two pixels: for digits.
    pub const LIGHT: Self = Self { shift: 2, ..Self::NONE };
    /// Shifts of up to four pixels, and mirrored images: what He et al. 2015 do on CIFAR-10.
    pub const CIFAR: Self = Self { shift: 4, flip: true, ..Self::NONE };

    /// Whether nothing is changed.
    pub fn is_none(&self) -> bool {
        Self { border: Border::Zero, ..*self } == Self::NONE
    }

    /// Whether images are turned or scaled.
    pub fn is_affine(&self) -> bool {
        self.rotate != 0.0 || self.scale != 0.0
    }

    /// Whether they become brighter or darker.
    pub fn is_toned(&self) -> bool {
        self.brightness != 0.0 || self.contrast != 0.0
    }

    /// Its settings as whole numbers.
    pub fn table(&self) -> AugmentTable {
        let whole = |value: f64| (value * f64::from(ONE)).round() as i32;
        AugmentTable {
            turns: affine::turns(self.rotate),
            scale: whole(self.scale),
            brightness: whole(255.0 * self.brightness),
            contrast: whole(self.contrast),
        }
    }

    /// `none`, `light`, `cifar`, or the path of a file that ends in `.toml`.
    ///
    /// # Errors
    /// [`Error::Usage`] for another name; [`Error::Io`] and [`Error::Data`] for the file.
    pub fn parse(text: &str) -> Result<Self> {
        let path = Path::new(text);
        if path.extension().is_some_and(|extension| extension == "toml") {
            return parse::toml(path, &std::fs::read_to_string(path).map_err(Error::io(path))?);
        }
        match text {
            "none" => Ok(Self::NONE),
            "light" => Ok(Self::LIGHT),
            "cifar" => Ok(Self::CIFAR),
            _ => Err(Error::Usage(format!(
                "--augment: found {text:?}, expected none, light, cifar, or a file that ends in .toml"
            ))),
        }
    }

    /// Refuses what makes no sense, and what does not fit images of this shape.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self, [_, h, w]: [usize; 3]) -> Result<()> {
        let usage = |message: String| Err(Error::Usage(format!("--augment: found {message}")));
        let Self { rotate, scale, brightness, contrast, .. } = *self;
        let shares = [("rotate", rotate, 180.0), ("scale", scale, 0.5), ("brightness", brightness, 1.0)];
        for (what, found, most) in shares.into_iter().chain([("contrast", contrast, 1.0)]) {
            if !(0.0..=most).contains(&found) {
                return usage(format!("a {what} of {found}, expected a number from 0 to {most}"));
            }
        }
        if self.is_affine() && h.max(w) > affine::LARGEST {
            let most = affine::LARGEST;
            return usage(format!("rotate or scale for images of {h}x{w}, expected at most {most}x{most}"));
        }
        let least = h.min(w);
        let (what, found) = match *self {
            Self { shift, .. } if shift >= least => ("shift", shift),
            Self { cutout, .. } if cutout > least => ("cutout", cutout),
            _ => return Ok(()),
        };
        let most = if what == "shift" { least - 1 } else { least };
        usage(format!("a {what} of {found}, expected at most {most} for images of {h}x{w}"))
    }

    /// What happens to image `k` of the batch of update `step`. `shaders/gather.wgsl` draws the same.
    pub fn draw(&self, seed: u64, step: u64, k: usize, [_, h, w]: [usize; 3]) -> Drawn {
        let words = Philox::of_image(seed, Stream::Augment, step, k);
        // The upper half of a word, which is below 2^16, in 0..count.
        let below = |word: u32, count: usize| ((word >> 16) as usize * count) >> 16;
        let levels = |of: Stream| {
            let [one, other, ..] = Philox::of_image(seed, of, step, k);
            [one, other].map(|word| below(word, LEVELS))
        };
        Drawn {
            shift: [below(words[0], 2 * self.shift + 1), below(words[1], 2 * self.shift + 1)],
            flipped: self.flip && words[2] >> 31 == 1,
            centre: [below(words[3], h), below(words[3] << 16, w)],
            affine: levels(Stream::Affine),
            tone: levels(Stream::Tone),
        }
    }

    /// The image that `image [channels, h, w]` becomes; `table` is [`Self::table`].
    pub fn apply(&self, table: &AugmentTable, drawn: &Drawn, shape: [usize; 3], image: &[u8], to: &mut [u8]) {
        let [_, h, w] = shape;
        if self.is_affine() {
            let matrix = affine::matrix(table.turns[drawn.affine[0]], ONE + part(table.scale, drawn.affine[1]));
            let shift = drawn.shift.map(|moved| moved as i32 - self.shift as i32);
            affine::resample(self, (matrix, shift, drawn.flipped), shape, image, to);
        } else {
            self.shifted(drawn, [h, w], image, to);
        }
        if self.is_toned() {
            let [brightness, contrast] = [table.brightness, table.contrast];
            let (bright, steep) = (part(brightness, drawn.tone[0]), ONE + part(contrast, drawn.tone[1]));
            let toned: [u8; 256] = std::array::from_fn(|v| tone(v as i32, bright, steep));
            to.iter_mut().for_each(|v| *v = toned[usize::from(*v)]);
        }
        let half = self.cutout / 2;
        let cut = |centre: usize, size: usize| centre.saturating_sub(half)..(centre + self.cutout - half).min(size);
        for to in to.chunks_mut(h * w) {
            cut(drawn.centre[0], h).for_each(|i| to[i * w..][..w][cut(drawn.centre[1], w)].fill(GREY));
        }
    }

    /// Moves and mirrors.
    fn shifted(&self, drawn: &Drawn, [h, w]: [usize; 2], image: &[u8], to: &mut [u8]) {
        for (from, to) in image.chunks(h * w).zip(to.chunks_mut(h * w)) {
            for (i, to) in to.chunks_mut(w).enumerate() {
                let Some(row) = self.place(i + drawn.shift[0], h) else {
                    to.fill(0);
                    continue;
                };
                let from = &from[row * w..][..w];
                for (j, to) in to.iter_mut().enumerate() {
                    let column = if drawn.flipped { w - 1 - j } else { j };
                    *to = self.place(column + drawn.shift[1], w).map_or(0, |column| from[column]);
                }
            }
        }
    }

    /// Where in `0..size` the pixel `at - shift` is taken from.
    fn place(&self, at: usize, size: usize) -> Option<usize> {
        match at.checked_sub(self.shift) {
            Some(at) if at < size => Some(at),
            _ if self.border == Border::Zero => None,
            Some(at) => Some(2 * (size - 1) - at),
            None => Some(self.shift - at),
        }
    }
}

/// What a pixel becomes; brightness and contrast are in 2^-14.
fn tone(v: i32, brightness: i32, contrast: i32) -> u8 {
    // The half is for rounding.
    let sum = (v - 128) * contrast + 128 * ONE + brightness + ONE / 2;
    (sum >> 14).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: [u8; 6] = [1, 2, 3, 4, 5, 6];

    fn applied(augment: Augment, drawn: Drawn) -> [u8; 6] {
        let mut to = [9; 6];
        augment.apply(&augment.table(), &drawn, [1, 2, 3], &IMAGE, &mut to);
        to
    }

    #[test]
    fn pixels_go_where_the_page_says() {
        let still = Drawn { shift: [1, 1], flipped: false, centre: [0, 0], affine: [0; 2], tone: [0; 2] };
        let of = |border| Augment { shift: 1, border, ..Augment::NONE };
        assert_eq!(applied(of(Border::Zero), still), IMAGE);
        let up_left = Drawn { shift: [2, 2], ..still };
        assert_eq!(applied(of(Border::Zero), up_left), [5, 6, 0, 0, 0, 0]);
        assert_eq!(applied(of(Border::Reflect), up_left), [5, 6, 5, 2, 3, 2]);
        let down_right = Drawn { shift: [0, 0], ..still };
        assert_eq!(applied(of(Border::Zero), down_right), [0, 0, 0, 0, 1, 2]);
        assert_eq!(applied(of(Border::Reflect), down_right), [5, 4, 5, 2, 1, 2]);
        let flipped = Drawn { shift: [0, 0], flipped: true, ..still };
        assert_eq!(applied(Augment { flip: true, ..Augment::NONE }, flipped), [3, 2, 1, 6, 5, 4]);
        let cut = Augment { cutout: 2, ..Augment::NONE };
        let centre = Drawn { shift: [0, 0], centre: [1, 2], ..still };
        assert_eq!(applied(cut, centre), [1, GREY, GREY, 4, GREY, GREY]);
        let corner = Drawn { centre: [0, 0], ..centre };
        assert_eq!(applied(cut, corner), [GREY, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn every_shift_and_both_directions_come_up_and_nothing_else() {
        let augment = Augment { shift: 2, flip: true, cutout: 1, ..Augment::NONE };
        let drawn: Vec<Drawn> = (0..2000).map(|k| augment.draw(3, 7, k, [1, 5, 4])).collect();
        for axis in 0..2 {
            let mut counts = [0; 5];
            drawn.iter().for_each(|drawn| counts[drawn.shift[axis]] += 1);
            assert!(counts.iter().all(|count| (330..470).contains(count)), "{counts:?}");
            assert!((0..[5, 4][axis]).all(|at| drawn.iter().any(|drawn| drawn.centre[axis] == at)));
            assert!(drawn.iter().all(|drawn| drawn.centre[axis] < [5, 4][axis]));
        }
        let flipped = drawn.iter().filter(|drawn| drawn.flipped).count();
        assert!((900..1100).contains(&flipped), "{flipped}");
        assert_eq!(drawn[5], augment.draw(3, 7, 5, [1, 5, 4]));
        assert_ne!(drawn[..50], (0..50).map(|k| augment.draw(3, 8, k, [1, 5, 4])).collect::<Vec<_>>());
        assert_ne!(drawn[..50], (0..50).map(|k| augment.draw(4, 7, k, [1, 5, 4])).collect::<Vec<_>>());
    }

    /// Catches a level that never comes up, and two draws that go together.
    #[test]
    fn every_level_comes_up_by_itself() {
        let augment = Augment { rotate: 30.0, scale: 0.1, brightness: 0.2, contrast: 0.3, ..Augment::NONE };
        let drawn: Vec<Drawn> = (0..20_000).map(|k| augment.draw(3, 7, k, [1, 5, 4])).collect();
        let levels: Vec<[usize; 4]> = drawn.iter().map(|d| [d.affine[0], d.affine[1], d.tone[0], d.tone[1]]).collect();
        for which in 0..4 {
            let mut counts = [0; LEVELS];
            levels.iter().for_each(|levels| counts[levels[which]] += 1);
            assert!(counts.iter().all(|count| (30..140).contains(count)), "{which}: {counts:?}");
            for other in 0..which {
                let product = |levels: &[usize; 4]| level(levels[which]) * level(levels[other]);
                let mean = levels.iter().map(product).sum::<f64>() / levels.len() as f64;
                assert!(mean.abs() < 0.02, "{which}, {other}: {mean}");
            }
        }
        let AugmentTable { turns, scale, brightness, contrast } = augment.table();
        let angle = |turn: [i32; 2]| f64::from(turn[1]).atan2(turn[0].into()).to_degrees();
        assert!((angle(turns[0]) + 30.0).abs() < 0.01 && (angle(turns[255]) - 30.0).abs() < 0.01);
        assert_eq!([part(scale, 0), part(scale, 255), part(contrast, 255)], [-1638, 1638, 4915]);
        assert_eq!([part(brightness, 0), part(brightness, 255)], [-51 * ONE, 51 * ONE]);
    }

    #[test]
    fn tones_are_as_the_page_says() {
        let of = |v, brightness, contrast| tone(v, brightness * ONE, contrast * ONE);
        assert_eq!([0, 7, 255].map(|v| of(v, 0, 1)), [0, 7, 255]);
        assert_eq!([0, 100, 250].map(|v| of(v, 20, 1)), [20, 120, 255]);
        assert_eq!([0, 100, 128, 150].map(|v| of(v, 0, 2)), [0, 72, 128, 172]);
        assert_eq!([0, 255].map(|v| of(v, -10, 0)), [118, 118]);
        // Cut out pixels stay grey, and black ones beyond the edge do not stay black.
        let augment = Augment { shift: 1, cutout: 1, brightness: 1.0, ..Augment::NONE };
        let drawn = Drawn { shift: [2, 1], flipped: false, centre: [0, 1], affine: [0; 2], tone: [255, 0] };
        assert_eq!(applied(augment, drawn), [255, GREY, 255, 255, 255, 255]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Augment::CIFAR.check([3, 5, 9]).is_ok());
        let message = Augment::CIFAR.check([3, 9, 4]).unwrap_err().to_string();
        assert_eq!(message, "--augment: found a shift of 4, expected at most 3 for images of 9x4");
        assert!(Augment { cutout: 5, ..Augment::NONE }.check([3, 9, 4]).is_err());
        let refused = |augment: Augment| augment.check([1, 9, 5000]).unwrap_err().to_string();
        let message = refused(Augment { rotate: 181.0, ..Augment::NONE });
        assert_eq!(message, "--augment: found a rotate of 181, expected a number from 0 to 180");
        for bad in [0.6, -0.1, f64::NAN] {
            assert!(refused(Augment { scale: bad, ..Augment::NONE }).contains("scale"), "{bad}");
        }
        assert!(refused(Augment { contrast: 1.1, ..Augment::NONE }).contains("contrast of 1.1"));
        assert!(refused(Augment { brightness: 1.1, ..Augment::NONE }).contains("brightness of 1.1"));
        assert!(refused(Augment { scale: 0.5, ..Augment::NONE }).contains("9x5000, expected at most 4096x4096"));
        assert!(Augment { contrast: 1.0, ..Augment::NONE }.check([1, 9, 5000]).is_ok());
        assert!(Augment::parse("heavy").unwrap_err().to_string().contains("none, light, cifar"));
    }
}
