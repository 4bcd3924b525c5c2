//! What other programs make of an exported model: a runtime written in Rust, and Python's. The latter need Python with
//! onnx, onnxruntime, torch and safetensors, which is another one than `python3` where SMOOTHCNN_PYTHON says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use serde_json::json;
use smoothcnn::backend::device::{Device, Precision};
use smoothcnn::backend::gpu::DeviceKind;
use smoothcnn::backend::{Asked, ImageSet, State};
use smoothcnn::data::Dataset;
use smoothcnn::export::{Exportable, onnx, pytorch};
use smoothcnn::measure::scaling::{Scaling, Vector};
use smoothcnn::network::{Layer, Network};
use smoothcnn::ops::{avg_pool2d, conv2d, gelu, max_pool2d};
use smoothcnn::plan::Storage;
use smoothcnn::train::checkpoint::Metadata;
use smoothcnn::train::model::ModelFile;
use tempfile::tempdir;

use super::skip::skipped;
use super::{assert_fails, pictures, run, stderr, stdout};

/// How far two programs may be apart, in logits and probabilities.
const TOLERANCE: f64 = 1e-5;

/// An exported model, and its logits or probabilities of some images.
struct Case<'a> {
    path: PathBuf,
    images: &'a Dataset,
    expected: Vec<f64>,
    softmax: bool,
}

/// Holds exported models to what is expected of them, in one Python: that is what takes time.
fn check_in_python(kind: &str, dir: &Path, cases: &[Case]) {
    let json = |Case { path, images, expected, softmax }: &Case| {
        let [c, h, w] = images.shape;
        json!({ "path": path, "images": images.images, "shape": [images.len(), c, h, w], "expected": expected,
                "softmax": softmax })
    };
    let file = dir.join("cases.json");
    fs::write(&file, serde_json::Value::from_iter(cases.iter().map(json)).to_string()).unwrap();
    let python = std::env::var_os("SMOOTHCNN_PYTHON").unwrap_or("python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/export.py");
    let Ok(found) = Command::new(python).arg(script).arg(kind).arg(&file).output() else {
        return skipped("there is no python3");
    };
    let text = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    if let Some(why) = text.strip_prefix("skipped: ") {
        return skipped(why);
    }
    let apart: Vec<f64> = text.lines().map(|line| line.parse().unwrap()).collect();
    println!("{kind}: {apart:?} apart");
    assert_eq!(apart.len(), cases.len());
    assert!(apart.iter().all(|&apart| apart < TOLERANCE), "{apart:?}");
}

/// How far a runtime written in Rust is from what is expected of these images; of them all at once, and of each alone.
fn apart_in_rten(path: &Path, images: &Dataset, expected: &[f64]) -> f64 {
    let model = rten::Model::load_file(path).unwrap();
    let [c, h, w] = images.shape;
    let answer = |bytes: &[u8], n: usize| -> Vec<f32> {
        let pixels: Vec<f32> = bytes.iter().map(|&byte| byte.into()).collect();
        let pixels = NdTensor::from_data([n, c, h, w], pixels);
        let found: NdTensor<f32, 2> = model.run_one(pixels.view().into(), None).unwrap().try_into().unwrap();
        found.iter().copied().collect()
    };
    let together = answer(&images.images, images.len());
    let alone: Vec<f32> = (0..images.len()).flat_map(|i| answer(images.image(i), 1)).collect();
    let apart = |found: &[f32]| {
        assert_eq!(found.len(), expected.len());
        found.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).abs()).fold(0.0, f64::max)
    };
    let apart = apart(&together).max(apart(&alone));
    println!("rten: {apart:e} apart");
    apart
}

/// Images of any bytes, all of them among them.
fn images(shape: [usize; 3], n: usize) -> Dataset {
    let len = n * shape.iter().product::<usize>();
    let images = (0..len).map(|i| (i * i * 31 + i * 7) as u8).collect();
    Dataset { shape, classes: 2, images, labels: vec![0; n], files: vec![] }
}

/// A network that is not trained, and its logits in f64.
fn untrained(input: [usize; 3], layers: &[Layer], images: &Dataset) -> (Exportable, Vec<f64>) {
    let net = Network::new(input, layers).unwrap();
    let state = State::initial(&net, 3);
    let normalisation = vec![[0.4, 0.3], [0.5, 0.25], [0.45, 0.2]];
    let device = Device { kind: DeviceKind::Cpu, ..Device::default() };
    let device = device.open(Precision::F64, &|_| ()).unwrap();
    let (params, buffers) = (&state.params, &state.buffers);
    let asked = Asked { net: &net, params, buffers, normalisation: &normalisation, batch_size: 4 };
    let logits = device.predictor(Storage::F32, None, &asked, images.len()).unwrap().logits(ImageSet::Bytes(images));
    let logits = logits.unwrap();
    let classes = (0..net.classes).map(|class| format!("class \"{class}\"")).collect();
    let crop_mode = Default::default();
    (Exportable { net, state, classes, normalisation, crop_mode, allowed: None, scaling: Scaling::NONE }, logits)
}

/// Networks with every layer of the crate, with strides, windows and paddings that differ from side to side.
fn networks(images: &Dataset) -> Vec<(Exportable, Vec<f64>)> {
    let layers = [
        Layer::new(conv2d::Settings {
            out_channels: 5,
            kernel_size: [3, 2],
            stride: [2, 1],
            padding: [2, 1],
            ..conv2d::Settings::square(1, 1, 0)
        }),
        Layer::leaky_relu(0.1),
        Layer::new(avg_pool2d::Settings { kernel_size: [2, 3], stride: [1, 2] }),
        Layer::conv2d(6, 3, 1),
        Layer::relu(),
        Layer::new(max_pool2d::Settings { kernel_size: [3, 2], stride: [2, 3], padding: [1, 1] }),
        Layer::flatten(),
        Layer::dropout(0.3),
        Layer::linear(7),
        Layer::relu(),
        Layer::linear(4),
    ];
    let with_global =
        [Layer::conv2d(6, 3, 1), Layer::global_avg_pool2d(), Layer::flatten(), Layer::linear(3), Layer::dropout(0.5)];
    let halved = |out_channels, kernel_size, padding| {
        let square = conv2d::Settings::square(out_channels, kernel_size, padding);
        Layer::new(conv2d::Settings { stride: [2; 2], bias: false, ..square })
    };
    let residual = [
        Layer::conv2d(4, 3, 1),
        Layer::batch_norm2d(),
        Layer::relu(),
        Layer::residual_with(
            vec![halved(6, 3, 1), Layer::batch_norm2d(), Layer::residual(vec![Layer::conv2d(6, 3, 1)])],
            vec![halved(6, 1, 0), Layer::batch_norm2d()],
        ),
        Layer::relu(),
        Layer::global_avg_pool2d(),
        Layer::flatten(),
        Layer::linear(3),
    ];
    let smooth = [
        Layer::conv2d(6, 3, 1),
        Layer::group_norm(3),
        Layer::silu(),
        Layer::new(conv2d::Settings { groups: 3, dilation: [2, 1], ..conv2d::Settings::square(6, 3, 1) }),
        Layer::gelu(),
        Layer::flatten(),
        Layer::linear(8),
        Layer::new(gelu::Settings { approximate: gelu::Approximate::Tanh }),
        Layer::linear(3),
    ];
    let networks: [&[Layer]; 4] = [&layers, &with_global, &residual, &smooth];
    networks.map(|layers| untrained(images.shape, layers, images)).into()
}

/// The model with its logits scaled, each in another way, and without one of its classes; its probabilities then.
fn scaled_and_masked(model: &mut Exportable, logits: &[f64], vector: bool) -> Vec<f64> {
    let classes = model.net.classes;
    let weights: Vec<f64> = (0..classes).map(|c| if vector { 1.5 + 0.25 * c as f64 } else { 2.0 }).collect();
    let biases: Vec<f64> = (0..classes).map(|c| if vector { 0.5 - 0.125 * c as f64 } else { 0.0 }).collect();
    model.scaling = match vector {
        true => Scaling::Vector(Vector { weights: weights.clone(), biases: biases.clone() }),
        false => Scaling::Temperature(0.5),
    };
    model.allowed = Some((0..classes).map(|class| class != 1).collect());
    let softmax = |row: &[f64]| {
        let of = |c: usize| if c == 1 { 0.0 } else { (row[c] * weights[c] + biases[c]).exp() };
        let exp: Vec<f64> = (0..classes).map(of).collect();
        exp.iter().map(|e| e / exp.iter().sum::<f64>()).collect::<Vec<_>>()
    };
    logits.chunks(classes).flat_map(softmax).collect()
}

/// Catches a layer whose form in ONNX is another function, a normalisation that is not the predictor's, a graph of one
/// batch size, a file that ONNX's own checker refuses, scaling and class mask that are lost.
#[test]
fn onnx_answers_as_the_predictor_does() {
    let dir = tempdir().unwrap();
    let images = images([3, 15, 14], 6);
    let mut cases = vec![];
    for (k, (mut model, logits)) in networks(&images).into_iter().enumerate() {
        let case = |model: &Exportable, softmax: bool, expected: Vec<f64>| {
            let path = dir.path().join(format!("{k}{softmax}.onnx"));
            fs::write(&path, onnx::encode(model, softmax).unwrap()).unwrap();
            assert!(apart_in_rten(&path, &images, &expected) < TOLERANCE);
            Case { path, images: &images, expected, softmax }
        };
        cases.push(case(&model, false, logits.clone()));
        let probabilities = scaled_and_masked(&mut model, &logits, k % 2 == 1);
        cases.push(case(&model, true, probabilities));
    }
    check_in_python("onnx", dir.path(), &cases);
}

/// Catches a layer whose module is another function, weights that do not load strictly, a normalisation that is not the
/// predictor's, scaling and class mask that are lost.
#[test]
fn pytorch_answers_as_the_predictor_does() {
    let dir = tempdir().unwrap();
    let images = images([3, 15, 14], 6);
    let mut cases = vec![];
    for (k, (mut model, logits)) in networks(&images).into_iter().enumerate() {
        let case = |model: &Exportable, softmax: bool, expected: Vec<f64>| {
            let path = dir.path().join(format!("{k}{softmax}"));
            fs::create_dir(&path).unwrap();
            let file = ModelFile { path: path.join("none"), metadata: Metadata::new() };
            pytorch::write(model, &file, &path).unwrap();
            Case { path, images: &images, expected, softmax }
        };
        cases.push(case(&model, false, logits.clone()));
        let probabilities = scaled_and_masked(&mut model, &logits, k % 2 == 1);
        cases.push(case(&model, true, probabilities));
    }
    check_in_python("pytorch", dir.path(), &cases);
}

/// A run's folder for the hub: figures that are the record's, classes by number and name, no path of the user's, and a
/// model that this program knows as well.
#[test]
fn a_run_becomes_a_module_and_a_folder_for_the_hub() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    pictures::digits(&dir.join("mine"), 200, 60);
    run(dir, "train --device cpu --data mine --epochs 2 --batch-size 32 --val-split 0.3 --out run").success();
    let assert = run(dir, "export hf run").success();
    let files = "README.md, config.json, preprocessor_config.json, model.py, model.safetensors";
    assert_eq!(stdout(&assert), format!("run/best-hf: {files}\n"));
    let read = |name: &str| fs::read_to_string(dir.join("run/best-hf").join(name)).unwrap();
    let json = |name: &str| serde_json::from_str::<serde_json::Value>(&read(name)).unwrap();
    let card = read("README.md");
    let accuracy = super::number(&super::metrics(&dir.join("run"), "test")[0], "accuracy");
    assert!(card.starts_with("---\n") && card.contains(&format!("| accuracy | {accuracy:.4} |")), "{card}");
    assert!(card.contains(&format!("\"type\":\"accuracy\",\"value\":{accuracy}")), "{card}");
    let config = json("config.json");
    assert_eq!((&config["id2label"]["3"], &config["label2id"]["digit 3"]), (&"digit 3".into(), &3.into()));
    assert_eq!(json("preprocessor_config.json")["size"], json!({ "height": 28, "width": 28 }));
    let weights = fs::read(dir.join("run/best-hf/model.safetensors")).unwrap();
    let user = dir.to_string_lossy();
    assert!(!String::from_utf8_lossy(&weights).contains(&*user) && !card.contains(&*user), "a path of the user's");
    // The same answers, by this program.
    let answers = |model: &str| stdout(&run(dir, &format!("predict --model {model} --device cpu mine/test")).success());
    assert_eq!(answers("run/best-hf/model.safetensors"), answers("run"));
    // With its temperature.
    fs::write(dir.join("run/temperature.toml"), "temperature = 2.5").unwrap();
    run(dir, "export hf run --out warm").success();
    assert_ne!(answers("warm/model.safetensors"), answers("run/best-hf/model.safetensors"));
    assert_eq!(answers("warm/model.safetensors"), answers("run"));
    // Again into its own folder, not into another's; a file alone has no figures, and is a module all the same.
    run(dir, "export hf run").success();
    assert_fails(run(dir, "export hf run --out mine"), 2, &["--out: mine: found a folder with"]);
    assert_fails(run(dir, "export hf run/best-hf/model.safetensors"), 4, &["found a model without its run"]);
    run(dir, "export pytorch run/best-hf/model.safetensors --out module").success();
    assert!(fs::read_to_string(dir.join("module/model.py")).unwrap().contains("self.fc2 = nn.Linear(128, 10)"));
}

/// A run is exported with its best weights and its temperature, under the names of its classes.
#[test]
fn a_run_becomes_onnx() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let [_, test] = pictures::digits(&dir.join("mine"), 200, 60);
    run(dir, "train --device cpu --data mine --epochs 2 --batch-size 32 --val-split 0.3 --out run").success();
    fs::write(dir.join("run/temperature.toml"), "temperature = 2.5").unwrap();
    let assert = run(dir, "export onnx run --softmax").success();
    let text = "run/best.onnx: pixels from [batch, 1, 28, 28] (0 to 255), probabilities to [batch, 10]\n";
    assert_eq!(stdout(&assert), text);
    let notes = stderr(&assert).join("\n");
    assert!(notes.contains("model: run/best.safetensors") && notes.contains("temperature 2.5"), "{notes}");
    let bytes = fs::read(dir.join("run/best.onnx")).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("[\"digit 0\",\"digit 1\"") && holds("conv1.weight") && holds("2.5"));
    let predicted = run(dir, "predict --model run --device cpu --json --topk 10 mine/test").success();
    let mut expected = vec![0.0; 600];
    for line in super::json_lines(&stdout(&predicted)) {
        let file = line["file"].as_str().unwrap();
        let index: usize = file.rsplit('/').next().unwrap().split('.').next().unwrap().parse().unwrap();
        for top in line["top"].as_array().unwrap() {
            let class: usize = top["class"].as_str().unwrap().trim_start_matches("digit ").parse().unwrap();
            expected[index * 10 + class] = top["probability"].as_f64().unwrap();
        }
    }
    assert!(apart_in_rten(&dir.join("run/best.onnx"), &test, &expected) < TOLERANCE);
    let case = Case { path: dir.join("run/best.onnx"), images: &test, expected, softmax: true };
    check_in_python("onnx", dir, &[case]);
    run(dir, "export onnx run/model.safetensors --out - --temperature 1").success();
    assert_fails(run(dir, "export onnx run --temperature 0"), 2, &["--temperature", "found 0"]);
    assert_fails(run(dir, "export onnx mine"), 4, &["mine: found a folder", "expected a file, or a run's folder"]);
    assert_fails(run(dir, "export onnx run --out nowhere/x.onnx"), 1, &["nowhere/x.onnx"]);
}
