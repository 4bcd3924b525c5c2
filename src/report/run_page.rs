//! The page of one run: the answer first, then what it rests on.

use std::path::PathBuf;

use maud::{Markup, html};

use super::page::{card, drawings, glossary, images, legend, page, percent, picture, scrolled};
use super::run::RunReport;
use super::run_plots::{Line, Stroke, curves, reliability};
use crate::Result;
use crate::fs::write_atomic;
use crate::measure::Metrics;
use crate::measure::classes::{ClassMeasures, Mistake, macro_mean};
use crate::measure::interval::wilson;
use crate::train::best::BestBy;
use crate::train::run_folder::REPORT;

/// A matrix of more classes is no picture any more: the pairs that are confused most are listed.
const WIDEST: usize = 32;
/// So many pairs of classes are listed.
const PAIRS: usize = 30;
/// So many wrong answers are shown.
const MISTAKES: usize = 24;
/// An ECE below this is good enough for most uses.
const SMALL_ECE: f64 = 0.01;
/// With fewer images chance alone makes an ECE.
const FEW_IMAGES: usize = 1000;

/// The measures of an epoch's line that have a drawing: of the training, and of the images that are measured.
const CURVES: [(&str, &[&str]); 6] = [
    ("loss", &["train_loss"]),
    ("nll", &["train_nll", "nll"]),
    ("excess", &["train_excess_loss"]),
    ("accuracy", &["accuracy"]),
    ("ECE", &["ece"]),
    ("mean confidence", &["mean_confidence"]),
];

/// The page.
///
/// # Errors
/// [`crate::Error::Report`] if a picture cannot be drawn.
pub fn html(run: &RunReport) -> Result<String> {
    let title = format!("{}: {} right", run.name(), percent(run.answer().accuracy));
    let body = html! {
        h1 { (run.name()) }
        p.under { (about(run)) }
        (answers(run))
        @for note in notes(run) { p.note { (note) } }
        h2 { "Over the epochs" }
        (lines(&[run])?)
        h2 { "Reliability" }
        p { "On the diagonal the confidence is true. A bar that ends in the grey may be off by chance; below it the \
             network is too sure, above it not sure enough. Below: where its confidences are." }
        (drawings(&diagrams(run, "")?))
        h2 { "The classes" }
        (classes(run))
        h2 { "Which class is taken for which" }
        (confusion(run))
        @if !run.marked.mistakes.is_empty() {
            h2 { "The surest of the wrong answers" }
            (mistakes(run))
        }
        @if let Some(filters) = filters(run) {
            h2 { "What the first layer looks for" }
            p { "Its filters; in grey ones mid-grey is a weight of 0." }
            div.filters { @for filter in filters { img src=(filter) alt=""; } }
        }
        h2 { "How it was made" }
        (facts(run))
        (configuration(run))
        (glossary())
    };
    Ok(page(&title, &body))
}

/// Writes the page into the run's folder, and gives its path.
///
/// # Errors
/// [`crate::Error::Io`]; [`crate::Error::Report`] if a picture cannot be drawn.
pub fn write(run: &RunReport) -> Result<PathBuf> {
    let path = run.path.join(REPORT);
    write_atomic(&path, html(run)?.as_bytes())?;
    Ok(path)
}

/// The answer, in lines for a terminal.
pub fn in_words(run: &RunReport) -> Vec<String> {
    let metrics = run.answer();
    let [low, high] = wilson(right(metrics), metrics.images);
    let (share, n) = (percent(metrics.accuracy), images(metrics.images));
    let first = format!("{share} of {n} answered right (95 %: {} to {})", percent(low), percent(high));
    [first].into_iter().chain(calibration(metrics).1).collect()
}

/// How many images are answered right.
pub(super) fn right(metrics: &Metrics) -> usize {
    metrics.images - (metrics.error * metrics.images as f64).round() as usize
}

/// What it is, in a line.
fn about(run: &RunReport) -> String {
    let config = &run.config;
    let loss = config.loss_config().describe(run.classes.len());
    format!("{}; {} classes; {loss}; seed {}", config.source().describe(), run.classes.len(), config.seed)
}

fn answers(run: &RunReport) -> Markup {
    let metrics = run.answer();
    let right = right(metrics);
    let [low, high] = wilson(right, metrics.images);
    let (trust, sentences) = calibration(metrics);
    let temperature = run.scaling.as_ref().map(|s| format!(" With the {} that `calibrate` found.", s.describe()));
    let epochs = run.epochs();
    let epoch = run.epoch().unwrap_or(epochs);
    html! {
        div.cards {
            (card("test images that are answered right", &percent(metrics.accuracy), &html! {
                "between " (percent(low)) " and " (percent(high)) " (95 %) by " (images(metrics.images)) "; "
                (metrics.images - right) " wrong"
            }))
            (card("can its confidence be trusted?", trust, &html! { (sentences.join(" ")) @if let Some(t) = temperature { (t) } }))
            (card("nll on the test set", &format!("{:.4}", metrics.nll), &html! {
                "plain cross-entropy, comparable between losses; Brier score " (format!("{:.4}", metrics.brier))
            }))
            (card("the weights", &format!("epoch {epoch}"), &html! { (chosen(run, epochs)) }))
        }
    }
}

/// Whether its confidence can be trusted, in a word and in sentences.
pub(super) fn calibration(metrics: &Metrics) -> (&'static str, Vec<String>) {
    let Metrics { mean_confidence, accuracy, ece, images, .. } = *metrics;
    let points = 100.0 * (mean_confidence - accuracy);
    let (word, by) = match () {
        () if ece <= SMALL_ECE => ("yes", String::new()),
        () if points.abs() < 100.0 * ece / 2.0 => ("not everywhere", ", but not at every confidence".into()),
        () if points > 0.0 => ("it is too sure", format!(": {points:.1} points too sure")),
        () => ("it is not sure enough", format!(": {:.1} points short", -points)),
    };
    let (sure, right) = (percent(mean_confidence), percent(accuracy));
    let mut sentences = vec![format!("On average {sure} sure and {right} right{by} (ECE {ece:.4}).")];
    if images < FEW_IMAGES && ece > SMALL_ECE {
        sentences.push(format!("With {images} images chance alone makes an ECE above 0."));
    }
    (word, sentences)
}

/// Why these weights.
fn chosen(run: &RunReport, epochs: usize) -> String {
    match run.config.best_by {
        Some(BestBy::Last) => format!("of {epochs}: the last one (--best-by last), measured on the test set once"),
        Some(by) => {
            format!("of {epochs}: the best by {} of the images held out, measured on the test set once", by.name())
        }
        None => format!("of {epochs}: the last one; no images were held out to choose a better one"),
    }
}

/// What a reader should know before believing the rest.
fn notes(run: &RunReport) -> Vec<String> {
    let (epochs, planned) = (run.epochs(), run.config.epochs);
    let mut notes = vec![];
    if run.lines("test").any(|line| line["ended_by"] == "patience") {
        notes.push(format!("Ended after epoch {epochs} of {planned}, because --patience ran out."));
    } else if epochs < planned {
        notes.push(format!("Not at its end: {epochs} of {planned} epochs are done."));
    }
    notes.extend(run.left_out.as_ref().map(|why| format!("Without a temperature: {why}.")));
    if run.measured() == "test" {
        notes.push(
            "The curves are of the test set: whoever stops or chooses by them has chosen on the test set.".into(),
        );
    }
    // Whether training went on too long shows in the nll before it shows in the accuracy.
    let nll = run.curve(&format!("{}_nll", run.measured()));
    if let (Some(least), Some(last)) = (nll.iter().copied().reduce(|a, b| if b.1 < a.1 { b } else { a }), nll.last())
        && last.1 > 1.05 * least.1
    {
        let (epoch, least, last) = (least.0, least.1, last.1);
        notes.push(format!(
            "Overfitting: the {} nll was least after epoch {epoch} ({least:.4}), at the end it is {last:.4}.",
            run.measured()
        ));
    }
    if run.config.labels.label_noise > 0.0 {
        notes.push(format!(
            "{} of the training labels were made wrong on purpose.",
            percent(run.config.labels.label_noise)
        ));
    }
    notes
}

/// The curves of the runs, a colour each; what is of the training is dashed, what is of the weights' average dotted.
pub(super) fn lines(runs: &[&RunReport]) -> Result<Markup> {
    let names: Vec<String> = runs.iter().map(|run| run.name()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let marked = match runs {
        [run] if run.config.best_by.is_some_and(|by| by != BestBy::Last) => run.epoch(),
        _ => None,
    };
    let mut pictures = vec![];
    for (title, measures) in CURVES {
        let mut lines = vec![];
        for (colour, run) in runs.iter().enumerate() {
            for measure in measures {
                let mut line = |stroke, name: String| {
                    let points = run.curve(&name);
                    if stroke != Stroke::Dotted || !points.is_empty() {
                        lines.push(Line { colour, stroke, points });
                    }
                };
                if measure.starts_with("train") {
                    line(Stroke::Dashed, (*measure).to_owned());
                } else {
                    line(Stroke::Whole, format!("{}_{measure}", run.measured()));
                    line(Stroke::Dotted, format!("{}_ema_{measure}", run.measured()));
                }
            }
        }
        pictures.push(curves(title, &lines, marked)?);
    }
    if runs.iter().any(|run| !run.config.recipe.is_default()) {
        let line = |(colour, run): (usize, &&RunReport)| Line { colour, stroke: Stroke::Whole, points: run.rates() };
        pictures.push(curves("learning rate", &runs.iter().enumerate().map(line).collect::<Vec<_>>(), marked)?);
    }
    let mut measured: Vec<&str> = runs.iter().map(|run| run.measured()).collect();
    measured.dedup();
    let held_out = |measured: &&str| if *measured == "val" { "images held out" } else { "test set" };
    let measured = measured.iter().map(held_out).collect::<Vec<_>>().join(", else ");
    Ok(html! {
        (legend(&names))
        p.legend { span.whole { (measured) } " " span.dashed { "training" }
            @if runs.iter().any(|run| run.config.recipe.ema.is_some()) {
                " " span.dotted { "moving average of the weights" } }
            @if marked.is_some() { " " small { "The dotted line is the epoch whose weights were taken." } } }
        (drawings(&pictures))
    })
}

/// The reliability diagrams of a run: as it is, and with its temperature.
pub(super) fn diagrams(run: &RunReport, name: &str) -> Result<Vec<String>> {
    let titled = |what: String| if name.is_empty() { what } else { format!("{name}, {what}") };
    let mut pictures = vec![reliability(&titled(format!("ECE {:.4}", run.metrics.ece)), &run.reliability)?];
    if let (Some(bins), Some(metrics)) = (&run.reliability_scaled, &run.scaled) {
        let title = titled(format!("calibrated: ECE {:.4}", metrics.ece));
        pictures.push(reliability(&title, bins)?);
    }
    Ok(pictures)
}

fn classes(run: &RunReport) -> Markup {
    let number = |value: f64| html! { td.number { (format!("{value:.4}")) } };
    let [precision, recall, f1] = macro_mean(&run.marked.classes);
    scrolled(&html! {
        table {
            thead { tr { th { "class" } @for name in ["precision", "recall", "F1", "images"] { th.number { (name) } } th {} } }
            tbody {
                @for (name, ClassMeasures { precision, recall, f1, support, .. }) in run.classes.iter().zip(&run.marked.classes) {
                    tr { th { (name) } (number(*precision)) (number(*recall)) (number(*f1)) td.number { (support) }
                         td { span.bar { i style=(format!("width:{:.1}%", 100.0 * f1)) {} } } }
                }
                tr { th { "mean of the classes" } (number(precision)) (number(recall)) (number(f1))
                     td.number { (run.marked.images.len()) } td {} }
            }
        }
    })
}

fn confusion(run: &RunReport) -> Markup {
    let confusion = &run.marked.confusion;
    let classes = run.classes.len();
    if classes > WIDEST {
        return scrolled(&html! {
            table {
                thead { tr { th { "class" } th { "answered" } th.number { "images" } } }
                tbody { @for (label, answer, count) in confusion.confused().into_iter().take(PAIRS) {
                    tr { td { (run.classes[label]) } td { (run.classes[answer]) } td.number { (count) } }
                } }
            }
        });
    }
    let cell = |label: usize, answer: usize| {
        let (count, support) = (confusion.count(label, answer), run.marked.classes[label].support.max(1));
        // Shares of 1 % are to be seen.
        let share = (count as f64 / support as f64).sqrt();
        let kind = if label == answer { "right" } else { "" };
        let kind = if count == 0 { "zero" } else { kind };
        html! { td class=(kind) style=(format!("--share:{share:.3}")) { (count) } }
    };
    html! {
        p { "Each row is a class, each column an answer; the darker, the larger the share of the row." }
        (scrolled(&html! {
            table.matrix {
                thead { tr { th {} @for name in &run.classes { th title=(name) { (name) } } } }
                tbody { @for (label, name) in run.classes.iter().enumerate() {
                    tr { th title=(name) { (name) } @for answer in 0..classes { (cell(label, answer)) } }
                } }
            }
        }))
    }
}

fn mistakes(run: &RunReport) -> Markup {
    let data = &run.marked.images;
    html! {
        p { (run.marked.mistakes.len()) " of " (images(data.len())) " are answered wrong; these are the ones with the highest \
             confidence. Look whether the label is right." }
        div.pictures {
            @for Mistake { index, label, answer, probability } in run.marked.mistakes.iter().take(MISTAKES) {
                figure {
                    img src=(picture(data.image(*index), data.shape)) alt="" loading="lazy";
                    figcaption {
                        "is " b { (run.classes[*label]) } ", answered " b { (run.classes[*answer]) } " "
                        (percent(*probability)) br; small { (run.marked.name(*index)) }
                    }
                }
            }
        }
    }
}

/// The filters of a first layer that looks at grey or RGB images, a picture each.
fn filters(run: &RunReport) -> Option<Vec<String>> {
    let first = run.model.net.parameters.first()?;
    let &[_, channels @ (1 | 3), h, w] = &first.shape[..] else { return None };
    let weights = run.model.state.params.get(first.range())?;
    let largest = weights.iter().fold(f64::MIN_POSITIVE, |most, w| most.max(w.abs()));
    let byte = |weight: &f64| (127.5 + 127.5 * weight / largest) as u8;
    let of = |filter: &[f64]| picture(&filter.iter().map(byte).collect::<Vec<_>>(), [channels, h, w]);
    Some(weights.chunks(channels * h * w).map(of).collect())
}

fn facts(run: &RunReport) -> Markup {
    let config = &run.config;
    let net = &run.model.net;
    let record = config.data_set.as_ref();
    let seconds = run.seconds();
    let mut speeds: Vec<f64> = run.lines("epoch").filter_map(|line| line["images_per_second"].as_f64()).collect();
    speeds.sort_by(f64::total_cmp);
    let speed = speeds.get(speeds.len() / 2).map_or(String::new(), |speed| format!(", {speed:.0} images/s"));
    let [c, h, w] = net.input;
    let held_out = match (config.labels.val_split, record.and_then(|record| record.val_images)) {
        (_, Some(n)) => format!(", {n} held out"),
        (split, None) if split > 0.0 => format!(", {} of them held out", percent(split)),
        _ => String::new(),
    };
    let layers: Vec<&str> = net.layers.iter().map(|layer| &layer.name[..]).collect();
    let mut facts = vec![
        (
            "images",
            record.map_or(String::new(), |record| {
                format!("{} to train on{held_out}, {} to test on, {c}x{h}x{w}", record.train_images, record.test_images)
            }),
        ),
        ("network", format!("{}: {} ({} parameters)", config.network, layers.join(", "), net.parameter_count())),
        ("loss", config.loss_config().describe_all()),
        ("optimizer", config.describe_updates()),
        (
            "best epoch by",
            match config.best_by {
                None | Some(BestBy::Last) => "nothing".into(),
                Some(by) => format!("val {}", by.name()),
            },
        ),
        ("device", config.backend.clone()),
        ("time", format!("{seconds:.1} s in {} epochs{speed} (the median)", run.epochs())),
        ("weights", run.model.file.path.display().to_string()),
        ("program", format!("smoothcnn {}", config.version)),
    ];
    facts.retain(|(_, value)| !value.is_empty());
    html! { dl.facts { @for (name, value) in facts { dt { (name) } dd { (value) } } } }
}

fn configuration(run: &RunReport) -> Markup {
    let text = toml::to_string_pretty(&run.config).unwrap_or_default();
    html! { details { summary { "Its whole configuration" } pre { (text) } } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::smoothing::Smoothing;
    use crate::measure::evaluate;

    fn metrics(mean_confidence: f64, accuracy: f64, ece: f64, images: usize) -> Metrics {
        Metrics { mean_confidence, accuracy, ece, images, ..evaluate(&[1.0, 0.0], &[0], 2, Smoothing::NONE) }
    }

    #[test]
    fn calibration_is_said_as_it_is() {
        let said = |m: Metrics| calibration(&m);
        assert_eq!(said(metrics(0.985, 0.98, 0.006, 10_000)).0, "yes");
        let (word, sentences) = said(metrics(0.95, 0.90, 0.05, 10_000));
        assert_eq!(word, "it is too sure");
        assert_eq!(sentences, ["On average 95.0\u{a0}% sure and 90.0\u{a0}% right: 5.0 points too sure (ECE 0.0500)."]);
        assert_eq!(said(metrics(0.85, 0.90, 0.05, 10_000)).0, "it is not sure enough");
        // Too sure at some confidences, not sure enough at others.
        assert_eq!(said(metrics(0.90, 0.90, 0.08, 10_000)).0, "not everywhere");
        assert_eq!(said(metrics(0.85, 0.90, 0.05, 100)).1[1], "With 100 images chance alone makes an ECE above 0.");
    }
}
