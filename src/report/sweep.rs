//! A study as a page to look at, self-contained, and as text.

use maud::{Markup, PreEscaped, html};

use super::beside;
use super::numbers::{drawn, interval, p_text, scale};
use super::page::{card, drawings, glossary, page, scrolled};
use super::{plots, tutorial};
use crate::Result;
use crate::study::choice::{Criterion, EpsilonChoice, Forecast, HeldOut};
use crate::study::claims::Finding;
use crate::study::ensemble::Ensemble;
use crate::study::projection::{Projected, Set};
use crate::study::rivals::Rival;
use crate::study::stats::News;
use crate::study::{self, Measure, Study};

/// What a report tells.
#[derive(Clone, Debug)]
pub struct Story {
    /// The outcomes.
    pub study: Study,
    /// What was trained, on what, how: names and values.
    pub facts: Vec<(&'static str, String)>,
    /// The epsilon of claims 1 to 4; `None` where there was nothing to compare.
    pub reference: Option<f64>,
    /// The claims.
    pub findings: Vec<Finding>,
    /// Recommended epsilons.
    pub choices: Vec<EpsilonChoice>,
    /// Those by the other labels of the images held out, at the rates of noise where there are two kinds.
    pub by_other_labels: Vec<EpsilonChoice>,
    /// Other losses beside label smoothing.
    pub rivals: Vec<Rival>,
    /// The seeds of each cell together, where their answers are there.
    pub ensembles: Vec<Ensemble>,
    /// Which of the choices is the recommendation.
    pub chosen_by: Criterion,
    /// The predicted epsilon of the best calibration.
    pub predictions: Vec<Forecast>,
    /// The projections of some runs, each with its epsilon.
    pub projections: Vec<(f64, Vec<Projected>)>,
}

/// What is to be known of runs of an earlier version.
const NOT_CROSS_FITTED: &str = "refined nll: these results hold none that is cross-fitted; it is the validation nll \
                                with the run's own temperature, which was fitted on the same images and so is a little \
                                too low";

/// The columns of the table of means.
const COLUMNS: [(Measure, f64, usize); 13] = [
    (study::TRAIN_ERROR, 100.0, 2),
    (study::TEST_ERROR, 100.0, 2),
    (study::NLL, 1.0, 4),
    (study::NLL_SCALED, 1.0, 4),
    (study::ECE, 1.0, 4),
    (study::ECE_SCALED, 1.0, 4),
    (study::CONFIDENCE, 100.0, 2),
    (study::OVERCONFIDENCE, 100.0, 2),
    (study::CALIBRATED, 100.0, 0),
    (study::CALIBRATED_SCALED, 100.0, 0),
    (study::AURC, 1.0, 5),
    (study::AURC_NORMALISED, 1.0, 5),
    (study::MEMORISED, 100.0, 1),
];

/// Which claim a finding is of, for people.
fn claim(finding: &Finding) -> String {
    if finding.claim == 0 {
        format!("beside: {}", finding.statement)
    } else {
        format!("{} {}", finding.claim, finding.statement)
    }
}

impl Story {
    /// The recommendation at each rate of noise.
    fn recommended(&self) -> impl Iterator<Item = &EpsilonChoice> {
        self.choices.iter().filter(|choice| choice.criterion == self.chosen_by)
    }

    /// The verdicts, the recommendation and the prediction, for a terminal.
    pub fn text(&self) -> String {
        use std::fmt::Write;
        let mut out = String::new();
        // Writing to a string cannot fail.
        let mut line = |text: String| writeln!(out, "{text}").unwrap_or_default();
        if let Some(reference) = self.reference {
            tutorial::answers(&self.study, reference).into_iter().for_each(&mut line);
        }
        line(format!(
            "{:<47} {:<33} {:>5}  {:>16}  {:>9} {:>9}  {:<28} {:>6}  {:<9}  verdict",
            "claim", "measure", "noise", "e", "before", "after", "effect [interval]", "p", "for you"
        ));
        for f in &self.findings {
            let (factor, digits, unit) = scale(f.measure);
            line(format!(
                "{:<47} {:<33} {:>5}  {:>16}  {:>9} {:>9}  {:<28} {:>6}  {:<9}  {}{}",
                claim(f),
                f.measure,
                f.label_noise,
                format!("{} against {}", f.epsilon, f.than),
                format!("{:.digits$}{unit}", factor * f.before),
                format!("{:.digits$}{unit}", factor * f.after),
                interval(&f.effect, factor, digits),
                p_text(f.p),
                f.news.to_string(),
                f.verdict,
                f.remark.as_ref().map(|remark| format!(" ({remark})")).unwrap_or_default()
            ));
        }
        for choice in &self.choices {
            let mark = match choice.criterion {
                by if by == self.chosen_by => "use",
                Criterion::RefinedNll => "for probabilities, with a temperature, use",
                _ => "by",
            };
            let name = choice.criterion.measure(choice.labels).name;
            line(format!("noise {}: {mark} e = {} ({name}): {}", choice.label_noise, choice.epsilon, choice.reason));
            choice.doubts().iter().for_each(|doubt| line(format!("    {doubt}")));
        }
        for other in self.by_other_labels() {
            line(other);
        }
        for gain in self.gains() {
            line(gain);
        }
        beside::lines(&self.ensembles, &self.rivals).into_iter().for_each(&mut line);
        if !self.study.is_cross_fitted() {
            line(NOT_CROSS_FITTED.into());
        }
        for p in &self.predictions {
            line(prediction(p));
        }
        out
    }

    /// The page.
    ///
    /// # Errors
    /// [`crate::Error::Report`] if a picture cannot be drawn.
    pub fn html(&self) -> Result<String> {
        let noises: Vec<String> = self.study.noises.iter().map(|noise| format!("label noise {noise}")).collect();
        let noises: Vec<&str> = noises.iter().map(String::as_str).collect();
        let body = html! {
            h1 { "What label smoothing does here" }
            p.under { (self.subject()) }
            @if let Some(reference) = self.reference {
                @for answer in tutorial::answers(&self.study, reference) { p.answer { (answer) } }
            }
            (self.answers())
            @if self.reference.is_some() { (tutorial::section(&self.study, &self.findings)) }
            h2 { "The claims, in figures" }
            (scrolled(&self.claims()))
            h2 { "Over epsilon" }
            p { "Means over the seeds, on the test set, with " (percent(self.study.level)) " intervals (Student's t)." }
            (super::page::legend(&noises))
            (drawings(&plots::panels(&self.study)?))
            (scrolled(&self.table()))
            h2 { "Reliability" }
            p { "All seeds together, on the test set; a dot's area is its share of the images. Above the line the \
                 network is right more often than it says. Grey: where a true confidence would be in at least 95 of \
                 100 test sets." }
            (self.reliability()?)
            @if !self.projections.is_empty() {
                h2 { "What the last layer sees" }
                p { "Up to 100 images of each of the first three classes, in the plane through the three classes' weights \
                     (Müller, Kornblith, Hinton 2019): smoothing draws each class together, and with it goes what tells \
                     its members apart." }
                (self.projected()?)
            }
            @if !self.rivals.is_empty() {
                h2 { "Other losses" }
                (scrolled(&beside::other_losses(&self.rivals)))
            }
            @if !self.ensembles.is_empty() {
                h2 { "The seeds together" }
                p { "The mean of the probabilities of a cell's runs answers, on the test set; beside it the mean of the runs, each \
                     on its own." }
                (scrolled(&beside::together(&self.ensembles)))
            }
            h2 { "By other measures" }
            (self.others())
            h2 { "How it was made" }
            dl.facts { @for (name, value) in &self.facts { dt { (name) } dd { (value) } } }
            h2 { "How to read this" }
            ul {
                li { "Runs of one seed share initial weights, order, held-out images and noise: every effect is the mean of \
                      differences within pairs." }
                li { "A claim holds where its whole interval is on the claimed side of zero, does not hold where it is on the \
                      other side, and is undecided else. Where what it mends was not there before, there is nothing to mend. The \
                      colour is not the claim's: it says whether what was seen is good or bad for whoever uses the network." }
                li { "The intervals and p stand for one comparison each. The last column is corrected for all comparisons of this \
                      table (Holm 1979): what is decided alone and not there may be chance." }
                li { "How sure a choice is: the seeds are drawn again with replacement, 2,000 times, and each draw chooses anew. \
                      Of epsilons within one standard error of the best the smallest is taken." }
                li { "Temperatures and recommendations come from the images held out; the test set was only measured." }
                li { "No loss here is the smoothed one: nll is plain cross-entropy." }
            }
            (glossary())
        };
        Ok(page("What label smoothing does here", &body))
    }

    /// What the choice for probabilities comes to on the test set, at each rate of noise, beside other choices.
    fn gains(&self) -> Vec<String> {
        let of = |noise: f64, by: Criterion| {
            let wanted = |choice: &&EpsilonChoice| choice.label_noise == noise && choice.criterion == by;
            self.choices.iter().find(wanted)
        };
        let line = |&noise: &f64| {
            let (refined, plain) = (of(noise, Criterion::RefinedNll)?, of(noise, Criterion::Nll)?);
            let nll = |e: f64| self.study.of_cell(noise, e, study::NLL_SCALED).mean;
            let mut others = vec![];
            let mut add = |e: f64, what: &str| {
                if e != refined.epsilon && nll(e).is_finite() {
                    others.push(format!("{:.4} at e = {e}{what}", nll(e)));
                }
            };
            add(refined.best, " (the least mean on the images held out)");
            add(plain.epsilon, " (chosen by the nll without a temperature)");
            add(0.0, " (no smoothing)");
            let at = nll(refined.epsilon);
            let beside = if others.is_empty() { String::new() } else { format!("; {}", others.join(", ")) };
            Some(format!("noise {noise}: test nll with a temperature {at:.4} at e = {}{beside}", refined.epsilon))
        };
        self.study.noises.iter().filter_map(line).collect()
    }

    /// What the other labels of the images held out would choose, and what that comes to on the test set.
    fn by_other_labels(&self) -> Vec<String> {
        let shown = |choice: &&EpsilonChoice| [self.chosen_by, Criterion::RefinedNll].contains(&choice.criterion);
        let line = |choice: &EpsilonChoice| {
            let &EpsilonChoice { label_noise: noise, epsilon, criterion, labels, .. } = choice;
            let same = |c: &&EpsilonChoice| c.label_noise == noise && c.criterion == criterion;
            let chosen = self.choices.iter().find(same).map_or(f64::NAN, |choice| choice.epsilon);
            let name = criterion.measure(labels).name;
            let whose = match labels {
                HeldOut::Clean => "by clean labels held out, which nobody with noisy data has",
                HeldOut::Noisy => "by labels held out that are as noisy as those trained on",
            };
            let what = if criterion == Criterion::RefinedNll { study::NLL_SCALED } else { study::TEST_ERROR };
            let (factor, digits, unit) = scale(what.name);
            let of = |e: f64| format!("{:.digits$}{unit}", factor * self.study.of_cell(noise, e, what).mean);
            let beside = if epsilon == chosen {
                "the same".to_owned()
            } else {
                format!("{} {} instead of {}", what.name, of(epsilon), of(chosen))
            };
            format!("noise {noise}: {whose}, e = {epsilon} ({name}): {beside}")
        };
        self.by_other_labels.iter().filter(shown).map(line).collect()
    }

    /// What was studied, in a line.
    fn subject(&self) -> String {
        let of = |name: &str| self.facts.iter().find(|(fact, _)| *fact == name).map(|(_, value)| &value[..]);
        ["data", "images", "runs"]
            .into_iter()
            .filter_map(|name| Some(format!("{name}: {}", of(name)?)))
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// The recommendation at each rate of noise, and how many claims hold.
    fn answers(&self) -> Markup {
        let count = |news: News| self.findings.iter().filter(|finding| finding.news == news).count();
        let about = |choice: &EpsilonChoice| {
            html! {
                (choice.reason) "."
                ul { @for doubt in choice.doubts() { li { (doubt) } } }
            }
        };
        html! {
            div.cards {
                @for choice in self.recommended() {
                    @let at = if self.study.noises.len() > 1 { format!("use, at label noise {}", choice.label_noise) } else { "use".into() };
                    (card(&at, &format!("e = {}", choice.epsilon), &about(choice)))
                }
                @if self.chosen_by != Criterion::RefinedNll {
                    @for choice in self.choices.iter().filter(|choice| choice.criterion == Criterion::RefinedNll) {
                        @let noise = if self.study.noises.len() > 1 { format!(", at label noise {}", choice.label_noise) } else { String::new() };
                        (card(&format!("for probabilities, with a temperature{noise}"), &format!("e = {}", choice.epsilon), &about(choice)))
                    }
                }
                @if !self.findings.is_empty() {
                    (card("good news for you", &format!("{} of {} lines", count(News::Good), self.findings.len()), &html! {
                        (count(News::Bad)) " are bad news, " (count(News::Open)) " are open"
                    }))
                }
            }
        }
    }

    /// What other measures would choose, and what was predicted.
    fn others(&self) -> Markup {
        html! {
            @let others = self.choices.iter().filter(|choice| choice.criterion != self.chosen_by);
            ul {
                @for choice in others {
                    li {
                        (choice.criterion.measure(choice.labels).name)
                        @if self.study.noises.len() > 1 { " at noise " (choice.label_noise) }
                        ": e = " (choice.epsilon)
                    }
                }
            }
            @if !self.by_other_labels.is_empty() {
                p { "With label noise the images held out are judged by two kinds of labels. Whoever has noisy data has noisy \
                     labels only; the clean ones say what that costs." }
                ul { @for other in self.by_other_labels() { li { (other) } } }
            }
            p { "The refined nll is the nll after a temperature: what is left once the confidence is right on average. By the nll \
                 without a temperature a small e wins because it mends the confidence, which a temperature does better." }
            ul { @for gain in self.gains() { li { (gain) } } }
            @if !self.study.is_cross_fitted() { p.note { (NOT_CROSS_FITTED) "." } }
            @if !self.predictions.is_empty() {
                p { "Forecast: the epsilon of the best calibration is near the error without smoothing times C/(C-1) (for \
                     off-target smoothing, the error itself)." }
                ul { @for p in &self.predictions { li { (prediction(p)) } } }
            }
        }
    }

    fn claims(&self) -> Markup {
        let columns =
            ["for you, and for the claim", "measure", "noise", "e", "before", "after", "effect", "p", "p, Holm"];
        // Effects on one measure are drawn to one scale.
        let widest = |f: &Finding| {
            let alike = self.findings.iter().filter(|other| other.measure == f.measure);
            alike
                .flat_map(|f| [f.effect.mean, f.effect.low, f.effect.high])
                .filter(|v| v.is_finite())
                .fold(0.0, |w, v| v.abs().max(w))
        };
        let is_number = |name: &str| ["noise", "before", "after", "effect", "p", "p, Holm"].contains(&name);
        html! {
            @match self.reference {
                None => p { "Nothing to compare: the study needs runs at epsilon 0 and above." },
                Some(reference) => p { "Claims 1 to 4 at e = " (reference) "." },
            }
            table.stacked {
                thead { tr { th { "claim" } @for name in columns { th.number[is_number(name)] { (name) } } } }
                tbody {
                    @for f in &self.findings {
                        @let (factor, digits, unit) = scale(f.measure);
                        tr class=(class(f.news)) {
                            td.first { (claim(f)) }
                            td data-name=(columns[0]) { div { span.verdict { (f.news) ": " (f.verdict) }
                                @if let Some(remark) = &f.remark { " " small { (remark) } } } }
                            td data-name=(columns[1]) { (f.measure) }
                            td.number data-name=(columns[2]) { (f.label_noise) }
                            td.whole data-name=(columns[3]) { (f.epsilon) " against " (f.than) }
                            td.number data-name=(columns[4]) { (format!("{:.digits$}{unit}", factor * f.before)) }
                            td.number data-name=(columns[5]) { (format!("{:.digits$}{unit}", factor * f.after)) }
                            td.number data-name=(columns[6]) { (interval(&f.effect, factor, digits)) (drawn(&f.effect, widest(f))) }
                            td.number data-name=(columns[7]) { (p_text(f.p)) }
                            td.number data-name=(columns[8]) { (p_text(f.p_corrected)) }
                        }
                    }
                }
            }
        }
    }

    fn table(&self) -> Markup {
        html! {
            table {
                thead { tr { @for name in ["noise", "e", "seeds"] { th.number { (name) } } @for (measure, factor, _) in COLUMNS {
                    th.number { (measure.name) @if factor == 100.0 { ", %" } } } } }
                tbody {
                    @for &noise in &self.study.noises { @for &epsilon in &self.study.epsilons {
                        @let seeds = self.study.cell(noise, epsilon).count();
                        @if seeds > 0 {
                            tr {
                                td.number { (noise) } td.number { (epsilon) } td.number { (seeds) }
                                @for (measure, factor, digits) in COLUMNS {
                                    @let mean = self.study.of_cell(noise, epsilon, measure).mean;
                                    // There is no share of flipped labels where none was flipped.
                                    td.number { @if mean.is_finite() { (format!("{:.digits$}", factor * mean)) } @else { "–" } }
                                }
                            }
                        }
                    } }
                }
            }
        }
    }

    fn reliability(&self) -> Result<Markup> {
        let epsilons: Vec<f64> = [Some(0.0), self.reference]
            .into_iter()
            .flatten()
            .chain(self.recommended().map(|choice| choice.epsilon))
            .fold(vec![], |mut all, e| {
                if self.study.epsilons.contains(&e) && !all.contains(&e) {
                    all.push(e);
                }
                all
            });
        let mut pictures = vec![];
        for &noise in &self.study.noises {
            for &e in &epsilons {
                let cell = || self.study.cell(noise, e);
                let at = if self.study.noises.len() > 1 { format!(", noise {noise}") } else { String::new() };
                for (what, bins) in [
                    ("", plots::pooled(cell().map(|o| &o.test.reliability[..]))),
                    (", temperature", plots::pooled(cell().map(|o| &o.test.reliability_scaled[..]))),
                ] {
                    if !bins.is_empty() {
                        pictures.push(plots::reliability(&format!("e = {e}{at}{what}"), &bins, cell().count())?);
                    }
                }
            }
        }
        Ok(html! { div.row { @for picture in pictures { (PreEscaped(picture)) } } })
    }

    fn projected(&self) -> Result<Markup> {
        let mut pictures = vec![];
        for (e, images) in &self.projections {
            for (name, set) in [("train", Set::Train), ("test", Set::Test)] {
                pictures.push(plots::projection(&format!("e = {e}, {name}"), images, set)?);
            }
        }
        Ok(html! { div.row { @for picture in pictures { (PreEscaped(picture)) } } })
    }
}

fn class(news: News) -> &'static str {
    match news {
        News::Good => "good",
        News::Bad => "bad",
        News::Open => "open",
    }
}

fn percent(level: f64) -> String {
    format!("{} %", (level * 1e6).round() / 1e4)
}

fn prediction(p: &Forecast) -> String {
    let [low, high] = p.cell;
    let stands_for = match (low.is_finite(), high.is_finite()) {
        (true, true) => format!("{low:.3} to {high:.3}"),
        (true, false) => format!("everything above {low:.3}"),
        (false, true) => format!("everything below {high:.3}"),
        (false, false) => "everything".into(),
    };
    let crossing = match p.crossing.n {
        0 => "confidence and accuracy do not cross within the grid".into(),
        n => format!("confidence and accuracy cross at {:.3} (the mean of {n} of the seeds)", p.crossing.mean),
    };
    format!(
        "noise {}: predicted {:.4} from an error of {:.2} %; the least ECE is at e = {}, which in this grid stands for \
         {stands_for}: the prediction {}; {crossing}",
        p.label_noise,
        p.predicted,
        100.0 * p.error,
        p.least_ece,
        if p.agrees { "agrees" } else { "fails" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::tests::outcome;
    use crate::study::{choice, claims};

    fn story(study: Study) -> Story {
        let reference = claims::reference(&study, 0.1);
        Story {
            facts: vec![("data", "made-up <b>".into())],
            reference,
            findings: reference.map(|e| claims::findings(&study, e, HeldOut::Clean)).unwrap_or_default(),
            choices: Criterion::ALL.iter().filter_map(|&by| choice::choose(&study, 0.0, by, HeldOut::Clean)).collect(),
            by_other_labels: vec![],
            rivals: vec![],
            ensembles: vec![],
            chosen_by: Criterion::Error,
            predictions: choice::prediction(&study, 0.0).into_iter().collect(),
            projections: vec![(0.0, vec![Projected { set: Set::Train, class: 0, x: 1.0, y: 2.0 }])],
            study,
        }
    }

    #[test]
    fn a_page_says_what_the_findings_say() {
        let outcomes = (0..3)
            .flat_map(|seed| [outcome([0.0, 0.0], seed, 10, 4.0), outcome([0.1, 0.0], seed, 8 + seed as usize, 1.0)])
            .collect();
        let study = Study::new(outcomes, 0.95).unwrap();
        let story = story(study);
        let page = story.html().unwrap();
        assert!(page.contains("a tutorial says"));
        assert!(page.contains("made-up &lt;b&gt;") && !page.contains("made-up <b>"), "values are escaped");
        let effects = story.findings.iter().filter(|finding| finding.effect.low.is_finite()).count();
        assert_eq!(page.matches("<svg class=\"effect\"").count(), effects);
        assert_eq!(page.matches("<svg").count(), effects + 6 + 2, "the curves and two projections; no bins were given");
        for finding in &story.findings {
            assert!(page.contains(finding.measure) && page.contains(&finding.verdict.to_string()), "{finding:?}");
        }
        assert!(story.text().contains("does not hold") && story.text().contains("overshoots"), "{}", story.text());
    }

    #[test]
    fn one_run_makes_a_page_too() {
        let study = Study::new(vec![outcome([0.1, 0.0], 0, 10, 4.0)], 0.95).unwrap();
        let page = story(study).html().unwrap();
        assert!(page.contains("Nothing to compare") && !page.contains("a tutorial says"));
        // NaN has no place in a picture.
        assert!(!page.contains("NaN\""), "{page}");
    }
}
