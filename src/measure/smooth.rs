//! Smooth calibration error: no bins, and a bandwidth that the data choose.
//!
//! Source: Błasiok and Nakkiran 2024, "Smooth ECE: principled reliability diagrams via kernel smoothing", as their own
//! program has it (ml-calibration, `smECE` with its defaults): the differences right - confidence are spread over
//! \[0, 1\] by a Gaussian kernel that is reflected at both ends, and smECE at a bandwidth is the mean size of what
//! comes out. The bandwidth is the one that equals its own smECE, which is found by ten halvings. Both live on that
//! program's grid, so that the values are its values.

use super::Prediction;

/// Bandwidths below are not told apart.
const LEAST_BANDWIDTH: f64 = 1e-3;

/// The smooth calibration error; NaN without images or with a NaN confidence.
pub fn smece(predictions: &[Prediction]) -> f64 {
    if predictions.is_empty() || predictions.iter().any(|p| p.confidence.is_nan()) {
        return f64::NAN;
    }
    let fixed = |bandwidth: f64| bandwidth < LEAST_BANDWIDTH || bandwidth < at(predictions, bandwidth);
    let mut found = 1.0;
    if !fixed(found) {
        let mut above = 0.0;
        for _ in 0..10 {
            let middle = (found + above) / 2.0;
            if fixed(middle) { above = middle } else { found = middle }
        }
    }
    at(predictions, found)
}

/// smECE at a bandwidth.
fn at(predictions: &[Prediction], bandwidth: f64) -> f64 {
    let points = (10.0 / bandwidth).round_ties_even().max(200.0) as usize;
    let cells = (20.0 / bandwidth).round_ties_even().max(2000.0) as usize / 2 + 1;
    let gaps = smoothed(predictions, |p| p.confidence - f64::from(p.right), cells, bandwidth);
    let images = smoothed(predictions, |_| 1.0, cells, bandwidth);
    let last = (points - 1) as f64;
    let sum = |values: &[f64]| (0..points).map(|i| between(values, i as f64 / last).abs()).sum::<f64>();
    // Where hardly any image is, hardly anything counts.
    sum(&gaps) / (sum(&images) + 1e-4 * points as f64)
}

/// What `value` gives of each image, put on a grid of `cells` points by its confidence and spread by the kernel.
fn smoothed(predictions: &[Prediction], value: impl Fn(&Prediction) -> f64, cells: usize, bandwidth: f64) -> Vec<f64> {
    let last = cells - 1;
    let mut grid = vec![0.0; cells];
    for p in predictions {
        let place = p.confidence * last as f64;
        let cell = (place as usize).min(cells - 2);
        let share = place - cell as f64;
        grid[cell] += (1.0 - share) * value(p);
        grid[cell + 1] += share * value(p);
    }
    // Reflected at both ends, without the ends themselves.
    let mirrored = grid[1..].iter().rev().chain(&grid).chain(grid[..last].iter().rev());
    let mirrored: Vec<f64> = mirrored.copied().collect();
    let height = 1.0 / ((2.0 * std::f64::consts::PI).sqrt() * bandwidth);
    let kernel = |i: usize| {
        let distance = i as f64 / last as f64 - 0.5;
        height * (-distance * distance / (2.0 * bandwidth * bandwidth)).exp()
    };
    // Ten bandwidths away it is 1e-22 of its height.
    let reach = (10.0 * bandwidth * last as f64).ceil() as usize;
    let (first, end) = ((last / 2).saturating_sub(reach), (last / 2 + 1 + reach).min(cells));
    let kernel: Vec<f64> = (first..end).map(kernel).collect();
    let spread = |q: usize| {
        let from = cells / 2 + q + last;
        kernel.iter().zip(first..).map(|(weight, i)| weight * mirrored[from - i]).sum()
    };
    (0..cells).map(spread).collect()
}

/// The value at a place in \[0, 1\] on a straight line between its neighbours.
fn between(values: &[f64], place: f64) -> f64 {
    let last = (values.len() - 1) as f64;
    let cell = ((place * last) as usize).min(values.len() - 2);
    let share = place * last - cell as f64;
    values[cell] * (1.0 - share) + values[cell + 1] * share
}
