//! The tutorial's six claims about label smoothing, each with its measure and a verdict on the data at hand:
//!
//! | claim                              | measure, smoothed less plain                                  | claimed |
//! |------------------------------------|---------------------------------------------------------------|---------|
//! | 1 less overfitting                 | test error - training error; with noise: of images held out   | falls   |
//! | 2 less overconfidence              | mean confidence - accuracy, on the test set                   | falls   |
//! | 3 better calibration               | ECE on the test set, without and with a temperature           | falls   |
//! | 4 robustness to noisy labels       | test error (clean labels); flipped labels memorised           | falls   |
//! | 5 underfitting when e is too large | training error at the largest e                               | rises   |
//! | 6 e must be tuned                  | test error, at the worst e > 0 by validation less at the best | above 0 |
//!
//! Claim 1 compares errors that count the same labels: with noise in the labels trained on, flipped or people's, those
//! held out have it too. Claims 1 to 4 are about one epsilon, the study's reference. Claim 6 is asked among the
//! epsilons above 0: that some smoothing is better than none is another question, and the first of three lines beside
//! the claims. The second is about a cost that the tutorial does not mention: answers given only where the network is
//! sure (AURC; Zhu et al. 2022, "Rethinking confidence calibration for failure prediction"; Xia et al. 2024, "Towards
//! understanding why label smoothing degrades selective classification"). The third asks whether the score of the
//! latter mends it.
//!
//! A verdict is about the claim, [`News`] about the user: every measure is better when it falls, but for confidence
//! less accuracy, which is better nearer to 0.

use serde::Serialize;

use super::stats::{Direction, Estimate, News, Verdict, holm};
use super::{
    AURC, AURC_MENDED, AURC_NORMALISED, ECE, ECE_SCALED, MEMORISED, Measure, OVERCONFIDENCE, Study, TEST_ERROR,
    TRAIN_ERROR, choice,
};
use choice::{Criterion, HeldOut};

/// One measure of one claim at one rate of label noise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// 1 to 6, or 0 for what the tutorial does not claim.
    pub claim: usize,
    /// The claim in words.
    pub statement: &'static str,
    /// What was measured.
    pub measure: &'static str,
    /// The rate of label noise.
    pub label_noise: f64,
    /// The two epsilons compared: `than` is subtracted.
    pub epsilon: f64,
    /// See `epsilon`.
    pub than: f64,
    /// The measure at `than`: the mean over its seeds.
    pub before: f64,
    /// The measure at `epsilon`.
    pub after: f64,
    /// The mean difference over pairs of the same seed.
    pub effect: Estimate,
    /// What the claim says of the effect.
    pub claimed: Direction,
    /// What the effect says of the claim.
    pub verdict: Verdict,
    /// What it is for the user.
    pub news: News,
    /// The p of the effect against none; NaN with fewer than two seeds.
    pub p: f64,
    /// The same, corrected for all findings of the study (Holm).
    pub p_corrected: f64,
    /// What the verdict alone would hide.
    pub remark: Option<String>,
}

impl Finding {
    /// That an effect is so large, what it says of what is `claimed`, and what it is for the user. Not corrected yet.
    fn of(
        (claim, statement): (usize, &'static str),
        measure: Measure,
        label_noise: f64,
        [epsilon, than]: [f64; 2],
        [before, after]: [f64; 2],
        effect: Estimate,
        claimed: Direction,
    ) -> Self {
        Self {
            claim,
            statement,
            measure: measure.name,
            label_noise,
            epsilon,
            than,
            before,
            after,
            effect,
            claimed,
            verdict: effect.verdict(claimed),
            news: news(claim, label_noise, before, after, &effect),
            p: effect.p(),
            p_corrected: f64::NAN,
            remark: remark(claim, label_noise, before, after),
        }
    }
}

/// What is asked beside the claims.
const AGAINST_NONE: &str = "better than no smoothing, at the best e";

const MENDED: &str = "normalised logits mend that cost";

/// Claim `k`'s words are at `k`.
const STATEMENTS: [&str; 7] = [
    "costs selective prediction",
    "less overfitting",
    "less overconfidence",
    "better calibration",
    "robust to noisy labels",
    "underfits when e is too large",
    "e must be tuned, among e > 0",
];

/// The epsilon that claims 1 to 4 are about: `wanted` if the study has it, else the least above 0; `None` where there
/// is nothing to compare.
pub fn reference(study: &Study, wanted: f64) -> Option<f64> {
    let smoothed = || study.epsilons.iter().copied().filter(|&e| e > 0.0);
    study.epsilons.contains(&0.0).then(|| smoothed().find(|&e| e == wanted).or_else(|| smoothed().next()))?
}

/// Every finding, claim by claim. Without runs at epsilon 0 there is nothing to compare with, and no finding.
pub fn findings(study: &Study, reference: f64, labels: HeldOut) -> Vec<Finding> {
    if !study.epsilons.contains(&0.0) {
        return vec![];
    }
    let mut found = vec![];
    let mut add = |claim: usize, noise: f64, measure: Measure, [epsilon, than]: [f64; 2], claimed: Direction| {
        let effect = study.difference(noise, epsilon, than, measure);
        let (was, is) = (study.of_cell(noise, than, measure), study.of_cell(noise, epsilon, measure));
        let (before, after) = (was.mean, is.mean);
        // Claims 1 and 2 are about something that is to be mended.
        let nothing = [1, 2].contains(&claim) && was.high <= 0.0;
        let statement = if claim == 0 && measure.name == TEST_ERROR.name { AGAINST_NONE } else { STATEMENTS[claim] };
        let finding =
            Finding::of((claim, statement), measure, noise, [epsilon, than], [before, after], effect, claimed);
        found.push(if nothing { Finding { verdict: Verdict::NothingToMend, ..finding } } else { finding });
    };
    let pair = [reference, 0.0];
    for &noise in &study.noises {
        if let Some(gap) = study.gap(noise) {
            add(1, noise, gap, pair, Direction::Down);
        }
    }
    for (claim, measures) in [(2, &[OVERCONFIDENCE][..]), (3, &[ECE, ECE_SCALED])] {
        for &noise in &study.noises {
            measures.iter().for_each(|&measure| add(claim, noise, measure, pair, Direction::Down));
        }
    }
    for &noise in study.noises.iter().filter(|&&noise| noise > 0.0) {
        [TEST_ERROR, MEMORISED].into_iter().for_each(|measure| add(4, noise, measure, pair, Direction::Down));
    }
    let largest = *study.epsilons.last().expect("a study has at least one run");
    for &noise in &study.noises {
        if largest > 0.0 {
            add(5, noise, TRAIN_ERROR, [largest, 0.0], Direction::Up);
        }
    }
    for &noise in &study.noises {
        // Both are chosen on validation: the test set decides nothing that it then measures.
        let mut smoothed = choice::ranked(study, noise, Criterion::Error, labels);
        smoothed.retain(|&e| e > 0.0);
        if let [best, .., worst] = smoothed[..] {
            add(6, noise, TEST_ERROR, [worst, best], Direction::Up);
        }
    }
    for &noise in &study.noises {
        let ranked = choice::ranked(study, noise, Criterion::Error, labels);
        if let Some(&best) = ranked.iter().find(|&&e| e > 0.0) {
            add(0, noise, TEST_ERROR, [best, 0.0], Direction::Down);
        }
    }
    for &noise in &study.noises {
        add(0, noise, AURC, pair, Direction::Up);
    }
    found.extend(study.noises.iter().filter_map(|&noise| mended(study, noise, reference)));
    let corrected = holm(&found.iter().map(|finding| finding.p).collect::<Vec<_>>());
    for (finding, p) in found.iter_mut().zip(corrected) {
        finding.p_corrected = p;
        let decided = [Verdict::Holds, Verdict::DoesNotHold].contains(&finding.verdict);
        if decided && p > 1.0 - study.level {
            let said = finding.remark.take().map(|said| format!("{said}; ")).unwrap_or_default();
            finding.remark = Some(format!("{said}one of many: corrected for all of them (Holm) p = {p:.2}, undecided"));
        }
    }
    found
}

/// Whether normalised logits mend the cost, after training: both measures are of the same runs.
fn mended(study: &Study, noise: f64, epsilon: f64) -> Option<Finding> {
    let effect = study.of_cell(noise, epsilon, AURC_MENDED);
    let of = |measure| study.of_cell(noise, epsilon, measure).mean;
    let (before, after) = (of(AURC), of(AURC_NORMALISED));
    let finding = || {
        let at = [epsilon; 2];
        Finding::of((0, MENDED), AURC_MENDED, noise, at, [before, after], effect, Direction::Down)
    };
    effect.mean.is_finite().then(finding)
}

/// What an effect is for the user.
fn news(claim: usize, noise: f64, before: f64, after: f64, effect: &Estimate) -> News {
    let better = match claim {
        2 => after.abs() < before.abs(),
        _ => effect.mean < 0.0,
    };
    let shown = effect.low > 0.0 || effect.high < 0.0;
    match (shown, better) {
        // Not to learn flipped labels is the aim.
        (true, _) if claim == 5 && noise > 0.0 => News::Open,
        (true, true) => News::Good,
        (true, false) => News::Bad,
        (false, _) => News::Open,
    }
}

fn remark(claim: usize, noise: f64, before: f64, after: f64) -> Option<String> {
    match claim {
        2 if before < 0.0 => Some(format!(
            "not overconfident to begin with: {:.1} points of underconfidence before, {:.1} of {} after",
            -100.0 * before,
            100.0 * after.abs(),
            if after < 0.0 { "underconfidence" } else { "overconfidence" },
        )),
        2 if after < 0.0 && after.abs() > before.abs() => Some(format!(
            "it overshoots: {:.1} points of underconfidence, {:.1} of overconfidence before",
            -100.0 * after,
            100.0 * before,
        )),
        1 if before <= 0.0 => Some("there was no overfitting to begin with".into()),
        5 if noise > 0.0 => Some("its training error counts the flipped labels: not to learn them is the aim".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::outcome;
    use super::super::{GAP, Judged, NOISY_GAP, Outcome};
    use super::*;

    /// Five seeds at e = 0, 0.1 and 0.5 with and without noise; smoothing makes 2 of 100 answers right that were wrong,
    /// and too much of it 5 wrong that were right.
    fn study() -> Study {
        let mut outcomes = vec![];
        for seed in 0..5 {
            for noise in [0.0, 0.4] {
                let base = 10 + seed as usize + (noise * 20.0) as usize;
                outcomes.push(outcome([0.0, noise], seed, base, 5.0));
                outcomes.push(outcome([0.1, noise], seed, base - 2, 1.0));
                outcomes.push(outcome([0.5, noise], seed, base + 5, 0.5));
            }
        }
        Study::new(outcomes, 0.95).unwrap()
    }

    fn verdict(findings: &[Finding], claim: usize, measure: Measure, noise: f64) -> Verdict {
        let wanted = |f: &&Finding| f.claim == claim && f.measure == measure.name && f.label_noise == noise;
        let found: Vec<_> = findings.iter().filter(wanted).collect();
        assert_eq!(found.len(), 1, "claim {claim}, {}, noise {noise}", measure.name);
        found[0].verdict
    }

    #[test]
    fn verdicts_follow_the_measures() {
        let study = study();
        let found = findings(&study, reference(&study, 0.1).unwrap(), HeldOut::Clean);
        use Verdict::{DoesNotHold, Holds, NothingToMend, Undecided};
        // The training set is the test set here: there is no gap, before or after.
        assert_eq!(verdict(&found, 1, GAP, 0.0), NothingToMend);
        for noise in [0.0, 0.4] {
            assert_eq!(verdict(&found, 2, OVERCONFIDENCE, noise), Holds);
            assert_eq!(verdict(&found, 5, TRAIN_ERROR, noise), Holds);
            assert_eq!(verdict(&found, 6, TEST_ERROR, noise), Holds);
            // Every image is as sure as any other, so that the area is the error, and falls: the cost is not there.
            assert_eq!(verdict(&found, 0, AURC, noise), DoesNotHold);
            // 0.1 is better than 0.5, and than none: two questions.
            assert_eq!(verdict(&found, 0, TEST_ERROR, noise), Holds);
        }
        let none = found.iter().find(|f| f.statement == AGAINST_NONE).unwrap();
        assert_eq!((none.epsilon, none.than, none.news), (0.1, 0.0, News::Good));
        assert!((none.effect.mean + 0.02).abs() < 1e-12, "{none:?}");
        let cost = found.iter().find(|f| f.measure == AURC.name).unwrap();
        assert_eq!((cost.epsilon, cost.than, cost.statement), (0.1, 0.0, "costs selective prediction"));
        assert!((cost.before - 0.12).abs() < 1e-12 && (cost.effect.mean + 0.02).abs() < 1e-12, "{cost:?}");
        assert_eq!(verdict(&found, 4, TEST_ERROR, 0.4), Holds);
        assert_eq!(verdict(&found, 4, MEMORISED, 0.4), Undecided);
        assert!(!found.iter().any(|f| f.claim == 4 && f.label_noise == 0.0), "without noise there is no robustness");
        // A margin of 5 is 99 % sure and right in 88 %; a margin of 1 is 73 % sure and right in 90 %: worse.
        assert_eq!(verdict(&found, 3, ECE, 0.0), DoesNotHold);
        let over = found.iter().find(|f| f.claim == 2).unwrap();
        assert!(over.remark.as_ref().unwrap().contains("overshoots"), "{over:?}");
        let sixth = found.iter().find(|f| f.claim == 6).unwrap();
        assert_eq!((sixth.epsilon, sixth.than), (0.5, 0.1));
    }

    /// Catches a gap between errors that count different labels: here smoothing mends the test error alone, by labels
    /// without noise, and on labels as noisy as those trained on both runs err alike.
    #[test]
    fn overfitting_is_told_by_labels_of_one_kind() {
        let of = |seed: u64| {
            let wrong = |e: f64| if e > 0.0 { 20 } else { 30 };
            [0.0, 0.1].map(|e| {
                let [test, train] = [wrong(e), 10].map(|wrong| outcome([e, 0.4], seed, wrong, 1.0));
                let error = 0.5 + 0.001 * (seed as f64 + 10.0 * e * (seed as f64 - 1.0));
                let noisy = Some(Judged { error, nll: 1.0, ece: 0.1, refined_nll: 1.0 });
                Outcome { train: train.train, noisy_validation: noisy, ..test }
            })
        };
        let outcomes: Vec<_> = (0..3).flat_map(of).collect();
        let first = |outcomes| findings(&Study::new(outcomes, 0.95).unwrap(), 0.1, HeldOut::Clean);
        // Wrong labels that people gave are no noise of ours.
        let of_people = outcomes.iter().map(|o| Outcome { label_noise: 0.0, ..o.clone() }).collect();
        for (noise, outcomes) in [(0.4, outcomes.clone()), (0.0, of_people)] {
            let found = first(outcomes);
            assert_eq!(verdict(&found, 1, NOISY_GAP, noise), Verdict::Undecided);
            let gap = found.iter().find(|f| f.claim == 1).unwrap();
            assert!((gap.before - 0.401).abs() < 1e-12 && gap.effect.mean.abs() < 1e-12, "{gap:?}");
        }
        // Results of earlier versions have no such labels, and no answer.
        let earlier = outcomes.into_iter().map(|o| Outcome { noisy_validation: None, ..o }).collect();
        assert!(first(earlier).iter().all(|f| f.claim != 1));
    }

    /// Catches a claim 6 that e = 0 decides: smoothing helps here, and how much of it makes no difference.
    #[test]
    fn how_much_is_asked_among_smoothed_runs() {
        let of = |seed: usize| {
            let wrong = [20 + seed, 10 + seed, 10 + seed % 2, 11 - seed % 2];
            [0.0, 0.1, 0.2, 0.3].iter().zip(wrong).map(move |(&e, wrong)| outcome([e, 0.0], seed as u64, wrong, 1.0))
        };
        let found = findings(&Study::new((0..5).flat_map(of).collect(), 0.95).unwrap(), 0.1, HeldOut::Clean);
        let sixth = found.iter().find(|f| f.claim == 6).unwrap();
        assert!(sixth.epsilon > 0.0 && sixth.than > 0.0, "{sixth:?}");
        assert_eq!(verdict(&found, 0, TEST_ERROR, 0.0), Verdict::Holds);
        let two = [outcome([0.0, 0.0], 0, 9, 1.0), outcome([0.1, 0.0], 0, 8, 1.0)];
        let found = findings(&Study::new(two.to_vec(), 0.95).unwrap(), 0.1, HeldOut::Clean);
        assert!(found.iter().all(|f| f.claim != 6), "one e > 0 leaves nothing to choose");
    }

    /// Catches a network that was underconfident and is called mended, and a verdict whose word is taken for news.
    #[test]
    fn what_was_not_there_is_not_mended() {
        // 60 % sure and right in 80 %: at a margin of 0.2 less sure still, at 0.5 surer.
        let study = |after: f64| {
            let of = |seed| [outcome([0.0, 0.0], seed, 20, 0.4), outcome([0.1, 0.0], seed, 20, after)];
            findings(&Study::new((0..3).flat_map(of).collect(), 0.95).unwrap(), 0.1, HeldOut::Clean)
        };
        for (after, news) in [(0.2, News::Bad), (0.5, News::Good)] {
            let found = study(after);
            let second = found.iter().find(|f| f.claim == 2).unwrap();
            assert_eq!((second.verdict, second.news), (Verdict::NothingToMend, news));
            assert!(second.remark.as_ref().unwrap().starts_with("not overconfident to begin with: 20.1 points"));
        }
        let flat = Estimate { n: 3, mean: 0.0, low: -1.0, high: 1.0, standard_error: 0.2 };
        let up = Estimate { mean: 1.0, low: 0.5, high: 1.5, ..flat };
        let of = |claim, noise, effect: &Estimate| news(claim, noise, 0.1, 0.2, effect);
        assert_eq!([of(5, 0.0, &up), of(5, 0.2, &up), of(6, 0.0, &up)], [News::Bad, News::Open, News::Bad]);
        assert_eq!([of(3, 0.0, &flat), of(2, 0.0, &flat)], [News::Open; 2]);
    }

    /// Catches a verdict of one test among many that is taken for sure.
    #[test]
    fn many_findings_are_corrected_for() {
        let found = findings(&study(), 0.1, HeldOut::Clean);
        let p: Vec<f64> = found.iter().map(|f| f.p).collect();
        for (finding, corrected) in found.iter().zip(holm(&p)) {
            assert!(finding.p_corrected == corrected || (corrected.is_nan() && finding.p.is_nan()), "{finding:?}");
        }
        // Differences of 0, 1, 2, 3 points: p = 0.04 alone, and more among many.
        let of = |seed: usize| {
            let better = [0, 2, 2, 3, 4][seed];
            [outcome([0.0, 0.0], seed as u64, 20, 1.0), outcome([0.1, 0.0], seed as u64, 20 - better, 1.0)]
        };
        let found = findings(&Study::new((0..5).flat_map(of).collect(), 0.95).unwrap(), 0.1, HeldOut::Clean);
        let one = found.iter().find(|f| f.statement == AGAINST_NONE).unwrap();
        assert!(one.verdict == Verdict::Holds && one.p < 0.05 && one.p_corrected > 0.05, "{one:?}");
        assert!(one.remark.as_ref().unwrap().contains("corrected for all of them (Holm)"), "{one:?}");
    }

    #[test]
    fn remarks_say_what_a_verdict_hides() {
        let over = "it overshoots: 30.0 points of underconfidence, 10.0 of overconfidence before";
        let under =
            "not overconfident to begin with: 10.0 points of underconfidence before, 30.0 of underconfidence after";
        let remark = |claim, before, after| remark(claim, 0.0, before, after);
        assert_eq!(remark(2, 0.1, -0.3).as_deref(), Some(over));
        assert_eq!(remark(2, -0.1, -0.3).as_deref(), Some(under));
        // As far on the other side, nearer, or still on this side: no overshoot.
        assert!(
            [(0.1, -0.1), (0.3, -0.1), (0.1, 0.3), (0.0, 0.1)]
                .iter()
                .all(|&(before, after)| remark(2, before, after).is_none())
        );
        let nothing = Some("there was no overfitting to begin with");
        assert_eq!([0.0, -0.1, 0.1].map(|before| remark(1, before, 0.0).is_some()), [true, true, false]);
        assert_eq!((remark(1, 0.0, 0.0).as_deref(), remark(3, -0.1, -0.3)), (nothing, None));
    }

    #[test]
    fn without_smoothing_nothing_can_be_too_large() {
        let plain = Study::new(vec![outcome([0.0, 0.0], 0, 1, 1.0)], 0.95).unwrap();
        assert!(findings(&plain, 0.0, HeldOut::Clean).iter().all(|f| f.claim != 5));
    }

    #[test]
    fn one_seed_decides_nothing() {
        let one = study().outcomes().iter().filter(|o| o.seed == 0).cloned().collect();
        let study = Study::new(one, 0.95).unwrap();
        assert!(findings(&study, 0.1, HeldOut::Clean).iter().all(|f| f.verdict == Verdict::Undecided));
    }

    #[test]
    fn the_reference_is_in_the_study() {
        assert_eq!(reference(&study(), 0.5), Some(0.5));
        assert_eq!(reference(&study(), 0.3), Some(0.1));
        let smoothed = Study::new(vec![outcome([0.1, 0.0], 0, 1, 1.0)], 0.95).unwrap();
        assert_eq!((reference(&smoothed, 0.1), findings(&smoothed, 0.1, HeldOut::Clean)), (None, vec![]));
        let plain = Study::new(vec![outcome([0.0, 0.0], 0, 1, 1.0)], 0.95).unwrap();
        assert_eq!(reference(&plain, 0.1), None);
    }
}
