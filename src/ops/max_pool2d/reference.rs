//! The pooling as its formula says.

use super::MaxPool2d;
use crate::real::Real;

/// `x [n, channels, h, w]` to `y` and `argmax`, both `[n, channels, rows, columns]`; an argmax is `row * w + column` in
/// its plane. A NaN wins its window, as in PyTorch.
pub fn forward<T: Real>(d: &MaxPool2d, x: &[T], y: &mut [T], argmax: &mut [u32]) {
    let [_, h, w] = d.input;
    let [rows, columns] = d.output_plane();
    for at in 0..y.len() {
        let (plane, i, j) = (at / (rows * columns), at / columns % rows, at % columns);
        let x = &x[plane * h * w..][..h * w];
        let taps = (0..d.kernel[0]).flat_map(|p| (0..d.kernel[1]).map(move |q| (p, q)));
        // Taps in the padding are left out: they are -infinity.
        let inside = |at: usize, axis: usize| at.checked_sub(d.padding[axis]).filter(|&at| at < d.input[axis + 1]);
        let places =
            taps.filter_map(|(p, q)| Some(inside(i * d.stride[0] + p, 0)? * w + inside(j * d.stride[1] + q, 1)?));
        let larger = |best: usize, next: usize| {
            let wins = !x[best].is_nan() && (x[next] > x[best] || x[next].is_nan());
            if wins { next } else { best }
        };
        let best = places.reduce(larger).expect("a window has an element of the image");
        (y[at], argmax[at]) = (x[best], best as u32);
    }
}

/// `argmax`, `dy [n, channels, rows, columns]` to `dx [n, channels, h, w]`.
pub fn backward<T: Real>(d: &MaxPool2d, argmax: &[u32], dy: &[T], dx: &mut [T]) {
    let plane = d.input[1] * d.input[2];
    let windows = d.output_len() / d.input[0];
    dx.fill(T::zero());
    for (at, (&dy, &winner)) in dy.iter().zip(argmax).enumerate() {
        dx[at / windows * plane + winner as usize] += dy;
    }
}
