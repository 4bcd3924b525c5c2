//! The loss on the fast CPU path: a row's loss, nll and gradient at once, with one exponential a class. Formulas:
//! [`super`].

use super::ComparatorLoss;
use crate::loss::smoothed::fast::softmax;
use crate::real::Real;

/// Loss and nll of a row of logits whose class is `label`, and the gradient for an upstream gradient of 1 into `d`.
pub fn row<T: Real>(loss: &ComparatorLoss, x: &[T], label: u32, d: &mut [T]) -> [T; 2] {
    let class = label as usize;
    if class >= x.len() {
        d.fill(T::zero());
        return [T::zero(); 2];
    }
    let (gamma, beta, one) = (T::of(loss.gamma()), T::of(loss.beta()), T::one());
    let [max, inverse, log_sum] = softmax(x, d);
    d.iter_mut().for_each(|d| *d *= inverse);
    // 1 - p of the target, without cancellation.
    let miss: T = d[..class].iter().chain(&d[class + 1..]).copied().sum();
    let log_p = |class: usize| x[class] - max - log_sum;
    let entropy = log_sum - d.iter().zip(x).map(|(&p, &x)| if p > T::zero() { p * (x - max) } else { p }).sum();
    let own = log_p(class);
    // ln p[y] / miss, which goes to -1 as miss goes to 0. (As it goes to 1, ln(1 - miss) is lost where ln p[y] is not.)
    let ratio = if miss == T::zero() {
        -one
    } else if miss < T::of(0.5) {
        (-miss).ln_1p() / miss
    } else {
        own / miss
    };
    let power = miss.powf(gamma);
    let slope = power * (gamma * d[class] * ratio - one);
    for (k, d) in d.iter_mut().enumerate() {
        let p = *d;
        let step = if k == class { miss } else { -p };
        *d = slope * step + beta * p * (log_p(k) + entropy);
    }
    [-power * own - beta * entropy, -own]
}
