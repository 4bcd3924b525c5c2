//! For whoever trains on few pictures: what is changed of each training image, anew in each update.
//!
//! What is drawn is a pure function of the run's seed, the update and the image's place in its batch: the same on every
//! device, and in a run that goes on. Pixels are moved as bytes, before they are normalised:
//!
//! ```text
//! shift    output (i, j) is input (i + a, j + b), a and b each from -shift to shift; outside black, or reflected
//! flip     left and right change places, half the time
//! cutout   a square of so many pixels around any pixel is grey (DeVries and Taylor 2017)
//! ```
//!
//! Off by default: a shifted digit is the same digit, but a flipped 2 is none.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::rng::Philox;
use crate::{Error, Result, parse};

/// What a cut out pixel is.
pub const GREY: u8 = 128;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// What happens to one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Rows and columns that it moves by, `shift` being none.
    shift: [usize; 2],
    flipped: bool,
    /// The middle of what is cut out.
    centre: [usize; 2],
}

impl Augment {
    /// Nothing.
    pub const NONE: Self = Self { shift: 0, border: Border::Zero, flip: false, cutout: 0 };
    /// Shifts of up to two pixels: for digits.
    pub const LIGHT: Self = Self { shift: 2, ..Self::NONE };
    /// Shifts of up to four pixels, and mirrored images: what He et al. 2015 do on CIFAR-10.
    pub const CIFAR: Self = Self { shift: 4, flip: true, ..Self::NONE };

    /// Whether nothing is changed.
    pub fn is_none(&self) -> bool {
        let Self { shift, flip, cutout, .. } = *self;
        shift == 0 && !flip && cutout == 0
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

    /// Refuses what does not fit images of this shape.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self, [_, h, w]: [usize; 3]) -> Result<()> {
        let least = h.min(w);
        let (what, found) = match *self {
            Self { shift, .. } if shift >= least => ("shift", shift),
            Self { cutout, .. } if cutout > least => ("cutout", cutout),
            _ => return Ok(()),
        };
        let most = if what == "shift" { least - 1 } else { least };
        Err(Error::Usage(format!(
            "--augment: found a {what} of {found}, expected at most {most} for images of {h}x{w}"
        )))
    }

    /// What happens to image `k` of the batch of update `step`. `shaders/gather.wgsl` draws the same.
    pub fn draw(&self, seed: u64, step: u64, k: usize, [_, h, w]: [usize; 3]) -> Drawn {
        let words = Philox::of_update(seed, step, k);
        // The upper half of a word, which is below 2^16, in 0..count.
        let below = |word: u32, count: usize| ((word >> 16) as usize * count) >> 16;
        Drawn {
            shift: [below(words[0], 2 * self.shift + 1), below(words[1], 2 * self.shift + 1)],
            flipped: self.flip && words[2] >> 31 == 1,
            centre: [below(words[3], h), below(words[3] << 16, w)],
        }
    }

    /// The image that `image [channels, h, w]` becomes.
    pub fn apply(&self, drawn: &Drawn, shape: [usize; 3], image: &[u8], to: &mut [u8]) {
        let [_, h, w] = shape;
        let half = self.cutout / 2;
        let cut = |at: usize, centre: usize| at + half >= centre && at + half < centre + self.cutout;
        for (from, to) in image.chunks(h * w).zip(to.chunks_mut(h * w)) {
            for i in 0..h {
                for j in 0..w {
                    let column = if drawn.flipped { w - 1 - j } else { j };
                    let place = self.place(i + drawn.shift[0], h).zip(self.place(column + drawn.shift[1], w));
                    to[i * w + j] = match place {
                        _ if cut(i, drawn.centre[0]) && cut(j, drawn.centre[1]) => GREY,
                        Some((row, column)) => from[row * w + column],
                        None => 0,
                    };
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

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: [u8; 6] = [1, 2, 3, 4, 5, 6];

    fn applied(augment: Augment, drawn: Drawn) -> [u8; 6] {
        let mut to = [9; 6];
        augment.apply(&drawn, [1, 2, 3], &IMAGE, &mut to);
        to
    }

    #[test]
    fn pixels_go_where_the_page_says() {
        let still = Drawn { shift: [1, 1], flipped: false, centre: [0, 0] };
        let of = |border| Augment { shift: 1, border, ..Augment::NONE };
        assert_eq!(applied(of(Border::Zero), still), IMAGE);
        let up_left = Drawn { shift: [2, 2], ..still };
        assert_eq!(applied(of(Border::Zero), up_left), [5, 6, 0, 0, 0, 0]);
        assert_eq!(applied(of(Border::Reflect), up_left), [5, 6, 5, 2, 3, 2]);
        let down_right = Drawn { shift: [0, 0], ..still };
        assert_eq!(applied(of(Border::Zero), down_right), [0, 0, 0, 0, 1, 2]);
        assert_eq!(applied(of(Border::Reflect), down_right), [5, 4, 5, 2, 1, 2]);
        let flipped = Drawn { shift: [0, 0], flipped: true, centre: [0, 0] };
        assert_eq!(applied(Augment { flip: true, ..Augment::NONE }, flipped), [3, 2, 1, 6, 5, 4]);
        let cut = Augment { cutout: 2, ..Augment::NONE };
        let centre = Drawn { shift: [0, 0], flipped: false, centre: [1, 2] };
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

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Augment::CIFAR.check([3, 5, 9]).is_ok());
        let message = Augment::CIFAR.check([3, 9, 4]).unwrap_err().to_string();
        assert_eq!(message, "--augment: found a shift of 4, expected at most 3 for images of 9x4");
        assert!(Augment { cutout: 5, ..Augment::NONE }.check([3, 9, 4]).is_err());
        assert!(Augment::parse("heavy").unwrap_err().to_string().contains("none, light, cifar"));
    }
}
