//! A run as a folder for the Hugging Face hub: a model card with the run's own figures, how to prepare a picture, the
//! classes, the weights, and the PyTorch module that they belong to.

use std::path::Path;

use serde_json::{Value, json};

use super::{Exportable, pytorch};
use crate::data::format::CropMode;
use crate::fs::write_atomic;
use crate::measure::scaling::Scaling;
use crate::parse::to_json;
use crate::train::config::{Config, read_config};
use crate::train::model::ModelFile;
use crate::train::run_folder::{CONFIG, name_of, run_of};
use crate::train::saved::read_record;
use crate::{Error, Result};

/// The model card.
pub const CARD: &str = "README.md";
/// Classes and sizes.
pub const MODEL_CONFIG: &str = "config.json";
/// How a picture becomes pixels.
pub const PREPROCESSOR: &str = "preprocessor_config.json";
/// Every file of the folder.
pub const FILES: [&str; 5] = [CARD, MODEL_CONFIG, PREPROCESSOR, pytorch::SOURCE, pytorch::WEIGHTS];

/// The measures of the test set that a card has, under the names of the record, and as people call them.
const FIGURES: [(&str, &str); 5] = [
    ("accuracy", "accuracy"),
    ("nll", "nll"),
    ("ece", "ECE, 15 bins"),
    ("brier", "Brier score"),
    ("mean_confidence", "mean confidence"),
];

/// Writes the folder of the run that `file` is of.
///
/// # Errors
/// [`Error::Data`] for a model that is not in a run's folder; as [`pytorch::write`].
pub fn write(model: &Exportable, file: &ModelFile, folder: &Path) -> Result<()> {
    let Some(run) = run_of(&file.path) else {
        let message = "found a model without its run, expected one in a run's folder, whose figures the card tells";
        return Err(Error::data(&file.path, message));
    };
    let config = read_config(&run.join(CONFIG))?;
    let figures = figures(&read_record(run)?, file);
    let name = name_of(run);
    pytorch::write(model, file, folder)?;
    let write = |name: &str, text: String| write_atomic(&folder.join(name), text.as_bytes());
    write(MODEL_CONFIG, pretty(&model_config(model)))?;
    write(PREPROCESSOR, pretty(&preprocessor(model)))?;
    write(CARD, card(&name, model, &config, &figures))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// What the test set gave by the weights of `file`: by those of the best epoch at the end, else after the last epoch.
/// Nothing where the record has no line of just these weights.
fn figures(record: &[Value], file: &ModelFile) -> Vec<(&'static str, f64)> {
    let epoch = file.metadata.get("epoch").and_then(|epoch| epoch.parse::<u64>().ok());
    let of_kind = |kind: &str| record.iter().rev().find(|line| line["kind"] == kind && line["epoch"].as_u64() == epoch);
    let (line, prefix) = match (of_kind("test"), of_kind("epoch")) {
        (Some(line), _) => (line, ""),
        (None, Some(line)) => (line, "test_"),
        (None, None) => return vec![],
    };
    let value = |(key, name): (&str, &'static str)| Some((name, line[format!("{prefix}{key}")].as_f64()?));
    FIGURES.into_iter().filter_map(value).collect()
}

/// As transformers has it for image classifiers.
fn model_config(model: &Exportable) -> Value {
    let [c, h, w] = model.net.input;
    let id2label: serde_json::Map<_, _> =
        model.classes.iter().enumerate().map(|(id, name)| (id.to_string(), json!(name))).collect();
    let label2id: serde_json::Map<_, _> =
        model.classes.iter().enumerate().map(|(id, name)| (name.clone(), json!(id))).collect();
    let mut config = json!({
        "model_type": "smoothcnn",
        "num_channels": c,
        "image_size": [h, w],
        "id2label": id2label,
        "label2id": label2id,
    });
    match &model.scaling {
        Scaling::Temperature(t) => config["temperature"] = json!(t),
        Scaling::Vector(vector) => config["vector_scaling"] = json!(vector),
    }
    config
}

/// As transformers has it. The module normalises pixels itself; whoever uses another loader needs the numbers.
fn preprocessor(model: &Exportable) -> Value {
    let [c, h, w] = model.net.input;
    json!({
        "do_resize": true,
        "size": { "height": h, "width": w },
        "resample": 2,
        "crop_mode": model.crop_mode.name(),
        "do_convert_rgb": c == 3,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": model.each_channel(0),
        "image_std": model.each_channel(1),
    })
}

fn card(name: &str, model: &Exportable, config: &Config, figures: &[(&str, f64)]) -> String {
    let data = config.data.name();
    let record = config.data_set.as_ref();
    let [c, h, w] = model.net.input;
    let classes = model.classes.len();
    let mut head = String::from(
        "library_name: pytorch\npipeline_tag: image-classification\ntags:\n- image-classification\n- label-smoothing\n- smoothcnn\n",
    );
    if !figures.is_empty() {
        // JSON is YAML.
        let metrics: Vec<Value> =
            figures.iter().map(|(name, value)| json!({ "type": name, "name": name, "value": value })).collect();
        let results = json!([{
            "task": { "type": "image-classification" },
            "dataset": { "name": data, "type": data, "split": "test" },
            "metrics": metrics,
        }]);
        head += &format!("model-index:\n- name: {}\n  results: {}\n", to_json(&name), to_json(&results));
    }
    let rows: String = figures.iter().map(|(name, value)| format!("| {name} | {value:.4} |\n")).collect();
    let test_images = record.map_or(String::new(), |record| format!(" ({} images)", record.test_images));
    let measured = match rows.is_empty() {
        true => "The run has no figures of these weights on its test set.\n".into(),
        false => {
            format!("On the test set{test_images}, their logits as they are:\n\n| measure | value |\n|---|---|\n{rows}")
        }
    };
    let scaling = match &model.scaling {
        scaling if scaling.is_none() => String::new(),
        Scaling::Temperature(t) => {
            format!("\nIts logits are divided by a temperature of {t:.4}, fitted on images kept from training.\n")
        }
        Scaling::Vector(_) => {
            "\nThe logit of each class has a weight and a bias of its own (vector scaling), fitted on \
                               images kept from training.\n"
                .into()
        }
    };
    let split = config.labels.val_split;
    let kept = if split > 0.0 { format!(", {} % of them held out,", 100.0 * split) } else { String::new() };
    let trained = record.map_or(String::new(), |record| format!(" on {} images{kept}", record.train_images));
    let names: Vec<&str> = model.classes.iter().map(String::as_str).take(20).collect();
    let more = if classes > names.len() { format!(", … ({classes} in all)") } else { String::new() };
    let crop = match model.crop_mode {
        CropMode::Center => "the middle of a picture of another shape is cut out",
        CropMode::Border => "a picture of another shape gets a black border",
        CropMode::Squash => "a picture of another shape is squashed",
    };
    format!(
        "---\n{head}---\n\n# {name}\n\nA convolutional classifier of {classes} classes: {}{more}. It takes images of \
         {c}x{h}x{w} (channels, height, width); {crop}. Trained by smoothcnn {}{trained} of {data}, for {} epochs with {}.\n\n\
         ## Figures\n\n{measured}{scaling}\n\
         ## Use\n\n```python\nimport torch\nfrom model import CLASSES, load\n\nmodel = load()\n\
         pixels = torch.zeros(1, {c}, {h}, {w})  # from 0 to 255; the model normalises them itself\n\
         CLASSES[model.probabilities(pixels).argmax()]\n```\n\n\
         ## Limits\n\nIt knows these classes and no other: every picture is answered with one of them. With label smoothing the \
         confidence of a network is often below its accuracy; compare both above before a probability decides anything. \
         The figures are of one run; another seed gives others.\n",
        names.join(", "),
        config.version,
        config.epochs,
        config.loss_config().describe(classes),
    )
}
