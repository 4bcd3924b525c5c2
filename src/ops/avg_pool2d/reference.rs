//! The pooling as its formula says.

use super::AvgPool2d;
use crate::real::Real;

impl AvgPool2d {
    /// Calls `each(output position, input position)` for every element of every window of an image's plane.
    fn for_each(&self, mut each: impl FnMut(usize, usize)) {
        let ([rows, columns], [_, _, w]) = (self.output, self.input);
        for i in 0..rows {
            for j in 0..columns {
                for p in 0..self.kernel[0] {
                    for q in 0..self.kernel[1] {
                        each(i * columns + j, (i * self.stride[0] + p) * w + j * self.stride[1] + q);
                    }
                }
            }
        }
    }

    fn planes(&self) -> [usize; 2] {
        [self.input[1] * self.input[2], self.output.iter().product()]
    }

    /// Elements of a window.
    pub fn window(&self) -> usize {
        self.kernel.iter().product()
    }
}

/// `x [n, channels, h, w]` to `y [n, channels, rows, columns]`.
pub fn forward<T: Real>(d: &AvgPool2d, x: &[T], y: &mut [T]) {
    let [input, output] = d.planes();
    let k = T::of(d.window() as f64);
    for (x, y) in x.chunks(input).zip(y.chunks_mut(output)) {
        y.fill(T::zero());
        d.for_each(|to, from| y[to] += x[from]);
        y.iter_mut().for_each(|y| *y /= k);
    }
}

/// `dy [n, channels, rows, columns]` to `dx [n, channels, h, w]`.
pub fn backward<T: Real>(d: &AvgPool2d, dy: &[T], dx: &mut [T]) {
    let [input, output] = d.planes();
    let k = T::of(d.window() as f64);
    for (dx, dy) in dx.chunks_mut(input).zip(dy.chunks(output)) {
        dx.fill(T::zero());
        d.for_each(|from, to| dx[to] += dy[from]);
        dx.iter_mut().for_each(|dx| *dx /= k);
    }
}
