//! The page of several runs side by side.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::page::{card, drawings, glossary, page, percent, scrolled};
use super::run::RunReport;
use super::run_page::{calibration, diagrams, lines, right};
use crate::measure::interval::{paired_difference, wilson};
use crate::{Error, Result};

/// Recall of more classes is no table any more.
const MOST_CLASSES: usize = 100;

/// By how much a run's share of right answers is above that of the first one: `[difference, low, high]`. `None` where
/// their test sets are not the same images.
fn gain(run: &RunReport, first: &RunReport) -> Option<[f64; 3]> {
    if run.marked.images != first.marked.images {
        return None;
    }
    let (ours, theirs) = (run.marked.right(), first.marked.right());
    let count = |ours_right: bool| {
        let differs = |(ours, theirs): &(&bool, &bool)| ours != theirs && **ours == ours_right;
        ours.iter().zip(&theirs).filter(differs).count()
    };
    Some(paired_difference(count(true), count(false), ours.len()))
}

/// The page of at least two runs; every other one is held against the first.
///
/// # Errors
/// [`Error::Usage`] for fewer runs; [`Error::Report`] if a picture cannot be drawn.
pub fn html(runs: &[RunReport]) -> Result<String> {
    let [first, others @ ..] = runs else { return Err(few(runs)) };
    if others.is_empty() {
        return Err(few(runs));
    }
    let all: Vec<&RunReport> = runs.iter().collect();
    let mut pictures = vec![];
    for run in runs {
        pictures.extend(diagrams(run, &run.name())?);
    }
    let gains: Vec<_> = runs.iter().map(|run| gain(run, first)).collect();
    let title = format!("{} runs side by side", runs.len());
    let body = html! {
        h1 { (title) }
        p.under { "Every other run is held against " b { (first.name()) } "." }
        div.cards { @for (run, gain) in runs.iter().zip(&gains).skip(1) { (verdict(run, first, *gain)) } }
        (measures(runs, &gains))
        h2 { "What was set differently" }
        (settings(runs))
        h2 { "Over the epochs" }
        (lines(&all)?)
        h2 { "Reliability" }
        (drawings(&pictures))
        @if let Some(table) = classes(runs) {
            h2 { "Recall of each class" }
            (table)
        }
        (glossary())
    };
    Ok(page(&title, &body))
}

fn few(runs: &[RunReport]) -> Error {
    Error::Usage(format!("report: found {} to put side by side, expected at least two runs", runs.len()))
}

/// Whether a run is better than the first one, as far as their answers tell.
fn verdict(run: &RunReport, first: &RunReport, gain: Option<[f64; 3]>) -> Markup {
    let Some([difference, low, high]) = gain else {
        let about = html! { "Not the same test images as " (first.name()) ": no difference can be told." };
        return card(&run.name(), &percent(run.answer().accuracy), &about);
    };
    let word = match () {
        () if low > 0.0 => "more often right",
        () if high < 0.0 => "less often right",
        () => "no clear difference",
    };
    let points = |share: f64| format!("{:+.2}", 100.0 * share);
    let (trust, _) = calibration(run.answer());
    card(
        &run.name(),
        word,
        &html! {
            (points(difference)) " points of accuracy (95 %: " (points(low)) " to " (points(high)) "), on the same "
            (run.marked.images.len()) " test images. Can its confidence be trusted: " (trust)
            " (ECE " (format!("{:.4}", run.answer().ece)) "; " (first.name()) ": " (format!("{:.4}", first.answer().ece)) ")."
        },
    )
}

fn measures(runs: &[RunReport], gains: &[Option<[f64; 3]>]) -> Markup {
    let number = |value: f64, digits: usize| html! { td.number { (format!("{value:.digits$}")) } };
    let names = [
        "accuracy",
        "95 % interval",
        "to the first",
        "nll",
        "ECE",
        "conf. - acc.",
        "Brier",
        "AURC",
        "temperature",
        "epoch",
        "time",
    ];
    scrolled(&html! {
        table {
            thead { tr { th { "run" } @for name in names { th.number { (name) } } } }
            tbody { @for (i, run) in runs.iter().enumerate() {
                @let m = run.answer();
                @let [low, high] = wilson(right(m), m.images);
                tr {
                    th.legend { span class=(format!("line{}", i % 6)) { (run.name()) } }
                    td.number { (percent(m.accuracy)) }
                    td.number { (format!("{:.2} to {:.2}", 100.0 * low, 100.0 * high)) }
                    td.number { @match gains[i] {
                        Some([difference, ..]) if i > 0 => (format!("{:+.2}", 100.0 * difference)),
                        _ => "–",
                    } }
                    (number(m.nll, 4)) (number(m.ece, 4)) (number(100.0 * (m.mean_confidence - m.accuracy), 2))
                    (number(m.brier, 4)) (number(m.aurc, 5))
                    td.number {
                        (run.scaling.as_ref().map_or("–".into(), |scaling| {
                            scaling.temperature().map_or("vector".into(), |t| format!("{t:.3}"))
                        }))
                    }
                    td.number { (run.epoch().unwrap_or(run.epochs())) " of " (run.epochs()) }
                    td.number { (format!("{:.1} s", run.seconds())) }
                }
            } }
        }
    })
}

/// The settings that are not the same in all runs.
fn settings(runs: &[RunReport]) -> Markup {
    let tables: Vec<Vec<(String, String)>> = runs.iter().map(|run| flat(&run.config)).collect();
    let keys: BTreeSet<&str> = tables.iter().flatten().map(|(key, _)| &key[..]).collect();
    let of = |table: &[(String, String)], key: &str| {
        table.iter().find(|(name, _)| name == key).map_or("–".into(), |(_, value)| value.clone())
    };
    let differs = |key: &&str| tables.iter().any(|table| of(table, key) != of(&tables[0], key));
    let keys: Vec<&str> = keys.into_iter().filter(differs).collect();
    if keys.is_empty() {
        return html! { p { "Nothing: all settings are the same." } };
    }
    scrolled(&html! {
        table {
            thead { tr { th {} @for run in runs { th { (run.name()) } } } }
            tbody { @for key in keys { tr { th { (key) } @for table in &tables { td { (of(table, key)) } } } } }
        }
    })
}

/// A configuration as keys with dots and values.
fn flat(config: &crate::train::config::Config) -> Vec<(String, String)> {
    fn walk(prefix: &str, table: &toml::Table, all: &mut Vec<(String, String)>) {
        for (key, value) in table {
            let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(inner) => walk(&key, inner, all),
                other => all.push((key, other.to_string())),
            }
        }
    }
    let mut all = vec![];
    walk("", &toml::Table::try_from(config).unwrap_or_default(), &mut all);
    all
}

/// The recall of each class in each run, where all have the same classes.
fn classes(runs: &[RunReport]) -> Option<Markup> {
    let names = &runs[0].classes;
    if names.len() > MOST_CLASSES || runs.iter().any(|run| run.classes != *names) {
        return None;
    }
    Some(scrolled(&html! {
        table {
            thead { tr { th { "class" } @for run in runs { th.number { (run.name()) } } } }
            tbody { @for (class, name) in names.iter().enumerate() {
                tr { th { (name) } @for run in runs { td.number { (format!("{:.4}", run.marked.classes[class].recall)) } } }
            } }
        }
    }))
}
