//! How property tests run: the same cases each time, and a line that repeats a failure.

use proptest::test_runner::{Config, RngSeed};

/// The seed of every property test unless `PROPTEST_RNG_SEED` is set.
const SEED: u64 = 20_161_202;

/// `cases` cases unless `PROPTEST_CASES` is set. Says, where a failure shows it, with which command it comes again.
pub fn config(cases: u32) -> Config {
    let given = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { given.cases } else { cases };
    let seed = match given.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => SEED,
    };
    let thread = std::thread::current();
    let (binary, test) = (env!("CARGO_CRATE_NAME"), thread.name().unwrap_or_default());
    println!("PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases} cargo test --test {binary} {test}");
    Config { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..given }
}
