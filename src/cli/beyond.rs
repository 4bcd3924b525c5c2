//! What `eval` measures beyond the labels of the test set: what people said of it, images of another kind, and its
//! images made worse.

use std::path::PathBuf;

use serde::Serialize;
use smoothcnn::data::Dataset;
use smoothcnn::data::corrupt::{Corruption, SEVERITIES};
use smoothcnn::data::source::{DataChoice, Source, Wanted};
use smoothcnn::loss::Loss;
use smoothcnn::measure::agreement::{Agreement, agreement};
use smoothcnn::measure::detection::{Detection, detections};
use smoothcnn::measure::loss::{of_loss, taking_part};
use smoothcnn::measure::scaling::Scaling;
use smoothcnn::train::soft_labels;
use smoothcnn::{Error, Result};

use super::common;
use super::dataset::choice;
use super::model::{Asked, ModelArgs};

/// Flags of what the test set's labels do not tell.
#[derive(Debug, clap::Args)]
pub struct BeyondArgs {
    /// Ask too about the test images of this set, which the model was not trained on, of the same size: how well a
    /// score tells them from its own (AUROC, FPR95)
    #[arg(long, value_name = "NAME|PATH", value_parser = choice)]
    ood: Option<DataChoice>,
    /// Folder with that set's files [default: data]
    #[arg(long, value_name = "DIR", requires = "ood")]
    ood_dir: Option<PathBuf>,
    /// Compare too with what people said of the test images: a distribution over the classes for each, counts as an IDX
    /// file of two dimensions (CIFAR-10H), or safetensors `[images, classes]`
    #[arg(long, value_name = "FILE")]
    soft_labels: Option<PathBuf>,
    /// Measure too on the test images made worse in these ways, each at five severities [default: in every way]
    #[arg(long, value_name = "WAY,…", value_delimiter = ',', num_args = 0.., require_equals = true)]
    corruptions: Option<Vec<Corruption>>,
}

/// How other images are told from the model's own.
#[derive(Serialize)]
pub struct Outside {
    data: String,
    images: usize,
    scores: [Detection; 3],
}

/// What is left on test images that were made worse.
#[derive(Serialize)]
pub struct Worse {
    corruption: Corruption,
    severity: usize,
    error: f64,
    nll: f64,
    ece: f64,
    mean_confidence: f64,
}

impl BeyondArgs {
    /// How well scores of the logits, as they are, tell the images of `--ood` from those with these `logits`.
    pub fn outside(&self, args: &ModelArgs, asked: &Asked, loss: &Loss, logits: &[f64]) -> Result<Option<Outside>> {
        let Some(ood) = &self.ood else { return Ok(None) };
        let wanted = Wanted { data: Some(ood.clone()), dir: self.ood_dir.clone(), pictures: Default::default() };
        let source = Source { limit_train: Some(0), limit_test: args.limit_test, ..wanted.source()? };
        let bar = common::ReadingBar::default();
        let others = source.load(None, &|done, all| bar.show(done, all))?.test;
        let [own_shape, shape] = [asked.test.shape, others.shape].map(|[c, h, w]| format!("{c}x{h}x{w}"));
        if own_shape != shape {
            return Err(Error::Usage(format!(
                "--ood: found images of {shape}, expected {own_shape}, as the model's are"
            )));
        }
        let net = &asked.model.net;
        let of_others = args.logits(asked, &others)?;
        let part = |logits: &[f64]| {
            let labels = vec![first_that_counts(loss, net.classes); logits.len() / net.classes];
            let (logits, _, kept) = taking_part(loss.form(), logits, &labels, net.classes);
            (logits, kept)
        };
        let ((own, kept), (outside, _)) = (part(logits), part(&of_others));
        Ok(Some(Outside { data: source.describe(), images: others.len(), scores: detections(&own, &outside, kept) }))
    }

    /// How well the logits of the images `test`, which stand at `places` in the test set, agree with the people of
    /// `--soft-labels`.
    pub fn people(&self, loss: &Loss, logits: &[f64], test: &Dataset, places: &[u32]) -> Result<Option<Agreement>> {
        let Some(path) = &self.soft_labels else { return Ok(None) };
        let classes = test.classes;
        let allowed = loss.form().allowed().map_or_else(|| vec![true; classes], <[bool]>::to_vec);
        let takes_part = |&(label, _): &(&u32, &u32)| allowed[*label as usize];
        let places: Vec<u32> = test.labels.iter().zip(places).filter(takes_part).map(|(_, &place)| place).collect();
        let shares = soft_labels::read(path, &allowed, &places)?;
        let (part, labels, kept) = taking_part(loss.form(), logits, &test.labels, classes);
        // Every row is of an image that takes part; this leaves the classes out that do not.
        let any = vec![first_that_counts(loss, classes); labels.len()];
        let (shares, ..) = taking_part(loss.form(), &shares, &any, classes);
        Ok(Some(agreement(&part, &shares, kept)))
    }

    /// The measures on `test`, made worse as asked.
    pub fn worse(
        &self,
        args: &ModelArgs,
        asked: &Asked,
        (loss, scaling): (&Loss, &Scaling),
        test: &Dataset,
    ) -> Result<Vec<Worse>> {
        let Some(ways) = &self.corruptions else { return Ok(vec![]) };
        let ways = if ways.is_empty() { &Corruption::ALL } else { &ways[..] };
        let model = args.opened(asked)?;
        let mut found = vec![];
        for &corruption in ways {
            for severity in 1..=SEVERITIES {
                let logits = model.logits(&corruption.apply(test, severity))?;
                let logits = asked.model.scaled(&logits, scaling)?;
                let m = of_loss(loss, &logits, &test.labels, asked.model.net.classes);
                let (error, nll, ece, mean_confidence) = (m.error, m.nll, m.ece, m.mean_confidence);
                found.push(Worse { corruption, severity, error, nll, ece, mean_confidence });
            }
        }
        Ok(found)
    }
}

/// A label that a class mask leaves in.
fn first_that_counts(loss: &Loss, classes: usize) -> u32 {
    let allowed = loss.form().allowed();
    (0..classes).find(|&class| allowed.is_none_or(|allowed| allowed[class])).unwrap_or(0) as u32
}

/// Prints them.
pub fn show(outside: Option<&Outside>, people: Option<&Agreement>, worse: &[Worse]) -> Result<()> {
    if let Some(people) = people {
        common::print("agreement with the people of --soft-labels")?;
        for (name, value) in [
            ("cross-entropy", people.cross_entropy),
            ("kl", people.kl),
            ("total variation", people.total_variation),
            ("people's entropy", people.entropy_of_labels),
            ("its own entropy", people.entropy_of_model),
            ("rank correlation", people.rank_correlation),
        ] {
            common::print(format_args!("  {name:<16}  {value:.6}"))?;
        }
    }
    if let Some(Outside { data, images, scores }) = outside {
        common::print(format_args!("images of another kind: {data}, {images} test images"))?;
        common::print("  score             auroc   fpr95")?;
        for Detection { score, auroc, fpr95 } in scores {
            common::print(format_args!("  {:<15}  {auroc:.4}  {fpr95:.4}", score.name()))?;
        }
    }
    if !worse.is_empty() {
        common::print("test images made worse")?;
        common::print("            severity   error      nll     ece  mean confidence")?;
        for Worse { corruption, severity, error, nll, ece, mean_confidence } in worse {
            let name = corruption.name();
            common::print(format_args!(
                "  {name:<8}  {severity:>8}  {error:.4}  {nll:>7.4}  {ece:.4}  {mean_confidence:>15.4}"
            ))?;
        }
    }
    Ok(())
}
