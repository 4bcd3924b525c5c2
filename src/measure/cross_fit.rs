//! The nll after a scaling (a temperature, or one for each class) that was not fitted on the images which judge it.
//!
//! A scaling that is fitted on some images makes the nll of these same images a little too low. Here the images
//! are dealt into [`FOLDS`] parts by chance (always in the same way), each part is judged by the scaling of all
//! others, and the mean goes over all images. Source: Stone 1974, "Cross-validatory choice and assessment"; as a
//! criterion: Berta, Holzmüller, Jordan, Bach 2025, "Rethinking early stopping: refine, then calibrate".

use super::scaling::{Method, Scaling};
use super::temperature::End;
use crate::loss::smoothing::Smoothing;
use crate::rng::{Philox, Stream};
use crate::{Error, Result};

/// Into so many parts the images are dealt; into as many as there are images where that is less.
pub const FOLDS: usize = 5;

/// What scalings are worth on images that they were not fitted on.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossFit {
    /// Mean nll, each image by the scaling of the other parts.
    pub nll: f64,
    /// The scaling of each part: that of the others. None where their temperature ends at an end of its range, as
    /// `calibrate` then writes none.
    pub scalings: Vec<Scaling>,
}

/// Fits and judges scalings of `logits` (`[labels.len(), classes]`, row-major).
///
/// # Errors
/// [`Error::Fit`] for fewer than two images, and as [`Method::fit`].
pub fn cross_fit(method: Method, logits: &[f64], labels: &[u32], classes: usize) -> Result<CrossFit> {
    let n = labels.len();
    if n < 2 {
        return Err(Error::Fit(format!("found {n} images to fit and to judge on, expected at least two")));
    }
    // What is wrong with the logits is said of their own places.
    Method::Temperature.fit(logits, labels, classes)?;
    let mut order: Vec<usize> = (0..n).collect();
    Philox::of(0, Stream::Folds).shuffle(&mut order);
    let folds = FOLDS.min(n);
    let chosen = |wanted: &dyn Fn(usize) -> bool| {
        let places = || order.iter().enumerate().filter(|(place, _)| wanted(place % folds)).map(|(_, &image)| image);
        let rows: Vec<f64> = places().flat_map(|i| &logits[i * classes..][..classes]).copied().collect();
        (rows, places().map(|i| labels[i]).collect::<Vec<_>>())
    };
    let (mut sum, mut scalings) = (0.0, vec![]);
    for part in 0..folds {
        let (rows, of_rows) = chosen(&|fold| fold != part);
        let scaling = match method.fit(&rows, &of_rows, classes)? {
            (found, End::Minimum | End::Flat) => found,
            (_, End::Coldest | End::Hottest) => Scaling::NONE,
        };
        let (rows, of_rows) = chosen(&|fold| fold == part);
        let judged = super::predictions(&scaling.apply(&rows), &of_rows, classes, Smoothing::NONE);
        sum += judged.iter().map(|image| image.nll).sum::<f64>();
        scalings.push(scaling);
    }
    Ok(CrossFit { nll: sum / n as f64, scalings })
}

#[cfg(test)]
mod tests {
    use super::super::temperature::{apply, fit};
    use super::*;

    /// Two classes, logits from -4 to 4, labels drawn from softmax(z / t).
    fn drawn(images: usize, t: f64, seed: u64) -> (Vec<f64>, Vec<u32>) {
        let mut rng = Philox::new(seed, 0);
        let margins: Vec<f64> = (0..images).map(|_| rng.range(-4.0, 4.0)).collect();
        let labels = margins.iter().map(|m| u32::from(rng.uniform() > 1.0 / (1.0 + (-m / t).exp()))).collect();
        (margins.iter().flat_map(|&m| [m, 0.0]).collect(), labels)
    }

    /// Catches a temperature that is judged by the images that it was fitted on: the mean would be below that of the
    /// true temperature, which nothing that is fitted beats on new images.
    #[test]
    fn what_judges_did_not_fit() {
        let (mut same, mut cross, mut truth) = (0.0, 0.0, 0.0);
        for seed in 0..200 {
            let (logits, labels) = drawn(60, 2.0, seed);
            let judged = super::super::predictions(&apply(&logits, 2.0), &labels, 2, Smoothing::NONE);
            truth += judged.iter().map(|image| image.nll).sum::<f64>() / 60.0 / 200.0;
            same += fit(&logits, &labels, 2).unwrap().nll_after / 200.0;
            cross += cross_fit(Method::Temperature, &logits, &labels, 2).unwrap().nll / 200.0;
        }
        assert!(same < truth - 0.004, "on its own images {same}, the true temperature {truth}");
        assert!(cross > truth + 0.002 && cross < truth + 0.03, "cross-fitted {cross}, the true temperature {truth}");
    }

    /// Catches an image that is judged twice or not at all, or by the temperature of its own part.
    #[test]
    fn each_image_is_judged_once_by_the_others() {
        let (logits, labels) = drawn(23, 1.0, 3);
        let found = cross_fit(Method::Temperature, &logits, &labels, 2).unwrap();
        assert_eq!(found.scalings.len(), FOLDS);
        let mut order: Vec<usize> = (0..23).collect();
        Philox::of(0, Stream::Folds).shuffle(&mut order);
        let mut sum = 0.0;
        for (place, &image) in order.iter().enumerate() {
            let others: Vec<usize> =
                order.iter().enumerate().filter(|(other, _)| other % 5 != place % 5).map(|(_, &i)| i).collect();
            let rows: Vec<f64> = others.iter().flat_map(|&i| [logits[2 * i], logits[2 * i + 1]]).collect();
            let fitted = fit(&rows, &others.iter().map(|&i| labels[i]).collect::<Vec<_>>(), 2).unwrap();
            assert_eq!(Scaling::Temperature(fitted.value), found.scalings[place % 5]);
            let margin = logits[2 * image] / fitted.value;
            let margin = if labels[image] == 0 { margin } else { -margin };
            sum += (-margin).exp().ln_1p();
        }
        assert!((found.nll - sum / 23.0).abs() < 1e-12, "{} {}", found.nll, sum / 23.0);
    }

    #[test]
    fn temperatures_at_an_end_are_not_used_and_nothing_is_refused() {
        // All right: every fit goes to the cold end, and the logits stay as they are.
        let found = cross_fit(Method::Temperature, &[1.0, 0.0].repeat(6), &[0; 6], 2).unwrap();
        assert_eq!(found.scalings, vec![Scaling::NONE; 5]);
        assert!((found.nll - (-1f64).exp().ln_1p()).abs() < 1e-15);
        assert!(
            cross_fit(Method::Temperature, &[1.0, 0.0], &[0], 2).unwrap_err().to_string().contains("found 1 images")
        );
        let bad = cross_fit(Method::Temperature, &[1.0, 0.0, 2.0, f64::NAN], &[0, 1], 2).unwrap_err().to_string();
        assert!(bad.contains("image 1, class 1: found a logit of NaN"), "{bad}");
    }
}
