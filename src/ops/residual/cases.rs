//! Numbers of elements around a workgroup's; blocks that keep their input's shape, and some that do not.

use super::Settings;
use crate::layer::{Layer, Shape};
use crate::ops::{Case, conv2d};
use crate::rng::Philox;

/// Every case.
pub fn all() -> Vec<Case> {
    let sizes = [(1, 1), (3, 17), (2, 64), (5, 1009)];
    let block =
        |(n, features)| Case { n, input: Shape::Features(features), layer: Layer::residual(vec![Layer::relu()]) };
    sizes.map(block).into()
}

/// A random block.
pub fn draw(rng: &mut Philox, input: Shape) -> Option<Layer> {
    let mut of = |from: usize, to: usize| from + rng.below((to - from) as u32) as usize;
    let Ok([channels, h, w]) = input.image() else {
        return Some(Layer::residual(vec![Layer::linear(input.len()), Layer::relu()]));
    };
    let conv = |out_channels, kernel: usize, stride, padding| {
        Layer::new(conv2d::Settings {
            out_channels,
            kernel_size: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 2],
            ..conv2d::Settings::square(1, 1, 0)
        })
    };
    if h * w < 4 || of(0, 3) == 0 {
        return Some(Layer::residual(vec![Layer::relu(), conv(channels, 3, 1, 1)]));
    }
    let (out, stride) = (4 * of(1, 4), of(1, 3));
    let branch = vec![conv(out, 3, stride, 1), Layer::relu(), conv(out, 3, 1, 1)];
    Some(Layer::new(Settings { branch, shortcut: vec![conv(out, 1, stride, 0)] }))
}
