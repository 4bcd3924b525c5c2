//! For whoever names a network, writes one in a file, or opens a model: its layers, without the images' shape.
//!
//! A file is a list of layers in TOML. A layer is named by its `type`, which is its name in the registry
//! ([`crate::ops`]); what is left out has PyTorch's default. A `linear` without `out` has an output for each class.
//!
//! ```toml
//! [[layers]]
//! type = "conv2d"
//! out = 16
//! kernel = 3
//! padding = 1
//!
//! [[layers]]
//! type = "residual"
//!
//! [[layers.residual]]       # the branch of the block above
//! type = "conv2d"
//! out = 16
//! kernel = 3
//! padding = 1
//!
//! [[layers]]
//! type = "global_avg_pool2d"
//!
//! [[layers]]
//! type = "flatten"
//!
//! [[layers]]
//! type = "linear"
//! ```
//!
//! A block whose branch changes the shape has `[[layers.shortcut]]` too. A model's metadata has the same list in JSON
//! under `network`; without that key it is the seed network.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::presets::Preset;
use super::sequence::Network;
use crate::layer::Layer;
use crate::{Error, Result, ops, parse};

/// A layer as a file has it: its `type`, and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerTable {
    /// Its name in the registry.
    #[serde(rename = "type")]
    pub kind: String,
    /// By name.
    #[serde(flatten)]
    pub settings: Map<String, Value>,
}

/// The layers of a network: known by name, or given one by one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Architecture {
    /// One that the program knows.
    Preset(Preset),
    /// The layers of a file.
    Layers(Vec<LayerTable>),
}

impl Default for Architecture {
    fn default() -> Self {
        Self::Preset(Preset::Seed)
    }
}

impl Architecture {
    /// Whether nobody chose another one.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// A preset's name, or the path of a file that ends in `.toml`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that there is not; [`Error::Io`] and [`Error::Data`] for the file.
    pub fn parse(text: &str) -> Result<Self> {
        let path = Path::new(text);
        if path.extension().is_some_and(|extension| extension == "toml") {
            return Self::read(path);
        }
        Preset::ALL.into_iter().find(|preset| preset.name() == text).map(Self::Preset).ok_or_else(|| {
            let names = Preset::ALL.map(Preset::name).join(", ");
            Error::Usage(format!("--network: found {text:?}, expected {names}, or a file that ends in .toml"))
        })
    }

    /// The layers of the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] for what is no list of layers.
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            layers: Vec<LayerTable>,
        }
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let File { layers } = parse::toml(path, &text)?;
        // So that what is wrong with a layer is said with the file's name.
        self::layers(&layers, "", 2).map_err(|message| Error::data(path, message))?;
        Ok(Self::Layers(layers))
    }

    /// The layers, for so many classes.
    ///
    /// # Errors
    /// [`Error::Usage`] for a layer that there is not, or a setting that it does not have.
    pub fn layers(&self, classes: usize) -> Result<Vec<Layer>> {
        match self {
            Self::Preset(preset) => Ok(preset.layers(classes)),
            Self::Layers(tables) => {
                layers(tables, "", classes).map_err(|message| Error::Usage(format!("network: {message}")))
            }
        }
    }

    /// The network for images of shape `input` in so many classes.
    ///
    /// # Errors
    /// As [`Self::layers`] and [`Network::new`]; [`Error::Layer`] too where the last layer gives another number.
    pub fn network(&self, input: [usize; 3], classes: usize) -> Result<Network> {
        let net = Network::new(input, &self.layers(classes)?)?;
        if net.classes != classes {
            return Err(Error::Layer {
                layer: net.layers.last().map_or("(none)", |layer| &layer.name).to_owned(),
                got: format!("{} outputs", net.classes),
                needs: format!("one for each of {classes} classes: a `linear` without `out` has as many"),
            });
        }
        Ok(net)
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Preset(preset) => f.write_str(preset.name()),
            Self::Layers(layers) => write!(f, "{} layers of a file", layers.len()),
        }
    }
}

/// The layers of `tables`, whose places in the file begin with `scope`.
fn layers(tables: &[LayerTable], scope: &str, classes: usize) -> Result<Vec<Layer>, String> {
    let of = |(i, table): (usize, &LayerTable)| {
        let place = format!("{scope}layer {} ({})", i + 1, table.kind);
        layer(table, &place, classes).map_err(|message| match message.starts_with(&place) {
            true => message,
            false => format!("{place}: {message}"),
        })
    };
    tables.iter().enumerate().map(of).collect()
}

fn layer(table: &LayerTable, place: &str, classes: usize) -> Result<Layer, String> {
    let LayerTable { kind, settings } = table;
    let Some(entry) = ops::ALL.iter().find(|entry| entry.name == kind) else {
        let names: Vec<_> = ops::ALL.iter().map(|entry| entry.name).collect();
        return Err(format!("found type {kind:?}, expected {}", names.join(", ")));
    };
    let mut settings = settings.clone();
    let mut inner = |key: &str| -> Result<Vec<Layer>, String> {
        let Some(value) = settings.remove(key) else { return Ok(vec![]) };
        let tables: Vec<LayerTable> = serde_json::from_value(value).map_err(|error| format!("{key}: {error}"))?;
        layers(&tables, &format!("{place}, {key} "), classes)
    };
    // The one layer that holds others.
    let around = match entry.name {
        ops::residual::NAME => {
            ops::Around { branch: inner(ops::residual::NAME)?, shortcut: inner("shortcut")?, classes }
        }
        _ => ops::Around { branch: vec![], shortcut: vec![], classes },
    };
    (entry.read)(Value::Object(settings), around).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::First;

    fn of(text: &str) -> Result<Architecture> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.toml");
        std::fs::write(&path, text).unwrap();
        Architecture::read(&path)
    }

    const BLOCK: &str = r#"
        [[layers]]
        type = "conv2d"
        out = 4
        kernel = 3
        padding = 1
        bias = false
        [[layers]]
        type = "residual"
        [[layers.residual]]
        type = "conv2d"
        out = 8
        kernel = [3, 3]
        stride = 2
        padding = 1
        [[layers.residual]]
        type = "batch_norm2d"
        [[layers.shortcut]]
        type = "conv2d"
        out = 8
        stride = 2
        [[layers]]
        type = "leaky_relu"
        negative-slope = 0.2
        [[layers]]
        type = "global_avg_pool2d"
        [[layers]]
        type = "flatten"
        [[layers]]
        type = "linear"
    "#;

    #[test]
    fn a_file_becomes_the_same_network_as_its_layers_and_lives_in_metadata() {
        let architecture = of(BLOCK).unwrap();
        let net = architecture.network([3, 9, 9], 5).unwrap();
        let names: Vec<_> = net.layers.iter().map(|layer| layer.name.as_str()).collect();
        let expected = [
            "conv1",
            "res1.shortcut.conv1",
            "res1.conv1",
            "res1.bn1",
            "res1",
            "leakyrelu1",
            "globalpool1",
            "flatten1",
            "fc1",
        ];
        assert_eq!(names, expected);
        let names: Vec<_> = net.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        assert!(names.contains(&"res1.shortcut.conv1.bias") && !names.contains(&"conv1.bias"), "{names:?}");
        assert_eq!(net.buffers[0].name, "res1.bn1.running_mean");
        assert_eq!(net.classes, 5);
        let json = parse::to_json(&architecture);
        assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), architecture);
        let toml = toml::to_string(&std::collections::BTreeMap::from([("network", &architecture)])).unwrap();
        let read: std::collections::BTreeMap<String, Architecture> = toml::from_str(&toml).unwrap();
        assert_eq!(read["network"], architecture);
    }

    #[test]
    fn what_is_wrong_with_a_layer_is_said_with_its_place() {
        let message = |text: &str| of(text).unwrap_err().to_string();
        let unknown = message("[[layers]]\ntype = \"conv\"\n");
        assert!(unknown.contains("layer 1 (conv): found type \"conv\", expected conv2d, "), "{unknown}");
        let key = message("[[layers]]\ntype = \"relu\"\n[[layers]]\ntype = \"conv2d\"\nout = 2\npad = 1\n");
        assert!(key.contains("layer 2 (conv2d): ") && key.contains("pad") && key.contains("padding"), "{key}");
        let inner = message("[[layers]]\ntype = \"residual\"\n[[layers.residual]]\ntype = \"relu\"\np = 1\n");
        assert!(inner.contains("layer 1 (residual), residual layer 1 (relu): "), "{inner}");
        let missing = message("[[layers]]\ntype = \"conv2d\"\n");
        assert!(missing.contains("out"), "{missing}");
        let error = of("[[layers]]\ntype = \"flatten\"\n[[layers]]\ntype = \"linear\"\nout = 3\n").unwrap();
        let error = error.network([1, 2, 2], 4).unwrap_err().to_string();
        assert_eq!(
            error,
            "layer fc1: got 3 outputs, needs one for each of 4 classes: a `linear` without `out` has as many"
        );
        assert!(Architecture::parse("resnet9").unwrap_err().to_string().contains("seed, lenet5, mlp"));
        assert!(matches!(Architecture::parse("none.toml"), Err(Error::Io { .. })));
    }

    /// The names and the words that PyTorch has for settings.
    #[test]
    fn settings_are_named_as_in_pytorch() {
        let text = r#"
            [[layers]]
            type = "conv2d"
            out = 6
            kernel = [3, 2]
            groups = 3
            dilation = [2, 1]
            bias = false
            init = "kaiming"
            [[layers]]
            type = "group_norm"
            num_groups = 2
            eps = 1e-3
            [[layers]]
            type = "silu"
            [[layers]]
            type = "max_pool2d"
            kernel = 3
            stride = 2
            padding = 1
            [[layers]]
            type = "gelu"
            approximate = "tanh"
            [[layers]]
            type = "flatten"
            [[layers]]
            type = "linear"
            init = "kaiming"
        "#;
        let net = of(text).unwrap().network([3, 9, 9], 5).unwrap();
        let modules: Vec<_> = net.layers.iter().map(|layer| layer.op.exported().unwrap().torch).collect();
        let expected = [
            "nn.Conv2d(3, 6, (3, 2), stride=(1, 1), padding=(0, 0), dilation=(2, 1), groups=3, bias=False)",
            "nn.GroupNorm(2, 6, eps=0.001)",
            "nn.SiLU()",
            "nn.MaxPool2d((3, 3), stride=(2, 2), padding=(1, 1))",
            "nn.GELU(approximate='tanh')",
        ];
        assert_eq!(modules[..5], expected);
        assert_eq!(net.layers[1].name, "gn1");
        let last = &net.parameters[net.parameters.len() - 2..];
        assert_eq!((net.parameters[0].first, last[0].first), (First::Kaiming(6 * 6), First::Kaiming(5)));
        assert_eq!((&net.parameters[0].shape[..], last[1].first), (&[6, 1, 3, 2][..], First::Constant(0.0)));
        let message = |text: &str| of(text).unwrap_err().to_string();
        let word = message("[[layers]]\ntype = \"gelu\"\napproximate = \"erf\"\n");
        assert!(word.contains("layer 1 (gelu): ") && word.contains("none") && word.contains("tanh"), "{word}");
        let fit = |layer: &str| of(layer).unwrap().network([3, 9, 9], 5).unwrap_err().to_string();
        let groups = fit("[[layers]]\ntype = \"group_norm\"\nnum_groups = 2\n");
        assert!(groups.contains("layer gn1: got 2 groups of 3 channels (from 3x9x9), needs a number"), "{groups}");
        let split = fit("[[layers]]\ntype = \"conv2d\"\nout = 4\ngroups = 3\n");
        assert!(split.contains("got 3 groups of 3 input and 4 output channels, needs"), "{split}");
        let gaps = fit("[[layers]]\ntype = \"conv2d\"\nout = 4\nkernel = 3\ndilation = 5\n");
        assert!(gaps.contains("dilation [5, 5]") && gaps.contains("at least the kernel's 11x11"), "{gaps}");
        let padding = fit("[[layers]]\ntype = \"max_pool2d\"\nkernel = 3\npadding = [1, 2]\n");
        assert!(padding.contains("got padding [1, 2] of a window of 3x3, needs at most half"), "{padding}");
        let eps = fit("[[layers]]\ntype = \"group_norm\"\nnum_groups = 3\neps = 1e-60\n");
        assert!(eps.contains("layer gn1: got eps 0.000") && eps.contains("needs a number above 0"), "{eps}");
    }

    #[test]
    fn every_preset_has_its_published_size() {
        for (preset, input, parameters, mega_flops) in [
            (Preset::Seed, [1, 28, 28], 421_642, 8),
            (Preset::Lenet5, [1, 28, 28], 61_706, 0),
            (Preset::Mlp, [1, 28, 28], 235_146, 0),
            // Three stages of 16, 32, 64 channels; two of them begin with a projection.
            (Preset::Resnet8, [3, 32, 32], 78_042, 25),
            (Preset::Cifar, [3, 32, 32], 157_762, 33),
            (Preset::Resnet20, [3, 32, 32], 272_474, 81),
        ] {
            let architecture = Architecture::parse(preset.name()).unwrap();
            let net = architecture.network(input, 10).unwrap();
            assert_eq!(net.parameter_count(), parameters, "{preset:?}");
            assert_eq!(net.forward_flops() / 1_000_000, mega_flops, "{preset:?}");
        }
    }
}
