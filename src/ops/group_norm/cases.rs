//! Groups of one element, around a workgroup's size, of one channel and of all.

use super::Settings;
use crate::layer::{Layer, Shape};
use crate::ops::Case;
use crate::rng::Philox;

fn norm(n: usize, image: [usize; 3], num_groups: usize, eps: f64) -> Case {
    Case { n, input: Shape::Image(image), layer: Layer::new(Settings { num_groups, eps }) }
}

/// Every case.
pub fn all() -> Vec<Case> {
    vec![
        norm(2, [1, 1, 1], 1, 1.0),
        norm(3, [6, 1, 1], 3, 1.0),
        norm(3, [6, 5, 7], 3, 1e-5),
        norm(2, [4, 3, 4], 4, 1e-3),
        norm(1, [13, 1, 5], 1, 1e-5),
        norm(5, [12, 8, 9], 2, 1e-5),
        norm(2, [34, 11, 13], 17, 0.1),
        norm(16, [32, 8, 8], 8, 1e-5),
    ]
}

/// A random one of such images. Of few elements a variance may be next to nothing, which no f32 divides by. The bias of
/// a single channel may be one that all logits share: its gradient is 0, and f32 has but rounding for it.
pub fn draw(rng: &mut Philox, input: Shape) -> Option<Layer> {
    let [channels, h, w] = input.image().ok()?;
    let divisors: Vec<usize> = (1..=channels).filter(|groups| channels.is_multiple_of(*groups)).collect();
    let num_groups = divisors[rng.below(divisors.len() as u32) as usize];
    let eps = [1e-2, 0.1, 1.0][rng.below(3) as usize];
    (channels > 1 && channels / num_groups * h * w >= 4).then(|| Layer::new(Settings { num_groups, eps }))
}

/// A recorded case.
pub fn golden(number: &dyn Fn(&str) -> f64) -> Case {
    let of = |name| number(name) as usize;
    norm(of("n"), [of("c"), of("h"), of("w")], of("num_groups"), number("eps"))
}
