//! Batches around a workgroup's size, and with fewer images than a channel has workgroups.

use super::Settings;
use crate::layer::{Layer, Shape};
use crate::ops::Case;
use crate::rng::Philox;

fn norm(n: usize, image: [usize; 3], eps: f64, momentum: f64) -> Case {
    Case { n, input: Shape::Image(image), layer: Layer::new(Settings { eps, momentum }) }
}

/// Every case.
pub fn all() -> Vec<Case> {
    vec![
        norm(2, [1, 1, 1], 1.0, 0.1),
        norm(1, [3, 2, 2], 1e-5, 0.1),
        norm(3, [2, 5, 7], 1e-5, 0.1),
        norm(65, [5, 1, 1], 1e-3, 0.5),
        norm(4, [17, 3, 5], 1e-5, 1.0),
        norm(7, [1, 11, 13], 0.1, 0.0),
        norm(16, [32, 8, 8], 1e-5, 0.1),
    ]
}

/// A random one of such images. Those of a single pixel may come one at a time, and have no variance then. The bias of
/// a single channel may be one that all logits share: its gradient is 0, and f32 has but rounding for it.
pub fn draw(rng: &mut Philox, input: Shape) -> Option<Layer> {
    let [channels, h, w] = input.image().ok()?;
    let mut of = |values: [f64; 3]| values[rng.below(3) as usize];
    // Of few elements a variance may be next to nothing, which no f32 divides by.
    (channels > 1 && h * w >= 4)
        .then(|| Layer::new(Settings { eps: of([1e-2, 0.1, 1.0]), momentum: of([0.1, 0.5, 0.01]) }))
}

/// A recorded case.
pub fn golden(number: &dyn Fn(&str) -> f64) -> Case {
    let of = |name| number(name) as usize;
    norm(of("n"), [of("c"), of("h"), of("w")], number("eps"), number("momentum"))
}
