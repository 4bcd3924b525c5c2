//! The convolution as its formula says: seven loops, over images, channels, rows, columns and taps, the columns
//! innermost. Only the images or the output channels, which share nothing, are spread over the threads, so these change
//! no bit.

use rayon::prelude::*;

use super::Conv2d;
use crate::real::Real;

/// Calls `each(tap, output row's first and last position, input position of the first)` for every row of output channel
/// `o` of an image and every tap, as far as the windows' taps fall inside the image. Taps in the padding are left out:
/// they are zeros.
fn for_each_row(d: &Conv2d, o: usize, mut each: impl FnMut(usize, std::ops::Range<usize>, usize)) {
    let [_, h, w] = d.input;
    let [rows, columns] = d.output_plane();
    let [inputs, outputs] = d.channels_of_group();
    for c in 0..inputs {
        let channel = o / outputs * inputs + c;
        for p in 0..d.kernel[0] {
            for q in 0..d.kernel[1] {
                let tap = (c * d.kernel[0] + p) * d.kernel[1] + q;
                let [down, right] = [p * d.dilation[0], q * d.dilation[1]];
                // The columns j whose tap is inside: 0 <= j * stride + right - padding < w.
                let first = d.padding[1].saturating_sub(right).div_ceil(d.stride[1]);
                let end = (w + d.padding[1]).saturating_sub(right).div_ceil(d.stride[1]).min(columns);
                for i in 0..rows {
                    let row = i * d.stride[0] + down;
                    let inside = (d.padding[0]..d.padding[0] + h).contains(&row) && first < end;
                    if inside {
                        let row = (channel * h + row - d.padding[0]) * w;
                        let from = row + first * d.stride[1] + right - d.padding[1];
                        each(tap, i * columns + first..i * columns + end, from);
                    }
                }
            }
        }
    }
}

/// `x [n, c_in, h, w]`, `w [c_out, c_in / groups, kh, kw]`, `b [c_out]` to `y [n, c_out, rows, columns]`.
pub fn forward<T: Real>(d: &Conv2d, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
    let positions = d.output_len() / d.c_out;
    x.par_chunks(d.input_len()).zip(y.par_chunks_mut(d.output_len())).for_each(|(x, y)| {
        for (o, ((y, w), &b)) in y.chunks_mut(positions).zip(w.chunks(d.fan_in())).zip(b).enumerate() {
            y.fill(b);
            for_each_row(d, o, |tap, to, from| {
                let (y, x) = (&mut y[to], &x[from..]);
                match d.stride[1] {
                    1 => y.iter_mut().zip(x).for_each(|(y, &x)| *y += w[tap] * x),
                    step => y.iter_mut().zip(x.iter().step_by(step)).for_each(|(y, &x)| *y += w[tap] * x),
                }
            });
        }
    });
}

/// `dy [n, c_out, rows, columns]`, `w` to `dx [n, c_in, h, w]`.
pub fn backward_input<T: Real>(d: &Conv2d, dy: &[T], w: &[T], dx: &mut [T]) {
    let positions = d.output_len() / d.c_out;
    dy.par_chunks(d.output_len()).zip(dx.par_chunks_mut(d.input_len())).for_each(|(dy, dx)| {
        dx.fill(T::zero());
        for (o, (dy, w)) in dy.chunks(positions).zip(w.chunks(d.fan_in())).enumerate() {
            for_each_row(d, o, |tap, from, to| {
                let (dx, dy) = (&mut dx[to..], &dy[from]);
                match d.stride[1] {
                    1 => dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += w[tap] * dy),
                    step => dx.iter_mut().step_by(step).zip(dy).for_each(|(dx, &dy)| *dx += w[tap] * dy),
                }
            });
        }
    });
}

/// `x`, `dy` to `dw [c_out, c_in / groups, kh, kw]` and `db [c_out]`, summed over the batch, image after image.
pub fn backward_weight<T: Real>(d: &Conv2d, x: &[T], dy: &[T], dw: &mut [T], db: &mut [T]) {
    let positions = d.output_len() / d.c_out;
    dw.par_chunks_mut(d.fan_in()).zip(db).enumerate().for_each(|(o, (dw, db))| {
        dw.fill(T::zero());
        *db = T::zero();
        for (x, dy) in x.chunks(d.input_len()).zip(dy.chunks(d.output_len())) {
            let dy = &dy[o * positions..][..positions];
            *db += dy.iter().copied().sum();
            for_each_row(d, o, |tap, at, from| {
                let (dy, x) = (&dy[at], &x[from..]);
                dw[tap] += match d.stride[1] {
                    1 => dy.iter().zip(x).map(|(&dy, &x)| dy * x).sum(),
                    step => dy.iter().zip(x.iter().step_by(step)).map(|(&dy, &x)| dy * x).sum(),
                };
            });
        }
    });
}
