//! Networks: a stack of layers whose shapes follow from the input's.

use crate::ops::{Misfit, conv2d::Conv2d, linear::Linear, max_pool2d::MaxPool2d};
use crate::rng::Philox;
use crate::{Error, Result};

/// A layer as its author writes it. What follows from the input's shape is left out, or checked where it is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Layer {
    /// `torch.nn.Conv2d`.
    Conv2d {
        /// Input channels, checked where given.
        in_channels: Option<usize>,
        /// Output channels.
        out_channels: usize,
        /// Height and width of the kernel.
        kernel_size: [usize; 2],
        /// Vertical and horizontal stride.
        stride: [usize; 2],
        /// Zero padding on each side of an axis.
        padding: [usize; 2],
    },
    /// `torch.nn.ReLU`.
    Relu,
    /// `torch.nn.MaxPool2d`.
    MaxPool2d {
        /// Height and width of the window.
        kernel_size: [usize; 2],
        /// Vertical and horizontal stride.
        stride: [usize; 2],
    },
    /// `torch.nn.Flatten`: channels, then rows, then columns.
    Flatten,
    /// `torch.nn.Linear`.
    Linear {
        /// Features in, checked where given.
        in_features: Option<usize>,
        /// Features out.
        out_features: usize,
    },
}

impl Layer {
    /// A convolution with a square kernel, stride 1.
    pub fn conv2d(out_channels: usize, kernel_size: usize, padding: usize) -> Self {
        Self::Conv2d {
            in_channels: None,
            out_channels,
            kernel_size: [kernel_size; 2],
            stride: [1; 2],
            padding: [padding; 2],
        }
    }

    /// A pooling over square windows that do not overlap.
    pub fn max_pool2d(kernel_size: usize) -> Self {
        Self::MaxPool2d { kernel_size: [kernel_size; 2], stride: [kernel_size; 2] }
    }

    /// A fully connected layer.
    pub fn linear(out_features: usize) -> Self {
        Self::Linear { in_features: None, out_features }
    }
}

/// What flows between layers, for one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Channels, height, width.
    Image([usize; 3]),
    /// A flat vector.
    Features(usize),
}

impl Shape {
    /// How many numbers.
    pub fn len(&self) -> usize {
        match self {
            Self::Image(dims) => dims.iter().product(),
            Self::Features(n) => *n,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Image([c, h, w]) => write!(f, "{c}x{h}x{w}"),
            Self::Features(n) => write!(f, "{n}"),
        }
    }
}

/// A layer with its dimensions, fitted to what reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A convolution, and where its parameters are.
    Conv2d(Conv2d, Affine),
    /// ReLU.
    Relu,
    /// A pooling.
    MaxPool2d(MaxPool2d),
    /// A change of shape only.
    Flatten,
    /// A fully connected layer, and where its parameters are.
    Linear(Linear, Affine),
}

/// Where a layer's weight and bias are in the list of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affine {
    /// Index of the weight.
    pub weight: usize,
    /// Index of the bias.
    pub bias: usize,
}

/// A fitted layer.
#[derive(Clone, Debug, PartialEq)]
pub struct FittedLayer {
    /// `conv1`, `relu1`, `pool1`, …, `fc1`: the kind and a count.
    pub name: String,
    /// The operation with its dimensions.
    pub op: Op,
    /// What reaches it.
    pub input: Shape,
    /// What it gives.
    pub output: Shape,
}

/// One parameter tensor, and its place in the flat vector that holds them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// PyTorch's name: `conv1.weight`, …
    pub name: String,
    /// OIHW, `[out, in]` or `[out]`.
    pub shape: Vec<usize>,
    /// How many inputs feed one output; sets the scale of the initial values.
    pub fan_in: usize,
    /// Its first element in the flat vector, a multiple of [`PARAMETER_ALIGNMENT`].
    pub offset: usize,
}

impl Parameter {
    /// How many numbers.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements' range in the flat vector.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// Parameters start at multiples of 64 elements: 256 bytes, the coarsest alignment that wgpu allows a device to ask for
/// when a part of a buffer is bound.
pub const PARAMETER_ALIGNMENT: usize = 64;

/// A stack of layers fitted to an input shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Channels, height, width of an image.
    pub input: [usize; 3],
    /// The layers in order.
    pub layers: Vec<FittedLayer>,
    /// Every parameter, in the order of the layers, weight before bias.
    pub parameters: Vec<Parameter>,
    /// Logits for each image.
    pub classes: usize,
}

impl Network {
    /// Fits `layers` to images of shape `input`.
    ///
    /// # Errors
    /// [`Error::Layer`], naming the first layer that does not fit, what reaches it and what it needs.
    pub fn new(input: [usize; 3], layers: &[Layer]) -> Result<Self> {
        let mut net = Self { input, layers: vec![], parameters: vec![], classes: 0 };
        let mut counts = std::collections::HashMap::<&str, usize>::new();
        let mut shape = Shape::Image(input);
        for layer in layers {
            let kind = match layer {
                Layer::Conv2d { .. } => "conv",
                Layer::Relu => "relu",
                Layer::MaxPool2d { .. } => "pool",
                Layer::Flatten => "flatten",
                Layer::Linear { .. } => "fc",
            };
            let count = counts.entry(kind).or_default();
            *count += 1;
            let name = format!("{kind}{count}");
            let (op, output) = net.fit(&name, layer, shape).map_err(|misfit| Error::Layer {
                layer: name.clone(),
                got: misfit.got,
                needs: misfit.needs,
            })?;
            net.layers.push(FittedLayer { name, op, input: shape, output });
            shape = output;
        }
        match shape {
            Shape::Features(classes) if classes >= 2 => net.classes = classes,
            _ => {
                return Err(Error::Layer {
                    layer: net.layers.last().map_or("(none)", |l| &l.name).to_owned(),
                    got: format!("{shape} as the network's output"),
                    needs: "a flat vector of at least 2 logits".into(),
                });
            }
        }
        Ok(net)
    }

    /// The seed network: conv 32, pool, conv 64, pool, 128 hidden units, with the first fully connected layer's inputs
    /// derived from the image's size.
    pub fn seed(input: [usize; 3], classes: usize) -> Result<Self> {
        use Layer::{Flatten, Relu};
        Self::new(
            input,
            &[
                Layer::conv2d(32, 3, 1),
                Relu,
                Layer::max_pool2d(2),
                Layer::conv2d(64, 3, 1),
                Relu,
                Layer::max_pool2d(2),
                Flatten,
                Layer::linear(128),
                Relu,
                Layer::linear(classes),
            ],
        )
    }

    fn fit(&mut self, name: &str, layer: &Layer, shape: Shape) -> Result<(Op, Shape), Misfit> {
        let image = || match shape {
            Shape::Image(dims) => Ok(dims),
            Shape::Features(n) => Err(Misfit {
                got: format!("a flat vector of {n}"),
                needs: "an image (channels x height x width)".into(),
            }),
        };
        let check = |what: &str, given: Option<usize>, found: usize| match given {
            Some(given) if given != found => {
                Err(Misfit { got: format!("{found} {what} (from {shape})"), needs: format!("{given}, as declared") })
            }
            _ => Ok(()),
        };
        Ok(match *layer {
            Layer::Conv2d { in_channels, out_channels, kernel_size, stride, padding } => {
                let input = image()?;
                check("input channels", in_channels, input[0])?;
                let dims = Conv2d { input, c_out: out_channels, kernel: kernel_size, stride, padding };
                let output = dims.output()?;
                let weight = vec![out_channels, input[0], kernel_size[0], kernel_size[1]];
                (Op::Conv2d(dims, self.affine(name, weight, dims.fan_in())), Shape::Image(output))
            }
            Layer::Relu => (Op::Relu, shape),
            Layer::MaxPool2d { kernel_size, stride } => {
                let dims = MaxPool2d { input: image()?, kernel: kernel_size, stride };
                (Op::MaxPool2d(dims), Shape::Image(dims.output()?))
            }
            Layer::Flatten => (Op::Flatten, Shape::Features(shape.len())),
            Layer::Linear { in_features, out_features } => {
                let Shape::Features(inputs) = shape else {
                    return Err(Misfit {
                        got: format!("an image {shape}"),
                        needs: "a flat vector: add Flatten".into(),
                    });
                };
                check("input features", in_features, inputs)?;
                if out_features == 0 {
                    return Err(Misfit { got: "0 output features".into(), needs: "at least 1".into() });
                }
                let dims = Linear { inputs, outputs: out_features };
                (Op::Linear(dims, self.affine(name, vec![out_features, inputs], inputs)), Shape::Features(out_features))
            }
        })
    }

    /// Adds a weight and its bias.
    fn affine(&mut self, name: &str, weight: Vec<usize>, fan_in: usize) -> Affine {
        let outputs = weight[0];
        let first = self.parameters.len();
        for (suffix, shape) in [("weight", weight), ("bias", vec![outputs])] {
            let offset = self.flat_len();
            self.parameters.push(Parameter { name: format!("{name}.{suffix}"), shape, fan_in, offset });
        }
        Affine { weight: first, bias: first + 1 }
    }

    /// The first layer with parameters: backward passes end there, since nobody needs a gradient below it.
    pub fn first_trained(&self) -> usize {
        let trained = |layer: &FittedLayer| matches!(layer.op, Op::Conv2d(..) | Op::Linear(..));
        self.layers.iter().position(trained).unwrap_or(self.layers.len())
    }

    /// The network up to its last layer, which must be a linear one: its outputs are what that layer sees. The parameters
    /// are the first of this network's, at the same places.
    ///
    /// # Panics
    /// If the last layer is another one.
    pub fn without_last(&self) -> Self {
        let mut net = self.clone();
        let Some(FittedLayer { op: Op::Linear(dims, at), .. }) = net.layers.pop() else {
            panic!("the last layer of {:?}, expected a linear one", self.layers);
        };
        net.parameters.truncate(at.weight);
        net.classes = dims.inputs;
        net
    }

    /// How many parameters there are.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(Parameter::len).sum()
    }

    /// Elements of the flat vector that holds every parameter, gaps for alignment included (they stay zero).
    pub fn flat_len(&self) -> usize {
        self.parameters.last().map_or(0, |p| p.range().end.next_multiple_of(PARAMETER_ALIGNMENT))
    }

    /// PyTorch's default initial values for Conv2d and Linear, as one flat vector: weight and bias uniform in
    /// [-1/sqrt(fan_in), 1/sqrt(fan_in)) (He et al. 2015's uniform bound with a = sqrt 5). Each parameter has its own
    /// stream of `seed`.
    pub fn initial_parameters(&self, seed: u64) -> Vec<f32> {
        let mut flat = vec![0.0; self.flat_len()];
        for (i, parameter) in self.parameters.iter().enumerate() {
            let mut rng = Philox::new(seed, streams::INITIAL_PARAMETERS + i as u64);
            let bound = 1.0 / (parameter.fan_in as f64).sqrt();
            flat[parameter.range()].fill_with(|| rng.range(-bound, bound) as f32);
        }
        flat
    }

    /// Floating-point operations of a forward pass over one image (multiply-adds of the products only).
    pub fn forward_flops(&self) -> u64 {
        self.layers
            .iter()
            .map(|layer| match layer.op {
                Op::Conv2d(dims, _) => dims.flops(),
                Op::Linear(dims, _) => dims.flops(),
                _ => 0,
            })
            .sum()
    }
}

/// Which stream of a run's seed serves what.
pub mod streams {
    /// One stream for each parameter, from here on.
    pub const INITIAL_PARAMETERS: u64 = 1 << 32;
    /// One stream for each epoch's order, from here on.
    pub const SHUFFLE: u64 = 2 << 32;
    /// One stream for each resample of the bootstrap, from here on.
    pub const BOOTSTRAP: u64 = 3 << 32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_network_has_the_published_sizes() {
        assert_eq!(Network::seed([1, 28, 28], 10).unwrap().parameter_count(), 421_642);
        // The tutorial's literal fc1, 64*28*28 inputs, belongs to 112x112 images.
        let large = Network::seed([1, 112, 112], 10).unwrap();
        assert_eq!(large.parameter_count(), 6_442_762);
        assert_eq!(large.parameters[4].shape, [128, 64 * 28 * 28]);
        assert_eq!(Network::seed([3, 32, 32], 10).unwrap().parameters[4].shape, [128, 64 * 8 * 8]);
        assert_eq!(Network::seed([1, 28, 28], 10).unwrap().forward_flops(), 8_482_304);
    }

    #[test]
    fn without_its_last_layer_a_network_keeps_what_is_before() {
        let net = Network::seed([1, 28, 28], 10).unwrap();
        let cut = net.without_last();
        let layers = [Layer::conv2d(32, 3, 1), Layer::Relu, Layer::max_pool2d(2), Layer::conv2d(64, 3, 1), Layer::Relu];
        let rest = [Layer::max_pool2d(2), Layer::Flatten, Layer::linear(128), Layer::Relu];
        assert_eq!(cut, Network::new([1, 28, 28], &[&layers[..], &rest].concat()).unwrap());
        assert!(cut.parameters.iter().zip(&net.parameters).all(|(a, b)| a == b));
    }

    #[test]
    fn parameters_have_pytorch_names() {
        let net = Network::seed([1, 28, 28], 10).unwrap();
        let names: Vec<_> = net.parameters.iter().map(|p| p.name.as_str()).collect();
        let expected = ["conv1", "conv2", "fc1", "fc2"].map(|l| [format!("{l}.weight"), format!("{l}.bias")]).concat();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_misfit_names_the_layer_what_it_got_and_what_it_needs() {
        let message = |input, layers: &[Layer]| Network::new(input, layers).unwrap_err().to_string();
        // The tutorial's network as written, on the images it is meant for.
        let tutorial = [Layer::Flatten, Layer::Linear { in_features: Some(64 * 28 * 28), out_features: 128 }];
        assert_eq!(
            message([64, 7, 7], &tutorial),
            "layer fc1: got 3136 input features (from 3136), needs 50176, as declared"
        );
        assert!(
            message([1, 3, 3], &[Layer::linear(2)]).starts_with("layer fc1: got an image 1x3x3, needs a flat vector")
        );
        assert!(message([1, 1, 1], &[Layer::max_pool2d(2)]).starts_with("layer pool1: got a 1x1x1 input"));
        assert!(message([1, 2, 2], &[Layer::conv2d(4, 5, 1)]).contains("at least the kernel's 5x5"));
        assert!(message([1, 2, 2], &[Layer::Flatten, Layer::conv2d(4, 1, 0)]).starts_with("layer conv1: got a flat"));
        assert!(message([1, 2, 2], &[Layer::Relu]).contains("a flat vector of at least 2 logits"));
        assert!(message([1, 2, 2], &[]).contains("(none)"));
    }

    #[test]
    fn initial_values_stay_within_pytorch_bound_and_gaps_stay_zero() {
        let net = Network::seed([1, 28, 28], 10).unwrap();
        let flat = net.initial_parameters(7);
        let mut used = vec![false; flat.len()];
        for p in &net.parameters {
            let bound = 1.0 / (p.fan_in as f32).sqrt();
            let values = &flat[p.range()];
            let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(largest <= bound && largest > 0.8 * bound, "{}: {largest} against {bound}", p.name);
            used[p.range()].fill(true);
        }
        assert!(flat.iter().zip(used).all(|(&v, used)| used || v == 0.0));
        assert_eq!(flat, net.initial_parameters(7));
        assert_ne!(flat, net.initial_parameters(8));
    }
}
