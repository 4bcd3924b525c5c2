//! The threads of the CPU path, started here so that what goes wrong with them is said in a line.

use smoothcnn::{Error, Result};

/// rayon's own variable.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// More than the cores of any machine.
const MOST: usize = 1024;

/// Starts as many as the variable says; without it, or with 0, one for each core.
pub fn start() -> Result<()> {
    let count = match std::env::var_os(VARIABLE) {
        None => 0,
        Some(text) => {
            let wrong = || {
                let expected = format!("a whole number from 0, one for each core, to {MOST}");
                Error::Usage(format!("{VARIABLE}: found {text:?}, expected {expected}"))
            };
            text.to_str().and_then(|text| text.parse().ok()).filter(|count| *count <= MOST).ok_or_else(wrong)?
        }
    };
    rayon::ThreadPoolBuilder::new().num_threads(count).build_global().map_err(|error| {
        let found = error.to_string();
        Error::OverLimit(format!("threads: found {found}, expected room for them: {VARIABLE}=1 starts the fewest"))
    })
}
