//! Awkward poolings: windows that overlap, leave gaps, or do not cover their image.

use super::Settings;
use crate::layer::{Layer, Shape};
use crate::ops::Case;
use crate::rng::Philox;

fn pool(n: usize, input: [usize; 3], kernel_size: [usize; 2], stride: [usize; 2]) -> Case {
    Case { n, input: Shape::Image(input), layer: Layer::new(Settings { kernel_size, stride }) }
}

/// Every case.
pub fn all() -> Vec<Case> {
    vec![
        pool(1, [1, 1, 1], [1, 1], [1, 1]),
        pool(2, [3, 7, 9], [2, 2], [2, 2]),
        pool(1, [2, 8, 7], [3, 3], [1, 1]),
        pool(3, [1, 11, 13], [3, 2], [2, 3]),
        pool(2, [2, 9, 9], [2, 2], [3, 4]),
        pool(1, [1, 1, 17], [1, 5], [1, 2]),
        pool(3, [32, 28, 28], [2, 2], [2, 2]),
    ]
}

/// A random pooling of such images.
pub fn draw(rng: &mut Philox, input: Shape) -> Option<Layer> {
    let [_, h, w] = input.image().ok()?;
    let mut upto = |most: usize| 1 + rng.below(most as u32) as usize;
    Some(Layer::new(Settings { kernel_size: [upto(4.min(h)), upto(4.min(w))], stride: [upto(5), upto(5)] }))
}

/// A recorded case.
pub fn golden(number: &dyn Fn(&str) -> f64) -> Case {
    let of = |name| number(name) as usize;
    pool(of("n"), [of("c"), of("h"), of("w")], [of("kh"), of("kw")], [of("stride_h"), of("stride_w")])
}
