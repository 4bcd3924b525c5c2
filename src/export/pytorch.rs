//! A model as the source of a PyTorch module, and its weights beside it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use super::Exportable;
use crate::Result;
use crate::fs::write_atomic;
use crate::layer::Exported;
use crate::measure::scaling::{Scaling, Vector};
use crate::parse::to_json;
use crate::train::checkpoint::Dtype;
use crate::train::model::{DATA_SET, ModelFile};
use crate::train::store::save_model;
use crate::train::temperature_file::keep_scaling_in;

/// The module's source.
pub const SOURCE: &str = "model.py";
/// Its weights, which the source finds beside it.
pub const WEIGHTS: &str = "model.safetensors";

/// The source of the module: `load()` reads [`WEIGHTS`], strictly; the module gives logits, its `probabilities` the
/// rest.
///
/// # Errors
/// As [`Exportable::layers`].
pub fn source(model: &Exportable) -> Result<String> {
    let [c, h, w] = model.net.input;
    let classes = model.net.classes;
    let channel = |which: usize| to_json(&model.each_channel(which));
    let (mut layers, mut calls) = (String::new(), String::new());
    let branches = model.net.layers.iter().any(|layer| layer.skip.is_some());
    // A variable for each tensor where some have several readers, else one for all.
    let variable = |tensor: usize| if branches && tensor > 0 { format!("x{tensor}") } else { "x".to_owned() };
    let mut scopes = BTreeSet::new();
    // Writing to a string cannot fail.
    for (i, (layer, Exported { torch, .. })) in model.layers()?.into_iter().enumerate() {
        let (name, x, y) = (&layer.name, variable(layer.from), variable(i + 1));
        for (end, _) in name.match_indices('.') {
            if scopes.insert(name[..end].to_owned()) {
                let _ = writeln!(layers, "        self.{} = nn.Module()", &name[..end]);
            }
        }
        match layer.skip {
            Some(skip) => {
                let _ = writeln!(calls, "        {y} = {x} + {}", variable(skip));
            }
            None => {
                let _ = writeln!(layers, "        self.{name} = {torch}");
                let _ = writeln!(calls, "        {y} = self.{name}({x})");
            }
        }
    }
    let logits = variable(model.net.layers.len());
    let [mut mask, mut masked] = [String::new(), String::new()];
    if let Some(allowed) = &model.allowed {
        let bits: Vec<u8> = allowed.iter().map(|&allowed| allowed.into()).collect();
        mask = format!(
            "        takes_part = torch.tensor({}, dtype=torch.bool)\n        \
             self.register_buffer(\"takes_part\", takes_part, persistent=False)\n",
            to_json(&bits)
        );
        masked = "        logits = logits.masked_fill(~self.takes_part, float(\"-inf\"))\n".into();
    }
    // A vector moves with the module from device to device.
    let [mut constant, mut scaling] = [String::new(), String::new()];
    let scaled = match &model.scaling {
        Scaling::Temperature(t) => {
            constant = format!("# The logits are divided by it.\nTEMPERATURE = {t:?}\n");
            "/ TEMPERATURE"
        }
        Scaling::Vector(Vector { weights, biases }) => {
            for (name, values) in [("logit_weights", weights), ("logit_biases", biases)] {
                let values = to_json(values);
                let line = format!("self.register_buffer(\"{name}\", torch.tensor({values}), persistent=False)");
                let _ = writeln!(scaling, "        {line}");
            }
            "* self.logit_weights + self.logit_biases"
        }
    };
    Ok(format!(
        r#""""A classifier of {classes} classes, from images of {c}x{h}x{w}. Written by smoothcnn {version}.

    from model import CLASSES, load

    model = load()                # the weights in {WEIGHTS} beside this file
    model(pixels)                 # logits [batch, {classes}] of pixels [batch, {c}, {h}, {w}] from 0 to 255
    model.probabilities(pixels)   # [batch, {classes}], in the order of CLASSES
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

CLASSES = {names}
{constant}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        # Of pixels scaled to 0..1, as in training. They are no part of the saved weights.
        self.register_buffer("mean", torch.tensor({mean}).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor({std}).view(1, -1, 1, 1), persistent=False)
{mask}{scaling}{layers}
    def forward(self, pixels):
        x = (pixels.float() / 255 - self.mean) / self.std
{calls}        return {logits} {scaled}

    def probabilities(self, pixels):
        logits = self(pixels)
{masked}        return torch.softmax(logits, dim=1)


def load(path=Path(__file__).with_name("{WEIGHTS}")):
    model = Net()
    model.load_state_dict(load_file(path), strict=True)
    return model.eval()
"#,
        version = env!("CARGO_PKG_VERSION"),
        names = to_json(&model.classes),
        mean = channel(0),
        std = channel(1),
    ))
}

/// Writes [`SOURCE`] and [`WEIGHTS`] to `folder`. The weights keep what training left in `file`, but for the path of
/// its data, which is nobody else's.
///
/// # Errors
/// As [`source`]; [`crate::Error::Io`].
pub fn write(model: &Exportable, file: &ModelFile, folder: &Path) -> Result<()> {
    let source = source(model)?;
    let mut metadata = file.metadata.clone();
    if let Some(mut known) = file.trained_on()? {
        known.dir = None;
        metadata.insert(DATA_SET.into(), to_json(&known));
    }
    keep_scaling_in(&mut metadata, &model.scaling);
    save_model(&folder.join(WEIGHTS), &model.net, &model.state, Dtype::F32, &metadata)?;
    write_atomic(&folder.join(SOURCE), source.as_bytes())
}
