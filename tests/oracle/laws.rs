//! Laws that hold for every input: of the layers, exactly (on integers), of the loss, of the optimizers, and of a whole
//! training step.

mod comparator_loss;
mod layers;
mod loss;
mod optimizer;
mod training;
mod weighted_loss;

use proptest::test_runner::Config;

/// proptest's defaults, without files of past failures: a failing case prints itself.
fn config() -> Config {
    Config { cases: 128, failure_persistence: None, ..Config::default() }
}
