//! The group norm as its formulas say, and how large the terms are that they add. Only the groups, which share nothing,
//! are spread over the threads.

use rayon::prelude::*;

use super::GroupNorm;
use crate::layer::{Backward, Forward};
use crate::real::Real;

/// The mean in two rounds: the first one's rounding, a unit in the last place of the mean, may be much of a deviation.
fn mean<T: Real>(values: &[T]) -> T {
    let m = T::of(values.len() as f64);
    let near = values.iter().copied().sum::<T>() / m;
    near + values.iter().map(|&v| v - near).sum::<T>() / m
}

/// The first channel of the group that is number `at` of a batch.
fn first_channel(d: &GroupNorm, at: usize) -> usize {
    at % d.num_groups * d.channels_of_group()
}

/// `x [n, channels, h, w]` to `y`, and mean and inverse deviation of each group, for the backward pass.
pub fn forward<T: Real>(d: &GroupNorm, pass: Forward<T>) {
    let (plane, [weight, bias]) = (d.plane(), [pass.params[0], pass.params[1]]);
    let groups = pass.y.par_chunks_mut(d.group_len()).zip(pass.x.par_chunks(d.group_len()));
    groups.zip(pass.kept.numbers.par_chunks_mut(2)).enumerate().for_each(|(at, ((y, x), kept))| {
        let first = first_channel(d, at);
        let mean = mean(x);
        let squares = x.iter().map(|&x| (x - mean) * (x - mean)).sum::<T>();
        let inv = T::one() / (squares / T::of(x.len() as f64) + T::of(d.eps)).sqrt();
        for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
            let c = first + i / plane;
            *y = weight[c] * ((x - mean) * inv) + bias[c];
        }
        kept.copy_from_slice(&[mean, inv]);
    });
}

/// `dy [n, channels, h, w]` to all gradients.
pub fn backward<T: Real>(d: &GroupNorm, pass: Backward<T>) {
    let Backward { x, params, kept, dy, dx, grads, .. } = pass;
    let (plane, len, weight) = (d.plane(), d.group_len(), params[0]);
    let [dweight, dbias] = grads else { unreachable!("a weight and a bias") };
    dweight.fill(T::zero());
    dbias.fill(T::zero());
    for (at, (x, dy)) in x.chunks(plane).zip(dy.chunks(plane)).enumerate() {
        let group = at / d.channels_of_group();
        let (mean, inv) = (kept.numbers[2 * group], kept.numbers[2 * group + 1]);
        dbias[at % d.image[0]] += dy.iter().copied().sum();
        dweight[at % d.image[0]] += dy.iter().zip(x).map(|(&dy, &x)| dy * ((x - mean) * inv)).sum();
    }
    let Some(dx) = dx else { return };
    let groups = dx.par_chunks_mut(len).zip(x.par_chunks(len)).zip(dy.par_chunks(len));
    groups.zip(kept.numbers.par_chunks(2)).enumerate().for_each(|(at, (((dx, x), dy), kept))| {
        let (first, mean, inv) = (first_channel(d, at), kept[0], kept[1]);
        let (g, xhat) = (|i: usize| weight[first + i / plane] * dy[i], |i: usize| (x[i] - mean) * inv);
        let m = T::of(len as f64);
        let of_g = (0..len).map(g).sum::<T>() / m;
        let of_both = (0..len).map(|i| g(i) * xhat(i)).sum::<T>() / m;
        dx.iter_mut().enumerate().for_each(|(i, dx)| *dx = inv * (g(i) - of_g - xhat(i) * of_both));
    });
}

/// In place of each result the size of the terms that it adds. What rounding does to the mean, a unit in the last place
/// of the inputs' size, is a large part of a normalised value where the mean is far from 0.
pub fn forward_terms(d: &GroupNorm, pass: Forward<f64>) {
    let Forward { n, mode, x, skip, params, buffers, y, kept, random } = pass;
    forward(d, Forward { n, mode, x, skip, params, buffers, y: &mut *y, kept: &mut *kept, random });
    let len = d.group_len();
    let groups = y.chunks_mut(len).zip(x.chunks(len)).zip(kept.numbers.chunks_mut(2));
    for (at, ((y, x), kept)) in groups.enumerate() {
        let [mean, inv] = [kept[0], kept[1]];
        let size = x.iter().map(|x| x.abs()).sum::<f64>() / len as f64 + mean.abs();
        for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
            let c = first_channel(d, at) + i / d.plane();
            *y = params[0][c].abs() * ((x - mean).abs() + size) * inv + params[1][c].abs();
        }
        // The mean's error adds its square to the variance.
        kept.copy_from_slice(&[size, inv * (1.0 + (size * inv).powi(2) * 2f64.powi(-20))]);
    }
}

/// Likewise.
pub fn backward_terms(d: &GroupNorm, pass: Backward<f64>) {
    let Backward { x, params, kept, dy, dx, grads, .. } = pass;
    let (plane, len) = (d.plane(), d.group_len());
    let xhat = |i: usize| {
        let [mean, inv] = [0, 1].map(|which| kept.numbers[i / len * 2 + which]);
        ((x[i] - mean).abs() + mean.abs()) * inv
    };
    let [dweight, dbias] = grads else { unreachable!("a weight and a bias") };
    dweight.fill(0.0);
    dbias.fill(0.0);
    for (i, dy) in dy.iter().enumerate() {
        let c = i / plane % d.image[0];
        dbias[c] += dy.abs();
        dweight[c] += dy.abs() * xhat(i);
    }
    let g = |i: usize| (params[0][i / plane % d.image[0]] * dy[i]).abs();
    for (at, dx) in dx.into_iter().flat_map(|dx| dx.chunks_mut(len)).enumerate() {
        let group = at * len..(at + 1) * len;
        let of_g = group.clone().map(g).sum::<f64>() / len as f64;
        let of_both = group.clone().map(|i| g(i) * xhat(i)).sum::<f64>() / len as f64;
        let inv = kept.numbers[2 * at + 1];
        dx.iter_mut().zip(group).for_each(|(dx, i)| *dx = inv * (g(i) + of_g + xhat(i) * of_both));
    }
}
