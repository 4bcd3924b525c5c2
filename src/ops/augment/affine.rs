//! Rotation and scale: one resample, in whole numbers, so that every device gives the same bytes.
//!
//! ```text
//! (v, u) = (b x + a y, a x - b y)    x, y: from the middle, in half pixels; a, b = cos, sin of the angle / factor
//! value  = the four pixels around (v, u), each by how near it is
//! ```
//!
//! `a` and `b` are in 2^-14, places in 2^-15 pixels, weights in 2^-8; the sum is rounded once, to a byte. A positive
//! angle turns against the clock.

use super::{Augment, Border, LEVELS, ONE, level};

/// Images that are turned or scaled are at most so wide and high: their places then fit 32 bits.
pub const LARGEST: usize = 4096;

/// Cosine and sine of each level's angle, up to `degrees` either way.
pub fn turns(degrees: f64) -> Vec<[i32; 2]> {
    let angle = |k: usize| degrees.to_radians() * level(k);
    let turn = |k: usize| [libm::cos(angle(k)), libm::sin(angle(k))].map(|v| (v * f64::from(ONE)).round() as i32);
    (0..LEVELS).map(turn).collect()
}

/// `a` and `b` for an angle's cosine and sine and a factor, all in 2^-14.
pub fn matrix([cos, sin]: [i32; 2], factor: i32) -> [i32; 2] {
    let inverse = ONE * ONE / factor;
    [cos, sin].map(|v| (v * inverse) >> 14)
}

/// Fills `to` with the resampled `image`, both `[channels, h, w]`; `shift` and `flipped` are as [`super::Drawn`] has
/// them.
pub fn resample(
    augment: &Augment,
    ([a, b], shift, flipped): ([i32; 2], [i32; 2], bool),
    [_, h, w]: [usize; 3],
    image: &[u8],
    to: &mut [u8],
) {
    let (plane, [rows, columns]) = (h * w, [h, w].map(|size| size as i32));
    let place = |at: i32, size: i32| match at {
        _ if (0..size).contains(&at) => Some(at as usize),
        _ if augment.border == Border::Zero => None,
        _ => Some(reflected(at, size) as usize),
    };
    for i in 0..h {
        let y = 2 * (i as i32 + shift[0]) - (rows - 1);
        for j in 0..w {
            let column = if flipped { columns - 1 - j as i32 } else { j as i32 };
            let x = 2 * (column + shift[1]) - (columns - 1);
            // 64 is half of the least weight.
            let v = b * x + a * y + (rows - 1) * ONE + 64;
            let u = a * x - b * y + (columns - 1) * ONE + 64;
            let [below, right] = [v, u].map(|at| (at >> 7 & 255) as u32);
            let [top, left] = [v >> 15, u >> 15];
            let weights = [(256 - below) * (256 - right), (256 - below) * right, below * (256 - right), below * right];
            if top >= 0 && left >= 0 && top + 1 < rows && left + 1 < columns {
                let at = top as usize * w + left as usize;
                for (from, to) in image.chunks_exact(plane).zip(to.chunks_exact_mut(plane)) {
                    let [upper, lower] = [&from[at..at + 2], &from[at + w..at + w + 2]];
                    to[i * w + j] = mean(weights, [upper[0], upper[1], lower[0], lower[1]]);
                }
            } else {
                let corners = [(top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)];
                let places = corners.map(|(row, column)| {
                    place(row, rows).zip(place(column, columns)).map(|(row, column)| row * w + column)
                });
                for (from, to) in image.chunks_exact(plane).zip(to.chunks_exact_mut(plane)) {
                    to[i * w + j] = mean(weights, places.map(|place| place.map_or(0, |at| from[at])));
                }
            }
        }
    }
}

/// The mean of four bytes, whose weights are 2^16 together.
fn mean(weights: [u32; 4], bytes: [u8; 4]) -> u8 {
    let sum: u32 = weights.into_iter().zip(bytes).map(|(weight, byte)| weight * u32::from(byte)).sum();
    ((sum + (1 << 15)) >> 16) as u8
}

/// The pixel of `0..size` that a place beyond the edges shows, mirrored at the outermost pixels as often as it takes.
fn reflected(at: i32, size: i32) -> i32 {
    let period = 2 * (size - 1);
    if period == 0 {
        return 0;
    }
    let at = at.rem_euclid(period);
    if at < size { at } else { period - at }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3x4, each pixel by its row and column.
    const IMAGE: [u8; 12] = [10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 33];

    fn of(border: Border, matrix: [i32; 2], image: &[u8], shape: [usize; 3]) -> Vec<u8> {
        let mut to = vec![9; image.len()];
        resample(&Augment { border, ..Augment::NONE }, (matrix, [0, 0], false), shape, image, &mut to);
        to
    }

    #[test]
    fn quarter_turns_and_factors_go_where_the_page_says() {
        assert_eq!(of(Border::Zero, [ONE, 0], &IMAGE, [1, 3, 4]), IMAGE);
        // A quarter against the clock: the right column becomes the top row.
        let square = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(of(Border::Zero, [0, ONE], &square, [1, 3, 3]), [3, 6, 9, 2, 5, 8, 1, 4, 7]);
        assert_eq!(of(Border::Zero, [-ONE, 0], &square, [1, 3, 3]), [9, 8, 7, 6, 5, 4, 3, 2, 1]);
        // Twice as large: half way between pixels; half as large: beyond the edges.
        let large = of(Border::Zero, matrix([ONE, 0], 2 * ONE), &[0, 0, 0, 0, 200, 0, 0, 0, 0], [1, 3, 3]);
        assert_eq!(large, [50, 100, 50, 100, 200, 100, 50, 100, 50]);
        let small = matrix([ONE, 0], ONE / 2);
        assert_eq!(of(Border::Zero, small, &square, [1, 3, 3]), [0, 0, 0, 0, 5, 0, 0, 0, 0]);
        assert_eq!(of(Border::Reflect, small, &square, [1, 3, 3]), [5; 9]);
        assert_eq!((-4..7).map(|at| reflected(at, 3)).collect::<Vec<_>>(), [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]);
        assert_eq!((reflected(5, 1), matrix([ONE, 0], ONE)), (0, [ONE, 0]));
    }

    /// Catches whole numbers that are too coarse: the same resample in f64.
    #[test]
    fn whole_numbers_are_as_good_as_f64() {
        let image: Vec<u8> = (0..32 * 32).map(|i| (128.0 + 100.0 * f64::from(i % 32 - i / 32).sin()) as u8).collect();
        let turn = turns(30.0)[200];
        let found = of(Border::Reflect, matrix(turn, ONE * 9 / 8), &image, [1, 32, 32]);
        let angle = 30f64.to_radians() * level(200);
        let pixel = |at: [f64; 2]| {
            f64::from(
                image[at.map(|at| reflected(at as i32, 32) as usize).map(|i| i)[0] * 32
                    + reflected(at[1] as i32, 32) as usize],
            )
        };
        for (i, &found) in found.iter().enumerate() {
            let [y, x] = [i / 32, i % 32].map(|at| at as f64 - 15.5);
            let [v, u] =
                [angle.sin() * x + angle.cos() * y, angle.cos() * x - angle.sin() * y].map(|at| at / 1.125 + 15.5);
            let [below, right] = [v - v.floor(), u - u.floor()];
            let row = |v: f64| pixel([v, u.floor()]) * (1.0 - right) + pixel([v, u.floor() + 1.0]) * right;
            let expected = row(v.floor()) * (1.0 - below) + row(v.floor() + 1.0) * below;
            assert!((f64::from(found) - expected).abs() < 2.0, "{i}: {found}, {expected}");
        }
    }
}
