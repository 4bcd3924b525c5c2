//! Gradients of a convolution's weight and bias over some rows of the output: what one workgroup adds up.

use std::ops::Range;

use super::steps::sum_of_products;
use crate::ops::conv2d::{self, Conv2d};

/// The gradients `[dw, db]` that come from these rows of `dz`, the rows of a batch counted through, and their
/// tolerance.
pub(super) fn of_rows(conv: &Conv2d, x: &[f64], dz: &[f64], rows: Range<usize>, terms: usize) -> [Vec<f64>; 2] {
    sum_of_products(conv.weight_len() + conv.c_out, terms, &[x, dz], |inputs, sum| {
        add_rows(conv, inputs[0], inputs[1], rows.clone(), sum);
    })
}

/// Adds them to `sum`. Only these rows are computed: each image is cut to what their windows see.
pub(super) fn add_rows(conv: &Conv2d, x: &[f64], dz: &[f64], rows: Range<usize>, sum: &mut [f64]) {
    let mut own = vec![0.0; sum.len()];
    for cut in cuts(conv, rows) {
        let (dw, db) = own.split_at_mut(conv.weight_len());
        conv2d::reference::backward_weight(&cut.conv, &cut.input(x), &cut.gradient(dz), dw, db);
        sum.iter_mut().zip(&own).for_each(|(sum, own)| *sum += own);
    }
}

/// Some rows of one image.
struct Cut {
    whole: Conv2d,
    image: usize,
    rows: Range<usize>,
    /// The same convolution over what these rows see, its padding above and below among it.
    conv: Conv2d,
}

/// The images of these rows, each with its own.
fn cuts(conv: &Conv2d, rows: Range<usize>) -> impl Iterator<Item = Cut> {
    let whole = *conv;
    let height = whole.output_plane()[0];
    let images = if rows.is_empty() { 0..0 } else { rows.start / height..rows.end.div_ceil(height) };
    images.map(move |image| {
        let first = image * height;
        let rows = rows.start.max(first) - first..rows.end.min(first + height) - first;
        let seen = (rows.len() - 1) * whole.stride[0] + (whole.kernel[0] - 1) * whole.dilation[0] + 1;
        let [channels, _, width] = whole.input;
        let conv = Conv2d { input: [channels, seen, width], padding: [0, whole.padding[1]], ..whole };
        Cut { whole, image, rows, conv }
    })
}

impl Cut {
    fn input(&self, x: &[f64]) -> Vec<f64> {
        let [channels, h, w] = self.whole.input;
        let x = &x[self.image * self.whole.input_len()..][..self.whole.input_len()];
        let mut cut = Vec::with_capacity(self.conv.input_len());
        for channel in 0..channels {
            for row in 0..self.conv.input[1] {
                let row = (self.rows.start * self.whole.stride[0] + row).checked_sub(self.whole.padding[0]);
                match row.filter(|&row| row < h) {
                    Some(row) => cut.extend_from_slice(&x[(channel * h + row) * w..][..w]),
                    None => cut.resize(cut.len() + w, 0.0),
                }
            }
        }
        cut
    }

    fn gradient(&self, dz: &[f64]) -> Vec<f64> {
        let width = self.whole.output_plane()[1];
        let dz = &dz[self.image * self.whole.output_len()..][..self.whole.output_len()];
        let own = |plane: &[f64]| plane[self.rows.start * width..self.rows.end * width].to_vec();
        dz.chunks(self.whole.output_len() / self.whole.c_out).flat_map(own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::wide;
    use crate::check::random;

    /// Catches rows that are left out or counted twice, and a window that is cut off.
    #[test]
    fn rows_are_those_of_the_whole_gradient() {
        let plain = Conv2d { c_out: 4, kernel: [3, 3], padding: [1, 1], ..Conv2d::PLAIN };
        let convs = [
            Conv2d { input: [2, 5, 4], ..plain },
            Conv2d { input: [2, 7, 6], stride: [2, 2], ..plain },
            Conv2d { input: [4, 8, 7], kernel: [3, 2], padding: [2, 0], dilation: [2, 1], groups: 2, ..plain },
        ];
        for conv in convs {
            let n = 3;
            let height = conv.output_plane()[0];
            let (x, dz) = (wide(&random(n * conv.input_len(), 1)), wide(&random(n * conv.output_len(), 2)));
            let width = conv.output_plane()[1];
            for rows in [0..n * height, 0..1, height - 1..height + 1, 1..2 * height + 1, 2..2] {
                // The whole, where the gradients of other rows are 0.
                let own = |(i, &v): (usize, &f64)| {
                    let row = i / conv.output_len() * height + i / width % height;
                    if rows.contains(&row) { v } else { 0.0 }
                };
                let masked: Vec<f64> = dz.iter().enumerate().map(own).collect();
                let mut want = vec![0.0; conv.weight_len() + conv.c_out];
                let (dw, db) = want.split_at_mut(conv.weight_len());
                conv2d::reference::backward_weight(&conv, &x, &masked, dw, db);
                let [found, tolerance] = of_rows(&conv, &x, &dz, rows.clone(), rows.len() * width);
                let mut added = vec![0.0; want.len()];
                add_rows(&conv, &x, &dz, rows.clone(), &mut added);
                assert_eq!(found, added);
                for ((found, want), tolerance) in found.iter().zip(&want).zip(&tolerance) {
                    assert!((found - want).abs() <= 1e-12, "{conv:?} {rows:?}: {found} {want}");
                    assert!(rows.is_empty() || *tolerance > 0.0);
                }
            }
        }
    }
}
