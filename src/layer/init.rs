//! A parameter's values before training.

use serde::Deserialize;

/// By which rule a layer's parameters get their first values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// PyTorch's own for Conv2d and Linear: [`First::FanIn`].
    #[default]
    Default,
    /// [`First::Kaiming`] for weights, and 0 for biases.
    Kaiming,
}

/// A parameter's values before training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum First {
    /// PyTorch's rule for Conv2d and Linear: uniform in [-1/sqrt(n), 1/sqrt(n)), n being how many inputs feed one
    /// output (He et al. 2015's uniform bound with a = sqrt 5).
    FanIn(usize),
    /// He et al. 2015's rule for layers before a ReLU: normal, with mean 0 and variance 2/n, n being how many outputs
    /// an input feeds. `torch.nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")`. Value `i` is
    /// [`Philox::normal`](crate::rng::Philox::normal) number `i` of the parameter's stream.
    Kaiming(usize),
    /// This number everywhere.
    Constant(f64),
}
