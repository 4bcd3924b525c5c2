//! Planes of one pixel, of primes, and of a whole layer.

use crate::layer::{Layer, Shape};
use crate::ops::Case;
use crate::rng::Philox;

fn pool(n: usize, input: [usize; 3]) -> Case {
    Case { n, input: Shape::Image(input), layer: Layer::global_avg_pool2d() }
}

/// Every case.
pub fn all() -> Vec<Case> {
    vec![pool(1, [1, 1, 1]), pool(3, [5, 7, 11]), pool(2, [65, 1, 17]), pool(5, [64, 7, 7]), pool(1, [2, 28, 28])]
}

/// The pooling of such images.
pub fn draw(_: &mut Philox, input: Shape) -> Option<Layer> {
    input.image().is_ok().then(Layer::global_avg_pool2d)
}

/// A recorded case.
pub fn golden(number: &dyn Fn(&str) -> f64) -> Case {
    let of = |name| number(name) as usize;
    pool(of("n"), [of("c"), of("h"), of("w")])
}
