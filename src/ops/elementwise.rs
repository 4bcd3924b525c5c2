//! Layers that give each element a function of itself, on the fast CPU path: in whatever way their tensors lie, in
//! loops that the compiler turns into vectors.

use rayon::prelude::*;

use crate::layer::{ImageLayout, Mode, Node, NodeBatch, NodeGradients, Shape};
use crate::real::Real;

/// A function of a number. Both parts are to be without branches, and to give 0 for 0: a pixel's channels are
/// followed by zeros, which stay what they are.
pub trait Pointwise<T>: Copy + Send + Sync + 'static {
    /// Its value.
    fn value(self, x: T) -> T;
    /// The gradient of `x`, where `dy` is that of the value.
    fn gradient(self, x: T, dy: T) -> T;
}

/// The layer, on a machine with so many values in a vector.
pub struct Elementwise<C> {
    /// The function.
    pub function: C,
    /// Of an image.
    pub shape: Shape,
    /// Values in a vector.
    pub lanes: usize,
}

/// ln 2 without 355 / 512, to more digits than ln 2 has as a number of its own.
const LOW: f64 = -2.121_944_400_546_905_8e-4;

/// Elements that a task computes at least.
const AT_LEAST: usize = 1 << 13;

impl<T: Real, C: Pointwise<T>> Node<T> for Elementwise<C> {
    fn prefers(&self) -> Option<ImageLayout> {
        let dims = self.shape.image().ok()?;
        Some(ImageLayout::pixels(dims, [0, 0], dims[0].next_multiple_of(self.lanes), 0))
    }

    fn give(&mut self, _layout: &ImageLayout) -> bool {
        true
    }

    fn forward(&mut self, batch: NodeBatch<T>, _mode: Mode, _buffers: &mut [&mut [T]], y: &mut [T]) {
        let NodeBatch { arch, from, to, x, .. } = batch;
        let (function, images) = (self.function, AT_LEAST.div_ceil(from.len.max(1)));
        let tasks = y.par_chunks_mut(to.len * images).zip(x.par_chunks(from.len * images));
        tasks.for_each(|(y, x)| {
            let run = |y: &mut [T], x: &[T]| {
                arch.dispatch(
                    #[inline(always)]
                    || y.iter_mut().zip(x).for_each(|(y, &x)| *y = function.value(x)),
                );
            };
            match Runs::of(&from, &to) {
                Runs::All => run(y, x),
                Runs::Rows(len) => y.chunks_mut(to.len).zip(x.chunks(from.len)).for_each(|(y, x)| {
                    (0..from.dims[1]).for_each(|i| run(&mut y[to.at(0, i, 0)..][..len], &x[from.at(0, i, 0)..][..len]));
                }),
                Runs::Elements => y.chunks_mut(to.len).zip(x.chunks(from.len)).for_each(|(y, x)| {
                    from.for_each(|[c, i, j], at| y[to.at(c, i, j)] = function.value(x[at]));
                }),
            }
        });
    }

    fn backward(&self, batch: NodeBatch<T>, _y: &[T], dy: &[T], NodeGradients { dx, .. }: NodeGradients<T>) {
        let (NodeBatch { arch, from, to, x, .. }, Some(dx)) = (batch, dx) else { return };
        let (function, images) = (self.function, AT_LEAST.div_ceil(from.len.max(1)));
        let tasks = dx.par_chunks_mut(from.len * images).zip(x.par_chunks(from.len * images));
        tasks.zip(dy.par_chunks(to.len * images)).for_each(|((dx, x), dy)| {
            let run = |dx: &mut [T], x: &[T], dy: &[T]| {
                arch.dispatch(
                    #[inline(always)]
                    || dx.iter_mut().zip(x.iter().zip(dy)).for_each(|(dx, (&x, &dy))| *dx = function.gradient(x, dy)),
                );
            };
            let images = || x.chunks(from.len).zip(dy.chunks(to.len));
            match Runs::of(&from, &to) {
                Runs::All => run(dx, x, dy),
                Runs::Rows(len) => dx.chunks_mut(from.len).zip(images()).for_each(|(dx, (x, dy))| {
                    for i in 0..from.dims[1] {
                        let at = from.at(0, i, 0);
                        run(&mut dx[at..][..len], &x[at..][..len], &dy[to.at(0, i, 0)..][..len]);
                    }
                }),
                Runs::Elements => dx.chunks_mut(from.len).zip(images()).for_each(|(dx, (x, dy))| {
                    from.for_each(|[c, i, j], at| dx[at] = function.gradient(x[at], dy[to.at(c, i, j)]));
                }),
            }
        });
    }
}

/// What lies side by side in both tensors.
enum Runs {
    /// Everything.
    All,
    /// A row of so many numbers: borders are left as they are.
    Rows(usize),
    /// Nothing.
    Elements,
}

impl Runs {
    fn of(from: &ImageLayout, to: &ImageLayout) -> Self {
        if from.is_planes() && to.is_planes() {
            return Self::All;
        }
        let pixels = [from, to].iter().all(|layout| layout.channel_stride == 1);
        match pixels && from.column_stride == to.column_stride {
            true => Self::Rows(from.dims[2] * from.column_stride),
            false => Self::Elements,
        }
    }
}

/// `exp(x)` within two units in the last place, in steps that the compiler turns into vectors: `2^n exp(r)` with a
/// whole n and |r| <= ln 2 / 2, and the Taylor series of exp(r), whose first term that is left out is below half a
/// unit. A power of two beyond what a number holds comes in two halves, so that the ends are infinity, and 0 by way
/// of subnormal numbers.
#[inline(always)]
pub fn exp<T: Real>(x: T) -> T {
    let (terms, most) = if size_of::<T>() == 4 { (7, T::of(120.0)) } else { (13, T::of(800.0)) };
    // A NaN stays one.
    let x = if x > most { most } else { x };
    let x = if x < -most { -most } else { x };
    let n = (x * T::of(std::f64::consts::LOG2_E)).nearest_whole();
    // ln 2 in two parts; the first has so few digits that its product with n is exact.
    let high = T::of(355.0 / 512.0);
    let r = x - n * high - n * T::of(LOW);
    let mut sum = T::one();
    for k in (1..=terms).rev() {
        sum = T::one() + sum * r * T::of(1.0 / f64::from(k));
    }
    let half = (n * T::of(0.5)).nearest_whole();
    sum * half.power_of_two() * (n - half).power_of_two()
}

/// `1 / (1 + exp(-x))`, likewise.
#[inline(always)]
pub fn sigmoid<T: Real>(x: T) -> T {
    T::one() / (T::one() + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a wrong term, a wrong end of the range, and a NaN that is lost.
    #[test]
    fn exp_is_right_to_two_units_everywhere() {
        fn of<T: Real>(steps: i32, most: f64) {
            for i in -steps..=steps {
                let x = T::of(most * f64::from(i) / f64::from(steps));
                let (found, expected) = (exp(x).wide(), x.wide().exp());
                let unit = (expected * T::epsilon().wide()).max(T::min_positive_value().wide() * T::epsilon().wide());
                assert!((found - expected).abs() <= 2.0 * unit, "exp({x:?}) is {found:e}, not {expected:e}");
            }
            assert_eq!(exp(T::infinity()), T::infinity());
            assert_eq!([exp(T::neg_infinity()), exp(T::zero())], [T::zero(), T::one()]);
            assert!(exp(T::nan()).is_nan());
        }
        of::<f32>(100_003, 88.0);
        of::<f32>(10_007, 0.5);
        of::<f64>(100_003, 709.0);
        assert_eq!([exp(-110f32), exp(90f32)], [0.0, f32::INFINITY]);
    }
}
