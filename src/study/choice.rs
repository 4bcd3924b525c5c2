//! Which epsilon to use, chosen on the images held out, and a prediction of the one that calibrates.

use serde::Serialize;

use super::stats::{Estimate, estimate};
use super::sureness::{Sureness, same, seeds_to_decide, sureness};
use super::{Judged, Measure, Outcome, Study};
use crate::loss::smoothing::Variant;

/// By which labels the images held out are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldOut {
    /// With as much noise as those trained on: whoever has noisy data has no others.
    #[default]
    Noisy,
    /// As the files have them.
    Clean,
}

/// What makes an epsilon good. Each is measured on the images held out, never on the test set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// The share of wrong answers.
    #[default]
    Error,
    /// Plain cross-entropy after a temperature, fitted on other images held out: the one for whoever uses the
    /// probabilities and fits a temperature.
    RefinedNll,
    /// Plain cross-entropy without a temperature: it rewards the confidence that one number would mend.
    Nll,
    /// Calibration alone, without a temperature.
    Ece,
}

impl Criterion {
    /// Every criterion.
    pub const ALL: [Self; 4] = [Self::Error, Self::RefinedNll, Self::Nll, Self::Ece];

    /// What is made small.
    pub fn measure(self, labels: HeldOut) -> Measure {
        let measure = |name, of| Measure { name, of };
        match (self, labels) {
            (Self::Error, HeldOut::Clean) => measure("validation error", |o| o.validation.plain.error),
            (Self::RefinedNll, HeldOut::Clean) => super::REFINED_NLL,
            (Self::Nll, HeldOut::Clean) => measure("validation nll", |o| o.validation.plain.nll),
            (Self::Ece, HeldOut::Clean) => measure("validation ECE", |o| o.validation.plain.ece),
            (Self::Error, HeldOut::Noisy) => measure("error on noisy validation labels", |o| noisy(o, |j| j.error)),
            (Self::RefinedNll, HeldOut::Noisy) => {
                measure("refined nll on noisy validation labels", |o| noisy(o, |j| j.refined_nll))
            }
            (Self::Nll, HeldOut::Noisy) => measure("nll on noisy validation labels", |o| noisy(o, |j| j.nll)),
            (Self::Ece, HeldOut::Noisy) => measure("ECE on noisy validation labels", |o| noisy(o, |j| j.ece)),
        }
    }
}

fn noisy(outcome: &Outcome, of: fn(&Judged) -> f64) -> f64 {
    outcome.noisy_validation.as_ref().map_or(f64::NAN, of)
}

impl HeldOut {
    /// The other of the two.
    pub fn other(self) -> Self {
        match self {
            Self::Noisy => Self::Clean,
            Self::Clean => Self::Noisy,
        }
    }

    /// The labels that there are: without noise, and in results of earlier versions, only clean ones.
    pub fn at(self, study: &Study, noise: f64) -> Self {
        if noise > 0.0 && study.is_noisily_judged(noise) { self } else { Self::Clean }
    }
}

/// The study's epsilons that have runs at `noise`, the best first; of equals the smaller.
pub fn ranked(study: &Study, noise: f64, criterion: Criterion, labels: HeldOut) -> Vec<f64> {
    let measure = criterion.measure(labels.at(study, noise));
    let of = |epsilon: f64| study.of_cell(noise, epsilon, measure);
    let mut found: Vec<_> = study.epsilons.iter().map(|&e| (e, of(e))).filter(|(_, cell)| cell.n > 0).collect();
    found.sort_by(|(_, a), (_, b)| a.mean.total_cmp(&b.mean));
    // As many wrong answers in another order of the seeds may differ in the last digit.
    for group in found.chunk_by_mut(|(_, a), (_, b)| same(a.mean, b.mean)) {
        group.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    }
    found.into_iter().map(|(epsilon, _)| epsilon).collect()
}

/// What a choice costs: the calibration error on the test set, which no choice here is made by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// ECE without smoothing; NaN without such runs.
    pub ece_before: f64,
    /// ECE at the chosen epsilon.
    pub ece_after: f64,
    /// As `ece_before`, with each run's own temperature.
    pub scaled_before: f64,
    /// As `ece_after`, with each run's own temperature.
    pub scaled_after: f64,
}

/// A recommended epsilon.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EpsilonChoice {
    /// The rate of label noise it is for.
    pub label_noise: f64,
    /// By what.
    pub criterion: Criterion,
    /// By which labels.
    pub labels: HeldOut,
    /// The epsilon.
    pub epsilon: f64,
    /// That of the least mean.
    pub best: f64,
    /// Other epsilons with the same mean as the best.
    pub ties: Vec<f64>,
    /// Other epsilons, smaller and larger ones, that are within one standard error of the best: seeds cannot tell.
    pub near: Vec<f64>,
    /// How sure the choice is; `None` for fewer than two seeds.
    pub sureness: Option<Sureness>,
    /// So many seeds would tell the best from the second: [`seeds_to_decide`].
    pub seeds_to_decide: Option<usize>,
    /// What it costs.
    pub cost: Cost,
    /// Why.
    pub reason: String,
}

impl EpsilonChoice {
    /// What the choice alone would hide, in sentences for people.
    pub fn doubts(&self) -> Vec<String> {
        let list = |all: &[f64]| all.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
        let mut said = vec![];
        if !self.ties.is_empty() {
            said.push(format!("the same mean as e = {}: e = {}", self.best, list(&self.ties)));
        }
        if !self.near.is_empty() {
            said.push(format!("within one standard error of e = {}: e = {}", self.best, list(&self.near)));
        }
        if let Some(Sureness { seeds, probability, regret }) = self.sureness {
            let percent = 100.0 * probability;
            // What would be shown as 100 % has no other draws worth a word.
            let other = if percent >= 99.5 {
                String::new()
            } else {
                format!("; where it is not, its mean is above the best one by {regret:.4}")
            };
            said.push(format!(
                "e = {} is the best in {percent:.0} % of draws of the {seeds} seeds{other}",
                self.epsilon
            ));
        }
        if let Some(n) = self.seeds_to_decide
            && self.sureness.is_none_or(|sureness| n > sureness.seeds)
        {
            said.push(format!("about {n} seeds would tell e = {} from the second best", self.best));
        }
        let Cost { ece_before, ece_after, scaled_before, scaled_after } = self.cost;
        if self.epsilon != 0.0 && ece_before.is_finite() {
            said.push(format!(
                "its cost: ECE on the test set from {ece_before:.3} (e = 0) to {ece_after:.3}; with a temperature from \
                 {scaled_before:.3} to {scaled_after:.3}"
            ));
        }
        said
    }
}

/// The least epsilon whose measure, over pairs of the same seed, is within one standard error of the best one's (the
/// rule of Breiman et al. 1984, applied to differences): where seeds cannot tell two apart, the simpler one. `None` if
/// there is no run at `noise`.
pub fn choose(study: &Study, noise: f64, criterion: Criterion, labels: HeldOut) -> Option<EpsilonChoice> {
    let labels = labels.at(study, noise);
    let measure = criterion.measure(labels);
    let ranked = ranked(study, noise, criterion, labels);
    let best = *ranked.first()?;
    let near = |&epsilon: &f64| {
        let by = study.difference(noise, epsilon, best, measure);
        epsilon <= best && by.mean <= by.standard_error
    };
    let epsilon = study.epsilons.iter().copied().find(near).unwrap_or(best);
    let of = |epsilon: f64| study.of_cell(noise, epsilon, measure).mean;
    let least = format!("e = {best} has the least mean {} ({:.4})", measure.name, of(best));
    let reason = if epsilon == best {
        match best {
            0.0 => format!("{least}: smoothing gains nothing by this measure"),
            _ if study.epsilons.last() == Some(&best) => {
                format!("{least}; it is the largest of this study, and a larger one may be better still")
            }
            _ => format!("{least}, and no smaller e is within one standard error of it"),
        }
    } else {
        let by = study.difference(noise, epsilon, best, measure);
        format!(
            "{least}; e = {epsilon} ({:.4}) is above it by {:.4}, within one standard error ({:.4}) over {} seeds, and smaller",
            of(epsilon),
            by.mean,
            by.standard_error,
            by.n
        )
    };
    let others = |wanted: &dyn Fn(f64) -> bool| {
        let mut found: Vec<f64> = ranked[1..].iter().copied().filter(|&e| wanted(e)).collect();
        found.sort_by(f64::total_cmp);
        found
    };
    let tied = |e: f64| same(of(e), of(best));
    let within = |e: f64| {
        let by = study.difference(noise, e, best, measure);
        by.mean <= by.standard_error && !tied(e)
    };
    let ece = |measure: Measure| [0.0, epsilon].map(|e| study.of_cell(noise, e, measure).mean);
    let ([ece_before, ece_after], [scaled_before, scaled_after]) = (ece(super::ECE), ece(super::ECE_SCALED));
    Some(EpsilonChoice {
        label_noise: noise,
        criterion,
        labels,
        epsilon,
        best,
        ties: others(&tied),
        near: others(&within),
        sureness: sureness(study, noise, epsilon, measure),
        seeds_to_decide: ranked.get(1).and_then(|&second| seeds_to_decide(study, noise, second, best, measure)),
        cost: Cost { ece_before, ece_after, scaled_before, scaled_after },
        reason,
    })
}

/// The prediction that the epsilon of the best calibration lies near error * C/(C-1): a network that gives every image
/// the smoothed target's confidence, 1 - e + e/C, is then right as often as it says. For `off-target` it is the error
/// itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// The rate of label noise.
    pub label_noise: f64,
    /// The test error without smoothing.
    pub error: f64,
    /// The epsilon predicted.
    pub predicted: f64,
    /// The study's epsilon of the least mean test ECE.
    pub least_ece: f64,
    /// The epsilons that are nearer to `least_ece` than to its neighbours: what a grid can tell.
    pub cell: [f64; 2],
    /// Where mean confidence - accuracy on the test set crosses zero, by straight lines over the grid, for each seed;
    /// no values where it does not.
    pub crossing: Estimate,
    /// Whether the prediction is in `cell`.
    pub agrees: bool,
}

/// The prediction beside what was found. `None` without runs at epsilon 0, or without the number of classes.
pub fn prediction(study: &Study, noise: f64) -> Option<Forecast> {
    let plain = study.of_cell(noise, 0.0, super::TEST_ERROR);
    let epsilons: Vec<f64> =
        study.epsilons.iter().copied().filter(|&e| study.cell(noise, e).next().is_some()).collect();
    // A table of an earlier version does not say how many classes there are.
    if plain.n == 0 || study.classes() == 0 {
        return None;
    }
    let classes = study.classes() as f64;
    let predicted = match study.outcomes()[0].smoothing_variant {
        Variant::Uniform => plain.mean * classes / (classes - 1.0),
        Variant::OffTarget => plain.mean,
    };
    let ece: Vec<f64> = epsilons.iter().map(|&e| study.of_cell(noise, e, super::ECE).mean).collect();
    let at = (0..ece.len()).min_by(|&a, &b| ece[a].total_cmp(&ece[b]))?;
    let middle = |other: Option<&f64>, end: f64| other.map_or(end, |other| (other + epsilons[at]) / 2.0);
    let cell = [
        middle(at.checked_sub(1).map(|i| &epsilons[i]), f64::NEG_INFINITY),
        middle(epsilons.get(at + 1), f64::INFINITY),
    ];
    let seeds = study.cell(noise, 0.0).map(|o| o.seed);
    let crossings: Vec<f64> = seeds.filter_map(|seed| crossing(study, noise, &epsilons, seed)).collect();
    Some(Forecast {
        label_noise: noise,
        error: plain.mean,
        predicted,
        least_ece: epsilons[at],
        cell,
        crossing: estimate(&crossings, study.level),
        agrees: (cell[0]..=cell[1]).contains(&predicted),
    })
}

fn crossing(study: &Study, noise: f64, epsilons: &[f64], seed: u64) -> Option<f64> {
    let of = |epsilon: f64| study.cell(noise, epsilon).find(|o| o.seed == seed).map(super::OVERCONFIDENCE.of);
    epsilons.windows(2).find_map(|pair| {
        let (above, below) = (of(pair[0])?, of(pair[1])?);
        (above >= 0.0 && below < 0.0).then(|| pair[0] + (pair[1] - pair[0]) * above / (above - below))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::outcome;
    use super::*;

    fn study(wrong: &[(f64, [usize; 3])]) -> Study {
        let outcomes = wrong.iter().flat_map(|&(epsilon, wrong)| {
            (0..3).map(move |seed| outcome([epsilon, 0.0], seed, wrong[seed as usize], 2.0))
        });
        Study::new(outcomes.collect(), 0.95).unwrap()
    }

    #[test]
    fn seeds_that_cannot_tell_choose_the_smaller_epsilon() {
        // 0.1 is better than 0 by 1, 1, 1: told apart. 0.2 is better than 0.1 by 2, -1, 0: not.
        let study = study(&[(0.0, [10, 12, 14]), (0.1, [9, 11, 13]), (0.2, [7, 12, 13])]);
        assert_eq!(ranked(&study, 0.0, Criterion::Error, HeldOut::Clean), [0.2, 0.1, 0.0]);
        let found = choose(&study, 0.0, Criterion::Error, HeldOut::Clean).unwrap();
        assert_eq!((found.epsilon, found.best), (0.1, 0.2), "{}", found.reason);
        assert!(found.reason.contains("within one standard error"), "{}", found.reason);
    }

    /// Catches a choice by the plain nll, which e = 0.1 wins here, where the refined one was asked for; and one that
    /// mixes cross-fitted runs with others.
    #[test]
    fn the_refined_nll_chooses_by_itself() {
        let with = |refined: [Option<f64>; 2]| {
            let of = |seed: u64| {
                let [plain, smoothed] = refined.map(|value| value.map(|value| value + 0.1 * seed as f64));
                [
                    super::super::Outcome { refined_nll: plain, ..outcome([0.0, 0.0], seed, 20, 5.0) },
                    super::super::Outcome { refined_nll: smoothed, ..outcome([0.1, 0.0], seed, 20, 1.5) },
                ]
            };
            Study::new((0..3).flat_map(of).collect(), 0.95).unwrap()
        };
        let study = with([Some(0.3), Some(0.4)]);
        assert!(study.is_cross_fitted());
        let chosen = |study: &Study, by| choose(study, 0.0, by, HeldOut::Clean).unwrap().epsilon;
        assert_eq!((chosen(&study, Criterion::RefinedNll), chosen(&study, Criterion::Nll)), (0.0, 0.1));
        let mixed = with([Some(0.3), None]);
        assert!(!mixed.is_cross_fitted());
        assert_eq!(chosen(&mixed, Criterion::RefinedNll), 0.1, "all by the nll with the run's own temperature");
        let by: Vec<_> = Criterion::ALL.iter().map(crate::parse::to_json).collect();
        assert_eq!(by, ["\"error\"", "\"refined-nll\"", "\"nll\"", "\"ece\""]);
    }

    /// With noise the labels decide: here the clean ones take 0.4 and the noisy ones 0.1. Without noise, and where a
    /// run has none, there are only clean ones.
    #[test]
    fn noisy_labels_choose_where_there_are_some() {
        let of = |noise: f64, judged: Option<f64>| {
            let runs = [(0.0, 30, 0.5), (0.1, 20, 0.3), (0.4, 10, 0.4)];
            let of = move |(epsilon, wrong, error): (f64, usize, f64)| {
                let noisy = Judged { error, nll: error, ece: 1.0 - error, refined_nll: error };
                Outcome { noisy_validation: judged.map(|_| noisy), ..outcome([epsilon, noise], 0, wrong, 1.0) }
            };
            Study::new(runs.map(of).to_vec(), 0.95).unwrap()
        };
        let chosen = |study: &Study, noise, by, labels| {
            let found = choose(study, noise, by, labels).unwrap();
            (found.best, found.labels)
        };
        let noisy = of(0.4, Some(0.0));
        for (by, best) in [(Criterion::Error, 0.1), (Criterion::RefinedNll, 0.1), (Criterion::Ece, 0.0)] {
            assert_eq!(chosen(&noisy, 0.4, by, HeldOut::Noisy), (best, HeldOut::Noisy), "{by:?}");
        }
        assert_eq!(chosen(&noisy, 0.4, Criterion::Error, HeldOut::Clean), (0.4, HeldOut::Clean));
        for (study, noise) in [(of(0.4, None), 0.4), (of(0.0, Some(0.0)), 0.0)] {
            assert_eq!(chosen(&study, noise, Criterion::Error, HeldOut::Noisy), (0.4, HeldOut::Clean));
        }
    }

    /// Catches a tie that the order of the seeds decides or that nobody hears of, and a cost of another epsilon.
    #[test]
    fn ties_sureness_and_cost_are_said() {
        // 33 wrong in all at both, in another order of the seeds.
        let tied = study(&[(0.0, [20, 21, 22]), (0.1, [10, 11, 12]), (0.4, [12, 10, 11]), (0.5, [12, 11, 11])]);
        let found = choose(&tied, 0.0, Criterion::Error, HeldOut::Clean).unwrap();
        assert_eq!((found.epsilon, found.best, &found.ties[..], &found.near[..]), (0.1, 0.1, &[0.4][..], &[0.5][..]));
        let sure = found.sureness.unwrap();
        assert!(sure.seeds == 3 && sure.probability > 0.2 && sure.probability < 0.8 && sure.regret > 0.0, "{sure:?}");
        let cost = found.cost;
        let ece = |e| tied.of_cell(0.0, e, super::super::ECE).mean;
        assert_eq!([cost.ece_before, cost.ece_after], [ece(0.0), ece(0.1)]);
        let said = found.doubts().join("; ");
        for part in ["the same mean as e = 0.1: e = 0.4", "within one standard error of e = 0.1: e = 0.5", "3 seeds"] {
            assert!(said.contains(part), "{said}");
        }
        assert!(said.contains("its cost: ECE on the test set from "), "{said}");
        // Without smoothing nothing is paid, and a choice that every draw makes has no regret.
        let none =
            choose(&study(&[(0.0, [5, 6, 7]), (0.1, [8, 9, 10])]), 0.0, Criterion::Error, HeldOut::Clean).unwrap();
        assert!(
            !none.doubts().join("").contains("cost") && none.doubts()[0].ends_with("100 % of draws of the 3 seeds")
        );
    }

    #[test]
    fn where_smoothing_gains_nothing_it_is_said() {
        let found =
            choose(&study(&[(0.0, [5, 6, 7]), (0.1, [6, 7, 8])]), 0.0, Criterion::Error, HeldOut::Clean).unwrap();
        assert_eq!(found.epsilon, 0.0);
        assert!(found.reason.contains("gains nothing"), "{}", found.reason);
        assert_eq!(choose(&study(&[(0.0, [5, 6, 7])]), 0.4, Criterion::Error, HeldOut::Clean), None);
    }

    #[test]
    fn a_best_epsilon_at_the_end_of_the_grid_is_said_to_be_there() {
        // Every pair differs by 5: told apart.
        let ends =
            choose(&study(&[(0.0, [10, 12, 14]), (0.1, [5, 7, 9])]), 0.0, Criterion::Error, HeldOut::Clean).unwrap();
        assert!(ends.epsilon == 0.1 && ends.reason.contains("it is the largest of this study"), "{}", ends.reason);
        let inside = study(&[(0.0, [10, 12, 14]), (0.1, [5, 7, 9]), (0.2, [10, 12, 14])]);
        let inside = choose(&inside, 0.0, Criterion::Error, HeldOut::Clean).unwrap();
        assert!(inside.epsilon == 0.1 && inside.reason.contains("no smaller e is within one"), "{}", inside.reason);
    }

    /// 20 of 100 answers are wrong. Seed 0 is right as often as it says between 0 and 0.4, seed 1 between 0.4 and 0.8,
    /// and seed 2 nowhere: it comes to 0 and no further.
    #[test]
    fn each_seed_crosses_where_its_own_line_does() {
        let sure = [(0.0, [0.9, 0.95, 0.95]), (0.4, [0.7, 0.85, 0.9]), (0.8, [0.6, 0.75, 0.5])];
        let of = |(epsilon, sure): (f64, [f64; 3])| {
            (0..3).map(move |seed| {
                let p: f64 = sure[seed as usize];
                outcome([epsilon, 0.0], seed, if p == 0.5 { 50 } else { 20 }, (p / (1.0 - p)).ln())
            })
        };
        let study = Study::new(sure.into_iter().flat_map(of).collect(), 0.95).unwrap();
        let found = [0, 1, 2].map(|seed| crossing(&study, 0.0, &study.epsilons, seed));
        // From 0.1 over to -0.1; from 0.05 over to -0.05.
        assert!((found[0].unwrap() - 0.2).abs() < 1e-9 && (found[1].unwrap() - 0.6).abs() < 1e-9, "{found:?}");
        assert_eq!(found[2], None);
    }

    #[test]
    fn the_prediction_is_held_against_the_grid() {
        // Two classes: a margin m is a confidence of 1 / (1 + exp(-m)). At e = 0: 99 % sure, 80 % right; at 0.4: 80 %
        // sure, 80 % right; at 0.8: 60 % sure. Predicted: 0.2 * 2 / 1 = 0.4.
        let margin = |p: f64| (p / (1.0 - p)).ln();
        let of = |epsilon: f64, p: f64| (0..3).map(move |seed| outcome([epsilon, 0.0], seed, 20, margin(p)));
        let outcomes = of(0.0, 0.99).chain(of(0.4, 0.799)).chain(of(0.8, 0.6)).collect();
        let found = prediction(&Study::new(outcomes, 0.95).unwrap(), 0.0).unwrap();
        assert!((found.predicted - 0.4).abs() < 1e-12 && found.least_ece == 0.4 && found.agrees, "{found:?}");
        assert!((found.cell[0] - 0.2).abs() < 1e-12 && (found.cell[1] - 0.6).abs() < 1e-12, "{found:?}");
        // From 0.19 over to -0.001: 190/191 of the way from 0 to 0.4.
        assert!((found.crossing.mean - 0.4 * 190.0 / 191.0).abs() < 1e-9 && found.crossing.n == 3, "{found:?}");
        assert_eq!(prediction(&study(&[(0.1, [1, 2, 3])]), 0.0), None);
    }

    /// Catches a C/(C-1) that is right for two classes alone, and one where it does not belong.
    #[test]
    fn the_prediction_knows_the_classes_and_the_variant() {
        for (variant, expected) in [(Variant::Uniform, 0.2 * 10.0 / 9.0), (Variant::OffTarget, 0.2)] {
            let of = |seed| super::super::Outcome {
                classes: 10,
                smoothing_variant: variant,
                ..outcome([0.0, 0.0], seed, 20, 1.0)
            };
            let found = prediction(&Study::new((0..3).map(of).collect(), 0.95).unwrap(), 0.0).unwrap();
            assert!((found.predicted - expected).abs() < 1e-12 && (found.error - 0.2).abs() < 1e-12, "{found:?}");
        }
    }
}
