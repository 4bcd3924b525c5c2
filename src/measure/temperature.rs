//! Temperature scaling: one number T > 0, fitted on images that were not trained on, that divides every logit. It
//! leaves the answers as they are and moves the confidences.
//!
//! Source: Guo, Pleiss, Sun, Weinberger 2017, "On calibration of modern neural networks". T minimises the mean plain
//! nll of softmax(z / T). With beta = 1/T, the expectation and the variance over softmax(beta z), and the mean over
//! images:
//!
//! ```text
//! nll(beta)   = mean of ln sum_k exp(beta z_k) - beta z_y
//! nll'(beta)  = mean of E[z] - z_y
//! nll''(beta) = mean of Var[z] >= 0
//! ```
//!
//! so nll is convex in beta, and the zero of nll' is found by Newton's method inside a bracket, with bisection (of the
//! bracket's logarithm) where a step would leave the bracket or does not halve the one before.

use crate::{Error, Result};

/// The least and the largest temperature that [`fit`] gives.
pub const RANGE: [f64; 2] = [1e-3, 1e3];

/// The largest logit, in size, that [`fit`] takes: their squares must be numbers.
pub const LARGEST_LOGIT: f64 = 1e100;

/// Where a fit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// At the minimum of the nll.
    Minimum,
    /// At the least temperature of [`RANGE`]: the nll falls all the way down to it. So it is where every answer is
    /// right, whatever the margins: the nll then falls for ever.
    Coldest,
    /// At the largest temperature of [`RANGE`]: the nll falls all the way up to it. So it is where the labels' logits
    /// are on average no larger than the mean of all logits, as where the answers are wrong: the uniform distribution,
    /// at infinity, is the best there is.
    Hottest,
    /// At 1: each image's logits are all equal, and no temperature changes anything.
    Flat,
}

/// A fitted temperature.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Temperature {
    /// What the logits are to be divided by.
    pub value: f64,
    /// Where the fit ended.
    pub end: End,
    /// Mean nll of the logits as they are, in nats.
    pub nll_before: f64,
    /// Mean nll of the scaled logits; never above `nll_before`.
    pub nll_after: f64,
}

/// Fits the temperature of `logits` (`[labels.len(), classes]`, row-major) to `labels`, within [`RANGE`].
///
/// Where no minimum lies within the range, [`End`] says so and which end of the range was taken.
///
/// # Errors
///
/// [`Error::Fit`] if there are no images or not `classes` logits for each, if a label is not below `classes`, or if a
/// logit is NaN or above [`LARGEST_LOGIT`] in size.
pub fn fit(logits: &[f64], labels: &[u32], classes: usize) -> Result<Temperature> {
    check(logits, labels, classes)?;
    let set = Set { logits, labels, classes };
    let (value, end) = if logits.chunks(classes).all(|row| row.iter().all(|&z| z == row[0])) {
        (1.0, End::Flat)
    } else if set.at(1.0 / RANGE[1]).slope >= 0.0 {
        (RANGE[1], End::Hottest)
    } else if set.at(1.0 / RANGE[0]).slope <= 0.0 {
        (RANGE[0], End::Coldest)
    } else {
        (1.0 / minimum(|beta| set.at(beta)), End::Minimum)
    };
    let (nll_before, nll_after) = (set.at(1.0).nll, set.at(1.0 / value).nll);
    // Rounding alone can make it rise, and then by its last digits: nothing is lost by staying at 1.
    let (value, nll_after) = if nll_after > nll_before { (1.0, nll_before) } else { (value, nll_after) };
    Ok(Temperature { value, end, nll_before, nll_after })
}

/// The 95 % interval of a temperature that was fitted to these images: where it would be for other images of the same
/// kind. From the standard error of beta = 1/T as the zero of a mean slope, sqrt(sum of squared slopes) / sum of
/// curvatures (Huber 1967), with 1.96 of them on each side. The upper end is infinite where beta may be 0; both are NaN
/// where no temperature changes anything.
pub fn interval(logits: &[f64], labels: &[u32], classes: usize, temperature: f64) -> [f64; 2] {
    let beta = 1.0 / temperature;
    let (mut squares, mut curvature) = (0.0, 0.0);
    for (row, label) in logits.chunks(classes.max(1)).zip(labels) {
        let at = Set { logits: row, labels: std::slice::from_ref(label), classes }.at(beta);
        squares += at.slope * at.slope;
        curvature += at.curvature;
    }
    let half = 1.959_963_984_540_054 * squares.sqrt() / curvature;
    [
        1.0 / (beta + half),
        if half < beta {
            1.0 / (beta - half)
        } else if half.is_nan() {
            half
        } else {
            f64::INFINITY
        },
    ]
}

/// The logits divided by the temperature.
pub fn apply(logits: &[f64], temperature: f64) -> Vec<f64> {
    logits.iter().map(|z| z / temperature).collect()
}

fn check(logits: &[f64], labels: &[u32], classes: usize) -> Result<()> {
    let images = labels.len();
    if images == 0 || classes == 0 {
        return Err(Error::Fit(format!("found {images} images of {classes} classes, expected at least one of each")));
    }
    if images.checked_mul(classes) != Some(logits.len()) {
        let found = logits.len();
        return Err(Error::Fit(format!("found {found} logits for {images} images, expected {classes} for each")));
    }
    if let Some(i) = labels.iter().position(|&label| label as usize >= classes) {
        return Err(Error::Fit(format!("image {i}: found label {}, expected below {classes}", labels[i])));
    }
    if let Some(i) = logits.iter().position(|z| z.is_nan() || z.abs() > LARGEST_LOGIT) {
        let (image, class, z) = (i / classes, i % classes, logits[i]);
        let expected = format!("expected a number of at most {LARGEST_LOGIT:e} in size");
        return Err(Error::Fit(format!("image {image}, class {class}: found a logit of {z}, {expected}")));
    }
    Ok(())
}

/// The nll at a beta.
struct At {
    nll: f64,
    slope: f64,
    curvature: f64,
    /// Of the terms that add up to the slope: what its rounding is relative to.
    size: f64,
}

struct Set<'a> {
    logits: &'a [f64],
    labels: &'a [u32],
    classes: usize,
}

impl Set<'_> {
    fn at(&self, beta: f64) -> At {
        let mut total = At { nll: 0.0, slope: 0.0, curvature: 0.0, size: 0.0 };
        for (row, &label) in self.logits.chunks(self.classes).zip(self.labels) {
            // Everything from the largest logit: no exponent is above 0.
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let (mut sum, mut first, mut second) = (0.0, 0.0, 0.0);
            for z in row {
                let distance = z - top;
                let weight = (beta * distance).exp();
                sum += weight;
                first += weight * distance;
                second += weight * distance * distance;
            }
            let (mean, of_label) = (first / sum, row[label as usize] - top);
            total.nll += sum.ln() - beta * of_label;
            total.slope += mean - of_label;
            total.curvature += (second / sum - mean * mean).max(0.0);
            total.size -= mean + of_label;
        }
        let n = self.labels.len() as f64;
        At { nll: total.nll / n, slope: total.slope / n, curvature: total.curvature / n, size: total.size / n }
    }
}

/// The beta where the slope is zero; it is negative at the low end of the range and positive at the high one.
fn minimum(at: impl Fn(f64) -> At) -> f64 {
    let (mut low, mut high) = (1.0 / RANGE[1], 1.0 / RANGE[0]);
    let (mut beta, mut step) = (1.0, high - low);
    // Newton's method takes about ten; the bound is for slopes that are noise.
    for _ in 0..200 {
        let At { slope, curvature, size, .. } = at(beta);
        if slope.abs() <= 1e-14 * size {
            break;
        }
        if slope < 0.0 {
            low = beta
        } else {
            high = beta
        }
        let newton = beta - slope / curvature;
        let good = low < newton && newton < high && (newton - beta).abs() < step.abs() / 2.0;
        let next = if good { newton } else { (low * high).sqrt() };
        (step, beta) = (next - beta, next);
        if step.abs() <= 1e-13 * beta {
            break;
        }
    }
    beta
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;
    use crate::loss::smoothing::Smoothing;
    use crate::measure::evaluate;
    use crate::rng::Philox;

    fn nll(logits: &[f64], labels: &[u32], classes: usize) -> f64 {
        evaluate(logits, labels, classes, Smoothing::NONE).nll
    }

    /// Logits, and labels drawn from softmax(z / t).
    fn drawn(images: usize, classes: usize, t: f64, seed: u64) -> (Vec<f64>, Vec<u32>) {
        let mut rng = Philox::new(seed, 0);
        let logits: Vec<f64> = (0..images * classes).map(|_| rng.range(-4.0, 4.0)).collect();
        let mut label = |row: &[f64]| {
            let weights: Vec<_> = row.iter().map(|z| (z / t).exp()).collect();
            let mut left = rng.uniform() * weights.iter().sum::<f64>();
            let found = weights.iter().position(|w| {
                left -= w;
                left < 0.0
            });
            found.unwrap_or(classes - 1) as u32
        };
        let labels = logits.chunks(classes).map(&mut label).collect();
        (logits, labels)
    }

    /// d nll / d beta by central differences of a nll that is not this module's.
    fn slope(logits: &[f64], labels: &[u32], classes: usize, t: f64) -> f64 {
        let (beta, h) = (1.0 / t, 1e-4 / t);
        let at = |beta: f64| nll(&apply(logits, 1.0 / beta), labels, classes);
        (at(beta + h) - at(beta - h)) / (2.0 * h)
    }

    #[test]
    fn recorded_values() {
        let golden = Golden::open("temperature");
        let cases = golden.cases();
        assert_eq!(cases.len(), 6);
        for case in cases {
            let found = fit(&case.f64("logits"), &case.labels("labels"), case.parse("classes")).unwrap();
            assert_eq!(found.end, End::Minimum, "{}", case.name);
            for (found, key, tolerance) in [
                (found.value, "temperature", 1e-10),
                (found.value, "temperature_lbfgs", 1e-6),
                (found.nll_before, "nll_before", 1e-13),
                (found.nll_after, "nll_after", 1e-13),
            ] {
                let expected = case.scalar(key);
                let error = (found - expected).abs() / expected;
                assert!(error <= tolerance, "{} {key}: found {found}, expected {expected}", case.name);
            }
        }
    }

    #[test]
    fn a_known_temperature_is_found() {
        for (i, t) in [0.3, 0.7, 1.0, 1.5, 4.0].into_iter().enumerate() {
            let (logits, labels) = drawn(20_000, 10, t, i as u64);
            let found = fit(&logits, &labels, 10).unwrap();
            assert_eq!(found.end, End::Minimum);
            // The standard error of beta is 1 / sqrt(n Var); four of them.
            let set = Set { logits: &logits, labels: &labels, classes: 10 };
            let error = 1.0 / (20_000.0 * set.at(1.0 / t).curvature).sqrt();
            assert!((1.0 / found.value - 1.0 / t).abs() < 4.0 * error, "{t}: found {found:?}, error {error}");
            assert!(error * t < 0.05, "{t}: too few images to say anything");
        }
    }

    /// Catches an interval that is too narrow or too wide: of 300 sets it is to hold the true temperature for 95 %.
    #[test]
    fn the_interval_holds_the_true_temperature() {
        let holds = |seed: &u64| {
            let (logits, labels) = drawn(200, 4, 1.5, 1000 + seed);
            let found = fit(&logits, &labels, 4).unwrap();
            let [low, high] = interval(&logits, &labels, 4, found.value);
            assert!(low < found.value && found.value < high && high < 4.0 * low, "{low} {high}");
            low < 1.5 && 1.5 < high
        };
        let held = (0..300).filter(holds).count();
        let [low, high] = crate::measure::interval::wilson(held, 300);
        assert!(low < 0.95 && 0.95 < high, "{held} of 300");
        assert!(interval(&[1.0, 1.0], &[0], 2, 1.0).iter().all(|end| end.is_nan()));
        assert_eq!(interval(&[1.0, 0.0, 0.0, 1.0], &[0, 0], 2, 1000.0)[1], f64::INFINITY);
    }

    #[test]
    fn nothing_near_is_better_and_the_slope_is_zero() {
        for seed in 0..40 {
            let mut rng = Philox::new(seed, 9);
            let (images, classes) = (20 + rng.below(100) as usize, 2 + rng.below(8) as usize);
            let (logits, labels) = drawn(images, classes, rng.range(0.5, 3.0), seed);
            let found = fit(&logits, &labels, classes).unwrap();
            let at = |t: f64| nll(&apply(&logits, t), &labels, classes);
            assert!((found.nll_before - at(1.0)).abs() <= 1e-13 && (found.nll_after - at(found.value)).abs() <= 1e-13);
            assert!(found.nll_after <= found.nll_before, "{found:?}");
            if found.end == End::Minimum {
                let slope = slope(&logits, &labels, classes, found.value);
                assert!(slope.abs() < 1e-6, "{seed}: {found:?} slope {slope}");
                let exact = Set { logits: &logits, labels: &labels, classes }.at(1.0 / found.value);
                assert!(exact.slope.abs() <= 1e-13 * exact.size, "{seed}: {found:?} slope {}", exact.slope);
            }
            for factor in [0.5, 0.9, 0.999, 1.001, 1.1, 2.0] {
                let t = (found.value * factor).clamp(RANGE[0], RANGE[1]);
                assert!(found.nll_after <= at(t) + 1e-14, "{seed}: {found:?}, but {} at {t}", at(t));
            }
        }
    }

    /// A wrong curvature only makes the search slower: the bracket hides it from every other test.
    #[test]
    fn derivatives_are_those_of_the_nll() {
        let (logits, labels) = drawn(50, 6, 1.5, 5);
        let set = Set { logits: &logits, labels: &labels, classes: 6 };
        for beta in [0.01, 0.3, 1.0, 4.0] {
            let h = 1e-5 * beta;
            let (at, below, above) = (set.at(beta), set.at(beta - h), set.at(beta + h));
            let (slope, curvature) = ((above.nll - below.nll) / (2.0 * h), (above.slope - below.slope) / (2.0 * h));
            assert!((at.slope - slope).abs() < 1e-7, "{beta}: slope {}, by differences {slope}", at.slope);
            let error = (at.curvature - curvature).abs();
            assert!(error < 1e-7, "{beta}: curvature {}, by differences {curvature}", at.curvature);
        }
    }

    #[test]
    fn scaled_logits_give_a_scaled_temperature() {
        let (logits, labels) = drawn(200, 5, 1.0, 77);
        let plain = fit(&logits, &labels, 5).unwrap();
        for scale in [1e-2, 0.3, 7.0, 300.0] {
            let found = fit(&logits.iter().map(|z| z * scale).collect::<Vec<_>>(), &labels, 5).unwrap();
            assert_eq!(found.end, End::Minimum);
            let error = (found.value / (plain.value * scale) - 1.0).abs();
            assert!(error < 1e-10, "{scale}: {found:?}");
            assert!((found.nll_after - plain.nll_after).abs() < 1e-12, "{scale}: {found:?}");
        }
        // A fit of what was fitted changes nothing.
        let again = fit(&apply(&logits, plain.value), &labels, 5).unwrap();
        assert!((again.value - 1.0).abs() < 1e-10, "{again:?}");
    }

    #[test]
    fn all_right_goes_to_the_cold_end() {
        // A margin of 1, of next to nothing, and none (a tie: the nll falls, to ln 2).
        for logits in [[2.0, 1.0, 0.0], [1.0, 1.0 - 1e-9, 0.0], [1.0, 1.0, 0.0]] {
            let found = fit(&logits.repeat(3), &[0; 3], 3).unwrap();
            assert_eq!((found.value, found.end), (RANGE[0], End::Coldest), "{logits:?}");
            assert!(found.nll_after <= found.nll_before && found.nll_after >= 0.0, "{found:?}");
        }
        // Sure already: nothing left to gain, and nothing to divide by zero.
        let found = fit(&[1e4, -1e4, -1e4, 1e4], &[0, 1], 2).unwrap();
        assert_eq!((found.end, found.nll_before, found.nll_after), (End::Coldest, 0.0, 0.0));
        assert_eq!(found.value, RANGE[0], "the end of the range, although nothing is gained there");
    }

    #[test]
    fn all_wrong_goes_to_the_hot_end() {
        let found = fit(&[2.0, 1.0, 0.0].repeat(3), &[2; 3], 3).unwrap();
        assert_eq!((found.value, found.end), (RANGE[1], End::Hottest));
        assert!((found.nll_after - 3f64.ln()).abs() < 2e-3 && found.nll_after < found.nll_before, "{found:?}");
        // As many right as wrong by the same margin: chance.
        let chance = fit(&[1.0, 0.0, 1.0, 0.0], &[0, 1], 2).unwrap();
        assert_eq!((chance.value, chance.end), (RANGE[1], End::Hottest));
        // All wrong, but above the mean of the logits: a minimum inside.
        let second = fit(&[2.0, 1.9, -9.0], &[1], 3).unwrap();
        assert_eq!(second.end, End::Minimum);
        assert!(slope(&[2.0, 1.9, -9.0], &[1], 3, second.value).abs() < 1e-7, "{second:?}");
    }

    #[test]
    fn equal_logits_stay_as_they_are() {
        let found = fit(&[5.0, 5.0, -1.0, -1.0], &[0, 1], 2).unwrap();
        assert_eq!((found.value, found.end), (1.0, End::Flat));
        assert!((found.nll_after - 2f64.ln()).abs() < 1e-15 && found.nll_after == found.nll_before);
        assert_eq!(fit(&[3.0, -4.0], &[0, 0], 1).unwrap().end, End::Flat);
        // One row that is not constant decides.
        assert_eq!(fit(&[5.0, 5.0, -1.0, 1.0], &[0, 1], 2).unwrap().end, End::Coldest);
    }

    #[test]
    fn hard_ones_converge() {
        // One wrong answer in many, by far or by little; large and huge logits.
        for (images, right, wrong) in [(1000, 30.0, 30.0), (1000, 30.0, 1e-3), (5000, 1e-2, 5.0), (50, 800.0, 900.0)] {
            let mut logits = [right, 0.0].repeat(images);
            logits[..2].copy_from_slice(&[0.0, wrong]);
            let found = fit(&logits, &vec![0; images], 2).unwrap();
            let exact = Set { logits: &logits, labels: &vec![0; images], classes: 2 }.at(1.0 / found.value);
            let ended = found.end != End::Minimum || exact.slope.abs() <= 1e-13 * exact.size;
            assert!(
                ended && found.nll_after <= found.nll_before,
                "{images} {right} {wrong}: {found:?} {}",
                exact.slope
            );
        }
        let huge = fit(&[LARGEST_LOGIT, -LARGEST_LOGIT, 0.0, LARGEST_LOGIT], &[0, 0], 2).unwrap();
        assert!(huge.nll_after.is_finite() && huge.nll_after <= huge.nll_before, "{huge:?}");
    }

    #[test]
    fn what_cannot_be_fitted_is_an_error() {
        let refused = |logits: &[f64], labels: &[u32], classes| match fit(logits, labels, classes) {
            Err(Error::Fit(message)) => message,
            other => panic!("{other:?}"),
        };
        assert!(refused(&[], &[], 10).contains("found 0 images"));
        assert!(refused(&[], &[0], 0).contains("0 classes"));
        assert!(refused(&[1.0, 2.0, 3.0], &[0, 1], 2).contains("found 3 logits for 2 images"));
        assert!(refused(&[1.0, 2.0], &[2], 2).contains("image 0: found label 2"));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.1 * LARGEST_LOGIT] {
            let message = refused(&[1.0, 2.0, 3.0, bad], &[0, 1], 2);
            assert!(message.starts_with("image 1, class 1: found a logit of"), "{message}");
            let message = refused(&[0.0, 0.0, 0.0, 0.0, 0.0, bad], &[0, 1], 3);
            assert!(message.starts_with("image 1, class 2: found a logit of"), "{message}");
        }
    }

    /// A search that falls back to halving is right as well, and needs some forty steps where Newton's needs a few.
    #[test]
    fn the_search_takes_few_steps() {
        let steps = |slope: &dyn Fn(f64) -> [f64; 2]| {
            let count = std::cell::Cell::new(0);
            let found = minimum(|beta| {
                count.set(count.get() + 1);
                let [slope, curvature] = slope(beta);
                At { nll: 0.0, slope, curvature, size: 1.0 }
            });
            (found, count.get())
        };
        // A parabola: one step, and a look at where it led.
        let (found, taken) = steps(&|beta| [beta - 3.0, 1.0]);
        assert!(found == 3.0 && taken == 2, "{found} after {taken}");
        // 1 - 1/beta^2 and its kin, from both sides.
        for at in [0.02, 0.3, 7.0, 90.0] {
            let (found, taken) = steps(&|beta| [(beta / at).ln(), 1.0 / beta]);
            assert!((found / at - 1.0).abs() < 1e-12 && taken <= 16, "{found} after {taken}, expected {at}");
        }
        // Newton's steps lead astray on an arc tangent, and the bracket brings them back.
        for at in [0.05, 20.0, 400.0] {
            let (found, taken) = steps(&|beta| [(beta - at).atan(), 1.0 / (1.0 + (beta - at).powi(2))]);
            assert!((found / at - 1.0).abs() < 1e-12 && taken <= 20, "{found} after {taken}, expected {at}");
        }
    }
}
