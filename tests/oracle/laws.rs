//! Laws that hold for every input: of the layers, exactly (on integers), of the loss, of the optimizers, and of a whole
//! training step.

mod comparator_loss;
mod layers;
mod logit_penalty;
mod loss;
mod optimizer;
mod training;
mod weighted_loss;

use proptest::test_runner::Config;

fn config() -> Config {
    super::property::config(128)
}
