//! The answer in a sentence; the tutorial's two formulas, its sentences, and what this study answers to each.

use maud::{Markup, html};

use super::numbers::scale;
use super::page::scrolled;
use crate::loss::smoothing::Variant;
use crate::study::claims::Finding;
use crate::study::stats::{Estimate, Verdict};
use crate::study::{self, Measure, Study};

/// What is claimed, and what is asked of the runs, in plain words.
const SENTENCES: [(&str, &str); 6] = [
    (
        "A network that is trained with smoothed labels overfits less.",
        "Is the test error nearer to the training error? With label noise: is the error on images held out, by labels as \
         noisy as those trained on?",
    ),
    ("It is less overconfident.", "Is the mean confidence on the test set less above the accuracy?"),
    (
        "Its probabilities are better calibrated.",
        "Is the ECE on the test set lower, as trained, and after a temperature for both?",
    ),
    (
        "It is robust to wrong labels.",
        "With a share of the training labels flipped: is the test error lower, by clean labels, and are fewer of the \
         flipped labels learnt by heart?",
    ),
    ("Too large an e underfits.", "Is the training error higher at the largest e than at 0?"),
    ("e must be tuned.", "Of the e above 0: is the one that looks worst on images held out worse on the test set too?"),
];

/// For each rate of noise a sentence: what smoothing with `reference` changes in error and calibration.
pub fn answers(study: &Study, reference: f64) -> Vec<String> {
    let of = |noise: f64| {
        let told = |measure: Measure, name: &str| {
            let effect = study.difference(noise, reference, 0.0, measure);
            let (factor, digits, unit) = scale(measure.name);
            let [before, after] = [0.0, reference].map(|e| factor * study.of_cell(noise, e, measure).mean);
            format!("{name} {before:.digits$} to {after:.digits$}{unit} ({})", seen(&effect))
        };
        let data = if noise == 0.0 { "without label noise".to_owned() } else { format!("with label noise {noise}") };
        format!(
            "e = {reference} instead of 0, {data}: {}, {}, {}.",
            told(study::TEST_ERROR, "test error"),
            told(study::ECE, "ECE"),
            told(study::ECE_SCALED, "after a temperature")
        )
    };
    study.noises.iter().map(|&noise| of(noise)).collect()
}

fn seen(effect: &Estimate) -> &'static str {
    match effect {
        e if e.high < 0.0 => "falls",
        e if e.low > 0.0 => "rises",
        _ => "no difference is shown",
    }
}

/// The part of the page about what was claimed.
pub fn section(study: &Study, findings: &[Finding]) -> Markup {
    let ours = match study.outcomes().first().map(|o| o.smoothing_variant) {
        Some(Variant::OffTarget) => {
            "The runs here are off-target. They are those of uniform smoothing too, with e C/(C-1) in place of e."
        }
        _ => {
            "The runs here are uniform, unless a prior is named below. Uniform runs are those of off-target smoothing too, with \
             e (C-1)/C in place of e."
        }
    };
    html! {
        h2 { "What a tutorial says, and what is seen here" }
        p { "A well-known tutorial trains a small network with smoothed labels. It gives two formulas for the target of the true \
             class y, of C classes, as if they were one. Its text: 1 - e for y, and e/(C-1) for each other class (off-target). Its \
             code mixes (1 - e) times the nll with e times the mean over all classes: 1 - e + e/C for y, and e/C for each other \
             (uniform, as PyTorch has it). The first with e is the second with e C/(C-1)." }
        p { (ours) }
        (scrolled(&html! {
            table.stacked {
                thead { tr { th { "the tutorial" } th { "asked here" } th { "seen here" } } }
                tbody {
                    @for (i, (sentence, question)) in SENTENCES.iter().enumerate() {
                        tr {
                            td.first { (i + 1) " " (sentence) }
                            td.words data-name="asked here" { (question) }
                            td.words data-name="seen here" { div { (verdicts(findings, i + 1)) } }
                        }
                    }
                }
            }
        }))
    }
}

/// The verdicts of a claim, one line for each measure: at which rates of noise which.
fn verdicts(findings: &[Finding], claim: usize) -> Markup {
    let of_claim: Vec<&Finding> = findings.iter().filter(|f| f.claim == claim).collect();
    let mut measures: Vec<&str> = of_claim.iter().map(|f| f.measure).collect();
    measures.sort_unstable();
    measures.dedup();
    let noises = |measure: &str, verdict: Verdict| {
        let found = of_claim.iter().filter(|f| f.measure == measure && f.verdict == verdict);
        found.map(|f| f.label_noise.to_string()).collect::<Vec<_>>().join(", ")
    };
    let all = [Verdict::Holds, Verdict::DoesNotHold, Verdict::Undecided, Verdict::NothingToMend];
    html! {
        @if of_claim.is_empty() { "not asked: " (unasked(claim)) }
        @for measure in &measures {
            div {
                @if measures.len() > 1 { (measure) ": " }
                @let seen: Vec<String> = all
                    .iter()
                    .map(|&verdict| (verdict, noises(measure, verdict)))
                    .filter(|(_, noises)| !noises.is_empty())
                    .map(|(verdict, noises)| format!("{verdict} (noise {noises})"))
                    .collect();
                (seen.join("; "))
            }
        }
    }
}

/// Why a claim has no verdict.
fn unasked(claim: usize) -> &'static str {
    match claim {
        1 => "no image held out has labels as noisy as those trained on",
        4 => "no run has label noise",
        6 => "there are no two e above 0",
        _ => "there are no two e",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::choice::HeldOut;
    use crate::study::claims;
    use crate::study::tests::outcome;

    /// Three seeds; at noise 0.2 smoothing is worse in every measure, without noise better.
    fn study() -> Study {
        let cell = |noise: f64, wrong: [usize; 2]| {
            (0..3).flat_map(move |seed| {
                [0, 1].map(|i| outcome([[0.0, 0.1][i], noise], seed, wrong[i] + seed as usize * i, 1.0))
            })
        };
        Study::new(cell(0.0, [30, 10]).chain(cell(0.2, [10, 30])).collect(), 0.95).unwrap()
    }

    #[test]
    fn each_sentence_has_its_answer() {
        let study = study();
        let told = answers(&study, 0.1);
        assert_eq!(told.len(), 2);
        assert!(told[0].starts_with("e = 0.1 instead of 0, without label noise: test error "), "{told:?}");
        assert!(told[0].contains("% (falls)") && told[1].contains("% (rises)"), "{told:?}");
        assert!(told[1].contains("with label noise 0.2: "), "{told:?}");
        let findings = claims::findings(&study, 0.1, HeldOut::Clean);
        let page = section(&study, &findings).into_string();
        for (sentence, question) in SENTENCES {
            assert!(page.contains(sentence) && page.contains(question), "{sentence}");
        }
        // Claim 4 is about noise alone, with two measures.
        let fourth = verdicts(&findings, 4).into_string();
        assert!(fourth.contains("test error: does not hold (noise 0.2)") && !fourth.contains("noise 0,"), "{fourth}");
        assert!(page.contains("The runs here are uniform,"), "{page}");
        // Catches a reason that is another claim's.
        let unasked = verdicts(&findings, 6).into_string();
        assert!(unasked.contains("not asked: there are no two e above 0"), "{unasked}");
        assert!(verdicts(&[], 4).into_string().contains("not asked: no run has label noise"));
    }
}
