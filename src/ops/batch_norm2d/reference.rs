//! The batch norm as its formulas say, and how large the terms are that they add.

use super::BatchNorm2d;
use crate::layer::{Backward, Forward, Mode};
use crate::real::Real;

/// Calls `each` for the places of a channel's elements in a batch of `n`.
fn places(d: &BatchNorm2d, n: usize, channel: usize) -> impl Iterator<Item = usize> + Clone + use<> {
    let [channels, h, w] = d.image;
    let plane = h * w;
    (0..n).flat_map(move |image| (0..plane).map(move |i| (image * channels + channel) * plane + i))
}

/// `x [n, channels, h, w]` to `y`, the statistics that the backward pass needs, and the running ones.
///
/// # Panics
/// In training for a single element a channel: it has no variance.
pub fn forward<T: Real>(d: &BatchNorm2d, pass: Forward<T>) {
    let Forward { n, mode, x, params, buffers, y, kept, .. } = pass;
    let (channels, [weight, bias]) = (d.image[0], [params[0], params[1]]);
    let [running_mean, running_var] = buffers else { unreachable!("its two buffers") };
    let m = n * d.image[1] * d.image[2];
    assert!(mode == Mode::Inference || m > 1, "batch norm in training over a single element a channel");
    let [of_m, eps, momentum] = [m as f64, d.eps, d.momentum].map(T::of);
    for c in 0..channels {
        let places = places(d, n, c);
        let (mean, var) = match mode {
            Mode::Inference => (running_mean[c], running_var[c]),
            Mode::Training => {
                let mean = places.clone().map(|i| x[i]).sum::<T>() / of_m;
                let squares = places.clone().map(|i| (x[i] - mean) * (x[i] - mean)).sum::<T>();
                let blend = |old: T, new: T| old + momentum * (new - old);
                running_mean[c] = blend(running_mean[c], mean);
                running_var[c] = blend(running_var[c], squares / (of_m - T::one()));
                (mean, squares / of_m)
            }
        };
        let inv = T::one() / (var + eps).sqrt();
        if mode == Mode::Training {
            kept.numbers[c] = mean;
            kept.numbers[channels + c] = inv;
        }
        places.for_each(|i| y[i] = weight[c] * ((x[i] - mean) * inv) + bias[c]);
    }
}

/// `dy [n, channels, h, w]` to all gradients.
pub fn backward<T: Real>(d: &BatchNorm2d, pass: Backward<T>) {
    let Backward { n, x, params, kept, dy, mut dx, grads, .. } = pass;
    let channels = d.image[0];
    let [dweight, dbias] = grads else { unreachable!("a weight and a bias") };
    let m = T::of((n * d.image[1] * d.image[2]) as f64);
    for c in 0..channels {
        let places = places(d, n, c);
        let (mean, inv) = (kept.numbers[c], kept.numbers[channels + c]);
        let xhat = |i: usize| (x[i] - mean) * inv;
        dbias[c] = places.clone().map(|i| dy[i]).sum();
        dweight[c] = places.clone().map(|i| dy[i] * xhat(i)).sum();
        if let Some(dx) = dx.as_deref_mut() {
            let scale = params[0][c] * inv;
            places.for_each(|i| dx[i] = scale * (dy[i] - dbias[c] / m - xhat(i) * (dweight[c] / m)));
        }
    }
}

/// In place of each result the size of the terms that it adds. What rounding does to the mean, a unit in the last place
/// of the inputs' size, is a large part of a normalised value where the mean is far from 0.
pub fn forward_terms(d: &BatchNorm2d, pass: Forward<f64>) {
    let Forward { n, mode, x, skip, params, buffers, y, kept, random } = pass;
    let before: Vec<Vec<f64>> = buffers.iter().map(|values| values.to_vec()).collect();
    forward(d, Forward { n, mode, x, skip, params, buffers: &mut *buffers, y: &mut *y, kept: &mut *kept, random });
    let channels = d.image[0];
    for c in 0..channels {
        let places = places(d, n, c);
        let (mean, inv) = match mode {
            Mode::Training => (kept.numbers[c], kept.numbers[channels + c]),
            Mode::Inference => (buffers[0][c], 1.0 / (buffers[1][c] + d.eps).sqrt()),
        };
        let size = places.clone().map(|i| x[i].abs()).sum::<f64>() / (n * d.image[1] * d.image[2]) as f64 + mean.abs();
        let y_size = |i: usize| params[0][c].abs() * ((x[i] - mean).abs() + size) * inv + params[1][c].abs();
        places.for_each(|i| y[i] = y_size(i));
        if mode == Mode::Training {
            // The mean's error adds its square to the variance.
            let of_var = 1.0 + (size * inv).powi(2) * 2f64.powi(-20);
            kept.numbers[c] = size;
            kept.numbers[channels + c] = inv * of_var;
            buffers[0][c] = before[0][c].abs() + size;
            buffers[1][c] = before[1][c].abs() + buffers[1][c].abs() * of_var;
        }
    }
}

/// Likewise.
pub fn backward_terms(d: &BatchNorm2d, pass: Backward<f64>) {
    let Backward { n, x, params, kept, dy, mut dx, grads, .. } = pass;
    let channels = d.image[0];
    let [dweight, dbias] = grads else { unreachable!("a weight and a bias") };
    let m = (n * d.image[1] * d.image[2]) as f64;
    for c in 0..channels {
        let places = places(d, n, c);
        let (mean, inv) = (kept.numbers[c], kept.numbers[channels + c]);
        let xhat = |i: usize| ((x[i] - mean).abs() + mean.abs()) * inv;
        dbias[c] = places.clone().map(|i| dy[i].abs()).sum();
        dweight[c] = places.clone().map(|i| dy[i].abs() * xhat(i)).sum();
        if let Some(dx) = dx.as_deref_mut() {
            let scale = params[0][c].abs() * inv;
            places.for_each(|i| dx[i] = scale * (dy[i].abs() + dbias[c] / m + xhat(i) * (dweight[c] / m)));
        }
    }
}
