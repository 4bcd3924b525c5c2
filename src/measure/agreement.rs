//! How well a network agrees with people who were asked the same: with the share of them that chose each class.
//!
//! With q the shares of an image and p = softmax(z), means over the images:
//!
//! | measure          | definition                                                            | source               |
//! |------------------|-----------------------------------------------------------------------|----------------------|
//! | cross_entropy    | -sum_k q_k ln p_k                                                     | Peterson et al. 2019 |
//! | kl               | cross-entropy less the entropy of q: 0 where p = q                    |                      |
//! | total_variation  | sum_k \|q_k - p_k\| / 2, from 0 to 1                                  |                      |
//! | rank_correlation | Spearman's, of the entropy of p and the entropy of q over the images: | Spearman 1904        |
//! |                  | does the network doubt where people do, whatever the scale            |                      |

use serde::Serialize;

use super::prediction::probabilities;

/// The measures; losses and entropies in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// How many images.
    pub images: usize,
    /// Mean cross-entropy to the shares.
    pub cross_entropy: f64,
    /// What of it is not the people's own doubt.
    pub kl: f64,
    /// Mean total variation distance.
    pub total_variation: f64,
    /// Mean entropy of the people's shares.
    pub entropy_of_labels: f64,
    /// Mean entropy of the network's answers.
    pub entropy_of_model: f64,
    /// Spearman's correlation of both entropies; NaN where one of them is the same for all images.
    pub rank_correlation: f64,
}

/// Of logits and shares (`[images, classes]` each, row-major); NaN where there are no images.
pub fn agreement(logits: &[f64], shares: &[f64], classes: usize) -> Agreement {
    let rows = || logits.chunks(classes).zip(shares.chunks(classes));
    let images = rows().len();
    let mean = |of: &dyn Fn(&[f64], &[f64]) -> f64| rows().map(|(z, q)| of(z, q)).sum::<f64>() / images as f64;
    let cross_entropy = mean(&|z, q| {
        let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = largest + z.iter().map(|z| (z - largest).exp()).sum::<f64>().ln();
        z.iter().zip(q).map(|(z, q)| q * (log_sum - z)).sum()
    });
    let p = probabilities(logits, classes);
    let distances = p.chunks(classes).zip(shares.chunks(classes)).map(|(p, q)| {
        let apart: f64 = p.iter().zip(q).map(|(p, q)| (p - q).abs()).sum();
        apart / 2.0
    });
    let total_variation = distances.sum::<f64>() / images as f64;
    let [of_model, of_labels] = [&p[..], shares].map(|all| all.chunks(classes).map(entropy).collect::<Vec<_>>());
    let [entropy_of_model, entropy_of_labels] = [&of_model, &of_labels].map(|e| e.iter().sum::<f64>() / images as f64);
    Agreement {
        images,
        cross_entropy,
        kl: cross_entropy - entropy_of_labels,
        total_variation,
        entropy_of_labels,
        entropy_of_model,
        rank_correlation: spearman(&of_model, &of_labels),
    }
}

/// Summed from the least share up: the same shares of other classes have the same entropy, to the last bit, and so the
/// same rank.
fn entropy(p: &[f64]) -> f64 {
    let mut p = p.to_vec();
    p.sort_by(f64::total_cmp);
    p.iter().map(|&p| if p > 0.0 { p * p.recip().ln() } else { 0.0 }).sum()
}

/// Pearson's correlation of the ranks; equals have the mean of their ranks.
fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let middle = (a.len() as f64 + 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - middle) * (b - middle)).sum::<f64>();
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equals in order.chunk_by(|&a, &b| values[a] == values[b]) {
        // Ranks first + 1 to first + n.
        let rank = first as f64 + (equals.len() as f64 + 1.0) / 2.0;
        equals.iter().for_each(|&i| ranks[i] = rank);
        first += equals.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    #[test]
    fn recorded_values() {
        let golden = Golden::open("agreement");
        let cases = golden.cases();
        assert_eq!(cases.len(), 4);
        for case in cases {
            let found = agreement(&case.f64("logits"), &case.f64("shares"), case.parse("classes"));
            for (found, key) in [
                (found.cross_entropy, "cross_entropy"),
                (found.kl, "kl"),
                (found.total_variation, "total_variation"),
                (found.entropy_of_labels, "entropy_of_labels"),
                (found.entropy_of_model, "entropy_of_model"),
                (found.rank_correlation, "rank_correlation"),
            ] {
                let expected = case.scalar(key);
                assert!((found - expected).abs() < 1e-13, "{} {key}: found {found}, expected {expected}", case.name);
            }
        }
    }

    #[test]
    fn ranks_by_hand_and_next_to_nothing() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 1000.0]), 1.0);
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[9.0, 8.0, -7.0]), -1.0);
        assert!(spearman(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
        assert_eq!(entropy(&[0.1, 0.2, 0.7]), entropy(&[0.7, 0.1, 0.2]));
        let none = agreement(&[], &[], 3);
        assert!(none.images == 0 && none.cross_entropy.is_nan() && none.rank_correlation.is_nan());
        // Of images on which all are sure and agree, no measure is -0, which is shown with its sign.
        let sure = agreement(&[1000.0, 0.0], &[1.0, 0.0], 2);
        for zero in [sure.cross_entropy, sure.kl, sure.total_variation, sure.entropy_of_labels, sure.entropy_of_model] {
            assert!(zero == 0.0 && zero.is_sign_positive(), "{sure:?}");
        }
        // As surely as people do: nothing but their own doubt is left.
        let same = agreement(&[3f64.ln(), 0.0], &[0.75, 0.25], 2);
        assert!(same.kl.abs() < 1e-15 && same.total_variation < 1e-15 && same.rank_correlation.is_nan());
    }
}
