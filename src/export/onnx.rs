//! A model as one ONNX file: weights, normalisation, temperature, and softmax if it is wanted.

use super::Exportable;
use crate::layer::{Exported, OnnxInput, OnnxOperator, OnnxValue};
use crate::measure::scaling::{Scaling, Vector};
use crate::parse::to_json;
use crate::protobuf::Message;
use crate::{Error, Result};

/// The version of the file's form, one that has [`Exported::OPSET`].
const IR_VERSION: i64 = 8;
/// The input's name: pixels from 0 to 255, `[batch, channels, height, width]`, f32.
pub const INPUT: &str = "pixels";
/// The output's name without softmax, `[batch, classes]`: logits, divided by the temperature (or scaled class by
/// class).
pub const LOGITS: &str = "logits";
/// The output's name with softmax, `[batch, classes]`.
pub const PROBABILITIES: &str = "probabilities";

/// The number types and the kinds of attributes, as ONNX numbers them.
const FLOAT: i64 = 1;
const WHOLE: i64 = 7;
const OF_FLOAT: i64 = 1;
const OF_INT: i64 = 2;
const OF_INTS: i64 = 7;

/// The graph under way.
struct Graph {
    nodes: Vec<GraphNode>,
    weights: Vec<Message>,
    /// The name of what was computed last.
    last: String,
}

/// An operator on what its inputs name.
struct GraphNode {
    operator: &'static str,
    inputs: Vec<String>,
    output: String,
    attributes: Vec<(&'static str, OnnxValue)>,
}

impl Graph {
    /// An operator on these inputs. What it gives is called `output`, and was then computed last.
    fn node(
        &mut self,
        output: &str,
        operator: &'static str,
        inputs: Vec<String>,
        attributes: Vec<(&'static str, OnnxValue)>,
    ) {
        self.last = output.into();
        self.nodes.push(GraphNode { operator, inputs, output: output.into(), attributes });
    }

    /// An operator without attributes on what was computed last and on these numbers.
    fn with(&mut self, name: &'static str, operator: &'static str, shape: &[usize], values: &[f64]) {
        let inputs = vec![self.last.clone(), self.weight(name, shape, values)];
        self.node(&format!("{name}_{}", operator.to_lowercase()), operator, inputs, vec![]);
    }

    /// A layer, whose last operator gives `name`. `others` are [`OnnxInput::Others`].
    fn layer(&mut self, name: &str, operators: Vec<OnnxOperator>, others: &[String]) {
        let (first, count) = (self.last.clone(), operators.len());
        for (i, OnnxOperator { name: operator, inputs, attributes }) in operators.into_iter().enumerate() {
            let output = if i + 1 == count { name.into() } else { format!("{name}.{i}") };
            let mut names = vec![];
            for input in inputs {
                // Parameters have words for names.
                let own = format!("{name}.{i}.{}", names.len());
                match input {
                    OnnxInput::Last => names.push(self.last.clone()),
                    OnnxInput::First => names.push(first.clone()),
                    OnnxInput::Others => names.extend_from_slice(others),
                    OnnxInput::Number(value) => names.push(self.weight(&own, &[], &[value.into()])),
                    OnnxInput::Floats(values) => {
                        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
                        names.push(self.weight(&own, &[values.len()], &values));
                    }
                    OnnxInput::Sizes(sizes) => {
                        let bytes = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
                        names.push(self.tensor(&own, &[sizes.len()], WHOLE, bytes));
                    }
                }
            }
            self.node(&output, operator, names, attributes);
        }
    }

    fn weight(&mut self, name: &str, shape: &[usize], values: &[f64]) -> String {
        self.tensor(name, shape, FLOAT, values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect())
    }

    fn tensor(&mut self, name: &str, shape: &[usize], kind: i64, bytes: Vec<u8>) -> String {
        let tensor = Message::default().each(shape, |tensor, &size| tensor.int(1, size as i64));
        self.weights.push(tensor.int(2, kind).bytes(8, name).bytes(9, bytes));
        name.into()
    }
}

/// The file's bytes. With `softmax` the output is [`PROBABILITIES`], else [`LOGITS`].
///
/// # Errors
/// As [`Exportable::layers`]; [`Error::OverLimit`] for a model of more bytes than a protobuf file may have.
pub fn encode(model: &Exportable, softmax: bool) -> Result<Vec<u8>> {
    let mut graph = Graph { nodes: vec![], weights: vec![], last: INPUT.into() };
    let channels = model.normalisation.len();
    let scale: Vec<f64> = model.normalisation.iter().map(|[_, std]| 1.0 / (255.0 * std)).collect();
    let offset: Vec<f64> = model.normalisation.iter().map(|[mean, std]| -mean / std).collect();
    graph.with("scale", "Mul", &[channels, 1, 1], &scale);
    graph.with("offset", "Add", &[channels, 1, 1], &offset);
    // What computes each of the network's tensors.
    let mut tensors = vec![graph.last.clone()];
    for (layer, Exported { onnx, .. }) in model.layers()? {
        graph.last.clone_from(&tensors[layer.from]);
        if !onnx.is_empty() {
            let weights = model.parameters(layer).into_iter();
            let weights = weights.map(|(p, values)| graph.weight(&p.name, &p.shape, values));
            let others: Vec<String> = layer.skip.map(|skip| tensors[skip].clone()).into_iter().chain(weights).collect();
            graph.layer(&layer.name, onnx, &others);
        }
        tensors.push(graph.last.clone());
    }
    match &model.scaling {
        scaling if scaling.is_none() => {}
        Scaling::Temperature(t) => graph.with("temperature", "Div", &[], &[*t]),
        Scaling::Vector(Vector { weights, biases }) => {
            graph.with("logit_weights", "Mul", &[weights.len()], weights);
            graph.with("logit_biases", "Add", &[biases.len()], biases);
        }
    }
    if softmax {
        if let Some(allowed) = &model.allowed {
            let mask: Vec<f64> = allowed.iter().map(|&allowed| if allowed { 0.0 } else { f64::NEG_INFINITY }).collect();
            graph.with("class_mask", "Add", &[mask.len()], &mask);
        }
        let logits = vec![graph.last.clone()];
        graph.node(PROBABILITIES, "Softmax", logits, vec![("axis", OnnxValue::Int(1))]);
    }
    let output = if softmax { PROBABILITIES } else { LOGITS };
    let Graph { mut nodes, weights, .. } = graph;
    if let Some(last) = nodes.last_mut() {
        last.output = output.into();
    }
    let graph = Message::default()
        .each(nodes, |graph, node| graph.message(1, encode_node(node)))
        .bytes(2, "smoothcnn")
        .each(weights, |graph, weight| graph.message(5, weight))
        .message(11, tensor(INPUT, &model.net.input))
        .message(12, tensor(output, &[model.net.classes]));
    let bytes = Message::default()
        .int(1, IR_VERSION)
        .bytes(2, "smoothcnn")
        .bytes(3, env!("CARGO_PKG_VERSION"))
        .message(7, graph)
        .message(8, Message::default().bytes(1, "").int(2, Exported::OPSET))
        .each(metadata(model), |file, (key, value)| file.message(14, Message::default().bytes(1, key).bytes(2, value)))
        .into_bytes();
    match i32::try_from(bytes.len()) {
        Ok(_) => Ok(bytes),
        Err(_) => Err(Error::OverLimit(format!("an ONNX file of {} bytes, expected less than 2 GiB", bytes.len()))),
    }
}

/// What the graph cannot say.
fn metadata(model: &Exportable) -> Vec<(&'static str, String)> {
    let mut metadata = vec![
        ("classes", to_json(&model.classes)),
        ("crop_mode", model.crop_mode.name().into()),
        ("input", "pixels from 0 to 255, [batch, channels, height, width]; the graph normalises them".into()),
        ("mean", to_json(&model.each_channel(0))),
        ("std", to_json(&model.each_channel(1))),
    ];
    metadata.push(match &model.scaling {
        Scaling::Temperature(t) => ("temperature", t.to_string()),
        Scaling::Vector(vector) => ("vector_scaling", to_json(vector)),
    });
    metadata.extend(model.allowed.as_ref().map(|allowed| ("class_mask", to_json(allowed))));
    metadata
}

fn encode_node(GraphNode { operator, inputs, output, attributes }: GraphNode) -> Message {
    Message::default()
        .each(inputs, |node, input| node.bytes(1, input))
        .bytes(2, &output)
        .bytes(3, &output)
        .bytes(4, operator)
        .each(attributes, |node, (name, value)| node.message(5, attribute(name, value)))
}

fn attribute(name: &str, value: OnnxValue) -> Message {
    let attribute = Message::default().bytes(1, name);
    match value {
        OnnxValue::Float(value) => attribute.float(2, value).int(20, OF_FLOAT),
        OnnxValue::Int(value) => attribute.int(3, value).int(20, OF_INT),
        OnnxValue::Ints(values) => attribute.each(values, |attribute, value| attribute.int(8, value)).int(20, OF_INTS),
    }
}

/// Floats `[batch, …]`, of any batch.
fn tensor(name: &str, shape: &[usize]) -> Message {
    let batch = Message::default().message(1, Message::default().bytes(2, "batch"));
    let shape = batch.each(shape, |dims, &size| dims.message(1, Message::default().int(1, size as i64)));
    let of_floats = Message::default().int(1, FLOAT).message(2, shape);
    Message::default().bytes(1, name).message(2, Message::default().message(1, of_floats))
}
