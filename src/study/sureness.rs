//! How sure a choice of epsilon is: what other seeds might have chosen.
//!
//! The seeds are drawn with replacement (Efron 1979), and each draw chooses anew by its least mean. Each seed holds out
//! images of its own, so that seeds stand for images too; a bootstrap of the images themselves would need every
//! image's answer. A handful of seeds drawn from itself varies less than new seeds would: the probability is rather
//! too high than too low.

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{Measure, Study};
use crate::rng::{Philox, Stream};

/// So many draws of the seeds.
pub const DRAWS: usize = 2000;

/// More seeds than anyone trains.
const MOST_SEEDS: usize = 1000;

/// How sure a choice is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sureness {
    /// How many seeds were drawn from: those that every epsilon has.
    pub seeds: usize,
    /// The share of the draws in which the chosen epsilon has the least mean; of k equals each counts 1/k.
    pub probability: f64,
    /// By how much its mean is above the least one in the draws where it is not the least; 0 where it always is.
    pub regret: f64,
}

/// How sure `epsilon` is the study's best by `measure`. `None` for fewer than two seeds that every epsilon has.
pub fn sureness(study: &Study, noise: f64, epsilon: f64, measure: Measure) -> Option<Sureness> {
    let epsilons: Vec<f64> =
        study.epsilons.iter().copied().filter(|&e| study.cell(noise, e).next().is_some()).collect();
    let chosen = epsilons.iter().position(|&e| e == epsilon)?;
    let value = |e: f64, seed: u64| study.cell(noise, e).find(|o| o.seed == seed).map(measure.of);
    let of_seed = |seed: u64| epsilons.iter().map(|&e| value(e, seed)).collect::<Option<Vec<f64>>>();
    let rows: Vec<Vec<f64>> = study.cell(noise, epsilon).filter_map(|o| of_seed(o.seed)).collect();
    let seeds = rows.len();
    if seeds < 2 {
        return None;
    }
    let (mut best, mut lost, mut losses) = (0.0, 0.0, 0usize);
    for draw in 0..DRAWS {
        let mut rng = Philox::of(0, Stream::Seeds(draw));
        let drawn: Vec<usize> = (0..seeds).map(|_| rng.below(seeds as u32) as usize).collect();
        let mean = |e: usize| drawn.iter().map(|&seed| rows[seed][e]).sum::<f64>() / seeds as f64;
        let means: Vec<f64> = (0..epsilons.len()).map(mean).collect();
        let least = means.iter().copied().fold(f64::INFINITY, f64::min);
        let equal = |mean: f64| same(mean, least);
        if equal(means[chosen]) {
            best += 1.0 / means.iter().filter(|mean| equal(**mean)).count() as f64;
        } else {
            losses += 1;
            lost += means[chosen] - least;
        }
    }
    let regret = if losses == 0 { 0.0 } else { lost / losses as f64 };
    Some(Sureness { seeds, probability: best / DRAWS as f64, regret })
}

/// Whether two means are the same but for rounding.
pub fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}

/// So many seeds would tell two epsilons apart at the study's level, if their difference and its spread stay as they
/// are. `None` where none would, or more than 1000, or fewer than two seeds are known.
pub fn seeds_to_decide(study: &Study, noise: f64, epsilon: f64, than: f64, measure: Measure) -> Option<usize> {
    let by = study.difference(noise, epsilon, than, measure);
    let deviation = by.standard_error * (by.n as f64).sqrt();
    let decides = |n: &usize| {
        let Ok(t) = StudentsT::new(0.0, 1.0, (n - 1) as f64) else { return false };
        t.inverse_cdf((1.0 + study.level) / 2.0) * deviation < by.mean.abs() * (*n as f64).sqrt()
    };
    (2..=MOST_SEEDS).find(decides)
}

#[cfg(test)]
mod tests {
    use super::super::tests::outcome;
    use super::super::{Outcome, TEST_ERROR};
    use super::*;

    /// `wrong[e][seed]` of 100 answers, at e = 0, 0.1, …
    fn study(wrong: &[&[usize]]) -> Study {
        let of = |(i, wrong): (usize, &&[usize])| -> Vec<Outcome> {
            let runs = wrong.iter().zip(0..).map(|(&wrong, seed)| outcome([i as f64 / 10.0, 0.0], seed, wrong, 1.0));
            runs.collect()
        };
        Study::new(wrong.iter().enumerate().flat_map(of).collect(), 0.95).unwrap()
    }

    /// With two seeds there are four draws, each as likely: both of the first, both of the second, one of each twice.
    #[test]
    fn the_probability_is_that_of_all_draws() {
        // 0.1 is better by 4 for the first seed and worse by 2 for the second: it wins in three draws of four.
        let study = study(&[&[10, 10], &[6, 12]]);
        let at = |e| sureness(&study, 0.0, e, TEST_ERROR).unwrap();
        let (none, some) = (at(0.0), at(0.1));
        assert!((some.probability - 0.75).abs() < 0.03 && (none.probability + some.probability - 1.0).abs() < 1e-12);
        // Where 0.1 is not the best it is above by 0.02; e = 0 by 0.04 in one draw of four, by 0.01 in two.
        assert!((some.regret - 0.02).abs() < 1e-12, "{some:?}");
        assert!((none.regret - (0.04 + 2.0 * 0.01) / 3.0).abs() < 1e-3, "{none:?}");
    }

    #[test]
    fn equals_share_and_a_clear_choice_is_sure() {
        let equal = study(&[&[10, 12, 14], &[10, 12, 14]]);
        assert_eq!(
            sureness(&equal, 0.0, 0.1, TEST_ERROR).unwrap(),
            Sureness { seeds: 3, probability: 0.5, regret: 0.0 }
        );
        let clear = study(&[&[10, 12, 14], &[9, 11, 13]]);
        assert_eq!(sureness(&clear, 0.0, 0.1, TEST_ERROR).unwrap().probability, 1.0);
        assert_eq!(sureness(&study(&[&[1], &[2]]), 0.0, 0.1, TEST_ERROR), None);
        // A seed that one epsilon lacks is left out.
        assert_eq!(sureness(&study(&[&[10, 12, 14], &[9, 11]]), 0.0, 0.1, TEST_ERROR).unwrap().seeds, 2);
    }

    /// Catches a number of seeds with which the interval would still hold 0, or one more than it takes.
    #[test]
    fn as_many_seeds_as_it_takes() {
        // Differences 1, 2, 3, 0, -1: mean 1, deviation sqrt(10/4). t(n-1) * 1.5811 < sqrt(n): at 13 it is 3.445 and
        // 3.606, at 12 3.480 and 3.464.
        let study = study(&[&[10, 10, 10, 10, 10], &[9, 8, 7, 10, 11]]);
        assert_eq!(seeds_to_decide(&study, 0.0, 0.1, 0.0, TEST_ERROR), Some(13));
        let equal = self::study(&[&[10, 11], &[11, 10]]);
        assert_eq!(seeds_to_decide(&equal, 0.0, 0.1, 0.0, TEST_ERROR), None);
    }
}
