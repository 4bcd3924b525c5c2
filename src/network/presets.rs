//! Networks by name.

use serde::{Deserialize, Serialize};

use crate::layer::Layer;
use crate::ops::conv2d;

/// A network that the program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Two convolutions and two fully connected layers: the network that this program began with.
    Seed,
    /// LeCun et al. 1998, with ReLU and the largest of each window, as it is usually written now.
    Lenet5,
    /// Two hidden layers of 256 units.
    Mlp,
    /// Five convolutions with batch norm, for small colour pictures: of several networks of 20 to 77 MFLOP an image the
    /// most accurate on CIFAR-10 after a minute's training (`benches/record/2026-11-29-cifar-candidates.csv`).
    Cifar,
    /// He et al. 2015's network for CIFAR-10 with one block a stage; blocks that change the shape have a projection.
    Resnet8,
    /// The same with three blocks a stage.
    Resnet20,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 6] = [Self::Seed, Self::Lenet5, Self::Mlp, Self::Cifar, Self::Resnet8, Self::Resnet20];

    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Lenet5 => "lenet5",
            Self::Mlp => "mlp",
            Self::Cifar => "cifar",
            Self::Resnet8 => "resnet8",
            Self::Resnet20 => "resnet20",
        }
    }

    /// Its layers, for so many classes.
    pub fn layers(self, classes: usize) -> Vec<Layer> {
        match self {
            Self::Seed => vec![
                Layer::conv2d(32, 3, 1),
                Layer::relu(),
                Layer::max_pool2d(2),
                Layer::conv2d(64, 3, 1),
                Layer::relu(),
                Layer::max_pool2d(2),
                Layer::flatten(),
                Layer::linear(128),
                Layer::relu(),
                Layer::linear(classes),
            ],
            Self::Lenet5 => vec![
                Layer::conv2d(6, 5, 2),
                Layer::relu(),
                Layer::max_pool2d(2),
                Layer::conv2d(16, 5, 0),
                Layer::relu(),
                Layer::max_pool2d(2),
                Layer::flatten(),
                Layer::linear(120),
                Layer::relu(),
                Layer::linear(84),
                Layer::relu(),
                Layer::linear(classes),
            ],
            Self::Mlp => vec![
                Layer::flatten(),
                Layer::linear(256),
                Layer::relu(),
                Layer::linear(128),
                Layer::relu(),
                Layer::linear(classes),
            ],
            Self::Cifar => cifar(classes),
            Self::Resnet8 => resnet(1, classes),
            Self::Resnet20 => resnet(3, classes),
        }
    }
}

/// A convolution without bias and its batch norm: what a bias adds, the norm takes away.
fn conv_norm(out_channels: usize, kernel: usize, stride: usize, padding: usize) -> [Layer; 2] {
    let conv = conv2d::Settings {
        stride: [stride; 2],
        bias: false,
        ..conv2d::Settings::square(out_channels, kernel, padding)
    };
    [Layer::new(conv), Layer::batch_norm2d()]
}

/// Three stages of `blocks` residual blocks, of 16, 32 and 64 channels, the second and third at half the size of the
/// one before: He et al. 2015, section 4.2.
fn resnet(blocks: usize, classes: usize) -> Vec<Layer> {
    let mut layers = conv_norm(16, 3, 1, 1).to_vec();
    layers.push(Layer::relu());
    for (stage, channels) in [16, 32, 64].into_iter().enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let mut branch = conv_norm(channels, 3, stride, 1).to_vec();
            branch.push(Layer::relu());
            branch.extend(conv_norm(channels, 3, 1, 1));
            let shortcut = if stride == 2 { conv_norm(channels, 1, stride, 0).to_vec() } else { vec![] };
            layers.extend([Layer::residual_with(branch, shortcut), Layer::relu()]);
        }
    }
    layers.extend([Layer::global_avg_pool2d(), Layer::flatten(), Layer::linear(classes)]);
    layers
}

/// Three stages of one, two and two convolutions with batch norm, of 24, 48 and 96 channels, a pooling after each.
fn cifar(classes: usize) -> Vec<Layer> {
    let mut layers = vec![];
    for (channels, convolutions) in [(24, 1), (48, 2), (96, 2)] {
        for _ in 0..convolutions {
            layers.extend(conv_norm(channels, 3, 1, 1));
            layers.push(Layer::relu());
        }
        layers.push(Layer::max_pool2d(2));
    }
    layers.extend([Layer::global_avg_pool2d(), Layer::flatten(), Layer::linear(classes)]);
    layers
}
