//! Images of another kind than those trained on: whether a score tells them from the network's own.
//!
//! A network gives every image an answer, also one of something that it never saw. If its score is lower for such
//! images, a threshold can turn them away. Sources: Hendrycks and Gimpel 2017 (the largest probability, the two
//! measures); Hendrycks et al. 2022 (the largest logit); Liu et al. 2020 (the energy).

use serde::Serialize;

/// What an image is scored by, the larger the more it is one of the network's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OodScore {
    /// The largest probability.
    MaxProbability,
    /// The largest logit.
    MaxLogit,
    /// ln of the sum of exp(logit): the negative energy.
    Energy,
}

impl OodScore {
    /// Every score.
    pub const ALL: [Self; 3] = [Self::MaxProbability, Self::MaxLogit, Self::Energy];

    /// As tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxProbability => "max probability",
            Self::MaxLogit => "max logit",
            Self::Energy => "energy",
        }
    }

    /// Of a row of logits.
    pub fn of(self, logits: &[f64]) -> f64 {
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = logits.iter().map(|z| (z - largest).exp()).sum::<f64>().ln();
        match self {
            Self::MaxProbability => (-log_sum).exp(),
            Self::MaxLogit => largest,
            Self::Energy => largest + log_sum,
        }
    }
}

/// How well a score tells the two kinds of images apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Detection {
    /// By what.
    pub score: OodScore,
    /// How likely an image of the network's own scores higher than one of the other kind; equals count half. 1 is
    /// perfect, 0.5 is chance.
    pub auroc: f64,
    /// The share of the other kind's images that pass a threshold which 95 % of the own images pass.
    pub fpr95: f64,
}

/// Of the logits of own images and of others (`[images, classes]` each, row-major); NaN where there are none of a kind,
/// or where a logit is NaN.
pub fn detections(own: &[f64], others: &[f64], classes: usize) -> [Detection; 3] {
    OodScore::ALL.map(|score| {
        let of = |logits: &[f64]| logits.chunks(classes.max(1)).map(|row| score.of(row)).collect::<Vec<_>>();
        detection(score, of(own), of(others))
    })
}

fn detection(score: OodScore, mut own: Vec<f64>, mut others: Vec<f64>) -> Detection {
    if own.is_empty() || others.is_empty() || own.iter().chain(&others).any(|v| v.is_nan()) {
        return Detection { score, auroc: f64::NAN, fpr95: f64::NAN };
    }
    own.sort_by(f64::total_cmp);
    others.sort_by(f64::total_cmp);
    // Of each own image the others below it, and half of its equals: the statistic of Mann and Whitney.
    let below = |v: f64| others.partition_point(|&other| other < v);
    let up_to = |v: f64| others.partition_point(|&other| other <= v);
    let wins: f64 = own.iter().map(|&v| (below(v) + up_to(v)) as f64 / 2.0).sum();
    // The largest threshold that 95 % of the own images reach.
    let passing = (0.95 * own.len() as f64 - 1e-9).ceil().max(1.0) as usize;
    let threshold = own[own.len() - passing];
    let passed = others.len() - below(threshold);
    Detection {
        score,
        auroc: wins / (own.len() as f64 * others.len() as f64),
        fpr95: passed as f64 / others.len() as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(own: &[f64], others: &[f64]) -> [f64; 2] {
        let found = detection(OodScore::MaxLogit, own.to_vec(), others.to_vec());
        [found.auroc, found.fpr95]
    }

    /// By hand: of 3 * 2 pairs 4 are won and one is drawn. 95 % of three images are all three, so that the threshold is
    /// 1.
    #[test]
    fn pairs_and_shares_by_hand() {
        assert_eq!(of(&[3.0, 1.0, 2.0], &[2.0, 0.0]), [4.5 / 6.0, 0.5]);
        assert_eq!(of(&[1.0, 1.0], &[1.0]), [0.5, 1.0], "equals tell nothing");
        assert_eq!(of(&[2.0], &[1.0]), [1.0, 0.0]);
        assert_eq!(of(&[1.0], &[2.0]), [0.0, 1.0]);
        // Of 20 own images 19 must pass: the least of all need not.
        let own: Vec<f64> = (0..20).map(f64::from).collect();
        assert_eq!(of(&own, &[0.5, 0.75, 1.0, 30.0])[1], 0.5);
        assert!(of(&[], &[1.0])[0].is_nan() && of(&[1.0], &[])[1].is_nan() && of(&[f64::NAN], &[1.0])[0].is_nan());
    }

    #[test]
    fn scores_by_hand() {
        let logits = [2f64.ln(), 0.0, 0.0];
        let close = |score: OodScore, expected: f64| assert!((score.of(&logits) - expected).abs() < 1e-15, "{score:?}");
        close(OodScore::MaxProbability, 0.5);
        close(OodScore::MaxLogit, 2f64.ln());
        close(OodScore::Energy, 4f64.ln());
        // The energy sees the logits' level, the probability does not.
        let shifted = [1000.0 + 2f64.ln(), 1000.0, 1000.0];
        assert!((OodScore::MaxProbability.of(&shifted) - 0.5).abs() < 1e-12);
        assert!((OodScore::Energy.of(&shifted) - 1000.0 - 4f64.ln()).abs() < 1e-12);
    }
}
