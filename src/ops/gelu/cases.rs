//! Numbers of elements around a workgroup's, and of a whole layer, in both forms.

use super::{Approximate, Settings};
use crate::layer::{Layer, Shape};
use crate::ops::Case;
use crate::rng::Philox;

const FORMS: [Approximate; 2] = [Approximate::None, Approximate::Tanh];

fn gelu(n: usize, features: usize, approximate: Approximate) -> Case {
    Case { n, input: Shape::Features(features), layer: Layer::new(Settings { approximate }) }
}

/// Every case.
pub fn all() -> Vec<Case> {
    let sizes = [(1, 1), (3, 17), (2, 64), (5, 1009), (2, 25_088)];
    FORMS.iter().flat_map(|&form| sizes.map(|(n, features)| gelu(n, features, form))).collect()
}

/// Either form.
pub fn draw(rng: &mut Philox, _: Shape) -> Option<Layer> {
    Some(Layer::new(Settings { approximate: FORMS[rng.below(2) as usize] }))
}

/// A recorded case.
pub fn golden(number: &dyn Fn(&str) -> f64) -> Case {
    gelu(1, number("len") as usize, FORMS[number("tanh") as usize])
}
