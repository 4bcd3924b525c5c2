//! What is done to logits before the softmax, so that confidences fit: a temperature, or a weight and a bias for each
//! class (vector scaling).
//!
//! Source: Guo, Pleiss, Sun, Weinberger 2017, "On calibration of modern neural networks". Vector scaling has 2C numbers
//! where a temperature has one, and can change answers. With few images it learns them by heart. So it is pulled
//! towards the temperature 1/beta, by as much as one image counts (as Berta et al. 2025, "Structured matrix scaling for
//! multi-class calibration", pull theirs):
//!
//! ```text
//! J(w, b) = mean over images of -ln softmax(w z + b)_y + 1/(2n) sum_k (s^2 (w_k - beta)^2 + b_k^2)
//! ```
//!
//! with s^2 the mean square of all logits, each less its row's mean, so that w has the weight of what it does. J is
//! strictly convex in w and b, and has one minimum, also where a class has no image.

use super::temperature::{self, End};
use crate::{Error, Result};

/// What is done to logits before the softmax.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// All are divided by it.
    Temperature(f64),
    /// Each class's logit has its own weight and bias.
    Vector(Vector),
}

/// A weight and a bias for each class.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Vector {
    /// `[classes]`: what the logits are multiplied by.
    pub weights: Vec<f64>,
    /// `[classes]`: what is then added.
    pub biases: Vec<f64>,
}

impl Vector {
    /// Whether all are numbers.
    pub fn is_finite(&self) -> bool {
        self.weights.iter().chain(&self.biases).all(|value| value.is_finite())
    }
}

/// Kinds of scaling that can be fitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Method {
    /// One number divides every logit: no answer changes
    #[default]
    Temperature,
    /// A weight and a bias for each class: answers may change. Written only where its cross-fitted nll is below the
    /// temperature's
    Vector,
}

impl Method {
    /// Fits this kind of scaling of `logits` (`[labels.len(), classes]`, row-major) to `labels`. The end is that of the
    /// temperature, with which vector scaling begins; where it is an end of the range, the scaling is that temperature.
    ///
    /// # Errors
    /// As [`temperature::fit`].
    pub fn fit(self, logits: &[f64], labels: &[u32], classes: usize) -> Result<(Scaling, End)> {
        let found = temperature::fit(logits, labels, classes)?;
        let scaling = match (self, found.end) {
            (Self::Vector, End::Minimum) => {
                Scaling::Vector(fit_vector(logits, labels, classes, 1.0 / found.value, 1.0))
            }
            _ => Scaling::Temperature(found.value),
        };
        Ok((scaling, found.end))
    }
}

impl Scaling {
    /// Logits as they are.
    pub const NONE: Self = Self::Temperature(1.0);

    /// Scales logits `[images, classes]`.
    pub fn apply(&self, logits: &[f64]) -> Vec<f64> {
        match self {
            Self::Temperature(t) => temperature::apply(logits, *t),
            Self::Vector(Vector { weights, biases }) => {
                let each = weights.iter().zip(biases).cycle();
                logits.iter().zip(each).map(|(z, (w, b))| w * z + b).collect()
            }
        }
    }

    /// Whether logits stay as they are.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// The temperature, if it is one.
    pub fn temperature(&self) -> Option<f64> {
        match self {
            Self::Temperature(t) => Some(*t),
            Self::Vector(_) => None,
        }
    }

    /// The weights and biases, if it has them.
    pub fn vector(&self) -> Option<&Vector> {
        match self {
            Self::Temperature(_) => None,
            Self::Vector(vector) => Some(vector),
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::Temperature(t) => format!("temperature {t:.4}"),
            Self::Vector(Vector { weights, biases }) => {
                let range = |values: &[f64]| {
                    let of = |pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick).unwrap_or(f64::NAN);
                    [of(f64::min), of(f64::max)]
                };
                let ([least_w, most_w], [least_b, most_b]) = (range(weights), range(biases));
                format!("vector scaling (weights {least_w:.4} to {most_w:.4}, biases {least_b:.4} to {most_b:.4})")
            }
        }
    }

    /// What is wrong with it for logits of so many classes.
    ///
    /// # Errors
    /// [`Error::Fit`] for weights or biases that are not `classes`.
    pub fn check(&self, classes: usize) -> Result<()> {
        if let Self::Vector(Vector { weights, biases }) = self
            && [weights.len(), biases.len()] != [classes; 2]
        {
            let (w, b) = (weights.len(), biases.len());
            return Err(Error::Fit(format!(
                "found vector scaling with {w} weights and {b} biases, expected one of each for the {classes} classes"
            )));
        }
        Ok(())
    }

    /// The scaling of all classes, of one of those that are `allowed`. The others have nothing done to them.
    pub fn of_all(self, allowed: &[bool]) -> Self {
        let Self::Vector(Vector { weights, biases }) = self else { return self };
        let spread = |part: Vec<f64>, other: f64| {
            let mut part = part.into_iter();
            allowed.iter().map(|&allowed| if allowed { part.next().unwrap_or(other) } else { other }).collect()
        };
        Self::Vector(Vector { weights: spread(weights, 1.0), biases: spread(biases, 0.0) })
    }
}

/// The minimum of J, with `beta` and with the pull times `strength`, by Newton's method with conjugate gradients
/// inside.
///
/// The unknowns are x = (s (w - beta), b): the pull is then the same in every direction.
fn fit_vector(logits: &[f64], labels: &[u32], classes: usize, beta: f64, strength: f64) -> Vector {
    let spread: f64 = logits
        .chunks(classes)
        .map(|row| {
            let mean = row.iter().sum::<f64>() / classes as f64;
            row.iter().map(|z| (z - mean).powi(2)).sum::<f64>()
        })
        .sum();
    let s = (spread / logits.len() as f64).sqrt();
    let problem = Problem { logits, labels, classes, beta, s, pull: strength / labels.len() as f64 };
    let mut x = vec![0.0; 2 * classes];
    let mut at = problem.at(&x);
    // About ten are enough.
    for _ in 0..100 {
        let size = norm(&at.gradient);
        if size <= 1e-14 {
            break;
        }
        let step = problem.newton_step(&at, size.min(0.1));
        let slope = dot(&at.gradient, &step);
        let lower = (0..40).find_map(|halvings| {
            let share = 0.5f64.powi(halvings);
            let next: Vec<f64> = x.iter().zip(&step).map(|(x, d)| x + share * d).collect();
            let found = problem.at(&next);
            // Near the minimum J is flat in its digits, and its gradient is not.
            let nearer = share == 1.0 && norm(&found.gradient) < size / 2.0 && found.value <= at.value + 1e-12;
            (found.value < at.value + 1e-4 * share * slope || nearer).then_some((next, found))
        });
        let Some((next, found)) = lower else { break };
        (x, at) = (next, found);
    }
    let (v, biases) = x.split_at(classes);
    Vector { weights: v.iter().map(|v| beta + v / s).collect(), biases: biases.to_vec() }
}

struct Problem<'a> {
    logits: &'a [f64],
    labels: &'a [u32],
    classes: usize,
    beta: f64,
    s: f64,
    pull: f64,
}

/// J at a place.
struct Place {
    value: f64,
    /// `[2 classes]`.
    gradient: Vec<f64>,
    /// `[images, classes]`.
    probabilities: Vec<f64>,
}

impl Problem<'_> {
    fn at(&self, x: &[f64]) -> Place {
        let Self { logits, labels, classes, beta, s, pull } = *self;
        let (v, b) = x.split_at(classes);
        let n = labels.len() as f64;
        let mut value = pull / 2.0 * dot(x, x);
        let mut gradient: Vec<f64> = x.iter().map(|x| pull * x).collect();
        let mut probabilities = vec![0.0; logits.len()];
        for ((row, p), &label) in logits.chunks(classes).zip(probabilities.chunks_mut(classes)).zip(labels) {
            for k in 0..classes {
                p[k] = (beta + v[k] / s) * row[k] + b[k];
            }
            let of_label = p[label as usize];
            let top = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            p.iter_mut().for_each(|p| *p = (*p - top).exp());
            let sum: f64 = p.iter().sum();
            p.iter_mut().for_each(|p| *p /= sum);
            value += (sum.ln() + top - of_label) / n;
            for k in 0..classes {
                let error = (p[k] - f64::from(k == label as usize)) / n;
                gradient[k] += error * row[k] / s;
                gradient[classes + k] += error;
            }
        }
        Place { value, gradient, probabilities }
    }

    /// The second derivative of J times `d`.
    fn curvature(&self, probabilities: &[f64], d: &[f64]) -> Vec<f64> {
        let Self { logits, labels, classes, s, pull, .. } = *self;
        let n = labels.len() as f64;
        let mut out: Vec<f64> = d.iter().map(|d| pull * d).collect();
        let mut moved = vec![0.0; classes];
        for (row, p) in logits.chunks(classes).zip(probabilities.chunks(classes)) {
            for k in 0..classes {
                moved[k] = d[k] * row[k] / s + d[classes + k];
            }
            let mean = dot(p, &moved);
            for k in 0..classes {
                let change = p[k] * (moved[k] - mean) / n;
                out[k] += change * row[k] / s;
                out[classes + k] += change;
            }
        }
        out
    }

    /// A step d with curvature * d = -gradient, up to the share `left` of the gradient.
    fn newton_step(&self, at: &Place, left: f64) -> Vec<f64> {
        let mut step = vec![0.0; at.gradient.len()];
        let mut rest: Vec<f64> = at.gradient.iter().map(|g| -g).collect();
        let mut direction = rest.clone();
        let mut size = dot(&rest, &rest);
        let enough = left * left * size;
        // In exact numbers, as many as there are unknowns.
        for _ in 0..2 * step.len() {
            if size <= enough {
                break;
            }
            let along = self.curvature(&at.probabilities, &direction);
            let share = size / dot(&direction, &along);
            for i in 0..step.len() {
                step[i] += share * direction[i];
                rest[i] -= share * along[i];
            }
            let next = dot(&rest, &rest);
            direction.iter_mut().zip(&rest).for_each(|(d, r)| *d = r + next / size * *d);
            size = next;
        }
        step
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;
    use crate::loss::smoothing::Smoothing;
    use crate::measure::cross_fit::cross_fit;
    use crate::measure::evaluate;
    use crate::rng::Philox;

    /// Catches a fit that ends beside the minimum, and a pull that is not the one of the formula.
    #[test]
    fn recorded_values() {
        let golden = Golden::open("temperature");
        for case in golden.cases() {
            let (logits, labels, classes) = (case.f64("logits"), case.labels("labels"), case.parse("classes"));
            let temperature = case.scalar("temperature");
            for (key, pull) in [("", 1.0), ("_50", 50.0)] {
                let found = fit_vector(&logits, &labels, classes, 1.0 / temperature, pull);
                let (weights, biases) = (case.f64(&format!("weights{key}")), case.f64(&format!("biases{key}")));
                for k in 0..classes {
                    let apart =
                        ((found.weights[k] - weights[k]) * temperature).abs().max((found.biases[k] - biases[k]).abs());
                    let of = format!("{} with a pull of {pull}, class {k}", case.name);
                    assert!(apart < 1e-9, "{of}: {apart:e} between {found:?} and {weights:?}, {biases:?}");
                }
            }
            let (found, end) = Method::Vector.fit(&logits, &labels, classes).unwrap();
            let nll = |scaling: &Scaling| evaluate(&scaling.apply(&logits), &labels, classes, Smoothing::NONE).nll;
            assert!(end == End::Minimum && nll(&found) < nll(&Scaling::Temperature(temperature)), "{}", case.name);
        }
    }

    /// Logits from -3 to 3 of 4 classes; labels drawn from softmax(w z + b).
    fn drawn(images: usize, truth: &Vector, seed: u64) -> (Vec<f64>, Vec<u32>) {
        let mut rng = Philox::new(seed, 0);
        let logits: Vec<f64> = (0..images * 4).map(|_| rng.range(-3.0, 3.0)).collect();
        let p = crate::measure::probabilities(&Scaling::Vector(truth.clone()).apply(&logits), 4);
        let mut label = |p: &[f64]| {
            let mut left = rng.uniform();
            let found = p.iter().position(|p| {
                left -= p;
                left < 0.0
            });
            found.unwrap_or(3) as u32
        };
        (logits, p.chunks(4).map(&mut label).collect())
    }

    /// What was drawn with a weight and a bias of each class is found, and is better on images that were not fitted on;
    /// what was drawn with a temperature is not made better by more numbers.
    #[test]
    fn the_cross_fitted_nll_tells_which_is_needed() {
        let truth = Vector { weights: vec![0.5, 1.0, 1.5, 1.0], biases: vec![0.5, -1.0, 0.25, 0.25] };
        let (logits, labels) = drawn(20_000, &truth, 1);
        let (Scaling::Vector(found), _) = Method::Vector.fit(&logits, &labels, 4).unwrap() else { panic!() };
        // A constant added to all biases changes nothing; the pull takes their sum to 0, as the truth's is.
        for k in 0..4 {
            let apart = [found.weights[k] - truth.weights[k], found.biases[k] - truth.biases[k]];
            assert!(apart.iter().all(|apart| apart.abs() < 0.1), "{found:?}");
        }
        let nll = |method, logits: &[f64], labels: &[u32]| cross_fit(method, logits, labels, 4).unwrap().nll;
        let [one, each] = [Method::Temperature, Method::Vector].map(|m| nll(m, &logits, &labels));
        assert!(each < one - 0.02, "a temperature {one}, vector scaling {each}");
        let tempered = Vector { weights: vec![0.7; 4], biases: vec![0.0; 4] };
        let (mut ones, mut eaches) = (0.0, 0.0);
        for seed in 0..30 {
            let (logits, labels) = drawn(60, &tempered, 100 + seed);
            ones += nll(Method::Temperature, &logits, &labels) / 30.0;
            eaches += nll(Method::Vector, &logits, &labels) / 30.0;
        }
        assert!(eaches > ones + 0.005, "a temperature {ones}, vector scaling {eaches}");
    }

    #[test]
    fn a_class_without_images_and_one_that_took_no_part() {
        let (logits, mut labels) = drawn(200, &Vector { weights: vec![1.0; 4], biases: vec![0.0; 4] }, 7);
        labels.iter_mut().filter(|label| **label == 2).for_each(|label| *label = 1);
        let (scaling, _) = Method::Vector.fit(&logits, &labels, 4).unwrap();
        let Scaling::Vector(found) = &scaling else { panic!() };
        assert!(found.is_finite() && found.biases[2] < -1.0, "{found:?}");
        let all = scaling.clone().of_all(&[true, false, true, true, false, true]);
        let Scaling::Vector(Vector { weights, biases }) = &all else { panic!() };
        assert_eq!((weights[1], biases[1], weights[4]), (1.0, 0.0, 1.0));
        assert_eq!((weights[5], biases[2]), (found.weights[3], found.biases[1]));
        assert!(all.check(6).is_ok() && all.check(4).unwrap_err().to_string().contains("6 weights and 6 biases"));
        assert_eq!(Scaling::Temperature(2.0).of_all(&[true, false]), Scaling::Temperature(2.0));
        // Logits as they are.
        assert_eq!(Scaling::NONE.apply(&[0.5, -3.0]), [0.5, -3.0]);
        assert!(Scaling::NONE.is_none() && !scaling.is_none());
    }
}
