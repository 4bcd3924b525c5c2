//! Layers that give each element a function of itself, on the fast CPU path: in whatever way their tensors lie, vector
//! by vector.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::layer::{ImageLayout, Mode, Node, NodeBatch, NodeGradients, Shape};
use crate::real::{Lanes, Real, lanes};

/// A function of a number, for a vector of them. Both parts are to give 0 for 0: a pixel's channels are followed by
/// zeros, which stay what they are.
pub trait Pointwise<T: Real>: Copy + Send + Sync + 'static {
    /// Its value.
    fn value<S: Simd>(self, x: Lanes<T, S>) -> Lanes<T, S>;
    /// The gradient of `x`, where `dy` is that of the value.
    fn gradient<S: Simd>(self, x: Lanes<T, S>, dy: Lanes<T, S>) -> Lanes<T, S>;
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
            let run = |y: &mut [T], x: &[T]| arch.dispatch(Values { function, x, y });
            match Runs::of(&from, &to) {
                Runs::All => run(y, x),
                Runs::Rows(len) => y.chunks_mut(to.len).zip(x.chunks(from.len)).for_each(|(y, x)| {
                    (0..from.dims[1]).for_each(|i| run(&mut y[to.at(0, i, 0)..][..len], &x[from.at(0, i, 0)..][..len]));
                }),
                Runs::Elements => y.chunks_mut(to.len).zip(x.chunks(from.len)).for_each(|(y, x)| {
                    from.for_each(|[c, i, j], at| run(&mut y[to.at(c, i, j)..][..1], &x[at..][..1]));
                }),
            }
        });
    }

    fn backward(&self, batch: NodeBatch<T>, _y: &[T], dy: &[T], NodeGradients { dx, .. }: NodeGradients<T>) {
        let (NodeBatch { arch, from, to, x, .. }, Some(dx)) = (batch, dx) else { return };
        let (function, images) = (self.function, AT_LEAST.div_ceil(from.len.max(1)));
        let tasks = dx.par_chunks_mut(from.len * images).zip(x.par_chunks(from.len * images));
        tasks.zip(dy.par_chunks(to.len * images)).for_each(|((dx, x), dy)| {
            let run = |dx: &mut [T], x: &[T], dy: &[T]| arch.dispatch(Slopes { function, x, dy, dx });
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
                    from.for_each(|[c, i, j], at| run(&mut dx[at..][..1], &x[at..][..1], &dy[to.at(c, i, j)..][..1]));
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

/// The values of `x`, into `y`, which is as long.
struct Values<'a, T, C> {
    function: C,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Real, C: Pointwise<T>> WithSimd for Values<'_, T, C> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { function, x, y } = self;
        assert_eq!(x.len(), y.len());
        let vectors = T::vectors_mut::<S>(y).iter_mut().zip(T::vectors::<S>(x));
        vectors.for_each(|(y, &x)| *y = function.value(Lanes::of(simd, x)).vector());
        let from = whole::<T, S>(x.len());
        if from < x.len() {
            write(&mut y[from..], function.value(filled_up(simd, &x[from..])));
        }
    }
}

/// The gradients of `x` by those of its values, into `dx`; all three are as long.
struct Slopes<'a, T, C> {
    function: C,
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Real, C: Pointwise<T>> WithSimd for Slopes<'_, T, C> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { function, x, dy, dx } = self;
        assert!(x.len() == dx.len() && dy.len() == dx.len());
        let vectors = T::vectors_mut::<S>(dx).iter_mut().zip(T::vectors::<S>(x).iter().zip(T::vectors::<S>(dy)));
        vectors.for_each(|(dx, (&x, &dy))| *dx = function.gradient(Lanes::of(simd, x), Lanes::of(simd, dy)).vector());
        let from = whole::<T, S>(x.len());
        if from < x.len() {
            let [x, dy] = [x, dy].map(|values| filled_up(simd, &values[from..]));
            write(&mut dx[from..], function.gradient(x, dy));
        }
    }
}

/// How many of `len` values are in whole vectors.
#[inline(always)]
fn whole<T: Real, S: Simd>(len: usize) -> usize {
    len - len % lanes::<T, S>()
}

/// A vector that begins with these values, and goes on with zeros.
#[inline(always)]
fn filled_up<T: Real, S: Simd>(simd: S, values: &[T]) -> Lanes<T, S> {
    let mut vector = <T::Vector<S> as bytemuck::Zeroable>::zeroed();
    bytemuck::cast_slice_mut(std::slice::from_mut(&mut vector))[..values.len()].copy_from_slice(values);
    Lanes::of(simd, vector)
}

/// The first values of a vector.
#[inline(always)]
fn write<T: Real, S: Simd>(values: &mut [T], from: Lanes<T, S>) {
    let vector = from.vector();
    values.copy_from_slice(&bytemuck::cast_slice(std::slice::from_ref(&vector))[..values.len()]);
}

/// `exp(x)` within two units in the last place: `2^n exp(r)` with a whole n and |r| <= ln 2 / 2, and the Taylor series
/// of exp(r), whose first term that is left out is below half a unit. A power of two beyond what a number holds comes
/// in two halves, so that the ends are infinity, and 0 by way of subnormal numbers.
#[inline(always)]
pub fn exp<T: Real, S: Simd>(x: Lanes<T, S>) -> Lanes<T, S> {
    let (terms, most) = if size_of::<T>() == 4 { (7, 120.0) } else { (13, 800.0) };
    let x = x.within(most);
    let n = (x * x.all(std::f64::consts::LOG2_E)).nearest_whole();
    // ln 2 in two parts; the first has so few digits that its product with n is exact.
    let r = (-n).mul_add(x.all(LOW), (-n).mul_add(x.all(355.0 / 512.0), x));
    let mut sum = x.all(1.0);
    for k in (1..=terms).rev() {
        sum = (sum * r).mul_add(x.all(1.0 / f64::from(k)), x.all(1.0));
    }
    let half = (n * x.all(0.5)).nearest_whole();
    sum * half.power_of_two() * (n - half).power_of_two()
}

/// `1 / (1 + exp(-x))`, likewise.
#[inline(always)]
pub fn sigmoid<T: Real, S: Simd>(x: Lanes<T, S>) -> Lanes<T, S> {
    x.all(1.0) / (x.all(1.0) + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    struct Exp;

    impl<T: Real> Pointwise<T> for Exp {
        #[inline(always)]
        fn value<S: Simd>(self, x: Lanes<T, S>) -> Lanes<T, S> {
            exp(x)
        }

        #[inline(always)]
        fn gradient<S: Simd>(self, x: Lanes<T, S>, dy: Lanes<T, S>) -> Lanes<T, S> {
            dy * exp(x)
        }
    }

    fn exps<T: Real>(x: &[T]) -> Vec<T> {
        let mut y = vec![T::nan(); x.len()];
        pulp::Arch::new().dispatch(Values { function: Exp, x, y: &mut y });
        y
    }

    /// Catches a wrong term, a wrong end of the range, and a NaN that is lost.
    #[test]
    fn exp_is_right_to_two_units_everywhere() {
        fn of<T: Real>(steps: i32, most: f64) {
            let x: Vec<T> = (-steps..=steps).map(|i| T::of(most * f64::from(i) / f64::from(steps))).collect();
            for (x, found) in x.iter().zip(exps(&x)) {
                let (found, expected) = (found.wide(), x.wide().exp());
                let unit = (expected * T::epsilon().wide()).max(T::min_positive_value().wide() * T::epsilon().wide());
                assert!((found - expected).abs() <= 2.0 * unit, "exp({x:?}) is {found:e}, not {expected:e}");
            }
            let ends = exps(&[T::infinity(), T::neg_infinity(), T::zero(), T::nan()]);
            assert_eq!(ends[..3], [T::infinity(), T::zero(), T::one()]);
            assert!(ends[3].is_nan());
        }
        of::<f32>(100_003, 88.0);
        of::<f32>(10_007, 0.5);
        of::<f64>(100_003, 709.0);
        assert_eq!(exps(&[-110f32, 90.0]), [0.0, f32::INFINITY]);
    }

    /// Catches a last vector that is left out, and one that is written beyond the end.
    #[test]
    fn what_is_left_of_a_vector_is_computed_too() {
        for len in 0..40 {
            let x: Vec<f32> = (0..len).map(|i| i as f32 / 10.0).collect();
            let mut dx = vec![f32::NAN; len + 1];
            pulp::Arch::new().dispatch(Slopes { function: Exp, x: &x, dy: &vec![2.0; len], dx: &mut dx[..len] });
            let right = |(dx, y): (&f32, f32)| *dx == 2.0 * y;
            assert!(dx.iter().zip(exps(&x)).all(right) && dx[len].is_nan(), "{len}: {dx:?}");
        }
    }
}
